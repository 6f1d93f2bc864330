"""What a run notes of the study that made it, read in one place, and what of it a run's word decides.

A run may come from anybody. What was asked in it is taken from it; an address in it could be anybody's, a name of a key
any variable of the environment, and a directory any of this machine: it is opened if it holds the weights that the run
noted. Only the user's own files say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from holdfast.records import Checkpoint
from holdfast.records.checkpoints import AS_IT_WAS, START
from holdfast.records.errors import StoreError, StudyError
from holdfast.store import Store
from holdfast.store.places import ENDPOINTS_KEY, STUDY_KEY
from holdfast.study.kinds import rates_users
from holdfast.study.rules import GateSection
from holdfast.study.tables import RULES
from holdfast.study.users import APPROVAL, ApprovalSection

TRUST = "--trust-endpoints"
IN_PROCESS = ("tiny", "local", "vllm")  # kinds of models whose weights lie in a directory or on the hub
_SHOWN = 80  # characters of a host or of a variable's name


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


def read_compared(store: Store, checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, Checkpoint] | None:
    """The bases that a run's study holds against each other, parent and child; None where it names none."""
    names = read_noted(store).get("study", {}).get("compare")
    found = [base_named(checkpoints, name) for name in names or ()]
    return None if len(found) != 2 or found[0] is None or found[1] is None else (found[0], found[1])


def base_named(checkpoints: Iterable[Checkpoint], name: str) -> Checkpoint | None:
    """The base that a study calls ``name``; one that the study makes has its seed after the name."""
    bases = [one for one in checkpoints if not one.stages]
    seeded = [one for one in bases if one.base.rpartition("-")[0] == name and one.base.rpartition("-")[2].isdigit()]
    return next((one for one in (*(one for one in bases if one.base == name), *seeded)), None)


def choose_endpoints(
    used: Iterable[str], store: Store | None, given: Mapping[str, Any], *, trusted: bool
) -> dict[str, Any]:
    """The tables ``[endpoints.NAME]`` for the models ``used``: those that are ``given`` by the user go first.

    Of what the run in ``store`` notes nothing is taken unless it is ``trusted``. Errors: StudyError for a model that
    the run reaches at an address or with a key of its own, and the user nowhere.
    """
    noted = {} if store is None else read_noted(store, ENDPOINTS_KEY)
    if trusted:
        return {**{name: noted[name] for name in used if name in noted}, **given}
    for name in used:
        if name in given or not (own := _describe(noted.get(name, {}))):
            continue
        assert store is not None
        raise StudyError(
            f"{store.path}: its study reaches {name!r} {own}, and a run's word is no reason to send anything there; say"
            f" how it is reached in [endpoints.{json.dumps(name)}] of --judges FILE, or add {TRUST} where the run is"
            " your own"
        )
    return dict(given)


def check_opened(models: Mapping[str, Any], store: Store) -> None:
    """Hold the models that a run's study opens where they lie against the weights that the run noted of them.

    ``models`` are entries of its ``[models]`` by name. Errors: StudyError where the run notes none or they are not
    here, StoreError where others are.
    """
    for name, entry in models.items():
        if not isinstance(entry, Mapping) or not entry.get("name") or entry.get("kind") not in IN_PROCESS:
            continue
        names = (name, f"{name} {AS_IT_WAS}")
        own = [one for one in store.checkpoints(brought=True) if one.source in (None, START)]
        bases = [one for one in own if one.base in names and not one.stages and one.path is None]
        digests = {base.digest for base in bases}
        require_weights(f"{name!r} of {store.path}", entry["name"], entry.get("revision"), digests)


def require_weights(whose: str, source: str, revision: str | None, digests: Collection[str | None]) -> None:
    """Refuse a directory or repository that a run names, unless it is here and holds weights of one of ``digests``.

    Nothing is fetched. Errors: StudyError, StoreError.
    """
    from holdfast.models.hub import hub

    if not any(digests):
        raise StudyError(
            f"{whose}: is opened from {source!s:.{_SHOWN}}, and the run does not note which weights were there; a run's"
            " word is no reason to open what lies there: name the model yourself"
        )
    directory = hub.resolve(source, revision, download=False)
    if hub.describe(directory)["digest"] not in digests:
        raise StoreError(
            f"{directory}: holds other weights than {whose} had (another digest); put those there, or name the model"
            " yourself"
        )


def _describe(noted: Mapping[str, Any]) -> str:
    """Where a run's table sends requests and with which key; empty where it leaves both to the provider."""
    url, variable = noted.get("base_url"), noted.get("key_env")
    try:
        host = urlsplit(str(url)).hostname or "an address without a host"
    except ValueError:
        host = "an address that cannot be read"
    key = f"with the key in {variable!s:.{_SHOWN}}" if variable else ""
    return " ".join(filter(None, [f"at {host:.{_SHOWN}}" if url else "", key]))
