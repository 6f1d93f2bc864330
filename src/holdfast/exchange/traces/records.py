"""The bytes of a trace file as JSON values, with what production does to files told in one line.

A file that is not what it should be as a whole (empty, UTF-16, a pipe, a bomb) is refused. A single record that cannot
be read is a ``BadRecord``: the caller leaves it out and counts it, or passes it on. What is wrong with one value inside
a record (a number that is not finite, a key that stands twice, bytes that are no UTF-8) stands in its place as a
``Flaw``, so that it costs no more than what it belongs to. No message quotes what a record holds, as that may speak of
people.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import zstandard

from holdfast.records import inputs
from holdfast.records.errors import StudyError

MAX_FILE_BYTES = 2 * 2**30
MAX_RECORD_BYTES = 32 * 2**20
MAX_RATIO = 200  # expanded to compressed bytes, looked at beyond RATIO_FREE_BYTES; logs repeat themselves
RATIO_FREE_BYTES = 64 * 2**20
MAX_WINDOW_BYTES = 2**27  # memory that a zstd frame may ask for
MAX_DEPTH = 200  # of nested values; OTLP wraps each of ours in several of its own
MAX_DIGITS = 400  # of a whole number
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_READ_BYTES = 2**20
_ZSTD_BYTES = 2**12  # at once: a block of four bytes may expand to 2**17


class BadRecord(StudyError):
    """One record of a file cannot be read; the others may be."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """What stands in a value's place where it could not be read, and why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One JSON value of a file, or what keeps it from being read; ``place`` is the file and line, ``size`` in bytes.

    ``flawed`` says that a ``Flaw`` stands somewhere in the value.
    """

    place: str
    value: Any = None
    error: BadRecord | None = None
    torn: bool = False
    size: int = 0
    flawed: bool = False


def refuse_record(place: str, finding: str, remedy: str = "correct it at its source or leave it out") -> NoReturn:
    """Raise a BadRecord of one line."""
    raise BadRecord(f"{place}: {finding}; {remedy}")


def read_object(place: str, value: Any) -> dict[str, Any]:
    """An object, empty where there is none. Errors: BadRecord."""
    if value is not None and not isinstance(value, dict):
        refuse_record(place, f"expected an object, found {type(value).__name__}")
    return value or {}


def read_bytes(path: Path) -> bytes:
    """A file's bytes, expanded where they are gzip or zstd, without a byte order mark.

    Errors: StudyError where it is no plain file, empty, too large, damaged or UTF-16.
    """
    data = inputs.read_bytes(path, MAX_FILE_BYTES, remedy="give the path of a file of traces")
    if data.startswith((GZIP, ZSTD)) or _is_framed(data):
        data = _expand(path, data)
    if data[:2] in BYTE_ORDER_MARKS:
        raise StudyError(f"{path}: the file is UTF-16; convert it to UTF-8")
    data = data.removeprefix(UTF8_MARK)
    if not data.strip():
        raise StudyError(f"{path}: the file is empty; leave it out or write traces to it")
    return data


def _expand(path: Path, data: bytes) -> bytes:
    """What gzip or zstd holds, all members of it. Errors: StudyError where it is damaged, cut short or a bomb."""
    made, limit = bytearray(), max(RATIO_FREE_BYTES, MAX_RATIO * len(data))
    pieces = _gunzip(data) if data.startswith(GZIP) else _unframe(data) if _is_framed(data) else _unzstd(data)
    try:
        for piece in pieces:
            made += piece
            if len(made) > min(limit, MAX_FILE_BYTES):
                raise StudyError(f"{path}: expands beyond {len(made) >> 20:,} MiB; split it, or leave it out")
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        kind = "gzip" if data.startswith(GZIP) else "zstd"
        raise StudyError(f"{path}: damaged or cut short as {kind} ({error}); fetch it again") from error
    return bytes(made)


def _gunzip(data: bytes) -> Iterator[bytes]:
    """Every member, as rotated logs are joined; padding of zeros may follow."""
    rest = data
    while rest.startswith(GZIP):
        expander = zlib.decompressobj(wbits=31)
        while not expander.eof:
            piece = expander.decompress(rest, _READ_BYTES)
            rest = expander.unconsumed_tail
            if not piece and not rest and not expander.eof:
                raise EOFError("its end is missing")
            yield piece
        rest = expander.unused_data.lstrip(b"\0")
    if rest:
        raise EOFError("something else follows")


def _unzstd(data: bytes) -> Iterator[bytes]:
    """Every frame to its end, which the stream's own reader would not miss."""
    at = 0
    while at < len(data):
        frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        while not frame.eof:
            block = data[at : at + _ZSTD_BYTES]
            if not block:
                raise EOFError("its end is missing")
            yield frame.decompress(block)
            at += len(block) - len(frame.unused_data)


