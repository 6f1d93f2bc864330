"""Where a key may go, which key, and what is never shown."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from holdfast.models.entries import EndpointSection
from holdfast.models.remote.endpoints import NO_KEY, check_addresses, check_url, read_key, redact
from holdfast.records.errors import StudyError

PRIVATE = (
    "http://10.0.0.1/v1",
    "http://192.168.1.5:8000/v1",
    "http://172.16.0.1/v1",
    "http://100.64.0.1/v1",
    "http://169.254.169.254/latest",
    "https://169.254.169.254/",
    "https://10.1.2.3/v1",
    "http://0.0.0.0:8000/v1",
    "https://[fe80::1]/v1",
    "https://[fc00::1]/v1",
    "https://[::ffff:10.0.0.1]/v1",
    "https://[::ffff:127.0.0.1]/v1",
    "https://[64:ff9b::a9fe:a9fe]/v1",
    "https://[2002:a00:1::]/v1",
    "http://0x7f.1:8000/v1",
    "http://2130706433/v1",
    "http://0177.0.0.1/v1",
    "http://127.1/v1",
    "http://0xa9fea9fe/latest",
)
NEVER = (
    "file:///etc/passwd",
    "gopher://127.0.0.1:70/",
    "ftp://127.0.0.1/",
    "http://",
    "//api.example.com/v1",
    "api.example.com/v1",
    "https://user:secretword@api.example.com/v1",
    "https://user@api.example.com/v1",
    "http://8.8.8.8/v1",
    "https://127.0.0.1:99999/v1",
)
FINE = (
    "https://api.openai.com/v1",
    "https://8.8.8.8/v1",
    "http://127.0.0.1:8000/v1",
    "http://127.0.0.5:8000/v1",
    "http://localhost:8000/v1",
    "http://[::1]:8000/v1",
    "https://127.0.0.1/v1",
)


@pytest.mark.parametrize("url", FINE)
def test_https_and_this_machine_are_fine(url: str) -> None:
    check_url(url, allow_private=False, place="here")


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_however_written_are_refused(url: str) -> None:
    with pytest.raises(StudyError, match=r"^here: endpoint not allowed: .*allow_private") as caught:
        check_url(url, allow_private=False, place="here")
    assert "\n" not in str(caught.value)
    check_url(url, allow_private=True, place="here")


@pytest.mark.parametrize("url", NEVER)
def test_what_is_never_allowed(url: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(StudyError, match=r"^here: endpoint not allowed: ") as caught:
            check_url(url, allow_private=allow_private, place="here")
        assert "secretword" not in str(caught.value)


def test_plain_http_to_a_name_needs_trust() -> None:
    with pytest.raises(StudyError, match="in the clear"):
        check_url("http://models.example.com/v1", allow_private=False, place="here")
    check_url("http://models.example.com/v1", allow_private=True, place="here")


def resolve_to(*addresses: str) -> Any:
    """A resolver that knows one answer."""
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]


def test_every_address_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = "https://models.example.com/v1"
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("8.8.8.8", "8.8.4.4"))
    check_addresses(url, allow_private=False, place="here")
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("8.8.8.8", "169.254.169.254"))
    with pytest.raises(StudyError, match=r"169\.254\.169\.254"):
        check_addresses(url, allow_private=False, place="here")
    check_addresses(url, allow_private=True, place="here")
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("8.8.8.8"))
    with pytest.raises(StudyError, match="in the clear"):
        check_addresses("http://models.example.com/v1", allow_private=True, place="here")


def test_a_key_comes_from_its_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-provider")
    monkeypatch.setenv("MY_SERVER", "of-my-server")
    assert read_key(EndpointSection(), "here") is None
    assert read_key(EndpointSection(base_url="https://models.example.com"), "here") == NO_KEY
    assert (
        read_key(EndpointSection(base_url="https://models.example.com", key_env="MY_SERVER"), "here") == "of-my-server"
    )
    monkeypatch.delenv("MY_SERVER")
    with pytest.raises(StudyError, match=r"^here\.key_env names MY_SERVER, which is not set"):
        read_key(EndpointSection(key_env="MY_SERVER"), "here")


def test_redaction_by_value_and_by_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "plain-words-as-key")
    monkeypatch.setenv("SHORT_KEY", "abc")
    told = redact(
        "plain-words-as-key sk-proj-abcdefghijklmnop AIzaSyA0123456789abcdef hf_abcdefghijkl gsk_0123456789ab"
        " Authorization: Bearer abc.def.ghi https://me:hunter22@host/v1 AKIAABCDEFGHIJKLMNOP abc"
    )
    for secret in ("plain-words", "abcdefgh", "SyA0", "hf_a", "gsk_", "abc.def", "hunter22", "AKIA"):
        assert secret not in told
    assert told.endswith(" abc")
    assert "https://[redacted]@host/v1" in told
    assert redact("the task-force asked for risk_free tokens") == "the task-force asked for risk_free tokens"
