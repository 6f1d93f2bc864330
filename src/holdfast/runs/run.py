"""Carries out a study's plan against a store, and opens what came of it.

``run`` does what is missing and nothing else: a finished step is never repeated, a killed one goes on at its
last committed batch, and a study that changed is refused by the names of its changed keys. A failed step
stops only what depends on it. ``fork_run`` starts a new run from what of an old one a changed study still needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.records import Analysis, Estimate, Frontier, Verdict
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.records.outputs import new_directory, write_file
from holdfast.records.processes import without_collection
from holdfast.runs.build import build
from holdfast.runs.engines.opening import name_engine
from holdfast.runs.execution import Listener, execute
from holdfast.runs.methods.command.look import check_commands
from holdfast.runs.plan.settings import JudgeSettings
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.readiness import look_around
from holdfast.runs.steps.outcomes import describe_failure
from holdfast.runs.steps.reading import require_same_weights
from holdfast.runs.steps.rollout import MUCH_CUT, tell_cut
from holdfast.store import DATABASE, Store
from holdfast.store.cells import score_rows
from holdfast.store.copying import fill_copy, read_analysis, read_logs
from holdfast.store.database import PRIVATE_DIRECTORY, PRIVATE_FILE
from holdfast.store.joined import tell_joined
from holdfast.store.origins import INSPECT, describe_undeclared, read_declarations, read_log_states, read_undeclared
from holdfast.store.places import ANALYSIS_FILE, ENDPOINTS_KEY, EXTERNAL_KEY, FORKED_KEY, STATE_KEY, STUDY_KEY
from holdfast.store.steplog import PLAN_KEY, StepStatus
from holdfast.study.checks import check_taught
from holdfast.study.kinds import JUDGES, kind_of
from holdfast.study.noted import read_noted
from holdfast.study.stages import ExternalSection
from holdfast.study.study import Study, changed_keys, load, without_places
from holdfast.suites import check_suite
from holdfast.suites.parts import collect_cases

DEFAULT_DRAWS = 10_000  # resamples, where no study says
EMBEDDED_NOTES = (
    "an instrument check on tiny models made by the study itself: not evidence about large language models",
    "the demonstrations' mixture of scripted agents decides where points can lie, and so builds part of the"
    " frontier in",
)
RANDOM_NOTE = "bases of random weights: a check that every part runs; no number here says anything about a model"
_NAMED = 2  # roll-out steps that a line names


def prepare(study: Study, store: Store) -> None:
    """Put the study and its cases into a run that has none. Errors: StudyError."""
    check_suite(study.suite, study.judges)
    check_taught(study)
    seeds = [int(seed) for seed in study.axes.get("split_seed", (study.suite.split_seed,))]
    with store.transaction():
        for seed in seeds:
            parts = collect_cases(study, seed)
            for cases in parts.values():
                store.add_cases(cases)
            store.add_split(seed, {part: [case.id for case in cases] for part, cases in parts.items()})
        note_study(study, store)


def note_study(study: Study, store: Store) -> None:
    """Write into a run which study makes it, and what reading it later must know of kinds of judges from elsewhere."""
    store.set_meta(STUDY_KEY, json.dumps(study.settings(), sort_keys=True))
    own = {name: kind_of(one) for name, one in study.judges.items() if one.kind not in JUDGES.shipped}
    if state := sorted(name for name, kind in own.items() if kind.reads_state):
        store.set_meta(STATE_KEY, json.dumps(state))


def _places_of(study: Study) -> dict[str, str]:
    """By digest, where the checkpoints of training elsewhere lie."""
    stages = [one for one in study.stages.values() if isinstance(one, ExternalSection)]
    return {digest: place for one in stages for digest, place in zip(one.digests, one.places, strict=True)}


def _open_for(study: Study, output: Path) -> Store:
    """The run at ``output``, new or of this very study. Errors: StudyError naming the changed keys."""
    if not (output / DATABASE).is_file() and (problems := look_around(study)[0]):
        raise StudyError(problems[0])
    store = Store.open_or_create(output)
    try:
        if (noted := store.meta(STUDY_KEY)) is None:
            if store.counts()["cases"] and store.meta(FORKED_KEY) is None:
                raise StudyError(f"{output}: holds an imported run, not a study; choose another output")
            prepare(study, store)
            return store
        settings: dict[str, Any] = json.loads(noted)
        # As this version writes them: a key that is new has its default.
        with contextlib.suppress(StudyError):
            settings = json.loads(json.dumps(Study.model_validate(settings).settings()))
        now = json.loads(json.dumps(study.settings()))
        changes = changed_keys(without_places(settings), without_places(now))
        if not changes and settings != now:
            note_study(study, store)  # what is held by digest has been moved
        if changes:
            shown = "; ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")
            raise StudyError(
                f"{output}: was made by a different study: {shown}. Choose another output,"
                " or add `--fork NEW_RUN` to `holdfast run` to start a new run that reuses the steps that still match"
            )
        require_same_weights(store)
    except BaseException:
        store.close()
        raise
    return store


class Run:
    """A run directory: its scores, estimates and report."""

    def __init__(self, path: Path | str) -> None:
        """Open a run. Errors: StoreError where there is none."""
        self.path = Path(path)
        if not (self.path / DATABASE).is_file():
            raise StoreError(f"{self.path}: no run here (no {DATABASE}); make one with `holdfast run`")
        self._analysis: Analysis | None = None

    def store(self) -> Store:
        """The run's store, to read in a ``with`` block."""
        return Store(self.path)

    def scores(self, part: str | None = None) -> list[dict[str, Any]]:
        """One row per checkpoint × case × objective × rollout × judge × repeat; a missing value is None.

        ``part`` is one of the parts beside the cases to train on and the held-out ones (``attack``, ``shift``,
        ``probe``), or "all".
        """
        with self.store() as store:
            return list(score_rows(store, part))

    def analysis(self, *, draws: int | None = None) -> Analysis:
        """Every estimate of the run; computed once."""
        if self._analysis is None or draws is not None:
            with Store(self.path, check="beside") as store:
                draws = draws or read_noted(store).get("study", {}).get("draws", DEFAULT_DRAWS)
                found = _analyze(store, draws)
            self._analysis = found
        return self._analysis

    def conclude(self, store: Store, step: Step) -> None:
        """Carry out the analyze step, and keep its document beside the run's database; again where it has changed."""
        path = self.path / ANALYSIS_FILE
        status = store.log.steps().get(step.fingerprint)
        if status is not None and status.status == "done" and path.is_file():
            noted = status.result.get("digest")  # earlier versions noted none
            if noted in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
                return
        with store.transaction():
            store.log.begin(step.fingerprint, step.kind, step.name)
        started = time.process_time()
        try:
            from holdfast.analysis import document

            self._analysis = _analyze(store, step.size)
            write_file(path, json.dumps(document(self._analysis), indent=1, allow_nan=False))
        except Exception as error:
            failure = describe_failure(error, self.path)
            with store.transaction():
                result = {"error": failure.message, "log": failure.log}
                store.log.finish(step.fingerprint, result, status="failed")
            raise StepError(f"{step.name}: {failure.message}; repeat the command to retry") from error
        path.chmod(PRIVATE_FILE)
        with store.transaction():
            seconds = round(time.process_time() - started, 3)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            store.log.finish(step.fingerprint, {"file": ANALYSIS_FILE, "digest": digest, "cpu_seconds": seconds})

    def persistence(self, objective: str) -> list[Estimate]:
        """Estimates of induced, erosion, retained and persistence for one objective."""
        return [row for row in self.analysis().persistence if row.objective == objective]

    def frontier(self, first: str, second: str) -> list[Frontier]:
        """The frontiers in the plane of two objectives, named in either order; their x is helpfulness."""
        wanted = {first, second}
        return [one for one in self.analysis().frontiers if {one.x_objective, one.y_objective} == wanted]

    def report(
        self, verdicts: Sequence[Verdict] = (), notes: Sequence[str] = (), *, output: Path | None = None
    ) -> Path:
        """Write the report into the folder ``output``, by default ``report`` in the run; the path of its page.

        ``verdicts`` are those of a gate (``holdfast report`` asks ``holdfast.decisions.gate`` for them); ``notes``
        stand after the analysis' own.
        """
        from holdfast.report import write_report

        analysis = self.analysis()
        analysis = replace(analysis, notes=(*analysis.notes, *notes))
        with self.store() as store:
            name = read_noted(store).get("study", {}).get("name", self.path.name)
            return write_report(store, analysis, output, title=name, verdicts=verdicts)


