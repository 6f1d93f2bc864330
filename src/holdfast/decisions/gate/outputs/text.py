"""Verdicts for a terminal: a sentence and a table each, or one table of many."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import compress

from holdfast.records import Verdict
from holdfast.report.sections.gate import (
    CHECK_HEADS,
    check_cells,
    check_heads,
    collect_limits,
    count_by_lineage,
    count_outcomes,
    describe_note,
    describe_rules,
    describe_several,
    describe_verdict,
    name_metric,
    overall,
    shared_basis,
)
from holdfast.report.words.console import rows_text, terminal_width
from holdfast.report.words.inert import wrap_line, wrap_lines

MOST_TOLD = 6  # verdicts whose checks are listed without being asked for
WIDEST = 110
PLAIN = ("", "  ")  # how lines of a paragraph begin
LEFT_OUT = ("Decides", "Note")  # of the page's columns: the rules name what decides, and notes stand below the table


def render_text(verdicts: Sequence[Verdict], width: int | None = None, *, full: bool = True) -> str:
    """Every verdict in a sentence with the table of its checks, the overall verdict, the rules and the limits.

    What a verdict means at all stands right below its sentence, or once above several that share it. ``width`` is in
    terminal columns, by default those of the terminal between 80 and 110. Several are counted by lineage, and more than
    six are only counted unless ``full``. What a model wrote is shown with its controls visible.
    """
    wide = terminal_width(WIDEST) if width is None else width
    if not verdicts:
        return "no comparison: nothing could be held against anything\n"
    shared = shared_basis(verdicts)
    own = {id(one): [words for words in one.basis if words not in shared] for one in verdicts}
    blocks = ["\n".join(wrap_lines(shared, wide, *PLAIN))] if shared else []
    counted_only = len(verdicts) > MOST_TOLD and not full
    for one in () if counted_only else verdicts:
        lines = wrap_line(describe_verdict(one), wide, *PLAIN)
        lines += wrap_lines(own[id(one)], wide)
        if one.checks:
            lines += ["", *_check_lines(one, wide)]
        blocks.append("\n".join(lines))
    if len(verdicts) > 1:
        total = [f"{overall(verdicts).value}: {count_outcomes(verdicts)}"]
        total += wrap_lines(count_by_lineage(verdicts), wide)
        total += wrap_lines(describe_several(verdicts), wide, *PLAIN)
        total += ["(--full tells every comparison with its checks)"] if counted_only else []
        blocks.append("\n".join(total))
    blocks.append("\n".join(wrap_line(describe_rules(verdicts[0]), wide, *PLAIN)))
    limits = collect_limits(verdicts, MOST_TOLD) if counted_only else collect_limits(verdicts)
    if limits:
        blocks.append("\n".join(["Limits", *wrap_lines(limits, wide)]))
    return "\n\n".join(blocks) + "\n"


def _check_lines(verdict: Verdict, width: int) -> list[str]:
    """The checks of a verdict as a table, with their notes below it."""
    kept = [head not in LEFT_OUT for head in CHECK_HEADS]
    heads = list(compress(check_heads(verdict.checks), kept))
    rows = [list(compress(check_cells(check), kept)) for check in verdict.checks]
    # What was not measured stands above already.
    notes = [
        f"{name_metric(one.metric)}: {note}" for one in verdict.checks if one.measured and (note := describe_note(one))
    ]
    shown = textwrap.indent(rows_text(heads, rows, width - 2, words=2), "  ").split("\n")
    return [*shown, *wrap_lines(notes, width)]
