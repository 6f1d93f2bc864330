"""What is asked: a study file in TOML, or ``Study(...)`` in Python, validated before anything is spent.

Unknown keys are errors that name the nearest known key. ``load`` reads a file, ``Study.model_validate`` a
dictionary; both raise StudyError with one line that says where, what was found and what to do.

Files that a study names are read into it: rubrics, rules, and the digest of a suite's case files. What a judge judges
by is part of the study, so that a changed file is a changed study. Paths are relative to the working directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from holdfast.records.errors import StudyError, require, require_known
from holdfast.records.extensions import allow
from holdfast.records.inputs import decode_utf8, parse_toml, read_bytes, read_settings
from holdfast.store import DATABASE, Store
from holdfast.study.checks import check_study
from holdfast.study.elsewhere import read_external
from holdfast.study.kinds import METHODS, SUITES, named_in
from holdfast.study.problems import first_problem
from holdfast.study.rules import refuse_old_bound
from holdfast.study.stages import DATA_BYTES, EXTERNAL, NAMED_DATA
from holdfast.study.tables import Tables

MOST_BYTES = 256 << 20  # of a file that a study names
# What a turn of a real model needs, and how many of its episodes may be lost where a run is killed, by kind of base.
REAL_LIMITS: Mapping[str, Mapping[str, int]] = {
    "local": {"max_tokens": 256, "batch_size": 64},
    "vllm": {"max_tokens": 256},
    "remote": {"max_tokens": 256},
}
NAMED_ITEMS = ("own", "generated", "inspect_evals")  # what ``probes.items`` names beside a file
_A_FILE = "give the path of a file"
# Suites whose files lie in a public place.
_REMEDIES = {
    "toolemu": f"{_A_FILE}; ToolEmu's are assets/all_cases.json and assets/all_toolkits.json of"
    " https://github.com/ryoungj/ToolEmu"
}


class Study(Tables):
    """A whole study whose tables fit together; see ``Tables`` for what each of them says."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A study from a dictionary. Errors: StudyError."""
        try:
            return super().model_validate(read_attachments(obj), **options)
        except ValidationError as error:
            raise StudyError(first_problem(error, cls, obj)) from error

    @model_validator(mode="before")
    @classmethod
    def _fit_limits(cls, raw: Any) -> Any:
        """Where a base is a real model, limits that the study leaves open are those of one."""
        return fit_limits(raw)

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        check_study(self)
        return self


def load(path: Path | str, *, scale: str | None = None, changes: Sequence[str] = ()) -> Study:
    """The study that a TOML file describes. Errors: StudyError naming the file and the place.

    ``scale`` names one of the file's ``[scales.NAME]`` tables, whose values replace those of the study; ``changes`` are
    "dotted.key=value", the value as TOML writes it or a bare text, and come last.
    """
    raw = read_settings(path, "a study file")
    try:
        return from_tables(raw, scale=scale, changes=changes)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


def from_tables(raw: dict[str, Any], *, scale: str | None = None, changes: Sequence[str] = ()) -> Study:
    """The study of tables as a file has them; see ``load``. Errors: StudyError naming the place in them."""
    scales = raw.pop("scales", {})
    tables = isinstance(scales, dict) and all(isinstance(one, dict) for one in scales.values())
    require(tables, "scales is no table of tables; write the values of each in [scales.NAME]")
    if scale is not None:
        require_known(scale, scales, "--scale is", "[scales.…]")
        _merge(raw, scales[scale])
    _merge(raw, read_changes(changes))
    refuse_old_bound(raw["gate"] if isinstance(raw.get("gate"), dict) else {}, "gate")
    allow(named_in(raw))
    return Study.model_validate(raw)


def _merge(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put ``changes`` over a nested table, table by table."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def read_changes(changes: Sequence[str]) -> dict[str, Any]:
    """The tables that "dotted.key=value" words give together. Errors: StudyError."""
    made: dict[str, Any] = {}
    for change in changes:
        _merge(made, _read_change(change))
    return made


def _read_change(change: str) -> dict[str, Any]:
    key, equals, value = change.partition("=")
    require(bool(equals), f"--set {change!r} has no value; write it as table.key=value")
    for written in (value, json.dumps(value)):  # as TOML writes it, else a bare text
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return parse_toml(f"{key} = {written}")
    raise StudyError(f"--set {change!r}: {key!r} is no key; write it as table.key=value")


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two studies' settings, with both values."""
    changes: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} → {after!r}")
    return changes


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A study's settings without the places of what is held by digest: the same at another place is the same study."""
    stages = {}
    for name, stage in (settings.get("stages") or {}).items():
        apart = ("path", "revisions", "places") if stage.get("digests") else ("data",) if stage.get("digest") else ()
        stages[name] = {key: value for key, value in stage.items() if key not in apart}
    return {**settings, "stages": stages}


