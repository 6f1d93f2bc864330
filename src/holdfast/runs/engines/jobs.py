"""Steps as jobs of a queue, a job a step, through submitit: Slurm's, or processes that submitit itself starts.

Every machine of the queue sees the run's directory by the same path, and opens nothing in it but the attempt's folder
and weights. A job leaves its outcomes as files that are whole or not there; a job that is given up is cancelled, and
nothing that it leaves later is looked at.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from holdfast.models.remote.clerk import Clerk, ClerkServer
from holdfast.models.remote.ledger import Budget
from holdfast.records.errors import StudyError, pip_install, require
from holdfast.records.extensions import allowed
from holdfast.runs.carrying.carry import SUFFIX
from holdfast.runs.carrying.job import BEAT, OUT, Job, carry_job, runs_programs
from holdfast.runs.engines.far import Attempt, FarEngine, stays
from holdfast.runs.engines.local import THREAD_VARIABLES, Workers, one_thread
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Lost
from holdfast.store import Store
from holdfast.store.places import LEDGER

_DEVICES = ("CUDA_VISIBLE_DEVICES",)
LOOK_SECONDS = {"slurm": 2.0, "jobs": 0.1}
STATE_SECONDS = {"slurm": 60.0, "jobs": 1.0}  # between two questions to the queue
_JOB_FILE = "job"
# The queue took the machine or the time away: that says nothing of the step.
_TAKEN_AWAY = ("TIMEOUT", "PREEMPTED", "REVOKED", "DEADLINE")
_UNDER_WAY = (
    *("UNKNOWN", "READY", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "RESIZING", "SUSPENDED"),
    *("SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
)
_MOST_JOBS = 1000
_ENDING_SECONDS = 20.0
_LOCAL_MINUTES = 60 * 24 * 365
SLURM_VARIABLE = "HOLDFAST_SLURM"  # key=value words for sbatch: partition=gpu account=safety time=720
_OWN_WORDS = ("partition", "account", "qos", "time", "constraint", "exclude", "nodelist", "comment", "mail_user")


@dataclass(slots=True)
class _Job:
    handle: Any
    beat: float = 0.0


class JobEngine(FarEngine):
    """Steps in a queue of jobs: ``slurm``, or ``jobs`` for processes on this machine."""

    def __init__(self, store: Store, near: Workers, *, queue: str) -> None:
        require_queue(queue)
        self._queue, self._jobs = queue, dict[str, _Job]()
        self._asked, self._token = time.monotonic(), secrets.token_hex(16)
        self._ending: list[Any] = []  # jobs of this machine that have said their end, whose processes are going
        self._clerk: Clerk | None = None
        self._server: ClerkServer | None = None
        self._refused = -math.inf
        self._most = _MOST_JOBS if queue == "slurm" else near.count
        super().__init__(store, near)

    def _executor(self, attempt: Attempt) -> Any:
        import submitit

        folder = attempt.folder / "log"
        if self._queue == "jobs":
            local = submitit.LocalExecutor(folder=folder)
            local.update_parameters(timeout_min=_LOCAL_MINUTES)
            return local
        try:
            executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=0)
            executor.update_parameters(
                job_name=f"holdfast-{attempt.step.kind}",
                setup=[f"export {name}=1" for name in THREAD_VARIABLES],
                **_slurm_parameters(attempt.step),
            )
        except (RuntimeError, ValueError, NameError) as error:
            told = " ".join(str(error).split())[:300]
            raise StudyError(f"--engine slurm: {told}; run where sbatch is, and mend {SLURM_VARIABLE}") from error
        return executor

    def has_place(self) -> bool:
        """Whether the queue may be given one more job."""
        # A queue that took no more has a bound of its own, or a bad minute: it is asked again in a while.
        waits = bool(self._jobs) and time.monotonic() - self._refused < STATE_SECONDS[self._queue]
        return len(self._jobs) < self._most and not waits

    def runs_programs(self) -> bool:
        """Whether this process may run programs elsewhere: jobs take its environment with them."""
        return runs_programs()

    def launch(self, attempt: Attempt) -> None:
        """Submit a job for an attempt."""
        (attempt.folder / OUT).mkdir(mode=0o700)
        job = Job(
            folder=attempt.folder.absolute(),
            attempt=attempt.name,
            digest=attempt.digest,
            weights_root=self._store.weights_root.absolute(),
            scratch=attempt.scratch.absolute(),
            means=attempt.step.means,
            clerk=self._open_clerk(attempt.step),
            permitted=allowed(),
            # submitit hides the accelerators of this machine from jobs that name none.
            variables={name: os.environ.get(name) for name in _DEVICES} if self._queue == "jobs" else {},
        )
        try:
            with one_thread():
                handle = self._executor(attempt).submit(carry_job, job)
        except RuntimeError:
            self._refused = time.monotonic()
            raise
        self._jobs[attempt.name] = _Job(handle)
        (attempt.folder / _JOB_FILE).write_text(f"{self._queue} {handle.job_id}", encoding="ascii")

    def _open_clerk(self, step: Step) -> tuple[tuple[str, int], str] | None:
        """Where a step that asks remote models asks the run's ledger, and with which token; None for any other."""
        if not step.means.endpoints:
            return None
        if self._server is None:
            self._clerk = Clerk(self._store.path / LEDGER, Budget(**step.means.budget))
            host = "0.0.0.0" if self._queue == "slurm" else "127.0.0.1"
            self._server = ClerkServer(self._clerk, self._token, host=host)
        return self._server.address, self._token

    def close(self) -> None:
        """End every job, and answer no more questions."""
        super().close()
        until = time.monotonic() + _ENDING_SECONDS
        while self._queue == "jobs" and time.monotonic() < until and not all(one.done() for one in self._ending):
            time.sleep(0.02)
        if self._server is not None and self._clerk is not None:
            self._server.close()
            self._clerk.close()

    def poll(self, seconds: float) -> Iterator[tuple[Attempt, Any]]:
        """Outcomes that are there, then what the queue says of jobs that left no end."""
        states, found = self._ask(), False
        for attempt in [*self.attempts.open.values()]:
            self._look_for_life(attempt)
            lost = self._describe_end(attempt, states)
            # After the queue was asked: what a job left before it ended comes before that it has.
            for outcome in self._read(attempt):
                found = True
                yield attempt, outcome
            if lost is not None and attempt.name in self.attempts.open:
                yield attempt, lost
        if not found:
            time.sleep(min(seconds, LOOK_SECONDS[self._queue]))

    def _read(self, attempt: Attempt) -> Iterator[Any]:
        out = attempt.folder / OUT
        there = set[str]()
        with contextlib.suppress(OSError):  # of a network disk that stumbles; the next look may succeed
            there = {path.name for path in out.iterdir()}  # which makes such a disk look anew
        while attempt.name in self.attempts.open and (name := f"{attempt.expected:06d}{SUFFIX}") in there:
            there.discard(name)
            yield from self.attempts.take(attempt, _read_whole(out / name))
            with contextlib.suppress(OSError):
                (out / name).unlink()

    def _look_for_life(self, attempt: Attempt) -> None:
        """A job gives a sign of life by touching a file; one that waits in the queue is none that is silent."""
        job = self._jobs.get(attempt.name)
        if job is None:
            return
        if attempt.expected == 0:
            attempt.heard = time.monotonic()
        with contextlib.suppress(OSError):
            if (beat := (attempt.folder / OUT / BEAT).stat().st_mtime) != job.beat:
                job.beat, attempt.heard = beat, time.monotonic()

    def _ask(self) -> dict[str, str]:
        """What the queue says of the jobs, by attempt; asked for all at once, and not often."""
        now = time.monotonic()
        if not self._jobs or now - self._asked < STATE_SECONDS[self._queue]:
            return {}
        self._asked = now
        handles = {name: job.handle for name, job in self._jobs.items()}
        if self._queue != "slurm":
            return {name: str(handle.state) for name, handle in handles.items()}
        for handle in handles.values():
            handle.watcher.register_job(handle.job_id)
        watcher = next(iter(handles.values())).watcher  # one for all
        watcher.update()
        return {name: watcher.get_state(handle.job_id, mode="cache") for name, handle in handles.items()}

    def _describe_end(self, attempt: Attempt, states: dict[str, str]) -> Lost | None:
        """That a step is lost, where its job has ended by what the queue says."""
        state = states.get(attempt.name, "UNKNOWN").upper()
        if state in _UNDER_WAY:
            return None
        # A time that ran out before anything came of the step will do so again.
        in_vain = "TIMEOUT" in state and attempt.expected <= 1
        taken_away = any(word in state for word in _TAKEN_AWAY) and not in_vain
        return Lost(message=f"its job ended without an end of the step ({state})", counted=not taken_away)

    def cancel(self, attempt: Attempt) -> None:
        """Cancel an attempt's job."""
        if (job := self._jobs.pop(attempt.name, None)) is not None:
            self._ending.append(job.handle)
            with contextlib.suppress(Exception):  # of a queue that does not answer; what it leaves is not looked at
                job.handle.cancel()

    def forget(self, attempt: Attempt) -> None:
        """A job that has said its end needs no more looks, and asks nothing more."""
        if (job := self._jobs.pop(attempt.name, None)) is not None and self._queue == "jobs":
            self._ending = [one for one in self._ending if not one.done()] + [job.handle]
        if self._clerk is not None:
            self._clerk.dismiss(attempt.name)


