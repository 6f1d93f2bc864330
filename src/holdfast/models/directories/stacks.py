"""Weights of a model directory: whole, or stacked, which is an adapter on another directory's whole weights.

    DIR/adapter_model.safetensors, adapter_config.json    one LoRA adapter in PEFT's format
    DIR/stack.json                                        what it stands on: a base and the digest of its weights

A directory that PEFT wrote has no stack.json. Where its adapter is two factors beside linear layers it is read as a
stack of one stage; any other is merged by PEFT (``opening``).

Stages on stages are still one adapter, since W + B1 A1 + B2 A2 = W + [B1 B2] [A1; A2]: whatever loads a base with one
adapter loads the checkpoint, not its last stage alone. ``ranks`` says which rows belong to which stage.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.models.directories import files
from holdfast.models.directories.files import digest_weights, find, load_file, read_object, read_shapes
from holdfast.models.directories.peft import PeftAdapter, digest_adapter, is_peft, read_peft, text_home
from holdfast.records.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

_GENERATION = "generation_config.json"
# What a directory says about reading and writing text, which training does not change.
TEXT_FILES = (
    *("tokenizer.json", "tokenizer_config.json", _GENERATION, "chat_template.jinja", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt"),
)
_PREFIX = "base_model.model."  # of PEFT's names
# Of modules by name: A [rank, inputs] and B [outputs, rank], in 32-bit floats.
Factors = Mapping[str, "tuple[Tensor, Tensor]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """An adapter's settings: W + ``scale`` · B A (Hu et al. 2021; ``rslora``: Kalajdzievski 2023)."""

    r: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False

    @property
    def scale(self) -> float:
        """alpha / r, or alpha / √r with ``rslora``."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """A stacked directory: ``base`` is where its base was found, ``factors`` have their scale in B.

    ``digest`` is that of the base's weights; ``ranks`` are those of the stages, first to last, side by side in
    every factor.
    """

    base: Path
    digest: str
    ranks: tuple[int, ...]
    factors: Factors


def is_stack(directory: Path) -> bool:
    """Whether a model directory is an adapter on another's weights."""
    return (directory / files.STACK).is_file()


def base_of(directory: Path) -> Path:
    """The directory that holds ``config.json`` and whole weights: an adapter's base, or the directory itself.

    A stack's base is verified. Errors: StoreError where the base is not found or holds other weights, StudyError for a
    PEFT adapter whose base is not found.
    """
    if is_stack(directory):
        return _find_base(directory, _read_note(directory))
    return read_peft(directory).base if is_peft(directory) else directory


def find_stack(directory: Path) -> Stack | None:
    """A directory's stack, also where PEFT wrote it; None for whole weights and for an adapter that PEFT must merge.

    Errors: as ``read_stack`` and ``base_of``.
    """
    if is_stack(directory):
        return read_stack(directory)
    return _read_plain(read_peft(directory)) if is_peft(directory) else None


