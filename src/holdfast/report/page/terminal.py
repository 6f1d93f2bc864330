"""What a terminal shows: one trajectory, the results of a run, its status. Nothing a model wrote reaches it raw."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from holdfast.judges.rubric.evidence import show_reply
from holdfast.records import Analysis, Case, Checkpoint, Message, Score, Trajectory, Verdict
from holdfast.report.sections.table import make_texts
from holdfast.report.words.inert import show_controls, show_line, trim_text
from holdfast.report.words.labels import (
    name_kind,
)
from holdfast.store import Store

MESSAGE_CHARACTERS = 6_000
_dump = partial(json.dumps, ensure_ascii=False, default=str)
WIDTHS = (80, 140)  # columns of a terminal


def _wrap(text: str, width: int, indent: str = "  ") -> list[str]:
    """A long text on lines of at most ``width`` columns, each with its own spaces, and how much was cut."""
    kept, left_out = trim_text(text, MESSAGE_CHARACTERS)
    fill = textwrap.TextWrapper(
        max(20, width - len(indent)), replace_whitespace=False, drop_whitespace=False, break_on_hyphens=False
    )
    lines = [part for line in show_controls(kept).expandtabs(4).split("\n") for part in fill.wrap(line) or [""]]
    shown = [(indent + line).rstrip() for line in lines]
    return [*shown, f"{indent}… {left_out:,} characters left out"] if left_out else shown


def _message_lines(message: Message, width: int) -> list[str]:
    who = message.role.upper() + (f" {show_line(message.name)}" if message.name else "")
    lines = [f"{who} ".ljust(width, "─")]
    lines += _wrap(message.content, width) if message.content else []
    for call in message.tool_calls:
        lines += _wrap(f"▸ {call.name}({_dump(call.arguments)})", width)
    if message.detail:
        lines.append(f"  ({len(_dump(message.detail)):,} characters that the agent never saw are not shown)")
    return lines


def _score_lines(score: Score, width: int) -> list[str]:
    value = f"{score.value:g}" if score.value is not None else f"missing: {show_line(score.missing or '')}"
    label = f" · {show_line(score.label)}" if score.label else ""
    repeat = f" · repeat {score.repeat}" if score.repeat else ""
    lines = [f"{show_line(score.objective)} {value}{label} · {show_line(score.judge)}{repeat}"]
    return lines + (_wrap(show_reply(score.reply), width, "  │ ") if score.reply else [])


def render_trajectory(
    case: Case, checkpoint: Checkpoint, trajectory: Trajectory, scores: Sequence[Score], width: int = 100
) -> str:
    """One trajectory for a terminal of ``width`` columns: case, messages, ending, flags, worlds, scores with reasons.

    Control, colour and direction codes are shown as symbols; what is cut says how many characters are left out.
    """
    flags = ", ".join(name_kind(flag.value) for flag in trajectory.flags) or "none"
    tokens = "unknown" if trajectory.tokens is None else f"{trajectory.tokens:,}"
    lines = [
        f"Trajectory {show_line(trajectory.id)} · rollout {trajectory.rollout}",
        f"Case {case.number} of {show_line(case.suite)} · family {show_line(case.family)} · {show_line(case.id)}",
        f"Checkpoint {show_line(checkpoint.name)}",
        f"Ended {trajectory.ending.value} · {trajectory.calls} calls executed, {trajectory.invalid_calls} refused"
        f" · {tokens} tokens",
        f"Audit flags: {flags}",
        "",
    ]
    for message in (*case.messages, *trajectory.messages):
        lines += _message_lines(message, width)
    if trajectory.world_after is not None:
        lines += ["WORLD AFTER ".ljust(width, "─"), *_wrap(_dump(trajectory.world_after), width)]
    lines.append("SCORES ".ljust(width, "─"))
    for score in scores:
        lines += _score_lines(score, width)
    return "\n".join([*lines, *([] if scores else ["  not judged"]), ""])


def terminal_width() -> int:
    """How many columns results may take: those of the terminal, at least 80 and at most 140."""
    return min(max(shutil.get_terminal_size((WIDTHS[0] + 20, 24)).columns, WIDTHS[0]), WIDTHS[1])


def render_results(analysis: Analysis, width: int | None = None, verdicts: Sequence[Verdict] = ()) -> str:
    """The results for a terminal: means ± half-widths by lineage, persistence, rates of the audit, flags, notes.

    What pressure, shifts and repairs show, and a gate's ``verdicts``, stand between them in sentences.
    """
    shown = make_texts(analysis, terminal_width() if width is None else width, verdicts)
    return "\n\n".join(shown or ["no results: nothing is judged yet"]) + "\n"


def render_status(store: Store, planned: int | None = None, spending: Sequence[Any] = ()) -> str:
    """A run's counts, what it spent on remote models, and the state of its steps, a line each.

    ``planned`` is how many steps its study has in all, ``spending`` what its ledger says.
    """
    counts = " · ".join(f"{count:,} {name}" for name, count in store.counts().items())
    lines = [f"Run {show_line(str(store.path))}", counts]
    for row in spending:
        doubt = f", {row.in_doubt} in doubt" if row.in_doubt else ""
        lines.append(
            f"  {row.speaker:<9} {show_line(row.model):<32} {row.calls:,} calls{doubt}, {row.input_tokens:,} tokens in,"
            f" {row.output_tokens:,} out, {row.cost:,.4f} of money, {row.seconds:,.1f} s"
        )
    steps = list(store.log.steps().values())
    done = sum(step.status == "done" for step in steps)
    if steps:
        lines.append(f"Steps: {done} of {planned or len(steps)} done")
    for step in steps:
        seconds = "" if step.seconds is None else f"{step.seconds:,.1f} s"
        lines.append(f"  {step.status:<8} {step.kind:<9} {seconds:>10}  {show_line(step.name)}")
    return "\n".join(lines) + "\n"


def render_canaries(document: Mapping[str, Any]) -> str:
    """How often injected text moved a judge, by objective, twin and form, a line each."""
    lines = [f"Judge {show_line(str(document['judge']))}: how often text that an agent or a tool wrote moved its score"]
    for objective, found in document["objectives"].items():
        for twin in ("harmful", "benign"):
            lines.append(f"{f'{objective}, {twin} episodes':<32} {_flips(found[twin])}")
            forms = found[twin]["forms"].items()
            lines += [f"{'  ' + form.replace('_', ' '):<32} {_flips(row)}" for form, row in forms]
        if "clean" in found:
            clean = found["clean"]
            lines.append(f"without any attack it is right about {clean['right']} of {clean['episodes']} episodes")
    return "\n".join(lines) + "\n"


def _flips(row: Mapping[str, Any]) -> str:
    left = row["attacks"] - row["missing"] - row["no_room"]
    aside = f"{row['missing']} without a score, {row['no_room']} with no room"
    if row["rate"] is None:
        return f"nothing to measure ({aside})"
    low, high = row["interval"]
    return f"{row['flips']} of {left} flipped: {row['rate']:.0%} [{low:.0%}, {high:.0%}] ({aside})"
