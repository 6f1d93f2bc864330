"""What a terminal shows: one trajectory, the results of a run, its status. Nothing a model wrote reaches it raw."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from holdfast.judges.rubric.digits import show_reply
from holdfast.records import Analysis, Case, Checkpoint, Score, Trajectory, Verdict
from holdfast.records.words import count_noun
from holdfast.report.draw.figures import order_lineages
from holdfast.report.sections.approval.section import describe_approval
from holdfast.report.sections.gate import count_outcomes, overall
from holdfast.report.sections.results import scores_text
from holdfast.report.sections.summary import APPROVAL_SENTENCES, describe_alert, find_cut
from holdfast.report.sections.table import make_texts
from holdfast.report.words.answer import answer
from holdfast.report.words.console import rows_text, terminal_width
from holdfast.report.words.inert import show_controls, show_line, trim_text, wrap_line
from holdfast.report.words.labels import name_kind, name_lineage
from holdfast.report.words.layout import Shown
from holdfast.store import Store
from holdfast.store.joined import describe_source, read_joined

MESSAGE_CHARACTERS = 6_000
ANSWER_LINES = 13  # of a summary, all of whose lines fit on a screen; the rows of its table take what others leave
LEAST_ROWS = 4
MOST_NAMED = 8  # lineages with a flag
SUMMARY_LINES = 21  # without heads and space between blocks
_dump = partial(json.dumps, ensure_ascii=False, default=str)


def _wrap(text: str, width: int, indent: str = "  ") -> list[str]:
    """A long text on lines of at most ``width`` columns, each with its own spaces, and how much was cut."""
    kept, left_out = trim_text(text, MESSAGE_CHARACTERS)
    fill = textwrap.TextWrapper(
        max(20, width - len(indent)), replace_whitespace=False, drop_whitespace=False, break_on_hyphens=False
    )
    lines = [part for line in show_controls(kept).expandtabs(4).split("\n") for part in fill.wrap(line) or [""]]
    shown = [(indent + line).rstrip() for line in lines]
    return [*shown, f"{indent}… {left_out:,} characters left out"] if left_out else shown


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
        who = message.role.upper() + (f" {show_line(message.name)}" if message.name else "")
        lines += [f"{who} ".ljust(width, "─"), *(_wrap(message.content, width) if message.content else [])]
        for call in message.tool_calls:
            lines += _wrap(f"▸ {call.name}({_dump(call.arguments)})", width)
        if message.detail:
            lines.append(f"  ({len(_dump(message.detail)):,} characters that the agent never saw are not shown)")
    if trajectory.world_after is not None:
        lines += ["WORLD AFTER ".ljust(width, "─"), *_wrap(_dump(trajectory.world_after), width)]
    lines.append("SCORES ".ljust(width, "─"))
    for score in scores:
        value = f"{score.value:g}" if score.value is not None else f"missing: {show_line(score.missing or '')}"
        label = f" · {show_line(score.label)}" if score.label else ""
        repeat = f" · repeat {score.repeat}" if score.repeat else ""
        lines.append(f"{show_line(score.objective)} {value}{label} · {show_line(score.judge)}{repeat}")
        lines += _wrap(show_reply(score.reply), width, "  │ ") if score.reply else []
    return "\n".join([*lines, *([] if scores else ["  not judged"]), ""])


def render_results(analysis: Analysis, width: int | None = None, verdicts: Sequence[Verdict] = ()) -> str:
    """The results for a terminal: means ± half-widths by lineage, persistence, rates of the audit, flags, notes.

    What pressure, shifts and repairs show, and a gate's ``verdicts``, stand between them in sentences.
    """
    shown = make_texts(analysis, terminal_width() if width is None else width, verdicts)
    return "\n\n".join(shown or ["no results: nothing is judged yet"]) + "\n"


def render_summary(analysis: Analysis, verdicts: Sequence[Verdict] = (), width: int | None = None) -> str:
    """What a run has shown, in fewer than 30 lines of a terminal: the answer in words, the scores, what to beware of.

    ``render_results`` has everything.
    """
    wide = terminal_width() if width is None else width
    alert, flags = describe_alert(analysis), [one for one in analysis.health if one.caveats]
    above = [] if alert is None else wrap_line(f"! {alert}", wide, "", "  ")
    left_out = 0
    for sentence in answer(analysis) + describe_approval(analysis)[:APPROVAL_SENTENCES]:
        lines = wrap_line(sentence, wide, "", "  ")
        fits = len(above) + len(lines) <= ANSWER_LINES
        above += lines if fits else []
        left_out += not fits
    above += [f"… {count_noun(left_out, 'more sentences')} of the answer on the page"] if left_out else []
    below = []
    if verdicts:
        below += [f"Gate: {overall(verdicts).value} ({count_outcomes(verdicts)})"]
    if flags:
        names = list(dict.fromkeys(name_lineage(one.lineage) for one in flags))
        told = ", ".join(names[:MOST_NAMED]) + (", …" if names[MOST_NAMED:] else "")
        below += wrap_line(f"! degenerate training: {count_noun(len(flags), 'flags')} ({told})", wide, "", "  ")
    if notes := [note for note in analysis.notes if note not in find_cut(analysis)]:
        more = f" ({count_noun(len(notes) - 1, 'more notes')})" if notes[1:] else ""
        below += wrap_line(f"note: {notes[0]}{more}", wide, "", "  ")
    room = max(LEAST_ROWS, SUMMARY_LINES - len(above) - len(below))
    scores = scores_text(Shown(analysis=analysis, colors=order_lineages(analysis)), wide, room)
    blocks = ["\n".join(above), scores or "no results: nothing is judged yet", "\n".join(below)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def render_status(store: Store, planned: int | None = None, spending: Sequence[Any] = (), *, full: bool = False) -> str:
    """A run's counts, what it was joined of, what it spent on remote models, and its steps by kind and state.

    ``full`` lists every step.
    ``planned`` is how many steps its study has in all, ``spending`` what its ledger says.
    """
    wide = terminal_width()
    counts = " · ".join(f"{count:,} {name}" for name, count in store.counts().items())
    blocks = ["\n".join([f"Run {show_line(str(store.path))}", *wrap_line(counts, wide, "", "  ")])]
    for one in (one for one in store.checkpoints() if one.start):
        stages = ", ".join(
            f"{stage.name} ({stage.method}{'' if stage.steps is None else f', {stage.steps:,} steps'})"
            for stage in one.start
        )
        told = f"{show_line(one.base)} was taught before the study began: {show_line(stages)}"
        blocks[0] += "\n" + "\n".join(wrap_line(told, wide, "  ", "    "))
    if (joined := read_joined(store)) is not None:
        lines = [f"Joined of {count_noun(len(joined.sources), 'runs')}:"]
        for source in joined.sources:
            lines += wrap_line(show_line(" · ".join(describe_source(source))), wide, "  ", "    ")
        blocks.append("\n".join(lines))
    if spending:
        heads = ("Speaker", "Model", "Calls", "In doubt", "Tokens in", "Tokens out", "Money", "Seconds")
        spent = [
            [
                *(row.speaker, row.model, f"{row.calls:,}", f"{row.in_doubt:,}"),
                *(f"{row.input_tokens:,}", f"{row.output_tokens:,}", f"{row.cost:,.4f}", f"{row.seconds:,.1f}"),
            ]
            for row in spending
        ]
        blocks.append(rows_text(heads, spent, wide, words=2))
    steps = list(store.log.steps().values())
    if steps:
        done = sum(step.status == "done" for step in steps)
        blocks.append(f"Steps: {done} of {planned or len(steps)} done")
        kinds = dict.fromkeys((step.kind, step.status) for step in steps)
        counted = {key: [step for step in steps if (step.kind, step.status) == key] for key in kinds}
        summed = [(*key, f"{len(some):,}", _seconds(step.seconds for step in some)) for key, some in counted.items()]
        blocks[-1] += "\n" + rows_text(("Kind", "State", "Steps", "Seconds"), summed, wide, words=2)
        if full:
            rows = [(step.status, step.kind, step.name, _seconds([step.seconds])) for step in steps]
            blocks.append(rows_text(("State", "Kind", "Step", "Seconds"), rows, wide, words=3))
    return "\n\n".join(blocks) + "\n"


def _seconds(measured: Iterable[float | None]) -> str:
    known = [seconds for seconds in measured if seconds is not None]
    return f"{sum(known):,.1f}" if known else "–"


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
