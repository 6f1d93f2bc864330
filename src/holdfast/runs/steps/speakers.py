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
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.reading import load_tiny, weights_of
from holdfast.store import Store
from holdfast.store.places import LEDGER

_TINY = {"model": "tiny", "entry": {"kind": "tiny"}}


@contextlib.contextmanager
def open_speakers(step: Step, store: Store | None) -> Iterator[Speakers]:
    """The models of a rollout or judge step by what they do in it; remote ones share the run's ledger.

    Without a store the ledger is gone afterwards.
    """
    settings = step.settings
    wanted: dict[Speaker, Mapping[str, Any]] = {}
    if step.kind == "rollout":
        wanted["agent"] = {**settings.get("agent", _TINY), "checkpoint": settings["checkpoint"]}
    if "emulator" in settings:
        wanted["emulator"] = settings["emulator"]
    elif "speaker" in settings:
        wanted["judge"] = settings["speaker"]
    with contextlib.ExitStack() as opened:
        ledger = None
        if any(told["entry"]["kind"] == "remote" for told in wanted.values()):
            place = store.path if store else opened.enter_context(scratch_directory())
            ledger = opened.enter_context(_open_ledger(step, place))
        yield {who: _open(told, step.means, store, ledger) for who, told in wanted.items()}


@contextlib.contextmanager
def _open_ledger(step: Step, run_path: Path) -> Iterator[Any]:
    from holdfast.models.remote.ledger import Budget, Ledger

    with contextlib.closing(Ledger(run_path / LEDGER, Budget(**step.means.get("budget", {})))) as ledger:
        yield ledger


def _open(told: Mapping[str, Any], means: Mapping[str, Any], store: Store | None, ledger: Any) -> Model | RemoteModel:
    entry = ModelEntry.model_validate(told["entry"])
    if entry.kind == "remote":
        from holdfast.models.remote.provider import ProviderModel

        endpoint = EndpointSection.model_validate(means.get("endpoints", {}).get(told["model"], {}))
        return ProviderModel(entry.name, entry=entry, endpoint=endpoint, ledger=ledger)
    if store is not None and "checkpoint" in told:
        directory = weights_of(store, told["checkpoint"])
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
