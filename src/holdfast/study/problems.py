"""What is wrong with a table, in one line: the place, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from holdfast.records.errors import StudyError, require
from holdfast.study.kinds import NAMING, UNKNOWN_NAME
from holdfast.study.sections import OBJECTIVES, TEXT_AXES, SuiteSection
from holdfast.study.stages import StageSection

# Short names that other trainers use, which are nearer to another key of ours.
_MEANT = {"lr": "learning_rate"}


def read_axis(axis: str, value: float | int | str) -> Any:
    """An axis's value as the setting of its name takes it: 1 and 1.0 are one beta. Errors: StudyError."""
    if axis == "pair_judge":
        return value
    section: type[BaseModel] = SuiteSection if axis == "split_seed" else StageSection
    needed = {} if section is SuiteSection else {"objective": OBJECTIVES[0]}
    try:
        read = section.model_validate({**needed, axis: value})
    except ValidationError as error:
        raise StudyError(f"axes.{first_problem(error, section)}") from error
    require(
        axis in TEXT_AXES or not isinstance(value, str),
        f"axes.{axis} has the text {value!r}; write the number without quotes",
    )
    return getattr(read, axis)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field's type holds, directly or as the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _fields_at(model: type[BaseModel], location: tuple[Any, ...], raw: Any) -> list[str]:
    """The keys that are known in the table at ``location`` of ``raw``; a mapping's own key is stepped over."""
    for part in location:
        raw = raw.get(part) if isinstance(raw, Mapping) else None
        if part in model.model_fields:
            model = _section_in(model.model_fields[part].annotation) or model
        if model in NAMING and isinstance(raw, Mapping):
            key, known = NAMING[model]
            model = known.find(raw[key]).table if isinstance(raw.get(key), str) else model
    return list(model.model_fields)


def hint_at(name: str, known: Collection[str]) -> str:
    """What may be meant by a name that is not among those that are known."""
    meant = _MEANT.get(name)
    near = [meant] if meant in known else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"


def first_problem(error: ValidationError, model: type[BaseModel], raw: Any = None) -> str:
    """The first of what is wrong with ``raw``, which was to be a ``model``, in one line."""
    problem = error.errors(include_url=False)[0]
    location = problem["loc"]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" if part else '.""' for part in location)
    place = "".join(parts).removeprefix(".") or "the study"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        hint = hint_at(str(location[-1]), _fields_at(model, location[:-1], raw))
        return f"{place}: unknown key; {hint}{more}"
    if problem["type"] == UNKNOWN_NAME:
        return f"{place}.{problem['msg']}{more}"
    found = "; write it" if problem["type"] == "missing" else f", found {problem['input']!r:.80}"
    words = problem["msg"].removeprefix("Value error, ")  # pydantic's, before the words of our own validators
    return f"{place}: {words.lower()}{found}{more}"
