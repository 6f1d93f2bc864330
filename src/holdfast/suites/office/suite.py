"""The office as a suite: each split draws cases of its own."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.study.kinds import Suite, Taught
from holdfast.study.sections import SuiteSection
from holdfast.suites.office import cases, demonstrations


def check_drawn(table: SuiteSection) -> None:
    """Raise StudyError for files, which cases that are drawn do not come from, or a mixture that cannot be drawn."""
    demonstrations.check_mixture(table.mixture or demonstrations.MIXTURE)
    for key in ("cases", "toolkits", "source"):
        if (path := getattr(table, key)) is not None:
            finding = f"suite.{key} is {path!r}, but suite.name is {table.name!r}"
            raise StudyError(f"{finding}, whose cases are drawn; remove it")


def teach(table: SuiteSection, seed: int, count: int) -> Taught:
    """The words of the office, and so many demonstrations of a mixture of agents."""
    return Taught(
        words=cases.lexicon(),
        system_prompts=cases.system_prompts(),
        demonstrations=demonstrations.draw_demonstrations(seed, count, table.mixture or demonstrations.MIXTURE),
    )


def _split(table: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    counts: dict[cases.Part, int] = {"train": table.train_cases, "test": table.test_cases}
    return {part: _draw(table, split_seed, part, count, split_seed) for part, count in counts.items()}


def _draw(table: SuiteSection, seed: int, part: cases.Part, count: int, split_seed: int) -> list[Case]:
    return cases.generate(seed, count, part=part, holdout=table.holdout, split_seed=split_seed)


SUITE = Suite(
    name="office",
    table=SuiteSection,
    check=check_drawn,
    split=_split,
    open_world=lambda _: OfficeWorld(),
    version=cases.CASES_VERSION,
    reserve=_draw,
    teach=teach,
    decides=frozenset({"holdout"}),
)