def merged(weight: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
    """W + B A in 32-bit floats."""
    down, up = (factor.to(weight.device) for factor in factors)
    return weight.float() + up @ down


def copy_text_files(source: Path, target: Path) -> None:
    """Copies what ``source`` says about text, or the base of a PEFT adapter where that says nothing."""
    home = text_home(source)
    for name in TEXT_FILES:
        places = (home, base_of(source)) if name == _GENERATION and is_peft(source) else (home,)
        if (file := next(filter(Path.is_file, (place / name for place in places)), None)) is not None:
            shutil.copyfile(file, target / name)


def read_stack(directory: Path) -> Stack:
    """A stacked directory's adapter and where its base is. Errors: StoreError, StudyError."""
    note = _read_note(directory)
    config = read_object(directory / files.ADAPTER_CONFIG, files.DAMAGED, StoreError)
    try:
        lora = Lora(r=int(config["r"]), alpha=float(config["lora_alpha"]), rslora=bool(config["use_rslora"]))
        ranks = tuple(map(int, note["ranks"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{directory}: its adapter's settings are damaged ({error!r}); {files.DAMAGED}") from error
    stored = load_file(directory / files.ADAPTER)
    factors = {module: (down, up * lora.scale) for module, (down, up) in _pairs(stored).items()}
    fits = all(down.shape[0] == up.shape[1] == lora.r for down, up in factors.values())
    if len(stored) != 2 * len(factors) or not fits or sum(ranks) != lora.r:
        raise StoreError(f"{directory / files.ADAPTER}: holds other weights than its settings tell; {files.DAMAGED}")
    base = _find_base(directory, note)
    return Stack(base=base, digest=str(note["digest"]), ranks=ranks, factors=factors)


def _pairs(stored: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors A and B of an adapter's file by module, in 32-bit floats and without their scale."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in stored:
        module = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        other = f"{_PREFIX}{module}.lora_B.weight"
        if name == f"{_PREFIX}{module}.lora_A.weight" and other in stored:
            factors[module] = (stored[name].float(), stored[other].float())
    return factors


def _read_plain(adapter: PeftAdapter) -> Stack | None:
    """A PEFT adapter as a stack of one stage; None where it is more than factors beside weights of its base.

    Ranks may differ by module: the stack has the largest, and rows of zeros fill the others.
    """
    from torch.nn.functional import pad

    if not adapter.plain:
        return None
    stored = load_file(adapter.directory / files.ADAPTER)
    pairs, shapes = _pairs(stored), read_shapes(adapter.base)
    fits = all(
        shapes.get(f"{module}.weight") == (up.shape[0], down.shape[1]) and down.shape[0] == up.shape[1]
        for module, (down, up) in pairs.items()
    )
    if not pairs or len(stored) != 2 * len(pairs) or not fits:
        return None
    rank = max(down.shape[0] for down, _ in pairs.values())
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for module, (down, up) in pairs.items():
        told = _settings_of(adapter.settings, module)
        if told is None or told.r != down.shape[0]:
            return None  # PEFT says what does not fit.
        more = rank - down.shape[0]
        factors[module] = pad(down, (0, 0, 0, more)), pad(up * told.scale, (0, more))
    return Stack(base=adapter.base, digest=digest_weights(adapter.base), ranks=(rank,), factors=factors)


def _settings_of(settings: Mapping[str, Any], module: str) -> Lora | None:
    """PEFT's settings for one module, by the first of its patterns that ends the module's name."""

    def of(pattern: str, usual: str) -> Any:
        for key, value in (settings.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return settings.get(usual)

    try:
        rank, alpha = int(of("rank_pattern", "r")), float(of("alpha_pattern", "lora_alpha"))
    except (AttributeError, TypeError, ValueError, re.error):
        return None
    return Lora(r=rank, alpha=alpha, rslora=bool(settings.get("use_rslora")))


def write_stack(
    directory: Path, factors: Factors, lora: Lora, *, base: Path, digest: str, earlier: Stack | None = None
) -> None:
    """Writes the adapter of a stage, on what its ``earlier`` stages changed, with a note of its base.

    ``factors`` are as trained, without their scale, of the modules that ``earlier`` changed and perhaps others. The
    files depend on numbers and the base's name alone: its repository and revision where it lies in the hub's cache,
    else how it is called beside ``directory`` or a parent. Elsewhere it is noted by its absolute path.
    """
    import torch

    ranks: tuple[int, ...] = (lora.r,)
    if earlier is not None:
        ranks, rank = (*earlier.ranks, lora.r), sum(earlier.ranks)
        both: dict[str, tuple[Tensor, Tensor]] = {}  # A below A, and B beside scaled B
        for module, (down, up) in factors.items():
            unchanged = torch.zeros(rank, down.shape[1]), torch.zeros(up.shape[0], rank)
            above, left = earlier.factors.get(module, unchanged)
            right = up.float().cpu() * lora.scale
            both[module] = torch.cat([above, down.float().cpu()]), torch.cat([left, right], 1)
        # The scales are in B, so that what is left of them is 1.
        factors, lora = both, Lora(r=sum(ranks), alpha=sum(ranks), dropout=lora.dropout)
    directory.mkdir(parents=True, exist_ok=True)
    home = base.resolve()
    hub = _repository_of(home)
    named = hub is not None or any((parent / home.name).resolve() == home for parent in directory.resolve().parents)
    note = {"base": home.name, "path": None if named else str(home), "digest": digest, "ranks": ranks}
    # A path is as seen from the directory, and never reads as the name of a model on a hub.
    named_base = {"base_model_name_or_path": note["path"] or f"../{home.name}"}
    if hub is not None:
        repository, revision = hub
        note["hub"] = f"{repository}@{revision}"
        named_base = {"base_model_name_or_path": repository, "revision": revision}
    (directory / files.STACK).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    write_peft_adapter(directory, factors, lora, named_base)


def write_peft_adapter(directory: Path, factors: Factors, lora: Lora, base: Mapping[str, Any]) -> None:
    """Writes one adapter in PEFT's format to a directory that is there.

    ``factors`` are without their scale, which readers take from rank, alpha and ``use_rslora``; ``base`` are the
    settings that name what it stands on, for readers that are not told.
    """
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": list(dict.fromkeys(module.rpartition(".")[2] for module in factors)),
        "bias": "none",
        "inference_mode": True,
    } | dict(base)
    (directory / files.ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    stored = {}
    for module, (down, up) in factors.items():
        stored[f"{_PREFIX}{module}.lora_A.weight"] = down.detach().float().cpu().contiguous()
        stored[f"{_PREFIX}{module}.lora_B.weight"] = up.detach().float().cpu().contiguous()
    save_file(stored, directory / files.ADAPTER, metadata={"format": "pt"})


def digest_model(directory: Path) -> str:
    """SHA-256 of what a directory computes with: whole weights, or a base's and an adapter. Errors: StudyError."""
    whole = digest_weights(base_of(directory))
    if not is_stack(directory) and not is_peft(directory):
        return whole
    return hashlib.sha256(f"{whole} {digest_adapter(directory)}".encode()).hexdigest()


def digest_opened(directory: Path) -> str:
    """SHA-256 of all that a directory is opened by: what it computes with, its configuration, how it reads and writes.

    Errors: StudyError, StoreError.
    """
    whole = hashlib.sha256(digest_model(directory).encode())
    home, base = text_home(directory), base_of(directory)
    for path in sorted({base / files.CONFIG, *(one / name for one in (home, base) for name in TEXT_FILES)}):
        if path.is_file():
            whole.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


# --- the base --------------------------------------------------------------------------------------------------


def _repository_of(home: Path) -> tuple[str, str] | None:
    """Repository and revision of a model in the hub's cache, ``models--OWNER--NAME/snapshots/REVISION`` there."""
    from huggingface_hub import constants

    folder, cache = home.parent.parent, Path(constants.HF_HUB_CACHE).resolve()
    if home.parent.name != "snapshots" or folder.parent != cache or not folder.name.startswith("models--"):
        return None
    return folder.name.removeprefix("models--").replace("--", "/"), home.name


def _find_base(directory: Path, note: Mapping[str, Any]) -> Path:
    """Where a stack's base is: under its name beside the stack or a parent, else where it was at first or on the hub.

    In a run a checkpoint is written in a directory of its own and renamed to the place beside its base: its parents
    hold the base before and after.
    """
    here = directory.resolve()
    name, path = str(note["base"]), note["path"]
    places = [parent / name for parent in here.parents] + ([Path(path)] if path else [])
    bases = [place for place in places if place != here and (place / files.CONFIG).is_file()]
    if not bases and note.get("hub"):
        repository, _, revision = str(note["hub"]).partition("@")
        bases = [find(repository, revision or None)]
    for place in bases:
        if digest_weights(place) == note["digest"]:
            return place
    wanted = f"base {name} (digest of its weights {note['digest'][:12]}…)"
    if bases:
        raise StoreError(f"{directory}: {bases[0]} holds other weights than the {wanted}; put that base there")
    raise StoreError(f"{directory}: its {wanted} is not found; put that directory at {here.parent / name}")


def _read_note(directory: Path) -> dict[str, Any]:
    note = read_object(directory / files.STACK, files.DAMAGED, StoreError)
    name, path = note.get("base"), note.get("path")
    plain = isinstance(name, str) and Path(name).name == name not in ("", "..")
    if not plain or not isinstance(note.get("digest"), str) or not (path is None or isinstance(path, str)):
        raise StoreError(f"{directory / files.STACK}: names no base; {files.DAMAGED}")
    return note
