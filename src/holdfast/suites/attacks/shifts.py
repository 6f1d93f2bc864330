"""Shifts of cases in free text: changes in what should not matter, so that a score that moves says something."""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from holdfast.records import Case, content_id
from holdfast.suites.attacks.forms import insert, plant, with_request
from holdfast.suites.attacks.wording import LANGUAGES, LONGER, MONTHS, NAMES, NOISE, OPENINGS, REFRAMED


def paraphrase(request: str) -> str:
    """The request with another opening, by rule; one that opens otherwise stands between two sentences."""
    for pattern, opening in OPENINGS:
        if found := re.match(pattern, request, re.IGNORECASE):
            changed = opening + request[found.end() :]
            return re.sub(r"\?\s*\Z", ".", changed)
    return insert(REFRAMED, request)


# Lower-case name or month → what stands for it.
_SWAPS = {name.lower(): row[(at + 1) % len(row)] for row in (*NAMES, *MONTHS) for at, name in enumerate(row)}
_ANY_NAME, _ANY_MONTH = ("|".join(chain(*rows)) for rows in (NAMES, MONTHS))
# Names as words or parts of an address, months beside a day or year, and ISO dates.
_PATTERN = re.compile(
    rf"(?<![A-Za-z])(?P<name>{_ANY_NAME})(?![a-z])"
    rf"|(?<![A-Za-z])(?P<month>{_ANY_MONTH})(?=,?\s+\d)"
    rf"|(?<=\d\s)(?P<after>{_ANY_MONTH})(?![a-z])"
    r"|(?<!\d)(?P<year>\d{4})-(?P<number>0[1-9]|1[0-2])-(?P<day>\d\d)(?!\d)",
    re.IGNORECASE,
)


def swap_names(text: str, *, months: bool = True) -> str:
    """The text with other first names and months, each always the same; what is written together is left.

    A name in small letters, as in an address, stays in small letters. Without ``months`` dates stay.
    """
    return _PATTERN.sub(partial(_swap, months=months), text)


def _swap(match: re.Match[str], *, months: bool) -> str:
    if not (match["name"] or months):
        return match[0]
    if match["number"]:
        month = calendar.month_name[int(match["number"])]
        other_month = list(calendar.month_name).index(_SWAPS.get(month.lower(), month))
        return f"{match['year']}-{other_month:02d}-{match['day']}"
    other = _SWAPS[match[0].lower()]
    if match[0].islower():
        return other.lower()
    return other.upper() if match[0].isupper() else other


def _map_deep(write: Callable[[str], str], value: Any) -> Any:
    """JSON with other texts; keys are names of tools and fields, and stay."""
    if isinstance(value, str):
        return write(value)
    if isinstance(value, Mapping):
        return {key: _map_deep(write, one) for key, one in value.items()}
    return [_map_deep(write, one) for one in value] if isinstance(value, list | tuple) else value


# Facts that hold the names of things in the house rather than words about the world.
_IDENTITIES = ("name", "Toolkits", "twin", "variant")
_DECLARED = ("tools", "toolkits")


def _rename(case: Case) -> Case | None:
    state = {key: one for key, one in case.state.items() if key not in _DECLARED}
    facts = {key: one for key, one in case.facts.items() if key not in _IDENTITIES}
    spoken = [message.content for message in case.messages if message.role != "system"]
    # Several months stand in an order, which other months could turn round.
    text = json.dumps([spoken, state, facts], default=str)
    named = {int(found["number"]) for found in _PATTERN.finditer(text) if found["number"]}
    months = len(named | {number for number, name in enumerate(calendar.month_name) if name and name in text}) <= 1
    swap = partial(swap_names, months=months)
    messages = tuple(
        message if message.role == "system" else replace(message, content=swap(message.content))
        for message in case.messages
    )
    if messages == case.messages:
        return None
    changed = {**case.facts, **_map_deep(swap, facts)}
    return replace(case, messages=messages, state={**case.state, **_map_deep(swap, state)}, facts=changed)


def _translate(case: Case) -> Case | None:
    frame = LANGUAGES[int(content_id("language", case.id)[:8], 16) % len(LANGUAGES)]
    return with_request(case, partial(insert, frame))


SHIFTS: Mapping[str, Callable[[Case], Case | None]] = {
    "paraphrase": partial(with_request, write=paraphrase),
    "names": _rename,
    "horizon": partial(with_request, write=partial(insert, LONGER)),
    "noise": partial(plant, text=NOISE),
    "language": _translate,
}
"""Kind → the case changed so, or None where it cannot be; id and number are those of the case."""
