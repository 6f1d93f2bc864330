"""A run's scores as aligned arrays: one row per checkpoint × judge × split, one column per case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from holdfast.analysis.labelled import PAIR_JUDGE, Labels, join, read_labels
from holdfast.analysis.roles import Roles, read_roles
from holdfast.records import Checkpoint, Flag, Labelled
from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.store import Store
from holdfast.store.cells import Cells, Masks, part_masks, read_cells, splits_of
from holdfast.store.codec import FLAG_BITS
from holdfast.store.tables import TrajectoryTable

Axes = tuple[tuple[str, Any], ...]
Config = tuple[tuple[str, ...], Axes]  # lineage, and axes without the judge of the pairs
Replicate = tuple[int | None, int | None]  # split seed, train seed
Measures = Mapping[str, Mapping[str, float]]  # what was measured in training, by checkpoint id and name

LOWEST_SCORE, HIGHEST_SCORE = 0.0, 3.0
HALVES = ("train", "test")  # the parts that every number here is about
NAMED_CASES, SHOWN_DIGITS = 3, 12  # of the cases that two checkpoints do not share, and of the id of each
UNFINISHED = FLAG_BITS[Flag.TRUNCATED] | FLAG_BITS[Flag.OUT_OF_MEMORY] | FLAG_BITS[Flag.INCOHERENT]


def config_of(one: Row | Checkpoint) -> Config:
    """The configuration of a row or a checkpoint."""
    return one.lineage, tuple(sorted((key, value) for key, value in one.axes.items() if key != PAIR_JUDGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One checkpoint under one judge on the test cases of one split.

    ``labelled`` says of how many stages of the lineage this judge labelled the pairs, ``reads_state`` whether it reads
    the world's end state. A base takes the relation of the rows that it is compared with: those of its judge.
    """

    base: str
    lineage: tuple[str, ...]
    axes: Mapping[str, Any]
    judge: str
    split_seed: int | None
    train_seed: int | None
    checkpoint: int
    labelled: Labelled = Labelled.UNKNOWN
    reads_state: bool = False

    @property
    def config(self) -> Config:
        """Lineage and axes, without the judge of the training pairs."""
        return config_of(self)

    @property
    def replicate(self) -> Replicate:
        """What tells repeated runs of one configuration apart."""
        return self.split_seed, self.train_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Case means of every row. Arrays are (objectives, rows, cases), NaN where there is no score.

    ``values`` holds all scores, ``fit`` those of trajectories that the audit calls fit; ``low`` and ``high``
    score unfit and missing ones with the worst and the best value. ``counts`` has, for each objective and row,
    how many trajectories were asked about, finished, judged, and judged and fit. ``cells`` has every reading.
    """

    rows: tuple[Row, ...]
    objectives: tuple[str, ...]
    values: Floats
    fit: Floats
    low: Floats
    high: Floats
    counts: Mapping[str, Ints]
    cells: Cells
    tested: Bools  # trajectories on a test case of their checkpoint's split
    roles: Roles
    labels: Labels = field(default_factory=Labels)
    left_out: tuple[str, ...] = ()  # runs that are judged in part, in words

    @property
    def trajectories(self) -> TrajectoryTable:
        """The columns of the episodes."""
        return self.cells.episodes


def read_panel(store: Store, unfit: Iterable[Flag], *, of: str | None = None) -> Panel:
    """The run's scores aligned for analysis, or those ``of`` one checkpoint.

    Errors: StudyError where parent and child saw different cases.
    """
    cells, splits = read_cells(store, of=of), store.splits()
    beside = {name for parts in splits.values() for part, ids in parts.items() if part not in HALVES for name in ids}
    if beside:
        cells = cells.without_cases(np.array([name in beside for name in cells.scores.case_ids], dtype=np.bool_))
    tests = part_masks(splits, cells.scores.case_ids, "test")
    bits = sum(FLAG_BITS[flag] for flag in unfit)
    return _leave_out_partial(_align(cells, tests, read_labels(store, cells.scores), unfit_bits=bits), tests)


def _align(cells: Cells, tests: Masks, labels: Labels, *, unfit_bits: int) -> Panel:
    episodes, checkpoints = cells.episodes, cells.episodes.checkpoints
    shape = (len(checkpoints), len(cells.judges), len(cells.objectives), len(cells.scores.case_ids))
    t, j, o = np.nonzero(cells.asked)
    flat = np.ravel_multi_index((episodes.checkpoint[t], j, o, episodes.case[t]), shape) if len(t) else t
    value = cells.value[t, j, o]
    judged = np.isfinite(value)
    fit = judged & ((episodes.flags[t] & unfit_bits) == 0)

    def total(weights: Floats | Bools) -> Floats:
        """The sum by (checkpoint, judge, objective, case)."""
        return np.bincount(flat, weights=weights, minlength=int(np.prod(shape))).astype(np.float64).reshape(shape)

    counts = {"asked": total(np.ones(len(flat))), "finished": total((episodes.flags[t] & UNFINISHED) == 0)}
    counts |= {"judged": total(judged), "fit": total(fit)}
    rows, index, masks = _rows(checkpoints, cells.judges, tests, counts["asked"], labels)

    def arrange(one: Floats, fill: float) -> Floats:
        return np.where(masks[None], one[index[0], index[1]].transpose(1, 0, 2), fill)

    def mean(sums: Floats, n: Floats) -> Floats:
        return arrange(np.divide(sums, n, out=np.full(n.shape, np.nan), where=n > 0), np.nan)

    fit_sums, others = total(np.where(fit, value, 0.0)), counts["asked"] - counts["fit"]
    return Panel(
        rows=rows,
        objectives=cells.objectives,
        counts={name: arrange(part, 0.0).sum(axis=2).astype(np.int64) for name, part in counts.items()},
        cells=cells,
        tested=cells.count(tests),
        roles=read_roles(checkpoints),
        labels=labels,
        values=mean(total(np.where(judged, value, 0.0)), counts["judged"]),
        fit=mean(fit_sums, counts["fit"]),
        low=mean(fit_sums + LOWEST_SCORE * others, counts["asked"]),
        high=mean(fit_sums + HIGHEST_SCORE * others, counts["asked"]),
    )


def _rows(
    checkpoints: Sequence[Checkpoint], judges: Sequence[str], tests: Masks, asked: Floats, labels: Labels
) -> tuple[tuple[Row, ...], Ints, Bools]:
    """The rows, their (checkpoint, judge) indices (2, rows), and their test cases (rows, cases)."""
    rows, index, masks = [], [], []
    trained: dict[tuple[str, str], set[Labelled]] = {}
    for number, one in enumerate(checkpoints):
        about: dict[str, Any] = {"base": one.base, "lineage": one.lineage, "axes": one.axes, "checkpoint": number}
        for judge, name in enumerate(judges):
            about |= {"judge": name, "labelled": labels.relation(name, one), "reads_state": labels.reads_state(name)}
            for seed in splits_of(one, tests):
                if (asked[number, judge].any(axis=0) & tests[seed]).any():
                    rows.append(Row(split_seed=seed, train_seed=one.train_seed, **about))
                    index.append((number, judge))
                    masks.append(tests[seed])
                    if one.lineage:
                        trained.setdefault((one.base, name), set()).add(about["labelled"])
    # A judge stands to a base as it does to all that the base is compared with.
    related = (
        row if row.lineage else replace(row, labelled=join(trained.get((row.base, row.judge), ()))) for row in rows
    )
    stacked = np.array(masks, dtype=np.bool_).reshape(len(rows), asked.shape[-1])
    return tuple(related), np.array(index, dtype=np.int64).reshape(-1, 2).T, stacked


def require_same_cases(
    parent: Iterable[str],
    child: Iterable[str],
    *,
    names: tuple[str, str],
    words: tuple[str, str] = ("first", "second"),
    labels: Mapping[str, str] | None = None,
) -> None:
    """Refuse to compare two checkpoints that were evaluated on different cases, by their ids. Errors: StudyError.

    ``names`` are the checkpoints', ``words`` what the two are in the comparison; ``labels`` name cases for people.
    """
    first, second = set(parent), set(child)
    if first == second:
        return
    lost, new = (
        sorted((labels or {}).get(one, one[:SHOWN_DIGITS]) for one in found)
        for found in (first - second, second - first)
    )
    shown = ", ".join((lost or new)[:NAMED_CASES])
    if same := set(lost) & set(new):
        shown += f"; the ids of {len(same)} samples are the same and what is asked in them is not"
    raise StudyError(
        f"{names[0]} and {names[1]}: not comparable: {count_noun(len(lost), 'cases')} only in the {words[0]},"
        f" {len(new)} only in the {words[1]}, {len(first & second)} in both (first: {shown}); evaluate both on"
        " the same cases"
    )


def _leave_out_partial(panel: Panel, tests: Masks) -> Panel:
    """The panel without runs that are judged in part and so stand on other test cases than their parent or child.

    Errors: StudyError where a parent and its child were rolled out on different test cases.
    """
    asked: Bools = np.asarray(np.isfinite(panel.high).any(axis=0), dtype=np.bool_)
    table = panel.trajectories
    reached = np.zeros((len(table.checkpoints), asked.shape[1]), dtype=np.bool_)
    reached[table.checkpoint, table.case] = True
    number = {checkpoint.id: index for index, checkpoint in enumerate(table.checkpoints)}
    place = {(row.checkpoint, row.judge, row.split_seed): index for index, row in enumerate(panel.rows)}
    partial: dict[int, str] = {}
    for index, row in enumerate(panel.rows):
        parent = number.get(table.checkpoints[row.checkpoint].parent_id or "")
        other = place.get((parent, row.judge, row.split_seed)) if parent is not None else None
        if other is None or np.array_equal(asked[index], asked[other]):
            continue
        both = {one: reached[panel.rows[one].checkpoint] & tests[row.split_seed] for one in (other, index)}
        names = [table.checkpoints[panel.rows[one].checkpoint].name for one in (other, index)]
        if not np.array_equal(both[index], both[other]):
            ids = panel.cells.scores.case_ids
            cases = [[ids[case] for case in np.flatnonzero(asked[one])] for one in (other, index)]
            require_same_cases(*cases, names=(names[0], names[1]))
        for (one, rolled_out), name in zip(both.items(), names, strict=True):
            if not np.array_equal(asked[one], rolled_out):
                share = f"{asked[one].sum()} of {count_noun(int(rolled_out.sum()), 'cases')}"
                partial[one] = f"{name} left out: judged by {row.judge} on {share}"
    keep = np.array([index not in partial for index in range(len(panel.rows))], dtype=np.bool_)
    return replace(
        panel,
        rows=tuple(row for index, row in enumerate(panel.rows) if keep[index]),
        counts={name: part[:, keep] for name, part in panel.counts.items()},
        left_out=tuple(partial.values()),
        **{name: getattr(panel, name)[:, keep] for name in ("values", "fit", "low", "high")},
    )
