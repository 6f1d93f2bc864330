"""Names and arguments of calls, once their text is found.

They are JSON without liberties, texts with types by a tool's schema, or values as programs write them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from holdfast.records import ToolCall, ToolSpec
from holdfast.records.inputs import strict_json

# Python makes whole numbers of at most 4,300 digits.
_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,4})?")
_DECODER = strict_json(ValueError, ValueError)
_BLANKS = " \t\r\n"


class Unreadable(ValueError):
    """What stands there is not what is looked for."""


def skip_blanks(text: str, at: int, more: str = "") -> int:
    """Where the next character stands that is neither white nor one of ``more``."""
    while at < len(text) and (text[at] in _BLANKS or text[at] in more):
        at += 1
    return at


def expect(text: str, at: int, mark: str) -> int:
    """The end of a mark that stands next, white space aside. Errors: Unreadable."""
    at = skip_blanks(text, at)
    if not text.startswith(mark, at):
        raise Unreadable(f"no {mark}")
    return at + len(mark)


def decode(text: str, at: int = 0) -> tuple[Any, int]:
    """The JSON value that begins somewhere, white space aside, and where it ends.

    Errors: Unreadable for anything else: NaN, a key that stands twice, a value that is cut off or nested too deep.
    """
    try:
        return _DECODER.raw_decode(text, skip_blanks(text, at))
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def decode_whole(text: str) -> Any:
    """The JSON value that a text is, white space aside. Errors: Unreadable."""
    value, end = decode(text)
    if text[end:].strip():
        raise Unreadable("text behind the value")
    return value


def make_call(name: object, arguments: Any) -> ToolCall:
    """A call. Errors: Unreadable where the name is no text that can be stored, as half a surrogate pair cannot."""
    if not isinstance(name, str) or not name or not _storable(name):
        raise Unreadable("no name")
    return ToolCall(name=name, arguments=keep_arguments(arguments))


def read_call(value: Any, keys: Sequence[str], name: str = "name") -> ToolCall:
    """The call that an object is which has a name and, under one of ``keys``, arguments, and nothing else.

    Errors: Unreadable.
    """
    rest = value.keys() - {"type", "id", "tool_call_id", name} if isinstance(value, dict) else set()
    if len(rest) != 1 or not rest <= set(keys) or name not in value:
        raise Unreadable("no name with arguments")
    return make_call(value[name], value[rest.pop()])


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
    known = next((parameters_of(tool) for tool in tools if tool.name == name), {})
    return {key: tuple(_types_of(schema)) for key, schema in known.items()}


def parameters_of(tool: ToolSpec) -> Mapping[str, Any]:
    """The schemas of a tool's arguments by name."""
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


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
        if wanted := {"object": dict, "array": list}.get(kind):
            with suppress(Unreadable):
                if isinstance(value := decode_whole(bare), wanted):
                    return value
    return text


# --- values as programs write them: the arguments of Python's calls, and Gemma's objects with bare keys ---------------

_DEEPEST = 64
_WORD = re.compile(r"[^\W\d][\w.\-]*")
_LITERAL_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?(?![\w.])")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": ""}


Quotes = tuple[str, ...]
PYTHON: Quotes = ("'", '"')
"""The marks around strings in Python and JSON, between which a backslash escapes."""

GEMMA: Quotes = ('<|"|>', "<escape>")
"""Those of Gemma 4 and FunctionGemma: special tokens, between which nothing does."""

# What stands behind an opening mark: a string and the mark that closes it.
_STRINGS = {quote: re.compile(rf"([^{quote}\\]*(?:\\.[^{quote}\\]*)*){quote}", re.DOTALL) for quote in PYTHON}
_STRINGS |= {mark: re.compile(rf"(.*?){re.escape(mark)}", re.DOTALL) for mark in GEMMA}
_ESCAPE = re.compile(r"\\(?:([^xuU])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


def read_arguments(
    text: str, at: int, quotes: Quotes, *, ends: str, equals: str, depth: int = 1
) -> tuple[dict[str, Any], int]:
    """Names with values, such as ``a=1, b='x')`` behind an opening parenthesis; where they end. Errors: Unreadable."""
    arguments: dict[str, Any] = {}
    at = skip_blanks(text, at)
    while not text.startswith(ends, at):
        word = _WORD.match(text, at)
        key, at = (word[0], word.end()) if word else _read_value(text, at, quotes, 1)
        if not isinstance(key, str):
            raise Unreadable("a key is no text")
        at = expect(text, at, equals)
        if key in arguments:
            raise Unreadable("a key stands twice")
        arguments[key], at = _read_value(text, at, quotes, depth)
        at = _go_on(text, at, ends)
    return arguments, at + len(ends)


def _go_on(text: str, at: int, ends: str) -> int:
    """Past a comma, or to the end of a list."""
    at = skip_blanks(text, at)
    return at if text.startswith(ends, at) else skip_blanks(text, expect(text, at, ","))


def _read_value(text: str, at: int, quotes: Quotes, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise Unreadable("nested too deep")
    at = skip_blanks(text, at)
    for quote in quotes:
        if text.startswith(quote, at):
            return _read_string(text, at + len(quote), quote)
    if text.startswith("[", at):
        return _read_list(text, at + 1, quotes, depth)
    if text.startswith("{", at):
        return read_arguments(text, at + 1, quotes, ends="}", equals=":", depth=depth + 1)
    if number := _LITERAL_NUMBER.match(text, at):
        whole = number[1] is None and number[2] is None
        return (int(number[0]) if whole else float(number[0])), number.end()
    word = _WORD.match(text, at)
    if word is None or word[0] not in _WORDS:
        raise Unreadable("no value")
    return _WORDS[word[0]], word.end()


def _read_list(text: str, at: int, quotes: Quotes, depth: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    at = skip_blanks(text, at)
    while not text.startswith("]", at):
        value, at = _read_value(text, at, quotes, depth + 1)
        values.append(value)
        at = _go_on(text, at, "]")
    return values, at + 1


def _read_string(text: str, at: int, quote: str) -> tuple[str, int]:
    string = _STRINGS[quote].match(text, at)
    if string is None:
        raise Unreadable("a string without an end")
    if quote in GEMMA:
        return string[1], string.end()
    # Both halves of a surrogate pair, as JSON escapes them, are one character.
    plain = _ESCAPE.sub(_unescape, string[1]).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return plain, string.end()


def _unescape(escape: re.Match[str]) -> str:
    letter, digits = escape[1], escape[2] or escape[3] or escape[4]
    if letter:
        return _ESCAPES.get(letter, escape[0])  # as Python reads an escape that it does not know
    if not digits or int(digits, 16) > 0x10FFFF:
        raise Unreadable("half an escape")
    return chr(int(digits, 16))
