"""What several kinds of step read of a run: cases, models, conversations as tokens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.records import Case, Trajectory
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, beat
from holdfast.store import Store, weights

if TYPE_CHECKING:
    from holdfast.models.hub.chat import Calls
    from holdfast.models.tiny.model import TinyModel
    from holdfast.training.encoding import Chat, Encoded
    from holdfast.training.loop.stage import TrainResult


def cases_of(store: Store) -> Mapping[str, Case]:
    """A run's cases by id. Ids say what is in them, so another run at the same place is told apart."""
    return _read_cases(store.path, tuple(store.case_ids()))


@lru_cache(maxsize=4)
def _read_cases(run_path: Path, _: tuple[str, ...]) -> Mapping[str, Case]:
    with Store(run_path, check=False) as store:
        return {case.id: case for case in store.cases()}


@lru_cache(maxsize=2)
def load_tiny(directory: Path) -> TinyModel:
    """The tiny agent of a directory."""
    from holdfast.models.tiny.model import TinyModel

    return TinyModel.load(directory)


@lru_cache(maxsize=4)
def load_chat(directory: Path, calls: Calls = "auto") -> Chat:
    """The chat format of a model directory: the tiny agent's own, or that of its tokenizer."""
    from holdfast.models.hub.chat import HubChat
    from holdfast.models.tiny.chat import TinyChat, is_tiny

    return TinyChat.load(directory) if is_tiny(directory) else HubChat(directory, calls=calls)


def weights_of(store: Store, checkpoint_id: str) -> Path:
    """A checkpoint's directory, held against its digest: one of this run, or that of a base where it lies.

    Errors: StepError where the run's own is gone, StoreError where it holds other weights.
    """
    checkpoint = store.checkpoint(checkpoint_id)
    if checkpoint.path is not None or checkpoint.model is None:
        try:
            return store.weights(checkpoint)
        except StudyError as error:
            raise StepError(str(error)) from error
    from holdfast.models.hub import hub

    directory = hub.resolve(*place_of(checkpoint.model))
    if checkpoint.digest is not None and hub.describe(directory)["digest"] != checkpoint.digest:
        raise StoreError(
            f"{directory}: holds other weights than {checkpoint.name} had when the run opened it (another digest); put"
            " those there, or run the study again in a new run"
        )
    return directory


def place_of(model: str) -> tuple[str, str | None]:
    """Name and revision of a base from what its checkpoint notes: a directory, or a repository and its commit."""
    if Path(model).is_dir():
        return model, None
    name, _, revision = model.partition("@")
    return name, revision or None


def encode(chat: Chat, cases: Mapping[str, Case], trajectory: Trajectory) -> Encoded:
    """A trajectory as tokens. Errors: StudyError naming case and trajectory where the chat format cannot write it."""
    from holdfast.training.encoding import encode_episode

    case = cases[trajectory.case_id]
    try:
        return encode_episode(chat, case.messages, trajectory.messages, case.tools)
    except StudyError as error:
        raise StudyError(f"case {case.id}, trajectory {trajectory.id}: {error}") from error


LOOP = "loop"  # in a step's directory: the state of its training and its logs
TRACKER = "HOLDFAST_TRACKER"  # names one of accelerate's trackers, which then gets a stage's numbers too


def resume(step: Step, scratch: Path, emit: Emit, train: Callable[..., list[TrainResult]]) -> list[TrainResult]:
    """Training from the state that an earlier process left, or from the beginning where that cannot be taken up.

    ``train`` is given the step's seed, where weights and its own state go, a tracker, and whom to tell of progress.
    """
    from holdfast.training.states import UnusableState

    def run() -> list[TrainResult]:
        return train(
            seed=int(step.fingerprint[:15], 16),
            out_dir=scratch,
            folder=scratch / LOOP,
            tracker=os.environ.get(TRACKER) or None,
            progress=beat(emit),
        )

    with contextlib.suppress(UnusableState):
        results = run()
        # The writer may have taken weights over and been stopped before it noted them; others may have been damaged.
        if all(weights.is_as_noted(result.path) for result in results):
            return results
    weights.clear_scratch(scratch)
    return run()
