"""A run's scores as aligned arrays: one row per checkpoint × judge × split, one column per case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.labelled import PAIR_JUDGE, Labels, join, read_labels
from holdfast.analysis.roles import Roles, read_roles
from holdfast.records import Checkpoint, Flag, Labelled
from holdfast.records.arrays import Bools, Floats
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.store import Store
from holdfast.store.codec import FLAG_BITS
from holdfast.store.tables import ScoreTable, TrajectoryTable

Config = tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]  # lineage, and axes without the judge of the pairs
Replicate = tuple[int | None, int | None]  # split seed, train seed

LOWEST_SCORE, HIGHEST_SCORE = 0.0, 3.0
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
class Readings:
    """Every score: ``value`` (trajectories, judges, objectives) averaged over repeats, NaN where missing.

    ``asked`` says where a judge was asked at all; ``judge_names`` are the judges' names without their rubrics.
    """

    judges: tuple[str, ...]
    judge_names: tuple[str, ...]
    objectives: tuple[str, ...]
    value: Floats
    asked: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Case means of every row. Arrays are (objectives, rows, cases), NaN where there is no score.

    ``values`` holds all scores, ``fit`` those of trajectories that the audit calls fit; ``low`` and ``high``
    score unfit and missing ones with the worst and the best value. ``counts`` has, for each objective and row,
    how many trajectories were asked about, finished, judged, and judged and fit. ``scores`` has every judgement alone.
    """

    rows: tuple[Row, ...]
    objectives: tuple[str, ...]
    values: Floats
    fit: Floats
    low: Floats
    high: Floats
    counts: Mapping[str, NDArray[np.int64]]
    readings: Readings
    trajectories: TrajectoryTable
    tested: Bools  # trajectories on a test case of their checkpoint's split
    roles: Roles
    labels: Labels = field(default_factory=Labels)
    left_out: tuple[str, ...] = ()  # runs that are judged in part, in words
    scores: ScoreTable | None = None


def read_panel(store: Store, unfit: Iterable[Flag]) -> Panel:
    """The run's scores aligned for analysis. Errors: StudyError where parent and child saw different cases."""
    scores, trajectories = _of_main_parts(store)
    readings = _readings(scores, len(trajectories.trajectory))
    halves = _test_cases(store.splits(), scores.case_ids)
    bits = sum(FLAG_BITS[flag] for flag in unfit)
    panel = _align(readings, trajectories, halves, read_labels(store, scores), unfit_bits=bits)
    return _leave_out_partial(replace(panel, scores=scores), halves)


def _of_main_parts(store: Store) -> tuple[ScoreTable, TrajectoryTable]:
    """The run's columns over the cases to train on and the held-out ones: no draw is spent on the others."""
    scores, trajectories = store.score_table(), store.trajectory_table()
    parts = [(part, ids) for found in store.splits().values() for part, ids in found.items()]
    beside = {name for part, ids in parts if part not in ("train", "test") for name in ids}
    if not beside:
        return scores, trajectories
    kept = np.array([name not in beside for name in scores.case_ids], dtype=np.bool_)
    place = np.cumsum(kept) - 1

    def keep(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value for value, there in zip(values, kept, strict=True) if there)

    scores = replace(
        scores,
        case_ids=keep(scores.case_ids),
        case_numbers=keep(scores.case_numbers),
        families=keep(scores.families),
        case=place[scores.case],
    )
    return scores, replace(trajectories, case=place[trajectories.case])


def _readings(scores: ScoreTable, trajectories: int) -> Readings:
    shape = (trajectories, len(scores.judges), len(scores.objectives))
    names = {"judges": scores.judges, "judge_names": scores.judge_names, "objectives": scores.objectives}
    if not len(scores.value):
        empty = np.zeros(shape)
        return Readings(value=empty, asked=empty > 0, **names)
    flat = np.ravel_multi_index((scores.trajectory, scores.judge, scores.objective), shape)
    there = np.isfinite(scores.value)
    size = int(np.prod(shape))
    sums = np.bincount(flat[there], weights=scores.value[there], minlength=size)
    counts = np.bincount(flat[there], minlength=size)
    value = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    asked = np.bincount(flat, minlength=size) > 0
    return Readings(value=value.reshape(shape), asked=asked.reshape(shape), **names)


