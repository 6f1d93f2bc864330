"""How long the rest of a run takes on a clock, as its steps are done."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from holdfast.runs.costs.seconds import Expected, measured_seconds
from holdfast.runs.plan.step import Plan, Step
from holdfast.store.steplog import StepStatus

# A step that runs weighs against what was expected as so much of itself.
_DOUBT = 0.25
# What is left is told anew at most so often.
_SECONDS = 1.0
# CPU seconds of finished steps from which the clock is compared with them.
_COMPARED = 5.0


def time_on_clock(steps: Sequence[Step], seconds: Callable[[Step], float], workers: int) -> float:
    """Seconds until some steps are done that run side by side, each after its inputs, first come first served.

    What is no input among them is done already.
    """
    order = {step.fingerprint: number for number, step in enumerate(steps)}
    lacking = [{order[name] for name in step.inputs if name in order} for step in steps]
    later: list[list[int]] = [[] for _ in steps]
    for number, needed in enumerate(lacking):
        for other in needed:
            later[other].append(number)
    ready = [number for number, needed in enumerate(lacking) if not needed]
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            number = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds(steps[number]), number))
        now, number = heapq.heappop(running)
        for other in later[number]:
            lacking[other].discard(number)
            if not lacking[other]:
                heapq.heappush(ready, other)
    return now


class Outlook:
    """What is left of an execution, from what its steps are expected to take and what those that are done took."""

    def __init__(self, plan: Plan, waiting: Sequence[Step], known: Mapping[str, StepStatus], workers: int) -> None:
        self._expected, self._workers = Expected(plan, measure=False), workers
        self._measured = measured_seconds(known)
        self._mine = {step.fingerprint for step in waiting}
        self._clock = self._spent = 0.0
        self._told = (-_SECONDS, (0.0, 0.0))
        self._ended: set[str] = set()
        self._first: dict[str, tuple[int, float]] = {}  # a running step's first sign of life: units done, seconds

    def finish(self, step: Step, cpu_seconds: float | None, clock_seconds: float) -> None:
        """A step is done, and took so long; without CPU seconds it was not worked for."""
        if cpu_seconds is not None:
            self._measured[step.fingerprint] = cpu_seconds
            self._spent, self._clock = self._spent + cpu_seconds, self._clock + clock_seconds
        self._ended.add(step.fingerprint)

    def look(self, waiting: Collection[Step], running: Sequence[tuple[Step, float, int]]) -> tuple[float, float]:
        """The share of this execution's work that is done, by CPU seconds, and seconds left on a clock.

        ``running`` are steps with the seconds since their start, and how many of their units are done.
        """
        now = time.monotonic()
        if now - self._told[0] >= _SECONDS or not waiting:
            self._told = (now, self._look(waiting, running))
        return self._told[1]

    def _look(self, waiting: Collection[Step], running: Sequence[tuple[Step, float, int]]) -> tuple[float, float]:
        slower = max(1.0, self._clock / self._spent) if self._spent >= _COMPARED else 1.0
        corrected = self._expected.correct(self._measured)
        seconds = {step.fingerprint: corrected[step.fingerprint] for step in waiting}
        begun = 0.0
        for step, since, done in running:
            share, whole = min(1.0, done / step.size), corrected[step.fingerprint]
            if step.fingerprint in self._ended:
                continue
            if done:
                # What was done before the first sign of life may be an earlier execution's.
                first, then = self._first.setdefault(step.fingerprint, (done, since))
                whole = (_DOUBT * whole + (since - then) / slower) / (_DOUBT + (done - first) / step.size)
            seconds[step.fingerprint] = whole * (1 - share)
            begun += whole * share
        left = sum(seconds.values())
        ended = self._mine - seconds.keys()
        worked = begun + sum(self._measured.get(name, 0.0) for name in ended)
        steps = [*(step for step, _, _ in running), *waiting]
        places = max(self._workers, len(running))  # a cluster may have more than this machine's workers
        clock = slower * time_on_clock(steps, lambda step: seconds.get(step.fingerprint, 0.0), places)
        return worked / (worked + left) if left else 1.0, clock
