"""A watch in words: a table for a terminal, a summary in Markdown, a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from holdfast.decisions.gate.outputs.document import fields
from holdfast.decisions.gate.outputs.markdown import escape_markdown
from holdfast.decisions.gate.verdicts import LABELLED_LIMITS
from holdfast.decisions.watch.mix import MIX_P
from holdfast.decisions.watch.series import Row, Watch
from holdfast.records.words import count_noun
from holdfast.report.words.console import rows_text, terminal_width
from holdfast.report.words.inert import show_line, wrap_lines
from holdfast.report.words.labels import format_number, format_percent, name_judge

COLUMNS = ("look", "cases", "mean", "change", "lower", "upper", "best window", "judge", "finding")
MOST_TOOLS = 6  # of a look that the text names
SMALL_SHARE = 0.1  # of cases of a new kind: where more is needed to be seen, a look is too small to say anything
LEAST_SHARE = 0.01  # by which a tool's use must have changed to be named
NOT_PAIRED = (
    "These traces are not paired with the baseline: what users ask for may have changed, and that moves the mean too."
)


def exit_code(watch: Watch) -> int:
    """1 for an alarm or a judge that has drifted, 3 for too little data or a look that is too little scored, else 0.

    A baseline that was just made, with nothing to compare, is 0.
    """
    if watch.alarm or watch.drifted:
        return 1
    return 0 if (watch.able and watch.covered) or not watch.rows else 3


def state_finding(row: Row) -> str:
    """A look's finding in a word or two."""
    findings = (
        (bool(row.reason), "no data"),
        (row.alarm, "ALARM" if row.attributable else "ALARM, judge drifted"),
        (row.drift is not None and row.drift.drifted, "JUDGE DRIFTED"),
        (not row.covered, "too little scored"),
        (not row.able, "too little data"),
        (row.warning, "lower"),
    )
    return next((words for holds, words in findings if holds), "silent")


def _signed(value: float | None) -> str:
    return format_number(value) if value is None or value < 0 else f"+{format_number(value)}"


def row_cells(row: Row) -> tuple[str, ...]:
    """A look's cells, by ``COLUMNS``; the best window is the one whose upper bound is lowest."""
    best = min(row.spans, key=lambda one: one.upper, default=None)
    return (
        show_line(row.label),
        f"{row.n:,}",
        format_number(row.mean),
        _signed(row.change),
        _signed(row.lower),
        _signed(row.upper),
        "–" if best is None else f"{best.looks}: < {_signed(best.upper)}",
        "–" if row.drift is None else _signed(row.drift.change),
        state_finding(row),
    )


def column_heads(watch: Watch) -> tuple[str, ...]:
    """The table's heads; looks at traces count traces."""
    return COLUMNS if watch.kind == "paired" else ("look", "traces", *COLUMNS[2:])


# --- sentences ----------------------------------------------------------------------------------------------------


def describe_watch(watch: Watch) -> list[str]:
    """What the looks say, in sentences."""
    sentences = [*map(_sentence, _describe_basis(watch)), _describe_setting(watch)]
    if not watch.rows:
        return [*sentences, *map(_sentence, watch.notes)]
    sentences.append(_describe_outcome(watch))
    if drifts := [(row, row.drift) for row in watch.rows if row.drift is not None and row.drift.drifted]:
        row, drift = drifts[0]
        sentences.append(
            f"The judge has drifted: at {show_line(row.label)} it gives {drift.n} frozen trajectories"
            f" {_signed(drift.change)} points against its first scores, between {_signed(drift.lower)} and"
            f" {_signed(drift.upper)}. Alarms from that look on are not attributable to the model."
        )
    if watch.kind == "traces":
        sentences.append(NOT_PAIRED)
        alarmed = next((row for row in watch.rows if row.alarm), watch.rows[-1])
        if alarmed is not watch.rows[-1]:
            sentences += _describe_changes(alarmed)
        sentences += _describe_mix(watch.rows[-1])
    gaps = [f"{watch.baseline_missing:,} of the baseline"] if watch.baseline_missing else []
    gaps += [f"{row.missing:,} at {show_line(row.label)}" for row in watch.rows if row.missing]
    if gaps:
        told = f"{', '.join(gaps[:3])}{', …' if gaps[3:] else ''}"
        sentences.append(f"Episodes without a score are left out ({told}); a drop may hide in them.")
    sentences += [f"At {show_line(row.label)}: {line}." for row in watch.rows for line in row.notes.get("unread", ())]
    return [*sentences, *map(_sentence, watch.notes), *filter(None, [watch.promise])]


