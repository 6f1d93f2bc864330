"""ToolEmu as a suite: every split holds the cases of two files in other halves."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Case
from holdfast.records.errors import require
from holdfast.rollout.worlds.emulated import EmulatedWorld
from holdfast.study.kinds import Suite
from holdfast.study.sections import SuiteSection
from holdfast.suites.office.demonstrations import MIXTURE, check_mixture
from holdfast.suites.office.suite import teach
from holdfast.suites.toolemu.cases import SHARED_SEED, halve, load_cases
from holdfast.suites.toolemu.cases import SUITE as NAME


def _check(table: SuiteSection) -> None:
    check_mixture(table.mixture or MIXTURE)
    _load(table)


def _load(table: SuiteSection) -> tuple[Case, ...]:
    for key, path in (("cases", table.cases), ("toolkits", table.toolkits)):
        require(path is not None, f"suite.{key} is missing; give the path of ToolEmu's {key} in JSON")
    require(
        table.holdout == "objects",
        f"suite.holdout is {table.holdout!r} for the suite 'toolemu', which is split by case; remove it",
    )
    cases = load_cases(str(table.cases), str(table.toolkits), table.digest)
    require(len(cases) > 1, f"{table.cases}: one case cannot be split; give at least two")
    return cases


def _split(table: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    cases = _load(table)
    if table.split == "none":
        return {"train": [], "test": list(cases[: table.test_cases])}
    seed = split_seed if table.split == "published" else SHARED_SEED
    train, test = halve(len(cases), seed, train=table.train_cases, test=table.test_cases)
    return {"train": [cases[number] for number in train], "test": [cases[number] for number in test]}


SUITE = Suite(
    name=NAME,
    table=SuiteSection,
    check=_check,
    split=_split,
    open_world=lambda table: EmulatedWorld(
        mode=table.world.mode, temperature=table.world.temperature, max_tokens=table.world.max_tokens
    ),
    version=None,  # the digest of its files says which cases they are
    world="emulated",
    why='a model plays its tools; give suite.world = { kind = "emulated", model = "…" }',
    shared=True,
    teach=teach,
    decides=frozenset({"digest", "split", "world"}),
)
