"""Files of preferences to train on, in TRL's forms: explicit and implicit prompts, conversational and plain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from holdfast.exchange.datasets.chats import as_trajectory
from holdfast.exchange.datasets.forms import (
    Turns,
    check_system,
    has,
    read_prompt,
    read_transcript,
    refuse_form,
    unfold,
)
from holdfast.exchange.datasets.rows import read_rows
from holdfast.exchange.datasets.turns import UNCOUNTED, make_case, read_tools, read_turns
from holdfast.exchange.traces.records import refuse_record
from holdfast.records import Case, Message, PreferencePair, ToolSpec, Trajectory

SIDES = ("chosen", "rejected")
JUDGE = "file"  # of pairs that nobody here judged
_SCORES = ("score_chosen", "score_rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """The pairs of a file, with their cases and trajectories by id, and what was left out for which reason.

    ``contradictory`` counts pairs that stand in the file the other way round too, ``level`` those of equal scores,
    ``cut`` those whose prompt is what both texts open with.
    """

    pairs: tuple[PreferencePair, ...]
    cases: Mapping[str, Case]
    trajectories: Mapping[str, Trajectory]
    left_out: Mapping[str, int]
    contradictory: int
    level: int = 0
    cut: int = 0
    first: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    opening: Turns
    chosen: Turns
    rejected: Turns
    tools: tuple[ToolSpec, ...]
    gap: float | None  # None where no scores are given
    cut: bool


def read_preferences(path: Path, objectives: Sequence[str] = (), data: bytes | None = None) -> Preferences:
    """The preference pairs of a file of JSON lines, a row each; ``data`` is what is in the file, where it is known.

    A row has ``chosen`` and ``rejected``, each a list of messages or a text, and a ``prompt``, or its sides open alike;
    it may have ``tools``, and the scores of both sides, whose difference is the pair's gap. Equal rows are one pair;
    rows that open alike are of one case, and equal sides of it one trajectory. Errors: StudyError, naming the first
    row, where more than a twentieth cannot be learnt from.
    """
    rows = read_rows(path, _read_row, data)
    cases: dict[str, Case] = {}
    trajectories: dict[tuple[str, str], Trajectory] = {}
    pairs: dict[tuple[str, str, str], PreferencePair] = {}
    kept: dict[PreferencePair, _Row] = {}
    for line, row in rows.read.items():
        case = cases.setdefault(repr((row.opening, row.tools)), make_case(f"line {line}", line, row.opening, row.tools))
        chosen, rejected = (
            trajectories.setdefault((case.id, repr(turns)), as_trajectory(f"line {line} {side}", case, turns)).id
            for side, turns in (("chosen", row.chosen), ("rejected", row.rejected))
        )
        pair = PreferencePair(
            case_id=case.id,
            chosen=chosen,
            rejected=rejected,
            objectives=tuple(objectives),
            judge=JUDGE,
            gap=row.gap or 0.0,
        )
        kept.setdefault(pairs.setdefault((case.id, chosen, rejected), pair), row)
    return Preferences(
        pairs=tuple(pairs.values()),
        cases={case.id: case for case in cases.values()},
        trajectories={one.id: one for one in trajectories.values()},
        left_out={"rows that cannot be learnt from": rows.left_out, "equal rows": len(rows.read) - len(pairs)},
        contradictory=sum((case, rejected, chosen) in pairs for case, chosen, rejected in pairs),
        level=sum(row.gap == 0 for row in kept.values()),
        cut=sum(row.cut for row in kept.values()),
        first=rows.first,
    )


def _read_row(place: str, row: dict[str, Any]) -> _Row:
    if missing := [side for side in SIDES if not has(row, side)]:
        if len(missing) == 1:
            refuse_record(place, f"has no {missing[0]}", "give both sides")
        if has(row, "messages") or has(row, "completion"):
            refuse_record(place, "a row of chats", 'name the file as data of a stage with method "sft"')
        refuse_form(place, row, "chosen and rejected")
    if has(row, "chosen_tools") or has(row, "rejected_tools"):
        refuse_record(
            place, "gives tools to each side", "give tools to the row: sides of a pair are told apart by acts"
        )
    opening, chosen, rejected, cut = _split(place, row)
    for side, turns in zip(SIDES, (chosen, rejected), strict=True):
        _check_side(f"{place}: {side}", turns)
    if not any(turn.content.strip() or turn.tool_calls for turn in chosen if turn.role == "assistant"):
        refuse_record(f"{place}: chosen", "the agent says nothing, and calls nothing")
    check_system(place, row, opening)
    if chosen == rejected:
        refuse_record(place, "both sides are equal")
    return _Row(opening, chosen, rejected, read_tools(place, row), _read_gap(place, row), cut)


def _check_side(place: str, turns: Turns) -> None:
    if not turns or turns[0].role != "assistant":
        refuse_record(place, "does not begin with the agent's turn after the prompt")
    if turns[-1].role not in ("assistant", "tool"):
        refuse_record(place, f"ends in a turn of the {turns[-1].role}")
    if any((turn.detail or {}).get(UNCOUNTED) for turn in turns):
        refuse_record(place, "a turn has weight 0, and a side is learnt from as a whole", "take the weight out")


def _split(place: str, row: Mapping[str, Any]) -> tuple[Turns, Turns, Turns, bool]:
    """The prompt and the two sides without it, and whether it was cut from texts."""
    sides = [unfold(f"{place}: {side}", row[side]) for side in SIDES]
    texts = [one for one in sides if isinstance(one, str)]
    if len(texts) == 1:
        refuse_record(place, "one side is a text and the other is none", "write both in one form")
    if not texts:
        found = (read_turns(f"{place}: {side}", one, whole=False) for side, one in zip(SIDES, sides, strict=True))
        return *_split_turns(place, row, *map(tuple, found)), False
    if has(row, "prompt"):
        prompt = row["prompt"]
        if isinstance(prompt, str) and prompt.strip() and all(text.startswith(prompt) for text in texts):
            refuse_record(place, "both sides repeat the prompt", "leave it out of them, or leave out the key prompt")
        return read_prompt(place, prompt), _said(place, texts[0]), _said(place, texts[1]), False
    chosen, rejected = (read_transcript(f"{place}: {side}", one) for side, one in zip(SIDES, texts, strict=True))
    if chosen and rejected:
        return *_split_turns(place, row, chosen, rejected), False
    if has(row, "question") or has(row, "instruction") or has(row, "conversations"):
        refuse_form(place, row, "prompt")
    prompt = _common_text(*texts)
    if not prompt.strip():
        refuse_record(place, "there is no prompt, and the sides do not open alike", "give a prompt")
    cut = (_said(place, text[len(prompt) :]) for text in texts)
    return read_prompt(place, prompt), *cut, True  # type: ignore[return-value]


def _split_turns(place: str, row: Mapping[str, Any], chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """The prompt that a row gives or that both sides open with, and the sides without it."""
    if not has(row, "prompt"):
        alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
        if chosen == rejected:
            refuse_record(place, "both sides are equal")
        # A side begins with the agent's turn behind another's: where a tool's results differ, with the call; where one
        # side goes on behind the other's end, with the turn before.
        while alike and not (
            chosen[alike - 1].role != "assistant" and _speaks(chosen, alike) and _speaks(rejected, alike)
        ):
            alike -= 1
        if not alike and chosen[0] != rejected[0]:
            refuse_record(place, "there is no prompt, and the sides open differently", "give pairs of one prompt")
        if not alike:
            refuse_record(place, "a side does not begin with the agent's turn after the prompt")
        return chosen[:alike], chosen[alike:], rejected[alike:]
    opening = read_prompt(place, row["prompt"])
    repeated = [side[: len(opening)] == opening for side in (chosen, rejected)]
    if all(repeated):  # as some write it: both sides with the prompt before them
        return opening, chosen[len(opening) :], rejected[len(opening) :]
    if any(repeated) or any(side[0].role in ("user", "system") for side in (chosen, rejected)):
        refuse_record(place, "a side repeats another prompt than the row's", "give pairs of one prompt")
    return opening, chosen, rejected


def _speaks(turns: Turns, number: int) -> bool:
    return number < len(turns) and turns[number].role == "assistant"


def _said(place: str, text: str) -> Turns:
    if not text.strip():
        refuse_record(place, "a side is empty, or is where the other begins")
    return (Message(role="assistant", content=text),)


def _common_text(one: str, other: str) -> str:
    """How both texts begin, cut before the word in which they differ."""
    length = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    return one[: max(one.rfind(end, 0, length) + 1 for end in (" ", "\n"))] if length < len(one) else one[:length]


def _read_gap(place: str, row: Mapping[str, Any]) -> float | None:
    """By how much the chosen side is scored higher; None where no score is given."""
    given = [row.get(key) for key in _SCORES]
    if given == [None, None]:
        return None
    scores = [one for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(scores) < len(given):
        refuse_record(place, "a score of its sides is no number, or missing", "give both scores, or none")
    if scores[0] < scores[1]:
        refuse_record(place, "the chosen side has the lower score", "swap the sides")
    try:
        gap = float(scores[0]) - float(scores[1])
    except OverflowError:
        gap = math.inf
    if not math.isfinite(gap):
        refuse_record(place, "its scores are too far apart to be told", "give scores of one scale")
    return gap
