"""Files of chats to imitate: OpenAI's fine-tuning format, and TRL's conversational and plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.exchange.datasets.forms import check_system, has, read_prompt, refuse_form
from holdfast.exchange.datasets.rows import read_rows
from holdfast.exchange.datasets.turns import UNCOUNTED, is_listed, make_case, read_tools, read_turns
from holdfast.exchange.traces.records import refuse_record
from holdfast.records import Case, Ending, Message, ToolSpec, Trajectory

Chat = tuple[tuple[Message, ...], tuple[Message, ...], tuple[ToolSpec, ...]]  # opening, what followed, tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Chats:
    """The chats of a file as cases and what an agent did in them, and how many rows were left out for which reason."""

    chats: tuple[tuple[Case, Trajectory], ...]
    left_out: Mapping[str, int]
    first: str = ""


def read_chats(path: Path, data: bytes | None = None) -> Chats:
    """The chats of a file of JSON lines, a row each; ``data`` is what is in the file, where it is known.

    A row has ``messages``, or ``prompt`` and ``completion``, and perhaps ``tools``. It opens with what stands before
    the agent's first turn. Equal rows are one chat. Errors: StudyError, naming the first row, where more than a
    twentieth cannot be learnt from.
    """
    rows = read_rows(path, _read_chat, data)
    chats: dict[str, tuple[Case, Trajectory]] = {}
    for line, (opening, followed, tools) in rows.read.items():
        name = f"line {line}"
        key = repr((opening, followed, tools))
        case = make_case(name, line, opening, tools)
        chats.setdefault(key, (case, as_trajectory(name, case, followed)))
    left_out = {"rows that cannot be learnt from": rows.left_out, "equal rows": len(rows.read) - len(chats)}
    return Chats(chats=tuple(chats.values()), left_out=left_out, first=rows.first)


def as_trajectory(name: str, case: Case, followed: tuple[Message, ...]) -> Trajectory:
    """What followed a case's opening in a file, as an episode of nobody's."""
    return Trajectory(id=name, case_id=case.id, checkpoint_id="", rollout=0, messages=followed, ending=Ending.FINISHED)


def _read_chat(place: str, row: dict[str, Any]) -> Chat:
    if has(row, "messages"):
        if has(row, "completion"):
            refuse_record(place, "holds messages and a completion", "leave one of them out")
        turns = read_turns(f"{place}: messages", row["messages"])
        first = next((number for number, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
        opening, followed = tuple(turns[:first]), tuple(turns[first:])
    elif has(row, "prompt") and has(row, "completion"):
        if isinstance(row.get("label"), bool):  # it may be of what is not to be said
            refuse_record(place, "its completion has a label", "keep the rows whose label is true, without the key")
        opening, followed = read_prompt(place, row["prompt"]), _read_completion(place, row["completion"])
    elif has(row, "chosen"):
        refuse_record(place, "a row of preferences", 'name the file as data of a stage with method "dpo"')
    else:
        refuse_form(place, row, "messages, nor prompt and completion")
    if not any(turn.role == "user" or turn.content.strip() for turn in opening):
        refuse_record(place, "begins with the agent's turn, without anything that was asked")
    check_system(place, row, opening)
    if not any(turn.role == "assistant" for turn in followed):
        refuse_record(place, "has no turn of the agent")
    if followed[0].role != "assistant":
        refuse_record(f"{place}: completion", "does not begin with the agent's turn")
    if all((turn.detail or {}).get(UNCOUNTED) for turn in followed if turn.role == "assistant"):
        refuse_record(place, "every turn of the agent has weight 0")
    return opening, followed, read_tools(place, row)


def _read_completion(place: str, value: Any) -> tuple[Message, ...]:
    place = f"{place}: completion"
    if not isinstance(value, str) or is_listed(value):
        return tuple(read_turns(place, value))
    if not value.strip():
        refuse_record(place, "an empty text")
    return (Message(role="assistant", content=value),)
