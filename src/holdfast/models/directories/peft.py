"""Directories of LoRA adapters as PEFT, TRL, axolotl, LLaMA-Factory and Unsloth write them, and the base they stand on.

    DIR/adapter_config.json          PEFT's settings; ``base_model_name_or_path`` names the base
    DIR/adapter_model.safetensors    what was trained

Nothing here loads weights or needs torch. Only adapters that become part of a base's weights are taken: others make a
model that no directory of weights is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.models.directories import files
from holdfast.models.directories.files import digest_weights, find, read_object
from holdfast.records.errors import StudyError

# What of the settings says where the base was found, how it was trained or what wrote the file: nothing of the model.
_FREE = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision"),
    "task_type",
)
# Settings of LoRA that make something that cannot be merged, or from more than what the directory holds; by what is
# wrong with them. ``megatron_config`` makes PEFT import the module that the settings name.
_UNMERGEABLE: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts from certain tokens on",
    "arrow_config": "it chooses among adapters by the input",
    "kasa_config": "it changes the base's own weights as it begins",
    "layer_replication": "it repeats layers of the base",
    "megatron_config": "it is for Megatron, whose code the settings name",
    "monteclora_config": "its weights are drawn at random",
    "use_bdlora": "its blocks belong to devices",
    "use_qalora": "it belongs to a quantised base",
    "velora_config": "it compresses activations",
}
# How PEFT starts an adapter changes the base's own weights, by data or quantisation that the directory does not hold.
_FOREIGN_STARTS = ("corda", "loftq", "lora_ga", "pissa_niter")
# Settings with which an adapter is more than two factors beside a linear layer.
_RICH = ("lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices", "use_dora")
_OTHER_KINDS: Mapping[str, str] = {
    "PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "CARTRIDGE": "a cartridge",
    "IA3": "IA³",
    "XLORA": "X-LoRA",
}
# The files in which the tokenizers of transformers keep their tokens.
_TOKENS = (
    *("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "*.tiktoken"),
)
_FETCH = "fetch the adapter again"
_MERGE = "merge it where it was trained (PEFT: merge_and_unload, then save_pretrained) and name that directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftAdapter:
    """A PEFT directory: ``base`` is where its base was found, ``settings`` are those of adapter_config.json."""

    directory: Path
    base: Path
    settings: Mapping[str, Any]

    @property
    def plain(self) -> bool:
        """Whether it is two factors beside linear layers and nothing else, as far as the settings tell."""
        started = self.settings.get("init_lora_weights", True)
        own_base = isinstance(started, str) and started.lower().startswith(("pissa", "olora"))
        rich = any(self.settings.get(key) for key in (*_RICH, "fan_in_fan_out"))
        return not rich and not own_base and self.settings.get("bias", "none") == "none"


def is_peft(directory: Path) -> bool:
    """Whether a directory holds an adapter in PEFT's format that is no stack of ours."""
    return (directory / files.ADAPTER_CONFIG).is_file() and not (directory / files.STACK).is_file()


def read_peft(directory: Path, *, download: bool = True) -> PeftAdapter:
    """An adapter that can be merged, and its base. The hub is asked for a base only with ``download``.

    Errors: StudyError for an adapter of another kind, weights beside it, and a base that is not found.
    """
    beside = sorted(path.name for path in directory.glob("*.safetensors") if path.name != files.ADAPTER)
    if beside:
        raise StudyError(
            f"{directory}: holds an adapter ({files.ADAPTER_CONFIG}) beside other weights ({beside[0]}), which"
            " transformers would add to them; move the adapter into a directory of its own, or delete it"
        )
    settings = read_object(directory / files.ADAPTER_CONFIG, _FETCH)
    _check_kind(directory / files.ADAPTER_CONFIG, settings)
    if not (directory / files.ADAPTER).is_file():
        pickled = (directory / "adapter_model.bin").is_file()
        found = "pickle weights (adapter_model.bin) are not loaded" if pickled else f"holds no {files.ADAPTER}"
        raise StudyError(f"{directory}: {found}; save the adapter with safetensors")
    return PeftAdapter(directory=directory, base=_find_base(directory, settings, download), settings=settings)


