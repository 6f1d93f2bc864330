"""Rows of scores: their shape, and how they are read from CSV and JSON lines.

    case,side,score[,rollout,family,reason,prompt,reply]

Every other column holds a score by its own name. Two rows of a case and a side are two rollouts, by the column
``rollout`` or as they follow each other. An empty cell is a missing score, with the ``reason`` that stands beside it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.exchange.datasets.rows import parse_value
from holdfast.exchange.traces.records import BadRecord
from holdfast.records import Declaration
from holdfast.records.errors import StudyError, did_you_mean, refuse, require

TABLE = "table"  # the scorer of a table's columns
CASE, SIDE = "case", "side"
WORDS = (CASE, SIDE, "rollout", "family", "reason", "prompt", "reply", "task")  # columns that hold no score
HEADER = "give it a first line of column names, such as case,side,score"
MOST_CHARACTERS = 1_000_000  # of one cell
_COMMA = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})*,\d+")
SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """What one side did in one case, once: its ``values`` by scorer and key, None where it was not scored.

    ``place`` is where it stands, for messages; ``rollout`` is None where rows number themselves. ``reason`` says why
    values are missing; ``explanation`` is the scorer's words.
    """

    place: str
    side: str
    task: str
    case: str
    values: Mapping[tuple[str, str], Any]
    rollout: int | None = None
    family: str = ""
    reason: str = ""
    explanation: str | None = None
    prompt: str = ""
    reply: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """The rows of one file, and what it says of its own values: direction and range, by scorer and key."""

    path: Path
    rows: Sequence[ScoreRow]
    told: Mapping[tuple[str, str], Declaration] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def told_by(source: str, key: str, *, good: bool, low: float = 0.0, high: float = 1.0) -> Declaration:
    """What a tool's own documents or files say of a value, without saying what it measures."""
    return Declaration(objective="", key=key, sign=1 if good else -1, low=low, high=high, source=source)


def read_csv(path: Path, text: str) -> ScoreTable:
    """The rows of a CSV file with a header. Errors: StudyError naming file and line."""
    head = text[:4096].split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise StudyError(f"{path}:{reader.line_num}: not readable as CSV ({error}); save it as CSV again") from error
    require(bool(lines), f"{path}: holds no row; {HEADER}")
    names = [name.strip() for name in lines[0][1]]
    _check_names(path, names)
    rows = []
    for number, cells in lines[1:]:
        place = f"{path}:{number}"
        if len(cells) != len(names):
            told = f"{len(cells)} cells where the header has {len(names)} columns"
            refuse(place, told, "write a decimal with a point, and quote a cell that holds the separator")
        rows.append(_row(path, place, dict(zip(names, (cell.strip() for cell in cells), strict=True))))
    require(bool(rows), f"{path}: holds a header and no row; give it the rows")
    return ScoreTable(path=path, rows=rows)


def read_json_rows(path: Path, objects: Iterator[tuple[str, Mapping[str, Any]]]) -> ScoreTable:
    """The rows of JSON objects with their places. Errors: StudyError."""
    rows: list[ScoreRow] = []
    for place, found in objects:
        if not rows:
            _check_names(path, list(found))
        require(CASE in found, f"{place}: has no {CASE!r}; name the case of every row")
        rows.append(_row(path, place, found))
    require(bool(rows), f"{path}: holds no row; give it the rows")
    return ScoreTable(path=path, rows=rows)


def json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place. Errors: StudyError."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                found = parse_value(place, line)
            except BadRecord as error:
                raise StudyError(str(error)) from error
            require(isinstance(found, dict), f"{place}: expected an object, found {type(found).__name__}")
            yield place, found


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a table without its columns. Errors: StudyError."""
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    if CASE not in names:
        near = did_you_mean(CASE, names, after=" ")
        raise StudyError(f"{path}: no column {CASE!r} among {shown}; {near}{HEADER}")
    doubled = [name for name in names if names.count(name) > 1]
    require(not doubled, f"{path}: two columns are called {doubled[0]!r}; name them apart" if doubled else "")
    require("" not in names, f"{path}: a column has no name; {HEADER}")
    scores = [name for name in names if name not in WORDS]
    require(bool(scores), f"{path}: no column holds a score, found {shown}; add one, such as score")


def _row(path: Path, place: str, found: Mapping[str, Any]) -> ScoreRow:
    words = {name: _word(place, name, found.get(name)) for name in WORDS}
    if not words[CASE]:
        refuse(place, f"{CASE} is empty", "name the case of every row")
    values = {(TABLE, name): _value(place, name, value) for name, value in found.items() if name not in WORDS}
    return ScoreRow(
        place=place,
        side=words[SIDE] or path.stem,
        task=words["task"] or TABLE,
        case=words[CASE],
        values=values,
        rollout=_rollout(place, found.get("rollout")),
        family=words["family"],
        reason=words["reason"],
        prompt=words["prompt"],
        reply=words["reply"],
    )


def _word(place: str, name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        refuse(place, f"{name} is {json.dumps(value)[:60]}", f"give {name} as text")
    return str(value)


def _value(place: str, name: str, value: Any) -> Any:
    """A cell that holds a score; None where it is empty."""
    if isinstance(value, str):
        if not value or value.lower() in ("nan", "null", "none", "na", "n/a"):
            return None
        if _COMMA.fullmatch(value):
            refuse(place, f"{name} is {value!r}, a number with a decimal comma", "write it with a point")
    if isinstance(value, dict | list):
        refuse(place, f"{name} is {json.dumps(value)[:60]}", "give one number a column")
    return value


def _rollout(place: str, value: Any) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        refuse(place, f"rollout is {text[:40]!r}", "number the rollouts of a case from 0")
    return int(text)
