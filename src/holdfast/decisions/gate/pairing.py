"""Two sides, case by case: refused where they are not comparable, else aligned in an order that no score decides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from holdfast.analysis.panel import require_same_cases
from holdfast.decisions.gate.absent import fill_absent, find_lost
from holdfast.decisions.gate.declared import require_same_declarations
from holdfast.decisions.gate.sides import Side
from holdfast.records import content_id
from holdfast.records.arrays import Bools, Floats
from holdfast.records.errors import StudyError
from holdfast.stats.bounded import cluster_means, order_cases
from holdfast.study.rules import CheckKind
from holdfast.study.sections import OBJECTIVES
from holdfast.study.study import changed_keys

NAMED_SETTINGS = 3
SETTING_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One metric of one side by case: arrays in the order of the cases.

    ``mean`` is over what has a value, NaN where nothing has. ``low`` and ``high`` are the means with everything that is
    missing at the metric's least and at its largest value, NaN in a case that the metric is not due of. A metric is due
    of every rollout of a case of which either side was asked for it. ``events`` says in which cases any rollout is
    above 0, and ``lost`` is how many rollouts lack a value or a part of their readings.
    """

    mean: Floats
    low: Floats
    high: Floats
    events: Bools
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Two sides on the same cases: a ``Reading`` of each metric, by the name of its check.

    ``met`` is how many of the cases both have an episode of, ``absent`` how many of each side's rollouts are not there,
    and ``broken`` says of which sides the logs are not whole.
    """

    cases: tuple[str, ...]
    families: tuple[str, ...]
    parent: Mapping[str, Reading]
    child: Mapping[str, Reading]
    rollouts: Mapping[str, int]
    scored: Mapping[str, int]
    met: int = 0
    absent: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The id of what was compared: every case with its means on both sides, and with what is missing."""
        whole = hashlib.sha256(content_id("gate data", self.cases).encode())
        for side in (self.parent, self.child):
            for name, reading in sorted(side.items()):
                for values in (reading.mean, reading.low, reading.high):
                    # Rounded, so that the order of a sum leaves no trace; no mean is below 0.
                    whole.update(
                        name.encode() + np.where(np.isnan(values), -1.0, np.round(values, 9)).astype("<f8").tobytes()
                    )
        return whole.hexdigest()[:32]


def pair_sides(parent: Side, child: Side, *, most: int | None = None, incomplete: str = "count") -> Pairing:
    """The two sides aligned by case, ``most`` of them at most: the first by the digest of their ids.

    ``incomplete`` says what becomes of what their logs lack, as in the rules. Errors: StudyError where they are the
    same episodes, or not comparable: the difference is named.
    """
    parent, child = fill_absent(parent, child, incomplete)
    require_comparable(parent, child)
    names = order_cases(parent.cases)[:most]
    families = dict(zip(parent.cases, parent.families, strict=True))
    due = {metric: parent.asked_cases(metric) | child.asked_cases(metric) for metric in parent.measured}
    found = [{kind.name: _read(side, kind, names, due[kind.name]) for kind in side.kinds} for side in (parent, child)]
    kept = set(names)
    counts = [_count(side, kept, due) for side in (parent, child)]
    return Pairing(
        cases=tuple(names),
        families=tuple(families[name] for name in names),
        parent=found[0],
        child=found[1],
        rollouts={"parent": counts[0][0], "child": counts[1][0]},
        scored={"parent": counts[0][1], "child": counts[1][1]},
        met=len(kept & parent.met & child.met),
        absent={"parent": _count_absent(parent, kept), "child": _count_absent(child, kept)},
        broken=tuple(
            word for word, side in (("parent", parent), ("child", child)) if side.gaps.broken and incomplete == "count"
        ),
    )


def _read(side: Side, kind: CheckKind, names: Sequence[str], due: set[str]) -> Reading:
    """What a check reads of a side in these cases; it is due of those in ``due``."""
    metric = kind.name
    places = side.places
    order = np.array([places[name] for name in names], dtype=np.int64)
    asked = np.array([name in due for name in names], dtype=np.bool_)
    low, high = (np.where(asked, side.filled_means(metric, end)[order], np.nan) for end in kind.span)
    inside = np.zeros(len(side.cases), dtype=np.bool_)
    inside[order[asked]] = True
    above = side.case[np.nan_to_num(side.measured[metric].value) > 0]
    return Reading(
        mean=np.where(asked, side.case_means(metric)[order], np.nan),
        low=low,
        high=high,
        events=np.isin(order, above) & asked,
        lost=int((side.lost(metric)[inside[side.case]] > 0).sum()),
    )


