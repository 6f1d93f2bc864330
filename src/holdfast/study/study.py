"""What is asked: a study file in TOML, or ``Study(...)`` in Python, validated before anything is spent.

Unknown keys are errors that name the nearest known key. ``load`` reads a file, ``Study.model_validate`` a
dictionary; both raise StudyError with one line that says where, what was found and what to do.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from holdfast.records.errors import StudyError, require, require_known
from holdfast.records.extensions import allow
from holdfast.records.inputs import parse_toml, read_settings
from holdfast.study.checks import check_study
from holdfast.study.files import read_attachments
from holdfast.study.kinds import named_in
from holdfast.study.problems import first_problem
from holdfast.study.rules import refuse_old_bound
from holdfast.study.tables import Tables


class Study(Tables):
    """A whole study whose tables fit together; see ``Tables`` for what each of them says."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A study from a dictionary. Errors: StudyError."""
        try:
            return super().model_validate(read_attachments(obj), **options)
        except ValidationError as error:
            raise StudyError(first_problem(error, cls, obj)) from error

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        """Every name that the study uses is a name that it defines, and its settings fit together."""
        check_study(self)
        return self


def load(path: Path | str, *, scale: str | None = None, changes: Sequence[str] = ()) -> Study:
    """The study that a TOML file describes. Errors: StudyError naming the file and the place.

    ``scale`` names one of the file's ``[scales.NAME]`` tables, whose values replace those of the study; ``changes`` are
    "dotted.key=value", the value as TOML writes it or a bare text, and come last.
    """
    raw = read_settings(path, "a study file")
    try:
        scales = raw.pop("scales", {})
        tables = isinstance(scales, dict) and all(isinstance(one, dict) for one in scales.values())
        require(tables, "scales is no table of tables; write the values of each in [scales.NAME]")
        if scale is not None:
            require_known(scale, scales, "--scale is", "[scales.…]")
            _merge(raw, scales[scale])
        for change in changes:
            _merge(raw, _read_change(change))
        refuse_old_bound(raw["gate"] if isinstance(raw.get("gate"), dict) else {}, "gate")
        allow(named_in(raw))
        return Study.model_validate(raw)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


def _merge(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put ``changes`` over a nested table, table by table."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def _read_change(change: str) -> dict[str, Any]:
    key, found, value = change.partition("=")
    try:
        if not found:
            raise StudyError(f"--set {change!r} has no value; write it as table.key=value")
        return parse_toml(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        pass
    try:
        return parse_toml(f"{key} = {json.dumps(value)}")
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"--set {change!r}: {key!r} is no key; write it as table.key=value") from error


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
