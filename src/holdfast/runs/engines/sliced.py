"""Workers of this machine where nobody but the driver may open the run: each step is given a slice of it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.runs.carrying.cutting import cut
from holdfast.runs.engines.engine import Deliver
from holdfast.runs.engines.local import Workers
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import End, Failure
from holdfast.runs.steps.reading import rest
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store


class SlicedWorkers(Workers):
    """Runs steps in worker processes that open slices of the run, on a disk of this machine."""

    def __init__(self, store: Store, count: int) -> None:
        super().__init__(carry_out, rest, store.path, count)
        self._store = store
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-slices-"))

    def submit(self, step: Step) -> None:
        """Write what a step reads, and give it to an idle worker."""
        place = self._folder / step.fingerprint
        cut(self._store, step, f"{step.fingerprint}~here-1", place)
        super().submit(replace(step, means=replace(step.means, slice=place, run=self._store.path)))

    def wait(self, deliver: Deliver, seconds: float | None = None) -> None:
        """Deliver the next outcome of any busy worker; the slice of a step that has ended goes."""

        def tell(fingerprint: str, outcome: Any) -> None:
            if isinstance(outcome, End | Failure):
                shutil.rmtree(self._folder / fingerprint, ignore_errors=True)
            deliver(fingerprint, outcome)

        super().wait(tell, seconds)

    def close(self) -> None:
        """End every worker."""
        super().close()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)
