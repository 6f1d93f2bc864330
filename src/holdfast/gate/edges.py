"""Every comparison that a run calls for: a trained checkpoint with its base, a later stage with the one before, a merge
with the two that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.analysis.design import DOSE
from holdfast.analysis.panel import count_of
from holdfast.conditions import GateSection
from holdfast.errors import StudyError
from holdfast.exchange.scales import ScoreOption
from holdfast.gate.books import Book
from holdfast.gate.checks import Bounds
from holdfast.gate.choosing import is_base_of, select
from holdfast.gate.verdicts import Place, conclude, match_sides, pair_judge_of
from holdfast.records import Checkpoint, Verdict

MERGED, SHARE = "of", "share"  # of a merge: the lineages among its settings, and the axis of the second one's weight
Edge = tuple[Checkpoint, Checkpoint]  # parent, child


def find_edges(book: Book, where: Mapping[str, str]) -> tuple[list[Edge], int]:
    """The parents and children of a run that were rolled out, and how many children were left out.

    Every trained checkpoint stands against its base, one of several stages against that which it started from, and a
    merge against the two that it is made of.
    """
    met = {book.checkpoints[index].id for index in np.unique(book.trajectories.checkpoint)}
    known = {one.id: one for one in book.checkpoints}
    edges: list[Edge] = []
    left_out = 0
    for child in select(book, where):
        if not child.stages:
            continue
        parents = [one for one in book.checkpoints if is_base_of(one, child)]
        if len(child.stages) > 1 and child.parent_id in known:
            parents.append(known[child.parent_id])
        parents += find_merged(book, child)
        there = [parent for parent in parents if {parent.id, child.id} <= met]
        left_out += not there
        edges += [(parent, child) for parent in there]
    return edges, left_out


def find_merged(book: Book, merge: Checkpoint) -> list[Checkpoint]:
    """The checkpoints that a merge is made of, as far as they are in the run; none for what is no merge."""
    of = merge.stages[-1].settings.get(MERGED, ()) if merge.stages else ()
    found = []
    for lineage in of if isinstance(of, list | tuple) else ():
        same = [
            one
            for one in book.checkpoints
            if list(one.lineage) == list(lineage) and _recipe(one) == _recipe(merge) and one.id != merge.id
        ]
        # A merge takes every lineage at its first dose.
        same.sort(key=lambda one: (one.id != merge.parent_id, float(one.axes.get(DOSE, 1))))
        found += same[:1]
    return found


def _recipe(one: Checkpoint) -> tuple[Any, ...]:
    """Base, seeds and axes, without those that tell checkpoints of one training apart."""
    return (one.base, one.split_seed, one.train_seed, {k: v for k, v in one.axes.items() if k not in (DOSE, SHARE)})


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
    """A verdict for every edge of a run, under the declared judge or else the one that made the child's training pairs.

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
            f"{count_of(left_out, 'checkpoints')} left out: not rolled out on held-out cases, or without a parent here"
        )
    declared = judge or rules.judge
    matches = [
        match_sides(
            Place(book, parent),
            Place(book, child),
            rules,
            judge=declared or pair_judge_of(book, child),
            scores=scores,
            most_cases=most_cases,
        )
        for parent, child in edges
    ]
    bounds = Bounds(rules=rules)
    return [conclude(match, bounds) for match in matches]
