"""What the action says: annotations, the summary of the job, the comment, and the outputs of its step."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast.decisions.gate.outputs.markdown import escape_markdown
from holdfast.records import Outcome
from holdfast.report.words.inert import cut_line, show_line

NOTHING = "NONE"
"""The verdict where nothing was compared."""

MOST_COMMENT = 60_000  # characters; GitHub takes 65,536
MOST_SUMMARY = 250_000  # characters; a step's summary is 1 MiB at most, and a character up to four bytes
MOST_ANNOTATIONS = 9  # of each level; a step shows ten
_MOST_LINE = 1_000  # characters of an annotation
_CUT = "What is more than fits here is in `gate.md`, which the job keeps."
_LEVELS = {Outcome.PASS.value: 0, Outcome.INCONCLUSIVE.value: 3, Outcome.FAIL.value: 1}

Level = Literal["error", "warning", "notice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of the gate. ``document`` is its ``gate.json``, ``reason`` says why there is none."""

    verdict: str
    reason: str = ""
    document: Mapping[str, Any] | None = None
    markdown: str = ""
    page: Path | None = None

    def status(self, *, blocks: bool) -> int:
        """The exit status of the action; ``blocks`` says whether INCONCLUSIVE fails the job."""
        if self.verdict == Outcome.INCONCLUSIVE.value and not blocks:
            return 0
        return _LEVELS.get(self.verdict, 2)


def command(level: Level, message: str, *, file: Path | None = None, title: str = "") -> str:
    """A line that the runner reads as an annotation, and nothing in it as another command."""
    about = {"file": "" if file is None else str(file), "title": title}
    told = ",".join(f"{name}={_escape_property(value)}" for name, value in about.items() if value)
    return f"::{level}{' ' if told else ''}{told}::{_escape_data(cut_line(message, _MOST_LINE))}"


def _escape_data(text: str) -> str:
    return show_line(text).replace("%", "%25")  # on one line, so that no carriage return or newline is left


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def output_lines(outputs: Mapping[str, str]) -> str:
    """Outputs as ``$GITHUB_OUTPUT`` takes them; no value can end its own, for nobody knows the delimiter."""
    text = ""
    for name, value in outputs.items():
        end = f"end-{secrets.token_hex(16)}"
        text += f"{name}<<{end}\n{value}\n{end}\n"
    return text


def annotate(result: Result, *, rules: Path | None, blocks: bool) -> list[str]:
    """An annotation for each check that failed, or that kept the verdict from PASS; no more than are shown.

    They stand at the file of the rules, where there is one: it declares what was not kept.
    """
    if result.document is None:
        return [command("error", f"nothing was compared: {result.reason}", title="holdfast gate")]
    found = list(_find_levels(result, blocks=blocks))
    lines = []
    for level in ("error", "warning"):
        mine = [one for one in found if one[0] == level]
        lines += [command(one[0], one[2], file=rules, title=one[1]) for one in mine[:MOST_ANNOTATIONS]]
        if left := len(mine) - MOST_ANNOTATIONS:
            more = f"{left:,} more checks are in the summary of the job"
            lines += [command(mine[0][0], more, title="holdfast gate")] if left > 0 else []
    if not lines and result.status(blocks=blocks):
        lines.append(command("error", "nothing could be compared", title=f"holdfast gate: {result.verdict}"))
    return lines


def _find_levels(result: Result, *, blocks: bool) -> Iterator[tuple[Level, str, str]]:
    """Level, title and words of each check that is told."""
    assert result.document is not None
    for verdict in result.document["verdicts"]:
        for check in verdict["checks"]:
            failed = check["outcome"] == Outcome.FAIL.value
            if not failed and (check["outcome"] == Outcome.PASS.value or not check["blocking"]):
                continue
            fails = check["blocking"] and (
                check["outcome"] == Outcome.FAIL.value or (blocks and verdict["outcome"] == Outcome.INCONCLUSIVE.value)
            )
            title = f"{check['outcome']}: {check['metric']} of {verdict['child']}"
            yield "error" if fails else "warning", title, f"{check['sentence']} (against {verdict['parent']})"


def make_summary(result: Result, notes: list[str]) -> str:
    """The gate's Markdown with notes below it; why nothing was compared, where there is none."""
    head = result.markdown
    if result.document is None:
        head = f"## ⚠️ holdfast gate: nothing was compared\n\n{escape_markdown(result.reason)}\n"
    below = "".join(f"\n{escape_markdown(note)}\n" for note in notes)
    return cut_markdown(head, MOST_SUMMARY - len(below)) + below


def marker(name: str) -> str:
    """The line with which the action's own comment begins; a reader does not see it."""
    return f"<!-- holdfast-gate:{name} -->"


def make_comment(result: Result, notes: list[str], *, name: str, footer: str) -> str:
    """The comment on a pull request. ``footer`` is Markdown of the action's own."""
    below = "".join(f"\n{escape_markdown(note)}\n" for note in notes) + (f"\n{footer}\n" if footer else "")
    head = make_summary(result, [])
    return f"{marker(name)}\n{cut_markdown(head, MOST_COMMENT - len(below))}{below}"


def cut_markdown(text: str, most: int) -> str:
    """``text`` of at most so many characters, whole lines, with what was folded closed; it says if it was cut."""
    if len(text) <= most:
        return text
    kept: list[str] = []
    room = most - len(_CUT) - len("\n</details>\n\n\n")
    for line in text.splitlines():
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    folded = sum(len(re.findall(r"<details>", line)) - len(re.findall(r"</details>", line)) for line in kept)
    return "\n".join([*kept, *(["", "</details>"] if folded > 0 else []), "", _CUT, ""])