def _is_framed(data: bytes) -> bool:
    """Whether a collector's file exporter packed it: each message by itself, its size in four bytes before it."""
    return data[4:8] == ZSTD and int.from_bytes(data[:4], "big") <= len(data)


def _unframe(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        message = data[at + 4 : at + 4 + size]
        if len(message) < max(size, 1):
            raise EOFError("its end is missing")
        yield from _unzstd(message)
        yield b"\n"
        at += 4 + size


def read_records(path: Path, data: bytes, *, strict: bool = False) -> Iterator[Record]:
    """The JSON values of a file: one a line, one document that may be an array of them, or documents one after another.

    A document over several lines is told by its first line, which is no JSON by itself. Only a newline ends a line.
    With ``strict`` a value that cannot be read spoils its whole record.
    """
    first, _, rest = data.lstrip().partition(b"\n")
    whole = rest.strip() and not _is_json(first)
    yield from (_documents if whole else _lines)(path, data, strict)


def _lines(path: Path, data: bytes, strict: bool) -> Iterator[Record]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            values = parse(place, line, strict=strict, several=True)
        except BadRecord as error:
            # A writer that was stopped leaves a line without its end.
            torn = number == len(lines) and not _is_json(line)
            yield Record(place=place, error=error, torn=torn, size=len(line))
            continue
        for value, flawed in values:
            yield from _items(place, value, len(line) // len(values), flawed)


def _items(place: str, value: Any, size: int, flawed: bool) -> Iterator[Record]:
    """The value, or each item where it is an array."""
    listed = isinstance(value, list)
    items = {f"{place}[{number}]": item for number, item in enumerate(value)} if listed else {place: value}
    for where, item in items.items():
        yield Record(place=where, value=item, size=size // len(items), flawed=flawed)


def _documents(path: Path, data: bytes, strict: bool) -> Iterator[Record]:
    """One document over several lines, several of them, or lines of which the first is damaged. Errors: StudyError."""
    place = f"{path}:1"
    try:
        ((value, flawed),) = parse(place, data, limit=MAX_FILE_BYTES, strict=strict)
        yield from _items(place, value, len(data), flawed)
        return
    except BadRecord as error:
        found = error
    # Where a later line is an object by itself, it is the first line that is damaged.
    later = data.split(b"\n")[1:50]  # a few: to try all would read the file once more
    if any(line.startswith(b"{") and line.rstrip() != b"{}" and _is_json(line) for line in later):
        yield from _lines(path, data, strict)
        return
    if "Extra data" not in str(found):
        raise StudyError(str(found)) from found
    try:
        values = parse(place, data, limit=MAX_FILE_BYTES, strict=strict, several=True)
    except BadRecord as error:
        raise StudyError(f"{error} (several documents: write one a line, as jq -c does)") from error
    for number, (value, flawed) in enumerate(values, 1):
        yield from _items(f"{path}: document {number}", value, len(data) // len(values), flawed)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8", "replace"))
    except RecursionError:
        return False
    except ValueError as error:
        return str(error).startswith("Extra data") or "limit" in str(error)
    return True


def _decoder(flaws: list[str]) -> json.JSONDecoder:
    """Reads JSON with a ``Flaw`` in the place of what cannot be kept, whose reason goes into ``flaws`` too."""

    def flaw(reason: str) -> Flaw:
        flaws.append(reason)
        return Flaw(reason)

    def read_float(text: str) -> float | Flaw:
        value = float(text)
        return value if math.isfinite(value) else flaw("a number is too large")

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Flaw:
        made = dict(pairs)
        return made if len(made) == len(pairs) else flaw("a key stands twice in one object")

    return json.JSONDecoder(
        parse_constant=lambda name: flaw(f"{name} is not a finite number"),
        parse_float=read_float,
        parse_int=lambda text: int(text) if len(text) <= MAX_DIGITS else flaw("a number is too long"),
        object_pairs_hook=read_object,
    )


def parse(
    place: str, data: bytes, *, limit: int = MAX_RECORD_BYTES, strict: bool = False, several: bool = False
) -> list[tuple[Any, bool]]:
    """The JSON value of some bytes, or of ``several`` one after another; with each, whether a ``Flaw`` stands in it.

    Errors: BadRecord with ``place`` and what is wrong, without what is in it.
    """
    if len(data) > limit:
        refuse_record(place, f"a record of {len(data):,} bytes, more than {limit >> 20} MiB")
    flaws: list[str] = []
    decoder, at = _decoder(flaws), 0
    made: list[tuple[Any, bool]] = []
    try:
        text = data.decode("utf-8").strip().lstrip("\x1e")
    except UnicodeDecodeError as error:
        flaws.append(f"invalid UTF-8 at byte {error.start + 1:,} of the record")
        if strict:
            refuse_record(place, flaws[0])
        # Each wrong byte becomes half a surrogate pair, by which ``find_flaw`` knows it.
        text = data.decode("utf-8", "surrogateescape").strip()
    try:
        while at < len(text) or not (several or made):
            value, at = decoder.raw_decode(text, at) if several else (decoder.decode(text), len(text))
            if _deeper_than(value, MAX_DEPTH):
                raise RecursionError
            if flaws and (strict or isinstance(value, Flaw)):
                refuse_record(place, flaws[0])
            made.append((value, bool(flaws)))
            while at < len(text) and text[at] in " \t\r\n\x1e,":  # RFC 7464 puts a record separator between
                at += 1
    except json.JSONDecodeError as error:
        refuse_record(place, f"not JSON, or cut short ({error.msg} at character {error.pos + 1:,})")
    except RecursionError:
        refuse_record(place, f"nested deeper than {MAX_DEPTH}")
    return made


def parse_text(place: str, text: str) -> Any:
    """The JSON value that a text is. Errors: BadRecord, also for what would be a ``Flaw``."""
    return parse(place, text.encode("utf-8", "replace"), strict=True)[0][0]


def find_flaw(value: Any) -> str | None:
    """The reason of the first flaw in a value, or None."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Flaw):
            return one.reason
        if isinstance(one, dict):
            waiting += [*one.values(), *one.keys()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and not one.isascii() and any("\udc80" <= letter <= "\udcff" for letter in one):
            return "invalid UTF-8"
    return None


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not nested:
            return False
        level = [inner for one in nested for inner in one]
    return True


# What a plain number counts is told by its size: a moment of this century in s, ms, µs or ns.
_UNITS = ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (1e20, 1))


def read_time(value: Any) -> int | None:
    """A moment in ns since 1970, as any log writes it; None where it is not told or of no known form."""
    if isinstance(value, bool) or value in (None, "", 0, "0"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _read_date(value) if isinstance(value, str) else None
    except OverflowError:
        return None
    scale = next((scale for limit, scale in _UNITS if 0 < number < limit), None)
    if scale is None:
        return None
    return int(value) if scale == 1 and str(value).isdigit() else int(number * scale)


def _read_date(text: str) -> int | None:
    try:
        date = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        return None
    since = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    # In whole numbers: a float of seconds would lose the last digits.
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
