"""A verdict as a record of Every Eval Ever, by its ``eval.schema.json`` 0.2.1.

The record is of the child: its own level on every metric that was measured. What such a record has no field for, the
change against the parent and its bounds, stands among a result's details, as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from holdfast.decisions.gate.passing.card import levels_of
from holdfast.records import Check, Verdict
from holdfast.records.version import VERSION
from holdfast.report.sections.gate import describe_check, name_metric, name_verdict_judge
from holdfast.store.tables import MAX_SCORE, MIN_SCORE

RECORD = "every_eval_ever.json"
SCHEMA = "0.2.1"
_SPAN = {"points": (MIN_SCORE, MAX_SCORE), "share": (0, 1)}


def make_record(verdict: Verdict, *, made: datetime, suite: str) -> dict[str, Any]:
    """The record as JSON values; ``suite`` names the cases."""
    timestamp = f"{made.timestamp():.0f}"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"holdfast {suite}/{verdict.child}/{timestamp}",
        "evaluation_timestamp": timestamp,
        "retrieved_timestamp": timestamp,
        "source_metadata": {
            "source_name": "holdfast gate",
            "source_type": "evaluation_run",
            # Who evaluates is not known here, nor whose model it is.
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "holdfast", "version": VERSION},
        "model_info": {
            "name": verdict.child,
            "id": verdict.child,
            "additional_details": {"parent": verdict.parent},
        },
        "evaluation_results": [_result(verdict, check, suite, timestamp) for check in levels_of(verdict)],
    }


def _result(verdict: Verdict, check: Check, suite: str, timestamp: str) -> dict[str, Any]:
    low, high = _SPAN[check.unit]
    told: Mapping[str, Any] = {
        "parent": check.parent,
        "change": check.change,
        "change_lower": check.lower,
        "change_upper": check.upper,
        "level_of_each_bound": check.level,
        "margin": check.margin,
    }
    return {
        "evaluation_name": f"{suite}: {name_metric(check.metric)}",
        "source_data": {"dataset_name": suite, "source_type": "other"},
        "evaluation_timestamp": timestamp,
        "metric_config": {
            "evaluation_description": f"{describe_check(check)}; judge {name_verdict_judge(verdict)}",
            "lower_is_better": check.worse == "higher",
            "score_type": "continuous",
            "min_score": low,
            "max_score": high,
        },
        "score_details": {
            "score": check.child,
            "details": {
                **{name: f"{value:.6g}" for name, value in told.items() if value is not None},
                "cases": str(check.n.get("cases", verdict.cases)),
                "outcome": check.outcome.value,
                "blocking": "yes" if check.blocking else "no",
                "rules": verdict.fingerprint,
                "scores": verdict.data,
            },
        },
    }
