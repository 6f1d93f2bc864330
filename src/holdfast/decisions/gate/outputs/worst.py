"""Where a child lost most: the cases behind a verdict, with what either side did in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdfast.decisions.gate.sides import Side
from holdfast.decisions.gate.verdicts import Match
from holdfast.records import Case, Score, Trajectory, Verdict
from holdfast.store import Store

MOST_CASES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One side's trajectory in a case and everybody's scores of it."""

    trajectory: Trajectory
    scores: Sequence[Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCase:
    """A case in which the child's mean of ``metric`` is worse than the parent's, and an episode of each side.

    ``parent`` and ``child`` are the means over rollouts; the episodes are the parent's best and the child's worst.
    """

    case: Case
    label: str
    metric: str
    parent: float
    child: float
    episodes: tuple[Episode, Episode]


def leading_metric(verdict: Verdict) -> str:
    """The check that a verdict rests on first, of those that compare cases; safety where none does."""
    compared = [one for one in verdict.checks if one.change is not None]
    blocking = [one for one in compared if one.blocking and one.outcome is verdict.outcome]
    return next((one.metric for one in blocking), "safety")


def find_worst(match: Match, metric: str, most: int = MOST_CASES) -> tuple[list[LostCase], int]:
    """The cases in which most of a metric was lost, worst first, and in how many cases any was.

    Cases count in which both sides have a value.
    """
    sign = 1.0 if next(kind.worse for kind in match.sides[1].kinds if kind.name == metric) == "lower" else -1.0
    parent, child = (side[metric].mean for side in (match.pairing.parent, match.pairing.child))
    loss = np.nan_to_num(sign * (parent - child))
    order = [place for place in np.argsort(-loss, kind="stable") if loss[place] > 0]
    chosen = order[:most]
    names = [match.pairing.cases[place] for place in chosen]
    labels = dict(zip(match.sides[1].cases, match.sides[1].labels, strict=True))
    episodes = [
        _read(place.book.path, [_pick(side, name, metric, best) for name in names])
        for place, side, best in zip(match.places, match.sides, (sign, -sign), strict=True)
    ]
    cases = match.places[1].book.cases
    found = [
        LostCase(
            case=cases[name],
            label=labels.get(name, name[:12]),
            metric=metric,
            parent=float(parent[place]),
            child=float(child[place]),
            episodes=pair,
        )
        for place, name, pair in zip(chosen, names, zip(*episodes, strict=True), strict=True)
    ]
    return found, len(order)


def _pick(side: Side, case: str, metric: str, sign: float) -> str:
    """The trajectory with the largest ``sign`` times a metric, of a side's rollouts in a case."""
    mine = np.flatnonzero(side.case[: len(side.trajectories)] == side.places[case])
    value = side.measured[metric].value[mine]
    values = np.where(np.isfinite(value), sign * value, -np.inf)
    return side.trajectories[int(mine[np.argmax(values)])]


def _read(path: Path, ids: Sequence[str]) -> list[Episode]:
    with Store(path, check=False) as store:  # held against its digests when the book was read
        pairs = zip(store.trajectories(ids), store.scores_of(ids), strict=True)
        return [Episode(trajectory=one, scores=tuple(scores)) for one, scores in pairs]
