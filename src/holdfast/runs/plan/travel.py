"""A step as JSON and back, for whoever carries it out in another process of another machine.

What is read back is what was written: a step's fingerprint is computed anew from what the JSON says, so that a document
that was changed is no step. Tables of a study are read by the rules of a study file, and no name in the document is
followed but those that a study may hold. How remote models are reached (``Means``) is no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from holdfast.models.entries import ModelEntry
from holdfast.records import Checkpoint
from holdfast.records.errors import StoreError
from holdfast.runs.plan.settings import Record, Settings
from holdfast.runs.plan.step import Step, fingerprint_of
from holdfast.store import codec
from holdfast.study.kinds import JUDGES, METHODS, SUITES
from holdfast.study.sections import JudgeTable, ModelSection, PairSection, SuiteTable
from holdfast.study.stages import StageTable
from holdfast.study.users import ApprovalSection

TRAVEL_FORMAT = 1
_REMEDY = "carry out what the driver wrote, unchanged"
# Tables whose key says of which kind they are, and where kinds are found.
_KINDS: tuple[tuple[type[BaseModel], str, Any], ...] = (
    (SuiteTable, "name", SUITES),
    (JudgeTable, "kind", JUDGES),
    (StageTable, "method", METHODS),
)
_PLAIN = {one.__name__: one for one in (ModelEntry, ModelSection, PairSection, ApprovalSection)}


def write_step(step: Step) -> str:
    """A step as a JSON document. Errors: StoreError for settings that cannot travel, by their name."""
    document = {
        "format": TRAVEL_FORMAT,
        "fingerprint": step.fingerprint,
        "name": step.name,
        "inputs": list(step.inputs),
        "size": step.size,
        "settings": _pack(step.settings),
        "checkpoints": [codec.checkpoint_to_bytes(one).decode() for one in step.checkpoints],
    }
    text = json.dumps(document, indent=1)
    if read_step(text, step.name).settings != step.settings:
        raise StoreError(
            f"{step.name}: {type(step.settings).__name__} cannot be carried out elsewhere; use one machine"
        )
    return text


def read_step(text: str, place: str) -> Step:
    """The step of a document. Errors: StoreError naming its ``place`` where it holds none, or another than it says."""
    try:
        document = json.loads(text)
        if document["format"] != TRAVEL_FORMAT:
            raise StoreError(
                f"{place}: format {document['format']!r:.20}; carry it out with the holdfast that wrote it"
            )
        settings = _unpack(document["settings"])
        if not isinstance(settings, Settings):
            raise TypeError(f"{type(settings).__name__} are no settings")
        step = Step(
            fingerprint=str(document["fingerprint"]),
            name=str(document["name"]),
            inputs=tuple(map(str, document["inputs"])),
            settings=settings,
            size=int(document["size"]),
            checkpoints=_read_checkpoints(document["checkpoints"]),
        )
        known = fingerprint_of(settings, step.inputs)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ValidationError) as error:
        told = " ".join(str(error).split())[:200]
        raise StoreError(f"{place}: holds no step ({type(error).__name__}: {told}); {_REMEDY}") from error
    if known != step.fingerprint:
        raise StoreError(f"{place}: is not the step that it says it is (another fingerprint); {_REMEDY}")
    return step


def _read_checkpoints(texts: Sequence[str]) -> tuple[Checkpoint, ...]:
    try:
        return tuple(codec.checkpoint_from_bytes(one.encode()) for one in texts)
    except StoreError as error:
        raise ValueError(str(error)) from error


def _pack(value: Any) -> Any:
    """A value as JSON that says what it was."""
    if isinstance(value, Record):
        return {
            "record": type(value).__name__,
            "fields": {one.name: _pack(getattr(value, one.name)) for one in fields(value)},
        }
    if isinstance(value, BaseModel):
        for plain, key, _ in _KINDS:
            if isinstance(value, plain):
                return {"table": plain.__name__, "of": getattr(value, key), "values": _dump(value)}
        return {"table": type(value).__name__, "values": _dump(value)}
    if isinstance(value, tuple):
        return {"tuple": [_pack(one) for one in value]}
    if isinstance(value, Mapping):
        return {"map": {str(key): _pack(one) for key, one in value.items()}}
    if isinstance(value, list):
        return [_pack(one) for one in value]
    return value


def _dump(table: BaseModel) -> dict[str, Any]:
    return table.model_dump(mode="json", exclude_unset=True)


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(map(_unpack, value["tuple"]))
    if "map" in value:
        return {key: _unpack(one) for key, one in value["map"].items()}
    if "record" in value:
        kind = _records()[value["record"]]
        return kind(**{key: _unpack(one) for key, one in value["fields"].items()})
    for plain, key, known in _KINDS:
        if value["table"] == plain.__name__:
            table: BaseModel = known.find(value["of"]).table.model_validate(value["values"])
            if getattr(table, key) != value["of"]:
                raise ValueError(f"a table of {value['of']!r} that names {getattr(table, key)!r}")
            return table
    return _PLAIN[value["table"]].model_validate(value["values"])


@cache
def _records() -> dict[str, Callable[..., Any]]:
    """Kinds of settings by name, those of every method that ships among them."""
    for name in METHODS.shipped:
        METHODS.find(name)
    found, waiting = dict[str, Callable[..., Any]](), list(Record.__subclasses__())
    for one in waiting:
        waiting += one.__subclasses__()
        if is_dataclass(one):
            found[one.__name__] = one
    return found
