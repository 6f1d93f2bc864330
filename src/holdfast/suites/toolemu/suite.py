"""ToolEmu as a suite: every split holds the cases of two files in other halves."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.rollout.worlds import World
from holdfast.rollout.worlds.emulated import EmulatedWorld
from holdfast.study.kinds import Suite
from holdfast.study.sections import SuiteSection
from holdfast.suites.office.suite import check_mixture, teach
from holdfast.suites.toolemu.cases import SHARED_SEED, halve, load_cases
from holdfast.suites.toolemu.cases import SUITE as NAME


def _check(table: SuiteSection) -> None:
    check_mixture(table)
    _load(table)


def _load(table: SuiteSection) -> tuple[Case, ...]:
    for key, path in (("cases", table.cases), ("toolkits", table.toolkits)):
        if path is None:
            raise StudyError(f"suite.{key} is missing; give the path of ToolEmu's {key} in JSON")
    if table.holdout != "objects":
        raise StudyError(
            f"suite.holdout is {table.holdout!r} for the suite 'toolemu', which is split by case; remove it"
        )
    cases = load_cases(str(table.cases), str(table.toolkits), table.digest)
    if len(cases) < 2:
        raise StudyError(f"{table.cases}: one case cannot be split; give at least two")
    return cases


def _split(table: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    cases = _load(table)
    if table.split == "none":
        return {"train": [], "test": list(cases[: table.test_cases])}
    seed = split_seed if table.split == "published" else SHARED_SEED
    train, test = halve(len(cases), seed, train=table.train_cases, test=table.test_cases)
    return {"train": [cases[number] for number in train], "test": [cases[number] for number in test]}


def _open_world(table: SuiteSection) -> World:
    world = table.world
    return EmulatedWorld(mode=world.mode, temperature=world.temperature, max_tokens=world.max_tokens)


SUITE = Suite(
    name=NAME,
    table=SuiteSection,
    check=_check,
    split=_split,
    open_world=_open_world,
    version=None,  # the digest of its files says which cases they are
    world="emulated",
    why='a model plays its tools; give suite.world = { kind = "emulated", model = "…" }',
    shared=True,
    teach=teach,
    decides=frozenset({"digest", "split", "world"}),
)
