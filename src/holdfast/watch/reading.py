"""What a watch reads of runs: which checkpoints are meant, in which order, and their scores by case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from holdfast.errors import StudyError
from holdfast.gate import choosing
from holdfast.gate.books import Book
from holdfast.records import Checkpoint, content_id
from holdfast.store import Store
from holdfast.store.tables import ScoreTable
from holdfast.watch.state import Values

MOST_NAMED = 5
DOSES = ("dose", "steps")  # axes along which the checkpoints of one stage follow on each other
Conditions = Mapping[str, str]
NO_CONDITIONS: Conditions = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One checkpoint's scores as one judge gave them: by case a value for each rollout (repeats averaged).

    ``scores`` are those values by trajectory. ``missing`` counts rollouts without a value, ``judge`` and ``rubric``
    say whose readings they are, ``data`` is a digest of it all.
    """

    name: str
    checkpoint: Checkpoint
    values: Values
    trajectories: tuple[str, ...]
    judge: str
    objective: str
    rubric: str
    missing: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    cases: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The part of a gate's book that tells which checkpoint is meant."""

    place: str
    checkpoints: Sequence[Checkpoint]


def find_checkpoint(
    place: str,
    checkpoints: Sequence[Checkpoint],
    text: str | None,
    where: Conditions = NO_CONDITIONS,
    near: Checkpoint | None = None,
) -> Checkpoint:
    """The one checkpoint that ``text`` names as a gate reads it, or the only one there is. Errors: StudyError."""
    return choosing.find_checkpoint(cast(Book, _Names(place=place, checkpoints=checkpoints)), text or "", where, near)


def find_looks(
    place: str,
    checkpoints: Sequence[Checkpoint],
    text: str,
    where: Conditions = NO_CONDITIONS,
    near: Checkpoint | None = None,
) -> list[Checkpoint]:
    """The checkpoints that a name stands for, as a gate reads it; a lineage stands for all its doses, in order of time.

    Where a lineage has several sequences of doses, the one that shares base, seeds and other axes with ``near`` is
    meant. Errors: StudyError where there is none, or more than one.
    """
    words = text.split()
    label = " ".join(word for word in words if "=" not in word)
    lineage = {one.id for one in checkpoints if label == (",".join(one.lineage) or choosing.BASE)}
    if not lineage:
        return [find_checkpoint(place, checkpoints, text, where, near)]
    conditions = {**where, **choosing.read_conditions([word for word in words if "=" in word])}
    allowed = choosing.select(cast(Book, _Names(place=place, checkpoints=checkpoints)), conditions)
    found = [one for one in allowed if one.id in lineage]
    if len(_sequences(found)) > 1 and near is not None:
        found = [one for one in found if _shares(one, near)] or found
    if len(_sequences(found)) != 1:
        # The gate's own refusal, which lists what could be meant.
        return [find_checkpoint(place, checkpoints, text, where)]
    return in_time(found)


def _sequences(found: Sequence[Checkpoint]) -> set[tuple[Any, ...]]:
    return {(one.base, one.lineage, one.split_seed, one.train_seed, _other_axes(one)) for one in found}


def _shares(one: Checkpoint, near: Checkpoint) -> bool:
    """Whether base, seeds and every axis but the dose are the same, where both have them."""
    seeds = ((one.split_seed, near.split_seed), (one.train_seed, near.train_seed))
    axes = ((one.axes[key], near.axes[key]) for key in one.axes.keys() & near.axes.keys() if key not in DOSES)
    return one.base == near.base and all(a == b or None in (a, b) for a, b in (*seeds, *axes))


