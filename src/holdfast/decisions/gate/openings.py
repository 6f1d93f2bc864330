"""Whether both sides met their cases with the same words: system messages, requests and tools before the agent speaks.

Cases pair by task, sample and input. A system message that holds the date makes no other case of them; what else
differs is another experiment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.sides import Side
from holdfast.exchange.openings import digest_opening, first_difference, first_difference_of_tools
from holdfast.records import Case, Ending
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How one side met its cases: the opening that its run holds, and what an import noted of its episodes.

    ``noted`` has the first difference of an episode's opening from the run's and ``digests`` the openings' own digests,
    by case; ``failed`` are cases of which no episode came as far as the agent's first words, so that their opening is
    not known in full.
    """

    cases: Mapping[str, Case]
    noted: Mapping[str, str]
    digests: Mapping[str, frozenset[str]]
    failed: frozenset[str]
    tools_known: bool


class Difference(NamedTuple):
    """How the openings of one case differ: the first difference in words, and whether it is more than dates."""

    case: str
    told: str
    real: bool


def compare_openings(books: tuple[Book, Book], sides: tuple[Side, Side], accepted: str) -> tuple[str, ...]:
    """What must be told of openings that differ between the sides; nothing where none does.

    ``accepted`` is the rules' ``openings``: "any" accepts every difference. Errors: StudyError where one is more than
    dates, times and numbers, with the first difference.
    """
    differing = list(_find_differing(*(read_openings(*both) for both in zip(books, sides, strict=True))))
    if not differing:
        return ()
    real = [one for one in differing if one.real]
    first = (real or differing)[0]
    label = sides[1].labels[sides[1].places[first.case]]
    shown = f"(child against parent, first: sample {label}: {first.told})"
    if real and accepted != "any":
        raise StudyError(
            f"{sides[0].name} and {sides[1].name}: not comparable: {count_noun(len(real), 'cases')} open with other"
            f" words or tools {shown}; evaluate both with the same opening, or accept it with --accept-openings"
        )
    kind = "other words or tools, as accepted" if real else "another date, time, number or id"
    return (f"{count_noun(len(real or differing), 'cases')} open with {kind} {shown}",)


def read_openings(book: Book, side: Side) -> Opened:
    """How a side met its cases. Only episodes that came with logs are read again: all others open as their case."""
    cases = {name: book.cases[name] for name in side.cases if name in book.cases}
    mine = set(side.trajectories)
    rows = np.array([name in mine for name in book.trajectory_ids], dtype=np.bool_)
    called = bool((book.cells.episodes.calls[rows] + book.cells.episodes.invalid_calls[rows]).any())
    noted: dict[str, str] = {}
    digests: dict[str, set[str]] = {}
    met: set[str] = set()
    if book.logs:
        with Store(book.path) as store:
            for one in store.trajectories(side.trajectories):
                detail = one.detail or {}
                if difference := detail.get("opening"):
                    noted.setdefault(one.case_id, str(difference))
                said = one.ending is not Ending.ERROR or any(message.role == "assistant" for message in one.messages)
                met.add(one.case_id)
                if said:
                    opening = cases[one.case_id].messages if one.case_id in cases else ()
                    own = str(detail.get("opening_digest") or digest_opening(opening))
                    digests.setdefault(one.case_id, set()).add(own)
    return Opened(
        cases=cases,
        noted=noted,
        digests={name: frozenset(found) for name, found in digests.items()},
        failed=frozenset(met - digests.keys()),
        # A log without events does not say which tools there were.
        tools_known=any(case.tools for case in cases.values()) or not called,
    )


def _find_differing(parent: Opened, child: Opened) -> Iterator[Difference]:
    with_tools = parent.tools_known and child.tools_known
    for name, before in parent.cases.items():
        after = child.cases.get(name)
        if after is None or name in parent.failed | child.failed:
            continue
        told = first_difference(after.messages, before.messages) or child.noted.get(name) or parent.noted.get(name)
        if told is not None and (parent.noted.get(name) != child.noted.get(name) or after.messages != before.messages):
            mine, theirs = (
                one.digests.get(name) or frozenset({digest_opening(case.messages)})
                for one, case in ((parent, before), (child, after))
            )
            yield Difference(name, told, real=mine != theirs)
        elif with_tools and (tools := first_difference_of_tools(after.tools, before.tools)) is not None:
            yield Difference(name, tools, real=digest_opening((), after.tools) != digest_opening((), before.tools))
