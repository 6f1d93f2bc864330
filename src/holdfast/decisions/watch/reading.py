"""What a watch reads of runs: which checkpoints are meant, in which order, and their scores by case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.decisions.gate.books import Book, Gaps
from holdfast.decisions.gate.declared import Origin, resolve_names
from holdfast.decisions.gate.sides import (
    Judging,
    Side,
    find_label,
    judges_for,
    relation_of,
    take_side,
    tell_nothing,
)
from holdfast.decisions.watch.state import Values
from holdfast.exchange.scales import ScoreOption
from holdfast.judges.rubric.judge import Readings
from holdfast.records import Checkpoint, Declaration, Labelled, content_id
from holdfast.records.errors import StudyError
from holdfast.report.words.labels import name_judge
from holdfast.runs.rescoring import FoundJudge
from holdfast.runs.steps.judging import score_all
from holdfast.store import Store
from holdfast.store.choosing import BASE, Listed, find_checkpoint, select, share_keys, split_conditions

MOST_NAMED = 5
DOSES = ("dose", "steps")  # axes along which the checkpoints of one stage follow on each other


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One checkpoint's scores as one judge gave them: by case a value for each rollout (repeats averaged).

    ``side`` is what a gate reads of it, of all its rollouts. ``scores`` are the values by trajectory. ``missing``
    counts rollouts without a value, those among them that logs were to hold and do not. ``judge`` and ``rubric`` say
    whose readings they are, ``labelled`` and ``reads_state`` how the judge stands to the checkpoint. ``counts``
    says how many episodes a score is due of, by case; ``unfit`` is the share of those that the audit found unfit to be
    judged, ``gaps`` what the checkpoint's logs lack. ``data`` is a digest of it all.
    """

    side: Side
    values: Values
    trajectories: tuple[str, ...]
    judge: str
    objective: str
    rubric: str
    missing: int
    scores: Mapping[str, float]
    data: str
    counts: Mapping[str, int]
    unfit: float
    labelled: Labelled
    reads_state: bool
    gaps: Gaps
    notes: tuple[str, ...]

    @property
    def declared(self) -> Declaration | None:
        """What the scores were declared to mean where they came with a log."""
        return self.side.declared.get(self.objective)

    @property
    def asked(self) -> int:
        """How many cases there were to be, those among them that the logs lack altogether."""
        return len(self.counts) + len(self.gaps.samples) + len(self.gaps.unnamed)

    @property
    def lacking(self) -> int:
        """How many rollouts have no value, with those that the study asked for and that are not there."""
        due = 0 if self.gaps.logged or self.side.expected is None else self.side.expected
        return self.missing + sum(max(due - count, 0) for count in self.counts.values())

    @property
    def coverage(self) -> float:
        """The share of the rollouts that are due which have a value, from 0 to 1."""
        due = len(self.scores) + self.lacking
        return len(self.scores) / due if due else 0.0


def find_looks(
    book: Listed, text: str, where: Mapping[str, str] | None = None, near: Checkpoint | None = None
) -> list[Checkpoint]:
    """The checkpoints that a name stands for, as a gate reads it; a lineage stands for all its doses, in order of time.

    Where a lineage has several sequences of doses, the one that shares base, seeds and other axes with ``near`` is
    meant. Errors: StudyError where there is none, or more than one.
    """
    label, own = split_conditions(text)
    if not any(label == (",".join(one.lineage) or BASE) for one in book.checkpoints):
        return [find_checkpoint(book, text, where, near)]
    allowed = [one for one in select(book, {**(where or {}), **own}) if label == (",".join(one.lineage) or BASE)]
    if len(_sequences(allowed)) > 1 and near is not None:
        allowed = share_keys(allowed, near, but=DOSES) or allowed
    # Where several could be meant, the gate's own refusal lists them.
    return in_time(allowed) if len(_sequences(allowed)) == 1 else [find_checkpoint(book, text, where)]


def _sequences(found: Sequence[Checkpoint]) -> set[tuple[Any, ...]]:
    axes = [repr(sorted((key, str(value)) for key, value in one.axes.items() if key not in DOSES)) for one in found]
    seeds = [(one.base, one.lineage, one.split_seed, one.train_seed) for one in found]
    return set(zip(seeds, axes, strict=True))