def digest_adapter(directory: Path) -> str:
    """SHA-256 over an adapter's weights and those of its settings that say what it computes. Errors: StudyError."""
    stored = read_object(directory / files.ADAPTER_CONFIG, _FETCH)
    settings = {key: value for key, value in stored.items() if key not in _FREE}
    for key, value in settings.items():  # sets are written in any order
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            settings[key] = sorted(value)
    with (directory / files.ADAPTER).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {weights}".encode()).hexdigest()


def text_home(directory: Path) -> Path:
    """Where the tokenizer of a directory is: there, or with the base of a PEFT adapter that has none of its own."""
    return directory if has_tokenizer(directory) or not is_peft(directory) else read_peft(directory).base


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds the tokens of a tokenizer. Transformers makes an empty one where it finds none."""
    return any(path.is_file() for pattern in _TOKENS for path in directory.glob(pattern))


def _check_kind(file: Path, settings: Mapping[str, Any]) -> None:
    kind = str(settings.get("peft_type", "nothing")).upper()
    if kind != "LORA":
        words = _OTHER_KINDS.get(kind, f"of kind {kind}")
        raise StudyError(f"{file}: the adapter is {words}, and only LoRA is merged here; {_MERGE}")
    for key, reason in _UNMERGEABLE.items():
        if settings.get(key):
            raise StudyError(f"{file}: the adapter cannot be merged, for {reason} ({key}); {_MERGE}")
    for key in ("r", "lora_alpha"):
        if type(settings.get(key)) not in (int, float):
            raise StudyError(f"{file}: tells no {key}, by which the adapter is scaled; write the number that it had")
    started = settings.get("init_lora_weights", True)
    if isinstance(started, str) and started.lower().startswith(_FOREIGN_STARTS):
        raise StudyError(
            f"{file}: the adapter changed its base as it began (init_lora_weights = {started!r}), by what the"
            f" directory does not hold; {_MERGE}"
        )


def _find_base(directory: Path, settings: Mapping[str, Any], download: bool) -> Path:
    """The base by path, absolute or as seen from the adapter, beside it or from here; else in the hub's cache."""
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    file = directory / files.ADAPTER_CONFIG
    if not isinstance(name, str) or not name:
        raise StudyError(f"{file}: names no base (base_model_name_or_path); write the base's path or name there")
    path = Path(name).expanduser()
    near = [path] if path.is_absolute() else [directory / path, path]
    if len(path.parts) == 1 and path.name != "..":
        near.append(directory.absolute().parent / path)
    # os.path.isfile raises no error for names that no path can have.
    names = (files.CONFIG, files.ADAPTER_CONFIG)
    models = [home for home in near if any(os.path.isfile(home / name) for name in names)]  # noqa: PTH113
    bases = list(dict.fromkeys(Path(os.path.normpath(home.absolute())) for home in models))
    bases = [home for home in bases if home.resolve() != directory.resolve()]
    if len(bases) > 1 and len({_digest_or_path(home) for home in bases}) > 1:
        raise StudyError(
            f"{file}: the base {name!r} may be {bases[0]} or {bases[1]}; write an absolute path as"
            " base_model_name_or_path"
        )
    if bases:
        base = bases[0]
    elif path.is_absolute() or not files.REPOSITORY.fullmatch(name) or name.startswith("."):
        raise StudyError(
            f"{file}: its base {name!r} (base_model_name_or_path) is not here; put that directory there, or write the"
            " path where it is"
        )
    else:
        try:
            base = find(name, revision if isinstance(revision, str) else None, download=download)
        except StudyError as error:
            finding = f"its base {name!r} (base_model_name_or_path) is no directory beside the adapter or here"
            raise StudyError(f"{file}: {finding}; {error}") from error
    if (base / files.STACK).is_file() or is_peft(base):
        raise StudyError(f"{file}: its base {base} is itself an adapter, or holds one; merge that into whole weights")
    return base


def _digest_or_path(directory: Path) -> str:
    """What tells directories of weights apart."""
    try:
        return digest_weights(directory)
    except StudyError:
        return str(directory)
