"""Carries out one step: a step and a run's directory in, outcomes out.

``carry_out`` reads the run but never writes to its database: records go to the one process that writes, in
batches that it commits. Weights are written to a temporary directory that the writer adopts.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

from holdfast.records.errors import HoldfastError, StepError
from holdfast.runs.plan.settings import (
    BringSettings,
    JudgeSettings,
    MergeSettings,
    OpenSettings,
    PairSettings,
    RandomSettings,
    ReferenceSettings,
    RolloutSettings,
    TeachSettings,
    TrainSettings,
)
from holdfast.runs.plan.step import Step
from holdfast.runs.steps import bases, judging, references, rollout
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.runs.steps.reading import release_models
from holdfast.store import Store, weights
from holdfast.store.weights import WEIGHTS
from holdfast.study.kinds import METHODS


def carry_out(step: Step, run_path: Path, emit: Emit) -> None:
    """Carry out a step and give every outcome to ``emit``, last ``Finished``. Errors: any HoldfastError."""
    started = time.process_time()
    if isinstance(step.settings, TrainSettings | ReferenceSettings):
        release_models()
    with Store(run_path, check=False) as store:  # whoever carries out the plan has checked it
        finished = _work(step, store, emit)
    seconds = round(time.process_time() - started, 3)
    emit(replace(finished, result={**finished.result, "cpu_seconds": seconds}))


def _work(step: Step, store: Store, emit: Emit) -> Finished:
    match step.settings:
        case RolloutSettings() as settings:
            return rollout.roll_out(step, settings, store, emit)
        case JudgeSettings() as settings:
            return judging.judge_episodes(step, settings, store, emit)
        case PairSettings() as settings:
            return judging.make_pairs(step, settings, store)
        case ReferenceSettings() as settings:
            return references.take_reference(step, settings, store, emit)
        case BringSettings() as settings:
            return rollout.bring(step, settings, store, emit)
        case TrainSettings() as settings:
            return _train(step, settings, store, emit)
    raise TypeError(f"{step.name}: nothing carries out {type(step.settings).__name__}")


def _train(step: Step, settings: TrainSettings, store: Store, emit: Emit) -> Finished:
    """New weights in the step's own directory, which the writer takes over; a base that is opened stays where it is."""
    if isinstance(settings, OpenSettings):
        return bases.open_base(step, settings.entry, store)
    with weights.open_scratch(store.path / WEIGHTS, step.fingerprint) as scratch:
        match settings:
            case TeachSettings():
                return bases.teach_base(step, settings, scratch, emit)
            case RandomSettings():
                return bases.make_base(step, settings, store, scratch)
            case MergeSettings():
                return bases.merge(step, settings, store, scratch)
        return _train_stage(step, settings, store, scratch, emit)


def _train_stage(step: Step, settings: TrainSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """A stage by its method. Errors: StepError where that does not leave weights for every checkpoint."""
    method = f"the method {settings.method!r}"
    try:
        finished = METHODS.find(settings.method).carry_out(step, settings, store, scratch, emit)
    except (HoldfastError, OSError, sqlite3.Error):
        raise
    except Exception as error:
        if settings.method in METHODS.shipped:
            raise
        raise StepError(f"{method} failed ({type(error).__name__}: {error}); mend the method") from error
    if not isinstance(finished, Finished):
        raise StepError(
            f"{method} gives {type(finished).__name__}, and no holdfast.runs.methods.Finished; mend the method"
        )
    made = {checkpoint.id: (checkpoint, directory) for checkpoint, directory in finished.checkpoints}
    for checkpoint in step.checkpoints:
        told, directory = made.pop(checkpoint.id, (checkpoint, None))
        if directory is None and told.model is not None and told.digest is not None:
            continue  # its weights stay where they are, and are held by this digest whenever they are opened
        if directory is None or scratch not in directory.parents or not any(directory.glob("*.safetensors")):
            raise StepError(
                f"{method} leaves no weights for {checkpoint.name} (*.safetensors in a directory of its own below the"
                " step's); mend the method"
            )
    return finished
