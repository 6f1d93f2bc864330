"""Another judge for trajectories that are there: its scores beside the others, and how easily text moves it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.judges import Judge
from holdfast.judges.rubric.judge import Readings
from holdfast.records import Score
from holdfast.records.errors import StoreError, StudyError, did_you_mean
from holdfast.records.extensions import allow
from holdfast.records.inputs import read_settings
from holdfast.rollout.dialogues import Speakers
from holdfast.runs.plan.settings import SpeakerModel
from holdfast.runs.plan.step import Means
from holdfast.runs.steps.judging import open_judge_of, score_all
from holdfast.runs.steps.outcomes import in_batches
from holdfast.runs.steps.reading import open_speakers
from holdfast.store import DATABASE, Store
from holdfast.study.kinds import named_in, rates_users
from holdfast.study.noted import check_opened, choose_endpoints, read_noted
from holdfast.study.sections import JudgeTable
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL, PRACTICE

BATCH = 50  # trajectories that are judged at a time and committed together
# Parts of the cases whose episodes a judge of agents can read: held-out and training cases, and what is made of them.
JUDGED = (None, "attack", "shift")
# The same for judges of simulated users.
OF_APPROVAL = (PRACTICE, APPROVAL)
TABLES = ("judges", "models", "endpoints")  # of a file of judges
Budget = Mapping[str, float | None]


def rescore(
    run_path: Path,
    name: str,
    file: Path | None = None,
    *,
    budget: Budget | None = None,
    trusted: bool = False,
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Judge every trajectory of a run that this judge has not scored; counts of what was done.

    ``progress`` gets how many are judged, of how many, and how many a second once that can be told; ``tell`` a line for
    what a reader of the scores must know, such as a judge whose replies cannot be read.

    ``name`` is a judge of ``file``, of the run's study, or a model's name, which then judges by the default rubrics.
    Scores are committed as they come, so that a stopped command goes on where it was. How the judge's model is reached
    is what ``file`` says, or the provider's own way; the addresses and keys that the run names are ``trusted`` or not
    taken. Errors: StudyError, StepError.
    """
    if not (run_path / DATABASE).is_file():
        raise StoreError(f"{run_path}: no run here (no {DATABASE}); make one with `holdfast run`")
    with Store(run_path, writable=True) as store:
        asked = find_judge(name, file, store, budget, trusted=trusted)
        parts = OF_APPROVAL if rates_users(asked.section.kind) else JUDGED
        stored = [identity for part in parts for identity in store.trajectory_ids(part=part)]
        waiting = find_waiting(store, asked, stored)
        counts = {"judged": 0, "before": len(stored) - len(waiting), "scores": 0, "missing": 0}
        started = time.monotonic()
        readings = Readings(asked.judge)
        for batch, scores in judge_stored(store, asked, waiting):
            readings.add(scores)
            counts["judged"] += batch
            counts["scores"] += sum(score.value is not None for score in scores)
            counts["missing"] += sum(score.value is None for score in scores)
            seconds = time.monotonic() - started
            progress(counts["judged"], len(waiting), counts["judged"] / seconds if seconds > 1 else None)
    for line in readings.tell():
        tell(line)
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundJudge:
    """A judge with its table, the model behind it, and how that is reached."""

    judge: Judge
    section: JudgeTable
    speaker: SpeakerModel | None
    means: Means

    def open_model(self, store: Store | None) -> contextlib.AbstractContextManager[Speakers]:
        """The model that judges; calls go to the run's ledger, without a store to one that is gone afterwards."""
        return open_speakers({} if self.speaker is None else {"judge": self.speaker}, self.means, store)


def find_judge(
    name: str, file: Path | None, store: Store | None, budget: Budget | None = None, *, trusted: bool = False
) -> FoundJudge:
    """The judge ``name`` of ``file``, of a run's study, or a model's name.

    Where its model is reached comes from ``file`` or from the provider, from the run only where that is ``trusted``.
    Errors: StudyError.
    """
    study = _find_judges(name, file, store, trusted)
    with _naming(file, name):
        section, speaker, endpoints = study.judges[name], None, {}
        study.check_prices((budget or {}).get("max_cost"))
        if section.model is not None:
            entry = study.entry(section.model)
            if entry.kind in ("tiny", "random"):
                raise StudyError(
                    f"judges.{name}.model is made by a study; judge with it there, or give a model's directory"
                )
            speaker = SpeakerModel(model=section.model, entry=entry)
            endpoints = {section.model: study.endpoint(section.model)}
        means = Means(endpoints=endpoints, budget=dict(budget or {}))
        return FoundJudge(judge=open_judge_of(name, section, speaker), section=section, speaker=speaker, means=means)


def find_waiting(store: Store, asked: FoundJudge, ids: Sequence[str]) -> list[str]:
    """The trajectories among ``ids`` that a judge has not scored under all of its rubrics."""
    judge = asked.judge
    rubrics = {objective: judge.rubric_of(objective) for objective in judge.objectives}
    done = store.scored_by(judge.name, rubrics, asked.section.repeats)
    return [one for one in ids if one not in done]