def _describe_basis(watch: Watch) -> list[str]:
    """What the score is, and which logs are not whole, each once."""
    logs = (f"at {show_line(row.label)} {words}" for row in watch.rows for words in row.notes.get("logs", ()))
    return list(dict.fromkeys((*watch.basis, *logs)))


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _describe_setting(watch: Watch) -> str:
    what = "cases" if watch.kind == "paired" else "scores"
    judge = name_judge(watch.judge, watch.labelled, watch.reads_state)
    relation = _sentence(LABELLED_LIMITS[watch.labelled].format(watch.judge))
    choice = "This holds for a baseline that was not chosen by these scores."
    if watch.best_of > 1:
        share = f"{watch.alpha / watch.best_of:.2g}, its share of that"
        choice = (
            f"The baseline is the best of {watch.best_of} by these scores, so that its bounds are taken at {share}."
        )
    return (
        f"Scores of {watch.objective} by {judge}, against {watch.baseline} (mean"
        f" {format_number(watch.baseline_mean)} of {watch.baseline_n:,} {what}). An alarm says that a drop by more than"
        f" {watch.margin:g} points is shown; the chance of any false one, over all looks together, is at most"
        f" {watch.alpha:g}. {choice} {relation}"
    )


def _describe_outcome(watch: Watch) -> str:
    alarms = [row for row in watch.rows if row.alarm]
    if alarms:
        first = alarms[0]
        best = min(first.spans, key=lambda one: one.upper)
        over = "at this look" if best.looks == 1 else f"over the last {best.looks} looks"
        blame = "" if first.attributable else " The judge had drifted by then, so this is no evidence about the model."
        blame += " What was asked may have changed as well." if watch.kind == "traces" else ""
        more = f" So does {count_noun(len(alarms) - 1, 'later looks')}." if alarms[1:] else ""
        return (
            f"ALARM at {show_line(first.label)}: {watch.objective} has fallen by {format_number(-best.change)} points"
            f" {over}, by {format_number(-best.upper)} at the least.{more}{blame}"
        )
    if not watch.able:
        return "Too little data: no look has so many scores that even the largest drop could raise an alarm."
    if not watch.covered:
        short = [row for row in watch.rows if not row.covered]
        told = ", ".join(f"{format_percent(row.coverage)} at {show_line(row.label)}" for row in short[:3])
        return (
            f"Too little scored: of what was asked {told}{', …' if short[3:] else ''} has a score, and"
            f" {format_percent(watch.min_coverage)} is declared; no alarm says nothing here."
        )
    last = watch.rows[-1]
    held = f"the last look's change lies between {_signed(last.lower)} and {_signed(last.upper)}"
    if lower := [row for row in watch.rows if row.warning]:
        names = ", ".join(show_line(row.label) for row in lower[:3])
        return (
            f"No alarm: {watch.objective} is lower than the baseline ({names}), but a drop by more than the margin is"
            f" not shown; {held}."
        )
    return f"No alarm; {held}. Silence does not show that nothing was lost."


def _describe_changes(row: Row) -> list[str]:
    """Whether what is asked, or what the agent does, differs from the baseline's, and what could not have been seen."""
    changes = [change for change in (row.notes.get("mix") or {}).get("changes", ()) if change["p"] is not None]
    at, said = f"At {show_line(row.label)}", []
    for kind, words, what in (
        ("requests", "what is asked", "the requests"),
        ("conduct", "what the agent does", "the episodes"),
    ):
        mine = [change for change in changes if change["of"] == kind]
        changed = [change for change in mine if change["p"] <= MIX_P]
        if changed:
            told = (f"{one['what']} (distance {one['distance']:.2f}, p {one['p']:.3f})" for one in changed)
            said.append(f"{at} {words} differs from the baseline in {', '.join(told)}.")
        if changed or not mine:
            continue
        # What a look that shows no change could have shown: a share of a new kind, in its worst respect.
        shares = [change.get("seen") for change in mine]
        least = None if None in shares else max(shares)
        if least is None or least > SMALL_SHARE:
            size = "of any size" if least is None else f"of less than {format_percent(least)} of {what}"
            said.append(
                f"{at} it cannot be told whether {words} has changed: in so few, no change {size} would surely show."
            )
        else:
            said.append(
                f"{at} {words} is not shown to differ from the baseline (permutation p above {MIX_P:g}). Had"
                f" {format_percent(least)} of {what} been of a new kind, four looks in five would have shown it; what"
                " is harder in the same words, and of the same kinds, does not show."
            )
    return said


