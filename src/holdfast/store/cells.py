"""A run's scores aligned to cases: the one place where means over repeats and over rollouts are taken.

    score row     a judge's value of an episode on an objective, once for each repeat
    reading       the mean over repeats: (episodes, judges, objectives)
    cell          the mean of readings over the rollouts of a run in a case: (runs, cases)

Analysis, gate, watch and report all read ``Cells``, so that no two of them can disagree about a mean. Which cases count
for which checkpoint, by the splits, is told here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.records import Checkpoint
from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.store import Store
from holdfast.store.seals import READ_ROWS
from holdfast.store.tables import ScoreTable, TrajectoryTable

Masks = Mapping[int | None, Bools]  # split seed → which cases, (cases,)


def mean_by(values: NDArray[Any], at: Sequence[Ints], shape: tuple[int, ...]) -> Floats:
    """The mean of the values that fall into each cell of ``shape``, NaN where none does.

    ``at`` has the cell's index along each axis, one array (values,) an axis. Values are added in their order.
    """
    size = int(np.prod(shape))
    flat = np.ravel_multi_index(tuple(at), shape) if len(values) else np.zeros(0, dtype=np.int64)
    counts = np.bincount(flat, minlength=size)
    sums = np.bincount(flat, weights=values, minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return np.asarray(means.reshape(shape), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The readings of a run's episodes, and their means by run and case.

    ``scores`` and ``episodes`` are the columns of one ``tables.scope``. The other arrays are (episodes, judges,
    objectives): ``value`` is the mean over repeats, NaN where no repeat has a score, ``asked`` whether the judge was
    asked at all, ``lost`` the share of the repeats without a score, NaN where it was not asked.
    """

    scores: ScoreTable
    episodes: TrajectoryTable
    value: Floats
    asked: Bools
    lost: Floats

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges' labels, which the arrays' second axis stands for."""
        return self.scores.judges

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives, which the arrays' third axis stands for."""
        return self.scores.objectives

    def place(self, judge: str | None, objective: str) -> tuple[int, int] | None:
        """Where a judge's readings of an objective stand in the arrays; None where there are none."""
        if judge not in self.judges or objective not in self.objectives:
            return None
        return self.judges.index(judge), self.objectives.index(objective)

    def over_repeats(self, values: NDArray[Any], place: tuple[int, int]) -> Floats:
        """(episodes,): the mean over repeats of ``values`` (score rows,) of one judge and objective, where scored."""
        table = self.scores
        mine = (table.judge == place[0]) & (table.objective == place[1]) & np.isfinite(table.value)
        return mean_by(values[mine], (table.trajectory[mine],), (len(self.episodes.trajectory),))

    def means(self, values: Floats, chosen: Bools, rows: Ints, columns: Ints, shape: tuple[int, int]) -> Floats:
        """The mean over rollouts of ``values`` (episodes, judges) that are there, by run and column; NaN without any.

        ``chosen`` (episodes,) are those that count; ``rows`` (checkpoints, judges) and ``columns`` (cases,) say where.
        """
        episode, judge = np.nonzero(np.isfinite(values) & chosen[:, None])
        at = rows[self.episodes.checkpoint[episode], judge], columns[self.episodes.case[episode]]
        return mean_by(values[episode, judge], at, shape)

    def count(self, masks: Masks) -> Bools:
        """(episodes,): which of the episodes are in a case of ``masks`` that counts for their checkpoint."""
        own = own_cases(self.episodes.checkpoints, masks)
        return np.asarray(own[self.episodes.checkpoint, self.episodes.case], dtype=np.bool_)

    def without_cases(self, left_out: Bools) -> Cells:
        """The cells without some cases (cases,), none of which may have an episode: nothing is drawn of them."""
        kept = ~left_out
        new_index = np.cumsum(kept) - 1

        def keep(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(value for value, there in zip(values, kept, strict=True) if there)

        scores = replace(
            self.scores,
            case_ids=keep(self.scores.case_ids),
            case_numbers=keep(self.scores.case_numbers),
            families=keep(self.scores.families),
            case=new_index[self.scores.case],
        )
        return replace(self, scores=scores, episodes=replace(self.episodes, case=new_index[self.episodes.case]))


def read_cells(store: Store, part: str | Sequence[str] | None = None, *, of: str | None = None) -> Cells:
    """The cells of a part of a run, or of some, or ``of`` one checkpoint; see ``tables.scope``."""
    scores, episodes = store.score_table(part=part, of=of), store.trajectory_table(part=part, of=of)
    shape = (len(episodes.trajectory), len(scores.judges), len(scores.objectives))
    at = (scores.trajectory, scores.judge, scores.objective)
    missing = np.isnan(scores.value)
    lost = mean_by(missing, at, shape)
    value = mean_by(scores.value[~missing], [one[~missing] for one in at], shape)
    return Cells(scores=scores, episodes=episodes, value=value, asked=np.isfinite(lost), lost=lost)


def part_masks(splits: Mapping[int, Mapping[str, Sequence[str]]], case_ids: Sequence[str], *parts: str) -> Masks:
    """Split seed → which cases are of its ``parts``; without splits every case is, under seed None."""
    if not splits:
        return {None: np.ones(len(case_ids), dtype=np.bool_)}
    position = {case_id: index for index, case_id in enumerate(case_ids)}
    found: dict[int | None, Bools] = {}
    for seed, halves in splits.items():
        mask = np.zeros(len(case_ids), dtype=np.bool_)
        mask[[position[case_id] for part in parts for case_id in halves.get(part, ())]] = True
        found[seed] = mask
    return found


def splits_of(checkpoint: Checkpoint, masks: Masks) -> list[int | None]:
    """The splits under which a checkpoint is evaluated: its own, or all of them for a base."""
    if checkpoint.split_seed is not None and checkpoint.split_seed in masks:
        return [checkpoint.split_seed]
    return list(masks)


def own_cases(checkpoints: Sequence[Checkpoint], masks: Masks) -> Bools:
    """(checkpoints, cases): which cases count for each checkpoint, those of its ``splits_of``."""
    found = [np.any([masks[seed] for seed in splits_of(one, masks)], axis=0) for one in checkpoints]
    return np.array(found, dtype=np.bool_).reshape(len(checkpoints), len(next(iter(masks.values()))))


def score_rows(store: Store, part: str | None = None) -> Iterator[dict[str, Any]]:
    """One row per checkpoint × case × objective × rollout × judge × repeat; a missing value is None.

    ``part`` is one of the parts beside the cases to train on and the held-out ones (``attack``, ``shift``, ``probe``),
    or "all". Rows come as they are asked for, from columns that are held as numbers.
    """
    table, ids = store.score_table(part=part), store.trajectory_ids(part=part)
    made = [(one.name, one.id, one.lineage) for one in table.checkpoints]
    columns = (
        *(table.checkpoint, table.case, table.objective, table.judge),
        *(table.rollout, table.repeat, table.trajectory, table.value),
    )
    for start in range(0, len(table.value), READ_ROWS):
        part_of = (column[start : start + READ_ROWS].tolist() for column in columns)
        for maker, case, objective, judge, rollout, repeat, trajectory, value in zip(*part_of, strict=True):
            name, identity, lineage = made[maker]
            yield {
                "checkpoint": name,
                "checkpoint_id": identity,
                "lineage": list(lineage),
                "case": table.case_ids[case],
                "objective": table.objectives[objective],
                "judge": table.judges[judge],
                "rollout": rollout,
                "repeat": repeat,
                "trajectory": ids[trajectory],
                "value": None if math.isnan(value) else value,
            }