@without_collection()
def _analyze(store: Store, draws: int) -> Analysis:
    from holdfast.analysis import analyze

    return analyze(store, draws=draws, measures=measures(store), notes=notes(store))


def notes(store: Store) -> tuple[str, ...]:
    """What a reader of a run must know first: a study that makes its own bases is a check of the instrument.

    Of a joined run, in what its sources differed; of an imported one, which values nobody declared, and what the import
    noted.
    """
    settings = read_noted(store)
    models = settings.get("models", {})
    entries = [models.get(name, {"kind": name}) for name in settings.get("model", {}).get("bases", ())]
    # What is opened where it lies was not made by the study.
    kinds = [entry.get("kind") for entry in entries if not entry.get("name")]
    lines = [*EMBEDDED_NOTES] if "tiny" in kinds else []
    lines += [RANDOM_NOTE] if "random" in kinds else []
    steps = store.log.steps().values()
    # The same judge is told of for every checkpoint that it scored: once each is enough.
    lines += dict.fromkeys(line for one in steps if one.kind != "rollout" for line in one.result.get("notes", ()))
    return (*_tell_limits(steps), *lines, *tell_joined(store), *tell_origins(store), *filter(None, (store.doubt,)))


def _tell_limits(steps: Iterable[StepStatus]) -> Iterator[str]:
    """How many episodes ended at which limit, of the roll-out steps in which many did, and which steps those are."""
    rolled = [one for one in steps if one.kind == "rollout" and one.status == "done"]
    found: dict[tuple[str, float], list[StepStatus]] = {}
    for one in rolled:
        for key, (count, limit) in one.result.get("cut_off", {}).items():
            if count >= MUCH_CUT * one.result["episodes"]:
                found.setdefault((key, limit), []).append(one)
    for (key, limit), some in found.items():
        count, episodes = (sum(values) for values in zip(*(_cut_of(one, key) for one in some), strict=True))
        names = [one.name.removeprefix("roll out ") for one in some]
        more = f"; {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        # Where it is so in all, that is no news of some.
        whose = "" if len(some) == len(rolled) else f" ({'; '.join(names[:_NAMED])}{more})"
        yield tell_cut(count, episodes, key, limit, whose)