def _test_cases(
    splits: Mapping[int, Mapping[str, Sequence[str]]], case_ids: Sequence[str]
) -> Mapping[int | None, Bools]:
    """Split seed → which cases are test cases; without splits every case is one, under seed None."""
    if not splits:
        return {None: np.ones(len(case_ids), dtype=np.bool_)}
    position = {case_id: index for index, case_id in enumerate(case_ids)}
    found: dict[int | None, Bools] = {}
    for seed, parts in splits.items():
        mask = np.zeros(len(case_ids), dtype=np.bool_)
        mask[[position[case_id] for case_id in parts.get("test", ())]] = True
        found[seed] = mask
    return found


def _splits_of(checkpoint: Checkpoint, halves: Mapping[int | None, Bools]) -> list[int | None]:
    """The splits under which a checkpoint is evaluated: its own, or all of them for a base."""
    if checkpoint.split_seed is not None and checkpoint.split_seed in halves:
        return [checkpoint.split_seed]
    return list(halves)


def _tested(trajectories: TrajectoryTable, halves: Mapping[int | None, Bools]) -> Bools:
    cases = len(next(iter(halves.values())))
    allowed = np.zeros((max(len(trajectories.checkpoints), 1), cases), dtype=np.bool_)
    for index, checkpoint in enumerate(trajectories.checkpoints):
        for seed in _splits_of(checkpoint, halves):
            allowed[index] |= halves[seed]
    return np.asarray(allowed[trajectories.checkpoint, trajectories.case], dtype=np.bool_)


