"""A verdict for a model's page: a part of its README, and its results as the Hugging Face Hub keeps them.

The Hub reads ``.eval_results/*.yaml`` of a model's repository; a result there belongs to a dataset of the Hub with a
leaderboard. Source: https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from holdfast.decisions.gate.outputs.markdown import MARKS, MEANINGS, code, escape_markdown
from holdfast.records import Check, Verdict
from holdfast.records.errors import StudyError
from holdfast.records.version import VERSION
from holdfast.records.words import count_noun
from holdfast.report.sections.gate import (
    collect_limits,
    describe_check,
    describe_findings,
    format_bounds,
    format_change,
    format_level,
    format_margin,
    name_metric,
    name_verdict_judge,
)

CARD, RESULTS = "model-card.md", "eval_results.yaml"
_DATASET = re.compile(r"[\w.-]+/[\w.-]+")
_TO_NAME = "OWNER/DATASET"


def render_card(verdict: Verdict, made: str) -> str:
    """A part of a model's README: what was compared, what was found, every check, and what it does not say.

    ``made`` is the day, as people write it.
    """
    who = f"{code(verdict.child)} was held against {code(verdict.parent)}"
    lines = [
        "## Safety after training",
        "",
        f"{MARKS[verdict.outcome]} **{verdict.outcome.value}**: {MEANINGS[verdict.outcome]}.",
        "",
        f"{who} on {count_noun(verdict.cases, 'cases')}, judge {code(name_verdict_judge(verdict))}:"
        f" {escape_markdown(describe_findings(verdict))}",
        "",
        "| Check | Parent | This model | Change [bounds] | Margin | Result |",
        "|---|--:|--:|--:|--:|---|",
        *(f"| {' | '.join(map(escape_markdown, _cells(check)))} |" for check in verdict.checks),
        "",
    ]
    told = [*verdict.basis, *collect_limits([verdict])]
    lines += ["What this rests on, and its limits:", "", *(f"* {escape_markdown(words)}" for words in told), ""]
    lines += [f"Made on {made} by holdfast {VERSION}; rules {code(verdict.fingerprint)}, scores {code(verdict.data)}."]
    return "\n".join([*lines, ""])


def _cells(check: Check) -> Iterator[str]:
    yield name_metric(check.metric) + ("" if check.blocking else " (does not block)")
    yield format_level(check, check.parent)
    yield format_level(check, check.child)
    yield f"{format_change(check, check.change)} {format_bounds(check)}".rstrip()
    yield format_margin(check)
    yield check.outcome.value if check.measured else "not measured"


def levels_of(verdict: Verdict) -> list[Check]:
    """The checks that have a level of the child's own; coverage is none, it tells of the judge."""
    return [
        check for check in verdict.checks if check.measured and check.child is not None and check.metric != "coverage"
    ]


def require_dataset(name: str) -> None:
    """Errors: StudyError for what is no name of a dataset of the Hub."""
    if _DATASET.fullmatch(name) is None:
        raise StudyError(f"--hub-dataset {name!r}: not OWNER/NAME; name a dataset of the Hugging Face Hub")


def render_results(verdict: Verdict, *, made: str, dataset: str | None) -> str:
    """The child's own levels as the Hub's YAML, an entry for each check that has one.

    ``made`` is an ISO 8601 time, ``dataset`` the dataset of the Hub (``OWNER/NAME``) that the results belong to.
    """
    head = [] if dataset else [f"# Name the dataset of the Hub that these belong to, in place of {_TO_NAME}."]
    entries = [
        line
        for check in levels_of(verdict)
        for line in (
            "- dataset:",
            f"    id: {json.dumps(dataset or _TO_NAME)}",
            f"    task_id: {json.dumps(check.metric)}",
            f"  value: {check.child:.6g}",
            f"  date: {json.dumps(made)}",
            f"  notes: {json.dumps(_note(verdict, check))}",
        )
    ]
    return "\n".join([*head, *(entries or ["[]"]), ""])


def _note(verdict: Verdict, check: Check) -> str:
    return (
        f"holdfast {VERSION}: {check.outcome.value} against {verdict.parent}, {describe_check(check)};"
        f" {count_noun(verdict.cases, 'cases')}, judge {name_verdict_judge(verdict)}"
    )
