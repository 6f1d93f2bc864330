"""Which files are Inspect logs, and which of them may be opened: told by their content, never by a folder's layout.

A log is a zip archive (``.eval``) or one JSON object (``.json``). Import, gate and watch find logs here, so that each
takes what the others take. Nothing but plain files is opened.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path

from holdfast.records.errors import refuse
from holdfast.records.inputs import check_expansion

REMEDY = "fetch the log again or leave it out"
LOG = ".eval"
LOG_AS_JSON = ".json"
MAX_ENTRY_BYTES = 256 * 2**20  # of one sample, and of a log as JSON
_HEAD_BYTES = 2**16
_ZIP = b"PK\x03\x04"
_PARTS = frozenset({"header.json", "_journal/start.json"})  # one of them is in every log's archive
# The keys that a log as JSON may begin with; Inspect writes "version" first, a tool that sorts keys "eval".
_FIRST_KEY = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(version|eval|status|error|invalidated|location)"\s*:')
_EVAL_KEY = re.compile(rb'"eval"\s*:\s*[\[{]')
_LINES = (".jsonl", ".ndjson")  # a record a line, never a log
_MANY = 0xFFFF  # entries: the count stands in the larger record before
_TAIL_BYTES = 2**16 + 22 + 20 + 56  # of the records that end an archive, with the longest comment
_NAME_CHARACTERS = 80  # of an entry's name in a message


def find_logs(path: Path) -> list[Path]:
    """The Inspect logs at ``path``: a file itself, or those anywhere in a folder, sorted.

    Errors: StudyError where nothing is there, or something that is no plain file and no folder.
    """
    if path.is_dir():
        inside = (one for one in sorted(path.rglob("*")) if one.suffix in (LOG, LOG_AS_JSON))
        return [one for one in inside if is_inspect(one)]
    require_plain(path)
    return [path]


def is_inspect(path: Path) -> bool:
    """Whether a path is an Inspect log by its content, or a folder that holds one; a damaged log is one, too."""
    if path.is_dir():
        return any(is_inspect(one) for one in path.rglob("*") if one.suffix in (LOG, LOG_AS_JSON) and one.is_file())
    if not path.is_file() or path.suffix in _LINES:
        return False
    if path.suffix == LOG:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if not head.startswith(_ZIP):
            return _begins_log(head)
        with zipfile.ZipFile(path) as archive:
            return not _PARTS.isdisjoint(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def require_plain(path: Path) -> None:
    """Refuse what is no plain file: a device or a pipe might never end. Errors: StudyError."""
    if not path.is_file():
        finding = "a device or pipe, not a plain file" if path.exists() else "no such file or directory"
        refuse(path, finding, "give an Inspect log or a folder of them")


def is_archive(path: Path) -> bool:
    """Whether a log is a zip archive, else JSON."""
    with path.open("rb") as file:
        return path.suffix == LOG or file.read(len(_ZIP)) == _ZIP


def check_log(path: Path) -> None:
    """Refuse a log that is too large or whose bytes are not those that were written. Errors: StudyError.

    Every entry of an archive is read once and held against its checksum: Inspect's own reader looks at none.
    """
    require_plain(path)
    if not is_archive(path):
        if path.stat().st_size > MAX_ENTRY_BYTES:
            refuse(path, f"beyond {MAX_ENTRY_BYTES >> 20} MiB", "convert it with `inspect log convert --to eval`")
        return
    import inspect_ai.log  # noqa: F401 — with it, zipfile reads the compression of newer logs

    with zipfile.ZipFile(path) as archive:
        _check_sizes(path, archive.infolist())
        if len(archive.infolist()) != _counted_entries(path):
            refuse(path, "not a readable Inspect log: its directory does not hold the entries that it counts", REMEDY)
        try:
            damaged = archive.testzip()
        except (zlib.error, EOFError, ValueError) as error:
            refuse(path, f"not a readable Inspect log, or cut short ({error})", REMEDY)
        if damaged is not None:
            name = damaged[:_NAME_CHARACTERS]
            refuse(path, f"not a readable Inspect log: entry {name!r} does not have its checksum", REMEDY)


def _counted_entries(path: Path) -> int:
    """How many entries an archive says that it has, which zipfile does not look at (APPNOTE.TXT 4.3.14 and 4.3.16)."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        tail = file.read()
    # The last record has the count at its tenth byte, or says there that the larger one before it does, at its 32nd.
    end = tail.rfind(b"PK\x05\x06")
    count = int.from_bytes(tail[end + 10 : end + 12], "little")
    large = tail.rfind(b"PK\x06\x06", 0, max(end, 0))
    return int.from_bytes(tail[large + 32 : large + 40], "little") if count == _MANY and large >= 0 else count


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        place = f"{path}: entry {entry.filename[:_NAME_CHARACTERS]!r}"
        if entry.file_size > MAX_ENTRY_BYTES:
            refuse(place, f"expands beyond {MAX_ENTRY_BYTES >> 20} MiB", REMEDY)
        # No compression makes much more of a text: whoever says so hides what it expands to.
        if entry.compress_size > entry.file_size + entry.file_size // 8 + 1024:
            refuse(place, f"{entry.compress_size:,} bytes packed are said to hold {entry.file_size:,}", REMEDY)
        check_expansion(place, entry.file_size, entry.compress_size, REMEDY)
    expanded, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    check_expansion(path, expanded, packed, REMEDY)


def _begins_log(head: bytes) -> bool:
    """Whether JSON begins as a log does; one that is cut short before its second key is taken for one."""
    first = _FIRST_KEY.match(head)
    if first is None:
        return False
    if _EVAL_KEY.search(head) is not None:
        return True
    if first[1] != b"version" or len(head) == _HEAD_BYTES:
        return False
    try:
        json.JSONDecoder().raw_decode(head.decode("utf-8-sig", "replace").lstrip())
    except (ValueError, RecursionError):
        return True
    return False
