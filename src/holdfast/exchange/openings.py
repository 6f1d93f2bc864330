"""How one case was opened in two places: the first difference, and whether it is one of dates and numbers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from operator import is_

from holdfast.records import Message, ToolSpec, content_id

_WHOLE_NAMES = (
    "january|february|march|april|june|july|august|september|october|november|december"
    "|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
)
_NAMES = (
    rf"{_WHOLE_NAMES}|jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thur?s?|fri|sat|sun"
    "|am|pm|utc|gmt|[cew]es?t|[ecmp][sd]t"
)
# What changes from day to day: whatever holds a digit (dates, times, ids), months, weekdays, halves of a day, zones.
_PASSING = re.compile(rf"[\w.:/+\-]*\d[\w.:/+\-]*|\b(?:{_NAMES})\b\.?", re.IGNORECASE)
_DATE = re.compile(rf"\d{{4}}-\d\d|\b\d{{1,2}}[:/.]\d{{1,2}}[:/.]?\d|\b(?:{_WHOLE_NAMES})\b", re.IGNORECASE)
_BEFORE, _SHOWN = 20, 60  # characters before the first one that differs, and in all


def first_difference(mine: Sequence[Message], other: Sequence[Message]) -> str | None:
    """What differs first between two openings of a case in few words, mine first; None where they are equal."""
    for number, (here, there) in enumerate(zip_longest(mine, other), 1):
        if here is None or there is None:
            left = there or here
            assert left is not None
            where = "only in the other" if here is None else "only here"
            return f"message {number} ({left.role}) is {where}: {_show(left.content, 0)}"
        if here.role != there.role:
            return f"message {number} is of {here.role} here and of {there.role} there"
        if here.content != there.content:
            return f"message {number} ({here.role}): {_contrast(here.content, there.content)}"
        if here.tool_calls != there.tool_calls:
            return f"message {number} ({here.role}): its calls differ"
    return None


def first_difference_of_tools(mine: Sequence[ToolSpec], other: Sequence[ToolSpec]) -> str | None:
    """What differs first between the tools of two openings, mine first; None where they are equal."""
    if len(mine) == len(other) and all(map(is_, mine, other)):
        return None  # of one run; to write them out takes a third of the time of a gate of its many checkpoints
    here, there = ({tool.name: _write_tool(tool) for tool in tools} for tools in (mine, other))
    for name in sorted({*here, *there}):
        if name not in here or name not in there:
            return f"the tool {name!r} is {'only here' if name in here else 'only in the other'}"
        if here[name] != there[name]:
            return f"the tool {name!r}: {_contrast(here[name], there[name])}"
    return None


def _contrast(mine: str, other: str) -> str:
    """Two texts around the first character that differs."""
    differing = (place for place, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b)
    place = next(differing, min(len(mine), len(other)))
    return f"{_show(mine, place)} for {_show(other, place)}"


def _show(text: str, place: int) -> str:
    start = max(0, place - _BEFORE)
    shown = " ".join(text[start : start + _SHOWN].split())
    return f"'{'…' if start else ''}{shown}{'…' if start + _SHOWN < len(text) else ''}'"


def _write_tool(tool: ToolSpec) -> str:
    return f"{tool.description} {json.dumps(tool.parameters, sort_keys=True, ensure_ascii=False, default=dict)}"


def digest_opening(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
    """An id of an opening that dates, times, numbers and ids in it, and the order of tools, do not change."""
    said = [(one.role, mask(one.content), [(call.name, call.arguments) for call in one.tool_calls]) for one in messages]
    return content_id("opening", said, sorted((one.name, mask(_write_tool(one))) for one in tools))


def mask(text: str) -> str:
    """A text with every date, time, number and id as one sign, and white space as one blank."""
    return " ".join(_PASSING.sub("#", text).split())


def mask_dates(text: str) -> str:
    """A text that holds a date or a time as ``mask`` gives it; any other as it is, with its numbers."""
    return mask(text) if _DATE.search(text) else text
