"""Preference pairs and demonstrations as TRL reads them, in its conversational forms.

Rows of pairs have ``prompt``, ``chosen``, ``rejected`` and ``tools``, those of demonstrations ``messages`` and
``tools``.

The format is that of TRL 1.16 ("Dataset formats", tool calling): messages in the OpenAI style, arguments of calls as
objects, which chat templates write as JSON themselves. The JSON reader of datasets 5.2 decides by the first 10 MB of a
file which fields it keeps as JSON and which as columns; a key that comes later would be lost, or stand as null in rows
that have none. So the rows that show each difference come first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Literal, get_args

from holdfast.models import find_answered
from holdfast.records import Case, Message, PreferencePair, ToolCall, ToolSpec, Trajectory
from holdfast.store import Store

Arguments = Literal["object", "text"]
ARGUMENTS: tuple[Arguments, ...] = get_args(Arguments)
_RAW = "_raw"
KEPT = 256  # cases, and trajectories, as rows: pairs of one case stand together and share them
Path = tuple[str, ...]


def to_trl(pairs: Sequence[PreferencePair], store: Store, arguments: Arguments = "object") -> Iterator[dict[str, Any]]:
    """The pairs in TRL's conversational preference format: ``prompt``, ``chosen``, ``rejected``, ``tools``.

    Each is a list of chat messages, calls in the OpenAI style; ``tools`` is there where the case shows tools.
    ``arguments`` of calls are objects or their JSON text; what an agent wrote that was no object stays the text that
    it was. Rows come in the order of ``pairs``, but for those that show the reader what differs, which go first.
    """

    @lru_cache(KEPT)
    def show_case(case_id: str) -> dict[str, Any]:
        case = store.case(case_id)
        tools = {"tools": _describe_tools(case.tools)} if case.tools else {}
        return {"prompt": _to_chat(case.messages, arguments), **tools}

    @lru_cache(KEPT)
    def show_side(trajectory_id: str) -> list[dict[str, Any]]:
        return _to_chat(store.trajectory(trajectory_id).messages, arguments)

    for place in dict.fromkeys((*_leads(pairs, show_case, show_side), *range(len(pairs)))):
        pair = pairs[place]
        yield {**show_case(pair.case_id), "chosen": show_side(pair.chosen), "rejected": show_side(pair.rejected)}


def chats_to_trl(chats: Iterable[tuple[Case, Trajectory]], arguments: Arguments = "object") -> Iterator[dict[str, Any]]:
    """Episodes in TRL's conversational format of language modelling, as ``to_trl`` writes pairs, in the like order."""
    rows = []
    for case, episode in chats:
        row: dict[str, Any] = {"messages": _to_chat([*case.messages, *episode.messages], arguments)}
        rows.append(row | ({"tools": _describe_tools(case.tools)} if case.tools else {}))
    shapes = _Shapes()
    # Every column is looked at: each may be the first to differ.
    seen = ([shapes.differs((name,), column) for name, column in row.items()] for row in rows)
    differ = [any(columns) for columns in seen]
    for place in dict.fromkeys((0, *(number for number, one in enumerate(differ) if one), *range(len(rows)))):
        if place < len(rows):
            yield rows[place]


def _describe_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": asdict(tool)} for tool in tools]


def _to_chat(messages: Sequence[Message], arguments: Arguments) -> list[dict[str, Any]]:
    """Messages in the OpenAI style; calls without an id are numbered, and results carry their call's id."""
    chat: list[dict[str, Any]] = []
    made = 0
    waiting: list[tuple[str, str]] = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            numbered = [f"call_{made + position}" for position in range(len(message.tool_calls))]
            ids = [call.id or number for call, number in zip(message.tool_calls, numbered, strict=True)]
            ids = ids if len(set(ids)) == len(ids) else numbered
            made += len(ids)
            waiting = [(call.name, identity) for call, identity in zip(message.tool_calls, ids, strict=True)]
            row["tool_calls"] = [
                {"id": identity, "type": "function", "function": _describe_call(call, arguments)}
                for identity, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            row["name"] = message.name
            place = find_answered([name for name, _ in waiting], message.name)
            row["tool_call_id"] = waiting.pop(place)[1] if waiting else ""
        chat.append(row)
    return chat


def _describe_call(call: ToolCall, arguments: Arguments) -> dict[str, Any]:
    """A call; what an agent wrote as arguments that was no object stays the text that it was."""
    raw = call.arguments.get(_RAW)
    if isinstance(raw, str) and len(call.arguments) == 1:
        return {"name": call.name, "arguments": raw}
    plain = dict(call.arguments)
    return {"name": call.name, "arguments": plain if arguments == "object" else json.dumps(plain, ensure_ascii=False)}


def _leads(
    pairs: Sequence[PreferencePair],
    show_case: Callable[[str], Mapping[str, Any]],
    show_side: Callable[[str], list[dict[str, Any]]],
) -> list[int]:
    """The places of pairs whose rows show something that no row before them shows, in their order."""
    shapes = _Shapes()
    leading = []
    case = ""
    for place, pair in enumerate(pairs):
        differs = [place == 0]
        if pair.case_id != case:
            case = pair.case_id
            differs += [shapes.differs((name,), column) for name, column in show_case(case).items()]
        sides = {"chosen": pair.chosen, "rejected": pair.rejected}
        differs += [shapes.differs((name,), show_side(side)) for name, side in sides.items() if not shapes.knows(name)]
        if any(differs):
            leading.append(place)
    return leading


class _Shapes:
    """What is known of the values at each path: the keys of objects, the kinds of others, and where they differ."""

    def __init__(self) -> None:
        self._seen: dict[Path, Any] = {}
        self._mixed: set[Path] = set()

    def knows(self, column: str) -> bool:
        """Whether a column's messages are known to differ, so that nothing below them matters."""
        return (column, "") in self._mixed

    def differs(self, path: Path, value: Any) -> bool:
        """Take note of a value; whether it is the first to differ from those before at some path."""
        is_first = False
        waiting: list[tuple[Path, Any]] = [(path, value)]
        while waiting:
            at, part = waiting.pop()
            if part is None or at in self._mixed:
                continue
            shape = frozenset(part) if isinstance(part, Mapping) else type(part).__name__
            if self._seen.setdefault(at, shape) != shape:
                self._mixed.add(at)
                is_first = True
            elif isinstance(part, Mapping):
                waiting += [((*at, str(key)), inner) for key, inner in part.items()]
            elif isinstance(part, list | tuple):
                waiting += [((*at, ""), inner) for inner in part]
        return is_first
