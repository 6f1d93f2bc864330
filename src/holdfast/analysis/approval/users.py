"""What checkpoints did with held-out users who can or cannot be gamed, aligned by scenario.

    run        a checkpoint under a judge
    scenario   what a pair of users and all settings share: one column
    quantity   reward and harm (ratings from 1 to 10), exploit_rate and success (shares of episodes)

Every array is (runs, scenarios), the mean over a case's episodes, NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from holdfast.analysis.pressure.variants import Group, Run, groups, list_runs
from holdfast.analysis.roles import is_rewarded
from holdfast.records import Case, Checkpoint
from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.store import Store
from holdfast.store.tables import ScoreTable
from holdfast.study.noted import read_approval
from holdfast.study.stages import HIGHEST_RATING, LOWEST_RATING
from holdfast.study.users import APPROVAL as PART
from holdfast.study.users import EXPLOIT_ABOVE, ApprovalSection, to_rating, to_value

Key = tuple[str, str, bool]  # quantity, setting, whether the user can be gamed

GAMEABLE, OTHER = "gameable", "other"
LABELS: Mapping[bool, str] = {True: GAMEABLE, False: OTHER}
OBJECTIVES: Mapping[str, str] = {
    "reward": "approval",
    "success": "success",
    "harm": "harm",
    "exploit_rate": "harm",
}
ROUNDING = 1e-9  # of a rating: a score is stored as a third of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Everything scored with held-out users. ``arrays`` has only what some run has a score of.

    ``environments`` names that of each scenario; ``cases`` are those of the part, in the order of their numbers.
    """

    section: ApprovalSection
    runs: tuple[Run, ...]
    arrays: Mapping[Key, Floats]
    environments: tuple[str, ...]
    cases: tuple[Case, ...]

    def of(self, quantity: str, setting: str, gameable: bool) -> Floats:
        """A quantity with one kind of user of a setting: (runs, scenarios)."""
        found = self.arrays.get((quantity, setting, gameable))
        return np.full((len(self.runs), len(self.environments)), np.nan) if found is None else found

    def gap(self, setting: str, quantity: str = "harm") -> Floats:
        """With the gameable user of each pair less with the other: (runs, scenarios)."""
        return self.of(quantity, setting, True) - self.of(quantity, setting, False)

    def middle(self, quantity: str, setting: str) -> Floats:
        """The mean over both users of each pair: (runs, scenarios)."""
        return (self.of(quantity, setting, True) + self.of(quantity, setting, False)) / 2

    def within(self, environment: str | None) -> Bools:
        """(scenarios,): which are of an environment; all of them for None."""
        return np.array([environment in (None, one) for one in self.environments], dtype=np.bool_)

    def divisions(self) -> tuple[str | None, ...]:
        """All environments together, and each by itself where there are several."""
        names = tuple(name for name in self.section.environments if name in self.environments)
        return (None, *(names if len(names) > 1 else ()))

    def subjects(self) -> list[Group]:
        """What rows are about: each base, lineage, axes and judge, with a run for every seed."""
        return [one for one in groups(self.runs, range(len(self.runs))) if "base" in one.about]


def read_users(store: Store, splits: Mapping[int, Mapping[str, Sequence[str]]]) -> Users | None:
    """The scores of part "approval"; None for a run whose study has no such users, or has met none yet."""
    section = read_approval(store)
    names = {name for halves in splits.values() for name in halves.get(PART, ())}
    if section is None or not names:
        return None
    cases = {case.id: case for case in store.cases() if case.id in names}
    scenarios = {str(case.facts["scenario"]): str(case.facts["environment"]) for case in cases.values()}
    column = {name: place for place, name in enumerate(sorted(scenarios))}
    table = store.score_table(part=PART)
    kept = np.flatnonzero(_owned(table, splits)[table.checkpoint, table.case])
    runs = list_runs(table, kept)
    return Users(
        section=section,
        runs=runs,
        arrays=dict(_arrays(table, kept, runs, cases, column)),
        environments=tuple(scenarios[name] for name in column),
        cases=tuple(sorted(cases.values(), key=lambda case: case.number)),
    )


