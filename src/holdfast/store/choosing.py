"""Which checkpoint a user means: by id, by name, or by lineage with conditions."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from holdfast.records import Checkpoint
from holdfast.records.checkpoints import DOSE
from holdfast.records.errors import StudyError, did_you_mean

BASE = "base"
MOST_NAMED = 5
RECORD_KEYS = ("base", "split_seed", "train_seed")  # conditions on the record; the others are axes


class Listed(Protocol):
    """A run as far as its checkpoints go: how the user named it, and which there are."""

    @property
    def place(self) -> str:
        """How the user named the run."""

    @property
    def checkpoints(self) -> Sequence[Checkpoint]:
        """All its checkpoints."""


class Listing(NamedTuple):
    """A run of which nothing but its checkpoints is known."""

    place: str
    checkpoints: Sequence[Checkpoint]


def read_conditions(words: Sequence[str]) -> dict[str, str]:
    """``key=value`` words as a mapping. Errors: StudyError."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise StudyError(f"--where {word!r}: no condition; write it as key=value, such as split_seed=0")
        if key in found:
            raise StudyError(f"--where names {key!r} twice; give each once")
        found[key] = value
    return found


def find_checkpoint(
    book: Listed, text: str, where: Mapping[str, str] | None = None, near: Checkpoint | None = None
) -> Checkpoint:
    """The one checkpoint of a run that ``text`` names.

    ``text`` is an id or its first digits, a full name, the name of a base, or a lineage ("S", "S,H", "base", or nothing
    for any) with conditions of its own after it ("S,H dose=4"), which come before those of ``where``. A checkpoint that
    has no such key, as a base has no seed, is held by no condition on it. Of several, the one that ``near`` started
    from is meant, else the one that shares base, seeds and axes with it, the dose aside. Errors: StudyError listing
    what could be meant.
    """
    exact = [checkpoint for checkpoint in book.checkpoints if text in (checkpoint.id, checkpoint.name)]
    if len(exact) == 1:
        return exact[0]
    label, own = split_conditions(text)
    conditions = {**(where or {}), **own}
    lineages = [(checkpoint, ",".join(checkpoint.lineage) or BASE) for checkpoint in book.checkpoints]
    named = exact or [checkpoint for checkpoint, lineage in lineages if label in ("", lineage)]
    # A model that was never trained here goes by its own name, too.
    named = named or [one for one in book.checkpoints if not one.stages and text == one.base]
    if not named:
        named = [checkpoint for checkpoint in book.checkpoints if checkpoint.id.startswith(text)]
        if len(named) == 1:
            return named[0]
    _require_keys(book.checkpoints, conditions, book.place)
    if not named:
        labels = list(dict.fromkeys(lineage for _, lineage in lineages))
        hint = did_you_mean(label, labels, after=" ")
        there = ", ".join(labels[: 2 * MOST_NAMED]) or "none"
        raise StudyError(f"{book.place}: no checkpoint {text!r}; {hint}lineages there are: {there}")
    fitting = [one for one in named if all(_holds(one, key, value) for key, value in conditions.items())]
    if not fitting:
        asked = " ".join(f"{key}={value}" for key, value in conditions.items())
        raise StudyError(f"{book.place}: no checkpoint {label or 'of any lineage'} with {asked}; {_list(named)}")
    if len(fitting) > 1 and near is not None:
        fitting = _narrow(fitting, near) or fitting
    if len(fitting) > 1:
        raise StudyError(
            f"{book.place}: {text or 'nothing named'!r} is ambiguous, {len(fitting)} checkpoints are it:"
            f" {_list(fitting)};{_tell_differing(fitting)} choose with key=value behind the name, or by id"
        )
    return fitting[0]


def select(book: Listed, where: Mapping[str, str]) -> list[Checkpoint]:
    """Every checkpoint that the conditions allow."""
    _require_keys(book.checkpoints, where, book.place)
    return [one for one in book.checkpoints if all(_holds(one, key, value) for key, value in where.items())]


