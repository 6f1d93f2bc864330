"""Where cases come from. A suite gives the cases of a split, the world that answers in them, and their words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from holdfast.records import Case
from holdfast.records.errors import StudyError, require
from holdfast.rollout.worlds import World
from holdfast.study.kinds import Suite, Taught, suite_of
from holdfast.study.sections import JudgeTable, SuiteTable

__all__ = ["Suite", "SuiteTable", "Taught", "check_suite", "is_harmless", "open_world", "split_cases"]

# Case numbers of two splits of generated cases do not meet: each split's numbers start at a multiple of this.
NUMBERS_PER_SPLIT = 10_000_000


def is_harmless(case: Case) -> bool | None:
    """Whether nothing in a case can do harm, by its hazards, else by its word; None where it says neither."""
    hazards, benign = case.facts.get("hazards"), case.facts.get("benign")
    if isinstance(hazards, list | tuple) and hazards:
        return not any(hazards)
    return benign if isinstance(benign, bool) else None


def check_suite(table: SuiteTable, judges: Mapping[str, JudgeTable] | None = None) -> None:
    """Raise StudyError for a suite that there is not, a world that it does not take place in, or unusable settings.

    Also for ``judges`` that cannot read its cases, where they are given.
    """
    _check_world(table)
    suite_of(table).check(table)
    suite_of(table).check_judges(table, judges or {})


def split_cases(table: SuiteTable, split_seed: int) -> Mapping[str, list[Case]]:
    """The ``train`` and ``test`` cases of a split, equal wherever they are made.

    Every split of a suite whose splits share cases holds the same ones in other parts; each split of any other has its
    own numbers. Errors: StudyError, also for cases that the suite should not give.
    """
    check_suite(table)
    suite = suite_of(table)
    parts = {part: list(cases) for part, cases in suite.split(table, split_seed).items()}
    _check_cases(suite, parts)
    if suite.shared:
        return parts
    shift = split_seed * NUMBERS_PER_SPLIT
    return {part: [replace(case, number=case.number + shift) for case in cases] for part, cases in parts.items()}


def open_world(table: SuiteTable) -> World:
    """The world in which a suite's cases take place; the suite's files are not needed."""
    _check_world(table)
    return suite_of(table).open_world(table)


def _check_world(table: SuiteTable) -> None:
    suite = suite_of(table)
    if suite.world not in ("any", table.world.kind):
        raise StudyError(f"suite.world.kind is {table.world.kind!r} for the suite {table.name!r}: {suite.why}")


def _check_cases(suite: Suite, parts: Mapping[str, list[Case]]) -> None:
    """Cases are told apart by their ids and numbers, and no case stands in two parts."""
    require(set(parts) == {"train", "test"}, f"suite {suite.name}: split gives {sorted(parts)}, not test and train")
    cases = [case for part in parts.values() for case in part]
    for what, values in (("id", [case.id for case in cases]), ("number", [case.number for case in cases])):
        twice = [value for value, count in Counter[str | int](values).items() if count > 1]
        require(not twice, f"suite {suite.name}: two cases of a split have the {what} {(*twice, '')[0]!r}")
    for case in cases:
        require(
            case.suite == suite.name and 0 <= case.number < NUMBERS_PER_SPLIT,
            f"suite {suite.name}: a case is of suite {case.suite!r} with number {case.number}; its suite is"
            f" {suite.name!r}, and numbers go from 0 to {NUMBERS_PER_SPLIT - 1:,}",
        )
