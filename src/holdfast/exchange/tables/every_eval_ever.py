"""Records of Every Eval Ever: a line of JSON a sample, beside a record that says what the score of each evaluation is.

``instance_level_eval.schema.json`` 0.2.1 has the samples, ``eval.schema.json`` 0.2.1 the record: ``lower_is_better``,
and the range of a continuous score; a binary one is 0 or 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.exchange.tables.rows import ScoreRow, ScoreTable, told_by
from holdfast.records import Declaration
from holdfast.records.errors import refuse

SCORER = "every_eval_ever"
RECORD_BYTES = 64 << 20


def is_instance(first: Mapping[str, Any]) -> bool:
    """Whether an object is a sample of Every Eval Ever."""
    return {"evaluation_id", "model_id", "sample_id", "evaluation"} <= set(first)


def is_record(found: Mapping[str, Any]) -> bool:
    """Whether an object is a record of whole evaluations, which has no score of any one sample."""
    return {"evaluation_id", "evaluation_results", "model_info"} <= set(found)


def read_instances(path: Path, objects: Iterator[tuple[str, Mapping[str, Any]]]) -> ScoreTable:
    """The rows of a file of samples; a value goes by the name of its evaluation. Errors: StudyError."""
    rows, evaluations = [], set[str]()
    for place, found in objects:
        evaluation, given = found.get("evaluation"), found.get("input")
        if not isinstance(evaluation, dict):
            refuse(place, "evaluation is no object", "give the samples as the schema of Every Eval Ever has them")
        name = str(found.get("evaluation_name", SCORER))
        evaluations.add(str(found["evaluation_id"]))
        failed = found.get("error")
        rows.append(
            ScoreRow(
                place=place,
                side=str(found["model_id"]),
                task=name,
                case=" ".join(filter(None, (str(found["sample_id"]), str(found.get("sample_hash") or "")[:12]))),
                values={(SCORER, name): None if failed else evaluation.get("score")},
                reason=str(failed or ""),
                prompt=str(given.get("raw", "")) if isinstance(given, dict) else "",
                reply=_reply(found),
            )
        )
    return ScoreTable(path=path, rows=rows, told=dict(_told(path, evaluations)))


def _reply(found: Mapping[str, Any]) -> str:
    output, messages = found.get("output"), found.get("messages")
    if isinstance(output, dict):
        raw = output.get("raw")
        return "\n".join(map(str, raw)) if isinstance(raw, list) else str(raw or "")
    spoken = [one for one in messages or () if isinstance(one, dict) and one.get("role") == "assistant"]
    return str(spoken[-1].get("content") or "") if spoken else ""


def _told(path: Path, evaluations: set[str]) -> Iterator[tuple[tuple[str, str], Declaration]]:
    """What the records beside a file of samples say of its scores."""
    for beside in sorted(path.parent.glob("*.json")):
        with suppress(OSError, ValueError):
            if beside.stat().st_size > RECORD_BYTES:
                continue
            record = json.loads(beside.read_bytes())
            if isinstance(record, dict) and is_record(record) and record["evaluation_id"] in evaluations:
                for result in record["evaluation_results"]:
                    yield from _declared(result)


def _declared(result: Any) -> Iterator[tuple[tuple[str, str], Declaration]]:
    metric = result.get("metric_config") if isinstance(result, dict) else None
    if not isinstance(metric, dict) or not isinstance(metric.get("lower_is_better"), bool):
        return
    low, high = metric.get("min_score"), metric.get("max_score")
    if metric.get("score_type") == "binary" and low is None and high is None:
        low, high = 0, 1
    if isinstance(low, int | float) and isinstance(high, int | float) and low < high:
        name = str(result.get("evaluation_name", SCORER))
        yield (
            (SCORER, name),
            told_by("its record of Every Eval Ever", name, good=not metric["lower_is_better"], low=low, high=high),
        )
