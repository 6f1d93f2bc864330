"""Files of preferences to train on, in TRL's forms: explicit and implicit prompts, conversational and plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from holdfast.exchange.datasets.chats import as_trajectory, read_prompt
from holdfast.exchange.datasets.rows import read_rows
from holdfast.exchange.datasets.turns import make_case, read_tools, read_turns
from holdfast.exchange.traces.records import refuse_record
from holdfast.records import Case, Message, PreferencePair, ToolSpec, Trajectory

SIDES = ("chosen", "rejected")
JUDGE = "file"  # of pairs that nobody here judged
_SCORES = ("score_chosen", "score_rejected")
Turns = tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """The pairs of a file, with their cases and trajectories by id, and what was left out for which reason.

    ``contradictory`` counts pairs that stand in the file the other way round too.
    """

    pairs: tuple[PreferencePair, ...]
    cases: Mapping[str, Case]
    trajectories: Mapping[str, Trajectory]
    left_out: Mapping[str, int]
    contradictory: int
    first: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    opening: Turns
    chosen: Turns
    rejected: Turns
    tools: tuple[ToolSpec, ...]
    gap: float


def read_preferences(path: Path, objectives: Sequence[str] = ()) -> Preferences:
    """The preference pairs of a file of JSON lines, a row each.

    A row has ``chosen`` and ``rejected``, each a list of messages or a text, and a ``prompt``, or its sides open alike;
    it may have ``tools``, and the scores of both sides, whose difference is the pair's gap. Equal rows are one pair;
    rows that open alike are of one case, and equal sides of it one trajectory. Errors: StudyError, naming the first
    row, where more than a twentieth cannot be learnt from.
    """
    rows = read_rows(path, _read_row)
    cases: dict[str, Case] = {}
    trajectories: dict[tuple[str, str], Trajectory] = {}
    pairs: dict[tuple[str, str, str], PreferencePair] = {}
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
            gap=row.gap,
        )
        pairs.setdefault((case.id, chosen, rejected), pair)
    return Preferences(
        pairs=tuple(pairs.values()),
        cases={case.id: case for case in cases.values()},
        trajectories={one.id: one for one in trajectories.values()},
        left_out={"rows that cannot be learnt from": rows.left_out, "equal rows": len(rows.read) - len(pairs)},
        contradictory=sum((case, rejected, chosen) in pairs for case, chosen, rejected in pairs),
        first=rows.first,
    )


def _read_row(place: str, row: dict[str, Any]) -> _Row:
    missing = [side for side in SIDES if side not in row]
    if missing:
        told = "a row of chats" if "messages" in row or "completion" in row else f"has no {missing[0]}"
        remedy = 'name the file as data of a stage with method "sft"' if "chats" in told else "give both sides"
        refuse_record(place, told, remedy)
    opening, chosen, rejected = _split(place, row)
    for side, turns in zip(SIDES, (chosen, rejected), strict=True):
        if not turns or turns[0].role != "assistant":
            refuse_record(f"{place}: {side}", "does not begin with the agent's turn after the prompt")
        if turns[-1].role not in ("assistant", "tool"):
            refuse_record(f"{place}: {side}", f"ends in a turn of the {turns[-1].role}")
    if chosen == rejected:
        refuse_record(place, "both sides are equal")
    return _Row(opening, chosen, rejected, read_tools(place, row), _read_gap(place, row))


def _split(place: str, row: Mapping[str, Any]) -> tuple[Turns, Turns, Turns]:
    """The prompt and the two sides without it."""
    sides = [row[side] for side in SIDES]
    if any(isinstance(one, str) for one in sides) and not all(isinstance(one, str) for one in sides):
        refuse_record(place, "one side is a text and the other is none", "write both in one form")
    if isinstance(sides[0], str):
        prompt = row.get("prompt")
        if prompt is None:
            prompt = _common_text(*sides)
            sides = [one[len(prompt) :] for one in sides]
            if not prompt.strip():
                refuse_record(place, "there is no prompt, and the sides do not open alike", "give a prompt")
        return read_prompt(place, prompt), *((_said(place, one),) for one in sides)  # type: ignore[return-value]
    chosen, rejected = (
        tuple(read_turns(f"{place}: {side}", one, whole=False)) for side, one in zip(SIDES, sides, strict=True)
    )
    if row.get("prompt") is None:
        alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
        # A side begins with a turn of the agent's: where a tool's results differ, with the call.
        while 0 < alike < min(len(chosen), len(rejected)) and chosen[alike].role == "tool":
            alike -= 1
        if not alike:
            refuse_record(place, "there is no prompt, and the sides open differently", "give pairs of one prompt")
        return chosen[:alike], chosen[alike:], rejected[alike:]
    opening = read_prompt(place, row["prompt"])
    repeated = [side[: len(opening)] == opening for side in (chosen, rejected)]
    if all(repeated):  # as some write it: both sides with the prompt before them
        return opening, chosen[len(opening) :], rejected[len(opening) :]
    if any(repeated) or any(side[0].role in ("user", "system") for side in (chosen, rejected)):
        refuse_record(place, "a side repeats another prompt than the row's", "give pairs of one prompt")
    return opening, chosen, rejected


def _said(place: str, text: str) -> Message:
    if not text.strip():
        refuse_record(place, "a side is empty, or is where the other begins")
    return Message(role="assistant", content=text)


def _common_text(one: str, other: str) -> str:
    """How both texts begin, cut before the word in which they differ."""
    length = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    return one[: max(one.rfind(end, 0, length) + 1 for end in (" ", "\n"))] if length < len(one) else one[:length]


def _read_gap(place: str, row: Mapping[str, Any]) -> float:
    """By how much the chosen side is scored higher, 0 where no score is given."""
    given = [row.get(key) for key in _SCORES]
    if given == [None, None]:
        return 0.0
    scores = [one for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(scores) < len(given):
        refuse_record(place, "a score of its sides is no number, or missing", "give both scores, or none")
    if scores[0] < scores[1]:
        refuse_record(place, "the chosen side has the lower score", "swap the sides")
    return float(scores[0] - scores[1])
