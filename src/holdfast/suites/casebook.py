"""All cases of a study by part: those to train on, the held-out ones, and what checkpoints meet beside them.

A case that is made of another says so in ``facts["variant"]``: its ``kind`` (attack, twin, control or shift), the
``form``, and ``of``, the id of the case that it is made of. No part shares a case with another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.study.conditions import AttackSection, PartSection, ProbeSection, ShiftSection
from holdfast.study.sections import SuiteSection
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL, PRACTICE
from holdfast.suites import approval, attacks, probes, split_cases
from holdfast.suites.reserves import add_reserves

# Part of a split → the study's table that asks for it.
PARTS: Mapping[str, str] = {"attack": "attacks", "shift": "shifts", "probe": "probes", APPROVAL: "approval"}


def collect_cases(study: Study, split_seed: int) -> dict[str, list[Case]]:
    """The study's cases of a split, by part. Errors: StudyError."""
    parts = split_cases(study.suite, split_seed)
    beside = {
        part: make(section, parts["test"], _has_tiny(study))
        for part, make in _MAKERS.items()
        if (section := getattr(study, PARTS[part])) is not None
    }
    if study.approval is not None:
        approval.check_approval(study.approval, tiny=_has_tiny(study))
        beside[APPROVAL] = approval.paired_cases(study.approval, split_seed)
        beside[PRACTICE] = approval.practice_cases(study.approval, split_seed)
    return {**add_reserves(study, split_seed, parts), **beside}


def check_parts(study: Study) -> None:
    """Raise StudyError for a form or a kind that there is not, or that a tiny base does not know."""
    if study.attacks is not None:
        attacks.check_forms(study.attacks, study.suite.name, tiny=_has_tiny(study))
    if study.shifts is not None:
        attacks.check_kinds(study.shifts, study.suite.name, tiny=_has_tiny(study))
    if study.probes is not None:
        probes.check_probes(study.probes, tiny=_has_tiny(study))
    if study.approval is not None:
        approval.check_approval(study.approval, tiny=_has_tiny(study))


def count_cases(study: Study, part: str, split_seed: int | None = None) -> int:
    """How many cases a part beside train and test has in a split; 0 where the suite's files cannot be read.

    Errors: StudyError as in ``check_parts``, and for a named form or kind that no case can take.
    """
    section = getattr(study, PARTS[APPROVAL if part == PRACTICE else part])
    if section is None:
        return 0
    check_parts(study)
    if part in (PRACTICE, APPROVAL):
        return approval.count_practice(section) if part == PRACTICE else approval.count_paired(section)
    seed = study.suite.split_seed if split_seed is None else split_seed
    return _count(study.suite.model_dump_json(), section.model_dump_json(), part, seed, _has_tiny(study))


@lru_cache(maxsize=256)
def _count(suite: str, section: str, part: str, split_seed: int, tiny: bool) -> int:
    if part == "probe":
        return probes.count_probes(ProbeSection.model_validate_json(section))
    try:
        cases = split_cases(SuiteSection.model_validate_json(suite), split_seed)["test"]
    except StudyError:
        return 0
    return len(_MAKERS[part](_SECTIONS[part].model_validate_json(section), cases, tiny))


def _has_tiny(study: Study) -> bool:
    return any(study.entry(base).kind == "tiny" for base in study.model.bases)


def _make_attacks(section: AttackSection, cases: list[Case], tiny: bool) -> list[Case]:
    return attacks.attack_cases(cases, section, tiny=tiny)


def _make_shifts(section: ShiftSection, cases: list[Case], tiny: bool) -> list[Case]:
    return attacks.shift_cases(cases, section, tiny=tiny)


def _make_probes(section: ProbeSection, cases: list[Case], tiny: bool) -> list[Case]:
    return probes.collect_beside(section, cases)


# Part → its table, and how its cases are made of that, the held-out cases, and whether a base is tiny.
_SECTIONS: Mapping[str, type[PartSection]] = {"attack": AttackSection, "shift": ShiftSection}
_MAKERS: Mapping[str, Callable[[Any, list[Case], bool], list[Case]]] = {
    "attack": _make_attacks,
    "shift": _make_shifts,
    "probe": _make_probes,
}
