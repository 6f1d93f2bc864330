"""What a watch reads of runs: which checkpoints are meant, in which order, and their scores by case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from holdfast.analysis.labelled import read_labels
from holdfast.decisions.gate import choosing
from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.declared import (
    Origin,
    declaration_for,
    read_origin,
    require_same_declarations,
    resolve_names,
    tell_undeclared,
)
from holdfast.decisions.gate.logs import Gaps, find_gaps
from holdfast.decisions.watch.state import Values
from holdfast.exchange.scales import ScoreOption
from holdfast.records import Checkpoint, Declaration, Labelled, content_id
from holdfast.records.errors import StudyError
from holdfast.report.words.labels import name_judge
from holdfast.store import Store
from holdfast.store.origins import read_import_notes, read_log_states
from holdfast.store.tables import ScoreTable
from holdfast.study.noted import read_noted

MOST_NAMED = 5
DOSES = ("dose", "steps")  # axes along which the checkpoints of one stage follow on each other
Conditions = Mapping[str, str]
NO_CONDITIONS: Conditions = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One checkpoint's scores as one judge gave them: by case a value for each rollout (repeats averaged).

    ``scores`` are those values by trajectory. ``missing`` counts rollouts without a value, those among them that logs
    were to hold and do not. ``judge`` and ``rubric`` say whose readings they are, ``declared`` what they were declared
    to mean where they came with a log, ``labelled`` and ``reads_state`` how the judge stands to the checkpoint.
    ``cases`` are those with episodes, by their names for people; ``gaps`` is what the checkpoint's logs lack,
    ``expected`` how many rollouts of a case its study asked for, ``counts`` how many there are. ``data`` is a digest of
    it all.
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
    cases: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    expected: int | None = None
    declared: Declaration | None = None
    labelled: Labelled = Labelled.UNKNOWN
    reads_state: bool = False
    gaps: Gaps = field(default_factory=Gaps)
    notes: tuple[str, ...] = ()

    @property
    def lacking(self) -> int:
        """How many rollouts have no value, with those that the study asked for and that are not there."""
        due = 0 if self.gaps.logged or self.expected is None else self.expected
        return self.missing + sum(max(due - count, 0) for count in self.counts.values())

    @property
    def coverage(self) -> float:
        """The share of the rollouts that are due which have a value, from 0 to 1."""
        due = len(self.scores) + self.lacking
        return len(self.scores) / due if due else 0.0


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


def find_judge(
    origin: Origin,
    table: ScoreTable,
    wanted: str | None,
    objective: str,
    rubric: str | None = None,
    *,
    tell: Callable[[str], str] = str,
) -> str:
    """The label of the judge meant: ``wanted``, under ``rubric`` where that is given, or the only one of an objective.

    ``tell`` names a judge with how it stands to what is read. Errors: StudyError.
    """
    place = origin.place
    if objective not in table.objectives:
        if origin.undeclared:
            raise StudyError(f"{place}: {tell_undeclared(origin.undeclared, objective)}")
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
    told = ", ".join(map(tell, found))
    raise StudyError(
        f"{place}: {len(found)} judges scored {objective}: {told}; choose one with --judge, best one that reads the end"
        " state or labelled no training pairs"
    )


def name_objective(origin: Origin, objective: str, scores: Sequence[ScoreOption]) -> str:
    """Under which name an objective stands in a run: ``--score`` says so, or ``objective`` is the key of a declaration.

    Errors: StudyError.
    """
    named = resolve_names(origin, [one for one in scores if one.objective == objective])
    if objective in named or objective in origin.objectives:
        return named.get(objective, objective)
    found = {one.objective for one in origin.declarations if one.key == objective}
    return found.pop() if len(found) == 1 else objective


def read_view(
    store: Store,
    place: str,
    checkpoint: Checkpoint,
    judge: str | None,
    objective: str,
    *,
    rubric: str | None = None,
    only: Collection[str] = (),
    scores: Sequence[ScoreOption] = (),
) -> View:
    """A checkpoint's scores on held-out cases (on all, where a run has no splits), or of ``only`` these trajectories.

    ``scores`` say under which name the objective stands. Errors: StudyError where there are none, or where they came
    with a log and nobody declared what they mean.
    """
    part = "test" if any("test" in parts for parts in store.splits().values()) else None
    table, ids = store.score_table(part=part), store.trajectory_ids(part=part)
    origin = read_origin(store, place, table.objectives)
    name = name_objective(origin, objective, scores)
    labels = read_labels(store, table)
    related = {one: (labels.relation(one, checkpoint), labels.reads_state(one)) for one in table.judges}
    label = find_judge(origin, table, judge, name, rubric, tell=lambda one: name_judge(one, *related[one]))
    due = _find_due(store, table, checkpoint, (label, name), part)
    if only:
        due = {one: case for one, case in due.items() if ids[one] in only}
    found = _gather(table, (label, name), due)
    if not found:
        raise StudyError(
            f"{place}: {checkpoint.name} has no scores of {name!r} by {label}; finish its run, or add them with"
            f" `holdfast judge {place} --with {table.judge_names[table.judges.index(label)]}`"
        )
    plain, readings = _average(found, due, ids)
    asked = set(only) or {ids[one] for one in due}
    used = table.rubrics.get((label, name), "")
    cases = {case: store.case(case) for case in sorted(set(due.values()))}
    who = table.judge_names[table.judges.index(label)]
    gaps = find_gaps(read_log_states(store), checkpoint.id) if not only else Gaps()
    return View(
        name=checkpoint.name,
        checkpoint=checkpoint,
        values=plain,
        trajectories=tuple(sorted(asked)),
        judge=who,
        objective=objective,
        rubric=used,
        missing=len(asked) - len(readings) + gaps.rollouts,
        scores=readings,
        data=content_id("watch data", used, sorted(ids[one] for one in found), sorted(plain.items())),
        cases={name: str(case.facts.get("sample", name[:12])) for name, case in cases.items()},
        counts=Counter(due.values()),
        expected=read_noted(store).get("rollouts", {}).get("per_test_case"),
        declared=declaration_for(origin, who, name, frozenset(case.suite for case in cases.values()), scores),
        labelled=related[label][0],
        reads_state=related[label][1],
        gaps=gaps,
        notes=read_import_notes(store),
    )


def _gather(table: ScoreTable, judging: tuple[str, str], due: Collection[int]) -> dict[int, list[float]]:
    """A judge's values of an objective by trajectory, NaN where one is missing."""
    label, objective = judging
    mine = (table.judge == table.judges.index(label)) & (table.objective == table.objectives.index(objective))
    found: dict[int, list[float]] = {}
    for row in np.flatnonzero(mine & np.isin(table.trajectory, list(due))):
        found.setdefault(int(table.trajectory[row]), []).append(float(table.value[row]))
    return found