def judge_stored(store: Store, asked: FoundJudge, ids: Sequence[str]) -> Iterator[tuple[int, list[Score]]]:
    """Judge trajectories of a run, a batch at a time: how many, and their scores once they are committed.

    Errors: StepError for an outage of the judge's model; what was committed stays.
    """
    with asked.open_model(store) as speakers:
        for batch in in_batches(ids, BATCH):
            items = [(store.case(one.case_id), one) for one in store.trajectories(batch)]
            scores = score_all(asked.judge, items, speakers)
            with store.transaction():
                for score in scores:
                    store.add_score(score)
            yield len(batch), scores


@contextlib.contextmanager
def _naming(file: Path | None, name: str) -> Iterator[None]:
    """Put the file that a judge stands in, or the option that names it, before what is wrong with it."""
    try:
        yield
    except StudyError as error:
        place = str(file) if file is not None else f"--with {name!r}"
        raise error if str(error).startswith(place) else StudyError(f"{place}: {error}") from error


def _find_judges(name: str, file: Path | None, store: Store | None, trusted: bool) -> Study:
    """A study that knows the judge ``name``: of a file, of the run, or made of a model's name."""
    given = {} if file is None else read_judges(file)
    noted = {} if store is None else read_noted(store)
    own, judges, models = noted.get("judges") or {}, dict(given.get("judges", {})), given.get("models", {})
    if name in judges and name in own and judges[name] != own[name]:
        raise StudyError(f"{file}: the run's study has another judge {name!r}; give this one a name of its own")
    if name not in judges and "/" in name:
        judges[name] = {"kind": "rubric", "model": name}
    elif name not in judges and name in own:
        judges[name] = own[name]
    if name not in judges:
        known, near = ", ".join([*judges, *own]) or "none", did_you_mean(name, [*judges, *own], after=" ")
        raise StudyError(
            f"--with {name!r}: no such judge; there are: {known}; {near}give --judges FILE or a model's name"
        )
    wanted = judges[name].get("model") if isinstance(judges[name], dict) else None
    used = [wanted] if isinstance(wanted, str) else []
    raw: dict[str, Any] = {"study": {"name": "judges"}, "judges": judges, "models": dict(models)}
    # Who writes PROVIDER/NAME means that, whatever the run calls so.
    if store is not None and (judges[name] is own.get(name) or not any("/" in model for model in used)):
        of_run = noted.get("models") or {}
        raw["models"] |= {model: of_run[model] for model in used if model in of_run and model not in models}
        check_opened({model: of_run[model] for model in raw["models"].keys() - models.keys()}, store)
        section = noted.get("model") or {}
        if bases := [model for model in used if model in section.get("bases", ())]:
            raw["model"] = {**section, "bases": bases}  # in this process
    raw["endpoints"] = choose_endpoints(used, store, given.get("endpoints", {}), trusted=trusted)
    if any(isinstance(table, dict) and rates_users(table.get("kind")) for table in judges.values()):
        # Judges of users stand in a study that has some; which they are changes nothing here.
        raw |= {"suite": {"name": APPROVAL}, "approval": {"settings": {"users": {}}}}
    with _naming(file, name):
        return Study.model_validate(raw)


def read_judges(file: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file of judges. Errors: StudyError."""
    tables = read_settings(file, "a TOML file")
    for key, table in tables.items():
        if key not in TABLES:
            raise StudyError(f"{file}: holds [{key}]; a file of judges has {', '.join(TABLES)}")
        if not isinstance(table, dict):
            raise StudyError(f"{file}: {key} is no table; write [{key}.NAME]")
    for name, entry in tables.get("models", {}).items():
        if isinstance(entry, dict) and "start" in entry:
            raise StudyError(
                f"{file}: models.{name}.start is for bases of a study, and a judge is taught nothing; remove it"
            )
    allow(named_in(tables))
    return tables


def try_canaries(
    name: str,
    file: Path | None = None,
    *,
    run_path: Path | None = None,
    budget: Budget | None = None,
    trusted: bool = False,
) -> dict[str, Any]:
    """How often text that an agent or a tool wrote moves a judge's score: a document of flip rates.

    With ``run_path`` the judge may be one of that run's study, and calls go to that run's ledger; without, replies are
    kept nowhere.
    """
    from holdfast.judges.canaries import run_canaries

    with contextlib.ExitStack() as opened:
        store = None if run_path is None else opened.enter_context(Store(run_path))
        asked = find_judge(name, file, store, budget, trusted=trusted)
        if rates_users(asked.section.kind):
            with _naming(file, name):
                raise StudyError(
                    f"judges.{name}.kind is {asked.section.kind!r}, which reads simulated users alone; canaries are for"
                    " judges of agents, of kind rubric or rules"
                )
        return run_canaries(asked.judge, opened.enter_context(asked.open_model(store)))
