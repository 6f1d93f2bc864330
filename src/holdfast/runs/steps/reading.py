"""What several kinds of step read and open: cases, models, who speaks in a step, conversations as tokens."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.models import Model, Remembering, RemoteModel, Speaker
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.records import Case, Checkpoint, Trajectory
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.records.outputs import scratch_directory
from holdfast.records.processes import hand_back_memory
from holdfast.rollout.dialogues import Speakers
from holdfast.runs.plan.settings import SpeakerModel
from holdfast.runs.plan.step import Means, Step
from holdfast.runs.steps.outcomes import Emit, beat
from holdfast.store import Store, weights
from holdfast.store.places import EXTERNAL_KEY, LEDGER
from holdfast.study.stages import EXTERNAL

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


# What a directory's files say of themselves: a training loop writes other weights where a gate has read some.
_State = tuple[tuple[str, int, int], ...]


def _state_of(directory: Path) -> _State:
    found = ((path.name, path.stat()) for path in directory.glob("*.*") if path.suffix in (".json", ".safetensors"))
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


def load_tiny(directory: Path) -> TinyModel:
    """The tiny agent of a directory."""
    return _load_tiny(directory, _state_of(directory))


@lru_cache(maxsize=8)  # a checkpoint is met by one part of the cases after another, its parent and base by its side
def _load_tiny(directory: Path, _: _State) -> TinyModel:
    from holdfast.models.tiny.model import TinyModel

    return TinyModel.load(directory)


def load_chat(directory: Path, calls: Calls = "auto") -> Chat:
    """The chat format of a model directory: the tiny agent's own, or that of its tokenizer."""
    return _load_chat(directory, calls, _state_of(directory))


@lru_cache(maxsize=4)
def _load_chat(directory: Path, calls: Calls, _: _State) -> Chat:
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

    directory = hub.resolve(*place_now(store, checkpoint))
    if not _is_as_opened(checkpoint, directory):
        raise StoreError(
            f"{directory}: holds other weights than {checkpoint.name} had when the run opened it (another digest); put"
            " those there, or run the study again in a new run"
        )
    return directory


def require_same_weights(store: Store) -> None:
    """Refuse to take up a run whose models lie in directories that hold other weights by now.

    What is done of it would be told of weights that it never saw. A directory that is gone is told of by the step that
    needs it. Errors: StudyError.
    """
    for checkpoint in store.checkpoints():
        if checkpoint.digest is None or checkpoint.path is not None or checkpoint.model is None:
            continue
        directory = Path(place_now(store, checkpoint)[0])
        if not directory.exists():
            continue
        from holdfast.models.hub import hub

        found = directory if directory.is_dir() else hub.resolve(str(directory), download=False)
        if not _is_as_opened(checkpoint, found):
            raise StudyError(
                f"{directory}: holds other weights than {checkpoint.name} had when {store.path} opened it (another"
                " digest); put those there, or choose another output"
            )


def _is_as_opened(checkpoint: Checkpoint, directory: Path) -> bool:
    """Whether weights that are not the run's are those that it opened; what was trained elsewhere is held whole."""
    from holdfast.models.directories.stacks import digest_opened
    from holdfast.models.hub import hub

    whole = _external_digest(checkpoint)
    if whole is not None and digest_opened(directory) != whole:
        return False
    return checkpoint.digest is None or hub.describe(directory)["digest"] == checkpoint.digest


def _external_digest(checkpoint: Checkpoint) -> str | None:
    """The digest of all that a checkpoint of training elsewhere is opened by; None for any other."""
    last = checkpoint.stages[-1] if checkpoint.stages else None
    return str(last.settings.get("digest")) if last is not None and last.method == EXTERNAL else None


def place_now(store: Store, checkpoint: Checkpoint) -> tuple[str, str | None]:
    """Name and revision by which a checkpoint is opened that is not the run's own.

    What was trained elsewhere may have been moved since: the run's study says where it lies now.
    """
    assert checkpoint.model is not None
    moved = json.loads(store.meta(EXTERNAL_KEY) or "{}").get(_external_digest(checkpoint))
    return (str(moved), None) if moved is not None else place_of(checkpoint.model)


def place_of(model: str) -> tuple[str, str | None]:
    """Name and revision of a base from what its checkpoint notes: a path, or a repository and its commit."""
    if Path(model).exists() or Path(model).is_absolute():
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


@contextlib.contextmanager
def open_speakers(
    speakers: Mapping[Speaker, SpeakerModel], means: Means, store: Store | None = None
) -> Iterator[Speakers]:
    """Models by what they do in a step; remote ones share the run's ledger.

    Without a store the ledger is gone afterwards.
    """
    with contextlib.ExitStack() as opened:
        ledger = means.ledger
        if ledger is None and any(one.entry.kind == "remote" for one in speakers.values()):
            from holdfast.models.remote.ledger import Budget, Ledger

            place = (means.run or store.path) if store else opened.enter_context(scratch_directory())
            ledger = opened.enter_context(contextlib.closing(Ledger(place / LEDGER, Budget(**means.budget))))
        speaking = {who: _open(one, means, store, ledger) for who, one in speakers.items()}
        opened.callback(_forget, speaking.values())
        yield speaking


def _forget(speakers: Iterable[Model | RemoteModel]) -> None:
    if local := [model for model in speakers if isinstance(model, Remembering)]:
        for model in local:
            model.forget()
        hand_back_memory()


def _open(speaker: SpeakerModel, means: Means, store: Store | None, ledger: Any) -> Model | RemoteModel:
    entry = speaker.entry
    if entry.kind == "remote":
        from holdfast.models.remote.provider import ProviderModel

        endpoint = means.endpoints.get(speaker.model, EndpointSection())
        return ProviderModel(entry.name, entry=entry, endpoint=endpoint, ledger=ledger)
    if store is not None and speaker.checkpoint is not None:
        directory = weights_of(store, speaker.checkpoint)
    else:
        from holdfast.models.hub import hub

        directory = hub.resolve(entry.name, entry.revision)
    return load_tiny(directory) if entry.kind == "tiny" else _load_local(directory, entry, _state_of(directory))


def release_models() -> None:
    """Give up the memory of the model that spoke last, for a step that opens weights of its own."""
    held = _load_local.cache_info().currsize
    _load_local.cache_clear()
    if held:
        hand_back_memory()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def rest() -> None:
    """Give up the model that spoke last while others work. One on an accelerator stays: to open it again takes long."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        release_models()


@lru_cache(maxsize=1)
def _load_local(directory: Path, entry: ModelEntry, _: _State) -> Model:
    if entry.kind == "vllm":
        from holdfast.models.local.vllm import VllmModel

        return VllmModel(directory, calls=entry.calls, quantization=entry.quantization, precision=entry.precision)
    from holdfast.models.local.local import LocalModel

    return LocalModel(directory, calls=entry.calls, quantization=entry.quantization, precision=entry.precision)


LOOP = "loop"  # in a step's directory: the state of its training and its logs
TRACKER = "HOLDFAST_TRACKER"  # names one of accelerate's trackers, which then gets a stage's numbers too


def resume(step: Step, scratch: Path, emit: Emit, train: Callable[..., list[TrainResult]]) -> list[TrainResult]:
    """Training from the state that an earlier process left, or from the beginning where that cannot be taken up.

    ``train`` is given the step's seed, where weights and its own state go, a tracker, and whom to tell of progress.
    """
    from holdfast.training.states import UnusableState

    def run() -> list[TrainResult]:
        return train(
            seed=int(step.fingerprint[:15], 16),  # 60 bits, so that epochs and ranks can be added
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
