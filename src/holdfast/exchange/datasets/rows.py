"""Rows of a file of JSON lines: each read or left out and counted; a file of which too much is bad is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from holdfast.exchange.traces.records import BadRecord, parse, refuse_record
from holdfast.records.errors import StudyError, require
from holdfast.records.inputs import decode_utf8, read_bytes
from holdfast.records.words import count_noun
from holdfast.study.stages import DATA_BYTES

MOST_LEFT_OUT = 1 / 20  # of a file's rows
_KIND = "give a file of JSON lines, one row a line"
# What a file that is no text begins with, what it is, and how its rows become lines.
_UNPACK, _CONVERT = "unpack it", "write its rows as JSON lines, as to_json of the package datasets does"
_OTHER_FILES = (
    (b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    (b"BZh", "compressed (bzip2)", _UNPACK),
    (b"\xfd7zXZ", "compressed (xz)", _UNPACK),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PAR1", "a Parquet file", _CONVERT),
    (b"ARROW1", "an Arrow file", _CONVERT),
    (b"\xff\xff\xff\xff", "an Arrow file", _CONVERT),
    (b"version https://git-lfs", "a pointer that Git LFS keeps in a file's place", "fetch the file (git lfs pull)"),
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[T]):
    """What a file's rows hold, by line; ``left_out`` counts bad rows, ``first`` says what is wrong with the first."""

    read: Mapping[int, T]
    left_out: int
    first: str = ""


def read_rows(path: Path, read: Callable[[str, dict[str, Any]], T], data: bytes | None = None) -> Rows[T]:
    """What ``read`` makes of the place and the object of each row; ``data`` is what is in the file, where it is known.

    Errors: StudyError for a file that is no JSON lines, or has more than a twentieth of bad rows.
    """
    made: dict[int, T] = {}
    errors: list[BadRecord] = []
    for number, line in _lines(path, read_bytes(path, DATA_BYTES, remedy=_KIND) if data is None else data):
        place = f"{path}:{number}"
        try:
            made[number] = read(place, _object(place, line))
        except BadRecord as error:
            errors.append(error)
    count = len(made) + len(errors)
    if not count:
        raise StudyError(f"{path}: holds no row; {_KIND}")
    if errors:
        refuse_many(path, len(errors), count, "cannot be learnt from", str(errors[0]))
    return Rows(read=made, left_out=len(errors), first=str(errors[0]) if errors else "")


def refuse_many(path: Path, bad: int, count: int, finding: str, first: str) -> None:
    """Raises StudyError where more than a twentieth of a file's rows is bad; ``first`` says what the first of them is.

    ``finding`` says what is true of them all.
    """
    if bad > MOST_LEFT_OUT * count:
        told = f"{bad} of {count_noun(count, 'rows')}, more than a twentieth," if count > 1 else "its one row"
        raise StudyError(f"{path}: {told} {finding}, the first: {first}")


def _lines(path: Path, data: bytes) -> Iterator[tuple[int, bytes]]:
    for mark, kind, remedy in _OTHER_FILES:
        require(not data.startswith(mark), f"{path}: {kind}; {remedy}")
    text = decode_utf8(str(path), data)
    require("\0" not in text[:4], f"{path}:1: begins with NUL bytes, as UTF-16 may; save it as UTF-8")
    begin = text.lstrip()
    require(not begin.startswith("["), f"{path}: a JSON array; write one row a line, as `jq -c '.[]'` does")
    several = begin.startswith(("{\n", "{\r"))
    require(not several, f"{path}: a JSON object over several lines; write one row a line, as `jq -c .` does")
    # Only a newline ends a line: texts hold the other separators of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.encode()


def _object(place: str, line: bytes) -> dict[str, Any]:
    value = parse_value(place, line)
    if not isinstance(value, dict):
        refuse_record(place, f"expected an object, found {type(value).__name__}")
    return value


def parse_value(place: str, text: str | bytes) -> Any:
    """The JSON value that a text is. Errors: BadRecord, also for half a surrogate pair, which no model reads."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    value = parse(place, data, strict=True)[0][0]
    if b"\\u" in data:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse_record(place, "half a surrogate pair in a text")
    return value
