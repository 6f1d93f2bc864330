"""Carries out the steps of a plan that are not done: which run next, and what is committed of their outcomes.

A finished step is never repeated, a killed one goes on at its last committed batch or its last saved state, and a
failed one stops only what depends on it. ``carry_out`` does the work of one step where an engine runs it, and never
writes to the run's database: records go to the one process that writes, in batches that it commits. Weights are written
to a temporary directory that the writer adopts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from holdfast.records.errors import HoldfastError, StepError
from holdfast.records.machine import describe_machine
from holdfast.records.processes import hand_back_memory, without_collection
from holdfast.runs.costs.outlook import Outlook
from holdfast.runs.engines import End, Engine, Failure, InProcess, Workers
from holdfast.runs.plan.settings import (
    BringSettings,
    JudgeSettings,
    MergeSettings,
    OpenSettings,
    PairSettings,
    RandomSettings,
    ReferenceSettings,
    RolloutSettings,
    StartSettings,
    TeachSettings,
    TrainSettings,
)
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.steps import bases, judging, references, rollout
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, Progress
from holdfast.runs.steps.reading import release_models, rest
from holdfast.store import Store, weights
from holdfast.store.database import PRIVATE_DIRECTORY, PRIVATE_FILE
from holdfast.store.places import LOGS, MACHINES_KEY
from holdfast.store.steplog import LOG_DIGESTS
from holdfast.store.weights import WEIGHTS
from holdfast.study.kinds import METHODS

_LONG_STEP = 20.0  # CPU seconds, of which a look for garbage is nothing
ProgressState = Literal["started", "running", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """How a run is getting on: one step (``done`` in its unit, ``seconds`` since it was started), and all steps.

    ``share`` is the part of the work this execution had before it that is done, by CPU time, and ``left`` are the
    seconds until all of it is, by what steps of each kind took so far.
    """

    step: Step
    done: int
    seconds: float
    steps_done: int
    steps_total: int
    share: float
    left: float
    state: ProgressState
    message: str = ""


Listener = Callable[[StepProgress], None]


@dataclass(slots=True)
class _Execution:
    """The state of one execution of a plan."""

    plan: Plan
    store: Store
    listener: Listener
    waiting: list[Step]
    done: set[str]
    outlook: Outlook
    running: dict[str, tuple[Step, float, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Sequence[str]] = field(default_factory=dict)  # of finished steps, for people

    def ready(self) -> Step | None:
        """The first waiting step whose inputs are all done."""
        return next((step for step in self.waiting if all(name in self.done for name in step.inputs)), None)

    def start(self, step: Step, engine: Engine) -> None:
        self.waiting.remove(step)
        with self.store.transaction():
            self.store.log.begin(step.fingerprint, step.kind, step.name)
        settings = step.settings
        batch = settings.limits.batch_size if isinstance(settings, RolloutSettings) else settings.batch
        done = min(step.size, len(self.store.log.batches(step.fingerprint)) * batch)
        self.running[step.fingerprint] = (step, time.monotonic(), done)
        self._tell(step, "started")
        engine.submit(step)

    def deliver(self, fingerprint: str, outcome: Any) -> None:
        """Take one outcome of a running step: commit it, and tell the listener."""
        step, started, done = self.running[fingerprint]
        if isinstance(outcome, Batch | Progress):
            if isinstance(outcome, Batch):
                self._commit(step, outcome)
                done += outcome.size
            else:
                step, done = replace(step, size=outcome.size or step.size), outcome.done
            self.running[fingerprint] = (step, started, done)
            self._tell(step, "running")
        elif isinstance(outcome, Finished):
            self._finish(step, outcome)
            cached = outcome.result.get("cached")
            self.outlook.finish(step, None if cached else outcome.result.get("cpu_seconds"), time.monotonic() - started)
            self.notes[fingerprint] = outcome.result.get("notes", ())
        elif isinstance(outcome, Failure):
            with self.store.transaction():
                self.store.log.finish(fingerprint, {"error": outcome.message, "log": outcome.log}, status="failed")
            self.failed[fingerprint] = outcome.message
            self._tell(step, "failed", outcome.message)
            del self.running[fingerprint]
        elif isinstance(outcome, End):
            self.done.add(fingerprint)
            self.running[fingerprint] = (step, started, step.size)
            lines = [*self.notes.pop(fingerprint, ()), self._read_scores(step) if step.kind == "judge" else ""]
            self._tell(step, "done", " · ".join(filter(None, lines)))
            del self.running[fingerprint]

    def _commit(self, step: Step, batch: Batch) -> None:
        with self.store.transaction():
            for checkpoint in batch.checkpoints:
                self.store.add_checkpoint(checkpoint)
            for trajectory, text in batch.trajectories:
                self.store.add_trajectory(trajectory, text, step=step.fingerprint)
            for score in batch.scores:
                self.store.add_score(score)
            self.store.add_logprobs(step.fingerprint, batch.logprobs)
            self.store.log.commit_batch(step.fingerprint, batch.number)

    def _finish(self, step: Step, finished: Finished) -> None:
        root = self.store.path / WEIGHTS
        made, logs = [], {}
        for checkpoint, directory in finished.checkpoints:
            if directory is None:
                made.append(replace(checkpoint, digest=checkpoint.digest or finished.result.get("digest")))
                continue
            digest = weights.adopt(directory, root)
            made.append(replace(checkpoint, path=f"{WEIGHTS}/{digest}", digest=digest))
        for kind, log in finished.logs.items():
            (self.store.path / LOGS).mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
            log.chmod(PRIVATE_FILE)
            logs[kind] = hashlib.sha256(log.read_bytes()).hexdigest()
            log.replace(self.store.path / LOGS / f"{step.fingerprint}{kind}.jsonl")
        with self.store.transaction():
            for checkpoint in made:
                self.store.add_checkpoint(checkpoint)
            if finished.pairs:
                self.store.add_pairs(step.fingerprint, finished.pairs)
            result = {**finished.result, **({LOG_DIGESTS: logs} if logs else {})}
            self.store.log.finish(step.fingerprint, result)
        shutil.rmtree(root / f"{weights.TEMPORARY}{step.fingerprint}", ignore_errors=True)

    def _read_scores(self, step: Step) -> str:
        """A line on a checkpoint that is evaluated now: its scores by this judge; empty for its training cases."""
        rolled = self.plan.step(step.inputs[0])
        assert isinstance(step.settings, JudgeSettings) and isinstance(rolled.settings, RolloutSettings)
        if rolled.settings.part != "test":
            return ""
        checkpoint = self.store.checkpoint(rolled.settings.checkpoint)
        means = self.store.mean_scores(rolled.fingerprint)
        shown = [
            f"{objective} {'–' if mean is None else f'{mean:.2f}'} ({count} scored)"
            for (judge, objective), (mean, count) in means.items()
            if judge == step.settings.judge
        ]
        return f"{checkpoint.name}: {', '.join(shown)}"

    def _tell(self, step: Step, state: ProgressState, message: str = "") -> None:
        _, started, done = self.running[step.fingerprint]
        now = time.monotonic()
        share, left = self.outlook.look(
            self.waiting, [(one, now - since, units) for one, since, units in self.running.values()]
        )
        self.listener(
            StepProgress(
                step=step,
                done=done,
                seconds=now - started,
                steps_done=len(self.done),
                steps_total=len(self.plan.steps),
                share=share,
                left=left,
                state=state,
                message=message,
            )
        )


def execute(
    plan: Plan,
    store: Store,
    *,
    workers: int,
    listener: Listener = lambda _: None,
    budget: Mapping[str, float | None] | None = None,
) -> None:
    """Carry out every step of a plan that is not done, but for the analysis.

    ``budget`` bounds calls to remote models: ``max_calls``, ``max_cost``. Errors: StepError naming the first.
    """
    wanted = [
        replace(step, means=replace(step.means, budget=dict(budget or {})))
        for step in plan.steps
        if step.kind != "analyze"
    ]
    known = store.log.steps()
    finished = {name for name, status in known.items() if status.status == "done"}
    done = finished & {step.fingerprint for step in wanted}
    waiting = [step for step in wanted if step.fingerprint not in done]
    if not waiting:
        return
    (store.path / WEIGHTS).mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
    _note_machine(store)

    def sweep() -> None:
        """Remove unfinished work that no step to come can take up."""
        weights.discard_leftovers(store.path / WEIGHTS, keep={step.fingerprint for step in wanted} - done)

    sweep()
    state = _Execution(plan, store, listener, waiting, done, Outlook(plan, waiting, known, workers))
    hand_back_memory()  # which looking at models took
    engine: Engine = Workers(carry_out, rest, store.path, workers) if workers > 1 else InProcess(carry_out, store.path)
    try:
        while True:
            while len(state.running) < engine.capacity and (step := state.ready()) is not None:
                state.start(step, engine)
            if not state.running:
                break
            engine.wait(state.deliver)
    finally:
        engine.close()
        sweep()
    if state.failed:
        fingerprint, message = next(iter(state.failed.items()))
        left = len(state.waiting)
        raise StepError(
            f"{plan.step(fingerprint).name}: {message} ({len(state.failed)} failed, {left} that depend on it not run);"
            f" see `holdfast show {store.path}`, then repeat the command to retry"
        )


def _note_machine(store: Store) -> None:
    """Note where steps are carried out from now on; the same machine with the same versions is noted once."""
    known, here = json.loads(store.meta(MACHINES_KEY) or "[]"), describe_machine()
    if here not in known:
        store.set_meta(MACHINES_KEY, json.dumps([*known, here]))


# --- one step, in the process of a worker: the run is read, never written ------------------------------------------


def carry_out(step: Step, run_path: Path, emit: Emit) -> None:
    """Carry out a step and give every outcome to ``emit``, last ``Finished``. Errors: any HoldfastError."""
    started = time.process_time()
    if isinstance(step.settings, TrainSettings | ReferenceSettings):
        release_models()
    # Whoever carries out the plan has checked the run.
    with Store(run_path, check=False) as store, _collection(step.settings):
        finished = _work(step, store, emit)
    seconds = round(time.process_time() - started, 3)
    if seconds >= _LONG_STEP:
        hand_back_memory()
    emit(replace(finished, result={**finished.result, "cpu_seconds": seconds}))


def _collection(settings: object) -> contextlib.AbstractContextManager[None]:
    """Without a look for garbage in cycles where tiny models alone speak, or none: that is over in seconds."""
    if not isinstance(settings, RolloutSettings | JudgeSettings):
        return contextlib.nullcontext()
    tiny = all(speaker.entry.kind == "tiny" for speaker in settings.speakers().values())
    return without_collection() if tiny else contextlib.nullcontext()


def _work(step: Step, store: Store, emit: Emit) -> Finished:
    match step.settings:
        case RolloutSettings() as settings:
            return rollout.roll_out(step, settings, store, emit)
        case JudgeSettings() as settings:
            return judging.judge_episodes(step, settings, store, emit)
        case PairSettings() as settings:
            return judging.make_pairs(step, settings, store)
        case ReferenceSettings() as settings:
            return references.take_reference(step, settings, store, emit)
        case BringSettings() as settings:
            return rollout.bring(step, settings, store, emit)
        case OpenSettings() as settings:
            return bases.open_base(step, settings.entry, store)
        case StartSettings() as settings:
            return bases.begin_with(step, settings, store)
        case TrainSettings() as settings:
            return _train(step, settings, store, emit)
    raise TypeError(f"{step.name}: nothing carries out {type(step.settings).__name__}")


def _train(step: Step, settings: TrainSettings, store: Store, emit: Emit) -> Finished:
    """New weights in the step's own directory, which the writer takes over."""
    with weights.open_scratch(store.path / WEIGHTS, step.fingerprint) as scratch:
        match settings:
            case TeachSettings():
                return bases.teach_base(step, settings, scratch, emit)
            case RandomSettings():
                return bases.make_base(step, settings, store, scratch)
            case MergeSettings():
                return bases.merge(step, settings, store, scratch)
        return _train_stage(step, settings, store, scratch, emit)


