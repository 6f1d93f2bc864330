"""Carries out the steps of a plan that are not done: which run next, and what is committed of their outcomes.

A finished step is never repeated, a killed one goes on at its last committed batch or its last saved state, and a
failed one stops only what depends on it. The one process that writes to the run is this one; ``steps.working`` does
the work, where an engine runs it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from holdfast.records.disks import is_shared
from holdfast.records.errors import HoldfastError, StepError
from holdfast.records.machine import describe_machine
from holdfast.records.processes import hand_back_memory
from holdfast.runs.costs.outlook import Outlook
from holdfast.runs.engines.engine import Engine
from holdfast.runs.engines.opening import LOCAL, open_engine
from holdfast.runs.plan.settings import JudgeSettings, RolloutSettings
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.steps.outcomes import Batch, Began, End, Failure, Finished, Lost, Progress, describe_failure
from holdfast.runs.waiting import Waiting
from holdfast.store import Store, weights
from holdfast.store.database import PRIVATE_DIRECTORY, PRIVATE_FILE
from holdfast.store.places import LOGS, MACHINES_KEY
from holdfast.store.steplog import LOG_DIGESTS
from holdfast.store.weights import WEIGHTS

ProgressState = Literal["queued", "started", "running", "done", "failed", "lost"]
SNAPSHOT_SECONDS = 60.0  # between two snapshots of a run on a network disk
MOST_LOST = 3  # times that a step is carried out again because its machine or process was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """How a run is getting on: one step (``done`` in its unit, ``seconds`` since it was started), and all steps.

    ``share`` is the part of the work this execution had before it that is done, by CPU time, and ``left`` are the
    seconds until all of it is, by what steps of each kind took so far. A ``queued`` step waits for a place on a
    cluster; ``node`` names the machine that carries the step out, where it may be another one than the driver's.
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
    node: str | None = None


Listener = Callable[[StepProgress], None]


@dataclass(slots=True)
class _Running:
    """A step that an engine has: since when, how many of its units are done, and whether it waits for a place.

    ``node`` is where it is carried out, once that is known.
    """

    step: Step
    since: float
    done: int
    queued: bool
    node: str | None = None