def trained_settings(checkpoints: Sequence[Checkpoint]) -> dict[str, frozenset[str]]:
    """Base → the settings whose users some stage on it learnt from."""
    found: dict[str, set[str]] = {}
    for checkpoint in checkpoints:
        names = {str(stage.settings["setting"]) for stage in checkpoint.stages if is_rewarded(stage)}
        found.setdefault(checkpoint.base, set()).update(names)
    return {base: frozenset(names) for base, names in found.items()}


def _owned(table: ScoreTable, splits: Mapping[int, Mapping[str, Sequence[str]]]) -> Bools:
    """(checkpoints, cases): a trained checkpoint counts on its own split's held-out users, a base on all."""
    place = {name: number for number, name in enumerate(table.case_ids)}
    masks = {}
    for seed, halves in splits.items():
        masks[seed] = np.zeros(len(place), dtype=np.bool_)
        masks[seed][[place[name] for name in halves.get(PART, ())]] = True
    every = np.any([*masks.values(), np.zeros(len(place), dtype=np.bool_)], axis=0)
    rows = [every if one.split_seed is None else masks.get(one.split_seed, every) for one in table.checkpoints]
    return np.array(rows, dtype=np.bool_).reshape(len(table.checkpoints), len(place))


def _arrays(
    table: ScoreTable, kept: Ints, runs: Sequence[Run], cases: Mapping[str, Case], column: Mapping[str, int]
) -> Iterator[tuple[Key, Floats]]:
    number = {one.id: place for place, one in enumerate(table.checkpoints)}
    places = np.full((len(table.checkpoints), max(len(table.judges), 1)), -1, dtype=np.int64)
    for index, run in enumerate(runs):
        places[number[run.checkpoint.id], table.judges.index(run.judge)] = index
    facts = [cases[name].facts if name in cases else {} for name in table.case_ids]
    settings = sorted({str(one["setting"]) for one in facts if one})
    setting = np.array([settings.index(one["setting"]) if one else -1 for one in facts], dtype=np.int64)
    gameable = np.array([bool(one.get("gameable")) for one in facts], dtype=np.bool_)
    scenario = np.array([column[str(one["scenario"])] if one else -1 for one in facts], dtype=np.int64)
    shape = (len(runs), len(column))
    for quantity, objective in OBJECTIVES.items():
        if objective not in table.objectives:
            continue
        mine = (table.objective[kept] == table.objectives.index(objective)) & np.isfinite(table.value[kept])
        episodes = _episodes(table, kept[mine], quantity)
        for (which, name), label in product(enumerate(settings), (True, False)):
            here = (setting[episodes.case] == which) & (gameable[episodes.case] == label)
            if here.any():
                run = places[episodes.checkpoint[here], episodes.judge[here]]
                flat = np.ravel_multi_index((run, scenario[episodes.case[here]]), shape)
                yield (quantity, name, label), _average(episodes.value[here], flat, shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Episodes:
    """One quantity of episodes under judges, repeats averaged: arrays of one length."""

    checkpoint: Ints
    judge: Ints
    case: Ints
    value: Floats


def _episodes(table: ScoreTable, rows: Ints, quantity: str) -> _Episodes:
    key = table.trajectory[rows] * max(len(table.judges), 1) + table.judge[rows]
    _, first, back = np.unique(key, return_index=True, return_inverse=True)
    value = np.bincount(back, weights=table.value[rows], minlength=len(first)) / np.bincount(back, minlength=len(first))
    one = rows[first]
    return _Episodes(
        checkpoint=table.checkpoint[one],
        judge=table.judge[one],
        case=table.case[one],
        value=_convert(value, quantity),
    )


def _convert(value: Floats, quantity: str) -> Floats:
    """Scores from 0 to 3 as a rating, or as a share."""
    if quantity == "success":
        return value / to_value(HIGHEST_RATING)
    rating = LOWEST_RATING + value * (to_rating(1.0) - LOWEST_RATING)
    return (rating > EXPLOIT_ABOVE + ROUNDING).astype(np.float64) if quantity == "exploit_rate" else rating


def _average(values: Floats, flat: Ints, shape: tuple[int, int]) -> Floats:
    size = shape[0] * shape[1]
    counts, sums = np.bincount(flat, minlength=size), np.bincount(flat, weights=values, minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return np.asarray(means.reshape(shape), dtype=np.float64)
