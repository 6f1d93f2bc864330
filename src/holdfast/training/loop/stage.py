"""What all stages of training do alike: they open weights, train in a loop, keep doses and give them back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from holdfast.records.outputs import sync_tree
from holdfast.store.weights import dose_path, note_digest, start_anew
from holdfast.study.stages import TrainingSection
from holdfast.training.loop.loop import Loop, Mark, StepLog
from holdfast.training.policy.adapters import open_trained
from holdfast.training.states import STATE, UnusableState
from holdfast.training.trees.parts import TrainStep

# Called with steps done and steps in all.
Progress = Callable[[int, int], None]
Settings = TypeVar("Settings", bound=TrainingSection)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A saved dose of a stage, with everything counted from the stage's start.

    ``examples`` are pairs or demonstrations with repeats, ``tokens`` those that carried loss, ``losses`` one
    value a step before its update. The drifts are the mean change in nats of a chosen and of a rejected
    trajectory's log-probability since the start, over up to 128 pairs; None for SFT. ``readings`` are what a balance
    measured up to here.
    """

    path: Path
    steps: int
    examples: int
    tokens: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...] = ()
    chosen_drift: float | None = None
    rejected_drift: float | None = None
    readings: tuple[Mapping[str, Any], ...] = ()
    cpu_seconds: float


class Stage(Generic[Settings]):
    """A stage under training. Kinds of stage say which steps it takes, and what is measured and noted on the way.

    Doses go to ``out_dir``, logs and states to ``folder``, numbers to one of accelerate's trackers.
    """

    _loop: Loop

    def __init__(
        self, model_dir: Path, settings: Settings, *, seed: int, out_dir: Path, folder: Path | None, tracker: str | None
    ) -> None:
        self._started = time.process_time()
        self._settings, self._folder, self._out_dir = settings, folder, out_dir
        self._policy = open_trained(model_dir, settings)
        self._open_loop = partial(Loop, self._policy, settings, seed=seed, folder=folder, tracker=tracker)

    def _steps(self) -> Iterator[TrainStep]:
        """The stream of steps from its beginning."""
        raise NotImplementedError

    def _note(self, log: StepLog) -> None:
        """Takes note of a step, before the state is saved that says that it is done."""

    def _measure_dose(self) -> Mapping[str, float]:
        """What is kept with a dose that was just saved."""
        return {}

    def _dose_is_kept(self, step: int) -> None:
        """What is done once a dose survives whatever happens."""

    def train(self, doses: Sequence[int], progress: Progress | None) -> list[TrainResult]:
        """Trains to the last dose, keeps each and gives them back.

        Errors: UnusableState for a dose that an earlier process was not asked to keep.
        """
        for log in self._loop.run(islice(self._steps(), doses[-1])):
            self._note(log)
            if log.step in doses:
                path = dose_path(self._out_dir, log.step)
                # On disk before a loop's state can say so; the first of several processes tidies up.
                if self._loop.leads:
                    start_anew(path)
                self._policy.save(path)
                if self._loop.leads:
                    sync_tree(path)
                    note_digest(path)
                self._loop.keep(self._measure_dose())
                self._dose_is_kept(log.step)
            if progress is not None:
                progress(log.step, doses[-1])
        kept = {mark.position: mark for mark in self._loop.history.marks}
        if lost := [dose for dose in doses if dose not in kept]:
            place = (self._folder or self._out_dir) / STATE
            raise UnusableState(place, f"it is past step {lost[0]}, which was not kept")
        return [self._read_dose(kept[dose]) for dose in doses]

    def _read_dose(self, mark: Mark) -> TrainResult:
        history = self._loop.history
        return TrainResult(
            path=dose_path(self._out_dir, mark.position),
            steps=mark.position,
            examples=mark.examples,
            tokens=mark.scored,
            losses=tuple(history.losses[: mark.position]),
            accuracies=tuple(history.accuracies[: mark.position]),
            readings=tuple(reading for reading in history.readings if reading["step"] <= mark.position),
            cpu_seconds=time.process_time() - self._started,
            **mark.found,
        )
