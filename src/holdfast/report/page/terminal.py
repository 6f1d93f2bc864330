"""What a terminal shows: one trajectory, the results of a run, its status. Nothing a model wrote reaches it raw."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.judges.rubric.evidence import show_reply
from holdfast.records import Analysis, Case, Checkpoint, Estimate, Message, Score, Trajectory, Verdict
from holdfast.report.draw.figures import order_lineages
from holdfast.report.sections.approval.words import approval_block
from holdfast.report.sections.calibration import describe_briefly
from holdfast.report.sections.chance import chance_lines
from holdfast.report.sections.gate import count_outcomes, describe_verdict
from holdfast.report.sections.pressure import pressure_lines
from holdfast.report.sections.repair import repair_lines
from holdfast.report.sections.summary import describe_alert
from holdfast.report.sections.taxonomy import taxonomy_lines
from holdfast.report.words.inert import show_controls, show_line, trim_text, wrap_line, wrap_lines
from holdfast.report.words.labels import (
    FLIPPED,
    explain_persistence,
    find_controls,
    main_rows,
    most_pooled,
    name_headline,
    name_kind,
    name_lineage,
    name_subject,
    pick_claim,
    prefer_pooled,
)
from holdfast.report.words.tables import describe_flag, format_estimate, is_rate, list_estimates, pivot, table_text
from holdfast.store import Store

MESSAGE_CHARACTERS = 6_000
AUDIT_COLUMNS = 4
POOLED = "pooled"
MOST_SENTENCES = 8  # of one block
WIDTHS = (80, 140)  # columns of a terminal
Lineage = tuple[str, ...]


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
    return lines + (_trimmed(show_reply(score.reply), width, "  │ ") if score.reply else [])


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
        lines += ["WORLD AFTER ".ljust(width, "─"), *_trimmed(_dump(trajectory.world_after), width)]
    lines.append("SCORES ".ljust(width, "─"))
    for score in scores:
        lines += _score_lines(score, width)
    return "\n".join([*lines, *([] if scores else ["  not judged"]), ""])


def _audit_rates(analysis: Analysis) -> list[Estimate]:
    """The rates of the most frequent findings at the most pooled level, over test evaluations where they are told."""
    rates = most_pooled(one for one in analysis.audit if is_rate(one) and one.objective is None and one.value)
    units = list(dict.fromkeys(one.unit for one in rates))
    rates = [one for one in rates if one.unit == units[-1]]
    peaks: dict[str, float] = {}
    for one in rates:
        peaks[one.kind] = max(peaks.get(one.kind, 0.0), one.value or 0.0)
    first = ("unfit", "no_call_and_invented")
    kinds = sorted(peaks, key=lambda kind: (first.index(kind) if kind in first else 2, -peaks[kind]))[:AUDIT_COLUMNS]
    return sorted((one for one in rates if one.kind in kinds), key=lambda one: kinds.index(one.kind))


def _by_lineage(estimates: Iterable[Estimate], controls: Container[Lineage | None]) -> list[Estimate]:
    """The same estimates, those of main lineages first."""
    return sorted(estimates, key=lambda one: one.lineage in controls)


def _without_judge(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The same estimates without the name of their judge where they are all of one, which a line above has told."""
    alone = len({one.judge for one in estimates}) == 1
    return [replace(one, judge=None) for one in estimates] if alone else list(estimates)


