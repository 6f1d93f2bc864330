"""What a stage of training gives back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.records.outputs import sync_tree
from holdfast.store.weights import dose_path, note_digest, start_anew
from holdfast.training.loop.loop import History
from holdfast.training.policy.adapters import Policy
from holdfast.training.states import STATE, UnusableState


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


def keep_dose(policy: Policy, out_dir: Path, step: int, *, leads: bool = True) -> None:
    """Saves the weights after a step; of processes that train together the one that ``leads`` tidies and notes them.

    They are on disk before a loop's state can say so.
    """
    path = dose_path(out_dir, step)
    if leads:
        start_anew(path)
    policy.save(path)
    if leads:
        sync_tree(path)
        note_digest(path)


def read_doses(
    history: History, doses: Sequence[int], folder: Path, out_dir: Path, started: float
) -> list[TrainResult]:
    """What was kept, dose by dose, by a stage that was ``started`` at this process time.

    Errors: UnusableState for a dose that an earlier process was not asked to keep.
    """
    kept = {mark.position: mark for mark in history.marks}
    for dose in doses:
        if dose not in kept:
            raise UnusableState(folder / STATE, f"it is past step {dose}, which was not kept")
    return [
        TrainResult(
            path=dose_path(out_dir, mark.position),
            steps=mark.position,
            examples=mark.examples,
            tokens=mark.scored,
            losses=tuple(history.losses[: mark.position]),
            accuracies=tuple(history.accuracies[: mark.position]),
            readings=tuple(one for one in history.readings if one["step"] <= mark.position),
            cpu_seconds=time.process_time() - started,
            **mark.found,
        )
        for mark in (kept[dose] for dose in doses)
    ]
