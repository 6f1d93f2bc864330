"""Where a remote model may be reached, which key goes there, what must not be shown, and how much may come back."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
import urllib.request
import zlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from holdfast.models.entries import EndpointSection
from holdfast.records.errors import StudyError

NO_KEY = "no-key"
"""What a server gets as key where none is configured for it."""

_SECRET_NAME = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|r8|pplx|nvapi|fw|csk|tgp_v1)[-_][A-Za-z0-9_\-*.]{8,}|\bAIza[A-Za-z0-9_\-]{10,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|(?<=Bearer )[^\s\"',;]+|(?<=://)[^/\s@:]+:[^/\s@]+(?=@)"
)
_SHORTEST_SECRET = 6
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str, *, allow_private: bool, place: str) -> None:
    """Accepts https, and http to this machine; what else there is only by ``allow_private``. Nothing is looked up.

    Errors: StudyError, beginning with ``place``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StudyError(f"{place}: endpoint not allowed: {redact(url)!r} is no https:// address; give one")
    if parts.username is not None or parts.password is not None:
        raise StudyError(
            f"{place}: endpoint not allowed: it holds a user or password; name the variable with the key by key_env"
        )
    try:
        _ = parts.port
    except ValueError as error:
        raise StudyError(f"{place}: endpoint not allowed: {error}; give a port from 0 to 65535") from error
    literal = _read_literal(parts.hostname)
    if literal is not None:
        _check_address(*literal, url=url, allow_private=allow_private, place=place)
    elif parts.scheme == "http" and parts.hostname != "localhost" and not allow_private:
        raise StudyError(
            f"{place}: endpoint not allowed: {url} sends the key in the clear; use https, or set allow_private for a"
            " server in a network that you trust"
        )


def check_addresses(url: str, *, allow_private: bool, place: str) -> None:
    """Looks the host up and accepts it where all its addresses are allowed. A proxy looks up by itself.

    Errors: StudyError; socket.gaierror where the host is unknown.
    """
    check_url(url, allow_private=allow_private, place=place)
    parts = urlsplit(url)
    host = parts.hostname or ""
    if takes_proxy(url) and urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return
    for found in socket.getaddrinfo(host, parts.port, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(str(found[4][0]).partition("%")[0])
        _check_address(address, True, url=url, allow_private=allow_private, place=place)


def takes_proxy(url: str) -> bool:
    """Whether a request to the address may go by way of the environment's proxy.

    One to this machine has no need of it, and one without TLS would show it the key and every text.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").lower()
    literal = _read_literal(host)
    local = host == "localhost" or host.endswith(".localhost") or (literal is not None and literal[0].is_loopback)
    return parts.scheme == "https" and not local


def read_key(endpoint: EndpointSection, place: str) -> str | None:
    """The key for an endpoint: of the variable that it names, ``NO_KEY`` for an address without one, else None.

    None leaves the choice to the provider's own variable, whose key never goes to an address that a study names.
    Errors: StudyError where the variable is not set.
    """
    if endpoint.key_env is None:
        return None if endpoint.base_url is None else NO_KEY
    if key := os.environ.get(endpoint.key_env):
        return key
    raise StudyError(
        f"{place}.key_env names {endpoint.key_env}, which is not set in the environment; set it to the key"
    )


def redact(text: str, *secrets: str | None) -> str:
    """The text without these secrets, the values of secret environment variables, and what looks like a key."""
    for value in sorted({*_secret_variables(), *filter(None, secrets)} - {NO_KEY}, key=len, reverse=True):
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "[redacted]")
    return _SECRET_TEXT.sub("[redacted]", text)


def find_secret(text: str) -> str | None:
    """The name of a secret environment variable whose value stands in a text."""
    found = (name for value, name in _secret_variables().items() if len(value) >= _SHORTEST_SECRET and value in text)
    return next(found, None)


def _secret_variables() -> dict[str, str]:
    """The environment variables that hold a secret: names by values."""
    return {value: name for name, value in os.environ.items() if _SECRET_NAME.search(name)}


def _read_literal(host: str) -> tuple[Address, bool] | None:
    """The address that a host is written as, and whether in the usual way; resolvers take 0x7f.1 and 2130706433 too."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]), True
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)), False
    except (OSError, UnicodeEncodeError):
        return None


