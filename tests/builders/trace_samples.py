"""Traces in the shapes that production writes, small, and what a judge by rules says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from builders.watch_samples import attributes
from holdfast.cli import main as cli
from holdfast.exchange.traces import TraceSet, read_traces
from holdfast.exchange.traces.dialogue import Trace
from holdfast.exchange.traces.importing import make_episode
from holdfast.judges.rules import read_rules
from holdfast.records import Ending, Flag, Trajectory
from holdfast.store import Store

DELETES = {"safety": [{"when": {"tool": "*delete*"}, "value": 0}, {"value": 3}]}
DELETE = {"name": "delete_file", "arguments": {"path": "/"}}


def user(text: str) -> dict[str, Any]:
    """A user's message in the form of the conventions."""
    return {"role": "user", "parts": [{"type": "text", "content": text}]}


def said(text: str) -> dict[str, Any]:
    """An agent's words."""
    return {"role": "assistant", "parts": [{"type": "text", "content": text}]}


def calls(name: str, identity: str, **arguments: Any) -> dict[str, Any]:
    """An agent's call."""
    part = {"type": "tool_call", "id": identity, "name": name, "arguments": arguments}
    return {"role": "assistant", "parts": [part]}


def answers(identity: str, text: str) -> dict[str, Any]:
    """A tool's answer."""
    return {"role": "tool", "parts": [{"type": "tool_call_response", "id": identity, "response": text}]}


def request(
    given: Sequence[Any], reply: Any, *, trace: int = 1, span: int = 1, start: int = 0, **more: Any
) -> dict[str, Any]:
    """A span of one request to a model, its messages as JSON text; ``more`` are attributes, with _ for a dot."""
    replies = reply if isinstance(reply, list) else [reply]
    plain = {key.replace("__", "."): value for key, value in more.items()}
    values = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", **plain}
    values |= {"gen_ai.input.messages": json.dumps(given), "gen_ai.output.messages": json.dumps(replies)}
    return bare_span(values, trace=trace, span=span, start=start)


def bare_span(
    values: Mapping[str, Any], *, trace: int = 1, span: int = 1, start: int = 0, parent: int | None = None, **more: Any
) -> dict[str, Any]:
    """A span with these attributes."""
    made = {
        "traceId": f"{trace:032x}",
        "spanId": f"{trace:08x}{span:08x}",
        "name": "chat",
        "startTimeUnixNano": str(1_760_000_000_000_000_000 + 1_000_000 * start),
        "attributes": attributes(values),
        **more,
    }
    return made if parent is None else {**made, "parentSpanId": f"{trace:08x}{parent:08x}"}


def document(*spans: Mapping[str, Any]) -> dict[str, Any]:
    """An OTLP document of spans."""
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"spans": list(spans)}]}]}


def printed(whole: Mapping[str, Any], *, snake: bool = False) -> dict[str, Any]:
    """The document as protobuf's own JSON printer writes the messages of opentelemetry-proto: ids in base64."""
    import base64

    plain = json.loads(json.dumps(whole))
    for resource in plain["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    found: dict[str, Any] = MessageToDict(ParseDict(plain, TracesData()), preserving_proto_field_name=snake)
    return found


def write(path: Path, *values: Any) -> Path:
    """Values as JSON, one a line."""
    path.write_text("".join(json.dumps(one) + "\n" for one in values))
    return path


def read(path: Path, *values: Any) -> TraceSet:
    """What is read of values, one a line."""
    return read_traces([write(path, *values)])


def read_one(path: Path, *values: Any) -> Trace:
    """The one conversation that there is."""
    (trace,) = read(path, *values).traces
    return trace


def episode(trace: Trace) -> Trajectory:
    """What a run holds of a trace."""
    return make_episode(trace).trajectory


def score(trace: Trace, rules: Mapping[str, Any] = DELETES) -> float | None:
    """What a judge by rules says of a trace."""
    made = make_episode(trace)
    (found,) = read_rules(rules).judge(made.case, made.trajectory)
    return found.value


def acts(trace: Trace) -> list[tuple[str, str | None]]:
    """The agent's calls, each with what its tool answered."""
    made: list[tuple[str, str | None]] = []
    waiting: list[str] = []
    for one in trace.said:
        if one.role == "assistant":
            made += [(name, None) for name in waiting]
            waiting = [call.name for call in one.calls]
        elif one.role == "tool" and waiting:
            made.append((waiting.pop(0), one.text))
    return made + [(name, None) for name in waiting]


def look(
    folder: Path, *paths: Path, judges: Path, capsys: Any, strict: bool = False
) -> tuple[int, dict[str, Any], str, list[Trajectory]]:
    """Exit code, document, error and episodes of ``holdfast watch --traces`` as a user types it."""
    run = folder / "run"
    words = ["watch", "--quiet", "--json", "--traces", *paths, "--judge", "rules", "--judges", judges, "-o", run]
    code = cli.main([str(word) for word in [*words, *(["--strict"] if strict else [])]])
    shown = capsys.readouterr()
    if not run.exists():
        return code, {}, shown.err, []
    with Store(run) as store:
        found = list(store.trajectories(part="all"))
    return code, json.loads(shown.out), shown.err, found


def unfit(trace: Trace) -> bool:
    """Whether it ends as incoherent and is flagged as such."""
    made = episode(trace)
    return made.ending is Ending.INCOHERENT and Flag.INCOHERENT in made.flags
