"""Regular expressions from users, in a subset whose searches cannot run away.

The engine tries one way after another to match, so a pattern is taken if there are few ways from any place of a text:
no unbounded repeat, no reference back, no looking around, and few combinations of bounded repeats and alternatives.
"""

from __future__ import annotations

import re
import warnings
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

MAX_PATTERN = 200
MAX_WAYS = 100
MAX_TEXT = 100_000
"""Texts up to this length are searched; a search takes seconds at the very worst."""
_SINGLE = frozenset({kinds.LITERAL, kinds.NOT_LITERAL, kinds.ANY, kinds.IN, kinds.AT})


def compile_pattern(text: str) -> re.Pattern[str]:
    """The pattern, compiled. Errors: ValueError that says what it has that is not taken."""
    if len(text) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(text)} characters; keep it to {MAX_PATTERN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of what a later Python reads differently
            ways = _count(parser.parse(text))
            compiled = re.compile(text)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise ValueError(f"no regular expression ({error})") from error
    if ways > MAX_WAYS:
        raise ValueError(f"more than {MAX_WAYS} combinations of repeats and alternatives; narrow them")
    return compiled


def _count(tree: Any) -> int:
    """In how many ways the parts can match, as far as that is no more than just above ``MAX_WAYS``."""
    ways = 1
    for kind, about in tree:
        ways = min(ways * _count_one(kind, about), MAX_WAYS + 1)
    return ways


def _count_one(kind: Any, about: Any) -> int:
    if kind in _SINGLE:
        return 1
    if kind is kinds.SUBPATTERN:
        return _count(about[-1])
    if kind is kinds.BRANCH:
        return sum(_count(branch) for branch in about[1])
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT):
        least, most, body = about
        if most is kinds.MAXREPEAT:
            raise ValueError("an unbounded repeat (*, + or {n,}); give it a bound, such as {0,80}")
        ways = _count(body)
        # Of two ways or more, a hundred repeats are as many as any number.
        return most - least + 1 if ways == 1 else sum(ways**n for n in range(least, min(most, least + MAX_WAYS) + 1))
    raise ValueError(f"{str(kind).lower()}, which can take very long; leave out references back and looking around")
