"""Model directories from elsewhere: found on the disk or the hub, and refused where loading them could run code.

Weights are read from safetensors alone, pickles never, and no setting of a model makes this process run its code. What
does not fit its own configuration, or its base, is refused before anything is loaded: another model would speak.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from holdfast.models.directories import files
from holdfast.models.directories.files import find, read_header, read_index, read_object, weight_files
from holdfast.models.directories.peft import is_peft, read_peft
from holdfast.models.directories.stacks import TEXT_FILES, base_of, digest_model
from holdfast.models.hub.gguf import is_gguf, unpack
from holdfast.records.errors import StudyError, needs

# What opens a directory: transformers to sample, vLLM, or transformers to train.
Engine = Literal["transformers", "vllm", "training"]
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Settings with which a configuration names code that is to be fetched and run.
_CODE = ("trust_remote_code", "_attn_implementation_internal", "custom_pipelines")
_AUTO_MAP = "auto_map"
_NOTHING: tuple[Any, ...] = (None, False, {}, [])
_ATTENTION = ("_attn_implementation", "attn_implementation")
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json")
_MOST_TEXT = 512 << 20  # bytes of a file on how a model reads and writes
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(name: str, revision: str | None = None, *, download: bool = True) -> Path:
    """The checked directory of a model: ``name`` is a directory, a file of llama.cpp (GGUF, which is unpacked into the
    cache), or a repository on the hub, in its ``revision``.

    The hub is asked only for what its cache lacks, and never where HF_HUB_OFFLINE is set, nor without ``download``.

    Errors: StudyError for a model that is not found or refused.
    """
    place = find_model(name, revision, download=download)
    check_model(place, download=download)
    return place


def find_model(name: str, revision: str | None = None, *, download: bool = True) -> Path:
    """The directory of a model as in ``resolve``, not yet checked. Errors: StudyError, MissingExtra."""
    return unpack(name, revision) if is_gguf(name) else find(name, revision, download=download)


def describe(directory: Path) -> dict[str, str | None]:
    """What says which weights these are: ``digest`` of base and adapter, ``revision`` of a repository (its commit)."""
    commit = directory.name if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name) else None
    return {"digest": digest_model(directory), "revision": commit}


def check_model(
    directory: Path, *, engine: Engine = "transformers", attention: str | None = None, download: bool = True
) -> int | None:
    """Refuses a model directory that would not be opened as the model that was saved there; reads no weights.

    That is one that asks to run code, holds pickles alone or is damaged, one whose weights are not those of its
    configuration, an adapter that does not fit its base, and weights quantised in a way that is not computed here. With
    ``attention``, also an architecture that does not have this implementation. Of vLLM's own architectures and
    quantisation vLLM tells itself; quantised weights are not trained.

    Returns the number of tokens that the model reads, where it can be told. Errors: StudyError, StoreError.
    """
    check_files(directory, download=download)
    base = base_of(directory)
    if engine == "vllm" and (base / files.WHOLE).is_file() and (base / files.INDEX).is_file():
        # vLLM reads the shards that an index names; transformers, and the digest, the whole file beside it.
        others = {path.name for path in read_index(base / files.INDEX)} - {files.WHOLE}
        if others:
            raise StudyError(
                f"{base}: holds {files.WHOLE} and {files.INDEX}, which names {min(others)}: vLLM reads the one,"
                " transformers the other; delete what is not the model"
            )
    # Files of a directory and its base with sizes and times of change tell when to look again.
    places = dict.fromkeys((directory, base))
    stored = sorted(path for place in places for path in place.iterdir() if path.suffix in (".json", ".safetensors"))
    stats = [(str(path), path.stat()) for path in stored]
    state = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    with needs("train", f"the model {directory}"):
        from holdfast.models.hub.fitting import check_directory
    return check_directory(directory, attention, engine == "vllm", engine == "training", state)


def check_vocabulary(directory: Path, tokenizer: Any, tokens: int | None) -> None:
    """Refuses a tokenizer of transformers that writes ids which a model of ``tokens`` tokens does not read."""
    written = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens is not None and written > tokens:
        raise StudyError(
            f"{directory}: the tokenizer has {written} tokens, the model reads {tokens}; resize the embeddings"
            " (resize_token_embeddings) and train them, or restore the tokenizer that the model was trained with"
        )


def check_files(directory: Path, *, download: bool = True) -> None:
    """The part of ``check_model`` that needs neither torch nor transformers. Errors: StudyError."""
    base = read_peft(directory, download=download).base if is_peft(directory) else base_of(directory)
    for place in dict.fromkeys((directory, base)):
        for name in _CONFIGS:
            if (place / name).is_file():
                _check_settings(place / name)
        for name in TEXT_FILES:
            if (place / name).is_file() and (size := (place / name).stat().st_size) > _MOST_TEXT:
                raise StudyError(f"{place / name}: has {size:,} bytes, more than any tokenizer; {files.FETCH}")
    if not (base / files.CONFIG).is_file():
        raise StudyError(f"{base}: holds no config.json; name the directory of a model")
    _check_weights(base)
    if (directory / files.ADAPTER).is_file():
        read_header(directory / files.ADAPTER)


def _check_weights(base: Path) -> None:
    stored = sorted(path.name for path in base.glob("*.safetensors"))
    pickles = sorted(path.name for path in base.iterdir() if path.suffix in _PICKLES)
    if not stored and pickles:
        raise StudyError(f"{base}: pickle weights ({pickles[0]}) are not loaded; convert to safetensors")
    if not stored and not (base / files.INDEX).is_file():
        raise StudyError(f"{base}: holds no weights in safetensors; name the directory of a model")
    index = base / files.INDEX
    for path in read_index(index) if index.is_file() else ():
        if path.suffix != ".safetensors":
            raise StudyError(f"{index}: pickle weights ({path.name}) are not loaded; convert to safetensors")
        if not path.is_file():
            raise StudyError(f"{index}: names {path.name}, which is not there; {files.FETCH}")
    if strange := [name for name in stored if _DISTRIBUTED.match(name)]:
        raise StudyError(f"{base}: {strange[0]} is of a distributed checkpoint; save the model whole")
    for path in weight_files(base):
        if not path.is_file():
            raise StudyError(
                f"{base}: holds {stored[0]}, but neither {path.name} nor {files.INDEX}, which says what belongs to the"
                " model; save the model again, or fetch it again"
            )
        read_header(path)


def _check_settings(path: Path) -> None:
    settings = read_object(path, files.FETCH)
    if path.name == files.CONFIG and settings.get(_AUTO_MAP, {}) is None:
        raise StudyError(f"{path}: its auto_map is null, which transformers does not read; take it out of the file")
    objects: list[dict[str, Any]] = []  # at any depth
    values: list[Any] = [settings]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            objects.append(value)
            values += value.values()
        elif isinstance(value, list):
            values += value
    for key, value in (item for holder in objects for item in holder.items()):
        foreign = key in _ATTENTION and isinstance(value, str) and "/" in value
        if foreign or (key in _CODE and value not in _NOTHING):
            raise StudyError(f"{path}: asks to run code of its own ({key}): refused; use a model that needs none")
    if settings.get("transformers_weights"):
        raise StudyError(f"{path}: names other files of weights (transformers_weights); save the model again")
    for holder in objects:
        if holder.get(_AUTO_MAP) not in _NOTHING:
            _check_auto_map(path, holder, top=holder is settings)


def _check_auto_map(path: Path, settings: dict[str, Any], *, top: bool) -> None:
    """Code that a configuration names beside a ``model_type`` of transformers' own is never asked for: it may stand.

    A tokenizer's is not asked for either, and one without a class of transformers' own is refused as it is read.
    """
    if path.name != files.CONFIG and top:
        return
    with needs("train", f"the model {path.parent}"):
        from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    kind = settings.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if not known or (top and CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING):
        what = f"a model of kind {kind!r}" if kind else "no model_type"
        raise StudyError(
            f"{path}: asks to run code of its own (auto_map) for {what}, which transformers does not have: refused; use"
            " a model that needs none"
        )
