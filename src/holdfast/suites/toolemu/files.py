"""ToolEmu's files as strict JSON: what is not as the format says is refused with file, place, finding and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from holdfast.records.errors import refuse
from holdfast.records.inputs import decode_utf8
from holdfast.rollout.worlds.schemas import read_json, show

REMEDY = "correct the file or fetch it again"


def read_records(path: str, data: bytes) -> list[dict[str, Any]]:
    """The list of objects that a file holds. Errors: StudyError."""
    text = decode_utf8(path, data).rstrip()
    if not text:
        refuse(path, "the file is empty", REMEDY)
    try:
        records = read_json(text)
    except json.JSONDecodeError as error:
        place = f"{path}: line {error.lineno}, column {error.colno}"
        if text.lstrip()[0] not in "[{":
            refuse(place, "not JSON (YAML?)", "convert the file to ToolEmu's JSON, a list of objects")
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            refuse(place, "the file ends in the middle of a value", "it is truncated: fetch it again")
        refuse(place, f"not JSON ({error.msg})", REMEDY)
    except ValueError as error:
        refuse(path, str(error), REMEDY)
    if not isinstance(records, list) or not records:
        refuse(f"{path}: $", f"expected a list of objects, found {show(records)}", REMEDY)
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            refuse(f"{path}: $[{number}]", f"expected an object, found {show(record)}", REMEDY)
    return records


class Record:
    """An object of a file and its JSON path, read field by field. Every method raises StudyError."""

    __slots__ = ("_path", "_record", "place")

    def __init__(self, path: str, place: str, record: Mapping[str, Any]) -> None:
        self._path, self.place, self._record = path, place, record

    def _at(self, key: str) -> str:
        return f"{self._path}: {self.place}.{key}"

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not blank, or the default where the key is missing."""
        value = self._get(key, default)
        if not isinstance(value, str) or not (value.strip() or value == default):
            refuse(self._at(key), f"expected a text that is not empty, found {show(value)}", REMEDY)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A truth value, or the default where the key is missing."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            refuse(self._at(key), f"expected true or false, found {show(value)}", REMEDY)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            refuse(self._at(key), f"expected a list of texts, found {show(value)}", REMEDY)
        return value

    def lists_of_texts(self, key: str) -> dict[str, list[str]]:
        """An object whose values are lists of texts."""
        value = self._get(key)
        if not isinstance(value, dict):
            refuse(self._at(key), f"expected an object of lists of texts, found {show(value)}", REMEDY)
        inner = Record(self._path, f"{self.place}.{key}", value)
        return {name: inner.texts(name) for name in value}

    def records(self, key: str, *, optional: bool = False) -> list[Record]:
        """A list of objects; empty where an optional key is missing."""
        value = self._get(key, [] if optional else None)
        if not isinstance(value, list):
            refuse(self._at(key), f"expected a list of objects, found {show(value)}", REMEDY)
        for number, one in enumerate(value):
            if not isinstance(one, dict):
                refuse(f"{self._at(key)}[{number}]", f"expected an object, found {show(one)}", REMEDY)
        return [Record(self._path, f"{self.place}.{key}[{number}]", one) for number, one in enumerate(value)]

    def refuse(self, key: str, finding: str, remedy: str = REMEDY) -> NoReturn:
        """Raise a StudyError about a field."""
        refuse(self._at(key), finding, remedy)

    def _get(self, key: str, default: Any = None) -> Any:
        value = self._record.get(key, default)
        if value is None and key not in self._record:
            refuse(self._at(key), "this field is missing", REMEDY)
        return value