def in_time(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Checkpoints by how long their last stages were trained, then by name."""

    def place(one: Checkpoint) -> tuple[Any, ...]:
        dose = one.axes.get("dose", 0)
        steps = [stage.steps or 0 for stage in one.stages]
        return (len(one.stages), steps, dose if isinstance(dose, int | float) else 0, one.name)

    return sorted(checkpoints, key=place)


def find_later(book: Listed, baseline: Checkpoint) -> list[Checkpoint]:
    """The doses of the one stage that follows on the baseline, in order of steps. Errors: StudyError."""
    later = [
        one
        for one in book.checkpoints
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
            f"{book.place}: {len(groups)} stages follow on {baseline.name}; name the checkpoints to watch with"
            f" --checkpoints: {names}{' …' if later[MOST_NAMED:] else ''}"
        )
    if not later:
        raise StudyError(
            f"{book.place}: nothing follows on {baseline.name}; name the checkpoints with --checkpoints or --run"
        )
    return in_time(later)


# --- scores -------------------------------------------------------------------------------------------------------


def name_objective(origin: Origin, objective: str, scores: Sequence[ScoreOption]) -> str:
    """Under which name an objective stands in a run: ``--score`` says so, or ``objective`` is the key of a declaration.

    Errors: StudyError.
    """
    named = resolve_names(origin, [one for one in scores if one.objective == objective])
    if objective in named or objective in origin.objectives:
        return named.get(objective, objective)
    declared = {score.objective for score in origin.declarations if score.key == objective}
    return declared.pop() if len(declared) == 1 else objective


def _choose_label(book: Book, checkpoint: Checkpoint, objective: str, judge: str | None, rubric: str | None) -> str:
    """The label of the judge that was named, else of the only one that scored a checkpoint. Errors: StudyError."""
    labels = judges_for(book, checkpoint, objective)
    if not labels:
        raise StudyError(tell_nothing(book, checkpoint, objective))
    if judge is not None:
        return find_label(book, checkpoint, objective, judge, rubric)
    if len(labels) > 1:
        told = ", ".join(name_judge(label, *relation_of([(book, checkpoint)], label)) for label in labels)
        raise StudyError(
            f"{book.place}: {len(labels)} judges scored {objective}: {told}; choose one with --judge, best one that"
            " reads the end state or labelled no training pairs"
        )
    return labels[0]


def read_view(
    book: Book,
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
    name = name_objective(book.origin, objective, scores)
    label = _choose_label(book, checkpoint, name, judge, rubric)
    labelled, reads_state = relation_of([(book, checkpoint)], label)
    judging = Judging(labels={objective: label}, names={objective: name}, scores=tuple(scores))
    side = take_side(book, checkpoint, judging, split_seed=checkpoint.split_seed, severe_at_most=0.0)
    measured = side.measured[objective]
    due = measured.due & np.isin(side.trajectories, list(only)) if only else measured.due
    met = [side.trajectories[row] for row in np.flatnonzero(due & np.isfinite(measured.lost))]
    who = book.judge_name(label)
    if not met:
        raise StudyError(
            f"{book.place}: {checkpoint.name} has no scores of {name!r} by {label}; finish its run, or add them with"
            f" `holdfast judge {book.place} --with {who}`"
        )
    values: dict[str, tuple[float, ...]] = {}
    readings: dict[str, float] = {}
    rows = np.flatnonzero(due & np.isfinite(measured.value)).tolist()
    for row in sorted(rows, key=lambda row: (side.cases[side.case[row]], side.trajectories[row])):
        case, value = side.cases[side.case[row]], float(measured.value[row])
        readings[side.trajectories[row]] = value
        values[case] = (*values.get(case, ()), value)
    asked = set(only) or {side.trajectories[row] for row in np.flatnonzero(due)}
    counts = Counter(side.cases[place] for place in side.case[due])
    gaps = Gaps() if only else side.gaps
    used = side.rubrics.get(objective, "")
    return View(
        side=side,
        values=values,
        trajectories=tuple(sorted(asked)),
        judge=who,
        objective=objective,
        rubric=used,
        missing=len(asked) - len(readings) + gaps.rollouts,
        scores=readings,
        data=content_id("watch data", used, sorted(met), sorted(values.items())),
        counts=counts,
        unfit=float(side.measured["validity"].value[due].mean()),
        labelled=labelled,
        reads_state=reads_state,
        gaps=gaps,
        notes=book.notes,
    )


def count_absent(baseline: View, look: View) -> int:
    """How many rollouts of the baseline's cases a look should have and does not, where no log says how many.

    As many are due as its study asks for, or as the baseline has of the case.
    """
    if look.gaps.logged:
        return 0
    due = {case: look.side.expected or baseline.counts[case] for case in look.counts if case in baseline.counts}
    return sum(max(count - look.counts[case], 0) for case, count in due.items())


# --- has the judge changed? A frozen set is judged again at every look, and held against its first scores -------------


def freeze(store: Store, view: View, count: int, seed: int) -> dict[str, float]:
    """The frozen set: ``count`` of a view's trajectories with the scores that they have, whatever these are.

    They are chosen by a hash of their ids. Errors: StudyError where there is none to freeze.
    """
    if not view.scores:
        raise StudyError(
            f"{store.path}: {view.side.name} has no trajectory scored by {view.judge} to freeze; judge it first"
        )
    order = sorted(view.scores, key=lambda identity: content_id("frozen", seed, identity))
    return {identity: view.scores[identity] for identity in sorted(order[:count])}


def judge_again(
    store: Store, asked: FoundJudge, ids: Collection[str], view: View
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """What the judge gives these trajectories now, None where it gives no verdict; nothing is stored.

    Beside it stands what is told of a judge that was not understood.

    The judge's model is asked anew: no reply that was kept answers for it. Errors: StudyError where a trajectory is not
    in the run any more, StepError for an outage.
    """
    known = set(store.trajectory_ids(part="all"))
    if lost := sorted(set(ids) - known):
        raise StudyError(
            f"{store.path}: {len(lost)} of the frozen trajectories are not here (first: {lost[0]}); give the run that"
            " the watch was begun with"
        )
    judge = asked.judge
    if view.objective not in judge.objectives or judge.rubric_of(view.objective) != view.rubric:
        raise StudyError(
            f"judge {view.judge!r}: judges {view.objective!r} by other rules now than when the baseline was judged, so"
            " nothing tells its drift; judge the baseline anew and begin a new watch"
        )
    items = [(store.case(one.case_id), one) for one in store.trajectories(sorted(ids))]
    with asked.open_model(None) as speakers:
        scores = score_all(judge, items, speakers)
    given: dict[str, list[float]] = {identity: [] for identity in sorted(ids)}
    for score in scores:
        if score.objective == view.objective and score.value is not None:
            given[score.trajectory_id].append(score.value)
    readings = Readings(judge)
    readings.add(scores)
    means = {identity: sum(values) / len(values) if values else None for identity, values in given.items()}
    return means, tuple(f"frozen trajectories: {line}" for line in readings.tell())
