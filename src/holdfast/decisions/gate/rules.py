"""What is declared before the data: the rules of a gate, where they come from, and their fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from holdfast.records import content_id
from holdfast.records.errors import StudyError, require_known
from holdfast.records.extensions import allow
from holdfast.records.inputs import read_settings
from holdfast.study.kinds import named_in
from holdfast.study.problems import first_problem
from holdfast.study.rules import GateSection, check_rules, refuse_old_bound
from holdfast.study.study import Study

# Raised by hand when a check or a bound changes its meaning: verdicts of different methods are not the same claim.
METHOD_VERSION = 4
TABLE = "gate"


def read_rules(
    *, file: Path | None = None, noted: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> GateSection:
    """The declared rules: those of ``file`` (TOML, perhaps a whole study), else those ``noted`` in a run's study, else
    the defaults.

    ``changes`` are single settings of the command line, which come last. Errors: StudyError naming place and finding.
    """
    source = "gate"
    declared: dict[str, Any] = dict(noted or {})
    if file is not None:
        source, raw = f"{file}: gate", read_settings(file, "a TOML file with a [gate] table")
        for name in raw:
            require_known(name, {*Study.model_fields, "scales"}, f"{file} has the table", "the tables of a study")
        if not isinstance(raw.get(TABLE), dict):
            raise StudyError(f"{file}: has no [gate] table; write the margins there")
        refuse_old_bound(raw[TABLE], f"{file}: {TABLE}")
        allow(named_in(raw))
        declared = dict(raw[TABLE])
    declared |= {key: value for key, value in (changes or {}).items() if value is not None}
    try:
        rules = GateSection.model_validate(declared)
    except ValidationError as error:
        raise StudyError(f"{source}.{first_problem(error, GateSection)}") from error
    check_rules(rules, source)
    return rules


def fingerprint(rules: GateSection, **chosen: Any) -> str:
    """The id of what was declared: equal for equal rules and one version of the method.

    ``chosen`` is what else decides which episodes are compared, and could be tried until it suits; None is no choice.
    """
    made = {name: value for name, value in chosen.items() if value is not None}
    if own := rules.own_kinds():
        made["checks"] = {kind.name: [kind.version, kind.unit, kind.worse, margin] for kind, margin in own}
    return content_id("gate", METHOD_VERSION, rules.model_dump(mode="json"), made)
