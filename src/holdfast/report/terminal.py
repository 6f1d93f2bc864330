"""What a terminal shows: one trajectory, the results of a run, its status. Nothing a model wrote reaches it raw."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Case, Checkpoint, Estimate, Message, Score, Trajectory
from holdfast.report.figures import order_lineages
from holdfast.report.inert import show_controls, show_line, trim_text
from holdfast.report.labels import (
    FLAG_WORDS,
    name_kind,
    name_subject,
    pick_claim,
    split_levels,
)
from holdfast.report.tables import format_estimate, is_rate, list_estimates, pivot, table_text
from holdfast.store import Store

MESSAGE_CHARACTERS = 6_000
AUDIT_COLUMNS = 4
POOLED = "pooled"


def _wrap(text: str, width: int, indent: str = "  ") -> list[str]:
    lines: list[str] = []
    for line in show_controls(text).expandtabs(4).split("\n"):
        lines += textwrap.wrap(
            line,
            max(20, width - len(indent)),
            replace_whitespace=False,
            drop_whitespace=False,
            break_on_hyphens=False,
        ) or [""]
    return [(indent + line).rstrip() for line in lines]


def _trimmed(text: str, width: int, indent: str = "  ") -> list[str]:
    kept, left_out = trim_text(text, MESSAGE_CHARACTERS)
    lines = _wrap(kept, width, indent)
    return [*lines, f"{indent}… {left_out:,} characters left out"] if left_out else lines


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _message_lines(message: Message, width: int) -> list[str]:
    who = message.role.upper() + (f" {show_line(message.name)}" if message.name else "")
    lines = [f"{who} ".ljust(width, "─")]
    lines += _trimmed(message.content, width) if message.content else []
    for call in message.tool_calls:
        lines += _trimmed(f"▸ {call.name}({_dump(call.arguments)})", width)
    if message.detail:
        lines.append(f"  ({len(_dump(message.detail)):,} characters that the agent never saw are not shown)")
    return lines


def _score_lines(score: Score, width: int) -> list[str]:
    value = f"{score.value:g}" if score.value is not None else f"missing: {show_line(score.missing or '')}"
    label = f" · {show_line(score.label)}" if score.label else ""
    repeat = f" · repeat {score.repeat}" if score.repeat else ""
    lines = [f"{show_line(score.objective)} {value}{label} · {show_line(score.judge)}{repeat}"]
    return lines + (_trimmed(score.reply, width, "  │ ") if score.reply else [])


def render_trajectory(
    case: Case, checkpoint: Checkpoint, trajectory: Trajectory, scores: Sequence[Score], width: int = 100
) -> str:
    """One trajectory for a terminal of ``width`` columns: case, messages, ending, flags, worlds, scores with reasons.

    Control, colour and direction codes are shown as symbols; what is cut says how many characters are left out.
    """
    flags = ", ".join(FLAG_WORDS[flag.value] for flag in trajectory.flags) or "none"
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
        lines += ["WORLD AFTER ".ljust(width, "─"), *_trimmed(_dump(trajectory.world_after), width)]
    lines.append("SCORES ".ljust(width, "─"))
    for score in scores:
        lines += _score_lines(score, width)
    return "\n".join([*lines, *([] if scores else ["  not judged"]), ""])


def _most_pooled(estimates: Iterable[Estimate]) -> list[Estimate]:
    levels = split_levels(estimates)
    return next(iter(levels.values()), [])


def _audit_rates(analysis: Analysis) -> list[Estimate]:
    """The rates of the most frequent findings at the most pooled level, over test evaluations where they are told."""
    rates = _most_pooled(one for one in analysis.audit if is_rate(one) and one.objective is None and one.value)
    units = list(dict.fromkeys(one.unit for one in rates))
    rates = [one for one in rates if one.unit == units[-1]]
    peaks: dict[str, float] = {}
    for one in rates:
        peaks[one.kind] = max(peaks.get(one.kind, 0.0), one.value or 0.0)
    kinds = sorted(peaks, key=lambda kind: (kind != "unfit", -peaks[kind]))[:AUDIT_COLUMNS]
    return sorted((one for one in rates if one.kind in kinds), key=lambda one: kinds.index(one.kind))


def render_results(analysis: Analysis, width: int = 100) -> str:
    """The results for a terminal: means ± half-widths by lineage, persistence, rates of the audit, flags, notes."""
    colors = order_lineages(analysis)
    blocks = []
    scores = pick_claim(_most_pooled(one for one in analysis.scores if one.kind == "mean"))
    scores = [one for one in scores if one.estimator == POOLED] or scores
    if scores:
        blocks.append(table_text(pivot(scores, "Results", colors), width))
    ratios = _most_pooled(one for one in analysis.persistence if "persistence" in one.kind)
    if ratios:
        ratio_table = table_text(list_estimates(ratios, "Persistence", colors), width)
        lines = [f"  {show_line(name_subject(one))}: {'; '.join(one.caveats)}" for one in ratios if one.value is None]
        lines = [part for line in lines for part in textwrap.wrap(show_line(line), width, subsequent_indent="    ")]
        blocks.append("\n".join(["Persistence", ratio_table, *lines]))
    rates = _audit_rates(analysis)
    if rates:
        words = f"Audit ({rates[0].unit or 'all trajectories'})\n"
        table = pivot((replace(one, unit=None) for one in rates), "Audit", colors)
        blocks.append(words + table_text(table, width))
    flagged = [one for one in analysis.health if one.caveats]
    if flagged:
        lines = ["Flags"]
        for one in flagged:
            words = f"! {name_subject(one)}: {name_kind(one.kind)} {format_estimate(one)}: {'; '.join(one.caveats)}"
            lines += textwrap.wrap(show_line(words), width, initial_indent="  ", subsequent_indent="      ")
        blocks.append("\n".join(lines))
    if analysis.notes:
        lines = [
            line
            for note in analysis.notes
            for line in textwrap.wrap(show_line(note), width, initial_indent="  ", subsequent_indent="  ")
        ]
        blocks.append("\n".join(["Notes", *lines]))
    return "\n\n".join(blocks or ["no results: nothing is judged yet"]) + "\n"


def render_status(store: Store) -> str:
    """A run's counts and the state of its steps, a line each."""
    counts = " · ".join(f"{count:,} {name}" for name, count in store.counts().items())
    lines = [f"Run {show_line(str(store.path))}", counts]
    steps = list(store.log.steps().values())
    done = sum(step.status == "done" for step in steps)
    if steps:
        lines.append(f"Steps: {done} of {len(steps)} done")
    for step in steps:
        seconds = "" if step.seconds is None else f"{step.seconds:,.1f} s"
        lines.append(f"  {step.status:<8} {step.kind:<8} {seconds:>10}  {show_line(step.name)}")
    return "\n".join(lines) + "\n"
