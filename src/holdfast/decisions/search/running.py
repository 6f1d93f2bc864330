"""The trials of a search in a run of their own, one after the other, and the winner on fresh cases.

The run is that of one study which grows by a lineage a trial. Every step is done once: a search that was killed is
repeated from its first trial, finds the steps of its trials done, and comes to the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.decisions.gate.running import Means
from holdfast.decisions.search.trials import (
    ONCE_MORE_KEY,
    Found,
    Point,
    Trial,
    choose,
    look,
    read_trial,
    section_of,
    trial_lineage,
    with_trials,
)
from holdfast.records import Outcome
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.runs.execution import execute
from holdfast.runs.plan.step import Plan
from holdfast.runs.readiness import look_around
from holdfast.runs.run import Run, fork_run, prepare
from holdfast.store import DATABASE, Store
from holdfast.store.places import ENDPOINTS_KEY, STUDY_KEY
from holdfast.study.study import Study, changed_keys
from holdfast.suites.parts import count_fresh

WINNERS_KEY = "search_winners"  # of a run: the lineages that were judged on fresh cases, in order
SEARCH_KEY = "search"  # of a run: the settings of the study that a search was asked for, without its budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found: its trials, the winner among them, and the winner on fresh cases (None without one).

    ``fresh_cases`` says whether those are other cases, or the same ones met once more. ``conclusion`` counts the
    winners that they judged, this one among them: 1 unless the search was prolonged; 0 without a winner.
    """

    path: Path
    study: Study
    trials: tuple[Trial, ...]
    winner: Trial | None
    fresh: Found | None
    fresh_cases: bool
    conclusion: int = 0

    @property
    def alpha(self) -> float:
        """The level at which the winner is held to the gate on fresh cases."""
        return alpha_of(self.study.gate.alpha, self.conclusion)

    @property
    def outcome(self) -> Outcome:
        """The winner's outcome on fresh cases; without a winner FAIL where every trial failed, else INCONCLUSIVE."""
        if self.fresh is not None:
            return self.fresh.outcome
        failed = all(one.found.outcome is Outcome.FAIL for one in self.trials)
        return Outcome.FAIL if failed else Outcome.INCONCLUSIVE


def default_place(run_path: Path) -> Path:
    """Where a search goes whose study has its run at ``run_path``: beside it."""
    return run_path.with_name(f"{run_path.name}-search")


def search(
    study: Study,
    path: Path,
    means: Means,
    *,
    source: Path | None = None,
    tell: Callable[[Sequence[Trial]], None] = lambda _: None,
) -> Search:
    """Carries out a study's search in the run at ``path``, or goes on with it.

    A new one starts with every finished step of ``source`` that it needs, where a run is there. ``tell`` hears of the
    trials so far after each. Errors: StudyError for a study without a search and for a run of another one, StepError
    where a step failed, MissingExtra without Optuna.
    """
    section = section_of(study)
    _open(study, path, source)
    trials: list[Trial] = []

    def evaluate(point: Point) -> Found:
        _carry_out(study, path, [*(one.point for one in trials), point], means)
        return read_trial(study, path, trial_lineage(study, point))

    for trial in look(section, evaluate):
        trials.append(trial)
        tell(trials)
    winner = choose(trials)
    fresh, conclusion = None, 0
    points = [one.point for one in trials]
    if winner is not None:
        lineage = trial_lineage(study, winner.point)
        plan = _carry_out(study, path, points, means, fresh=(section.parent, lineage))
        with Store(path, writable=True) as store:
            conclusion = note_winner(store, lineage)
        rules = study.gate.model_copy(update={"alpha": alpha_of(study.gate.alpha, conclusion)})
        fresh = read_trial(study, path, lineage, fresh=plan, rules=rules)
    else:
        plan = build(with_trials(study, points))
    with Store(path, writable=True) as store:
        Run(path).conclude(store, plan.steps[-1])
    return Search(
        path=path,
        study=study,
        trials=tuple(trials),
        winner=winner,
        fresh=fresh,
        fresh_cases=count_fresh(study) > 0,
        conclusion=conclusion,
    )


def note_winner(store: Store, lineage: tuple[str, ...]) -> int:
    """Notes that a winner is judged on fresh cases; which winner it is in their order, from 1."""
    known: list[list[str]] = json.loads(store.meta(WINNERS_KEY) or "[]")
    if list(lineage) not in known:
        known.append(list(lineage))
        with store.transaction():
            store.set_meta(WINNERS_KEY, json.dumps(known))
    return known.index(list(lineage)) + 1


def alpha_of(alpha: float, conclusion: int) -> float:
    """The level of a conclusion: each is held to half the level of the one before on the same fresh cases.

    So the probability that any of them passes wrongly stays below 2 · ``alpha``, however often a search is prolonged.
    """
    return alpha * 0.5 ** max(conclusion - 1, 0)


def _open(study: Study, path: Path, source: Path | None) -> None:
    """Makes the run of a search, or sees that the one there is of this very search."""
    start = with_trials(study, ())
    asked: dict[str, Any] = json.loads(json.dumps(study.settings()))
    asked["search"].pop("trials")  # a larger budget goes on with the same trials
    is_new = not (path / DATABASE).is_file()
    if is_new and (problems := look_around(start)[0]):
        raise StudyError(problems[0])
    if is_new and source is not None and (source / DATABASE).is_file():
        fork_run(source, path, build(start))
    with Store.open_or_create(path) as store:
        noted = store.meta(SEARCH_KEY)
        if noted is None and store.meta(STUDY_KEY) is not None:
            raise StudyError(f"{path}: holds a study's run; a search has one of its own, choose another output")
        if noted is None:
            prepare(start, store)
            with store.transaction():
                store.set_meta(SEARCH_KEY, json.dumps(asked, sort_keys=True))
        elif changes := changed_keys(json.loads(noted), asked):
            shown = "; ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")
            raise StudyError(f"{path}: is the search of a different study: {shown}. Choose another output")


def _carry_out(
    study: Study, path: Path, points: Sequence[Point], means: Means, *, fresh: Sequence[tuple[str, ...]] = ()
) -> Plan:
    """The plan of the search's study with these trials, done but for its analysis."""
    grown = with_trials(study, points)
    plan = build(grown, fresh=fresh)
    with Store(path, writable=True) as store:
        with store.transaction():
            store.set_meta(STUDY_KEY, json.dumps(grown.settings(), sort_keys=True))
            store.set_meta(ENDPOINTS_KEY, json.dumps(study.model_dump(mode="json")["endpoints"], sort_keys=True))
            if fresh and not count_fresh(study):
                chosen_by = {step.fingerprint for step in build(grown).steps}
                rollouts = [step.fingerprint for step in plan.steps if step.kind == "rollout"]
                # Those of an older winner stay: no trial is chosen by them either.
                known = (store.meta(ONCE_MORE_KEY) or "").split()
                again = dict.fromkeys([*known, *(name for name in rollouts if name not in chosen_by)])
                store.set_meta(ONCE_MORE_KEY, " ".join(again))
        budget = {"max_calls": means.max_calls, "max_cost": means.max_cost}
        workers = means.workers or study.run.workers
        execute(plan, store, workers=workers, listener=means.listener, budget=budget)
    return plan