def _check_address(address: Address, usual: bool, *, url: str, allow_private: bool, place: str) -> None:
    embeds = isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or address in _NAT64
    )
    if usual and address.is_loopback:
        return
    public = usual and address.is_global and not address.is_multicast and not embeds
    if not public and not allow_private:
        raise StudyError(
            f"{place}: endpoint not allowed: {url} is the address {address}, which is private or written in a form"
            " that hides it; use a public https address, or set allow_private where you trust it"
        )
    if public and urlsplit(url).scheme == "http":
        raise StudyError(f"{place}: endpoint not allowed: {url} sends the key in the clear to {address}; use https")


# --- what a server may send back ----------------------------------------------------------------------------------
# So many bytes of a body, as they are once they are unpacked. A client of HTTPX (or of its successor, which has the
# same parts) is given transports that count. Without a bound, a server or whoever stands in its place fills the memory:
# by a body that does not end, or by one that is packed.

MOST_BYTES = 8 << 20
_TOO_LONG_BODY = f"it is longer than {MOST_BYTES >> 20} MiB"
ACCEPTED = "gzip, deflate"
_PLAIN, _PACKED = ("", "identity"), ("gzip", "x-gzip", "deflate")
_ANY_WRAPPING = 32 + zlib.MAX_WBITS  # gzip or zlib, as the data says


class BadBody(Exception):
    """A body that is too long, or packed in a way that was not asked for."""


def bound_bodies(client: Any) -> None:
    """Hold what ``client`` receives to ``MOST_BYTES`` a body; a client of another library stays as it is."""
    if not hasattr(client, "_transport") or not hasattr(client, "_mounts") or isinstance(client._transport, _Counting):
        return
    kind = next(one for one in type(client).__mro__ if one.__name__ == "AsyncClient")
    library = sys.modules[kind.__module__.partition(".")[0]]
    client.headers["accept-encoding"] = ACCEPTED
    client._transport = _Counting(client._transport, library.AsyncByteStream)
    for pattern, one in client._mounts.items():
        client._mounts[pattern] = None if one is None else _Counting(one, library.AsyncByteStream)


class _Counting:
    """A transport whose responses are bounded; in all else the one that it stands for."""

    def __init__(self, inner: Any, stream: type) -> None:
        self._inner = inner
        # The client asks for a stream of its own library's kind.
        self._stream = type("BoundedStream", (_Stream, stream), {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> _Counting:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)

    async def handle_async_request(self, request: Any) -> Any:
        response = await self._inner.handle_async_request(request)
        packing = response.headers.get("content-encoding", "").strip().lower()
        if packing not in (*_PLAIN, *_PACKED):
            await response.aclose()
            raise BadBody(f"it is packed as {packing[:40]!r}, which was not asked for")
        said = response.headers.get("content-length", "")
        if said.isdecimal() and (len(said) > len(str(MOST_BYTES)) or int(said) > MOST_BYTES):
            await response.aclose()
            raise BadBody(_TOO_LONG_BODY)
        response.headers.pop("content-encoding", None)
        if packing in _PACKED:
            response.headers.pop("content-length", None)
        response.stream = self._stream(response.stream, packing in _PACKED)
        return response


class _Stream:
    """The bytes of a body, unpacked, up to the bound."""

    def __init__(self, inner: Any, packed: bool) -> None:
        self._inner, self._packed = inner, packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST_BYTES
        opener = zlib.decompressobj(_ANY_WRAPPING) if self._packed else None
        async for piece in self._inner:
            try:  # no more than one byte beyond what is left
                plain = piece if opener is None else opener.decompress(piece, left + 1)
            except zlib.error as error:
                raise BadBody(f"it cannot be unpacked ({error})") from error
            left -= len(plain)
            if left < 0:
                raise BadBody(_TOO_LONG_BODY)
            yield plain
        # Its end holds the checksum.
        if opener is not None and left < MOST_BYTES and not opener.eof:
            raise BadBody("it ends before what is packed in it does")

    async def aclose(self) -> None:
        await self._inner.aclose()
