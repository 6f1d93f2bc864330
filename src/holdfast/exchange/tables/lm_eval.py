"""Samples of lm-evaluation-harness, ``samples_TASK_DATE.jsonl``, with the ``results_DATE.json`` beside them.

A sample has its metrics by name, once for each filter. Which end of a metric is good stands in the results file, or for
those that score a sample right or wrong in the tool's own ``api/metrics.py`` (0.4.13).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.exchange.tables.rows import ScoreRow, ScoreTable, told_by
from holdfast.records import Declaration

SCORER = "lm_eval"
RIGHT_OR_WRONG = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match")
_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d\-.]+)\.jsonl")
RESULTS_BYTES = 64 << 20


def is_samples(first: Mapping[str, Any]) -> bool:
    """Whether an object is a sample of lm-evaluation-harness."""
    return {"doc_id", "filtered_resps", "resps"} <= set(first)


def read_samples(path: Path, objects: Iterator[tuple[str, Mapping[str, Any]]]) -> ScoreTable:
    """The rows of one file of samples."""
    named = _NAME.fullmatch(path.name)
    task = named["task"] if named else path.stem.removeprefix("samples_")
    results = _results(path.with_name(f"results_{named['date']}.json")) if named else {}
    side = str(results.get("model_name") or path.parent.name or path.stem)
    rows, metrics = dict[tuple[str, int], ScoreRow](), dict[tuple[str, str], None]()
    seen: Counter[tuple[str, str]] = Counter()
    for place, found in objects:
        named_metrics = found.get("metrics")
        keys = list(map(str, named_metrics)) if isinstance(named_metrics, list) else list(RIGHT_OR_WRONG)
        chosen = str(found.get("filter", "none"))
        scorer = SCORER if chosen == "none" else f"{SCORER}/{chosen}"
        values = {(scorer, key): found[key] for key in keys if key in found}
        metrics |= dict.fromkeys(values)
        # The document's digest, so that another version of a task has other cases.
        case = f"{found['doc_id']} {str(found.get('doc_hash', ''))[:12]}".strip()
        # A reply stands once for each filter that it was read by.
        spot = (case, seen[case, chosen])
        seen[case, chosen] += 1
        if spot in rows:
            rows[spot] = replace(rows[spot], values={**rows[spot].values, **values})
            continue
        rows[spot] = ScoreRow(
            place=place,
            side=side,
            task=task,
            case=case,
            values=values,
            prompt=_text(found.get("arguments")),
            reply=_text(found.get("filtered_resps")),
        )
    return ScoreTable(path=path, rows=list(rows.values()), told=dict(_told(metrics, results, task)))


def _told(
    metrics: Mapping[tuple[str, str], None], results: Mapping[str, Any], task: str
) -> Iterator[tuple[tuple[str, str], Declaration]]:
    higher = results.get("higher_is_better")
    higher = higher.get(task, {}) if isinstance(higher, dict) else {}
    for scorer, key in metrics:
        good = higher.get(key, True) if isinstance(higher, dict) else True
        if key in RIGHT_OR_WRONG and isinstance(good, bool):
            yield (scorer, key), told_by("lm-evaluation-harness", key, good=good)


def _results(path: Path) -> Mapping[str, Any]:
    """The results beside a file of samples; nothing where there are none that can be read."""
    with suppress(OSError, ValueError):
        if path.stat().st_size <= RESULTS_BYTES:
            found = json.loads(path.read_bytes())
            return found if isinstance(found, dict) else {}
    return {}


def _text(value: Any) -> str:
    """What was asked or answered: a text among nested lists, else the whole as JSON."""
    while isinstance(value, list) and value and (len(value) == 1 or isinstance(value[0], list)):
        value = value[0]
    if isinstance(value, dict):
        value = next(iter(value.values()), "")
        return _text(value)
    if isinstance(value, list):
        value = value[0] if value and isinstance(value[0], str) else json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)
