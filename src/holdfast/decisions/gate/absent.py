"""Episodes that are not there: what logs were to hold and do not, counted as rollouts without a score.

Whoever breaks off early loses the episodes that take longest, and these are no random ones. An absent rollout is
therefore due and unscored as any other without a score, in the coverage and in the worst case of every check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from holdfast.decisions.gate.logs import describe_log
from holdfast.decisions.gate.sides import Side
from holdfast.records.errors import StudyError

ABSENT = "absent sample "  # the beginning of the id of a case that no log has an episode of


def fill_absent(parent: Side, child: Side, how: str) -> tuple[Side, Side]:
    """Both sides with every rollout that is due of them, those that are not there without any value.

    A run without logs has as many rollouts of a case as its study says, else as its parent has. ``how`` is the rules'
    ``incomplete``: with "accept" nothing is added, and cases that one side's logs lack are left out of both. Errors:
    StudyError with "refuse" where a log is not whole.
    """
    if how == "refuse":
        for side, word in ((parent, "parent"), (child, "child")):
            if side.gaps.broken:
                raise StudyError(
                    f"{parent.name} and {child.name}: {describe_log(side.gaps.broken[0], word)}; finish the evaluation"
                    " (`inspect eval-retry`), or compare with --incomplete count or accept"
                )
    lost = [find_lost(side, other) for side, other in ((parent, child), (child, parent))]
    if how == "accept":
        return _keep(parent, set(parent.cases) - lost[1].keys()), _keep(child, set(child.cases) - lost[0].keys())
    own = dict(zip(parent.cases, np.bincount(parent.case, minlength=len(parent.cases)).tolist(), strict=True))
    parent, child = _add_nowhere(_add(parent, lost[0], child), _add(child, lost[1], parent), lost)
    return _fill(parent, {}), _fill(child, own)


def find_lost(side: Side, other: Side) -> dict[str, int]:
    """Cases of the other side that this one's logs were to hold, with the rollouts that each lacks."""
    places = side.places
    missing = [(name, label) for name, label in zip(other.cases, other.labels, strict=True) if name not in places]
    found = {name: side.gaps.samples[label] for name, label in missing if label in side.gaps.samples}
    rest = [name for name, _ in missing if name not in found]
    if rest and len(rest) <= len(side.gaps.unnamed):
        found |= dict(zip(rest, side.gaps.unnamed, strict=False))
    return found


def _add(side: Side, lost: Mapping[str, int], other: Side) -> Side:
    """A side with cases of the other that it has no episode of."""
    places = other.places
    added = [(other.cases[places[name]], other.families[places[name]], other.labels[places[name]]) for name in lost]
    return side.extend(added, list(lost.values()))


def _add_nowhere(parent: Side, child: Side, lost: Sequence[Mapping[str, int]]) -> tuple[Side, Side]:
    """Both sides with the samples that neither has an episode of."""
    sides = (parent, child)
    known = {*parent.labels, *child.labels}
    named: dict[str, int] = {}
    for side in sides:
        named |= {name: epochs for name, epochs in side.gaps.samples.items() if name not in known}
    unnamed: list[int] = []
    for side, found in zip(sides, lost, strict=True):
        used = sum(side.labels[side.places[name]] not in side.gaps.samples for name in found)
        left = list(side.gaps.unnamed[used:])
        unnamed = max(unnamed, left, key=len)
    named |= {f"#{number}": epochs for number, epochs in enumerate(unnamed, 1)}
    family = parent.families[0] if parent.families else ""
    cases = [(f"{ABSENT}{name}", family, name) for name in sorted(named)]
    counts = [named[name] for _, _, name in cases]
    return parent.extend(cases, counts), child.extend(cases, counts)


def _fill(side: Side, other: Mapping[str, int]) -> Side:
    """A side with the absent rollouts of cases that it has some of. ``other`` has the parent's count by case."""
    there = np.bincount(side.case, minlength=len(side.cases)).tolist()
    absent = np.zeros(len(side.cases), dtype=np.int64)
    for place, name in enumerate(side.cases):
        if name.startswith(ABSENT):
            continue
        if side.gaps.logged:
            absent[place] = side.gaps.short.get(name, 0)
        else:
            absent[place] = max((side.expected or other.get(name, 0)) - there[place], 0)
    return side.lengthen(absent)


def _keep(side: Side, names: set[str]) -> Side:
    """A side of some of its cases."""
    if names >= set(side.cases):
        return side
    kept = [place for place, name in enumerate(side.cases) if name in names]
    place = np.full(len(side.cases), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    rows = np.flatnonzero(place[side.case] >= 0)
    return replace(
        side,
        cases=tuple(side.cases[one] for one in kept),
        families=tuple(side.families[one] for one in kept),
        labels=tuple(side.labels[one] for one in kept),
        case=place[side.case[rows]],
        trajectories=tuple(side.trajectories[one] for one in rows),
        measured={name: one.at(rows) for name, one in side.measured.items()},
    )