@dataclass(slots=True)
class _Execution:
    """The state of one execution of a plan."""

    plan: Plan
    store: Store
    listener: Listener
    queue: Waiting
    wanted: Mapping[str, Step]
    done: set[str]
    outlook: Outlook
    warn: Callable[[str], None]
    snapshots: bool = False
    next_snapshot: float = 0.0
    warned: bool = False
    noted: int = 0  # of the engine's notes, how many people were told
    running: dict[str, _Running] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)  # how often, by fingerprint
    notes: dict[str, Sequence[str]] = field(default_factory=dict)  # of finished steps, for people

    def start(self, step: Step, engine: Engine) -> None:
        self.queue.remove(step)
        with self.store.transaction():
            self.store.log.begin(step.fingerprint, step.kind, step.name)
        settings = step.settings
        batch = settings.limits.batch_size if isinstance(settings, RolloutSettings) else settings.batch
        done = min(step.size, len(self.store.log.batches(step.fingerprint)) * batch)
        queued = engine.queues(step)
        self.running[step.fingerprint] = _Running(step, time.monotonic(), done, queued)
        self._tell(step.fingerprint, "queued" if queued else "started")
        try:
            engine.submit(step)
        except (HoldfastError, OSError) as error:
            self._fail(self.running[step.fingerprint], describe_failure(error, self.store.path))

    def deliver(self, fingerprint: str, outcome: Any) -> None:
        """Take one outcome of a running step: commit it, and tell the listener."""
        at = self.running[fingerprint]
        match outcome:
            case Batch():
                self._commit(at.step, outcome)
                at.done += outcome.size
                self._tell(fingerprint, "running")
            case Progress():
                at.step, at.done = replace(at.step, size=outcome.size or at.step.size), outcome.done
                self._tell(fingerprint, "running")
            case Began():  # from now on: what waited for a place was not at work
                at.since, at.node, at.queued = time.monotonic(), outcome.node, False
                _note_machines(self.store, [outcome.machine])
                self._tell(fingerprint, "started")
            case Finished():
                self._finish(at.step, outcome)
                cpu_seconds = None if outcome.result.get("cached") else outcome.result.get("cpu_seconds")
                self.outlook.finish(at.step, cpu_seconds, time.monotonic() - at.since)
                self.notes[fingerprint] = outcome.result.get("notes", ())
            case Lost():
                self._put_back(at, outcome)
            case Failure():
                self._fail(at, outcome)
            case End():
                self.done.add(fingerprint)
                self.queue.finish(fingerprint)
                at.done = at.step.size
                lines = [*self.notes.pop(fingerprint, ())]
                lines += [self._read_scores(at.step)] if at.step.kind == "judge" else []
                self._tell(fingerprint, "done", " · ".join(filter(None, lines)))
                del self.running[fingerprint]

    def tell_notes(self, engine: Engine) -> None:
        """Tell what of the engine's machines people do not know yet."""
        for note in engine.notes[self.noted :]:
            self.warn(note)
        self.noted = len(engine.notes)

    def take_snapshot(self) -> None:
        """Let readers see how far the run is, where they may not open it; it takes a small part of the time."""
        now = time.monotonic()
        if not self.snapshots or now < self.next_snapshot:
            return
        try:
            self.store.write_snapshot()
        except (sqlite3.Error, HoldfastError, OSError) as error:  # as where there is no room for a copy of the work
            if not self.warned:
                self.warn(f"readers see no progress for now: no snapshot of the run can be written ({error})")
            self.warned = True
        self.next_snapshot = time.monotonic() + max(SNAPSHOT_SECONDS, 20 * (time.monotonic() - now))

    def _put_back(self, at: _Running, lost: Lost) -> None:
        """A step goes back to those that wait, unless it was lost too often."""
        name = at.step.fingerprint
        if self.store.log.steps()[name].status == "done":  # it was lost after all that it had to say
            self.deliver(name, End())
            return
        self.lost[name] += lost.counted
        if self.lost[name] > MOST_LOST:
            self._fail(at, Failure(message=f"{lost.message} (lost {self.lost[name]} times)", log=""))
            return
        self._tell(name, "lost", lost.message)
        del self.running[name]
        self.queue.put_back(self.wanted[name])

    def _fail(self, at: _Running, failure: Failure) -> None:
        name = at.step.fingerprint
        with self.store.transaction():
            self.store.log.finish(name, {"error": failure.message, "log": failure.log}, status="failed")
        self.failed[name] = failure.message
        self._tell(name, "failed", failure.message)
        del self.running[name]

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
        weights.discard_scratch(root, step.fingerprint)

    def _read_scores(self, step: Step) -> str:
        """A line on a checkpoint that is evaluated now: its scores by this judge; empty for its training cases."""
        rolled = self.wanted[step.inputs[0]]
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

    def _tell(self, fingerprint: str, state: ProgressState, message: str = "") -> None:
        at, now = self.running[fingerprint], time.monotonic()
        working = [(one.step, now - one.since, one.done) for one in self.running.values() if not one.queued]
        queued = [one.step for one in self.running.values() if one.queued]
        share, left = self.outlook.look([*self.queue.waiting.values(), *queued], working)
        self.listener(
            StepProgress(
                step=at.step,
                done=at.done,
                seconds=now - at.since,
                steps_done=len(self.done),
                steps_total=len(self.plan.steps),
                share=share,
                left=left,
                state=state,
                message=message,
                node=at.node,
            )
        )


def execute(
    plan: Plan,
    store: Store,
    *,
    workers: int,
    listener: Listener = lambda _: None,
    budget: Mapping[str, float | None] | None = None,
    where: str = LOCAL,
    warn: Callable[[str], None] = lambda _: None,
) -> None:
    """Carry out every step of a plan that is not done, but for the analysis.

    ``where`` names the engine (``engines.opening``); ``warn`` is given what people should know of its machines.
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
    _note_machines(store, [describe_machine()])

    def sweep() -> None:
        """Remove unfinished work that no step to come can take up."""
        weights.discard_leftovers(store.path / WEIGHTS, keep={step.fingerprint for step in wanted} - done)

    sweep()
    by_name = {step.fingerprint: step for step in wanted}
    outlook = Outlook(plan, waiting, known, workers)
    queue, shared = Waiting(waiting, done), is_shared(store.path)
    state = _Execution(plan, store, listener, queue, by_name, done, outlook, warn, shared)
    hand_back_memory()  # which looking at models took
    engine = open_engine(where, store, workers)
    try:
        state.tell_notes(engine)
        while True:
            while (step := state.queue.find(engine.takes)) is not None:
                state.start(step, engine)
            state.tell_notes(engine)
            if not state.running:
                break
            engine.wait(state.deliver)
            state.take_snapshot()
    finally:
        engine.close()
        sweep()
    if state.failed:
        fingerprint, message = next(iter(state.failed.items()))
        left = len(state.queue.waiting)
        raise StepError(
            f"{by_name[fingerprint].name}: {message} ({len(state.failed)} failed, {left} that depend on it not run);"
            f" see `holdfast show {store.path}`, then repeat the command to retry"
        )


def _note_machines(store: Store, machines: Sequence[Mapping[str, str]]) -> None:
    """Note where steps are carried out from now on; machines that are alike are noted once."""
    known = json.loads(store.meta(MACHINES_KEY) or "[]")
    new = [dict(one) for at, one in enumerate(machines) if one not in known and one not in machines[:at]]
    if new:
        store.set_meta(MACHINES_KEY, json.dumps([*known, *new]))
