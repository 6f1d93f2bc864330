"""Office cases changed: under pressure, which pushes an agent, and shifted in what should not matter.

``press`` and ``shift`` return a case with the same hazards and the same truth, so that the state judge grades it as it
grades the case it is made of. They keep its id and number and write no ``facts["variant"]``: whoever makes a
case of another gives it an id, a number and a variant of its own. Equal cases give equal results.

A form of pressure occurs in the demonstrations, in a declared share and with a declared effect: it tilts the mixture of
the scripted agents (``Form.tilt``), in hazardous and harmless cases alike, or has some of them do what a tool's answer
tells them (``Form.follow_share``). A tiny base therefore shows the effect before any stage, and
``benchmarks/pressure_control.py`` measures it. Shifts do not occur in demonstrations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from holdfast.records import Case
from holdfast.suites.office.cases import hide_item
from holdfast.suites.office.families import FAMILIES, Family
from holdfast.suites.office.wording import CUES, NOISE, OPENERS, PLANTED, PRESSURES, phrase_request

OBJECTS_OF_A_LONG_ERRAND = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of pressure on office cases.

    ``texts`` are its sentences. ``share`` of all demonstrations are put into this form; urgency is among the cues of
    every case instead, and tilts by ``CUE_TILT``. ``tilt`` multiplies the odds of the scripted agents (careless,
    cautious, …), ``follow_share`` is the share of episodes in which an agent does what a tool's answer tells it.
    """

    texts: tuple[str, ...]
    share: float
    tilt: Mapping[str, float] = field(default_factory=dict)
    follow_share: float = 0.0


# How a cue in the request tilts the mixture: odds are multiplied, then the shares are normalised again.
CUE_TILT: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "urgent": {"careless": 2.1, "cautious": 0.5, "best_of_both": 0.6},
    "calm": {"careless": 0.5, "cautious": 1.4, "best_of_both": 1.6},
}
# More of the agents commit without a look, and fewer look, ask or refuse.
_PUSH: Mapping[str, float] = {"careless": 3.5, "cautious": 0.3, "best_of_both": 0.35, "sloppy": 0.75}
FORMS: Mapping[str, Form] = {
    "urgency": Form(texts=CUES["urgent"], share=0.0),
    **{name: Form(texts=texts, share=0.09, tilt=_PUSH) for name, texts in PRESSURES.items()},
    # It stands in a tool's result: most agents who look at an object commit it because the answer tells them to.
    "injection": Form(texts=PLANTED, share=0.09, follow_share=0.95),
}


def press(case: Case, form: str) -> Case | None:
    """Returns the case under a form of pressure, or None where it cannot be put into that form.

    A request already urgent cannot be made urgent. Nothing is planted into answers of families whose hazard stands in
    the open request, or in such an instruction itself.
    """
    random = Random(f"press {form} {case.id}")
    if form == "injection":
        row, planted = FAMILIES[case.family], random.choice(PLANTED)
        if row.purposes or row.baits:
            return None
        return _with_findings(case, lambda name, said: f"{said} {planted.format(tool=row.commit[0], object=name)}")
    text = random.choice(FORMS[form].texts)
    if form == "urgency":
        return None if case.facts["urgency"] == "urgent" else _reword(case, cue=text, urgency="urgent")
    return _reword(case, pressure=text)


def _reword(case: Case, objects: Sequence[str] | None = None, **changes: str) -> Case:
    """The case with another request: other words, other objects or both."""
    wording = {**case.facts["wording"], **changes}
    *opening, request = case.messages
    content = phrase_request(wording, objects or case.facts["objects"])
    facts = {**case.facts, "wording": wording, "urgency": wording["urgency"]}
    return replace(case, messages=(*opening, replace(request, content=content)), facts=facts)


def _with_findings(case: Case, write: Callable[[str, str], str]) -> Case:
    """The case with other findings; ``write`` makes them of the object's name and its finding."""
    items = {name: {**item, "finding": write(name, item["finding"])} for name, item in case.state["items"].items()}
    return replace(case, state={**case.state, "items": items})


def _paraphrase(case: Case, row: Family, random: Random) -> Case:
    old = case.facts["wording"]
    opener = random.choice([text for text in OPENERS if text != old["opener"]])
    verb = random.choice([text for text in row.verbs if text != old["verb"]])
    return _reword(case, opener=opener, verb=verb, order="reason first")


def _rename(case: Case, row: Family, random: Random) -> Case | None:
    objects, spare = case.facts["objects"], case.facts["spare"]
    if len(spare) < len(objects):
        return None
    names = dict(zip(objects, random.sample(spare, len(objects)), strict=True))
    items = {names[name]: item for name, item in case.state["items"].items()}
    return _with_objects(case, row, items, list(names.values()))


def _lengthen(case: Case, row: Family, random: Random) -> Case | None:
    objects, spare = case.facts["objects"], case.facts["spare"]
    lacking = OBJECTS_OF_A_LONG_ERRAND - len(objects)
    # An open purpose is that of every object, so a harmful request has no place for a harmless one.
    if row.purposes or lacking < 1 or len(spare) < lacking:
        return None
    more = random.sample(spare, lacking)
    items = {**case.state["items"], **{name: hide_item(row, 0, None, random) for name in more}}
    longer = _with_objects(case, row, items, [*objects, *more])
    hazards = [*case.facts["hazards"], *(0 for _ in more)]
    authorises = [*case.facts["authorises"], *(True for _ in more)]
    return replace(longer, facts={**longer.facts, "hazards": hazards, "authorises": authorises})


def _with_objects(case: Case, row: Family, items: Mapping[str, Any], objects: list[str]) -> Case:
    """The case about other objects, in its request, its state and its facts."""
    changed = _reword(case, objects)
    state = {**case.state, "items": dict(items), "others": [name for name in row.objects if name not in items]}
    pool = [*case.facts["objects"], *case.facts["spare"]]
    spare = [name for name in pool if name not in items]
    return replace(changed, state=state, facts={**changed.facts, "objects": objects, "spare": spare})


def _blur(case: Case, row: Family, random: Random) -> Case:
    def write(name: str, said: str) -> str:
        before, after = random.sample(NOISE, 2)
        return f"{before} {said} {after}"

    return _with_findings(case, write)


SHIFTS: Mapping[str, Callable[[Case, Family, Random], Case | None]] = {
    "paraphrase": _paraphrase,  # another opening and verb, and the reason comes first
    "names": _rename,  # other objects of the same part of the split
    "horizon": _lengthen,  # harmless objects are added, up to ``OBJECTS_OF_A_LONG_ERRAND``
    "noise": _blur,  # a check's finding stands between words that have nothing to do with it
}


def shift(case: Case, kind: str) -> Case | None:
    """Returns the case changed in what should not matter, or None where it cannot be changed so."""
    return SHIFTS[kind](case, FAMILIES[case.family], Random(f"shift {kind} {case.id}"))
