"""A file of JSON lines, read strictly: a row each, whose fields are read one by one.

What cannot be used is refused in one line: the file and its line, what was found, what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from holdfast.records.errors import StudyError, did_you_mean, refuse, require
from holdfast.records.inputs import decode_utf8
from holdfast.records.section import MOST_CASES
from holdfast.rollout.worlds.schemas import read_json, show

MOST_LINE = 1 << 20  # characters of one case
# Names that other tools give to columns that we have.
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("input", "question", "instruction", "text", "query", "request"), "prompt"),
    **dict.fromkeys(("conversation", "chat", "turns"), "messages"),
    **dict.fromkeys(("target", "expected_behavior", "expected_behaviour", "ideal", "reference"), "expected"),
    **dict.fromkeys(("category", "group", "cluster", "topic"), "family"),
    **dict.fromkeys(("functions", "tool_schemas"), "tools"),
    **dict.fromkeys(("results", "tool_results", "responses"), "replies"),
    **dict.fromkeys(("harmless", "safe"), "benign"),
    **dict.fromkeys(("criteria", "grading"), "rubric"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An object of a file, at ``place``. Every method raises StudyError that begins with it."""

    place: str
    values: Mapping[str, Any]

    def refuse(self, finding: str, remedy: str) -> NoReturn:
        """Raise StudyError about this row."""
        refuse(self.place, finding, remedy)

    def require_known(self, columns: Sequence[str]) -> None:
        """Refuse the first column that is not among those that there are."""
        for key in self.values:
            if key not in columns:
                meant = _MEANT.get(key)
                near = f"did you mean {meant!r}?" if meant in columns else did_you_mean(key, columns)
                self.refuse(f"unknown column {show(key)}", near or f"there are: {', '.join(columns)}")

    def text(self, key: str) -> str | None:
        """A text that is not blank; None where there is none."""
        value = self.values.get(key)
        if key not in self.values:
            return None
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"{key!r} is {show(value)}", "give a text that is not empty, or leave the column out")
        return value

    def flag(self, key: str) -> bool | None:
        """A truth value; None where there is none."""
        value = self.values.get(key)
        if key in self.values and not isinstance(value, bool):
            self.refuse(f"{key!r} is {show(value)}", "write true or false, without quotes")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts that are not blank, one of which may stand without its list; empty where there is none."""
        value = self.values.get(key, [])
        listed = [value] if isinstance(value, str) else value
        plain = isinstance(listed, list) and all(isinstance(one, str) and one.strip() for one in listed)
        if not plain or (key in self.values and not listed):
            self.refuse(f"{key!r} is {show(value)}", "give a text or a list of texts, none of them empty")
        return list(listed)

    def rows(self, key: str) -> list[Row]:
        """A list of objects, each a row of its own; empty where there is none."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or (key in self.values and not value):
            self.refuse(f"{key!r} is {show(value)}", "give a list of objects, or leave the column out")
        for number, one in enumerate(value):
            if not isinstance(one, dict):
                self.refuse(f"{key}[{number}] is {show(one)}", "give an object")
        return [Row(place=f"{self.place}: {key}[{number}]", values=one) for number, one in enumerate(value)]


def read_lines(path: str, data: bytes) -> Iterator[Row]:
    """The rows of a file's bytes, blank lines left out. Errors: StudyError."""
    text = decode_utf8(path, data)
    require(bool(text.strip()), f"{path}: the file is empty; write a case a line, as `holdfast new --suite DIR` does")
    if text.lstrip().startswith("["):
        raise StudyError(f"{path}:1: a list, where every line is an object of its own; write one case a line (JSONL)")
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place, count = f"{path}:{number}", count + 1
        if len(line) > MOST_LINE:
            refuse(place, f"a line of {len(line):,} characters", f"keep a case below {MOST_LINE:,}")
        if count > MOST_CASES:
            refuse(place, f"more than {MOST_CASES:,} cases", "give a part of the file")
        try:
            value = read_json(line)
        except ValueError as error:
            refuse(place, f"not JSON ({error})", "write one JSON object a line")
        if not isinstance(value, dict):
            refuse(place, f"found {show(value)}", "write one JSON object a line")
        yield Row(place=place, values=value)
