"""All cases of a study by part: those to train on, the held-out ones, and what checkpoints meet beside them.

A case that is made of another says so in ``facts["variant"]``: its ``kind`` (attack, twin, control or shift), the
``form``, and ``of``, the id of the case that it is made of. No part shares a case with another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from holdfast.records import Case
from holdfast.records.errors import StudyError, require
from holdfast.study.kinds import read_suite, suite_of
from holdfast.study.parts import AttackSection, PartSection, ProbeSection, ShiftSection
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL, PRACTICE, ApprovalSection
from holdfast.suites import NUMBERS_PER_SPLIT, approval, attacks, probes, split_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a split that checkpoints meet beside the held-out cases.

    ``key`` names the study's table that asks for it, which is a ``table``. ``make`` gives its cases by that table, the
    held-out cases, the split's seed, and whether a base is tiny; ``check`` raises StudyError by the table, the suite's
    name, and whether a base is tiny; ``count`` tells how many there are where that takes no cases of the suite.
    """

    key: str
    table: type[PartSection]
    make: Callable[[Any, list[Case], int, bool], list[Case]]
    check: Callable[[Any, str, bool], object]
    count: Callable[[Any], int] | None = None


PARTS: Mapping[str, Part] = {
    "attack": Part(
        key="attacks",
        table=AttackSection,
        make=lambda section, cases, _, tiny: attacks.attack_cases(cases, section, tiny=tiny),
        check=lambda section, suite, tiny: attacks.check_forms(section, suite, tiny=tiny),
    ),
    "shift": Part(
        key="shifts",
        table=ShiftSection,
        make=lambda section, cases, _, tiny: attacks.shift_cases(cases, section, tiny=tiny),
        check=lambda section, suite, tiny: attacks.check_kinds(section, suite, tiny=tiny),
    ),
    "probe": Part(
        key="probes",
        table=ProbeSection,
        make=lambda section, cases, _, tiny: probes.collect_beside(section, cases),
        check=lambda section, _, tiny: probes.check_probes(section, tiny=tiny),
        count=probes.count_probes,
    ),
    APPROVAL: Part(
        key=APPROVAL,
        table=ApprovalSection,
        make=lambda section, _, split_seed, tiny: approval.paired_cases(section, split_seed),
        check=lambda section, _, tiny: approval.check_approval(section, tiny=tiny),
        count=approval.count_paired,
    ),
}


def collect_cases(study: Study, split_seed: int) -> dict[str, list[Case]]:
    """The study's cases of a split, by part. Errors: StudyError."""
    parts = split_cases(study.suite, split_seed)
    check_parts(study)
    beside = {
        name: part.make(section, parts["test"], split_seed, _has_tiny(study))
        for name, part in PARTS.items()
        if (section := getattr(study, part.key)) is not None
    }
    if study.approval is not None:
        beside[PRACTICE] = approval.practice_cases(study.approval, split_seed)
    return {**add_reserves(study, split_seed, parts), **beside}


def check_parts(study: Study) -> None:
    """Raise StudyError for a form or a kind that there is not, or that a tiny base does not know."""
    for part in PARTS.values():
        if (section := getattr(study, part.key)) is not None:
            part.check(section, study.suite.name, _has_tiny(study))


def count_cases(study: Study, part: str, split_seed: int | None = None) -> int:
    """How many cases a part beside train and test has in a split; 0 where the suite's files cannot be read.

    Errors: StudyError as in ``check_parts``, and for a named form or kind that no case can take.
    """
    section = getattr(study, PARTS[APPROVAL if part == PRACTICE else part].key)
    if section is None:
        return 0
    check_parts(study)
    if part == PRACTICE:
        return approval.count_practice(section)
    seed = study.suite.split_seed if split_seed is None else split_seed
    return _count(study.suite.model_dump_json(), section.model_dump_json(), part, seed, _has_tiny(study))


@lru_cache(maxsize=256)
def _count(suite: str, section: str, part: str, split_seed: int, tiny: bool) -> int:
    kind = PARTS[part]
    read = kind.table.model_validate_json(section)
    if kind.count is not None:
        return kind.count(read)
    try:
        cases = split_cases(read_suite(json.loads(suite)), split_seed)["test"]
    except StudyError:
        return 0
    return len(kind.make(read, cases, split_seed, tiny))


def _has_tiny(study: Study) -> bool:
    return any(study.entry(base).kind == "tiny" for base in study.model.bases)


TUNE, FRESH = "tune", "fresh"
# A draw of its own by part: which part of the suite it is like, a seed's offset, and where its case numbers start.
_DRAWS: Mapping[str, tuple[str, int, int]] = {
    TUNE: ("train", 1_000_003, 7_000_000),
    FRESH: ("test", 2_000_003, 8_000_000),
}


def count_fresh(study: Study) -> int:
    """How many fresh cases a split has for a search's winner: as many as held-out ones, none where none are drawn."""
    return study.suite.test_cases if study.search is not None and suite_of(study.suite).reserve is not None else 0


def add_reserves(study: Study, split_seed: int, parts: Mapping[str, list[Case]]) -> dict[str, list[Case]]:
    """The parts of a split with the reserves that the study asks for. Errors: StudyError where cases run out."""
    tuning, fresh, train = study.tuning_cases, count_fresh(study), parts["train"]
    reserves: dict[str, list[Case]] = {}
    if tuning and suite_of(study.suite).reserve is not None:
        reserves[TUNE] = _draw(study, split_seed, TUNE, tuning, train)
    elif tuning:
        few = f"balance.cases is {tuning}, but the split has {len(train)} cases to train on; ask for fewer"
        require(tuning < len(train), few)
        reserves = {"train": train[tuning:], TUNE: train[:tuning]}
    if fresh:
        reserves[FRESH] = _draw(study, split_seed, FRESH, fresh, parts["test"])
    return {**parts, **reserves}


def _draw(study: Study, split_seed: int, reserve: str, count: int, others: Iterable[Case]) -> list[Case]:
    """So many cases of another draw that are none of ``others``; a case and its twin come together or not at all."""
    draw = suite_of(study.suite).reserve
    assert draw is not None
    part, offset, start = _DRAWS[reserve]
    known = {case.id for case in others}
    asked, kept = count, list[Case]()
    while len(kept) < count:
        drawn = iter(draw(study.suite, offset + split_seed, part, asked, split_seed))
        kept = []
        for case in drawn:
            twins = [case, *islice(drawn, 0 if case.facts.get("twin") is None else 1)]
            if len(kept) + len(twins) <= count and known.isdisjoint(twin.id for twin in twins):
                kept += twins
        asked += count
    shift = split_seed * NUMBERS_PER_SPLIT + start
    return [replace(case, number=shift + place) for place, case in enumerate(kept)]
