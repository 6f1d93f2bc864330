"""Verdicts as JSON; ``schemas/verdict.json`` is their schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from holdfast.analysis.document import DIGITS
from holdfast.records import Verdict
from holdfast.report.sections.gate import count_errors, describe_check, describe_several, describe_verdict, overall

# The fields of a check and of a verdict in the order of the document, before and after what is made of them.
CHECK_FIELDS = (
    *("metric", "outcome", "blocking", "measured", "unit", "worse", "adjusted"),
    *("margin", "parent", "child", "change", "lower", "upper", "lower_all", "upper_all", "level"),
    *("p_pass", "p_fail", "design_effect", "reason", "n"),
)
VERDICT_HEAD = ("outcome", "parent", "child", "judge", "labelled", "reads_state", "cases")
VERDICT_REST = (
    *("rules", "fingerprint", "rubrics", "data", "basis", "limits", "sources"),
    *("p_pass", "p_fail", "note"),
)


def plain(value: Any) -> Any:
    """``value`` as JSON: tuples as lists, numbers with 12 digits, null for a number that is not finite."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def fields(record: object, names: Sequence[str]) -> dict[str, Any]:
    """Some fields of a record as JSON."""
    return {name: plain(getattr(record, name)) for name in names}


def document(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON values: ``records.Verdict`` field by field, and the sentence that says it."""
    checks = [fields(check, CHECK_FIELDS) | {"sentence": describe_check(check)} for check in verdict.checks]
    made = {"sentence": describe_verdict(verdict), "checks": checks}
    return fields(verdict, VERDICT_HEAD) | made | fields(verdict, VERDICT_REST)


def gate_document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What ``holdfast gate --json`` prints: the worst outcome, what may go wrong among several, and every verdict."""
    return {
        "outcome": overall(verdicts).value,
        "several": several_document(verdicts),
        "verdicts": [document(one) for one in verdicts],
    }


def several_document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How likely some verdict of a list is wrong, as JSON values; the sentence is empty for a list of one."""
    return {**plain(count_errors(verdicts)), "sentence": " ".join(describe_several(verdicts))}