def _average(
    found: Mapping[int, Sequence[float]], cases: Mapping[int, str], ids: Sequence[str]
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """The mean of each trajectory's values that are there: by case, and by the trajectory's id."""
    values: dict[str, list[float]] = {}
    readings: dict[str, float] = {}
    for trajectory in sorted(found, key=lambda one: (cases[one], ids[one])):
        known = [value for value in found[trajectory] if not np.isnan(value)]
        if known:
            readings[ids[trajectory]] = sum(known) / len(known)
            values.setdefault(cases[trajectory], []).append(readings[ids[trajectory]])
    return {case: tuple(one) for case, one in values.items()}, readings


def _find_due(
    store: Store, table: ScoreTable, checkpoint: Checkpoint, judging: tuple[str, str], part: str | None
) -> dict[int, str]:
    """The trajectories of a checkpoint that a score is due of, with their cases.

    A judge may be asked for another objective alone, as that of probes is; of a trajectory that it has not met, every
    score is due.
    """
    label, objective = judging
    episodes = store.trajectory_table(part=part)
    known = [one.id for one in episodes.checkpoints]
    rows = np.flatnonzero(episodes.checkpoint == (known.index(checkpoint.id) if checkpoint.id in known else -1))
    met = table.judge == table.judges.index(label)
    asked = set(table.trajectory[met & (table.objective == table.objectives.index(objective))].tolist())
    spared = set(table.trajectory[met].tolist()) - asked
    return {
        int(episodes.trajectory[row]): table.case_ids[episodes.case[row]]
        for row in rows
        if int(episodes.trajectory[row]) not in spared
    }


def count_absent(baseline: View, look: View) -> int:
    """How many rollouts of the baseline's cases a look should have and does not, where no log says how many.

    As many are due as its study asks for, or as the baseline has of the case.
    """
    if look.gaps.logged:
        return 0
    due = {case: look.expected or baseline.counts[case] for case in look.counts if case in baseline.counts}
    return sum(max(count - look.counts[case], 0) for case, count in due.items())


def require_same_cases(baseline: View, other: View) -> None:
    """Refuse two views that are not of the same cases, of the same rubric. Errors: StudyError naming the difference.

    A case that one of them lacks because its logs broke off is none that differs.
    """
    names = f"{baseline.name} and {other.name}"
    lost, new = _only_in(baseline, other), _only_in(other, baseline)
    if lost or new:
        shown = ", ".join((lost or new)[:3])
        raise StudyError(
            f"{names}: not comparable: {len(lost)} cases only in the baseline, {len(new)} only in the look,"
            f" {len(baseline.cases.keys() & other.cases.keys())} in both (first: {shown}); evaluate both on the same"
            " cases"
        )
    mine, theirs = ({view.objective: one} if (one := view.declared) else {} for view in (baseline, other))
    require_same_declarations(mine, theirs, names)
    if baseline.rubric != other.rubric:
        raise StudyError(
            f"{names}: not comparable: scored under rubric {baseline.rubric[:8]} and {other.rubric[:8]}; judge both"
            " under one rubric"
        )
    if set(baseline.trajectories) & set(other.trajectories):
        raise StudyError(f"{names}: both are the same episodes, which says nothing; watch other checkpoints")


def _only_in(view: View, other: View) -> list[str]:
    """The names of a view's cases that the other was never to have."""
    found = [label for case, label in view.cases.items() if case not in other.cases]
    rest = [label for label in found if label not in other.gaps.samples]
    return sorted(rest) if len(rest) > len(other.gaps.unnamed) else []