def _score_block(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    scores = main_rows(one for one in analysis.scores if one.kind == "mean")
    scores = prefer_pooled(scores)
    if not scores:
        return None
    apart = find_controls(analysis) & {one.lineage for one in scores if one.lineage is not None}
    scores, whose = _without_judge(scores), name_headline(analysis.judges)
    lines = [f"Scores {show_line(whose)}"] if whose else []
    lines.append(table_text(pivot(_by_lineage(scores, apart), "Results", colors), width))
    if apart:
        names = ", ".join(name_lineage(one) for one in sorted(apart, key=lambda one: colors.get(one, 0)))
        words = f"last rows: controls ({names}): the same stage again, or pairs with sides swapped at random"
        lines += wrap_line(words, width, rest="  ")
    return "\n".join(lines)


def _other_judges_block(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """The means of judges beside those of the headline; None where there are no others."""
    found = [one for one in analysis.scores if one.beside and one.base is None and one.estimator == POOLED]
    found = pick_claim(one for one in found if one.kind == "mean")
    if not found:
        return None
    table = table_text(pivot(found, "Other judges", colors), width)
    return f"Other judges, in no mean with these\n{table}"


def _persistence_block(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """Persistence of the main lineages, why some is not identified, and all flipped controls in one line."""
    ratios = _without_judge(most_pooled(one for one in analysis.persistence if "persistence" in one.kind))
    if not ratios:
        return None
    main = [one for one in ratios if one.unit != FLIPPED]
    flipped = prefer_pooled([one for one in ratios if one.unit == FLIPPED])
    lines = ["Persistence"]
    if main:
        words = explain_persistence(main[0].objective, main[0].lineage)
        lines += wrap_line(words, width, rest="  ")
        lines.append(table_text(list_estimates(main, "Persistence", colors), width))
    missing = [f"{name_subject(one)}: {'; '.join(one.caveats)}" for one in main if one.value is None]
    lines += wrap_lines(missing, width)
    if flipped:
        names = ", ".join(dict.fromkeys(name_lineage(one.lineage) for one in flipped))
        found = ", ".join(dict.fromkeys(format_estimate(one) for one in flipped if one.value is not None))
        words = f"flipped controls {names}: " + (found or "not identified, as they should be")
        lines += wrap_line(words, width)
    return "\n".join(lines)


def _flag_block(analysis: Analysis, width: int) -> str | None:
    lines = wrap_lines((f"! {describe_flag(one)}" for one in analysis.health if one.caveats), width, rest="      ")
    return "\n".join(["Flags", *lines]) if lines else None


def _audit_block(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """The rates of the most frequent findings, main lineages first."""
    rates = _by_lineage(_audit_rates(analysis), find_controls(analysis))
    if not rates:
        return None
    table = pivot((replace(one, unit=None) for one in rates), "Audit", colors)
    return f"Audit ({rates[0].unit or 'all trajectories'})\n" + table_text(table, width)


def _calibration_block(analysis: Analysis, width: int) -> str | None:
    """What each judge gets wrong where the truth is known."""
    lines = wrap_lines(describe_briefly(analysis), width)
    return "\n".join(["Judges against known truth (bias in score points)", *lines]) if lines else None


def _sentences(head: str, sentences: Sequence[str], width: int, most: int = MOST_SENTENCES) -> str | None:
    """Sentences under a head, the first of many; None where there is none."""
    if not sentences:
        return None
    left = len(sentences) - most
    shown = [*sentences[:most], *([f"… {left:,} more in the report"] if left > 0 else [])]
    return "\n".join([head, *wrap_lines(shown, width)])


def _condition_blocks(analysis: Analysis, verdicts: Sequence[Verdict], width: int) -> list[str | None]:
    """Repairs, harm by dimension, pressure and shifts, and the gate's verdicts, each in sentences."""
    return [
        _sentences("Repair", repair_lines(analysis), width),
        _sentences("Harm by dimension", taxonomy_lines(analysis), width),
        _sentences("Under pressure and shifts", pressure_lines(analysis), width),
        _sentences("Intervals of changes away from zero (not adjusted)", chance_lines(analysis), width, 12),
        _sentences(f"Gate ({count_outcomes(verdicts)})", [describe_verdict(one) for one in verdicts], width),
    ]


def terminal_width() -> int:
    """How many columns results may take: those of the terminal, at least 80 and at most 140."""
    return min(max(shutil.get_terminal_size((WIDTHS[0] + 20, 24)).columns, WIDTHS[0]), WIDTHS[1])


def render_results(analysis: Analysis, width: int | None = None, verdicts: Sequence[Verdict] = ()) -> str:
    """The results for a terminal: means ± half-widths by lineage, persistence, rates of the audit, flags, notes.

    What pressure, shifts and repairs show, and a gate's ``verdicts``, stand between them in sentences.
    """
    colors, wide = order_lineages(analysis), terminal_width() if width is None else width
    audit = _audit_block(analysis, colors, wide)
    alert = describe_alert(analysis)
    first = None if alert is None else "\n".join(wrap_line(f"! {alert}", wide, "", "  "))
    blocks = [first, audit if alert else None, _score_block(analysis, colors, wide)]
    blocks += [_other_judges_block(analysis, colors, wide)]
    blocks += [_persistence_block(analysis, colors, wide), approval_block(analysis, colors, wide)]
    blocks += [None if alert else audit]
    blocks += _condition_blocks(analysis, verdicts, wide)
    blocks += [_calibration_block(analysis, wide), _flag_block(analysis, wide)]
    if analysis.notes:
        blocks.append("\n".join(["Notes", *wrap_lines(analysis.notes, wide, rest="  ")]))
    shown = [block for block in blocks if block is not None]
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
            rows = {f"{objective}, {twin} episodes": found[twin]} | {
                f"  {form.replace('_', ' ')}": row for form, row in found[twin]["forms"].items()
            }
            lines += [f"{name:<32} {_flips(row)}" for name, row in rows.items()]
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
