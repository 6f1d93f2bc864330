"""Which files hold a table of scores, told by what is in them, and how each is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from holdfast.exchange.tables import every_eval_ever, lm_eval, promptfoo
from holdfast.exchange.tables.rows import CASE, SIDE, ScoreTable, json_lines, read_csv, read_json_rows
from holdfast.records.errors import StudyError, refuse, require
from holdfast.records.inputs import decode_utf8, read_bytes

CSV, LINES, JSON = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".json",)
MOST_BYTES = 1 << 30
_HEAD_BYTES = 1 << 16
_RECORD = '"evaluation_results"'
_REMEDY = "give a CSV or JSON lines with case, side and score, or what lm_eval, promptfoo or Every Eval Ever wrote"


def is_table(path: Path) -> bool:
    """Whether a path is a table of scores, or a folder that holds one and nothing that is opened otherwise."""
    if path.is_dir():
        return any(True for one in path.rglob("*") if _is_inside(one))
    if not path.is_file():
        return False
    if path.suffix in CSV:
        return True
    if path.suffix in LINES:
        first = _first_object(path)
        return lm_eval.is_samples(first) or every_eval_ever.is_instance(first) or _is_row(first)
    return path.suffix in JSON and _looks_like_results(path)


def find_tables(path: Path) -> list[Path]:
    """The tables at ``path``: the file itself, or those anywhere in a folder, sorted."""
    if not path.is_dir():
        return [path]
    return [one for one in sorted(path.rglob("*")) if _is_inside(one)]


def _is_inside(path: Path) -> bool:
    """Whether what lies in a folder is a table with rows: a record of whole evaluations is read with its samples."""
    fits = path.suffix in (*CSV, *LINES, *JSON) and path.is_file() and is_table(path)
    return fits and not (path.suffix in JSON and _RECORD in _head(path))


def read_table(path: Path) -> ScoreTable:
    """The rows of a table. Errors: StudyError."""
    text = decode_utf8(str(path), read_bytes(path, MOST_BYTES, remedy=_REMEDY))
    if path.suffix in CSV:
        return read_csv(path, text)
    if path.suffix in LINES:
        objects = json_lines(path, text)
        first = next(objects, None)
        if first is None:
            raise StudyError(f"{path}: holds no row; {_REMEDY}")
        rest = chain([first], objects)
        if lm_eval.is_samples(first[1]):
            return lm_eval.read_samples(path, rest)
        if every_eval_ever.is_instance(first[1]):
            return every_eval_ever.read_instances(path, rest)
        return read_json_rows(path, rest)
    return _read_json(path, text)


def _read_json(path: Path, text: str) -> ScoreTable:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: not readable as JSON ({error}); {_REMEDY}") from error
    if isinstance(found, list):
        rows = [(f"{path}: row {number}", one) for number, one in enumerate(found, 1)]
        require(all(isinstance(one, dict) for _, one in rows), f"{path}: a row is no object; {_REMEDY}")
        return read_json_rows(path, iter(rows))
    if isinstance(found, dict) and every_eval_ever.is_record(found):
        refuse(path, "holds scores of whole evaluations and of no sample", "give the JSON lines of its samples")
    if not isinstance(found, dict) or not promptfoo.is_results(found):
        refuse(path, "holds no table of scores", _REMEDY)
    return promptfoo.read_results(path, found)


def _first_object(path: Path) -> Mapping[str, Any]:
    """The first object of a file of JSON lines; nothing where it has none, or is too long to be looked at."""
    try:
        with path.open("rb") as file:
            line = next((line for line in iter(lambda: file.readline(_HEAD_BYTES * 256), b"") if line.strip()), b"")
        found = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_row(first: Mapping[str, Any]) -> bool:
    """Whether an object is a row of our own columns: it names its case, and has no messages as a trace has."""
    return (
        CASE in first
        and not {"messages", "spans", "resourceSpans"} & set(first)
        and (SIDE in first or "score" in first or any(isinstance(one, int | float) for one in first.values()))
    )


def _looks_like_results(path: Path) -> bool:
    """Whether a JSON file is of promptfoo, of Every Eval Ever, or a list of rows, by its first bytes."""
    text = _head(path)
    if text.startswith("["):
        return f'"{CASE}"' in text
    graded = '"results"' in text and any(f'"{key}"' in text for key in ("evalId", "promptIdx", "gradingResult"))
    return text.startswith("{") and (graded or _RECORD in text)


def _head(path: Path) -> str:
    """The first bytes of a file as text; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()
    except OSError:
        return ""
