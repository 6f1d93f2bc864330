"""Rows of a file of JSON lines: each read or left out and counted; a file of which too much is bad is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from holdfast.exchange.traces.records import BadRecord, parse, refuse_record
from holdfast.records.errors import StudyError
from holdfast.records.inputs import decode_utf8, read_bytes
from holdfast.records.words import count_noun

MOST_BYTES = 1 << 30  # of a file
MOST_LEFT_OUT = 1 / 20  # of its rows
_KIND = "give a file of JSON lines, one row a line"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[T]):
    """What a file's rows hold, by line; ``left_out`` counts bad rows, ``first`` says what is wrong with the first."""

    read: Mapping[int, T]
    left_out: int
    first: str = ""


def read_rows(path: Path, read: Callable[[str, dict[str, Any]], T]) -> Rows[T]:
    """What ``read`` makes of the place and the object of each row.

    Errors: StudyError for a file that is no JSON lines, or has more than a twentieth of bad rows.
    """
    made: dict[int, T] = {}
    errors: list[BadRecord] = []
    for number, line in _lines(path):
        place = f"{path}:{number}"
        try:
            made[number] = read(place, _object(place, line))
        except BadRecord as error:
            errors.append(error)
    count = len(made) + len(errors)
    if not count:
        raise StudyError(f"{path}: holds no row; {_KIND}")
    if len(errors) > MOST_LEFT_OUT * count:
        told = f"{len(errors)} of {count_noun(count, 'rows')}, more than a twentieth," if count > 1 else "its one row"
        raise StudyError(f"{path}: {told} cannot be learnt from, the first: {errors[0]}")
    return Rows(read=made, left_out=len(errors), first=str(errors[0]) if errors else "")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    data = read_bytes(path, MOST_BYTES, remedy=_KIND)
    text = decode_utf8(str(path), data)
    if text.lstrip().startswith("["):
        raise StudyError(f"{path}: a JSON array; write one row a line, as `jq -c '.[]'` does")
    # Only a newline ends a line: texts hold the other separators of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.encode()


def _object(place: str, line: bytes) -> dict[str, Any]:
    value = parse(place, line, strict=True)[0][0]
    if not isinstance(value, dict):
        refuse_record(place, f"expected an object, found {type(value).__name__}")
    return value