def fit_limits(raw: Any) -> Any:
    """A study's dictionary with what ``[rollouts]`` does not say filled in for bases that are no tiny ones.

    Noted as if the study said it, so that a run tells what it was made with. Whatever is not well formed stays.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("rollouts", {}), Mapping):
        return raw
    model, models = raw.get("model", {}), raw.get("models", {})
    bases = model.get("bases", ()) if isinstance(model, Mapping) else getattr(model, "bases", ())
    kinds = set()
    for base in bases if isinstance(bases, list | tuple) else ():
        entry = models.get(base, {}) if isinstance(models, Mapping) and isinstance(base, str) else {}
        kind = entry.get("kind") if isinstance(entry, Mapping) else getattr(entry, "kind", None)
        kinds.add(kind if isinstance(kind, str) else "local" if "/" in str(base) else None)
    fitting = {key: value for kind in kinds for key, value in REAL_LIMITS.get(kind or "", {}).items()}
    return {**raw, "rollouts": {**fitting, **raw.get("rollouts", {})}} if fitting else raw


# --- files that a study names -------------------------------------------------------------------------------------


def read_attachments(raw: Any) -> Any:
    """A study's dictionary with the files that it names read. Errors: StudyError for one that cannot be read."""
    if not isinstance(raw, Mapping):
        return raw
    study = dict(raw)
    if isinstance(raw.get("judges"), Mapping):
        study["judges"] = {name: _read_judge(name, judge) for name, judge in raw["judges"].items()}
    # A suite from elsewhere has keys of its own.
    if (suite := _naming(raw, "suite", "cases")) is not None and suite.get("name") in SUITES.shipped:
        study["suite"] = _read_suite(suite)
    suite = study.get("suite")
    if isinstance(suite, Mapping) and isinstance(suite.get("name"), str) and suite["name"] in SUITES.shipped:
        study["suite"] = SUITES.find(suite["name"]).attach(suite)
    if (probes := _naming(raw, "probes", "items")) is not None and probes["items"] not in NAMED_ITEMS:
        study["probes"] = {**probes, "digest": hashlib.sha256(_read(probes["items"], "probes.items")).hexdigest()}
    if isinstance(raw.get("stages"), Mapping):
        study["stages"] = {name: _read_stage(name, stage) for name, stage in raw["stages"].items()}
    if (pairs := _naming(raw, "pairs", "source")) is not None:
        place = Path(pairs["source"])
        if (place / DATABASE).is_file():  # else it is told that no run is there, when the study's needs are looked for
            with Store(place) as store:
                study["pairs"] = {**pairs, "digest": store.digest_scores()}
    return study


def _naming(raw: Mapping[str, Any], place: str, key: str) -> Mapping[str, Any] | None:
    """A table that names something by ``key``, without the digest of what it names; None where there is none."""
    table = raw.get(place)
    if isinstance(table, Mapping) and isinstance(table.get(key), str) and table.get("digest") is None:
        return table
    return None


def _read_suite(suite: Mapping[str, Any]) -> dict[str, Any]:
    """A suite's table with the digest of its files, and as many cases as each half has at most."""
    remedy = _REMEDIES.get(suite["name"], _A_FILE)
    keys = [key for key in ("cases", "toolkits") if isinstance(suite.get(key), str)]
    texts = [_read(suite[key], f"suite.{key}", remedy) for key in keys]
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


def _read_stage(name: str, stage: Any) -> Any:
    """A stage's table with the digest of the file that it learns from, or of what was trained elsewhere."""
    if not isinstance(stage, Mapping) or stage.get("method", "dpo") not in METHODS.shipped or stage.get("digest"):
        return stage
    if stage.get("method") == EXTERNAL:
        return read_external(name, stage)
    data = stage.get("data")
    if not isinstance(data, str) or data in NAMED_DATA:
        return stage
    return {**stage, "digest": hashlib.sha256(_read(data, f"stages.{name}.data", most=DATA_BYTES)).hexdigest()}


def _read_judge(name: str, judge: Any) -> Any:
    if not isinstance(judge, Mapping):
        return judge
    read = dict(judge)
    rubrics, rules = judge.get("rubrics"), judge.get("rules")
    if isinstance(rubrics, Mapping):
        read["rubrics"] = dict(rubrics)
        for objective, text in rubrics.items():
            if isinstance(text, str) and text.endswith(".md"):
                place = f"judges.{name}.rubrics.{objective}"
                read["rubrics"][objective] = decode_utf8(f"{place}: {text}", _read(text, place))
    if isinstance(rules, str):
        read["rules"] = read_settings(rules, "a file of rules", subject=f"judges.{name}.rules: {rules}")
    return read


def _read(path: str, place: str, remedy: str = _A_FILE, most: int = MOST_BYTES) -> bytes:
    return read_bytes(path, most, subject=f"{place}: {path}", remedy=remedy)
