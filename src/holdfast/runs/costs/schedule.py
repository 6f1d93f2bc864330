"""How long steps take on a cluster: the critical path, and how many places help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.runs.costs.outlook import time_on_clock
from holdfast.runs.plan.step import Step

_HELPS = 0.05  # of the time: twice the places are worth naming while they save so much
_MOST_PLACES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Seconds on a clock by the number of places (each carries out one step at a time), and the critical path.

    The last number of places is the first from which twice as many save less than a twentieth of the time.
    """

    critical_path: float
    by_places: tuple[tuple[int, float], ...]


def longest_path(steps: Sequence[Step], seconds: Callable[[Step], float]) -> float:
    """Seconds that the longest chain of steps takes, each after its inputs; what is no input among them is done."""
    ends: dict[str, float] = {}
    for step in steps:  # a plan's steps come after their inputs
        ends[step.fingerprint] = seconds(step) + max((ends.get(name, 0.0) for name in step.inputs), default=0.0)
    return max(ends.values(), default=0.0)


def schedule(steps: Sequence[Step], seconds: Callable[[Step], float]) -> Schedule:
    """How long some steps take on one place, on two, on four, and so on, as long as that helps."""
    path, found, places = longest_path(steps, seconds), list[tuple[int, float]](), 1
    while places <= _MOST_PLACES:
        found.append((places, time_on_clock(steps, seconds, places)))
        if len(found) > 1 and found[-1][1] > found[-2][1] * (1 - _HELPS):
            found.pop()
            break
        if found[-1][1] <= path * (1 + 1e-9):
            break
        places *= 2
    return Schedule(critical_path=path, by_places=tuple(found))
