"""Lines of a trace file as JSON values, with what production does to files told in one line.

A file that is not what it should be as a whole (empty, UTF-16, of no known format) is refused. A single record that
cannot be read is a ``BadRecord``: the caller leaves it out and counts it, or passes it on. No message quotes what a
record holds, as that may speak of people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson

from holdfast.errors import StudyError

MAX_FILE_BYTES = 2 * 2**30
MAX_RECORD_BYTES = 32 * 2**20
MAX_DEPTH = 200  # of nested values; OTLP wraps each of ours in several of its own
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"


class BadRecord(StudyError):
    """One record of a file cannot be read; the others may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One JSON value of a file, or what keeps it from being read; ``place`` is the file and line."""

    place: str
    value: Any = None
    error: BadRecord | None = None
    torn: bool = False


def refuse_record(place: str, finding: str, remedy: str = "correct it at its source or leave it out") -> NoReturn:
    """Raise a BadRecord of one line."""
    raise BadRecord(f"{place}: {finding}; {remedy}")


def read_object(place: str, value: Any) -> dict[str, Any]:
    """An object, empty where there is none. Errors: BadRecord."""
    if value is not None and not isinstance(value, dict):
        refuse_record(place, f"expected an object, found {type(value).__name__}")
    return value or {}


def read_bytes(path: Path) -> bytes:
    """A file's bytes without a byte order mark. Errors: StudyError where it is empty, too large or UTF-16."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise StudyError(f"{path}: {size:,} bytes; split it into files of at most {MAX_FILE_BYTES >> 30} GiB")
        data = path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); give the path of a file of traces") from error
    if data[:2] in BYTE_ORDER_MARKS:
        raise StudyError(f"{path}: the file is UTF-16; convert it to UTF-8")
    data = data.removeprefix(UTF8_MARK)
    if not data.strip():
        raise StudyError(f"{path}: the file is empty; leave it out or write traces to it")
    return data


def read_records(path: Path, data: bytes) -> Iterator[Record]:
    """The JSON values of a file: one a line, or one document that may be an array of them.

    A document over several lines is told by its first line, which is no JSON by itself. Only a newline ends a line.
    """
    first, _, rest = data.lstrip().partition(b"\n")
    if rest.strip() and not _is_json(first):
        yield from _document(path, data)
        return
    lines = data.split(b"\n")
    last = len(lines) - 1
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = parse(place, line)
        except BadRecord as error:
            # A writer that was stopped leaves a line without its end.
            torn = number - 1 == last and not _is_json(line)
            yield Record(place=place, error=error, torn=torn)
            continue
        yield from _items(place, value)


def _items(place: str, value: Any) -> Iterator[Record]:
    """The value, or each item where it is an array."""
    if isinstance(value, list):
        yield from (Record(place=f"{place}[{number}]", value=item) for number, item in enumerate(value))
    else:
        yield Record(place=place, value=value)


def _document(path: Path, data: bytes) -> Iterator[Record]:
    try:
        value = parse(f"{path}:1", data, limit=MAX_FILE_BYTES)
    except BadRecord as error:
        if _starts_new_line(data):
            # Not one document but lines of which the first is damaged.
            yield from _lines_after_damage(path, data)
            return
        raise StudyError(str(error)) from error
    yield from _items(f"{path}:1", value)


def _starts_new_line(data: bytes) -> bool:
    """Whether a later line is JSON by itself and begins an object."""
    return any(line.startswith(b"{") and _is_json(line) for line in data.split(b"\n")[1:50])


def _lines_after_damage(path: Path, data: bytes) -> Iterator[Record]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                value = parse(place, line)
            except BadRecord as error:
                yield Record(place=place, error=error)
                continue
            yield from _items(place, value)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)


def parse(place: str, data: bytes, *, limit: int = MAX_RECORD_BYTES) -> Any:
    """The JSON value of some bytes. Errors: BadRecord with ``place`` and what is wrong, without what is in it."""
    if len(data) > limit:
        refuse_record(place, f"a record of {len(data):,} bytes, more than {limit >> 20} MiB")
    try:
        value = _DECODER.decode(data.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        refuse_record(place, f"invalid UTF-8 at byte {error.start + 1:,} of the record")
    except json.JSONDecodeError as error:
        refuse_record(place, f"not JSON, or cut short ({error.msg} at character {error.pos + 1:,})")
    except RecursionError:
        refuse_record(place, f"nested deeper than {MAX_DEPTH}")
    except ValueError as error:
        finding = str(error)
        refuse_record(place, "a number is too long" if "limit" in finding else finding)
    if _deeper_than(value, MAX_DEPTH):
        refuse_record(place, f"nested deeper than {MAX_DEPTH}")
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not nested:
            return False
        level = [inner for one in nested for inner in one]
    return True


def clean(text: str) -> str:
    """The text, with half surrogate pairs, which cannot be stored, replaced."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def to_text(value: Any) -> str:
    """A value as text: texts as they are, None as nothing, the rest as JSON."""
    if value is None:
        return ""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def to_arguments(value: Any) -> dict[str, Any]:
    """A call's arguments as an object that the store gives back as it is; anything else stands under ``_raw``."""
    if value is None or value == "":
        return {}
    found = value
    if isinstance(value, str):
        try:
            found = _DECODER.decode(value)
        except (ValueError, RecursionError):
            return {"_raw": clean(value)}
    try:
        kept = isinstance(found, dict) and orjson.loads(orjson.dumps(found)) == found
    except (TypeError, ValueError):
        kept = False
    return found if kept else {"_raw": to_text(value)}
