"""Cases under pressure, and cases changed in what should not matter; each made of a held-out case by one template.

A case that is made of another has an id and a number of its own, and says in ``facts["variant"]`` what it is:

    attack    a hazardous case under a form of pressure
    twin      a harmless case under the same form
    control   the case as it is, met again: differences to it use other episodes than those of the held-out cases
    shift     a case that differs in what should not matter

The office has forms and shifts of its own, in words that the tiny model knows; see ``suites.office.pressure``. They
stand before ours of the same name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.records import Case, content_id
from holdfast.records.errors import StudyError
from holdfast.records.section import MOST_CASES
from holdfast.study.parts import AttackSection, ShiftSection
from holdfast.suites import NUMBERS_PER_SPLIT, is_harmless
from holdfast.suites.attacks.forms import FORMS
from holdfast.suites.attacks.shifts import SHIFTS
from holdfast.suites.office import pressure

OFFICE = "office"
CLEAN = "clean"  # the form of a case as it is
# Within the numbers of a split, above those of its train, test and demonstration cases.
_FIRST_NUMBER = 2_000_000
_FOR_TINY = ", with a tiny base, which knows few words,"
_SHIFT_SLOT = 40  # of the blocks of MOST_CASES numbers, the first that holds shifts


def is_hazardous(case: Case) -> bool:
    """Whether a case has something to fear; ToolEmu's all do, as do others that do not declare themselves harmless."""
    return is_harmless(case) is not True


def forms_for(suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The forms that cases of a suite can take; for ``tiny`` models only those that their demonstrations hold."""
    if suite != OFFICE:
        return tuple(FORMS)
    own = tuple(pressure.FORMS)
    # Planting a text beside results is the emulated world's; the office's own form writes into its findings.
    return own if tiny else (*own, *(name for name in FORMS if name not in (*own, "injected_result")))


def kinds_for(suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The kinds of shift that cases of a suite can take; for ``tiny`` models only those in words that they know."""
    if suite != OFFICE:
        return tuple(SHIFTS)
    own = tuple(pressure.SHIFTS)
    return own if tiny else (*own, *(name for name in SHIFTS if name not in own))


def apply(case: Case, form: str) -> Case | None:
    """The case under a form of pressure, or None where it cannot take it.

    Id, number and facts are those of the case. Errors: StudyError for a form that there is not.
    """
    _require_known(form, forms_for(case.suite), "a form of pressure is")
    if case.suite == OFFICE and form in pressure.FORMS:
        return pressure.press(case, form)
    return FORMS[form].write(case)


def shift(case: Case, kind: str) -> Case | None:
    """The case changed in what should not matter, or None where it cannot be.

    Id and number are those of the case. Errors: StudyError for a kind that there is not.
    """
    _require_known(kind, kinds_for(case.suite), "a kind of shift is")
    if case.suite == OFFICE and kind in pressure.SHIFTS:
        return pressure.shift(case, kind)
    return SHIFTS[kind](case)


def attack_cases(cases: Sequence[Case], section: AttackSection, *, tiny: bool = False) -> list[Case]:
    """The cases of the part "attack": each chosen case as it is, and under every form that it can take.

    ``section.cases`` hazardous cases and as many harmless ones are chosen by a digest of their ids, or all there are;
    a suite without harmless cases gives no twins. Errors: StudyError for a form that there is not, or a named one that
    no chosen case can take.
    """
    suite = cases[0].suite if cases else OFFICE
    forms = check_forms(section, suite, tiny=tiny)
    hazardous = _choose([case for case in cases if is_hazardous(case)], section.cases)
    harmless = _choose([case for case in cases if not is_hazardous(case)], section.cases)
    chosen = [case for case in cases if case.id in hazardous or case.id in harmless]
    found = [_stamp(case, case, "control", CLEAN, 0) for case in chosen]

    def make(case: Case, form: str) -> Iterator[Case]:
        if (pressed := apply(case, form)) is not None:
            yield _stamp(case, pressed, "attack" if case.id in hazardous else "twin", form, _slot(form))

    return found + _make_all(chosen, forms, make, named=bool(section.forms), place="attacks.forms")


def shift_cases(cases: Sequence[Case], section: ShiftSection, *, tiny: bool = False) -> list[Case]:
    """The cases of the part "shift": ``section.cases`` cases, chosen by a digest of their ids, under every kind.

    The same cases as they are stand among the held-out ones. Errors: StudyError for a kind that there is not, or a
    named one that no chosen case can take.
    """
    suite = cases[0].suite if cases else OFFICE
    kinds = check_kinds(section, suite, tiny=tiny)
    ids = _choose(cases, section.cases)
    chosen = [case for case in cases if case.id in ids]

    def make(case: Case, kind: str) -> Iterator[Case]:
        if (shifted := shift(case, kind)) is not None:
            yield _stamp(case, shifted, "shift", kind, _SHIFT_SLOT + sorted({*SHIFTS, *pressure.SHIFTS}).index(kind))

    return _make_all(chosen, kinds, make, named=bool(section.kinds), place="shifts.kinds")


def check_forms(section: AttackSection, suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The forms that a study asks for, each once; without any, all that there are. Errors: StudyError."""
    known = forms_for(suite, tiny=tiny)
    for name in section.forms:
        _require_known(name, known, f"attacks.forms{_FOR_TINY if tiny else ''} has")
    return tuple(dict.fromkeys(section.forms)) or known


def check_kinds(section: ShiftSection, suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The kinds of shift that a study asks for, each once; without any, all that there are. Errors: StudyError."""
    known = kinds_for(suite, tiny=tiny)
    for name in section.kinds:
        _require_known(name, known, f"shifts.kinds{_FOR_TINY if tiny else ''} has")
    return tuple(dict.fromkeys(section.kinds)) or known


def _require_known(name: str, known: Sequence[str], subject: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StudyError(f"{subject} {name!r}, which cannot be used here; use some of {', '.join(known)}{hint}")


def _choose(cases: Iterable[Case], count: int) -> set[str]:
    """Ids of ``count`` cases at most; which does not depend on what else there is to draw."""
    return set(sorted((case.id for case in cases), key=lambda one: content_id("chosen", one))[:count])


def _make_all(
    cases: Sequence[Case], names: Sequence[str], make: Callable[[Case, str], Iterator[Case]], *, named: bool, place: str
) -> list[Case]:
    found: list[Case] = []
    for name in names:
        made = [variant for case in cases for variant in make(case, name)]
        if named and cases and not made:
            raise StudyError(f"{place} has {name!r}, which none of the {len(cases)} chosen cases can take; remove it")
        found += made
    return found


def _slot(form: str) -> int:
    return 1 + sorted({*FORMS, *pressure.FORMS}).index(form)


def _stamp(case: Case, made: Case, kind: str, form: str, slot: int) -> Case:
    """What was made of a case, with an id and a number of its own."""
    variant: Mapping[str, Any] = {"kind": kind, "form": form, "of": case.id}
    words = [[message.role, message.content] for message in made.messages]
    tools = [[tool.name, tool.description] for tool in made.tools]
    split = case.number - case.number % NUMBERS_PER_SPLIT
    return replace(
        made,
        id=content_id("variant", kind, form, case.id, words, tools, made.state),
        number=split + _FIRST_NUMBER + slot * MOST_CASES + case.number % MOST_CASES,
        facts={**made.facts, "variant": variant},
    )
