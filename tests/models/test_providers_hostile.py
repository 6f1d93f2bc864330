"""Providers that send too much, bill nonsense or leave no cause; two processes that ask the same; proxies."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders.places import TESTS
from builders.remote_samples import NAME, SEARCH, answer_one, hold_all, make_ask, opened

from holdfast.models import Reply
from holdfast.models.fakes import FakeProvider
from holdfast.models.remote import ledger
from holdfast.models.remote.endpoints import MOST_BYTES, takes_proxy
from holdfast.models.remote.ledger import Budget, Ledger, read_spending
from holdfast.records.errors import BudgetSpent, ProviderError

Respond = Callable[[BaseHTTPRequestHandler], None]
SECRET = "planted-0123456789-secret"


def completion(text: str = "fine", **changes: Any) -> dict[str, Any]:
    """A chat completion as a server writes it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    made = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return {**made, **changes}


@contextmanager
def serving(respond: Respond) -> Iterator[tuple[str, list[str]]]:
    """A server that answers every request so; its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.close_connection = True
            respond(self)

        do_CONNECT = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def sends(body: bytes, headers: Mapping[str, str] | None = None, length: bool = True) -> Respond:
    """A response of these bytes."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        if length:
            handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A body that does not end."""
    sends(b"", length=False)(handler)
    while True:
        handler.wfile.write(b'{"a":' * 20_000)


def failed(found: Any) -> str:
    """The one line of a request that got no reply."""
    assert isinstance(found, ProviderError) and found.fault == "unavailable", found
    line = str(found)
    assert "\n" not in line and "RetryError" not in line and "Future" not in line and line.startswith(NAME)
    return line


# --- bodies --------------------------------------------------------------------------------------------------------

LONG = json.dumps(completion("x" * (MOST_BYTES + 1))).encode()
ZEROS = json.dumps(completion("0" * (40 << 20))).encode()


@pytest.mark.parametrize(
    "respond",
    [
        sends(LONG),
        sends(LONG, length=False),
        endless,
        sends(gzip.compress(ZEROS), {"content-encoding": "gzip"}),
        sends(zlib.compress(ZEROS), {"content-encoding": "deflate"}),
        sends(gzip.compress(ZEROS), {"content-encoding": "GZip"}, length=False),
    ],
    ids=["told", "untold", "endless", "gzip", "deflate", "gzip untold"],
)
def test_a_body_that_is_too_long_is_not_taken(respond: Respond, tmp_path: Path) -> None:
    with serving(respond) as (url, asked), opened(url, tmp_path, retries=0, timeout=90) as (model, ledger):
        line = failed(hold_all(model, [make_ask("one")])[0])
        assert (sum(one.calls for one in ledger.summary()), ledger.summary()[0].in_doubt) == (0, 1)
    assert "longer than 8 MiB" in line and "check what base_url leads to" in line and len(asked) == 1


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "compress"])
def test_a_packing_that_was_not_asked_for_is_told(packing: str, tmp_path: Path) -> None:
    respond = sends(b"whatever", {"content-encoding": packing})
    with serving(respond) as (url, _), opened(url, tmp_path, retries=0, timeout=90) as (model, _):
        assert "packed as" in failed(hold_all(model, [make_ask("one")])[0])


@pytest.mark.parametrize(
    "respond",
    [
        sends(json.dumps(completion()).encode()),
        sends(gzip.compress(json.dumps(completion()).encode()), {"content-encoding": "gzip"}),
        sends(zlib.compress(json.dumps(completion()).encode()), {"content-encoding": "deflate"}, length=False),
        sends(json.dumps(completion("y" * 1_000_000)).encode()),
    ],
    ids=["plain", "gzip", "deflate", "a megabyte"],
)
def test_a_body_of_a_sane_length_is_read_packed_or_not(respond: Respond, tmp_path: Path) -> None:
    with serving(respond) as (url, _), opened(url, tmp_path, retries=0, timeout=90) as (model, _):
        assert answer_one(model, make_ask("one")).raw[:1] in "fy"


@pytest.mark.parametrize(
    ("respond", "told"),
    [
        (sends(b'{"id": "c", "choices": ['), "no reply"),
        (sends(b"[" * 100_000), "no reply"),
        (sends(b"\x1f\x8b broken", {"content-encoding": "gzip"}), "cannot be unpacked"),
        (sends(gzip.compress(json.dumps(completion()).encode())[:-8], {"content-encoding": "gzip"}), "it ends before"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"), "broke off"),
        (lambda handler: handler.wfile.write(b"\x15\x03\x01 no HTTP\r\n\r\n"), "broke off"),
    ],
    ids=["torn JSON", "nested JSON", "torn gzip", "gzip without its checksum", "torn body", "no HTTP"],
)
def test_what_is_broken_is_told_with_its_cause(respond: Respond, told: str, tmp_path: Path) -> None:
    with serving(respond) as (url, _), opened(url, tmp_path, retries=1) as (model, _):
        line = failed(hold_all(model, [make_ask("one")])[0])
    assert told in line and "2 attempts" in line and "check" in line


def test_a_server_without_tls_is_told_so(tmp_path: Path) -> None:
    with (
        serving(sends(b"")) as (url, _),
        opened(url.replace("http:", "https:"), tmp_path, retries=0, timeout=90) as (model, ledger),
    ):
        found = hold_all(model, [make_ask("one")])[0]
        assert ledger.summary() == ()
    assert "no secure connection" in str(found) and "certificate" in str(found) and "RetryError" not in str(found)


# --- bills ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-5_000_000, -1, 1e20, 2**63, 10**30, None, "many", True, 2**53])
def test_a_bill_is_never_less_than_nothing_nor_beyond_what_is_exact(value: Any, tmp_path: Path) -> None:
    body = json.dumps(completion(usage={"prompt_tokens": value, "completion_tokens": value, "total_tokens": 0}))
    with serving(sends(body.encode())) as (url, _):
        with opened(url, tmp_path, retries=0, timeout=90, input_price=1.0, output_price=1.0) as (model, ledger):
            found = hold_all(model, [make_ask(f"{number}") for number in range(3)])
            (spent,) = ledger.summary()
        assert all(isinstance(one, Reply) for one in found) or spent.in_doubt == 3
        assert spent.cost >= 0 and 0 <= spent.input_tokens <= 3 * 2**53 and 0 <= spent.output_tokens <= 3 * 2**53
        if isinstance(value, int) and value < 0:
            # What is no count is taken for the bytes, so that a budget is met.
            assert spent.output_tokens > 0 and spent.cost > 0


@pytest.mark.parametrize("cached", [-9 * 10**18, 10**9])
def test_a_count_that_spoils_another_is_not_added_up(cached: int, tmp_path: Path) -> None:
    """What was read anew is told as all that was read less what a cache held."""
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    usage |= {"prompt_tokens_details": {"cached_tokens": cached}}
    body = json.dumps(completion(usage=usage)).encode()
    with serving(sends(body)) as (url, _), opened(url, tmp_path, retries=0, timeout=90) as (model, ledger):
        answer_one(model, make_ask("one"))
        (spent,) = ledger.summary()
    assert (spent.input_tokens, spent.output_tokens) == (1, 5)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_arguments_that_json_cannot_hold_are_the_same_when_the_ledger_answers(number: str, tmp_path: Path) -> None:
    call = {"name": "search", "arguments": f'{{"query": {number}}}'}
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    body = completion(choices=[{"index": 0, "finish_reason": "tool_calls", "message": message}])
    with serving(sends(json.dumps(body).encode())) as (url, asked), opened(url, tmp_path, timeout=90) as (model, _):
        first, second = (answer_one(model, make_ask("one", tools=(SEARCH,))) for _ in range(2))
    assert len(asked) == 1 and repr(first) == repr(second)
    assert first.message is not None and list(first.message.tool_calls[0].arguments) == ["_raw"]


@pytest.mark.parametrize("kind", ["500", "502", "429", "429-retry-after", "reset", "html", "empty-choices"])
def test_a_budget_counts_every_request_that_a_server_got(kind: str, tmp_path: Path) -> None:
    provider = FakeProvider(faults=dict.fromkeys(range(1000), kind))
    with provider, opened(provider.base_url, tmp_path, retries=20, budget=Budget(max_calls=3)) as (model, _):
        found = hold_all(model, [make_ask(f"{number}") for number in range(6)])
    assert len(provider.requests) <= 3
    assert any(isinstance(one, BudgetSpent) for one in found)


def test_a_request_that_nobody_got_costs_no_budget(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with opened(f"http://127.0.0.1:{port}/v1", tmp_path, budget=Budget(max_calls=2)) as (model, _):
        assert not isinstance(hold_all(model, [make_ask("one")])[0], BudgetSpent)
    with FakeProvider() as provider, opened(provider.base_url, tmp_path, budget=Budget(max_calls=2)) as (model, _):
        assert isinstance(hold_all(model, [make_ask("one")])[0], Reply)


# --- one ledger for several processes ------------------------------------------------------------------------------


ASKER = """
import sys
from pathlib import Path
from builders.remote_samples import hold_all, make_ask, opened
with opened(sys.argv[1], Path(sys.argv[2])) as (model, _):
    print("ready", flush=True)
    sys.stdin.readline()
    found = hold_all(model, [make_ask(f"question {n}") for n in range(6)])
    print("|".join(getattr(one, "raw", str(one)) for one in found))