def _cut_of(step: StepStatus, key: str) -> tuple[int, int]:
    """How many episodes of a roll-out step ended at a limit, and how many it has."""
    return step.result["cut_off"][key][0], step.result["episodes"]


def tell_origins(store: Store) -> Iterator[str]:
    """Of an imported run, what scores were not taken, or taken as they were by an earlier version; its logs' state."""
    for values in read_undeclared(store):
        yield (
            f"inspect judge {describe_undeclared(values)}: direction not declared: no score was taken; import again"
            f" with --score 'OBJECTIVE=+{values.key}[LOW,HIGH]' where high is good, or"
            f" 'OBJECTIVE=-{values.key}[LOW,HIGH]' where high is bad"
        )
    if read_declarations(store) is None:
        for judge in store.judge_names(INSPECT):
            yield (
                f"{judge}: direction not declared: an earlier version took its values as they were, and which end is"
                " good is not known; import the logs again into a new run with --score"
            )
    for log in read_log_states(store):
        if not log.complete:
            yield f"the log {log.file} is of status {log.status}, and {log.lacking:,} of its rollouts are absent"


def check_run(store: Store, kept: str = "") -> tuple[str, list[str]]:
    """The run's digest as text, and what of it is gone; its weights, logs and analysis are held against theirs first.

    Errors: StoreError where something differs, or where the digest is not the one that was ``kept``; StudyError where
    the run has none.
    """
    digest = store.digest()
    if digest is None:
        raise StudyError(f"{store.path}: {store.doubt}")
    if kept and kept.strip().lower() != digest:
        raise StoreError(
            f"{store.path}: has the digest {digest}, not the one that was kept; it is not that run any more"
        )
    gone = []
    for place, checkpoint in {one.path: one for one in store.checkpoints() if one.path is not None}.items():
        if (store.path / place).is_dir():
            store.weights(checkpoint)
        else:
            gone.append(f"{place} ({checkpoint.name})")
    gone += [str(path.relative_to(store.path)) for path, data in read_logs(store) if data is None]
    if read_analysis(store) is None and any(one.kind == "analyze" for one in store.log.steps().values()):
        gone.append(ANALYSIS_FILE)
    return digest, gone


