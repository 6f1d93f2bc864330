"""Studies that tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.runs.plan.settings import RolloutSettings
from holdfast.runs.plan.step import Step

HUGE = "1" + "0" * 400  # a number beyond every bound
# A study of one stage, and a file of one judge by rules, as text.
SHORT = """\
[study]
name = "x"
lineages = [["S"]]
[judges.state]
kind = "state"
[stages.S]
objective = "safety"
"""
RULES = """
[judges.rules]
kind = "rules"
[[judges.rules.rules.safety]]
when = { flags = ["no_call"] }
value = 3
[[judges.rules.rules.safety]]
value = 1
[[judges.rules.rules.helpfulness]]
value = 2
"""


def four_lineages() -> dict[str, Any]:
    """The smallest study in which persistence is defined."""
    return {
        "study": {"name": "four", "lineages": [["S"], ["H"], ["S", "H"], ["H", "S"]]},
        "judges": {"state": {"kind": "state"}},
        "stages": {"S": {"objective": "safety"}, "H": {"objective": "helpfulness"}},
    }


def part_of(step: Step) -> str | None:
    """The part of the cases that a rollout step is of; None for another kind of step."""
    return step.settings.part if isinstance(step.settings, RolloutSettings) else None


def changed(study: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The study itself with other values at some paths of keys (``"stages/S/beta"``); None removes what is there."""
    for place, value in changes.items():
        *tables, key = place.split("/")
        table = study
        for name in tables:
            table = table.setdefault(name, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    return study
