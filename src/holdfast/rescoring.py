"""Another judge for trajectories that are there: its scores beside the others, and how easily text moves it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.errors import StoreError, StudyError
from holdfast.forks import ENDPOINTS_KEY, STUDY_KEY
from holdfast.incentives import APPROVAL, PRACTICE
from holdfast.inputs import read_settings
from holdfast.laboratory import RATERS
from holdfast.plan import Step
from holdfast.records import content_id
from holdfast.steps.judging import open_step_judge, score_all
from holdfast.steps.reading import cases_of
from holdfast.steps.speakers import open_speakers
from holdfast.store import DATABASE, Store
from holdfast.study import Study

BATCH = 50  # trajectories that are judged at a time and committed together
# Parts of the cases whose episodes a judge of agents can read: held-out and training cases, and what is made of them.
JUDGED = (None, "attack", "shift")
# The same for judges of simulated users.
OF_APPROVAL = (PRACTICE, APPROVAL)
Budget = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescoring:
    """How far it is: trajectories ``judged`` of the ``total`` that had no score by this judge."""

    judged: int
    total: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Trajectories a second, once that can be told."""
        return self.judged / self.seconds if self.seconds > 1 else None


def rescore(
    run_path: Path,
    name: str,
    file: Path | None = None,
    *,
    budget: Budget | None = None,
    progress: Callable[[Rescoring], None] = lambda _: None,
) -> dict[str, int]:
    """Judge every trajectory of a run that this judge has not scored; counts of what was done.

    ``name`` is a judge of ``file``, of the run's study, or a model's name, which then judges by the default rubrics.
    Scores are committed as they come, so that a stopped command goes on where it was. Errors: StudyError, StepError.
    """
    if not (run_path / DATABASE).is_file():
        raise StoreError(f"{run_path}: no run here (no {DATABASE}); make one with `holdfast run`")
    with Store(run_path, writable=True) as store:
        step = find_judge_step(name, file, store, budget)
        judge = open_step_judge(step)
        rubrics = {objective: judge.rubric_of(objective) for objective in judge.objectives}
        before = store.scored_by(judge.name, rubrics, step.settings["section"]["repeats"])
        parts = OF_APPROVAL if _rates_approval(step) else JUDGED
        waiting = [one for part in parts for one in store.trajectory_ids(part=part) if one not in before]
        counts = {"judged": 0, "before": len(before), "scores": 0, "missing": 0}
        started = time.monotonic()
        with open_speakers(step, store) as speakers:
            for batch in _batches(waiting):
                cases = cases_of(store)
                items = [(cases[one.case_id], one) for one in store.trajectories(batch)]
                scores = score_all(judge, items, speakers)
                with store.transaction():
                    for score in scores:
                        store.add_score(score)
                counts["judged"] += len(batch)
                counts["scores"] += sum(score.value is not None for score in scores)
                counts["missing"] += sum(score.value is None for score in scores)
                seconds = time.monotonic() - started
                progress(Rescoring(judged=counts["judged"], total=len(waiting), seconds=seconds))
    return counts


def find_judge_step(name: str, file: Path | None, store: Store, budget: Budget | None = None) -> Step:
    """A judge step for the judge ``name`` of ``file``, of a run's study, or a model's name; it stands in no plan.

    Errors: StudyError.
    """
    return _judge_step(name, _find_judges(name, file, store), budget)


def _rates_approval(step: Step) -> bool:
    return step.settings["section"]["kind"] in RATERS


def _batches(names: list[str]) -> Iterator[list[str]]:
    waiting = iter(names)
    while batch := list(islice(waiting, BATCH)):
        yield batch


def _find_judges(name: str, file: Path | None, store: Store | None) -> Study:
    """A study that knows the judge ``name``: of a file, of the run, or made of a model's name."""
    raw: dict[str, Any] = {"study": {"name": "judges"}, "judges": {}}
    if store is not None and (noted := store.meta(STUDY_KEY)) is not None:
        settings = json.loads(noted)
        raw |= {key: settings[key] for key in ("judges", "models", "model") if key in settings}
        raw["endpoints"] = json.loads(store.meta(ENDPOINTS_KEY) or "{}")
    if file is not None:
        found = read_settings(file, "a TOML file")
        for key in ("judges", "models", "endpoints"):
            given = found.pop(key, {})
            if not isinstance(given, dict):
                raise StudyError(f"{file}: {key} is no table; write [{key}.NAME]")
            if key == "judges" and name in raw[key] and name in given and raw[key][name] != given[name]:
                raise StudyError(f"{file}: the run's study has another judge {name!r}; give this one a name of its own")
            raw[key] = {**raw.get(key, {}), **given}
        if found:
            raise StudyError(f"{file}: holds [{next(iter(found))}]; a file of judges has judges, models and endpoints")
    if name not in raw["judges"] and "/" in name:
        raw["judges"][name] = {"kind": "rubric", "model": name}
    if name not in raw["judges"]:
        known = ", ".join(raw["judges"]) or "none"
        raise StudyError(f"--with {name!r}: no such judge; there are: {known}; give --judges FILE or a model's name")
    if any(isinstance(one, dict) and one.get("kind") in RATERS for one in raw["judges"].values()):
        # Judges of users stand in a study that has some; which they are changes nothing here.
        raw |= {"suite": {"name": APPROVAL}, "approval": {"settings": {"users": {}}}}
    return Study.model_validate(raw)


def _judge_step(name: str, study: Study, budget: Budget | None) -> Step:
    """A judge step that stands in no plan: it says which judge, and how its model is reached."""
    section = study.judges[name]
    study.check_prices((budget or {}).get("max_cost"))
    settings: dict[str, Any] = {"judge": name, "section": section.model_dump(mode="json")}
    means: dict[str, Any] = {"budget": dict(budget or {})}
    if section.model is not None:
        entry = study.entry(section.model)
        if entry.kind in ("tiny", "random"):
            raise StudyError(
                f"judges.{name}.model is made by a study; judge with it there, or give a model's directory"
            )
        settings["speaker"] = {"model": section.model, "entry": entry.model_dump(mode="json")}
        means["endpoints"] = {section.model: study.endpoint(section.model).model_dump(mode="json")}
    return Step(
        fingerprint=content_id("rescore", settings),
        kind="judge",
        name=f"judge by {name}",
        inputs=(),
        settings=settings,
        size=0,
        unit="trajectories",
        means=means,
    )


def try_canaries(
    name: str, file: Path | None = None, *, run_path: Path | None = None, budget: Budget | None = None
) -> dict[str, Any]:
    """How often text that an agent or a tool wrote moves a judge's score: a document of flip rates.

    With ``run_path`` the judge may be one of that run's study, and calls go to that run's ledger; without, replies are
    kept nowhere.
    """
    from holdfast.judges.canaries import run_canaries

    if run_path is None:
        step = _canary_step(name, _find_judges(name, file, None), budget)
        with open_speakers(step, None) as speakers:
            return run_canaries(open_step_judge(step), speakers)
    with Store(run_path) as store:
        step = _canary_step(name, _find_judges(name, file, store), budget)
        with open_speakers(step, store) as speakers:
            return run_canaries(open_step_judge(step), speakers)


def _canary_step(name: str, study: Study, budget: Budget | None) -> Step:
    step = _judge_step(name, study, budget)
    if _rates_approval(step):
        kind = step.settings["section"]["kind"]
        raise StudyError(
            f"judges.{name}.kind is {kind!r}, which reads simulated users alone; canaries are for judges of agents, of"
            " kind rubric or rules"
        )
    return step
