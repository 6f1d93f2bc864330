"""Names and arguments of calls, once their text is found: JSON without liberties, and types by a tool's schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from holdfast.records import ToolCall, ToolSpec

_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,4})?")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
_BLANKS = " \t\r\n"


def skip_blanks(text: str, at: int, more: str = "") -> int:
    """Where the next character stands that is neither white nor one of ``more``."""
    while at < len(text) and (text[at] in _BLANKS or text[at] in more):
        at += 1
    return at


def decode(text: str, at: int = 0) -> tuple[Any, int] | None:
    """The JSON value that begins somewhere, white space aside, and where it ends.

    None for anything else: NaN, a key that stands twice, a value that is cut off or nested too deep.
    """
    try:
        return _DECODER.raw_decode(text, skip_blanks(text, at))
    except (ValueError, RecursionError):
        return None


def make_call(name: object, arguments: Any) -> ToolCall | None:
    """A call, or None where the name is no text that can be stored."""
    # Half a surrogate pair cannot be stored.
    if not isinstance(name, str) or not name or not _storable(name):
        return None
    return ToolCall(name=name, arguments=keep_arguments(arguments))


def read_call(found: Any, keys: Sequence[str], name: str = "name") -> ToolCall | None:
    """The call that an object is which has a name and, under one of ``keys``, arguments, and nothing else."""
    if not isinstance(found, dict):
        return None
    rest = found.keys() - {"type", "id", "tool_call_id", name}
    if name not in found or len(rest) != 1 or not rest <= set(keys):
        return None
    return make_call(found[name], found[rest.pop()])


def keep_arguments(arguments: Any) -> dict[str, Any]:
    """The arguments, or their text under ``_raw`` where they are no JSON object that the store gives back as it was."""
    if isinstance(arguments, dict) and _storable(arguments):
        return arguments
    return {"_raw": arguments if isinstance(arguments, str) and _storable(arguments) else json.dumps(arguments)}


def _storable(value: Any) -> bool:
    try:
        return bool(orjson.loads(orjson.dumps(value)) == value)
    except (ValueError, TypeError, RecursionError):
        return False


# --- types -------------------------------------------------------------------------------------------------------


def argument_types(tools: Sequence[ToolSpec], name: str) -> Mapping[str, tuple[str, ...]]:
    """The types that each argument of a tool may have; none for a tool that is not offered."""
    for tool in tools:
        if tool.name == name:
            properties = tool.parameters.get("properties")
            known = properties if isinstance(properties, Mapping) else {}
            return {key: tuple(_types_of(schema)) for key, schema in known.items()}
    return {}


def _types_of(schema: Any) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    kinds = schema.get("type", ())
    yield from (kinds,) if isinstance(kinds, str) else (kind for kind in kinds if isinstance(kind, str))
    for union in ("anyOf", "oneOf"):
        for one in schema.get(union) or ():
            yield from _types_of(one)
    if schema.get("nullable"):
        yield "null"


def type_value(text: str, types: Sequence[str]) -> Any:
    """The value that a text stands for where formats write strings and numbers alike.

    The first type of the schema that the text can have, ``string`` last, as transformers 5.15 and the parsers of vLLM
    and SGLang have it; a text that fits none stays a text, for the world to refuse.
    """
    bare = text.strip()
    for kind in types:
        if kind == "integer" and _WHOLE.fullmatch(bare):
            return int(bare)
        if kind in ("integer", "number") and _NUMBER.fullmatch(bare):
            number = float(bare)
            whole = number.is_integer() and (kind == "integer" or "." not in bare)
            if math.isfinite(number) and (whole or kind == "number"):
                return int(bare) if _WHOLE.fullmatch(bare) else int(number) if whole else number
        if kind == "boolean" and bare.lower() in ("true", "false", "1", "0"):
            return bare.lower() in ("true", "1")
        if kind == "null" and bare in ("null", "None"):
            return None
        wanted = {"object": dict, "array": list}.get(kind)
        if wanted and (found := decode(bare)) and found[1] == len(bare) and isinstance(found[0], wanted):
            return found[0]
    return text
