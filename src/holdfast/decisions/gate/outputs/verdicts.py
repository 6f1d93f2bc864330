"""The verdicts in a run's report and evidence: every child against its parents, by declared rules."""

from __future__ import annotations

from pathlib import Path

from holdfast.decisions.gate.books import read_book
from holdfast.decisions.gate.edges import decide_all
from holdfast.decisions.gate.rules import TABLE, read_rules
from holdfast.records import Verdict
from holdfast.records.errors import StudyError


def judge_run(run_path: Path, rules: Path | None = None) -> tuple[tuple[Verdict, ...], str]:
    """What ``holdfast gate RUN --all`` decides, and why there is nothing where nothing could be compared.

    The rules are those of the file ``rules``, else those that the run's study declares. Errors: StoreError where there
    is no run, StudyError for a file that holds no rules.
    """
    given = None if rules is None else read_rules(file=rules)
    book = read_book(run_path)
    try:
        return tuple(decide_all(book, given or read_rules(noted=book.study.get(TABLE)), {})), ""
    except StudyError as error:
        return (), f"no verdicts of a gate: {error}"
