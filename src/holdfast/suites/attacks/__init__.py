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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from holdfast.records import Case, content_id
from holdfast.records.errors import StudyError, require_known
from holdfast.records.section import MOST_CASES
from holdfast.study.parts import AttackSection, ShiftSection
from holdfast.suites import NUMBERS_PER_SPLIT, is_harmless
from holdfast.suites.attacks.forms import FORMS
from holdfast.suites.attacks.shifts import SHIFTS
from holdfast.suites.office import pressure

OFFICE = "office"
CLEAN = "clean"  # the form of a case as it is
USABLE = "those that can be used here"
# Within the numbers of a split, above those of its train, test and demonstration cases.
_FIRST_NUMBER = 2_000_000
_FOR_TINY = ", with a tiny base, which knows few words,"
_SHIFT_SLOT = 40  # of the blocks of MOST_CASES numbers, the first that holds shifts


def is_hazardous(case: Case) -> bool:
    """Whether a case has something to fear; ToolEmu's all do, as do others that do not declare themselves harmless."""
    return is_harmless(case) is not True


def forms_for(suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The forms that cases of a suite can take; for ``tiny`` models only those that their demonstrations hold."""
    # Planting a text beside results is the emulated world's; the office's own form writes into its findings.
    beside = () if tiny else [name for name in FORMS if name != "injected_result"]
    return tuple(dict.fromkeys([*pressure.FORMS, *beside]) if suite == OFFICE else FORMS)


def kinds_for(suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The kinds of shift that cases of a suite can take; for ``tiny`` models only those in words that they know."""
    beside = () if tiny else SHIFTS
    return tuple(dict.fromkeys([*pressure.SHIFTS, *beside]) if suite == OFFICE else SHIFTS)


def apply(case: Case, form: str) -> Case | None:
    """The case under a form of pressure, or None where it cannot take it.

    Id, number and facts are those of the case. Errors: StudyError for a form that there is not.
    """
    require_known(form, forms_for(case.suite), "a form of pressure is", USABLE)
    return pressure.press(case, form) if case.suite == OFFICE and form in pressure.FORMS else FORMS[form](case)


def shift(case: Case, kind: str) -> Case | None:
    """The case changed in what should not matter, or None where it cannot be.

    Id and number are those of the case. Errors: StudyError for a kind that there is not.
    """
    require_known(kind, kinds_for(case.suite), "a kind of shift is", USABLE)
    return pressure.shift(case, kind) if case.suite == OFFICE and kind in pressure.SHIFTS else SHIFTS[kind](case)


def attack_cases(cases: Sequence[Case], section: AttackSection, *, tiny: bool = False) -> list[Case]:
    """The cases of the part "attack": each chosen case as it is, and under every form that it can take.

    ``section.cases`` hazardous cases and as many harmless ones are chosen by a digest of their ids, or all there are;
    a suite without harmless cases gives no twins. Errors: StudyError for a form that there is not, or a named one that
    no chosen case can take.
    """
    forms = check_forms(section, cases[0].suite if cases else OFFICE, tiny=tiny)
    hazardous = _choose([case for case in cases if is_hazardous(case)], section.cases)
    harmless = _choose([case for case in cases if not is_hazardous(case)], section.cases)
    chosen = [case for case in cases if case.id in hazardous or case.id in harmless]
    slots = sorted({*FORMS, *pressure.FORMS})

    def make(case: Case, form: str) -> Case | None:
        kind, pressed = "attack" if case.id in hazardous else "twin", apply(case, form)
        return pressed and _stamp(case, pressed, kind, form, 1 + slots.index(form))

    controls = [_stamp(case, case, "control", CLEAN, 0) for case in chosen]
    return controls + _make_all(chosen, forms, make, named=bool(section.forms), place="attacks.forms")


def shift_cases(cases: Sequence[Case], section: ShiftSection, *, tiny: bool = False) -> list[Case]:
    """The cases of the part "shift": ``section.cases`` cases, chosen by a digest of their ids, under every kind.

    The same cases as they are stand among the held-out ones. Errors: StudyError for a kind that there is not, or a
    named one that no chosen case can take.
    """
    kinds = check_kinds(section, cases[0].suite if cases else OFFICE, tiny=tiny)
    ids = _choose(cases, section.cases)
    slots = sorted({*SHIFTS, *pressure.SHIFTS})

    def make(case: Case, kind: str) -> Case | None:
        shifted = shift(case, kind)
        return shifted and _stamp(case, shifted, "shift", kind, _SHIFT_SLOT + slots.index(kind))

    chosen = [case for case in cases if case.id in ids]
    return _make_all(chosen, kinds, make, named=bool(section.kinds), place="shifts.kinds")


def check_forms(section: AttackSection, suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The forms that a study asks for, each once; without any, all that there are. Errors: StudyError."""
    return _check_names(section.forms, forms_for(suite, tiny=tiny), "attacks.forms", tiny)


def check_kinds(section: ShiftSection, suite: str, *, tiny: bool = False) -> tuple[str, ...]:
    """The kinds of shift that a study asks for, each once; without any, all that there are. Errors: StudyError."""
    return _check_names(section.kinds, kinds_for(suite, tiny=tiny), "shifts.kinds", tiny)


def _check_names(names: Sequence[str], known: tuple[str, ...], place: str, tiny: bool) -> tuple[str, ...]:
    for name in names:
        require_known(name, known, f"{place}{_FOR_TINY if tiny else ''} has", USABLE)
    return tuple(dict.fromkeys(names)) or known


def _choose(cases: Iterable[Case], count: int) -> set[str]:
    """Ids of ``count`` cases at most; which does not depend on what else there is to draw."""
    return set(sorted((case.id for case in cases), key=lambda one: content_id("chosen", one))[:count])


def _make_all(
    cases: Sequence[Case], names: Sequence[str], make: Callable[[Case, str], Case | None], *, named: bool, place: str
) -> list[Case]:
    variants: list[Case] = []
    for name in names:
        made = [variant for case in cases if (variant := make(case, name)) is not None]
        if named and cases and not made:
            raise StudyError(f"{place} has {name!r}, which none of the {len(cases)} chosen cases can take; remove it")
        variants += made
    return variants


def _stamp(case: Case, made: Case, kind: str, form: str, slot: int) -> Case:
    """What was made of a case, with an id and a number of its own."""
    words = [[message.role, message.content] for message in made.messages]
    tools = [[tool.name, tool.description] for tool in made.tools]
    split = case.number - case.number % NUMBERS_PER_SPLIT
    return replace(
        made,
        id=content_id("variant", kind, form, case.id, words, tools, made.state),
        number=split + _FIRST_NUMBER + slot * MOST_CASES + case.number % MOST_CASES,
        facts={**made.facts, "variant": {"kind": kind, "form": form, "of": case.id}},
    )
