"""One step carried out, in the process of whoever does the work: the run is read, never written.

Records go to the one process that writes, in batches that it commits. Weights are written to a directory of the step's
own, which the writer adopts. What a step does knows nothing of where it runs.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

from holdfast.records.errors import HoldfastError, StepError
from holdfast.records.processes import dense_heap, hand_back_memory, without_collection
from holdfast.runs.plan.settings import (
    BringSettings,
    JudgeSettings,
    MergeSettings,
    OpenSettings,
    PairSettings,
    RandomSettings,
    ReferenceSettings,
    RolloutSettings,
    StartSettings,
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

_LONG_STEP = 20.0  # CPU seconds, of which a look for garbage is nothing


def carry_out(
    step: Step, run_path: Path, emit: Emit, *, weights_root: Path | None = None, scratch: Path | None = None
) -> None:
    """Carry out a step and give every outcome to ``emit``, last ``Finished``. Errors: any HoldfastError.

    ``run_path`` is the run, or a slice of it. Weights lie in ``weights_root`` and the step's unfinished work in
    ``scratch``, by default in the run.
    """
    started = time.process_time()
    if isinstance(step.settings, TrainSettings | ReferenceSettings):
        release_models()
    # Whoever carries out the plan has checked the run.
    root = weights_root or run_path / WEIGHTS
    store = Store(step.means.slice or run_path, check=False, weights_root=root)
    with store, dense_heap(), _collection(step.settings):
        finished = _work(step, store, scratch, emit)
    seconds = round(time.process_time() - started, 3)
    if seconds >= _LONG_STEP:
        hand_back_memory()
    emit(replace(finished, result={**finished.result, "cpu_seconds": seconds}))


def _collection(settings: object) -> contextlib.AbstractContextManager[None]:
    """Without a look for garbage in cycles where tiny models alone speak, or none: that is over in seconds."""
    if not isinstance(settings, RolloutSettings | JudgeSettings):
        return contextlib.nullcontext()
    tiny = all(speaker.entry.kind == "tiny" for speaker in settings.speakers().values())
    return without_collection() if tiny else contextlib.nullcontext()


def _work(step: Step, store: Store, scratch: Path | None, emit: Emit) -> Finished:
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
        case OpenSettings() as settings:
            return bases.open_base(step, settings.entry, store)
        case StartSettings() as settings:
            return bases.begin_with(step, settings, store)
        case TrainSettings() as settings:
            return _train(step, settings, store, scratch, emit)
    raise TypeError(f"{step.name}: nothing carries out {type(step.settings).__name__}")


def _train(step: Step, settings: TrainSettings, store: Store, given: Path | None, emit: Emit) -> Finished:
    """New weights in the step's own directory, which the writer takes over."""
    with weights.open_scratch(given or weights.hand_on_scratch(store.weights_root, step.fingerprint)) as scratch:
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
