"""Parts to test with, public so that users test as this project does: a scripted model, a fixed judge, a provider."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from holdfast.models import Ask, Conversation, Reply
from holdfast.records import Case, Message, Score, ToolCall, Trajectory, content_id

__all__ = [
    "FAULTS",
    "POSITIONS",
    "Charge",
    "FakeProvider",
    "FixedJudge",
    "Script",
    "ScriptedModel",
    "faults_at",
    "request_digest",
    "script_reply",
]

Script = Callable[[Conversation], Message | ToolCall | str | None]


def as_message(said: Message | ToolCall | str) -> Message:
    """What an agent says: a text or a call alone as its message."""
    if isinstance(said, ToolCall):
        return Message(role="assistant", content="", tool_calls=(said,))
    return Message(role="assistant", content=said) if isinstance(said, str) else said


def script_reply(said: Message | ToolCall | str | None) -> Reply:
    """A reply that says a text, makes a call, or (None) cannot be read."""
    if said is None:
        return Reply(message=None, stopped="incoherent", tokens=1, logprob=0.0, raw="")
    message = as_message(said)
    return Reply(message=message, stopped="stop", tokens=1, logprob=0.0, raw=message.content)


@dataclass(slots=True)
class ScriptedModel:
    """A model that answers by a function of the conversation, and remembers what it was asked."""

    script: Script
    asked: list[Conversation] = field(default_factory=list)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """The script's reply to each conversation."""
        self.asked += [ask.conversation for ask in asks]
        return [script_reply(self.script(ask.conversation)) for ask in asks]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedJudge:
    """A judge that gives the values that it was made with; an objective with None is missing, ``reason`` says why."""

    values: Mapping[str, float | None]
    name: str = "fixed"
    reason: str = "fixed"

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that it gives values for."""
        return tuple(self.values)

    @property
    def rubric(self) -> str:
        """An id of its values."""
        return content_id("fixed", dict(self.values))

    def rubric_of(self, objective: str) -> str:
        """The id of its values, one for all objectives."""
        return self.rubric

    def judge(self, case: Case, trajectory: Trajectory) -> tuple[Score, ...]:
        """One score per objective."""
        return tuple(
            Score(
                trajectory_id=trajectory.id,
                judge=self.name,
                objective=objective,
                value=value,
                missing=self.reason if value is None else None,
                rubric=self.rubric,
            )
            for objective, value in self.values.items()
        )


# --- a provider --------------------------------------------------------------------------------------------------
# A real HTTP server on this machine that speaks OpenAI's chat completions. It keeps its own bill, breaks in every way
# that providers do, when it is told to, and answers by a function otherwise.

FAULTS = (
    *("429", "429-retry-after", "429-garbage-retry-after", "500", "502", "503", "529"),
    *("reset", "hang", "slow-drip", "truncated", "html", "empty-choices", "wrong-schema", "wrong-model"),
    *("nan-logprob", "error-in-200", "two-choices"),
)
"""The ways in which a request can fail."""

POSITIONS = ("first", "middle", "last", "burst")
BURST = 20
CUT_OFF = frozenset({"reset", "hang", "slow-drip", "truncated"})
"""The faults that break the connection off, after the answer was made and billed."""

Answers = Callable[[Mapping[str, Any]], Message | ToolCall | str]
_HTML = b"<!doctype html><html><body><h1>Bad gateway</h1></body></html>"
_STATUS_WORDS = {"429": "rate_limit_exceeded", "529": "overloaded_error"}


def faults_at(kind: str, position: str, calls: int) -> dict[int, str]:
    """The fault at one position of so many requests, by the number of the request; a burst is 20 in a row."""
    middle = calls // 2
    places = {"first": [0], "middle": [middle], "last": [calls - 1], "burst": range(middle, middle + BURST)}
    return dict.fromkeys(places[position], kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """An answer that was made, and so is billed.

    ``model`` is the one asked for, ``digest`` the SHA-256 of the request, ``fault`` what befell it on its way.
    """

    model: str
    digest: str
    fault: str | None


def echo(request: Mapping[str, Any]) -> str:
    """An answer that shows which request it belongs to."""
    return f"answer {request_digest(request)[:12]}"


def request_digest(request: Mapping[str, Any]) -> str:
    """The SHA-256 of a request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class FakeProvider:
    """The server; a context manager that runs it.

    ``answers`` makes the answer to a request, ``faults`` says which requests break and how, by their number. ``key`` is
    the only one let in, ``without`` names request fields that are refused as unsupported, ``context`` is the longest
    conversation in characters, ``redirect`` an address that every request is sent on to.
    """

    answers: Answers = echo
    faults: Mapping[int, str] = field(default_factory=dict)
    key: str | None = None
    without: Sequence[str] = ()
    context: int | None = None
    redirect: str | None = None
    delay: float = 0.0
    bill: list[Charge] = field(default_factory=list)
    requests: list[Mapping[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _port: int = 0

    def __enter__(self) -> FakeProvider:
        self.stopping.clear()
        handler = type("Handler", (_Handler,), {"owner": self})
        # The same address again after a stop, as a server that comes back has.
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def base_url(self) -> str:
        """The address to reach it at."""
        return f"http://127.0.0.1:{self._port}/v1"

    def answered(self) -> list[Charge]:
        """What was billed and reached the client as a reply."""
        return [one for one in self.bill if one.fault in (None, "wrong-model", "nan-logprob")]

    def receive(self, request: Mapping[str, Any], key: str) -> str | None:
        """Count a request; the fault that befalls it, if any."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.keys.append(key)
            return self.faults.get(number)

    def answer(self, request: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
        """A completion, put on the bill."""
        said = self.answers(request)
        with self._lock:
            self.bill.append(Charge(model=str(request.get("model")), digest=request_digest(request), fault=fault))
            number = len(self.bill)
        return _completion(request, said, number)

    def refusal(self, request: Mapping[str, Any]) -> tuple[str, str] | None:
        """Code and message of the error that a request gets for what it asks."""
        for name in self.without:
            if request.get(name):
                return "unsupported_parameter", f"{request.get('model')} does not support {name}"
        size = sum(len(str(message.get("content") or "")) for message in request.get("messages", ()))
        if self.context is not None and size > self.context:
            return "context_length_exceeded", f"This model's maximum context length is {self.context}, found {size}"
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    owner: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        key = self.headers.get("authorization", self.headers.get("x-api-key", "")).removeprefix("Bearer ")
        request = json.loads(body)
        fault = self.owner.receive(request, key)
        if self.owner.delay:
            self.owner.stopping.wait(self.owner.delay)
        if self.owner.redirect is not None:
            self._send(307, b"", {"location": self.owner.redirect + self.path.removeprefix("/v1")})
        elif self.path != "/v1/chat/completions":
            self._error(404, "not_found", f"no such path: {self.path}")
        elif self.owner.key not in (None, key):
            self._error(401, "invalid_api_key", f"Incorrect API key provided: {key}")
        elif (refused := self.owner.refusal(request)) is not None:
            self._error(400, *refused)
        elif fault is not None:
            self._break(fault, request)
        else:
            self._send(200, json.dumps(self.owner.answer(request, None)).encode())

    def _break(self, fault: str, request: Mapping[str, Any]) -> None:
        status, _, after = fault.partition("-")
        if status.isdigit():
            extra = {"retry-after": {"retry-after": "0", "garbage-retry-after": "soon"}[after]} if after else {}
            self._error(int(status), _STATUS_WORDS.get(status, "server_error"), "try again later", extra)
        elif fault == "html":
            self._send(200, _HTML, {"content-type": "text/html"})
        elif fault == "error-in-200":
            self._send(200, b'{"error": {"message": "upstream failed", "code": 502}}')
        elif fault in CUT_OFF:
            self._cut_off(fault, json.dumps(self.owner.answer(request, fault)).encode())
        else:
            completion = self.owner.answer(request, fault)
            _SPOILERS[fault](completion)
            self._send(200, json.dumps(completion).encode())

    def _cut_off(self, fault: str, body: bytes) -> None:
        self.close_connection = True
        if fault == "hang":
            self.owner.stopping.wait(30)
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self._head(200, len(body), {"content-type": "application/json"})
            half = body[: len(body) // 2]
            for piece in [half] if fault == "truncated" else [bytes([byte]) for byte in half]:
                self.wfile.write(piece)
                if fault == "slow-drip" and self.owner.stopping.wait(0.05):
                    return

    def _error(self, status: int, code: str, message: str, extra: Mapping[str, str] | None = None) -> None:
        body = {"error": {"message": message, "type": code, "param": None, "code": code}}
        self._send(status, json.dumps(body).encode(), extra)

    def _send(self, status: int, body: bytes, extra: Mapping[str, str] | None = None) -> None:
        self._head(status, len(body), {"content-type": "application/json", **(extra or {})})
        self.wfile.write(body)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _completion(request: Mapping[str, Any], said: Message | ToolCall | str, number: int) -> dict[str, Any]:
    message = as_message(said)
    text = message.content
    for stop in request.get("stop") or ():
        text = text.partition(stop)[0]
    calls = []
    for place, call in enumerate(message.tool_calls):
        raw = set(call.arguments) == {"_raw"}
        told = call.arguments["_raw"] if raw else json.dumps(dict(call.arguments))
        identity = call.id or f"call_{number}_{place}"
        calls.append({"id": identity, "type": "function", "function": {"name": call.name, "arguments": told}})
    sampled = [text[place : place + 4] for place in range(0, len(text), 4)]
    most = request.get("max_tokens") or request.get("max_completion_tokens")
    reason = "tool_calls" if calls else "stop"
    if most is not None and len(sampled) > most:
        sampled, reason, calls = sampled[:most], "length", []
        text = "".join(sampled)
    answered = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    choice: dict[str, Any] = {"index": 0, "message": answered, "finish_reason": reason}
    if request.get("logprobs"):
        other = {"token": "other", "logprob": -1.5, "bytes": None}
        likely = [{"token": one, "logprob": -0.25, "bytes": None} for one in sampled]
        choice["logprobs"] = {"content": [{**one, "top_logprobs": [one, other]} for one in likely]}
    asked = sum(len(str(one.get("content") or "")) for one in request.get("messages", ())) // 4 + 1
    used = {"prompt_tokens": asked, "completion_tokens": len(sampled), "total_tokens": asked + len(sampled)}
    made = {"object": "chat.completion", "created": 0, "model": request.get("model")}
    return {"id": f"chatcmpl-{number}", **made, "choices": [choice], "usage": used}


def _spoil_logprob(completion: dict[str, Any]) -> None:
    for choice in completion["choices"]:
        for token in (choice.get("logprobs") or {}).get("content", ())[:1]:
            token["logprob"] = float("nan")


_SPOILERS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "empty-choices": lambda completion: completion.update(choices=[]),
    "wrong-schema": lambda completion: completion.update(choices=[{"index": "x", "message": 7}]),
    "wrong-model": lambda completion: completion.update(model="another-model"),
    "nan-logprob": _spoil_logprob,
    "two-choices": lambda completion: completion.update(choices=completion["choices"] * 2),
}