def _count_absent(side: Side, kept: set[str]) -> int:
    """How many of a side's rollouts in these cases are not there."""
    return sum(side.cases[place] in kept for place in side.case[len(side.trajectories) :])


def average_families(values: Sequence[Floats], names: Sequence[str]) -> list[Floats]:
    """The mean of each family, in the order of the digests of the families' names."""
    # Not as they are met: the first case of a family depends on which cases have scores.
    rank = {name: place for place, name in enumerate(order_cases(sorted(set(names))))}
    order = sorted(range(len(names)), key=lambda index: rank[names[index]])
    ordered = [names[index] for index in order]
    return [cluster_means(one[order], ordered) for one in values]


def _count(side: Side, kept: set[str], due: Mapping[str, set[str]]) -> tuple[int, int]:
    """How many rollouts a side has in these cases, and how many of them have every score that is due of them."""
    inside = np.array([name in kept for name in side.cases], dtype=np.bool_)[side.case]
    there = np.ones(side.rollouts, dtype=np.bool_)
    for objective in OBJECTIVES:
        asked = np.array([name in due[objective] for name in side.cases], dtype=np.bool_)[side.case]
        there &= np.isfinite(side.measured[objective].value) | ~asked
    return int(inside.sum()), int((inside & there).sum())


class Comparing(NamedTuple):
    """What the two sides of a comparison are called, what to do where they are one, and whether settings must agree."""

    words: tuple[str, str]
    remedy: str
    settings: bool


GATE = Comparing(("parent", "child"), "name two others, or roll the child out anew with --again", True)
# A watch holds what is deployed against its baseline, whatever it was deployed with.
WATCH = Comparing(("baseline", "look"), "watch other checkpoints", False)


def require_comparable(first: Side, second: Side, how: Comparing = GATE) -> None:
    """Refuse two sides that are the same episodes, or that differ in more than the weights. Errors: StudyError.

    A case that one of them lacks because its logs broke off is none that differs.
    """
    names = f"{first.name} and {second.name}"
    if set(first.trajectories) & set(second.trajectories):
        raise StudyError(f"{names}: both sides are the same episodes, which says nothing; {how.remedy}")
    require_same_cases(
        set(first.cases) - find_lost(second, first).keys(),
        set(second.cases) - find_lost(first, second).keys(),
        names=(first.name, second.name),
        words=how.words,
        labels={name: label for side in (second, first) for name, label in zip(side.cases, side.labels, strict=True)},
    )
    require_same_declarations(first.declared, second.declared, names, how.words)
    for objective in sorted({*first.rubrics, *second.rubrics}):
        one, other = first.rubrics.get(objective), second.rubrics.get(objective)
        if one != other and one is not None and other is not None:
            # What made the rubric differ, such as the judge's model, says more than its id.
            _require_same_settings(first, second)
            raise StudyError(
                f"{names}: not comparable: {objective} was scored under rubric {one[:8]} for the {how.words[0]} and"
                f" {other[:8]} for the {how.words[1]}; judge both sides under one rubric"
            )
    if how.settings:
        _require_same_settings(first, second)


def _require_same_settings(parent: Side, child: Side) -> None:
    if parent.settings is None or child.settings is None or parent.settings is child.settings:
        return
    first, second = _decisive(parent), _decisive(child)
    shared = {key for key in first if key in second}
    changes = changed_keys({key: first[key] for key in shared}, {key: second[key] for key in shared})
    if changes:
        raise StudyError(
            f"{parent.name} and {child.name}: not comparable:"
            f" {'; '.join(shorten(one) for one in changes[:NAMED_SETTINGS])}"
            " (parent → child); evaluate and judge both under the same settings"
        )


def shorten(change: str) -> str:
    """A changed key with both values, which may be whole prompts, in few characters."""
    return change if len(change) <= SETTING_LENGTH else f"{change[:SETTING_LENGTH]}…"


def _decisive(side: Side) -> Mapping[str, Any]:
    """The settings that decided a side's episodes and scores, each key that may be compared at the top."""
    settings = dict(side.settings or {})
    judges, served = settings.pop("judges", {}), settings.pop("served", {})
    mine = {name: section for name, section in judges.items() if name in side.judges}
    spoke = {section.get("model") for section in mine.values()} | {settings.get("world", {}).get("model")}
    opened = {(one.get("opened") or {}).get("name") for one in (*mine.values(), settings.get("world", {}))}
    snapshots = {
        f"served for {name}": models
        for name, models in served.items()
        if models and name.partition(" ")[2] in (spoke | opened) - {None}
    }
    return {**settings, **{f"judges.{name}": section for name, section in mine.items()}, **snapshots}
