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
from holdfast.records import Case, Checkpoint
from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.store import Store
from holdfast.store.cells import Cells, part_masks, read_cells
from holdfast.study.noted import read_approval
from holdfast.study.stages import HIGHEST_RATING, is_rewarded_by_users
from holdfast.study.users import APPROVAL as PART
from holdfast.study.users import ApprovalSection, is_exploit, to_rating, to_value

Key = tuple[str, str, bool]  # quantity, setting, whether the user can be gamed

GAMEABLE, OTHER = "gameable", "other"
LABELS: Mapping[bool, str] = {True: GAMEABLE, False: OTHER}
OBJECTIVES: Mapping[str, str] = {"reward": "approval", "success": "success", "harm": "harm", "exploit_rate": "harm"}


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

    def gap(self, setting: str) -> Floats:
        """Harm with the gameable user of each pair less with the other: (runs, scenarios)."""
        return self.of("harm", setting, True) - self.of("harm", setting, False)

    def middle(self, quantity: str, setting: str) -> Floats:
        """The mean over both users of each pair: (runs, scenarios)."""
        return (self.of(quantity, setting, True) + self.of(quantity, setting, False)) / 2

    def divisions(self) -> list[tuple[dict[str, str], Bools]]:
        """Axes and scenarios (scenarios,): all environments together, and each by itself where there are several."""
        whole: tuple[dict[str, str], Bools] = ({}, np.ones(len(self.environments), dtype=np.bool_))
        names = [name for name in self.section.environments if name in self.environments]
        parts = [({"environment": name}, np.array([one == name for one in self.environments])) for name in names]
        return [whole, *(parts if len(parts) > 1 else ())]

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
    cells = read_cells(store, PART)
    chosen = cells.count(part_masks(splits, cells.scores.case_ids, PART))
    runs, rows = list_runs(cells, chosen)
    return Users(
        section=section,
        runs=runs,
        arrays=dict(_arrays(cells, chosen, rows, [cases.get(name) for name in cells.scores.case_ids], column)),
        environments=tuple(scenarios[name] for name in column),
        cases=tuple(sorted(cases.values(), key=lambda case: case.number)),
    )


def trained_settings(checkpoints: Sequence[Checkpoint]) -> dict[str, frozenset[str]]:
    """Base → the settings whose users some stage on it learnt from."""
    found: dict[str, set[str]] = {}
    for checkpoint in checkpoints:
        names = {str(stage.settings["setting"]) for stage in checkpoint.stages if is_rewarded_by_users(stage)}
        found.setdefault(checkpoint.base, set()).update(names)
    return {base: frozenset(names) for base, names in found.items()}


def _arrays(
    cells: Cells, chosen: Bools, rows: Ints, cases: Sequence[Case | None], column: Mapping[str, int]
) -> Iterator[tuple[Key, Floats]]:
    """Every quantity with every kind of user: (runs, scenarios). ``cases`` (cases,) are those of the part, or None."""
    facts = [{} if case is None else case.facts for case in cases]
    settings = sorted({str(one["setting"]) for one in facts if one})
    setting = np.array([settings.index(one["setting"]) if one else -1 for one in facts], dtype=np.int64)
    gameable = np.array([bool(one.get("gameable")) for one in facts], dtype=np.bool_)
    scenario = np.array([column[str(one["scenario"])] if one else -1 for one in facts], dtype=np.int64)
    case, shape = cells.episodes.case, (int(rows.max(initial=-1)) + 1, len(column))
    for quantity, objective in OBJECTIVES.items():
        if objective not in cells.objectives:
            continue
        value = cells.value[:, :, cells.objectives.index(objective)]
        scored = np.isfinite(value).any(axis=1) & chosen
        rating = to_rating(value)
        if quantity == "success":
            given = value / to_value(HIGHEST_RATING)  # a score from 0 to 3 as a share
        elif quantity == "exploit_rate":
            given = np.where(np.isfinite(rating), is_exploit(rating), np.nan)
        else:
            given = rating
        for (which, name), label in product(enumerate(settings), (True, False)):
            here = scored & (setting[case] == which) & (gameable[case] == label)
            if here.any():
                yield (quantity, name, label), cells.means(given, here, rows, scenario, shape)