def cancel_job(folder: Path) -> None:
    """End the job of an attempt by what its driver left in its ``folder``, as far as that can be done."""
    with contextlib.suppress(Exception):
        queue, identity = (folder / _JOB_FILE).read_text(encoding="ascii").split()
        if queue == "slurm":
            import submitit

            submitit.SlurmJob(folder=folder / "log", job_id=identity).cancel(check=False)
        elif str(folder.absolute()).encode() in Path(f"/proc/{int(identity)}/cmdline").read_bytes():
            os.kill(int(identity), signal.SIGINT)  # at which it ends what it has started


def _read_whole(file: Path) -> bytes:
    """A file's bytes; a link is not followed, and is as good as nothing."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def require_queue(queue: str) -> None:
    """Refuse a queue that is not here. Errors: StudyError in one line."""
    require(find_spec("submitit") is not None, f"--engine {queue}: needs the package submitit; {pip_install('slurm')}")
    for command in ("sbatch", "sacct", "scancel"):
        require(
            queue != "slurm" or shutil.which(command) is not None,
            f"--engine slurm: there is no {command} on PATH; run where Slurm is, or choose another engine",
        )


def look_at_queue(queue: str, steps: Sequence[Step]) -> list[str]:
    """What jobs of a study ask a queue for, a line for each kind of step that goes there. Errors: StudyError."""
    require_queue(queue)
    if queue != "slurm":
        return ["steps are carried out as processes that submitit starts on this machine"]
    asked = {}
    for step in steps:
        if step.kind != "analyze" and not stays(step, programs=runs_programs()):
            told = _slurm_parameters(step)
            extra = told.pop("additional_parameters")
            words = ", ".join(f"{key}={value}" for key, value in (told | extra).items())
            asked[step.kind] = f"a job of kind {step.kind} asks Slurm for {words}"
    return [*asked.values()]


def _slurm_parameters(step: Step) -> dict[str, Any]:
    """What a job asks of Slurm: the step's needs, and what the site wants to be told (``HOLDFAST_SLURM``)."""
    needs, told = step.means.needs, dict[str, Any]({"time": 60 * 24})
    gpus = step.means.own_gpus if needs.gpus is None else needs.gpus
    extra: dict[str, Any] = {"no_requeue": True}
    for word in os.environ.get(SLURM_VARIABLE, "").split():
        key, equals, value = word.partition("=")
        require(bool(key and equals and value), f"{SLURM_VARIABLE}: {word!r:.80} is no option; write it as key=value")
        (told if key in _OWN_WORDS else extra)[key.replace("-", "_")] = int(value) if value.isdecimal() else value
    told |= {"cpus_per_task": max(1, needs.cpus), "additional_parameters": extra}
    if gpus:
        extra["gres"] = ":".join(filter(None, ("gpu", needs.accelerator, str(gpus))))
    if needs.memory_gb:
        told["mem"] = f"{int(needs.memory_gb * 1000)}M"
    return told
