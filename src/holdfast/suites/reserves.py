"""Cases kept apart from those to train on and the held-out ones: what a balance is measured on, and fresh ones.

    tune     no pairs are made of them; a stage with a ``balance`` is scored on them while it trains
    fresh    nobody has met them when ``run --search`` has chosen; the winner is held to them

Generated cases are drawn anew from the same objects: those of the train cases for "tune", the held-out ones for
"fresh". Of ToolEmu, which has no more cases, "tune" is taken out of the train half, and nothing is fresh.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.study.study import Study
from holdfast.suites import NUMBERS_PER_SPLIT

if TYPE_CHECKING:
    from holdfast.suites import office

TUNE, FRESH = "tune", "fresh"
Reserve = Literal["tune", "fresh"]
# A draw of its own by part: which part of the suite it is like, a seed's offset, and where its case numbers start.
_DRAWS: Mapping[Reserve, tuple[office.Part, int, int]] = {
    "tune": ("train", 1_000_003, 7_000_000),
    "fresh": ("test", 2_000_003, 8_000_000),
}


def count_tuning(study: Study) -> int:
    """How many cases a split keeps for balances: as many as the stage that asks for most of them."""
    return max((stage.balance.cases for stage in study.pair_stages if stage.balance is not None), default=0)


def count_fresh(study: Study) -> int:
    """How many fresh cases a split has for a search's winner: as many as held-out ones, none for ToolEmu's."""
    return study.suite.test_cases if study.search is not None and study.suite.name == "office" else 0


def add_reserves(study: Study, split_seed: int, parts: Mapping[str, list[Case]]) -> dict[str, list[Case]]:
    """The parts of a split with the reserves that the study asks for. Errors: StudyError where cases run out."""
    found = dict(parts)
    tuning, fresh = count_tuning(study), count_fresh(study)
    if tuning and study.suite.name == "office":
        found[TUNE] = _draw(study, split_seed, "tune", tuning, found["train"])
    elif tuning:
        train = found["train"]
        if tuning >= len(train):
            raise StudyError(
                f"balance.cases is {tuning}, but the split has {len(train)} cases to train on; ask for fewer"
            )
        found |= {"train": train[tuning:], TUNE: train[:tuning]}
    if fresh:
        found[FRESH] = _draw(study, split_seed, "fresh", fresh, found["test"])
    return found


def _draw(study: Study, split_seed: int, reserve: Reserve, count: int, others: Iterable[Case]) -> list[Case]:
    """So many cases of another draw that are none of ``others``."""
    from holdfast.suites import office

    part, offset, start = _DRAWS[reserve]
    known = {case.id for case in others}
    asked, kept = count, list[Case]()
    while len(kept) < count:
        drawn = office.generate(
            offset + split_seed, asked, part=part, holdout=study.suite.holdout, split_seed=split_seed
        )
        kept = list(_whole_twins(drawn, known, count))
        asked += count
    shift = split_seed * NUMBERS_PER_SPLIT + start
    return [replace(case, number=shift + place) for place, case in enumerate(kept)]


def _whole_twins(drawn: Iterable[Case], known: Collection[str], count: int) -> Iterator[Case]:
    """The first ``count`` cases that are not known; a case and its twin come together or not at all."""
    left, half = count, None
    for case in drawn:
        twin = case.facts.get("twin")
        if half is not None:
            if not {half.id, case.id} & set(known) and left >= 2:
                yield from (half, case)
                left -= 2
            half = None
        elif twin is not None:
            half = case
        elif case.id not in known and left >= 1:
            yield case
            left -= 1
