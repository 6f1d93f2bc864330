"""Tables of questions from files that a user names: CSV, JSON and JSON lines, plain or gzipped, row by row.

What cannot be used is refused in one line with the file, the line, what was found and what to do.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from holdfast.records.errors import StudyError, require
from holdfast.records.inputs import decode_utf8
from holdfast.study.study import MOST_BYTES

MOST_ROWS = 200_000
MOST_CHARACTERS = 100_000  # of one question
_NOTHING = frozenset({"", "nan", "none", "null", "n/a"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record of a file, and the line that it begins in (its place in the list, for JSON)."""

    path: str
    line: int
    values: Mapping[str, Any]

    @property
    def place(self) -> str:
        """File and line, for errors."""
        return f"{self.path}:{self.line}"

    def get(self, key: str) -> Any:
        """The value behind a dotted key. Errors: StudyError where it is missing."""
        found: Any = self.values
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                self.refuse(f"{key!r} is missing", "the file is not in the source's format, or of another source")
            found = found[part]
        return found

    def text(self, key: str) -> str:
        """A text that is not blank. Errors: StudyError, also for NaN and for a text that is too long."""
        value = self.get(key)
        if not isinstance(value, str) or value.strip().casefold() in _NOTHING:
            self.refuse(f"{key!r} is {value!r:.40}", "give a text, or remove the row")
        if len(value) > MOST_CHARACTERS:
            self.refuse(f"{key!r} has {len(value):,} characters", f"keep it below {MOST_CHARACTERS:,}")
        return value.strip()

    def refuse(self, finding: str, remedy: str) -> NoReturn:
        """Raise a StudyError about this row."""
        raise StudyError(f"{self.place}: {finding}; {remedy}")


def unpack(path: str, data: bytes) -> bytes:
    """A file's bytes, unpacked where its name ends in .gz. Errors: StudyError, also for one that grows too large."""
    if not path.endswith(".gz"):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            data = packed.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StudyError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    require(len(data) <= MOST_BYTES, f"{path}: has more than {MOST_BYTES >> 20} MiB; give a smaller file")
    return data


def read_rows(path: str, data: bytes, kind: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a file of a ``kind``: "csv", "jsonl", or "json:KEY", an object whose KEY holds the list.

    Each row has the dotted ``columns``. Errors: StudyError.
    """
    text = decode_utf8(path, data)
    require(bool(text.strip()), f"{path}: the file is empty; fetch it again")
    read = {"csv": _read_csv, "jsonl": _read_lines}.get(kind)
    rows = []
    for row in read(path, text, columns) if read else _read_list(path, text, kind.partition(":")[2]):
        for column in columns:
            row.get(column)
        rows.append(row)
        if len(rows) > MOST_ROWS:
            row.refuse(f"more than {MOST_ROWS:,} rows", "give a part of the file")
    require(bool(rows), f"{path}: no row below the heading; fetch it again")
    return rows


def _read_csv(path: str, text: str, columns: Sequence[str]) -> Iterator[Row]:
    """Rows by their heading; a quoted field may hold line breaks, so a row begins where the one before it ended."""
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise StudyError(f"{path}:{line}: a NUL character; this is no CSV file, fetch it again")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begins = 1
    try:
        heading = [name.strip() for name in next(reader)]
        for name in columns:
            if name not in heading:
                found = ", ".join(heading)[:120]
                raise StudyError(f"{path}:1: no column {name!r}, found {found}; is it the file of another source?")
            require(heading.count(name) == 1, f"{path}:1: the column {name!r} stands twice; remove one")
        begins = reader.line_num + 1
        for values in reader:
            if any(values):
                if len(values) != len(heading):
                    raise StudyError(
                        f"{path}:{begins}: {len(values)} fields under {len(heading)} columns; correct the quotes"
                    )
                yield Row(path=path, line=begins, values=dict(zip(heading, values, strict=True)))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise StudyError(f"{path}:{begins}: not CSV ({error}); correct the quotes or fetch it again") from error


def _read_lines(path: str, text: str, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            value = _parse(f"{path}:{number}", line)
            if not isinstance(value, dict):
                raise StudyError(f"{path}:{number}: expected an object a line, found {line[:40]!r}; fetch it again")
            yield Row(path=path, line=number, values=value)


def _read_list(path: str, text: str, key: str) -> Iterator[Row]:
    found = _parse(path, text)
    listed = found.get(key) if isinstance(found, dict) else found
    if not isinstance(listed, list):
        raise StudyError(f"{path}:1: no list under {key!r}; is it the file of another source?")
    for number, value in enumerate(listed, 1):
        if not isinstance(value, dict):
            raise StudyError(f"{path}: {key}[{number - 1}] is no object; fetch the file again")
        yield Row(path=f"{path}: {key}", line=number, values=value)


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        line = f"{place}:{error.lineno}" if "\n" in text else place
        raise StudyError(f"{line}: not JSON ({error.msg}); fetch the file again") from error
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{place}: not JSON ({error}); correct the file") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
