"""A trial as a lineage of a study, and what its scores say against the parent's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from holdfast.decisions.gate.books import Book, read_book
from holdfast.decisions.gate.verdicts import Place, Wanted, compare, decide
from holdfast.records import Check, Checkpoint, Outcome, Verdict
from holdfast.records.checkpoints import DOSE
from holdfast.records.errors import StudyError, needs
from holdfast.records.verdicts import combine
from holdfast.runs.plan.step import Plan
from holdfast.store import Store
from holdfast.store.choosing import share_keys
from holdfast.study.rules import GateSection, SearchSection
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import MixSection
from holdfast.study.study import Study
from holdfast.suites.parts import FRESH, count_fresh

ONCE_MORE_KEY = "search_once_more"  # of a run: fingerprints of the rollout steps that met held-out cases once more
LEAST_VIOLATION = 1e-6  # of a check that does not pass, so that an optimiser never takes it for one that does
SHARE_STEPS = 100  # a share is a whole number of hundredths
RANDOM_TRIALS = 5  # before the optimiser models anything; no budget changes it, so that a search can be prolonged
MOST_REPEATS = 20  # asks in a row that give points which are known


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    """What a trial varies: the other objective's ``share`` of a step's pairs, and the stage's optimiser ``steps``."""

    share: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of a point: the gate's outcome, the mean that is to be large, and how far each check is from passing.

    ``value`` is None where nothing has a score. ``violations`` are in the checks' units, at most 0 where they pass.
    ``verdicts`` are those of every child.
    """

    outcome: Outcome
    value: float | None
    violations: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A point that was tried, in the order of trials from 0."""

    number: int
    point: Point
    found: Found


