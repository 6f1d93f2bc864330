"""Model directories from elsewhere: found on the disk or the hub, and refused where loading them could run code.

Weights are read from safetensors alone, pickles never, and no setting of a model makes this process run its code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.errors import MissingExtra, StudyError
from holdfast.models.stacks import base_of, digest_weights, is_stack

# All that is ever asked of a hub; what lies in sub-folders is not part of the model.
ASKED_FOR = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_NOT_ASKED_FOR = ("*/*",)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Settings with which a configuration names code that is to be fetched and run.
_CODE = ("auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines")
_ATTENTION = ("_attn_implementation", "attn_implementation")
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json")
_REPOSITORY = re.compile(r"[\w.\-]+(?:/[\w.\-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(name: str, revision: str | None = None) -> Path:
    """The checked directory of a model: ``name`` is a directory or a repository on the hub, in its ``revision``.

    The hub is asked only for what its cache lacks, and never where HF_HUB_OFFLINE is set.

    Errors: StudyError for a model that is not found or refused.
    """
    place = Path(name).expanduser()
    if place.is_dir():
        if revision is not None:
            raise StudyError(f"model {name}: a directory has no revision; leave 'revision' out")
    elif not _REPOSITORY.fullmatch(name) or name.startswith("."):
        raise StudyError(f"model {name}: no such directory, and no name of a repository; check the path")
    else:
        place = _fetch(name, revision)
    check_model(place)
    return place


def is_here(name: str, revision: str | None = None) -> bool:
    """Whether a model can be opened without asking the hub: a directory, or a repository in the hub's cache."""
    if Path(name).expanduser().is_dir():
        return True
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(name, revision=revision, allow_patterns=["config.json"], local_files_only=True)
    except (ImportError, OSError, ValueError):
        return False
    return True


def describe(directory: Path) -> dict[str, str | None]:
    """What says which weights these are: ``digest`` of the files, ``revision`` of a repository (its commit)."""
    digest = digest_weights(base_of(directory))
    if is_stack(directory):
        adapter = hashlib.sha256((directory / "adapter_model.safetensors").read_bytes()).hexdigest()
        digest = hashlib.sha256(f"{digest} {adapter}".encode()).hexdigest()
    commit = directory.name if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name) else None
    return {"digest": digest, "revision": commit}


def check_model(directory: Path) -> None:
    """Refuses a model directory that asks to run code, holds pickles alone or is damaged. Errors: StudyError."""
    base = base_of(directory)
    for place in dict.fromkeys((directory, base)):
        for name in _CONFIGS:
            if (place / name).is_file():
                _check_settings(place / name)
    if not (base / "config.json").is_file():
        raise StudyError(f"{base}: holds no config.json; name the directory of a model")
    weights = sorted(base.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in base.iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise StudyError(f"{base}: pickle weights ({pickles[0]}) are not loaded; convert to safetensors")
        raise StudyError(f"{base}: holds no weights in safetensors; name the directory of a model")
    index = base / "model.safetensors.index.json"
    if index.is_file():
        _check_index(index)
    for path in dict.fromkeys((*weights, *directory.glob("*.safetensors"))):
        _check_header(path)


def _check_settings(path: Path) -> None:
    settings = _read_object(path)
    for key, value in _walk(settings):
        foreign = key in _ATTENTION and isinstance(value, str) and "/" in value
        if foreign or (key in _CODE and value not in (None, False, {}, [])):
            raise StudyError(f"{path}: asks to run code of its own ({key}): refused; use a model that needs none")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON value with what stands under it, at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); fetch the model again") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path}: is no JSON object; fetch the model again")
    return found


def _check_index(path: Path) -> None:
    places = _read_object(path).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise StudyError(f"{path}: names no weights beside it; fetch the model again")
    for name in sorted(names):
        if Path(name).suffix != ".safetensors":
            raise StudyError(f"{path}: pickle weights ({name}) are not loaded; convert to safetensors")
        if not (path.parent / name).is_file():
            raise StudyError(f"{path}: names {name}, which is not there; fetch the model again")


def _check_header(path: Path) -> None:
    """The header alone: what the file says to hold must fit its length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise StudyError(f"{path}: is damaged ({error}); fetch the model again") from error


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """The bars of transformers would break into ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _fetch(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise MissingExtra("a model from the hub", "train") from error

    shown = f"model {name}" + (f" in revision {revision}" if revision else "")
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(ASKED_FOR), ignore_patterns=list(_NOT_ASKED_FOR)
        )
    except GatedRepoError as error:
        raise StudyError(f"{shown}: the hub wants you to accept its terms first; do so and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise StudyError(f"{shown}: the hub has no such revision; check 'revision'") from error
    except RepositoryNotFoundError as error:
        raise StudyError(f"{shown}: no such directory, and no such repository on the hub; check the name") from error
    except (HFValidationError, ValueError) as error:
        raise StudyError(f"{shown}: no such directory, and no name of a repository; check the name") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise StudyError(
            f"{shown}: no such directory, it is not in the hub's cache, and {why}; download it or name a directory"
        ) from error
    return Path(found)
