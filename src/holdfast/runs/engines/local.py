"""Steps on this machine: in this process, or in worker processes of one thread each.

``carry_out`` takes a step, the run's directory and a function that it gives each outcome to. A worker that dies fails
its step and no other; workers whose parent is gone stop by themselves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from holdfast.records.extensions import allow, allowed
from holdfast.records.processes import stop_with
from holdfast.runs.engines.engine import Deliver
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import End, Failure, describe_failure

CarryOut = Callable[[Step, Path, Callable[[Any], None]], None]
REST_SECONDS = 5.0  # long against what comes between two steps, short against what a step takes
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class InProcess:
    """Runs one step at a time in this process."""

    notes: Sequence[str] = ()

    def __init__(self, carry_out: CarryOut, run_path: Path) -> None:
        self._carry_out, self._path = carry_out, run_path
        self._current: Step | None = None

    def takes(self, step: Step) -> bool:
        """Whether no step is under way."""
        return self._current is None

    def queues(self, step: Step) -> bool:
        """No step waits: it is carried out next."""
        return False

    def submit(self, step: Step) -> None:
        """Take a step."""
        self._current = step

    def wait(self, deliver: Deliver) -> None:
        """Carry out the step that was taken, to its end."""
        assert self._current is not None
        step, self._current = self._current, None
        try:
            self._carry_out(step, self._path, lambda outcome: deliver(step.fingerprint, outcome))
        except Exception as error:
            deliver(step.fingerprint, describe_failure(error, self._path))
        else:
            deliver(step.fingerprint, End())

    def close(self) -> None:
        """Forget the step that was taken."""
        self._current = None


def _serve(
    connection: Connection,
    carry_out: CarryOut,
    rest: Callable[[], object],
    run_path: Path,
    *,
    parent: int,
    permitted: Sequence[object],
) -> None:
    """A worker's life: take a step, send its outcomes, take the next; ``permitted`` is what it may run of others'.

    ``rest`` is called once it has waited for a while, since those who work want the memory.
    """
    stop_with(parent)
    allow(permitted)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            if not connection.poll(REST_SECONDS):
                with contextlib.suppress(Exception):  # what cannot be given up stays
                    rest()
            step = connection.recv()
            try:
                carry_out(step, run_path, connection.send)
                connection.send(End())
            except BrokenPipeError:
                raise
            except Exception as error:
                connection.send(describe_failure(error, run_path))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A new process inherits one thread for its libraries, set before they load: else processes fight for the cores."""
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def worker_surroundings() -> Iterator[None]:
    """What a new worker inherits: one thread, and no interrupts.

    Without the second, Ctrl-C in a terminal, which reaches every process, would make each worker that is still starting
    print a traceback.
    """
    resource_tracker.ensure_running()  # it unblocks signals as it starts, so it must run before they are blocked
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with one_thread():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class Workers:
    """Runs steps in worker processes, one step each at a time; a worker that dies is replaced."""

    notes: Sequence[str] = ()

    def __init__(self, carry_out: CarryOut, rest: Callable[[], object], run_path: Path, count: int) -> None:
        self._carry_out, self._rest, self._path = carry_out, rest, run_path
        self.count = count
        self._idle: list[tuple[BaseProcess, Connection]] = []
        self._busy: dict[Connection, tuple[BaseProcess, str]] = {}
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._carry_out, self._rest, self._path)
        options = {"parent": os.getpid(), "permitted": allowed()}
        process = context.Process(target=_serve, args=arguments, kwargs=options, daemon=True)
        with worker_surroundings():
            process.start()
        theirs.close()
        self._idle.append((process, ours))

    def takes(self, step: Step) -> bool:
        """Whether a worker is idle."""
        return bool(self._idle)

    def queues(self, step: Step) -> bool:
        """No step waits: an idle worker takes it."""
        return False

    @property
    def is_busy(self) -> bool:
        """Whether a worker carries out a step."""
        return bool(self._busy)

    def submit(self, step: Step) -> None:
        """Give a step to an idle worker."""
        process, connection = self._idle.pop()
        self._busy[connection] = (process, step.fingerprint)
        # A worker that died while it was idle cannot take the step: ``wait`` finds that out.
        with contextlib.suppress(BrokenPipeError):
            connection.send(step)

    def wait(self, deliver: Deliver, seconds: float | None = None) -> None:
        """Deliver the next outcome of any busy worker, if one comes within some ``seconds``."""
        connection = next(iter(wait(list(self._busy), seconds)), None)
        if connection is None:
            return
        assert isinstance(connection, Connection)
        process, fingerprint = self._busy[connection]
        try:
            outcome = connection.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of an outcome
            process.join()
            connection.close()
            del self._busy[connection]
            self._hire()
            message = f"the worker process died (exit code {process.exitcode}); was memory exhausted?"
            deliver(fingerprint, Failure(message=message, log=""))
            return
        if isinstance(outcome, End | Failure):
            del self._busy[connection]
            self._idle.append((process, connection))
        deliver(fingerprint, outcome)

    def close(self) -> None:
        """End every worker."""
        for process, connection in [*self._idle, *((process, pipe) for pipe, (process, _) in self._busy.items())]:
            connection.close()
            process.terminate()
            process.join()
        self._idle, self._busy = [], {}
