"""Values as programs write them: the keyword arguments of Python's calls, and Gemma's objects with bare keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from holdfast.models.calls.values import skip_blanks

_DEEPEST = 64
_WORD = re.compile(r"[^\W\d][\w.\-]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?(?![\w.])")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": ""}


class Unreadable(ValueError):
    """What stands there is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How strings are written: their quotes, and whether a backslash escapes in them."""

    quotes: tuple[str, ...]
    escapes: bool


PYTHON = Style(quotes=("'", '"'), escapes=True)
"""Python's own, and JSON's."""

GEMMA = Style(quotes=('<|"|>', "<escape>"), escapes=False)
"""Gemma 4 and FunctionGemma, which put special tokens around strings."""


def read_arguments(
    text: str, at: int, style: Style, *, ends: str, equals: str, depth: int = 1
) -> tuple[dict[str, Any], int]:
    """Names with values, such as ``a=1, b='x')`` behind an opening parenthesis; where they end. Errors: Unreadable."""
    found: dict[str, Any] = {}
    at = skip_blanks(text, at)
    while not text.startswith(ends, at):
        key, at = _read_key(text, at, style)
        at = _expect(text, skip_blanks(text, at), equals)
        if key in found:
            raise Unreadable("a key stands twice")
        found[key], at = _read_value(text, at, style, depth)
        at = _go_on(text, at, ends)
    return found, at + len(ends)


def _read_key(text: str, at: int, style: Style) -> tuple[str, int]:
    if word := _WORD.match(text, at):
        return word[0], word.end()
    key, at = _read_value(text, at, style, 1)
    if not isinstance(key, str):
        raise Unreadable("a key is no text")
    return key, at


def _expect(text: str, at: int, mark: str) -> int:
    if not text.startswith(mark, at):
        raise Unreadable(f"no {mark}")
    return at + len(mark)


def _go_on(text: str, at: int, ends: str) -> int:
    """Past a comma, or to the end of a list."""
    at = skip_blanks(text, at)
    if text.startswith(ends, at):
        return at
    return skip_blanks(text, _expect(text, at, ","))


def _read_value(text: str, at: int, style: Style, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise Unreadable("nested too deep")
    at = skip_blanks(text, at)
    for quote in style.quotes:
        if text.startswith(quote, at):
            return _read_string(text, at + len(quote), quote, style)
    if text.startswith("[", at):
        return _read_list(text, at + 1, style, depth)
    if text.startswith("{", at):
        return read_arguments(text, at + 1, style, ends="}", equals=":", depth=depth + 1)
    if number := _NUMBER.match(text, at):
        whole = number[1] is None and number[2] is None
        return (int(number[0]) if whole else float(number[0])), number.end()
    word = _WORD.match(text, at)
    if word is None or word[0] not in _WORDS:
        raise Unreadable("no value")
    return _WORDS[word[0]], word.end()


def _read_list(text: str, at: int, style: Style, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = skip_blanks(text, at)
    while not text.startswith("]", at):
        value, at = _read_value(text, at, style, depth + 1)
        found.append(value)
        at = _go_on(text, at, "]")
    return found, at + 1


def _read_string(text: str, at: int, quote: str, style: Style) -> tuple[str, int]:
    if not style.escapes:
        end = text.find(quote, at)
        if end < 0:
            raise Unreadable("a string without an end")
        return text[at:end], end + len(quote)
    parts: list[str] = []
    stop = re.compile(rf"[{quote}\\]")
    while True:
        mark = stop.search(text, at)
        if mark is None:
            raise Unreadable("a string without an end")
        parts.append(text[at : mark.start()])
        if mark[0] == quote:
            return _join_halves("".join(parts)), mark.end()
        letter, at = _read_escape(text, mark.end())
        parts.append(letter)


def _join_halves(text: str) -> str:
    """The text with both halves of a surrogate pair, as JSON escapes them, made one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _read_escape(text: str, at: int) -> tuple[str, int]:
    letter = text[at : at + 1]
    if letter in _ESCAPES and letter:
        return _ESCAPES[letter], at + 1
    size = {"x": 2, "u": 4, "U": 8}.get(letter)
    digits = text[at + 1 : at + 1 + (size or 0)]
    if size is None:
        return f"\\{letter}", at + 1  # as Python reads an escape that it does not know
    if len(digits) != size or not re.fullmatch(r"[0-9a-fA-F]+", digits) or int(digits, 16) > 0x10FFFF:
        raise Unreadable("half an escape")
    return chr(int(digits, 16)), at + 1 + size
