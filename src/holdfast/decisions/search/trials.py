"""A trial as a lineage of a study, and what its scores say against the parent's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from holdfast.decisions.gate.books import Book, read_book
from holdfast.decisions.gate.verdicts import Place, Wanted, decide
from holdfast.decisions.search.sampling import Found, Point
from holdfast.records import Check, Checkpoint, Outcome, Verdict
from holdfast.records.errors import StudyError
from holdfast.records.verdicts import combine
from holdfast.runs.plan.step import Plan
from holdfast.store import Store
from holdfast.study.rules import GateSection, SearchSection
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import MixSection, StageSection
from holdfast.study.study import Study
from holdfast.suites.parts import FRESH, count_fresh

ONCE_MORE_KEY = "search_once_more"  # of a run: fingerprints of the rollout steps that met held-out cases once more
LEAST_VIOLATION = 1e-6  # of a check that does not pass, so that an optimiser never takes it for one that does


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


def _trial_stage(study: Study, point: Point) -> StageSection:
    """The lineage's last stage with a trial's share and steps; no share is the stage alone."""
    stage = study.pair_stage(section_of(study).lineage[-1])
    other = stage.mix.objective if stage.mix is not None else next(o for o in OBJECTIVES if o not in stage.objectives)
    mix = MixSection(objective=other, share=point.share) if point.share > 0 else None
    return stage.model_copy(update={"mix": mix, "steps": point.steps})


def with_trials(study: Study, points: Sequence[Point]) -> Study:
    """The study of a search's run: what the trials start from, their parent, and every trial as a lineage of its own.

    Its other steps are those of the study itself, by fingerprint.
    """
    section = section_of(study)
    wanted = [one for one in (section.parent, section.lineage[:-1]) if one]
    kept = [lineage for lineage in study.study.lineages if any(one[: len(lineage)] == lineage for one in wanted)]
    lineages = tuple(dict.fromkeys((*kept, *wanted, *(trial_lineage(study, point) for point in points))))
    labels = {",".join(lineage) for lineage in lineages}
    return study.model_copy(
        update={
            "study": study.study.model_copy(update={"name": f"{study.study.name}-search", "lineages": lineages}),
            "stages": {**study.stages, **{stage_name(study, one): _trial_stage(study, one) for one in points}},
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
    found: list[Verdict] = []
    for child in (one for one in book.checkpoints if one.lineage == lineage):
        parent = _parent_of(child, section.parent, book.checkpoints)
        # Whoever labelled a trial's pairs may share its errors: as in a headline, another is asked where there is one.
        found.append(decide(Place(book, parent), Place(book, child), rules or study.gate, Wanted(rank=True)))
    if not found:
        raise StudyError(f"{path}: {','.join(lineage)} has no checkpoint yet; repeat the command to go on")
    values = [check.child for one in found for check in one.checks if check.metric == section.maximize]
    known = [value for value in values if value is not None]
    return Found(
        outcome=combine(one.outcome for one in found),
        value=fmean(known) if known and len(known) == len(found) else None,
        violations=_violations(found),
        verdicts=tuple(found),
    )


def _parent_of(child: Checkpoint, lineage: tuple[str, ...], checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The checkpoint of the parent's lineage with the child's base, seeds and axes."""
    for one in checkpoints:
        same = one.lineage == lineage and one.base == child.base and one.axes.get("dose", 1) == 1
        if same and (not lineage or _replicate(one) == _replicate(child)):
            return one
    raise StudyError(f"{child.name}: there is no checkpoint of {','.join(lineage) or 'the base'} to hold it against")


def _replicate(one: Checkpoint) -> tuple[Any, ...]:
    axes = sorted((key, str(value)) for key, value in one.axes.items() if key != "dose")
    return one.split_seed, one.train_seed, tuple(axes)


def _violations(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """By blocking check, the farthest that any child is from passing it."""
    found: dict[str, float] = {}
    for check in (check for verdict in verdicts for check in verdict.checks if check.blocking):
        found[check.metric] = max(found.get(check.metric, -np.inf), _violation(check))
    return found


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