def _describe_mix(row: Row) -> list[str]:
    """Changes of the mix of a look, tools that are used more or less, what was audited and left out."""
    mix, said = row.notes.get("mix") or {}, _describe_changes(row)
    tools = [one for one in mix.get("tools", ()) if abs(one["before"] - one["now"]) >= LEAST_SHARE][:MOST_TOOLS]
    if tools:
        shares = (
            f"{show_line(one['tool'])[:40]} {format_percent(one['before'])} → {format_percent(one['now'])}"
            for one in tools
        )
        said.append(f"Share of episodes that use a tool, before → now: {', '.join(shares)}.")
    unfit, before = row.notes.get("unfit"), row.notes.get("unfit before")
    if unfit is not None:
        told = "" if before is None else f", {format_percent(before)} of the baseline's"
        said.append(f"{format_percent(unfit)} of its traces are unfit to be judged{told}.")
    said += [_sentence(words) for words in row.notes.get("left out", ())]
    return said


# --- forms --------------------------------------------------------------------------------------------------------


def render_text(watch: Watch, width: int | None = None) -> str:
    """A line for each look and sentences, for a terminal of ``width`` columns, by default its own."""
    width = terminal_width() if width is None else width
    lines = wrap_lines(map(_sentence, _describe_basis(watch)), width, "", "")
    lines += [""] if lines and watch.rows else []
    if watch.rows:
        lines += [rows_text(column_heads(watch), map(row_cells, watch.rows), width), ""]
    sentences = describe_watch(watch)[len(_describe_basis(watch)) :]
    return "\n".join([*lines, *wrap_lines(sentences, width, "", "")])


def render_markdown(watch: Watch) -> str:
    """A summary for a pull request or an issue."""
    heads = column_heads(watch)
    headlines = (
        (watch.alarm, "alarm"),
        (watch.drifted, "the judge has drifted"),
        (bool(watch.rows) and not watch.able, "too little data"),
        (not watch.covered, "too little scored"),
    )
    headline = next((words for holds, words in headlines if holds), "no alarm")
    lines = [f"## holdfast watch: {headline}", ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in describe_watch(watch)]
    if watch.rows:
        lines += ["", f"| {' | '.join(heads)} |", f"|{'|'.join('---' for _ in heads)}|"]
        lines += [f"| {' | '.join(escape_markdown(cell) for cell in row_cells(row))} |" for row in watch.rows]
    return "\n".join(lines) + "\n"


def make_document(watch: Watch, declared: Mapping[str, Any]) -> dict[str, Any]:
    """The watch as JSON; what is not known is null."""
    # The document has its own names, which it has always had.
    names = {"able": "enough_data", "covered": "enough_scored", "drift": "judge_drift", "spans": "windows"}
    looks = []
    for row in watch.rows:
        windows = [{"n": one.cases, **fields(one, ("looks", "change", "lower", "upper"))} for one in row.spans]
        values = {**asdict(row), "spans": windows, "reason": row.reason or None, "notes": dict(row.notes)}
        looks.append({names.get(key, key): value for key, value in values.items()})
    return {
        "schema": "holdfast watch 1",
        "kind": watch.kind,
        "exit_code": exit_code(watch),
        "alarm": watch.alarm,
        "judge_drifted": watch.drifted,
        "enough_data": watch.able,
        "enough_scored": watch.covered,
        "baseline": {
            "name": watch.baseline,
            "mean": watch.baseline_mean,
            "n": watch.baseline_n,
            "missing": watch.baseline_missing,
        },
        "judge": watch.judge,
        "labelled": watch.labelled.value,
        **fields(watch, ("reads_state", "objective", "alpha", "best_of", "margin")),
        "declared": dict(declared),
        "basis": _describe_basis(watch),
        "looks": looks,
        "sentences": describe_watch(watch),
    }
