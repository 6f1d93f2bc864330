"""Files that a study names, read into it: rubrics, rules, and the digest of a suite's case files.

What a judge judges by is part of the study, so that a changed file is a changed study. Paths are relative to the
working directory, as on the command line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.records.errors import StudyError
from holdfast.records.inputs import read_bytes, read_settings
from holdfast.store import DATABASE, Store
from holdfast.study.kinds import SUITES

MOST_BYTES = 256 << 20  # of a file that a study names
NAMED_ITEMS = ("own", "generated", "inspect_evals")  # what ``probes.items`` names beside a file


def read_attachments(raw: Any) -> Any:
    """A study's dictionary with the files that it names read. Errors: StudyError for one that cannot be read."""
    if not isinstance(raw, Mapping):
        return raw
    found = dict(raw)
    if isinstance(raw.get("judges"), Mapping):
        found["judges"] = {name: _read_judge(name, judge) for name, judge in raw["judges"].items()}
    # A suite from elsewhere has keys of its own.
    if (suite := _naming(raw, "suite", "cases")) is not None and suite.get("name") in SUITES.shipped:
        found["suite"] = _read_suite(suite)
    if (probes := _naming(raw, "probes", "items")) is not None and probes["items"] not in NAMED_ITEMS:
        found["probes"] = {**probes, "digest": hashlib.sha256(_read(probes["items"], "probes.items")).hexdigest()}
    if (pairs := _naming(raw, "pairs", "source")) is not None:
        place = Path(pairs["source"])
        if (place / DATABASE).is_file():  # else it is told that no run is there, when the study's needs are looked for
            with Store(place) as store:
                found["pairs"] = {**pairs, "digest": store.digest_scores()}
    return found


def _naming(raw: Mapping[str, Any], place: str, key: str) -> Mapping[str, Any] | None:
    """A table that names something by ``key``, without the digest of what it names; None where there is none."""
    table = raw.get(place)
    if isinstance(table, Mapping) and isinstance(table.get(key), str) and table.get("digest") is None:
        return table
    return None


def _read_suite(suite: Mapping[str, Any]) -> dict[str, Any]:
    """A suite's table with the digest of its files, and as many cases as each half has at most."""
    texts = [_read(suite[key], f"suite.{key}") for key in ("cases", "toolkits") if isinstance(suite.get(key), str)]
    read = {**suite, "digest": hashlib.sha256(b"".join(texts)).hexdigest()}
    try:
        cases = json.loads(texts[0])
    except (ValueError, RecursionError):
        return read  # the suite says what is wrong with it
    if isinstance(cases, list):
        train = 0 if suite.get("split") == "none" else len(cases) // 2
        halves = {"train_cases": max(train, 1), "test_cases": len(cases) - train}
        for key, half in halves.items():
            wanted = suite.get(key, half)
            read[key] = min(wanted, half) if isinstance(wanted, int) else wanted
    return read


def _read_judge(name: str, judge: Any) -> Any:
    if not isinstance(judge, Mapping):
        return judge
    read = dict(judge)
    rubrics, rules = judge.get("rubrics"), judge.get("rules")
    if isinstance(rubrics, Mapping):
        read["rubrics"] = {
            objective: _text(text, f"judges.{name}.rubrics.{objective}")
            if isinstance(text, str) and text.endswith(".md")
            else text
            for objective, text in rubrics.items()
        }
    if isinstance(rules, str):
        read["rules"] = read_settings(rules, "a file of rules", subject=f"judges.{name}.rules: {rules}")
    return read


def _read(path: str, place: str) -> bytes:
    return read_bytes(path, MOST_BYTES, subject=f"{place}: {path}", remedy="give the path of a file")


def _text(path: str, place: str) -> str:
    try:
        return _read(path, place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{place}: {path} is not UTF-8 ({error})") from error
