"""Where cases come from. A suite gives the cases of a split, the world that answers in them, and their words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from holdfast.errors import StudyError
from holdfast.records import Case
from holdfast.sections import SuiteSection
from holdfast.worlds import World

SUITES = ("office",)
# Case numbers of two splits do not meet: each split's numbers start at a multiple of this.
NUMBERS_PER_SPLIT = 10_000_000


def check_suite(suite: SuiteSection) -> None:
    """Raise StudyError for a suite that does not exist or a mixture that cannot be drawn from."""
    from holdfast.suites import office

    if suite.name not in SUITES:
        raise StudyError(f"suite.name is {suite.name!r}; suites that can be run here: {', '.join(SUITES)}")
    if suite.mixture:
        office.check_mixture(suite.mixture)


def split_cases(suite: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    """The train and test cases of a split, equal wherever they are made."""
    from holdfast.suites import office

    check_suite(suite)
    parts: dict[str, list[Case]] = {}
    counts: dict[office.Part, int] = {"train": suite.train_cases, "test": suite.test_cases}
    for part, count in counts.items():
        cases = office.generate(split_seed, count, part=part, holdout=suite.holdout, split_seed=split_seed)
        shift = split_seed * NUMBERS_PER_SPLIT
        parts[part] = [replace(case, number=case.number + shift) for case in cases]
    return parts


def open_world(suite: SuiteSection) -> World:
    """The world in which a suite's cases take place."""
    from holdfast.worlds.office import OfficeWorld

    check_suite(suite)
    return OfficeWorld()
