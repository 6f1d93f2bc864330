"""The steps of an execution that wait: which of them have all that they need, in the plan's order."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Sequence

from holdfast.runs.plan.step import Step


class Waiting:
    """The steps that wait, in the plan's order, and which of them have all that they need."""

    def __init__(self, steps: Sequence[Step], done: Collection[str]) -> None:
        self.waiting = {step.fingerprint: step for step in steps}
        self._order = {name: number for number, name in enumerate(self.waiting)}
        self._lacking = {step.fingerprint: {name for name in step.inputs if name not in done} for step in steps}
        self._later: dict[str, list[str]] = {}
        for name, lacking in self._lacking.items():
            for needed in lacking:
                self._later.setdefault(needed, []).append(name)
        self._ready = sorted((number, name) for name, number in self._order.items() if not self._lacking[name])

    def find(self, takes: Callable[[Step], bool]) -> Step | None:
        """The first step that has all that it needs and is taken now."""
        return next((step for _, name in self._ready if takes(step := self.waiting[name])), None)

    def remove(self, step: Step) -> None:
        """A step is under way."""
        del self.waiting[step.fingerprint]
        self._ready.remove((self._order[step.fingerprint], step.fingerprint))

    def put_back(self, step: Step) -> None:
        """A step is to be carried out again."""
        self.waiting[step.fingerprint] = step
        insort(self._ready, (self._order[step.fingerprint], step.fingerprint))

    def finish(self, name: str) -> None:
        """What a step made is there for those that need it."""
        for other in self._later.get(name, ()):
            self._lacking[other].discard(name)
            if not self._lacking[other]:
                insort(self._ready, (self._order[other], other))
