"""What engines have in common that carry out steps on other machines.

    step ─ stays beside the driver? ─ yes ─▶ worker processes of this machine
                                    └ no ──▶ attempt: a slice, written anew ─ launch ─▶ a machine
    envelopes of an attempt that is under way ─▶ outcomes, in their order; of any other ─▶ refused

The driver is the only writer. An attempt that is lost is over: what it says later is not taken, and its directory of
unfinished work has gone to the attempt after it.
"""

from __future__ import annotations

import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.records.errors import HoldfastError, StoreError
from holdfast.records.inputs import read_number
from holdfast.runs.carrying.cutting import cut
from holdfast.runs.carrying.envelopes import unpack
from holdfast.runs.engines.engine import Deliver
from holdfast.runs.engines.local import Workers
from holdfast.runs.plan.settings import (
    BringSettings,
    MergeSettings,
    OpenSettings,
    PairSettings,
    StageSettings,
    StartSettings,
)
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import End, Failure, Finished, Lost
from holdfast.store import Store, weights
from holdfast.store.places import CARRIED
from holdfast.study.command import CommandSection
from holdfast.study.stages import ExternalSection

SILENCE_VARIABLE = "HOLDFAST_SILENCE"
SILENCE_SECONDS = 600.0  # without a sign of life, after which a step is lost
_ENDS = (End, Failure, Lost)


def is_program(step: Step) -> bool:
    """Whether a step is a stage by a program, for which no slice is a reason."""
    return isinstance(step.settings, StageSettings) and isinstance(step.settings.section, CommandSection)


def stays(step: Step, *, programs: bool = False) -> bool:
    """Whether a step is carried out beside the driver.

    It does no work to speak of, as of rules or where remote models do it all; it reads what only this machine has; or
    it runs a program, and no other machine lets ``programs`` run.
    """
    settings = step.settings
    if is_program(step):
        return not programs
    if isinstance(settings, PairSettings | MergeSettings | OpenSettings | BringSettings | StartSettings):
        return True
    if isinstance(settings, StageSettings) and isinstance(settings.section, ExternalSection):
        return True
    asks_here = all(one.entry.kind == "remote" for one in settings.speakers().values())
    return asks_here and step.kind in ("judge", "rollout")


