"""Forms of rows that are known by their keys and are not read as they stand, and transcripts, whose turns are found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from holdfast.exchange.datasets.rows import parse_value
from holdfast.exchange.datasets.turns import SHAREGPT, is_listed, read_turns
from holdfast.exchange.traces.records import refuse_record
from holdfast.records import Message

Turns = tuple[Message, ...]
# The key by which a form is known, whose it is, and how its rows become ones that are read.
_FORMS = {
    "conversations": ("a row in ShareGPT's form", SHAREGPT),
    "preferred_output": (
        "a row in OpenAI's form of preferences",
        "write input.messages as prompt, input.tools as tools, preferred_output as chosen, non_preferred_output as"
        " rejected",
    ),
    "instruction": ("a row in Alpaca's form", "write instruction with input as prompt, output as completion"),
    "question": ("its prompt stands under question", "write it as prompt, and an answer as completion"),
    "text": ("a text whose turns nothing tells", "write it as prompt and completion, or as messages"),
}
_SYSTEM = ("system", "system_prompt")
_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


def has(row: Mapping[str, Any], key: str) -> bool:
    """Whether a row has a key with a value: tables are written with null where a row has none."""
    return row.get(key) is not None


def refuse_form(place: str, row: Mapping[str, Any], wanted: str) -> NoReturn:
    """Refuse a row that has not what is ``wanted``, by the form that it is known to be of. Errors: BadRecord."""
    known = next((_FORMS[key] for key in _FORMS if has(row, key)), None)
    if known is not None:
        refuse_record(place, *known)
    keys = ", ".join(key for key in list(row)[:5] if isinstance(key, str)) or "none"
    refuse_record(place, f"no {wanted}; its keys are {keys:.200}", "write one of these forms")


def check_system(place: str, row: Mapping[str, Any], opening: Sequence[Message]) -> None:
    """Raises BadRecord where a system message stands in a column, and would be left out of what is learnt."""
    key = next((key for key in _SYSTEM if isinstance(row.get(key), str) and row[key].strip()), None)
    if key is not None and not any(turn.role == "system" for turn in opening):
        refuse_record(place, f"{key} is no part of its messages", "write it as their first, or take the key out")


def read_prompt(place: str, value: Any) -> Turns:
    """A prompt: messages, or a text, which is what the user says, or a transcript. Errors: BadRecord."""
    place = f"{place}: prompt"
    if not isinstance(value, str) or is_listed(value):
        opening = tuple(read_turns(place, value, whole=False))
    elif not value.strip():
        refuse_record(place, "an empty text")
    else:
        opening = _without_cue(read_transcript(place, value)) or (Message(role="user", content=value),)
    if opening[-1].role == "assistant":
        refuse_record(place, "ends in a turn of the agent, who would go on", "end it in a turn of the user or a tool")
    return opening


def read_transcript(place: str, text: str) -> Turns:
    """The turns of a text that tells them as "Human: …" and "Assistant: …"; none of any other text.

    An agent's turn at its end may be empty. Errors: BadRecord for another empty turn.
    """
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip() or marks[0][1] != "Human":
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns = []
    for mark, end in zip(marks, ends, strict=True):
        said = text[mark.end() : end].strip()
        if not said and (mark[1] == "Human" or end < len(text)):
            refuse_record(place, f"the transcript has an empty turn of {mark[1]}")
        turns.append(Message(role="user" if mark[1] == "Human" else "assistant", content=said))
    return tuple(turns)


def _without_cue(turns: Turns) -> Turns:
    """A transcript's turns without an empty one at its end, which says whose turn it is."""
    return turns[:-1] if turns and not turns[-1].content else turns


def unfold(place: str, value: Any) -> Any:
    """A list of messages that was written as a text; anything else as it is. Errors: BadRecord."""
    return parse_value(place, value) if is_listed(value) else value