"""


def start_asking(provider: FakeProvider, folder: Path) -> subprocess.Popen[str]:
    """A process that is ready to ask; its ledger lies in ``folder``."""
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = subprocess.Popen(
        [sys.executable, "-c", ASKER, provider.base_url, str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


def let_go(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


@pytest.mark.full
def test_equal_calls_of_several_processes_are_paid_once(tmp_path: Path) -> None:
    """Each of them asks the same at the same time, and gets the same replies."""
    with FakeProvider(delay=0.3) as provider:
        started = [start_asking(provider, tmp_path) for _ in range(2)]
        for one in started:
            let_go(one)
        said = [one.communicate(timeout=60)[0].strip() for one in started]
        assert [one.returncode for one in started] == [0, 0]
        assert said[0] == said[1] and said[0].count("answer") == 6
        assert len(provider.bill) == 6
    (spent,) = read_spending(tmp_path / "calls.db")
    assert (spent.calls, spent.in_doubt) == (6, 0)


@pytest.mark.full
def test_a_call_of_a_process_that_was_killed_is_made_again_by_another(tmp_path: Path) -> None:
    with FakeProvider(delay=2.0) as provider:
        one = start_asking(provider, tmp_path)
        let_go(one)
        deadline = time.monotonic() + 60
        while len(provider.requests) < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
        one.kill()
        one.communicate()
        provider.delay = 0.0
        with opened(provider.base_url, tmp_path) as (model, _):
            found = hold_all(model, [make_ask(f"question {n}") for n in range(6)])
        assert all("answer" in getattr(one, "raw", str(one)) for one in found) and len(provider.requests) == 12
    (spent,) = read_spending(tmp_path / "calls.db")
    assert (spent.calls, spent.in_doubt) == (6, 6)


ELSEWHERE = ("gone 1 999999999 5 0", "nonsense", "", "\x00")


@pytest.mark.parametrize("owner", [None, *ELSEWHERE])
def test_a_call_whose_process_ended_is_made_again_and_stays_in_doubt(
    owner: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a closed ledger, of a process that is no more, and of names that nobody gave."""
    monkeypatch.setattr(ledger, "FOREIGN_SECONDS", 0.0)
    first = Ledger(tmp_path / "calls.db")
    assert asyncio.run(first.intend(b"key", "judge", "m"))
    first.close()
    if owner is not None:
        with sqlite3.connect(tmp_path / "calls.db") as db:
            db.execute("UPDATE flights SET owner = ?", (owner,))
        db.close()
    second = Ledger(tmp_path / "calls.db")
    assert asyncio.run(second.intend(b"key", "judge", "m"))
    assert second.summary()[0].in_doubt == 2
    second.close()


