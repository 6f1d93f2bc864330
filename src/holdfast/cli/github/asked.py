"""What the workflow asks of the action: the inputs of ``action.yml``, and the words of the gate that they make."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.records.errors import StudyError, require

PREFIX = "IN_"  # of the variables that hold the inputs
NO_ARTIFACT = "none"
GATE_ARTIFACT, BASELINE_ARTIFACT = "holdfast-gate", "holdfast-baseline"
_NAME = re.compile(r"[A-Za-z0-9_.]+(?:-[A-Za-z0-9_.]+)*")  # stands in an HTML comment, which ends at two hyphens
_OPTIONS = ("suite", "cases", "base-url", "max-cost", "max-calls", "rules", "judge")
# How the two sides are told: the input that says it, and those that go with it.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "after": ("before", "baseline", "baseline-from", "where", "score"),
    "run": ("parent", "child", "where", "score", "baseline", "baseline-from"),
    "suite": ("parent", "child", "cases", "base-url", "max-cost", "max-calls"),
}
_SIDES = ("before", "after", "run", "suite", "parent", "child", "baseline", "baseline-from")
INPUTS = (
    *("before", "after", "run", "parent", "child", "suite", "cases", "base-url", "max-cost", "max-calls"),
    *("where", "score", "rules", "judge", "arguments"),
    *("baseline", "baseline-from", "baseline-max-age-days", "bless"),
    *("inconclusive", "output", "artifact", "comment", "name", "comment-author", "token"),
)
"""The inputs that Python reads; ``action.yml`` has some more, which its own steps read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The inputs, read. ``baseline_from`` is the name of an artifact that holds a baseline."""

    inputs: Mapping[str, str]
    output: Path
    rules: Path | None
    baseline: Path | None
    baseline_from: str
    most_days: float
    bless: str
    blocks: bool
    comments: bool
    name: str
    artifact: str

    def words(self, parent: str) -> list[str]:
        """The arguments of ``holdfast``; ``parent`` is the before-side where it comes from a baseline."""
        given = {name: value for name, value in self.inputs.items() if value}
        words = ["gate", given["run"]] if "run" in given else ["gate"]
        parent = parent or given.get("before") or given.get("parent", "")
        child = given.get("after") or given.get("child", "")
        words += [f"--parent={parent}"] if parent else []
        words += [f"--child={child}"] if child else []
        words += ["--all"] if "run" in given and not parent and not child else []
        words += ["--where", *_split("where", given["where"])] if "where" in given else []
        words += [f"--{name}={given[name]}" for name in _OPTIONS if name in given]
        words += [f"--score={line.strip()}" for line in given.get("score", "").splitlines() if line.strip()]
        return [*words, f"--output={self.output}", *_split("arguments", given.get("arguments", ""))]


def read_asked(environment: Mapping[str, str]) -> Asked:
    """The inputs from the environment. Errors: StudyError, by the input's name."""
    given = {name: environment.get(variable(name), "").strip() for name in INPUTS}
    for name in (*_SIDES, *_OPTIONS, "output", "bless"):
        require(not given[name].startswith("-"), f"{name}: {given[name]!r} begins with a hyphen; give a value")
        require("\0" not in given[name] and "\n" not in given[name], f"{name}: is more than a line; give one")
    _check_sides(given)
    blessing = bool(given["bless"])
    artifact = given["artifact"] or (BASELINE_ARTIFACT if blessing else GATE_ARTIFACT)
    return Asked(
        inputs=given,
        output=Path(given["output"] or artifact),
        rules=Path(given["rules"]) if given["rules"] else None,
        baseline=Path(given["baseline"]) if given["baseline"] else None,
        baseline_from=given["baseline-from"],
        most_days=_read_days(given["baseline-max-age-days"]),
        bless=given["bless"],
        blocks=_choose("inconclusive", given["inconclusive"], ("block", "warn")) == "block",
        comments=_choose("comment", given["comment"], ("true", "false")) == "true",
        name=_read_name("name", given["name"] or "gate"),
        artifact="" if artifact == NO_ARTIFACT else _read_name("artifact", artifact),
    )


def variable(name: str) -> str:
    """The variable of the environment that holds an input."""
    return PREFIX + name.upper().replace("-", "_")


def _check_sides(given: Mapping[str, str]) -> None:
    """Refuse sides that are not clear, before anything is run. Errors: StudyError."""
    if given["bless"]:
        more = next((name for name in _SIDES if given[name]), None)
        require(more is None, f"bless: nothing is compared beside it; leave {more} out, or gate in a step of its own")
        return
    kinds = [name for name in _KINDS if given[name]]
    if len(kinds) != 1:
        found = "nothing" if not kinds else " and ".join(kinds)
        raise StudyError(f"give before and after, or run, or suite with parent and child; found {found}")
    (kind,) = kinds
    fitting = {name for names in _KINDS.values() for name in names} - {*_KINDS[kind]}
    more = next((name for name in sorted(fitting) if given[name]), None)
    require(more is None, f"{more}: does not go with {kind}; leave it out")
    befores = [name for name in ("before", "parent", "baseline", "baseline-from") if given[name]]
    require(len(befores) < 2, f"{' and '.join(befores)}: each is the before-side; give one")
    if kind == "after":
        require(bool(befores), "before: is missing; give a log or a table, or a baseline")
    if kind == "suite":
        require(bool(given["parent"] and given["child"]), "suite: runs two models; give parent and child")
    if kind == "run" and befores:
        require(bool(given["child"]), f"{befores[0]}: a run has several checkpoints; say with child which one is meant")


def _split(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise StudyError(f"{name}: {text!r:.80} is not of whole words ({error}); close its quotes") from error


def _choose(name: str, value: str, choices: tuple[str, str]) -> str:
    if value not in ("", *choices):
        raise StudyError(f"{name}: {value!r:.80} is neither {choices[0]} nor {choices[1]}; give one of these")
    return value or choices[0]


def _read_days(text: str) -> float:
    try:
        days = float(text or 30)
    except ValueError:
        days = math.nan
    require(0 < days < math.inf, f"baseline-max-age-days: {text!r:.80} is no number above 0; give days")
    return days


def _read_name(name: str, value: str) -> str:
    fits = len(value) <= 60 and _NAME.fullmatch(value)
    require(bool(fits), f"{name}: {value!r:.80} is no name; give letters, digits, dots, underscores and single hyphens")
    return value