def silence_seconds() -> float:
    """How long a step may give no sign of life; the environment may say otherwise. Errors: StudyError."""
    return read_number(SILENCE_VARIABLE, SILENCE_SECONDS)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt at a step: its ``slice`` with this ``digest``, its directory of unfinished work, what is expected.

    ``heard`` is when it last gave a sign of life (monotonic seconds).
    """

    step: Step
    name: str
    folder: Path
    digest: str
    scratch: Path
    heard: float
    expected: int = 0

    @property
    def slice(self) -> Path:
        """Where its slice lies."""
        return self.folder / "slice"


class Attempts:
    """The attempts that are under way, and what is taken of what they say."""

    def __init__(self, store: Store) -> None:
        self._store, self._token, self._count = store, secrets.token_hex(4), 0
        self.folder = store.path / CARRIED
        self.open: dict[str, Attempt] = {}

    def begin(self, step: Step) -> Attempt:
        """A new attempt at a step, with a slice of the run as it is now. Errors: StoreError."""
        self._count += 1
        number = f"{self._token}-{self._count}"
        name = f"{step.fingerprint}{weights.ATTEMPT}{number}"
        folder = self.folder / name
        digest = cut(self._store, step, name, folder / "slice")
        scratch = weights.hand_on_scratch(self._store.weights_root, step.fingerprint, number)
        attempt = Attempt(step=step, name=name, folder=folder, digest=digest, scratch=scratch, heard=time.monotonic())
        self.open[name] = attempt
        return attempt

    def end(self, attempt: Attempt) -> None:
        """An attempt is over: nothing that it says from now on is taken."""
        self.open.pop(attempt.name, None)
        shutil.rmtree(attempt.folder, ignore_errors=True)

    def take(self, attempt: Attempt, data: bytes) -> Iterator[Any]:
        """The outcome in an envelope of an attempt, once; nothing for one that was taken.

        Where one before it is missing, or what a step left did not arrive whole, the step is lost.
        """
        try:
            envelope = unpack(data, attempt.scratch)
        except StoreError as error:
            yield Lost(message=str(error))
            return
        if envelope.attempt != attempt.name or envelope.number < attempt.expected:
            return
        if envelope.number > attempt.expected:
            yield Lost(message=f"outcome {attempt.expected} of the step did not arrive")
            return
        outcome = envelope.outcome
        if isinstance(outcome, Finished):
            if [one.id for one, _ in outcome.checkpoints] != [one.id for one in attempt.step.checkpoints]:
                yield Lost(message="the step says that it made other checkpoints than it was to make")
                return
            for _, place in outcome.checkpoints:
                if place is None:
                    continue
                name = place.relative_to(attempt.scratch).as_posix()
                if not _is_whole(place, envelope.digests.get(name)):
                    yield Lost(message=f"what the step left in {name} did not arrive whole")
                    return
            if lacking := [log for log in outcome.logs.values() if not log.is_file()]:
                yield Lost(message=f"the step's log {lacking[0].name} did not arrive")
                return
        attempt.expected += 1
        attempt.heard = time.monotonic()
        yield outcome


def _is_whole(place: Path, digest: str | None) -> bool:
    return digest is not None and place.is_dir() and weights.holds(place, digest)


class FarEngine(ABC):
    """Carries out steps beside the driver and on other machines."""

    def __init__(self, store: Store, near: Workers) -> None:
        silence_seconds()  # which refuses what is no number, before the work
        self._store, self._near = store, near
        self.notes: Sequence[str] = ()
        self.attempts = Attempts(store)
        self.attempts.folder.mkdir(mode=0o700, exist_ok=True)
        self._lost: list[tuple[str, Lost]] = []

    def takes(self, step: Step) -> bool:
        """Whether there is a place for a step, here or elsewhere."""
        return self._near.takes(step) if self._stays(step) else self.has_place()

    def queues(self, step: Step) -> bool:
        """Whether a step goes to another machine, which may have others before it."""
        return not self._stays(step)

    def _stays(self, step: Step) -> bool:
        return stays(step, programs=is_program(step) and self.runs_programs())

    def submit(self, step: Step) -> None:
        """Give a step to a worker of this machine, or launch an attempt at it.

        Errors: HoldfastError, OSError for a step that cannot be carried out. What a cluster does not take is lost.
        """
        if self._stays(step):
            self._near.submit(step)
            return
        attempt = self.attempts.begin(step)
        try:
            self.launch(attempt)
        except BaseException as error:
            self.cancel(attempt)
            self.attempts.end(attempt)
            if isinstance(error, HoldfastError | OSError) or not isinstance(error, Exception):
                raise
            told = " ".join(str(error).split())[:300]
            # Where others are under way there it will be taken later; what is never taken is to end.
            lost = Lost(message=f"was not taken there ({told})", counted=not self.attempts.open)
            self._lost.append((step.fingerprint, lost))

    def wait(self, deliver: Deliver) -> None:
        """Deliver what comes next, of whichever machine."""
        told = False

        def tell(fingerprint: str, outcome: Any) -> None:
            nonlocal told
            told = True
            deliver(fingerprint, outcome)

        while self._lost:
            tell(*self._lost.pop())
        while not told:
            if self._near.is_busy:
                self._near.wait(tell, 0.02 if self.attempts.open else None)
            if self.attempts.open:
                self._deliver_far(tell, 0.02 if self._near.is_busy else 1.0)

    def _deliver_far(self, tell: Deliver, seconds: float) -> None:
        now = time.monotonic()  # before what takes its time here
        for attempt, outcome in self.poll(seconds):
            if attempt.name not in self.attempts.open:
                continue
            if isinstance(outcome, _ENDS):
                self.attempts.end(attempt)
                self.forget(attempt)
            tell(attempt.step.fingerprint, outcome)
        limit = silence_seconds()
        for attempt in [one for one in self.attempts.open.values() if now - one.heard > limit]:
            self.cancel(attempt)
            self.attempts.end(attempt)
            message = f"no sign of life for {limit:g} s; the step was given up there"
            tell(attempt.step.fingerprint, Lost(message=message))

    def close(self) -> None:
        """End every step that is under way, here and elsewhere."""
        for attempt in [*self.attempts.open.values()]:
            self.cancel(attempt)
            self.attempts.end(attempt)
        self._near.close()

    @abstractmethod
    def has_place(self) -> bool:
        """Whether one more step can be launched."""

    @abstractmethod
    def runs_programs(self) -> bool:
        """Whether another machine lets stages by programs be carried out on it."""

    @abstractmethod
    def launch(self, attempt: Attempt) -> None:
        """Have an attempt carried out elsewhere. Errors: HoldfastError, OSError."""

    @abstractmethod
    def poll(self, seconds: float) -> Iterator[tuple[Attempt, Any]]:
        """What came of the attempts, waiting at most so long for it."""

    @abstractmethod
    def cancel(self, attempt: Attempt) -> None:
        """End an attempt elsewhere, as far as that can be done."""

    @abstractmethod
    def forget(self, attempt: Attempt) -> None:
        """Ask nothing more of an attempt that has ended."""