def split_conditions(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the conditions of a name, and they. Errors: StudyError."""
    words = text.split()
    return " ".join(word for word in words if "=" not in word), read_conditions([w for w in words if "=" in w])


def _keys(one: Checkpoint) -> dict[str, Any]:
    record = {key: getattr(one, key) for key in RECORD_KEYS}
    return {**{key: value for key, value in record.items() if value is not None}, **one.axes}


def _holds(one: Checkpoint, key: str, value: str) -> bool:
    """Whether a condition holds: numbers are compared as numbers; where the key is not there, nothing is asked."""
    found = _keys(one).get(key)
    if found is None or str(found) == value:
        return True
    with contextlib.suppress(TypeError, ValueError):
        return not isinstance(found, str) and float(found) == float(value)
    return False


def share_conditions(books: Sequence[Listed], where: Mapping[str, str]) -> list[dict[str, str]]:
    """Of the conditions on two sides those that each book can answer. Errors: StudyError where neither knows one."""
    _require_keys([one for book in books for one in book.checkpoints], where, books[0].place)
    known = [{key for one in book.checkpoints for key in _keys(one)} for book in books]
    return [{key: value for key, value in where.items() if key in mine} for mine in known]


def _require_keys(checkpoints: Sequence[Checkpoint], conditions: Mapping[str, str], place: str) -> None:
    known = sorted({key for one in checkpoints for key in _keys(one)})
    for key in conditions:
        if key not in known:
            hint = did_you_mean(key, known, before="; ")
            raise StudyError(f"{place}: no checkpoint has {key!r}; there are: {', '.join(known)}{hint}")


def _narrow(found: Sequence[Checkpoint], near: Checkpoint) -> list[Checkpoint]:
    """Of one lineage that which ``near`` started from; else those that share with it every key of both but the dose.

    A dose is how far the last stage went, which says nothing of the stage before.
    """
    started = [one for one in found if one.id == near.parent_id and len({other.lineage for other in found}) == 1]
    return started or share_keys(found, near, but=(DOSE,))


def share_keys(found: Iterable[Checkpoint], near: Checkpoint, *, but: Collection[str]) -> list[Checkpoint]:
    """Those that share with ``near`` base, seeds and axes, as far as both have them, but for some of these."""
    other = {key: value for key, value in _keys(near).items() if key not in but}
    return [one for one in found if all(other.get(key, value) == value for key, value in _keys(one).items())]


def _list(found: Sequence[Checkpoint]) -> str:
    names = "; ".join(f"{one.name} ({one.id[:8]})" for one in found[:MOST_NAMED])
    return names + (f"; … {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else "")


def _tell_differing(found: Sequence[Checkpoint]) -> str:
    """In which keys several checkpoints differ, with some of the values; nothing where only their stages do."""
    keys = [_keys(one) for one in found]
    told = []
    for key in sorted({key for one in keys for key in one}):
        values = list(dict.fromkeys(str(one.get(key, "none")) for one in keys))
        if len(values) > 1:
            told.append(f"{key} ({', '.join(values[:MOST_NAMED])}{', …' if values[MOST_NAMED:] else ''})")
    return f" they differ in {', '.join(told)};" if told else ""


def parent_of(book: Listed, child: Checkpoint) -> Checkpoint:
    """The checkpoint that a child's last stage started from. Errors: StudyError where the run does not have it."""
    found = next((one for one in book.checkpoints if one.id == child.parent_id), None)
    if found is None:
        raise StudyError(f"{book.place}: {child.name} has no parent in this run; name one with --parent")
    return found


def is_base_of(base: Checkpoint, child: Checkpoint) -> bool:
    """Whether a checkpoint is the untrained model that a child started from."""
    return not base.stages and base.base == child.base and bool(child.stages)
