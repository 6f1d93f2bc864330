"""Verdicts as Markdown for a pull request: the overall verdict, a table, and the details folded.

A name may come from a model or from whoever named a checkpoint. It stands in ``<code>`` with every sign that
Markdown, HTML or a forge gives a meaning as a character reference: no tag, link, image, mention or issue reference
can start in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.records import Outcome, Verdict
from holdfast.records.verdicts import WORST_FIRST
from holdfast.records.words import count_noun
from holdfast.report.sections.gate import (
    check_cells,
    check_heads,
    collect_limits,
    count_outcomes,
    describe_findings,
    describe_rules,
    describe_several,
    name_verdict_judge,
    overall,
)
from holdfast.report.words.inert import show_line

MOST_ROWS = 50  # of the table of verdicts; a comment on a pull request holds 65,536 characters
MOST_DETAILS = 12
MARKS = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "❔"}
MEANINGS = {
    Outcome.PASS: "a loss beyond the declared margins is ruled out",
    Outcome.FAIL: "a loss beyond a declared margin is shown",
    Outcome.INCONCLUSIVE: "the data can neither rule out nor show a loss beyond a declared margin",
}
_ACTIVE = re.compile(r"[\\`*_\[\]<>#|~&$@]|[:/](?=/)|(?<=[wW])\.")


def escape_markdown(value: object) -> str:
    """``value`` as inert Markdown text on one line, controls visible; also inside a table's cell."""
    # A forge looks for mentions and addresses in what is left when references are resolved: a comment splits them.
    return _ACTIVE.sub(_reference, show_line(str(value)))


def _reference(found: re.Match[str]) -> str:
    sign = found.group()
    return f"&#{ord(sign)};" + ("<!-- -->" if sign in "@#:/." else "")


def code(value: object) -> str:
    """A name as it is, set as code."""
    return f"<code>{escape_markdown(value)}</code>"


def render_markdown(verdicts: Sequence[Verdict]) -> str:
    """A summary for a pull request: headline, what the verdicts rest on, their table; checks, rules, limits folded."""
    worst = overall(verdicts)
    lines = [f"## {MARKS[worst]} holdfast gate: {worst.value}", ""]
    if not verdicts:
        return "\n".join([*lines, "Nothing could be compared.", ""])
    meaning = MEANINGS[worst]
    lines += [f"{count_noun(len(verdicts), 'comparisons')}: {count_outcomes(verdicts)}. {worst.value}: {meaning}.", ""]
    lines += [line for words in describe_several(verdicts) for line in (escape_markdown(words), "")]
    basis = list(dict.fromkeys(words for one in verdicts[:MOST_DETAILS] for words in one.basis))
    lines += [*(f"* {escape_markdown(words)}" for words in basis), *([""] if basis else [])]
    ranked = sorted(verdicts, key=lambda one: WORST_FIRST.index(one.outcome))
    lines += ["| | Verdict | Child | Parent | Judge | Cases | What was found |", "|---|---|---|---|---|--:|---|"]
    lines += [_verdict_row(one) for one in ranked[:MOST_ROWS]]
    if len(ranked) > MOST_ROWS:
        lines += ["", f"{len(ranked) - MOST_ROWS:,} more comparisons are in the JSON document."]
    lines.append("")
    for one in ranked[:MOST_DETAILS]:
        lines += _details(one)
    if len(ranked) > MOST_DETAILS:
        lines += [f"The checks of {len(ranked) - MOST_DETAILS:,} more comparisons are in the JSON document.", ""]
    return "\n".join(lines)


def _verdict_row(verdict: Verdict) -> str:
    cells = (
        MARKS[verdict.outcome],
        f"**{verdict.outcome.value}**",
        code(verdict.child),
        code(verdict.parent),
        code(name_verdict_judge(verdict)),
        f"{verdict.cases:,}",
        escape_markdown(describe_findings(verdict)),
    )
    return f"| {' | '.join(cells)} |"


def _details(verdict: Verdict) -> list[str]:
    head = f"<details><summary>{verdict.outcome.value}: {code(verdict.child)} against {code(verdict.parent)}</summary>"
    lines = [head, ""]
    if verdict.checks:
        lines += [f"| {' | '.join(check_heads(verdict.checks))} |", "|---|---|---|--:|--:|--:|--:|--:|---|"]
        lines += [f"| {' | '.join(escape_markdown(cell) for cell in check_cells(one))} |" for one in verdict.checks]
        lines.append("")
    lines += [escape_markdown(describe_rules(verdict)), ""]
    if verdict.data:
        lines += [f"Scores compared: {code(verdict.data)}", ""]
    limits = collect_limits([verdict])
    lines += [f"* {escape_markdown(limit)}" for limit in limits] + ([""] if limits else [])
    return [*lines, "</details>", ""]
