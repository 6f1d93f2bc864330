"""What a run notes of the study that made it, read in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.records.errors import StoreError
from holdfast.store import Store
from holdfast.store.places import STUDY_KEY
from holdfast.study.kinds import rates_users
from holdfast.study.rules import GateSection
from holdfast.study.tables import RULES
from holdfast.study.users import APPROVAL, ApprovalSection


def read_noted(store: Store, key: str = STUDY_KEY) -> dict[str, Any]:
    """What a run notes of the study that made it; empty for an imported one. Errors: StoreError where it is damaged."""
    try:
        noted = json.loads(store.meta(key) or "{}")
    except (ValueError, RecursionError):
        noted = None
    if not isinstance(noted, dict) or not all(one is None or isinstance(one, Mapping) for one in noted.values()):
        raise StoreError(f"{store.path}: the study noted in it is damaged; restore the run")
    return noted


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewarder:
    """The judge that rewards. ``rules`` says whether it is the rules itself, ``beside_rules`` whether a judge is."""

    name: str
    rules: bool
    beside_rules: bool


def read_rewarder(store: Store) -> Rewarder | None:
    """The judge that rewards in the study of a run: the declared one, else the first that rates; None without users."""
    noted = read_noted(store)
    section, judges = noted.get(APPROVAL), noted.get("judges") or {}
    kinds = {name: judge["kind"] for name, judge in judges.items() if rates_users(judge.get("kind"))}
    name = None if section is None else section.get("judge") or next(iter(kinds), None)
    if name is None:
        return None
    return Rewarder(name=name, rules=kinds.get(name) == RULES, beside_rules=RULES in kinds.values())


def read_approval(store: Store) -> ApprovalSection | None:
    """What the study of a run declares of its users; None for a run without."""
    noted = read_noted(store).get(APPROVAL)
    return None if noted is None else ApprovalSection.model_validate(noted)


def read_gate(store: Store) -> GateSection | None:
    """What the study of a run declares of its gate; None for a run without a study."""
    noted = read_noted(store).get("gate")
    return None if noted is None else GateSection.model_validate(noted)
