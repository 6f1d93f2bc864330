"""Where a model directory lies, and its files: names, headers, the digest of whole weights. All without torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.records.errors import HoldfastError, StudyError, needs
from holdfast.records.inputs import read_bytes

if TYPE_CHECKING:
    from torch import Tensor

STACK, ADAPTER, ADAPTER_CONFIG = "stack.json", "adapter_model.safetensors", "adapter_config.json"
SETTINGS_BYTES = 64 << 20  # of a file of settings, of which an index of weights is the largest
WHOLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
POINTER = b"version https://git-lfs."
FETCH = "fetch the model again"
DAMAGED = "train the stage again or restore the directory"
Told = TypeVar("Told")


def digest_weights(directory: Path) -> str:
    """SHA-256 over names and contents of a directory's files of whole weights. Errors: StudyError."""
    whole = hashlib.sha256()
    for path in weight_files(directory):
        try:
            stat = path.stat()
            whole.update(path.name.encode() + b"\0" + _digest_file(path.resolve(), stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            raise StudyError(
                f"{path}: cannot be read ({error.strerror}); an adapter needs a base with weights in safetensors"
            ) from error
    return whole.hexdigest()


@lru_cache(maxsize=64)
def _digest_file(path: Path, _size: int, _modified: int) -> bytes:
    """A file's digest; size and time of change tell when it must be read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_object(path: Path, remedy: str, kind: type[HoldfastError] = StudyError) -> dict[str, Any]:
    """The JSON object of a file. Errors: ``kind``, which ends with ``remedy``."""
    try:
        found = json.loads(read_bytes(path, SETTINGS_BYTES, remedy=remedy).decode("utf-8"))
    except StudyError as error:
        raise kind(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise kind(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise kind(f"{path}: is no JSON object; {remedy}")
    return found


def weight_files(directory: Path) -> list[Path]:
    """The files of whole weights in the order of names: one, or those that an index names."""
    if (directory / WHOLE).is_file() or not (directory / INDEX).is_file():
        return [directory / WHOLE]
    return read_index(directory / INDEX)


def read_index(path: Path) -> list[Path]:
    """The files beside an index that it names, in the order of names. Errors: StudyError."""
    places = read_object(path, FETCH).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise StudyError(f"{path}: names no weights beside it; {FETCH}")
    return [path.with_name(name) for name in sorted(names)]


def read_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a directory's whole weights by name, read from the headers of their files. Errors: StudyError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(directory):
        shapes |= read_header(path)
    return shapes


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors by name: what its header says must fit its length. Errors: StudyError."""
    return _ask_header(path, lambda part: tuple(part.get_shape()))


def read_kinds(path: Path) -> dict[str, str]:
    """How a file's tensors are stored, by name, in safetensors' words: "BF16", "F32", "I8". Errors: StudyError."""
    return _ask_header(path, lambda part: str(part.get_dtype()))


def _ask_header(path: Path, ask: Callable[[Any], Told]) -> dict[str, Told]:
    with needs("train", f"the model {path.parent}"):
        from safetensors import SafetensorError, safe_open
    try:
        # The framework is that of tensors, of which none is asked for.
        with safe_open(path, framework="np") as file:
            return {name: ask(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        told = f"is damaged ({error}); {FETCH}"
        with suppress(OSError), path.open("rb") as start:
            if start.read(len(POINTER)) == POINTER:  # it stands for a file that Git LFS was not asked for
                told = "is a pointer of Git LFS and not the file; fetch that (git lfs pull)"
        raise StudyError(f"{path}: {told}") from error


def load_file(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        loaded: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors has its own exception type for a torn file
        raise StudyError(f"{path}: cannot be read ({error}); make the model again") from error
    return loaded


# --- a model by its name ------------------------------------------------------------------------------------------

REPOSITORY = re.compile(r"[\w.\-]+(?:/[\w.\-]+)?")  # of a hub
# All that is ever asked of a hub.
ASKED_FOR = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")


def find(name: str, revision: str | None = None, *, download: bool = True) -> Path:
    """The directory of a model as in ``resolve``, not yet checked. Errors: StudyError."""
    place = Path(name).expanduser()
    if os.path.isdir(place):  # noqa: PTH112 (no error for names that no path can have)
        if revision is not None:
            raise StudyError(f"model {name}: a directory has no revision; leave 'revision' out")
        return place
    if os.path.isfile(place):  # noqa: PTH113
        raise StudyError(f"model {name}: is a file; name the directory of the model")
    if not REPOSITORY.fullmatch(name) or name.startswith("."):
        raise StudyError(f"model {name}: no such directory, and no name of a repository; check the path")
    with needs("train", "a model from the hub"):
        from huggingface_hub import constants, errors, snapshot_download
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    why = why if download else "nothing is downloaded for a check"
    # In this order: the first are kinds of the last.
    findings: dict[type[Exception], str] = {
        errors.GatedRepoError: "the hub wants you to accept its terms first; do so and set HF_TOKEN",
        errors.RevisionNotFoundError: "the hub has no such revision; check 'revision'",
        errors.RepositoryNotFoundError: "no such directory, and no such repository on the hub; check the name",
        ValueError: "no such directory, and no name of a repository; check the name",
        OSError: f"no such directory, it is not in the hub's cache, and {why}; download it or name a directory",
    }
    try:
        # What lies in sub-folders is not part of the model.
        chosen: dict[str, Any] = {"allow_patterns": list(ASKED_FOR), "ignore_patterns": ["*/*"]}
        return Path(snapshot_download(name, revision=revision, local_files_only=not download, **chosen))
    except tuple(findings) as error:
        finding = next(finding for kind, finding in findings.items() if isinstance(error, kind))
        shown = f"model {name}" + (f" in revision {revision}" if revision else "")
        raise StudyError(f"{shown}: {finding}") from error