def look(section: SearchSection, evaluate: Callable[[Point], Found]) -> Iterator[Trial]:
    """Every trial of a search, no point twice, each as soon as it is evaluated.

    A point passes or not, as the gate says (the optimiser's constraints); among those that pass it seeks the largest
    value: Watanabe 2023 (arXiv 2304.11127) describes the estimator (TPE). Errors: MissingExtra without Optuna, and
    whatever ``evaluate`` raises.
    """
    with needs("search", "a search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=section.seed, n_startup_trials=RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known: dict[Point, Found] = {}
    repeats = 0
    while len(known) < section.trials:
        if repeats >= MOST_REPEATS:
            study.enqueue_trial(_nearest_new(section, known))
        asked = study.ask()
        share = asked.suggest_int("share", *_hundredths(section)) / SHARE_STEPS
        point = Point(share=share, steps=asked.suggest_int("steps", *section.steps))
        is_new = point not in known
        repeats = 0 if is_new else repeats + 1
        if is_new:
            known[point] = evaluate(point)
        found = known[point]
        for name, value in found.violations.items():
            asked.set_constraint(name, value)
        failed = optuna.trial.TrialState.FAIL if found.value is None else None
        study.tell(asked, found.value, failed)
        if is_new:
            yield Trial(number=len(known) - 1, point=point, found=found)


def choose(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the largest value among those that pass, the shorter one of two alike; None where none passes."""
    passing = [one for one in trials if one.found.outcome is Outcome.PASS and one.found.value is not None]
    return max(passing, key=lambda one: (one.found.value, -one.point.steps, -one.point.share), default=None)


def _hundredths(section: SearchSection) -> tuple[int, int]:
    """The bounds of a share in hundredths, both within the declared ones."""
    low, high = section.share
    return math.ceil(low * SHARE_STEPS - 1e-9), math.floor(high * SHARE_STEPS + 1e-9)


def _nearest_new(section: SearchSection, known: Mapping[Point, Found]) -> dict[str, int]:
    """A point that was not tried, next to the best of the known ones; the study holds enough of them."""
    (low, high), (least, most) = _hundredths(section), section.steps
    best = max(known, key=lambda one: (known[one].outcome is Outcome.PASS, known[one].value or 0.0, one))
    # Shares and steps count alike, each as a part of its own range.
    every = (
        (abs(share / SHARE_STEPS - best.share) * SHARE_STEPS / (high - low + 1), abs(steps - best.steps), share, steps)
        for share in range(low, high + 1)
        for steps in range(least, most + 1)
        if Point(share=share / SHARE_STEPS, steps=steps) not in known
    )
    *_, share, steps = min(every, key=lambda one: (one[0] + one[1] / (most - least + 1), one[2:]))
    return {"share": share, "steps": steps}


# --- a trial in a study's run --------------------------------------------------------------------------------------


def section_of(study: Study) -> SearchSection:
    """The study's search. Errors: StudyError where it has none."""
    if study.search is None:
        raise StudyError(
            "the study has no [search] table; give lineage, parent, and the ranges of share and steps, or leave out"
            " --search"
        )
    return study.search


def stage_name(study: Study, point: Point) -> str:
    """What a trial calls its last stage: equal points have equal names, and so equal steps."""
    return f"{section_of(study).lineage[-1]}@{point.share:.2f}x{point.steps}"


def trial_lineage(study: Study, point: Point) -> tuple[str, ...]:
    """The lineage that a trial trains."""
    return (*section_of(study).lineage[:-1], stage_name(study, point))


def with_trials(study: Study, points: Sequence[Point]) -> Study:
    """The study of a search's run: what the trials start from, their parent, and every trial as a lineage of its own.

    Its other steps are those of the study itself, by fingerprint.
    """
    section = section_of(study)
    last = study.pair_stage(section.lineage[-1])
    other = last.mix.objective if last.mix is not None else next(o for o in OBJECTIVES if o not in last.objectives)
    stages = dict(study.stages)
    for point in points:
        # No share of the other objective is the stage alone.
        mix = MixSection(objective=other, share=point.share) if point.share > 0 else None
        stages[stage_name(study, point)] = last.model_copy(update={"mix": mix, "steps": point.steps})
    wanted = [one for one in (section.parent, section.lineage[:-1]) if one]
    kept = [lineage for lineage in study.study.lineages if any(one[: len(lineage)] == lineage for one in wanted)]
    lineages = tuple(dict.fromkeys((*kept, *wanted, *(trial_lineage(study, point) for point in points))))
    labels = {",".join(lineage) for lineage in lineages}
    return study.model_copy(
        update={
            "study": study.study.model_copy(update={"name": f"{study.study.name}-search", "lineages": lineages}),
            "stages": stages,
            "doses": {label: doses for label, doses in study.doses.items() if label in labels},
            "merges": {},
            "attacks": None,
            "shifts": None,
            "probes": None,
        }
    )


def read_trial(
    study: Study,
    path: Path,
    lineage: tuple[str, ...],
    *,
    fresh: Plan | None = None,
    rules: GateSection | None = None,
) -> Found:
    """What the gate says of every child of a lineage against its parent, and the mean of what is to be large.

    Every base, seed and point of the axes must pass for the trial to pass; one that fails fails it. ``fresh`` is the
    plan that has the episodes on fresh cases, which then take the place of those that trials are chosen by;
    ``rules`` take the place of the study's gate.
    """
    section = section_of(study)
    book = _open_book(study, path, fresh)
    verdicts: list[Verdict] = []
    for child in (one for one in book.checkpoints if one.lineage == lineage):
        parent = _parent_of(child, section.parent, book.checkpoints)
        # Whoever labelled a trial's pairs may share its errors: as in a headline, another is asked where there is one.
        declared = rules or study.gate
        match = compare(Place(book, parent), Place(book, child), declared, Wanted(rank=True))
        verdicts.append(decide(match, declared))
    if not verdicts:
        raise StudyError(f"{path}: {','.join(lineage)} has no checkpoint yet; repeat the command to go on")
    checks = [check for verdict in verdicts for check in verdict.checks]
    values = [check.child for check in checks if check.metric == section.maximize and check.child is not None]
    violations: dict[str, float] = {}  # by blocking check, the farthest that any child is from passing it
    for check in checks:
        if check.blocking:
            violations[check.metric] = max(violations.get(check.metric, -np.inf), _violation(check))
    return Found(
        outcome=combine(verdict.outcome for verdict in verdicts),
        value=fmean(values) if len(values) == len(verdicts) else None,
        violations=violations,
        verdicts=tuple(verdicts),
    )


def _parent_of(child: Checkpoint, lineage: tuple[str, ...], checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The checkpoint of the parent's lineage with the child's base, seeds and axes."""
    whole = [one for one in checkpoints if one.lineage == lineage and one.axes.get(DOSE, 1) == 1]
    if found := share_keys(whole, child, but=(DOSE,)):
        return found[0]
    raise StudyError(f"{child.name}: there is no checkpoint of {','.join(lineage) or 'the base'} to hold it against")


def _violation(check: Check) -> float:
    bound = check.lower if check.worse == "lower" else check.upper
    if bound is None:
        return -LEAST_VIOLATION if check.outcome is Outcome.PASS else 1.0
    beyond = -check.margin - bound if check.worse == "lower" else bound - check.margin
    return min(beyond, 0.0) if check.outcome is Outcome.PASS else max(beyond, LEAST_VIOLATION)


def _open_book(study: Study, path: Path, fresh: Plan | None) -> Book:
    """The run's columns of the cases that trials are chosen by, or of the fresh ones.

    A suite without fresh cases has its held-out ones met once more instead.
    """
    if count_fresh(study):
        return read_book(path, part=FRESH if fresh is not None else None)
    book = read_book(path)
    with Store(path) as store:
        steps = (store.meta(ONCE_MORE_KEY) or "").split()
        again = {name for step in steps for name in store.trajectory_ids(step=step)}
    if again or fresh is not None:
        chosen = np.array([(name in again) == (fresh is not None) for name in book.trajectory_ids], dtype=np.bool_)
        episodes = book.cells.episodes
        episodes = replace(episodes, checkpoint=np.where(chosen, episodes.checkpoint, -1))
        book = replace(book, cells=replace(book.cells, episodes=episodes))
    return book
