"""A gate's answer on one page: the sentence, checks against margins, the worst cases, what was not measured."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from holdfast.decisions.gate.outputs.worst import LostCase
from holdfast.records import Verdict
from holdfast.records.verdicts import WORST_FIRST
from holdfast.records.version import VERSION
from holdfast.records.words import count_noun
from holdfast.report.page.page import bare_page
from holdfast.report.page.shards import case_title
from holdfast.report.sections.gate import (
    EXPLANATION,
    check_cells,
    check_heads,
    collect_limits,
    count_by_lineage,
    count_outcomes,
    describe_rules,
    describe_several,
    describe_verdict,
    name_metric,
    overall,
    verdict_table,
)
from holdfast.report.sections.margins import KEY, margin_bars
from holdfast.report.words.inert import escape_html, show_line
from holdfast.report.words.labels import format_number
from holdfast.report.words.layout import fold, list_html, paragraph
from holdfast.report.words.tables import make_table, table_html
from holdfast.report.words.transcript import case_html, trajectory_html

NOT_MEASURED = "not measured: "  # how a verdict begins what it says of these


def render_answer(
    verdicts: Sequence[Verdict],
    worst: tuple[Verdict, Sequence[LostCase], int] | None,
    *,
    made: str,
    command: str,
    links: Mapping[str, str],
) -> str:
    """The page as HTML, without a script.

    ``worst`` are the verdict whose cases are shown, those cases, and how many there are in all; ``made`` is when the
    gate was asked and ``command`` how; ``links`` are files beside the page, by what they are.
    """
    ranked = sorted(verdicts, key=lambda one: WORST_FIRST.index(one.outcome))
    first, outcome = ranked[0], overall(verdicts)
    several = len(verdicts) > 1
    title = count_outcomes(verdicts) if several else f"{first.child} against {first.parent}"
    lead = count_by_lineage(verdicts) or [count_outcomes(verdicts)] if several else [describe_verdict(first)]
    parts = [
        ("Answer", "".join(map(paragraph, lead)), "told"),
        (f"Checks: {show_line(first.child)}" if several else "Checks", _checks(first), ""),
    ]
    if several:
        table = verdict_table(ranked, "Changes of every child against its parent, with one-sided bounds")
        parts.append(("Every comparison", table_html(table, identity="gate-table", sorts=False), ""))
    if worst is not None:
        parts.append(("Where most was lost", _worst(*worst), ""))
    parts += [
        ("What was not measured", _unmeasured(verdicts), ""),
        ("What it rests on, and its limits", _basis(verdicts), ""),
        ("Rules, sources, versions", _rules(first, describe_several(verdicts), command, links), ""),
    ]
    body = "".join(
        f"<section{f' class={name}' if name else ''}><h2>{escape_html(head)}</h2>{html}</section>"
        for head, html, name in parts
    )
    page = (
        f'<header><div class="wide"><p class="mark">holdfast gate</p><p class="verdict {outcome.value.lower()}">'
        f"{outcome.value}</p><h1>{escape_html(title)}</h1>"
        f'<p class="made">Made on {escape_html(made)} with holdfast {escape_html(VERSION)}</p></div></header>'
        f'<main class="wide">{body}</main>'
    )
    return bare_page(f"{outcome.value}: {title}", page.replace(" %", "\u00a0%"), more_style=_style())


def _style() -> str:
    return resources.files("holdfast.report.page").joinpath("assets", "gate.css").read_text(encoding="utf-8")


def _checks(verdict: Verdict) -> str:
    table = make_table("The same as numbers", check_heads(verdict.checks), map(check_cells, verdict.checks), words=3)
    numbers = fold("The same as a table", table_html(table, identity="checks-table", sorts=False))
    return margin_bars(verdict.checks) + f'<p class="note">{escape_html(KEY)}</p>' + numbers


def _worst(verdict: Verdict, lost: Sequence[LostCase], total: int) -> str:
    if not lost:
        return paragraph("In no case that both sides met is the child's mean below the parent's.")
    metric = name_metric(lost[0].metric)
    told = (
        f"{verdict.child} is worse than {verdict.parent} in {metric} in {count_noun(total, 'cases')}; the"
        f" {len(lost)} worst are below, with the parent's best episode and the child's worst."
    )
    return paragraph(told) + "".join(_lost_case(one, verdict, is_open=number == 0) for number, one in enumerate(lost))


def _lost_case(lost: LostCase, verdict: Verdict, *, is_open: bool) -> str:
    values = f"{format_number(lost.parent, 2)} → {format_number(lost.child, 2)}"
    sides = zip(lost.episodes, (("parent", verdict.parent), ("child", verdict.child)), strict=True)
    runs = "".join(
        trajectory_html(episode.trajectory, episode.scores, f"{role}: {name}") for episode, (role, name) in sides
    )
    return (
        f"<details{' open' if is_open else ''}><summary>{escape_html(values)}: {escape_html(case_title(lost.case))}"
        f" ({escape_html(lost.label)})</summary>"
        f'{case_html(lost.case)}<div class="pair">{runs}</div></details>'
    )


def _unmeasured(verdicts: Sequence[Verdict]) -> str:
    told = dict.fromkeys(
        words.removeprefix(NOT_MEASURED) for words in _basis_of(verdicts) if words.startswith(NOT_MEASURED)
    )
    return list_html(told, "notes") or paragraph("Every check of the rules could be measured.")


def _basis(verdicts: Sequence[Verdict]) -> str:
    basis = [words for words in dict.fromkeys(_basis_of(verdicts)) if not words.startswith(NOT_MEASURED)]
    return list_html(basis, "sentences") + list_html(collect_limits(verdicts), "sentences")


def _basis_of(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        yield from verdict.basis


def _rules(verdict: Verdict, several: Sequence[str], command: str, links: Mapping[str, str]) -> str:
    sources = {
        f"{side}: {key}": value
        for side in ("parent", "child")
        for key, value in verdict.sources.get(side, {}).items()
        if value and key in ("run", "model", "digest", "checkpoint")
    }
    declared = {key: value for key, value in verdict.rules.items() if value not in (None, {}, [])}
    rows: dict[str, Any] = {
        **{f"gate.{key}": _spell(value) for key, value in declared.items()},
        "fingerprint of the rules": verdict.fingerprint,
        "scores compared": verdict.data,
        **{f"rubric of {name}": value for name, value in verdict.rubrics.items()},
        **sources,
        "holdfast": VERSION,
        "python": platform.python_version(),
    }
    items = "".join(
        f"<dt>{escape_html(name)}</dt><dd{' class=digest' if _is_digest(value) else ''}>{escape_html(value)}</dd>"
        for name, value in rows.items()
    )
    files = "".join(f'<li><a href="{escape_html(name)}">{escape_html(words)}</a></li>' for words, name in links.items())
    words = [EXPLANATION, describe_rules(verdict), *several]
    asked = f"<p>Asked by <code>{escape_html(command)}</code></p>"
    return "".join(map(paragraph, words)) + asked + f'<dl class="rules">{items}</dl><ul class="files">{files}</ul>'


def _spell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_digest(value: object) -> bool:
    text = str(value)
    return len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