def planned_steps(store: Store) -> int | None:
    """How many steps the study of a run has; None for a run without a study of this version."""
    try:
        return len(build(Study.model_validate(read_noted(store))).steps)
    except StudyError:
        return None


def measures(store: Store) -> dict[str, dict[str, float]]:
    """What training and rollout steps measured of each checkpoint: KL in nats, drift in nats, steps, pairs."""
    numbers: dict[str, dict[str, float]] = {}
    for status in store.log.steps().values():
        result = status.result
        if "measures" in result:
            numbers.setdefault(result["checkpoint"], {}).update(result["measures"])
        for dose in result.get("doses", ()):
            numbers.setdefault(dose["checkpoint"], {}).update({k: v for k, v in dose.items() if k != "checkpoint"})
    return {name: {k: float(v) for k, v in row.items() if v is not None} for name, row in numbers.items()}


def begin(study: Study, output: Path) -> None:
    """Make the run of a study, or find it as it is, and carry out nothing. Errors: StudyError, StoreError."""
    _open_for(study, output).close()


def default_output(name: str) -> Path:
    """Where the run of the study with this name goes if nobody says: below the working directory."""
    return Path("runs") / name


def run(
    study: Study | Path | str,
    output: Path | str | None = None,
    *,
    workers: int | None = None,
    listener: Listener = lambda _: None,
    fork: Path | str | None = None,
    max_calls: int | None = None,
    max_cost: float | None = None,
    allow_command: bool = False,
    engine: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Run:
    """Do what is missing of a study in the run at ``output`` (by default ``runs/NAME``) and open it.

    ``max_calls`` and ``max_cost`` bound what the run spends on remote models, all executions together; beyond them it
    stops and can be taken up with more.

    ``fork`` names a new directory for a study that differs from the one in ``output``: the new run starts
    with every finished step of ``output`` that the study still needs.

    ``engine`` says where steps are carried out ("local", "ray", "ray:ADDRESS", "slurm", "jobs"), by default what
    ``HOLDFAST_ENGINE`` says, else on this machine; results are the same. ``warn`` is given what of a cluster's machines
    people should know.

    Commands of stages are carried out where a study file that was loaded in this process holds them; ``allow_command``
    lets those of a study that was made otherwise be carried out too. Errors: StudyError before anything is spent,
    StepError where a step failed.
    """
    if not isinstance(study, Study):
        study = load(study)
    engine = name_engine(engine)
    check_commands(study, allow_command)
    plan = build(study)
    study.check_prices(max_cost)
    output = default_output(study.study.name) if output is None else Path(output)
    if fork is not None:
        fork_run(output, Path(fork), plan)
        output = Path(fork)
    store = _open_for(study, output)
    with store:
        with store.transaction():
            store.set_meta(PLAN_KEY, json.dumps([step.fingerprint for step in plan.steps]))
            if places := _places_of(study):
                store.set_meta(EXTERNAL_KEY, json.dumps(places, sort_keys=True))
            store.set_meta(ENDPOINTS_KEY, json.dumps(study.model_dump(mode="json")["endpoints"], sort_keys=True))
        budget = {"max_calls": max_calls, "max_cost": max_cost}
        execute(
            plan, store, workers=workers or study.run.workers, listener=listener, budget=budget, where=engine, warn=warn
        )
        opened = Run(output)
        opened.conclude(store, plan.steps[-1])
    return opened


# --- a new run from an old one: what a changed study can still use is copied, the rest is left behind -------------

# What a step made goes with it; what nothing refers to any more goes last.
_PRUNE = """
DELETE FROM meta WHERE key = 'study';
DELETE FROM steps WHERE fingerprint NOT IN (SELECT fingerprint FROM wanted) OR status <> 'done';
DELETE FROM batches WHERE fingerprint NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM pairs WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM logprobs WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM scores WHERE NOT EXISTS
  (SELECT 1 FROM wanted_scores w JOIN trajectories t ON t.step = w.step JOIN judges j ON j.name = w.judge
   WHERE t.key = scores.trajectory AND j.key = scores.judge)
  AND trajectory NOT IN (SELECT key FROM trajectories WHERE step IN (SELECT fingerprint FROM wanted_brought));
DELETE FROM judges WHERE key NOT IN (SELECT judge FROM scores);
DELETE FROM trajectories WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM checkpoints WHERE id NOT IN (SELECT id FROM wanted_checkpoints)
  AND key NOT IN (SELECT checkpoint FROM trajectories);
DELETE FROM splits;
DELETE FROM cases WHERE key NOT IN (SELECT case_key FROM trajectories);
DELETE FROM texts WHERE key NOT IN (SELECT text FROM trajectories UNION SELECT text FROM cases
  UNION SELECT reply FROM scores WHERE reply IS NOT NULL);
"""


def fork_run(source: Path, target: Path, plan: Plan) -> None:
    """Make a run at ``target`` with every finished step of ``source`` that ``plan`` needs; ``source`` is not touched.

    A target that is there already is left as it is, so that a fork that was begun goes on. Errors: StoreError
    where ``source`` holds no run, StudyError where it holds no study's or ``target`` cannot be written.
    """
    with Store(source) as store:
        if store.meta(STUDY_KEY) is None:
            raise StudyError(
                f"{source}: holds no study's run; there is nothing to fork, run the study into a new output"
            )
    if target.exists():
        return
    remedy = "choose another place for the fork"
    with new_directory(target, remedy=remedy) as part:
        part.chmod(PRIVATE_DIRECTORY)
        try:
            fill_copy(source, part, lambda db: _prune(db, source, plan))
        except sqlite3.OperationalError as error:
            raise StudyError(f"{target}: cannot write a run here ({error}); {remedy}") from error


def _prune(db: sqlite3.Connection, source: Path, plan: Plan) -> None:
    """Take out what a plan has no use for, inside the transaction of a copy."""
    begun = {row[0] for row in db.execute("SELECT fingerprint FROM main.steps")}
    judged = [
        (step.inputs[0], step.settings.judge)
        for step in plan.steps
        if isinstance(step.settings, JudgeSettings) and step.fingerprint in begun
    ]
    db.execute("CREATE TEMP TABLE wanted_scores (step TEXT, judge TEXT, PRIMARY KEY (step, judge))")
    db.executemany("INSERT INTO wanted_scores VALUES (?, ?)", judged)
    for table, key, names in (
        ("wanted", "fingerprint", {step.fingerprint for step in plan.steps}),
        ("wanted_brought", "fingerprint", {step.fingerprint for step in plan.steps if step.kind == "bring"}),
        ("wanted_checkpoints", "id", {checkpoint.id for step in plan.steps for checkpoint in step.checkpoints}),
    ):
        db.execute(f"CREATE TEMP TABLE {table} ({key} TEXT PRIMARY KEY)")
        db.executemany(f"INSERT INTO {table} VALUES (?)", [(name,) for name in names])
    for statement in _PRUNE.split(";"):
        db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (FORKED_KEY, str(source.absolute())))
