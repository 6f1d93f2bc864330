"""Where cases come from. A suite gives the cases of a split, the world that answers in them, and their words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.rollout.worlds import World
from holdfast.study.sections import SuiteSection

SUITES = ("office", "toolemu", "probes", "approval")
# Case numbers of two splits of generated cases do not meet: each split's numbers start at a multiple of this.
NUMBERS_PER_SPLIT = 10_000_000
_WORLDS: Mapping[str, str] = {"office": "own", "toolemu": "emulated", "probes": "own", "approval": "own"}
_WHY: Mapping[str, str] = {
    "office": 'its tools are executed; remove suite.world or give kind "own"',
    "probes": "its questions have no tools; remove suite.world",
    "approval": 'its tools are executed; remove suite.world or give kind "own"',
    "toolemu": 'a model plays its tools; give suite.world = { kind = "emulated", model = "…" }',
}


def is_harmless(case: Case) -> bool | None:
    """Whether nothing in a case can do harm, by its hazards, else by its word; None where it says neither."""
    hazards, benign = case.facts.get("hazards"), case.facts.get("benign")
    if isinstance(hazards, list | tuple) and hazards:
        return not any(hazards)
    return benign if isinstance(benign, bool) else None


def check_suite(suite: SuiteSection) -> None:
    """Raise StudyError for a suite that there is not, a world that it does not take place in, or unusable files."""
    from holdfast.suites import office

    _check_world(suite)
    if suite.mixture:
        office.check_mixture(suite.mixture)
    if suite.name == "toolemu":
        _load(suite)
        return
    if suite.name == "probes":
        from holdfast.suites import probes

        probes.check_suite(suite)
        return
    for key in ("cases", "toolkits", "source"):
        if (path := getattr(suite, key)) is not None:
            finding = f"suite.{key} is {path!r}, but suite.name is {suite.name!r}"
            raise StudyError(f"{finding}, whose cases are drawn; remove it")


def split_cases(suite: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    """The ``train`` and ``test`` cases of a split, equal wherever they are made.

    Every split of ToolEmu's cases holds the same ones in other halves; each split of the office has its own. The suite
    "approval" has neither: its cases are those of ``[approval]``, which stand beside those of any suite.
    """
    check_suite(suite)
    if suite.name == "toolemu":
        return _halve_toolemu(suite, split_seed)
    if suite.name == "probes":
        from holdfast.suites import probes

        return {"train": [], "test": probes.draw_suite(suite)}
    if suite.name == "approval":
        return {"train": [], "test": []}
    return _draw_office(suite, split_seed)


def open_world(suite: SuiteSection) -> World:
    """The world in which a suite's cases take place; the suite's files are not needed."""
    from holdfast.rollout.worlds.approval import ApprovalWorld
    from holdfast.rollout.worlds.emulated import EmulatedWorld
    from holdfast.rollout.worlds.office import OfficeWorld
    from holdfast.rollout.worlds.silent import SilentWorld

    _check_world(suite)
    if suite.name == "probes":
        return SilentWorld()
    if suite.name == "approval":
        return ApprovalWorld()
    world = suite.world
    if world.kind == "emulated":
        return EmulatedWorld(mode=world.mode, temperature=world.temperature, max_tokens=world.max_tokens)
    return OfficeWorld()


def _check_world(suite: SuiteSection) -> None:
    if suite.name not in SUITES:
        raise StudyError(f"suite.name is {suite.name!r}; suites that can be run here: {', '.join(SUITES)}")
    if suite.world.kind != _WORLDS[suite.name]:
        finding = f"suite.world.kind is {suite.world.kind!r} for the suite {suite.name!r}"
        raise StudyError(f"{finding}: {_WHY[suite.name]}")


def _load(suite: SuiteSection) -> tuple[Case, ...]:
    from holdfast.suites.toolemu import load_cases

    for key, path in (("cases", suite.cases), ("toolkits", suite.toolkits)):
        if path is None:
            raise StudyError(f"suite.{key} is missing; give the path of ToolEmu's {key} in JSON")
    if suite.holdout != "objects":
        raise StudyError(
            f"suite.holdout is {suite.holdout!r} for the suite 'toolemu', which is split by case; remove it"
        )
    cases = load_cases(str(suite.cases), str(suite.toolkits), suite.digest)
    if len(cases) < 2:
        raise StudyError(f"{suite.cases}: one case cannot be split; give at least two")
    return cases


def _halve_toolemu(suite: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    from holdfast.suites.toolemu import SHARED_SEED, halve

    cases = _load(suite)
    if suite.split == "none":
        return {"train": [], "test": list(cases[: suite.test_cases])}
    seed = split_seed if suite.split == "published" else SHARED_SEED
    train, test = halve(len(cases), seed, train=suite.train_cases, test=suite.test_cases)
    return {"train": [cases[number] for number in train], "test": [cases[number] for number in test]}


def _draw_office(suite: SuiteSection, split_seed: int) -> Mapping[str, list[Case]]:
    from holdfast.suites import office

    parts: dict[str, list[Case]] = {}
    counts: dict[office.Part, int] = {"train": suite.train_cases, "test": suite.test_cases}
    for part, count in counts.items():
        cases = office.generate(split_seed, count, part=part, holdout=suite.holdout, split_seed=split_seed)
        shift = split_seed * NUMBERS_PER_SPLIT
        parts[part] = [replace(case, number=case.number + shift) for case in cases]
    return parts
