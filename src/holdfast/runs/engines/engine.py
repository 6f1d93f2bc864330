"""What an engine is to whoever carries out a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from holdfast.runs.plan.step import Step

Deliver = Callable[[str, Any], None]


class Engine(Protocol):
    """Carries out steps, as many at a time as it has places for, and knows nothing of what a step does.

    It delivers what comes of them in the order it comes: a step's fingerprint with an outcome, and in the end its
    ``End``, a ``Failure``, or that it was ``Lost``. After one of these three the step is no longer the engine's.
    """

    @property
    def notes(self) -> Sequence[str]:
        """What of the machines that it uses people should know, a line each; more may come as steps are submitted."""

    def takes(self, step: Step) -> bool:
        """Whether there is a place for a step now."""

    def queues(self, step: Step) -> bool:
        """Whether a step that is taken waits for a place, until it says that it ``Began``."""

    def submit(self, step: Step) -> None:
        """Take a step that there is a place for."""

    def wait(self, deliver: Deliver) -> None:
        """Deliver what comes next of the steps that were taken; at least one was."""

    def close(self) -> None:
        """End every step that is under way."""