def in_time(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Checkpoints by how long their last stages were trained, then by name."""

    def place(one: Checkpoint) -> tuple[Any, ...]:
        dose = one.axes.get("dose", 0)
        steps = [stage.steps or 0 for stage in one.stages]
        return (len(one.stages), steps, dose if isinstance(dose, int | float) else 0, one.name)

    return sorted(checkpoints, key=place)


def find_later(place: str, checkpoints: Sequence[Checkpoint], baseline: Checkpoint) -> list[Checkpoint]:
    """The doses of the one stage that follows on the baseline, in order of steps. Errors: StudyError."""
    later = [
        one
        for one in checkpoints
        if one.base == baseline.base
        and len(one.stages) == len(baseline.stages) + 1
        and one.lineage[:-1] == baseline.lineage
        and all(
            a in (None, b) for a, b in ((baseline.split_seed, one.split_seed), (baseline.train_seed, one.train_seed))
        )
    ]
    if len(groups := _sequences(later)) > 1:
        names = ", ".join(f"{one.name!r}" for one in in_time(later)[:MOST_NAMED])
        raise StudyError(
            f"{place}: {len(groups)} stages follow on {baseline.name}; name the checkpoints to watch with"
            f" --checkpoints: {names}{' …' if later[MOST_NAMED:] else ''}"
        )
    if not later:
        raise StudyError(
            f"{place}: nothing follows on {baseline.name}; name the checkpoints with --checkpoints or --run"
        )
    return in_time(later)


def _other_axes(one: Checkpoint) -> str:
    return repr(sorted((key, str(value)) for key, value in one.axes.items() if key not in DOSES))


# --- scores -------------------------------------------------------------------------------------------------------


def find_judge(place: str, table: ScoreTable, wanted: str | None, objective: str, rubric: str | None = None) -> str:
    """The label of the judge meant: ``wanted``, under ``rubric`` where that is given, or the only one of an objective.

    Errors: StudyError.
    """
    if objective not in table.objectives:
        there = ", ".join(table.objectives) or "nothing"
        raise StudyError(f"{place}: no scores of {objective!r}, scored there: {there}; add them with `holdfast judge`")
    mine = np.unique(table.judge[table.objective == table.objectives.index(objective)])
    labels: list[str] = [table.judges[index] for index in mine]
    names = dict(zip(table.judges, table.judge_names, strict=True))
    found = labels if wanted is None else [one for one in labels if wanted in (one, names[one])]
    if len(found) > 1 and rubric is not None:
        found = [one for one in found if table.rubrics.get((one, objective)) == rubric] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise StudyError(
            f"{place}: no scores of {objective!r} by the judge {wanted!r}, there are: {', '.join(labels)}; add them"
            f" with `holdfast judge {place} --with {wanted}`"
        )
    raise StudyError(f"{place}: {len(found)} judges scored {objective}: {', '.join(found)}; choose one with --judge")


def read_view(
    store: Store,
    place: str,
    checkpoint: Checkpoint,
    judge: str | None,
    objective: str,
    *,
    rubric: str | None = None,
    only: Collection[str] = (),
) -> View:
    """A checkpoint's scores on held-out cases (on all, where a run has no splits), or of ``only`` these trajectories.

    Errors: StudyError where there are none.
    """
    part = "test" if any("test" in parts for parts in store.splits().values()) else None
    table, ids = store.score_table(part=part), store.trajectory_ids(part=part)
    label = find_judge(place, table, judge, objective, rubric)
    rows = (table.judge == table.judges.index(label)) & (table.objective == table.objectives.index(objective))
    known = [one.id for one in table.checkpoints]
    rows &= table.checkpoint == (known.index(checkpoint.id) if checkpoint.id in known else -1)
    if only:
        wanted = np.array([one in only for one in ids], dtype=np.bool_)
        rows &= wanted[table.trajectory]
    found: dict[int, list[float]] = {}
    cases: dict[int, str] = {}
    for row in np.flatnonzero(rows):
        trajectory = int(table.trajectory[row])
        cases[trajectory] = table.case_ids[table.case[row]]
        found.setdefault(trajectory, []).append(float(table.value[row]))
    if not found:
        raise StudyError(
            f"{place}: {checkpoint.name} has no scores of {objective!r} by {label}; finish its run, or add them with"
            f" `holdfast judge {place} --with {table.judge_names[table.judges.index(label)]}`"
        )
    values: dict[str, list[float]] = {}
    readings: dict[str, float] = {}
    for trajectory in sorted(found, key=lambda one: (cases[one], ids[one])):
        scores = [value for value in found[trajectory] if not np.isnan(value)]
        if scores:
            readings[ids[trajectory]] = sum(scores) / len(scores)
            values.setdefault(cases[trajectory], []).append(readings[ids[trajectory]])
    plain = {case: tuple(one) for case, one in values.items()}
    asked = set(only) or {ids[one] for one in found}
    used = table.rubrics.get((label, objective), "")
    return View(
        name=checkpoint.name,
        checkpoint=checkpoint,
        values=plain,
        trajectories=tuple(sorted(asked)),
        judge=table.judge_names[table.judges.index(label)],
        objective=objective,
        rubric=used,
        missing=len(asked) - len(readings),
        scores=readings,
        data=content_id("watch data", used, sorted(ids[one] for one in found), sorted(plain.items())),
        cases=frozenset(cases.values()),
    )


def require_same_cases(baseline: View, other: View) -> None:
    """Refuse two views that are not of the same cases, of the same rubric. Errors: StudyError naming the difference."""
    names = f"{baseline.name} and {other.name}"
    lost, new = sorted(baseline.cases - other.cases), sorted(other.cases - baseline.cases)
    if lost or new:
        shown = ", ".join(one[:12] for one in (lost or new)[:3])
        raise StudyError(
            f"{names}: not comparable: {len(lost)} cases only in the baseline, {len(new)} only in the look,"
            f" {len(baseline.cases & other.cases)} in both (first: {shown}); evaluate both on the same cases"
        )
    if baseline.rubric != other.rubric:
        raise StudyError(
            f"{names}: not comparable: scored under rubric {baseline.rubric[:8]} and {other.rubric[:8]}; judge both"
            " under one rubric"
        )
    if set(baseline.trajectories) & set(other.trajectories):
        raise StudyError(f"{names}: both are the same episodes, which says nothing; watch other checkpoints")
