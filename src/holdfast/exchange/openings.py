"""How one case was opened in two places: the first difference, for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from holdfast.records import Message

_BEFORE, _SHOWN = 20, 60  # characters before the first one that differs, and in all


def first_difference(mine: Sequence[Message], other: Sequence[Message]) -> str | None:
    """What differs first between two openings of a case in few words, mine first; None where they are equal."""
    for number, (one, two) in enumerate(zip_longest(mine, other), 1):
        if one is None or two is None:
            left = two or one
            assert left is not None
            where = "only in the other" if one is None else "only here"
            return f"message {number} ({left.role}) is {where}: {_show(left.content, 0)}"
        if one.role != two.role:
            return f"message {number} is of {one.role} here and of {two.role} there"
        if one.content != two.content:
            place = _first(one.content, two.content)
            return f"message {number} ({one.role}): {_show(one.content, place)} for {_show(two.content, place)}"
        if one.tool_calls != two.tool_calls:
            return f"message {number} ({one.role}): its calls differ"
    return None


def _first(one: str, two: str) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _show(text: str, place: int) -> str:
    start = max(0, place - _BEFORE)
    shown = " ".join(text[start : start + _SHOWN].split())
    return f"'{'…' if start else ''}{shown}{'…' if start + _SHOWN < len(text) else ''}'"
