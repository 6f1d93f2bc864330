"""Carries out one step: a step and a run's directory in, outcomes out.

``carry_out`` reads the run but never writes to its database: records go to the one process that writes, in
batches that it commits. Weights are written to a temporary directory that the writer adopts.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from holdfast.runs.methods import METHODS
from holdfast.runs.plan.settings import (
    BringSettings,
    JudgeSettings,
    OpenSettings,
    PairSettings,
    RandomSettings,
    ReferenceSettings,
    RolloutSettings,
    Settings,
    TeachSettings,
    TrainSettings,
)
from holdfast.runs.plan.step import Step
from holdfast.runs.steps import bases, bringing, judging, references, rollout
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.runs.steps.speakers import release_models
from holdfast.store import Store, weights
from holdfast.store.weights import WEIGHTS


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
            return bringing.bring(step, settings, store, emit)
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
        return METHODS[settings.method].carry_out(step, settings, store, scratch, emit)


def batch_size(settings: Settings) -> int:
    """How many units of a step are committed together; 0 where nothing is committed before its end."""
    match settings:
        case RolloutSettings():
            return settings.limits.batch_size
        case JudgeSettings():
            return judging.JUDGE_BATCH
        case ReferenceSettings():
            return references.REFERENCE_BATCH
        case BringSettings():
            return bringing.BRING_BATCH
    return 0
