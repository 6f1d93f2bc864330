"""Results of promptfoo, ``promptfoo eval --output results.json``: a score from 0 to 1 and a pass for each test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.exchange.tables.rows import ScoreRow, ScoreTable, told_by
from holdfast.records.errors import StudyError, refuse

SCORER = "promptfoo"


def is_results(found: Mapping[str, Any]) -> bool:
    """Whether an object is a file of promptfoo's results."""
    return bool(_listed(found)) and isinstance(_listed(found)[0], dict) and "gradingResult" in _keys(_listed(found))


def read_results(path: Path, found: Mapping[str, Any]) -> ScoreTable:
    """The rows of a file of results; a side is a provider, by prompt where there are several. Errors: StudyError."""
    listed = _listed(found)
    prompts = {_prompt(one) for one in listed if isinstance(one, dict)}
    rows = []
    for number, one in enumerate(listed):
        place = f"{path}: results[{number}]"
        if not isinstance(one, dict):
            refuse(place, f"is {type(one).__name__}", "give the file as promptfoo wrote it")
        side = _provider(one) + (f" · prompt {one.get('promptIdx', 0)}" if len(prompts) > 1 else "")
        graded = one.get("gradingResult")
        scored = isinstance(graded, dict) and one.get("error") in (None, "")
        named = one.get("namedScores") if isinstance(one.get("namedScores"), dict) else {}
        values: dict[tuple[str, str], Any] = {
            (SCORER, "score"): one.get("score"),
            (SCORER, "success"): one.get("success"),
        }
        values |= {(SCORER, str(name)): value for name, value in (named or {}).items()}
        rows.append(
            ScoreRow(
                place=place,
                side=side,
                task="promptfoo",
                case=_case(one, number),
                values=values if scored else dict.fromkeys(values),
                reason=str(one.get("error") or "not graded") if not scored else "",
                explanation=str(graded.get("reason") or "") or None if isinstance(graded, dict) else None,
                prompt=_prompt(one),
                reply=_output(one),
            )
        )
    if not rows:
        raise StudyError(f"{path}: holds no result; run promptfoo with --output again")
    told = {(SCORER, key): told_by(SCORER, key, good=True) for key in ("score", "success")}
    return ScoreTable(path=path, rows=rows, told=told)


def _listed(found: Mapping[str, Any]) -> list[Any]:
    results = found.get("results")
    inner = results.get("results") if isinstance(results, dict) else results
    return inner if isinstance(inner, list) else []


def _keys(listed: list[Any]) -> set[str]:
    return {key for one in listed[:3] if isinstance(one, dict) for key in one}


def _provider(one: Mapping[str, Any]) -> str:
    provider = one.get("provider")
    if isinstance(provider, dict):
        return str(provider.get("label") or provider.get("id") or "provider")
    return str(provider or "provider")


def _case(one: Mapping[str, Any], number: int) -> str:
    """A test by its place and what it was asked with: a changed test is another case."""
    variables = one.get("vars")
    told = json.dumps(variables, sort_keys=True)[:200] if isinstance(variables, dict) and variables else ""
    return f"{one.get('testIdx', number)} {told}".strip()


def _prompt(one: Mapping[str, Any]) -> str:
    prompt = one.get("prompt")
    return str(prompt.get("raw", "")) if isinstance(prompt, dict) else str(prompt or "")


def _output(one: Mapping[str, Any]) -> str:
    response = one.get("response")
    output = response.get("output", "") if isinstance(response, dict) else ""
    return output if isinstance(output, str) else json.dumps(output)
