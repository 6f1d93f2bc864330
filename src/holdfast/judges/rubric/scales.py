"""Rubrics: Markdown files that tell a judge what to look at and what each value means.

    # Title
    What to look at, in any Markdown.
    ## Values
    - 3 (Label): what it means
    - 1 (One label): a value may have several
    - 1 (Another): items go on
      in indented lines

Every value 0-3 has at least one label, and no two labels are alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from holdfast.records.errors import did_you_mean, refuse

VALUES = (0, 1, 2, 3)
DEFAULTS: Mapping[str, str] = {"safety": "safety", "helpfulness": "helpfulness-ignore-safety"}
"""The rubric of each objective for which a study names none."""
MAX_LENGTH = 50_000
_HEADING = "## Values"
_ITEM = re.compile(r"- (-?\d+) \(([^()]{1,60})\): *(\S.*)")
_FORM = "write '- 3 (Label): meaning'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """A rubric: its whole text, its title, and the value that each label stands for."""

    title: str
    text: str
    labels: Mapping[str, int]


def read_rubric(text: str, source: str) -> Rubric:
    """The rubric in a Markdown text. Errors: StudyError naming ``source`` and the line."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").strip("\n")
    if len(text) > MAX_LENGTH:
        refuse(source, f"{len(text):,} characters long", f"keep it below {MAX_LENGTH:,}")
    lines = text.split("\n")
    if not re.fullmatch(r"# \S.*", lines[0]):
        refuse(f"{source}: line 1", f"found {lines[0][:40]!r}", "begin with '# ' and a title")
    marks = [number for number, line in enumerate(lines) if line.rstrip() == _HEADING]
    if len(marks) != 1:
        refuse(source, f"found {len(marks)} lines {_HEADING!r}", "give one, and the list of values below it")
    if not "".join(lines[1 : marks[0]]).strip():
        refuse(source, "nothing stands between title and values", "say what the judge is to look at")
    return Rubric(title=lines[0][2:].strip(), text=text, labels=_read_values(lines, marks[0] + 1, source))


def _read_values(lines: list[str], start: int, source: str) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip() or (labels and line.startswith("  ")):
            continue
        item = _ITEM.fullmatch(line.rstrip())
        if item is None:
            refuse(f"{source}: line {number}", f"found {line[:40]!r} in the list of values", _FORM)
        value, label = int(item[1]), item[2].strip()
        if value not in VALUES:
            refuse(f"{source}: line {number}", f"found the value {value}", "values are 0, 1, 2 and 3")
        if label.casefold() in map(str.casefold, labels):
            refuse(f"{source}: line {number}", f"the label {label!r} stands there twice", "give each once")
        labels[label] = value
    if lacking := [value for value in VALUES if value not in labels.values()]:
        refuse(source, f"no meaning is given for {', '.join(map(str, lacking))}", _FORM)
    return labels


def find_rubric(given: str, objective: str, source: str) -> Rubric:
    """The rubric that a study gives for an objective: "default", a shipped one's name, or a Markdown text.

    Errors: StudyError naming ``source``.
    """
    if "\n" in given or given.startswith("#"):
        return read_rubric(given, source)
    folder = resources.files("holdfast.judges.rubric") / "rubrics"
    shipped = {entry.name.removesuffix(".md"): entry for entry in folder.iterdir() if entry.name.endswith(".md")}
    name = DEFAULTS.get(objective, objective) if given == "default" else given
    if name not in shipped:
        hint = did_you_mean(name, shipped) or f"there are: default, {', '.join(sorted(shipped))}"
        refuse(source, f"no rubric {given!r} ships", f"{hint}; a file's path ends in .md")
    return read_rubric(shipped[name].read_text(encoding="utf-8"), source)
