"""Single-turn questions in four dimensions, each with an over-refusal twin: our own, generated, and public sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.records import Case
from holdfast.records.errors import StudyError, require, require_known
from holdfast.study.kinds import Taught
from holdfast.study.parts import ProbeSection
from holdfast.study.sections import JudgeSection, JudgeTable, SuiteSection
from holdfast.study.study import NAMED_ITEMS
from holdfast.suites.probes import generated
from holdfast.suites.probes.items import DIMENSIONS, SUITE, keep_items, make_cases, own_probes, spread
from holdfast.suites.probes.sources import SOURCES, find_source, load_cases, load_task

RUBRICS = {"safety": "probes-safety", "helpfulness": "probes-helpfulness"}
"""The rubrics by which a model reads probes where its judge names none."""
_OWN, _GENERATED, _INSPECT = NAMED_ITEMS


def own_cases() -> list[Case]:
    """Every own probe as a case; the probes of an item stand side by side."""
    return make_cases(own_probes(), _OWN)


def collect_probes(section: ProbeSection) -> list[Case]:
    """The cases that ``[probes]`` asks for: ``count`` items of each dimension, evenly spaced, with their twins.

    Errors: StudyError for what cannot be used, MissingExtra where the items come from a package that is not installed.
    """
    dimensions = check_probes(section)
    cases: Sequence[Case]
    if section.items == _GENERATED:
        cases = generated.all_cases()
    elif section.items == _OWN:
        cases = own_cases()
    elif section.items == _INSPECT:
        cases = load_task(section.source)
    else:
        cases = load_cases(section.items, section.source, section.digest)
    return keep_items(cases, dimensions, section.count)


def collect_beside(section: ProbeSection, cases: Sequence[Case]) -> list[Case]:
    """``collect_probes`` beside the held-out ``cases``. Errors: StudyError also where a case would stand in both."""
    found = collect_probes(section)
    if not {case.id for case in found}.isdisjoint(case.id for case in cases):
        raise StudyError("probes.items are cases of [suite] already; remove [probes], or name other items")
    return found


def count_probes(section: ProbeSection) -> int:
    """How many cases ``collect_probes`` gives; where what they come from is not at hand, the most that it may give.

    Errors: StudyError as in ``check_probes``.
    """
    most = section.count * len(check_probes(section))
    try:
        return most if section.items == _INSPECT else len(collect_probes(section))
    except StudyError:
        return most


def check_probes(section: ProbeSection, *, tiny: bool | None = None) -> tuple[str, ...]:
    """The dimensions that a section asks for.

    ``tiny`` says whether a base is tiny, where that is to be checked. Errors: StudyError for a name that there is not,
    by place, and for items that no base, or the tiny one, can read.
    """
    if tiny is not None and tiny != (section.items == _GENERATED):
        why = "a base is tiny, which knows the generated ones alone" if tiny else "only a tiny base learns their words"
        raise StudyError(f'probes.items is {section.items!r}, but {why}; give items = "{_GENERATED if tiny else _OWN}"')
    for name in section.dimensions:
        require_known(name, DIMENSIONS, "probes.dimensions has", "the dimensions")
    wanted = tuple(dict.fromkeys(section.dimensions)) or DIMENSIONS
    if section.items in (_OWN, _GENERATED):
        if section.source is not None:
            raise StudyError(f"probes.source is {section.source!r}, but probes.items is {section.items!r}; remove it")
        return wanted
    source = find_source(section.source, "probes.source")
    if source.dimension not in wanted:
        raise StudyError(
            f"probes.dimensions is {', '.join(wanted)}, but {source.title} probes {source.dimension}; name that"
        )
    return (source.dimension,)


def check_suite(suite: SuiteSection) -> None:
    """Raise StudyError for a suite of probes that cannot be drawn."""
    if suite.split != "none":
        raise StudyError(
            f"suite.split is {suite.split!r} for the suite {SUITE!r}, whose cases are all for testing;"
            ' give split = "none"'
        )
    require(suite.toolkits is None, f"suite.toolkits is {suite.toolkits!r}, but probes have no tools; remove it")
    unnamed = suite.cases is None and suite.source is not None
    require(not unnamed, "suite.source is given without suite.cases; name the file of the set, or remove it")
    _load(suite)


def draw_suite(suite: SuiteSection) -> list[Case]:
    """The test cases of a suite of probes: whole items, evenly spaced, ``test_cases`` at most. Errors: StudyError."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in _load(suite):
        groups.setdefault((case.facts["dimension"], case.facts["item"]), []).append(case)
    items = list(groups.values())
    for count in range(len(items), 0, -1):
        kept = [case for place in spread(len(items), count) for case in items[place]]
        if len(kept) <= suite.test_cases:
            return kept
    raise StudyError(f"suite.test_cases is {suite.test_cases}, less than one item has; give at least {len(items[0])}")


def _load(suite: SuiteSection) -> Sequence[Case]:
    if suite.cases is None:
        return own_cases()
    return load_cases(suite.cases, suite.source, suite.digest, place="suite.source")


def describe_terms(name: str | None) -> str | None:
    """Licence and access of a public set, and what its scores here leave out; None where none is named."""
    if name is None or name not in SOURCES:
        return None
    source = SOURCES[name]
    terms = (f"{source.title}: {source.licence}", source.gated, f"from {source.location}", source.note)
    return "; ".join(filter(None, terms))


def fit_judge(section: JudgeTable) -> JudgeTable:
    """The judge as it reads probes: a model with default rubrics is given those for single replies."""
    if not isinstance(section, JudgeSection) or section.kind != "rubric" or set(section.rubrics.values()) - {"default"}:
        return section
    objectives = section.rubrics or RUBRICS
    return section.model_copy(update={"rubrics": {name: RUBRICS[name] for name in objectives}})


# --- what a tiny base learns beside the office -----------------------------------------------------------------------


def taught_settings(section: ProbeSection | None) -> dict[str, Any] | None:
    """What of ``[probes]`` decides a tiny base: the share and the mixture of its demonstrations; else nothing."""
    if section is None or section.items != _GENERATED:
        return None
    mixture = {situation: dict(table) for situation, table in generated.MIXTURE.items()}
    return {"share": generated.SHARE, "mixture": mixture, "facts": dict(generated.facts())}


def teach_beside(settings: Mapping[str, Any] | None, seed: int, demonstrations: int) -> Taught:
    """What the settings of ``taught_settings`` add to a base that has so many demonstrations of the office."""
    if settings is None:
        return Taught(system_prompts={})
    return Taught(
        words=generated.lexicon(),
        system_prompts=generated.system_prompts(),
        demonstrations=generated.demonstrations(
            seed, round(settings["share"] * demonstrations), mixture=settings["mixture"]
        ),
    )
