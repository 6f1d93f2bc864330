"""Who speaks in a step: the agent, and the models that play the tools or judge, opened as the step says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from holdfast.models import Model, RemoteModel, Speaker
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.records.outputs import scratch_directory
from holdfast.rollout.dialogues import Speakers
from holdfast.runs.plan.settings import SpeakerModel
from holdfast.runs.plan.step import Means
from holdfast.runs.steps.reading import load_tiny, weights_of
from holdfast.store import Store
from holdfast.store.places import LEDGER


@contextlib.contextmanager
def open_speakers(
    speakers: Mapping[Speaker, SpeakerModel], means: Means, store: Store | None = None
) -> Iterator[Speakers]:
    """Models by what they do in a step; remote ones share the run's ledger.

    Without a store the ledger is gone afterwards.
    """
    with contextlib.ExitStack() as opened:
        ledger = None
        if any(one.entry.kind == "remote" for one in speakers.values()):
            from holdfast.models.remote.ledger import Budget, Ledger

            place = store.path if store else opened.enter_context(scratch_directory())
            ledger = opened.enter_context(contextlib.closing(Ledger(place / LEDGER, Budget(**means.budget))))
        yield {who: _open(one, means, store, ledger) for who, one in speakers.items()}


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
    return load_tiny(directory) if entry.kind == "tiny" else _load_local(directory, entry)


def release_models() -> None:
    """Give up the memory of the model that spoke last, for a step that opens weights of its own."""
    _load_local.cache_clear()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@lru_cache(maxsize=1)
def _load_local(directory: Path, entry: ModelEntry) -> Model:
    if entry.kind == "vllm":
        from holdfast.models.local.vllm import VllmModel

        return VllmModel(directory, calls=entry.calls, quantization=entry.quantization, precision=entry.precision)
    from holdfast.models.local.local import LocalModel

    return LocalModel(directory, calls=entry.calls, quantization=entry.quantization, precision=entry.precision)
