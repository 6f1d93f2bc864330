"""The model as it was before training: where it lies, and a copy of it where no directory holds it.

A wrong parent makes a wrong verdict: a directory is taken for the start only if its weights are those in memory.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.models.directories.files import find
from holdfast.models.directories.opening import holds_weights
from holdfast.models.directories.peft import read_peft
from holdfast.models.directories.stacks import base_of, digest_opened
from holdfast.models.hub.hub import check_model
from holdfast.models.tiny.chat import is_tiny
from holdfast.records.errors import StudyError
from holdfast.records.outputs import new_directory, to_json, write_file

NOTE, COPY = "start.json", "start"
_GIVE = "give SafetyGate(parent=...) the directory of the model before training"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the model before training is, and the digest of it; None for one that is no directory."""

    place: str
    digest: str | None

    def check(self) -> str:
        """The place. Errors: StudyError where another model lies there by now, as a checkpoint of the same name may."""
        if self.digest is not None and (
            not Path(self.place).is_dir() or digest_opened(Path(self.place)) != self.digest
        ):
            raise StudyError(f"SafetyGate: {self.place} is no longer the model that training began with; {_GIVE}")
        return self.place


def take_given(place: str) -> Start:
    """A start that the user names: a directory, or whatever else a gate opens. Errors: StudyError."""
    return _take(Path(place)) if Path(place).is_dir() else Start(place=place, digest=None)


def _take(place: Path) -> Start:
    if not is_tiny(place):
        check_model(place)
    return Start(place=str(place), digest=digest_opened(place))


def find_start(model: Any, processing_class: Any, work: Path, *, fresh: bool) -> Start:
    """The model before training, by its directory.

    A model that was loaded from a directory, or from the hub's cache, and has not changed since is that directory;
    any other is copied into ``work``, with its tokenizer, as is an adapter, whose base has to lie somewhere. Training
    that goes on (not ``fresh``) has the start that was noted when it began. Errors: StudyError where none was, and for
    a model that cannot be copied or is none that a gate opens.
    """
    if not fresh:
        return _noted(work / NOTE)
    if _is_sharded(model):
        raise StudyError(
            f"SafetyGate: the model's weights are spread over processes and cannot be copied here; {_GIVE}"
        )
    if hasattr(model, "peft_config"):
        place = _copy_adapter(model, processing_class, work / COPY)
    else:
        place = _home_of(model) or _copy(model, processing_class, work / COPY)
    start = _take(place)
    write_file(work / NOTE, to_json({"parent": start.place, "digest": start.digest}) + "\n")
    return start


def _noted(note: Path) -> Start:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        start = Start(place=str(found["parent"]), digest=str(found["digest"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"SafetyGate: training goes on from a checkpoint, and {note} does not say what it began with; {_GIVE}"
        ) from error
    start.check()
    return start


def _is_sharded(model: Any) -> bool:
    """Whether this process has only a part of the weights: DeepSpeed's stage 3, FSDP, tensor parallelism."""
    return any(hasattr(weight, "ds_id") or hasattr(weight, "placements") for weight in model.parameters()) or any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    )


def _home_of(model: Any) -> Path | None:
    """The directory that a model was loaded from, if that holds its weights as they are."""
    name = getattr(model, "name_or_path", "")
    with contextlib.suppress(StudyError):
        home = find(str(name), download=False).absolute()
        if (is_tiny(home) or base_of(home) == home) and holds_weights(home, model.state_dict()):
            return home
    return None


def _copy(model: Any, processing_class: Any, place: Path) -> Path:
    _log.warning("SafetyGate: no directory holds the model as it is now; it is copied to %s", place)
    return _save(model, processing_class, place)


def _copy_adapter(model: Any, processing_class: Any, place: Path) -> Path:
    """An adapter as it begins, on the base that it names. Errors: StudyError where that is not what it stands on."""
    settings, active = model.peft_config.get("default"), model.active_adapters
    # A model that transformers put an adapter into, without PEFT's wrapper, has a method of this name.
    if settings is None or callable(active) or list(active) != ["default"]:
        raise StudyError(
            f"SafetyGate: the model's adapters are {', '.join(model.peft_config)}, and what is trained is not the one"
            f" that PEFT calls default; {_GIVE}"
        )
    if not settings.base_model_name_or_path:
        raise StudyError(
            "SafetyGate: the adapter's base was loaded from no directory, so that no gate can open it; save it with"
            " save_pretrained, load it from there, and begin anew"
        )
    start = _save(model, processing_class, place, selected_adapters=["default"])
    base = read_peft(start).base
    # How some adapters begin changes their base, in the same way whenever they are opened.
    plain = settings.init_lora_weights in (True, False, "gaussian", "eva", "orthogonal")
    if plain and holds_weights(base, _weights_below(model)) is False:
        raise StudyError(
            f"SafetyGate: the adapter names the base {base}, which holds other weights than the model in memory; save"
            " the base with save_pretrained, load it from there, and begin anew"
        )
    return start


def _weights_below(model: Any) -> Mapping[str, Tensor]:
    """The weights of an adapter's base by the names that they have without the adapter."""
    found = model.get_base_model().state_dict()
    return {name.replace(".base_layer.", "."): weight for name, weight in found.items() if ".lora_" not in name}


def _save(model: Any, processing_class: Any, place: Path, **settings: Any) -> Path:
    with new_directory(place, replaces=True) as part:
        model.save_pretrained(part, **settings)
        if processing_class is not None:
            processing_class.save_pretrained(part)
    return place.absolute()
