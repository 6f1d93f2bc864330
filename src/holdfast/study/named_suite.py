"""A suite that a user names without writing a study: its cases, how they are met, and who judges them.

It is one that ships, a study file, or a file of the user's own cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.records.errors import StudyError, did_you_mean, require
from holdfast.records.inputs import read_settings
from holdfast.study.kinds import JUDGES, SUITES

# The judge of a suite that ships, where it has one that asks nobody.
OWN_JUDGES: Mapping[str, Mapping[str, Any]] = {
    "office": {"state": {"kind": "state"}},
    "probes": {"rules": {"kind": "probes"}},
}
# What is taken of a study file that is named as the suite: what cases there are, and how they are met and judged.
TAKEN = ("suite", "rollouts", "judges", "models", "endpoints", "gate", "run")


CASES = "cases"  # the suite of a user's own
OWN_FILES = (".jsonl", ".ndjson")


def is_cases_file(suite: str) -> bool:
    """Whether a suite is named by the path of a file of cases, or of a directory."""
    return suite.endswith(OWN_FILES) or Path(suite).expanduser().is_dir()


def is_study_file(suite: str) -> bool:
    """Whether a suite is named by a path that has to be that of a study file."""
    return not is_cases_file(suite) and ("/" in suite or suite.endswith(".toml") or Path(suite).exists())


def read_suite(suite: str, judge: str | None) -> dict[str, Any]:
    """The tables of a study on cases, rollouts and judges: of a suite that ships, a study file, or a file of cases.

    ``judge`` takes the place of its judges: one of them, a kind of judge, or a model that judges by the default
    rubrics. Errors: StudyError.
    """
    if is_study_file(suite):
        read = read_settings(suite, "a study file")
        raw = {key: read[key] for key in TAKEN if isinstance(read.get(key), dict)}
        require(
            "suite" in raw and ("judges" in raw or judge is not None),
            f"{suite}: has no [suite] or no [judges.NAME]; add it",
        )
    elif is_cases_file(suite):
        raw = {"suite": {"name": CASES, "file": suite}, "judges": {"match": {"kind": "match"}}}
    else:
        near = did_you_mean(suite, SUITES.shipped, after=" ")
        known = ", ".join(SUITES.shipped)
        require(
            suite in SUITES.shipped,
            f"--suite {suite!r}: no suite of this name; {near}there are {known}, or give a study file or a file of"
            " cases (.jsonl)",
        )
        judges = OWN_JUDGES.get(suite)
        if judges is None:
            raise StudyError(
                f"--suite {suite}: needs more than its name; give a study file with its [suite] and [judges.NAME]"
            )
        # Nothing is trained, so that no case is kept to train on beyond the one that a suite has at least.
        raw = {
            "suite": {"name": suite, **({"train_cases": 1} if suite == "office" else {"split": "none"})},
            "judges": dict(judges),
        }
    if judge is not None:
        raw["judges"] = {judge: _find_judge(judge, raw.get("judges", {}))}
    return raw


def _find_judge(judge: str, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of a judge: one that is known, a kind that needs nothing more, or a model by the default rubrics."""
    if judge in known:
        found: Mapping[str, Any] = known[judge]
        return found
    plain = [name for name in JUDGES.shipped if JUDGES.find(name).needs is None and not JUDGES.find(name).users]
    if judge in plain:
        return {"kind": judge}
    near = did_you_mean(judge, [*known, *plain], after=" ")
    told = ", ".join(dict.fromkeys([*known, *plain]))
    require("/" in judge, f"--judge {judge!r}: no judge of this name; {near}there are {told}, or name PROVIDER/MODEL")
    return {"kind": "rubric", "model": judge}