def _train_stage(step: Step, settings: TrainSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """A stage by its method. Errors: StepError where that does not leave weights for every checkpoint."""
    method = f"the method {settings.method!r}"
    try:
        finished = METHODS.find(settings.method).carry_out(step, settings, store, scratch, emit)
    except (HoldfastError, OSError, sqlite3.Error):
        raise
    except Exception as error:
        if settings.method in METHODS.shipped:
            raise
        raise StepError(f"{method} failed ({type(error).__name__}: {error}); mend the method") from error
    if not isinstance(finished, Finished):
        raise StepError(
            f"{method} gives {type(finished).__name__}, and no holdfast.runs.methods.Finished; mend the method"
        )
    made = {checkpoint.id: (checkpoint, directory) for checkpoint, directory in finished.checkpoints}
    for checkpoint in step.checkpoints:
        told, directory = made.pop(checkpoint.id, (checkpoint, None))
        if directory is None and told.model is not None and told.digest is not None:
            continue  # its weights stay where they are, and are held by this digest whenever they are opened
        if directory is None or scratch not in directory.parents or not any(directory.glob("*.safetensors")):
            raise StepError(
                f"{method} leaves no weights for {checkpoint.name} (*.safetensors in a directory of its own below the"
                " step's); mend the method"
            )
    return finished
