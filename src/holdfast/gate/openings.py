"""Whether both sides met their cases with the same words: system messages, requests and tools before the agent speaks.

Cases pair by task, sample and input. A system message that holds the date makes no other case of them; what else
differs is another experiment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.analysis.panel import count_of
from holdfast.errors import StudyError
from holdfast.gate.books import Book
from holdfast.gate.sides import Side
from holdfast.records import Case, Ending, Message
from holdfast.store import Store

CONTEXT, SHOWN = 24, 60  # characters before the first difference, and in all
_NAMES = (
    "january|february|march|april|june|july|august|september|october|november|december"
    "|jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec"
    "|(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tues?|wed|thur?s?|fri|sat|sun"
    "|am|pm|utc|gmt|[cew]es?t|[ecmp][sd]t"
)
# What changes from day to day: whatever holds a digit (dates, times, ids), months, weekdays, halves of a day, zones.
_PASSING = re.compile(rf"[\w.:/+\-]*\d[\w.:/+\-]*|\b(?:{_NAMES})\b\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How one side met its cases: the opening that its run holds, and by case what of its episodes is noted.

    ``noted`` is the first difference of an episode's opening from the run's, as the import noted it; ``failed`` are
    cases of which no episode came as far as the agent's first words, so that their opening is not known in full.
    """

    cases: Mapping[str, Case]
    noted: Mapping[str, str]
    failed: frozenset[str]
    tools_known: bool


def compare_openings(books: tuple[Book, Book], sides: tuple[Side, Side], accepted: str) -> tuple[str, ...]:
    """What must be told of openings that differ between the sides; nothing where none does.

    ``accepted`` is the rules' ``openings``: "any" accepts every difference. Errors: StudyError where one is more than
    dates, times and numbers, with the first difference.
    """
    differing = dict(_find_differing(*(read_openings(*both) for both in zip(books, sides, strict=True))))
    if not differing:
        return ()
    real = {case: both for case, both in differing.items() if mask(both[0]) != mask(both[1])}
    case, both = next(iter((real or differing).items()))
    first, second = show_difference(*both)
    label = sides[0].labels[sides[0].places[case]] if case in sides[0].places else case[:12]
    shown = f"(first: sample {label}: {first!r} for the parent, {second!r} for the child)"
    if real and accepted != "any":
        raise StudyError(
            f"{sides[0].name} and {sides[1].name}: not comparable: {count_of(len(real), 'cases')} open with other words"
            f" or tools {shown}; evaluate both with the same opening, or accept it with --accept-openings"
        )
    kind = "other words or tools, as accepted" if real else "another date, time or number"
    return (f"{count_of(len(real or differing), 'cases')} open with {kind} {shown}",)


def read_openings(book: Book, side: Side) -> Opened:
    """How a side met its cases. Only episodes that came with logs are read again: all others open as their case."""
    cases = {name: book.cases[name] for name in side.cases if name in book.cases}
    rows = np.isin(np.array(book.trajectory_ids, dtype=object), list(side.trajectories))
    called = bool((book.trajectories.calls[rows] + book.trajectories.invalid_calls[rows]).any())
    noted: dict[str, str] = {}
    failed: dict[str, bool] = {}
    if book.logs:
        with Store(book.path) as store:
            for one in store.trajectories(side.trajectories):
                opening = (one.detail or {}).get("opening")
                if opening:
                    noted.setdefault(one.case_id, str(opening))
                spoke = any(message.role == "assistant" for message in one.messages)
                failed[one.case_id] = failed.get(one.case_id, True) and one.ending is Ending.ERROR and not spoke
    return Opened(
        cases=cases,
        noted=noted,
        failed=frozenset(name for name, silent in failed.items() if silent),
        # A log without events does not say which tools there were.
        tools_known=any(case.tools for case in cases.values()) or not called,
    )


def _find_differing(parent: Opened, child: Opened) -> Iterator[tuple[str, tuple[str, str]]]:
    """Cases whose openings differ, with both as texts."""
    with_tools = parent.tools_known and child.tools_known
    for name, case in parent.cases.items():
        other = child.cases.get(name)
        if other is None or name in parent.failed | child.failed:
            continue
        texts = write_opening(case, with_tools=with_tools), write_opening(other, with_tools=with_tools)
        if texts[0] == texts[1] and parent.noted.get(name) != child.noted.get(name):
            texts = parent.noted.get(name, ""), child.noted.get(name, "")
        if texts[0] != texts[1]:
            yield name, texts


def write_opening(case: Case, *, with_tools: bool = True) -> str:
    """What an agent was shown before it spoke, as one text."""
    lines = [_write_message(one) for one in case.messages]
    if with_tools:
        tools = sorted(case.tools, key=lambda one: one.name)
        lines += [f"tool {one.name}: {one.description} {_compact(one.parameters)}" for one in tools]
    return "\n".join(lines)


def _write_message(message: Message) -> str:
    calls = "".join(f" {call.name}({_compact(call.arguments)})" for call in message.tool_calls)
    return f"{message.role}: {message.content}{calls}"


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict)


def mask(text: str) -> str:
    """A text with every date, time, number and id as one sign, and white space as one blank."""
    return " ".join(_PASSING.sub("#", text).split())


def show_difference(first: str, second: str) -> tuple[str, str]:
    """Both texts around the first place at which they differ."""
    same = next(
        (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )
    start = max(same - CONTEXT, 0)
    return first[start : start + SHOWN], second[start : start + SHOWN]
