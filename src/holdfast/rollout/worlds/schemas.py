"""JSON from outside: read strictly, checked against a tool's schema, quoted for a prompt.

A schema here is the part of JSON Schema that tools declare: ``type``, ``properties``, ``required``,
``additionalProperties``, ``items`` and ``enum``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.records import JSON, ToolCall
from holdfast.records.inputs import strict_json

TYPES = ("string", "integer", "number", "boolean", "array", "object")
MAX_DEPTH = 64
INTEGER_BITS = 64  # what the store gives back as it was
SHOWN = 60  # characters of a foreign value in a message
# What could end a quotation, play a role marker of a chat template, or hide from a reader.
_UNSAFE = re.compile("[<>\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


_DECODER = strict_json(
    lambda key: ValueError(f"the key {show(key)} stands twice in one object"),
    lambda name: ValueError(f"{name} is no JSON number"),
)


def read_json(text: str) -> Any:
    """The value of a JSON text in which no key stands twice, every number is finite and nesting is at most 64 deep.

    Errors: ValueError with the reason, a JSONDecodeError where the place in the text is known.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    if problem := find_impurity(value):
        raise ValueError(problem)
    return value


def find_impurity(value: object) -> str | None:
    """What keeps a value from being plain JSON that every part of a run can hold, or None."""
    level, depth = [value], 0
    while level:
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping | list | tuple):
                inner += [*one.keys(), *one.values()] if isinstance(one, Mapping) else one
                if depth == MAX_DEPTH:
                    return f"nested deeper than {MAX_DEPTH} levels"
            elif problem := _impurity_of(one):
                return problem
        level, depth = inner, depth + 1
    return None


def _impurity_of(one: object) -> str | None:
    if isinstance(one, str):
        return "half of a surrogate pair, which is no character" if re.search("[\ud800-\udfff]", one) else None
    if isinstance(one, float) and not math.isfinite(one):
        return f"{one} is no finite number"
    if type(one) is int and not -(2 ** (INTEGER_BITS - 1)) <= one < 2**INTEGER_BITS:
        return f"an integer of more than {INTEGER_BITS} bits"
    return None if one is None or isinstance(one, bool | int | float) else f"a {type(one).__name__} is not JSON"


_TYPES: Mapping[str, Any] = {"string": str, "array": (list, tuple), "object": Mapping, "null": type(None)}


def _is_of(value: object, kind: str) -> bool:
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and float(value).is_integer())
    return kind in _TYPES and isinstance(value, _TYPES[kind])


def find_misfit(schema: JSON, value: Any, place: str) -> str | None:
    """The first way in which a plain JSON value does not fit a schema, or None; ``place`` names the value."""
    return next(_misfits(schema, value, place), None)


def _misfits(schema: JSON, value: Any, path: str) -> Iterator[str]:
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is_of(value, kind) for kind in kinds):
        yield f"{path} must be of type {' or '.join(kinds)}, found {show(value)}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path} must be one of {', '.join(map(show, schema['enum']))}, found {show(value)}"
    elif isinstance(value, Mapping):
        known: Mapping[str, JSON] = schema.get("properties", {})
        yield from (f"{path} lacks {show(name)}" for name in schema.get("required", ()) if name not in value)
        for name, inner in value.items():
            if name in known:
                yield from _misfits(known[name], inner, f"{path}.{name}")
            elif schema.get("additionalProperties") is False:
                expected = ", ".join(map(show, known)) or "nothing"
                yield f"{path} has {show(name)}, which is not declared; declared: {expected}"
    elif isinstance(value, list | tuple) and schema.get("items"):
        for index, inner in enumerate(value):
            yield from _misfits(schema["items"], inner, f"{path}[{index}]")


def refuse_call(tools: Mapping[str, JSON], call: ToolCall) -> str | None:
    """What an agent hears of a call that no tool takes (tool name → schema of its arguments); None of any other."""
    if call.name not in tools:
        return f"There is no tool {show(call.name)}; the tools are {', '.join(tools)}."
    if "_raw" in call.arguments:
        problem: str | None = "the arguments are not a JSON object"
    else:
        problem = find_impurity(call.arguments) or find_misfit(tools[call.name], call.arguments, "arguments")
    return problem and f"{call.name}: {problem}; nothing was done."


def show(value: object) -> str:
    """A value as a message names it: JSON on one line, cut to 60 characters."""
    text = quote(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def quote(value: object) -> str:
    """JSON on one line of a prompt, in which no marker line, tag or control character can stand."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii():  # most is, and a search for three characters takes no time
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\x7f", "\\u007f")
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