def test_a_call_in_flight_is_waited_for_until_it_is_settled_withdrawn_or_left(tmp_path: Path) -> None:
    async def go() -> list[bool]:
        seen = []
        settled = first.settle(b"a", "yes", "m", tokens=(1, 1), cost=0.0, seconds=0.0, attempts=1)
        for key, end in ((b"a", settled), (b"b", first.withdraw(b"b"))):
            await first.intend(key, "judge", "m")
            seen.append(await second.intend(key, "judge", "m"))
            await end
            seen.append(await second.intend(key, "judge", "m"))
        await first.intend(b"c", "judge", "m")
        seen.append(await second.intend(b"c", "judge", "m"))
        first.leave(b"c")
        await first.intend(b"d", "judge", "m")  # written behind it
        return [*seen, await second.intend(b"c", "judge", "m")]

    first, second = Ledger(tmp_path / "calls.db"), Ledger(tmp_path / "calls.db")
    assert asyncio.run(go()) == [False, False, False, True, False, True]
    first.close()
    second.close()


# --- proxies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example.com/v1", True),
        ("http://10.1.2.3/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("https://127.0.0.1:8000/v1", False),
        ("https://localhost/v1", False),
        ("https://LOCALHOST./v1", False),
        ("http://[::1]:80/v1", False),
        ("https://[::1]/v1", False),
        ("https://model.localhost/v1", False),
    ],
)
def test_a_proxy_is_for_what_is_elsewhere_and_behind_tls(url: str, expected: bool) -> None:
    assert takes_proxy(url) is expected


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_no_proxy_sees_a_key_on_its_way_to_this_machine(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KEY_VARIABLE", SECRET)
    with serving(sends(b"{}")) as (proxy, asked), FakeProvider() as provider:
        monkeypatch.setenv(variable, proxy.removesuffix("/v1"))
        with opened(provider.base_url, tmp_path, key_env="FAKE_KEY_VARIABLE") as (model, _):
            assert answer_one(model, make_ask("one")).raw.startswith("answer")
    assert asked == [] and provider.keys == [SECRET]
