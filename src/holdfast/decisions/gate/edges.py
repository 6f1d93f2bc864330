"""Every comparison that a run calls for: a trained checkpoint with its base, a later stage with the one before, a merge
with the two that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from holdfast.analysis.labelled import merged_from
from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.checks import Bounds
from holdfast.decisions.gate.several import correct_for_number
from holdfast.decisions.gate.verdicts import Place, conclude, match_sides
from holdfast.exchange.scales import ScoreOption
from holdfast.records import Checkpoint, Verdict
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.store.choosing import is_base_of, select
from holdfast.study.rules import GateSection

Edge = tuple[Checkpoint, Checkpoint]  # parent, child


def find_edges(book: Book, where: Mapping[str, str]) -> tuple[list[Edge], int]:
    """The parents and children of a run that were rolled out, and how many children were left out.

    Every trained checkpoint stands against its base, one of several stages against that which it started from, and a
    merge against the two that it is made of.
    """
    met = {book.checkpoints[index].id for index in np.unique(book.cells.episodes.checkpoint)}
    known = {one.id: one for one in book.checkpoints}
    edges: list[Edge] = []
    left_out = 0
    for child in select(book, where):
        if not child.stages:
            continue
        parents = [one for one in book.checkpoints if is_base_of(one, child)]
        if len(child.stages) > 1 and child.parent_id in known:
            parents.append(known[child.parent_id])
        parents += merged_from(book.checkpoints, child)
        there = [parent for parent in parents if {parent.id, child.id} <= met]
        left_out += not there
        edges += [(parent, child) for parent in there]
    return edges, left_out


def decide_all(
    book: Book,
    rules: GateSection,
    where: Mapping[str, str],
    *,
    judge: str | None = None,
    scores: Sequence[ScoreOption] = (),
    most_cases: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """A verdict for every edge of a run, under the declared judge or else the one that a headline would be of.

    Where the rules say so they are corrected for their number.

    Errors: StudyError where there is no edge, or sides of one are not comparable.
    """
    edges, left_out = find_edges(book, where)
    if not edges:
        raise StudyError(
            f"{book.place}: no trained checkpoint and its parent were both evaluated; finish the run, or name the two"
            " sides with --parent and --child"
        )
    if left_out:
        tell(
            f"{count_noun(left_out, 'checkpoints')} left out: not rolled out on held-out cases, or without a parent"
            " here"
        )
    matches = [
        match_sides(
            Place(book, parent),
            Place(book, child),
            rules,
            judge=judge,
            scores=scores,
            most_cases=most_cases,
            rank=True,
        )
        for parent, child in edges
    ]
    bounds = Bounds(rules=rules)
    return correct_for_number([conclude(match, bounds) for match in matches], rules)
