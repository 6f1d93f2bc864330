"""Who rewards in a run, as its study says."""

from __future__ import annotations

import json
from dataclasses import dataclass

from holdfast.store import Store
from holdfast.store.places import STUDY_KEY
from holdfast.study.tables import RATERS, RULES
from holdfast.study.users import APPROVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewarder:
    """The judge that rewards. ``rules`` says whether it is the rules itself, ``beside_rules`` whether a judge is."""

    name: str
    rules: bool
    beside_rules: bool


def read_rewarder(store: Store) -> Rewarder | None:
    """The judge that rewards in the study of a run: the declared one, else the first that rates; None without users."""
    noted = json.loads(store.meta(STUDY_KEY) or "{}")
    section, judges = noted.get(APPROVAL), noted.get("judges") or {}
    kinds = {name: judge["kind"] for name, judge in judges.items() if judge.get("kind") in RATERS}
    name = None if section is None else section.get("judge") or next(iter(kinds), None)
    if name is None:
        return None
    return Rewarder(name=name, rules=kinds.get(name) == RULES, beside_rules=RULES in kinds.values())