def _totals(
    readings: Readings, trajectories: TrajectoryTable, cases: int, *, unfit_bits: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Counts and sums of scores by (checkpoint, judge, objective, case)."""
    shape = (len(trajectories.checkpoints), len(readings.judges), len(readings.objectives), cases)
    t, j, o = np.nonzero(readings.asked)
    flat = np.ravel_multi_index((trajectories.checkpoint[t], j, o, trajectories.case[t]), shape) if len(t) else t
    value = readings.value[t, j, o]
    judged = np.isfinite(value)
    fit = judged & ((trajectories.flags[t] & unfit_bits) == 0)
    finished = (trajectories.flags[t] & UNFINISHED) == 0

    def total(weights: Floats | Bools) -> Floats:
        return np.bincount(flat, weights=weights, minlength=int(np.prod(shape))).astype(np.float64).reshape(shape)

    clean = np.where(judged, value, 0.0)
    counts = {"asked": total(np.ones(len(flat))), "finished": total(finished)}
    counts |= {"judged": total(judged), "fit": total(fit)}
    sums = {"values": total(clean), "fit": total(np.where(fit, clean, 0.0))}
    return counts, sums


def _align(
    readings: Readings,
    trajectories: TrajectoryTable,
    halves: Mapping[int | None, Bools],
    labels: Labels,
    *,
    unfit_bits: int,
) -> Panel:
    cases = len(next(iter(halves.values())))
    counts, sums = _totals(readings, trajectories, cases, unfit_bits=unfit_bits)
    others = counts["asked"] - counts["fit"]
    sums |= {"low": sums["fit"] + LOWEST_SCORE * others, "high": sums["fit"] + HIGHEST_SCORE * others}
    over = {"values": counts["judged"], "fit": counts["fit"], "low": counts["asked"], "high": counts["asked"]}
    rows, index, masks = _rows(trajectories.checkpoints, readings, halves, counts["asked"])
    rows = _relate(rows, trajectories.checkpoints, labels)

    def arrange(one: Floats, fill: float) -> Floats:
        picked = one[index[0], index[1]].transpose(1, 0, 2)
        return np.where(masks[None], picked, fill)

    means = {name: np.divide(sums[name], n, out=np.full(n.shape, np.nan), where=n > 0) for name, n in over.items()}
    return Panel(
        rows=rows,
        objectives=readings.objectives,
        counts={name: arrange(part, 0.0).sum(axis=2).astype(np.int64) for name, part in counts.items()},
        readings=readings,
        trajectories=trajectories,
        tested=_tested(trajectories, halves),
        roles=read_roles(trajectories.checkpoints),
        labels=labels,
        values=arrange(means["values"], np.nan),
        fit=arrange(means["fit"], np.nan),
        low=arrange(means["low"], np.nan),
        high=arrange(means["high"], np.nan),
    )


def _rows(
    checkpoints: Sequence[Checkpoint], readings: Readings, halves: Mapping[int | None, Bools], asked: Floats
) -> tuple[tuple[Row, ...], NDArray[np.int64], Bools]:
    """The rows, their (checkpoint, judge) indices (2, rows), and their test cases (rows, cases)."""
    rows, index, masks = [], [], []
    for number, checkpoint in enumerate(checkpoints):
        for judge, name in enumerate(readings.judges):
            for seed in _splits_of(checkpoint, halves):
                if not (asked[number, judge].any(axis=0) & halves[seed]).any():
                    continue
                rows.append(
                    Row(
                        base=checkpoint.base,
                        lineage=checkpoint.lineage,
                        axes=checkpoint.axes,
                        judge=name,
                        split_seed=seed,
                        train_seed=checkpoint.train_seed,
                        checkpoint=number,
                    )
                )
                index.append((number, judge))
                masks.append(halves[seed])
    cases = asked.shape[-1]
    stacked = np.array(masks, dtype=np.bool_).reshape(len(rows), cases)
    return tuple(rows), np.array(index, dtype=np.int64).reshape(-1, 2).T, stacked


def _relate(rows: Sequence[Row], checkpoints: Sequence[Checkpoint], labels: Labels) -> tuple[Row, ...]:
    """The rows with how each one's judge stands to it; that of a base is the one to all that it is compared with."""
    known = {(one.checkpoint, one.judge): labels.relation(one.judge, checkpoints[one.checkpoint]) for one in rows}
    trained: dict[tuple[str, str], set[Labelled]] = {}
    for row in rows:
        if row.lineage:
            trained.setdefault((row.base, row.judge), set()).add(known[row.checkpoint, row.judge])
    return tuple(
        replace(
            row,
            labelled=known[row.checkpoint, row.judge] if row.lineage else join(trained.get((row.base, row.judge), ())),
            reads_state=labels.reads_state(row.judge),
        )
        for row in rows
    )


def require_same_cases(parent: Iterable[str], child: Iterable[str], *, names: tuple[str, str]) -> None:
    """Refuse to compare two checkpoints that were evaluated on different cases. Errors: StudyError."""
    first, second = set(parent), set(child)
    if first != second:
        raise StudyError(
            f"{names[0]} and {names[1]}: not comparable, {count_noun(len(first - second), 'cases')} only in the first"
            f" and {len(second - first)} only in the second; evaluate both on the same cases"
        )


def _leave_out_partial(panel: Panel, halves: Mapping[int | None, Bools]) -> Panel:
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
        both = {one: reached[panel.rows[one].checkpoint] & halves[row.split_seed] for one in (other, index)}
        names = [table.checkpoints[panel.rows[one].checkpoint].name for one in (other, index)]
        if not np.array_equal(both[index], both[other]):
            cases = [map(str, np.flatnonzero(asked[one])) for one in (other, index)]
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
        values=panel.values[:, keep],
        fit=panel.fit[:, keep],
        low=panel.low[:, keep],
        high=panel.high[:, keep],
        left_out=tuple(partial.values()),
    )
