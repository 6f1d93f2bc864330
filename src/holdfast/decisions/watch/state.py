"""What a watch has seen, in one file that is replaced whole: looks that were taken stay taken.

The file is JSON. It holds ids, scores and settings, no text of an episode, and a digest of all that. What was declared
when it was begun is held against what is declared now, and the first key that differs is named. One watch at a time is
at work on it, from before it is read until it is replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter

from holdfast.records.errors import StudyError
from holdfast.records.inputs import read_bytes, strict_json
from holdfast.records.outputs import write_file
from holdfast.report.words.inert import cut_line
from holdfast.store.tables import MAX_SCORE, MIN_SCORE

VERSION = 2
WITHOUT_DIGEST = 1  # the version before
KEY = "holdfast_watch"
HELD = ("declared", "baseline", "asked", "frozen", "looks")  # of a state, in the order of the file
MOST_BYTES = 256 << 20  # of the file
MOST_SHOWN = 60  # characters of what was declared, in an error
WAIT_SECONDS = 60.0  # for another watch with the same state
UNCHECKED = (
    "the state was not checked: an earlier version wrote it, without a digest of what it holds; it gets one with the"
    " next look"
)

_DECODER = strict_json(ValueError, ValueError)

Score = Annotated[float, Field(ge=MIN_SCORE, le=MAX_SCORE)]
Values = Mapping[str, tuple[Score, ...]]
"""A checkpoint's scores by case, one for each rollout that has one; those of traces by the digest of a trace's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look: its ``label``, a digest of its ``data``, its scores by case, and how many rollouts have none.

    ``traces`` are the digests of the ids of all traces that were asked for, with a score or without (none for cases).
    ``frozen`` are the scores that the judge gave the frozen set at this look (None: not tried, or no verdict).
    ``notes`` is what else was found then: the case mix, the audit, what was left out.
    """

    label: str
    data: str
    values: Values
    missing: NonNegativeInt = 0
    traces: tuple[str, ...] = ()
    frozen: Mapping[str, Score | None] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class State:
    """What is declared, the baseline's scores, the frozen set's first scores, and the looks in their order.

    ``asked`` counts the baseline's cases or traces, with a score or without; None counts those with a score.
    """

    declared: Mapping[str, Any]
    baseline: Values
    asked: NonNegativeInt | None = None
    frozen: Mapping[str, Score] = field(default_factory=dict)
    looks: list[Seen] = field(default_factory=list)
    digest: str | None = None
    checked: bool = True  # against the digest in the file; one of an earlier version has none

    def find(self, label: str, data: str) -> Seen | None:
        """The look that was taken under this label.

        Errors: StudyError where it was taken of other data, or these data under another label.
        """
        for look in self.looks:
            if look.data == data and look.label != label:
                raise StudyError(
                    f"look {label!r}: has the very data of look {look.label!r}, which counts once; give new data"
                )
        taken = next((look for look in self.looks if look.label == label), None)
        if taken is not None and taken.data != data:
            raise StudyError(
                f"look {label!r}: was taken before, of other data; a look is not taken twice: give this one a label of"
                " its own"
            )
        return taken


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _spell(row: Mapping[str, Any]) -> bytes:
    """A document as it stands in the file. A path as a label may hold bytes that are no UTF-8: they stay escapes."""
    return (json.dumps(row, ensure_ascii=True, allow_nan=False, indent=1) + "\n").encode()


def _held_by(state: State) -> dict[str, Any]:
    held = asdict(state)
    return {key: held[key] for key in HELD}


def _digest_row(row: Mapping[str, Any]) -> str:
    """The digest of a document without its own."""
    held = {key: value for key, value in row.items() if key != "digest"}
    return _digest(json.dumps(held, sort_keys=True, allow_nan=False).encode())


@contextlib.contextmanager
def hold_state(path: Path | None) -> Iterator[None]:
    """Inside, no other watch with the same state is at work; one that is, is waited for.

    Errors: StudyError where it takes longer than a minute, or where nothing can be written beside the state.
    """
    if path is None:
        yield
        return
    path = path.resolve()
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _take(lock)
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    if handle is None:
        raise StudyError(f"{path}: another watch is at work on this state; repeat the command when it has ended")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _take(lock: Path) -> int | None:
    """An open file at ``lock`` that nobody else holds; None where somebody still does after the wait."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), lock.stat()):  # who held it last may have removed it meanwhile
                return handle
        os.close(handle)
        if time.monotonic() > until:
            return None
        time.sleep(0.05)


def load_state(path: Path, declared: Mapping[str, Any]) -> State | None:
    """The state at ``path``, None where there is none. Errors: StudyError where it is damaged or of another watch."""
    if not path.exists():
        return None
    data = read_bytes(path, MOST_BYTES, remedy="give a file to keep the state in")
    state = _read(path, data)
    for key in sorted({*declared, *state.declared}):
        if (was := state.declared.get(key)) != (now := json.loads(json.dumps(declared.get(key)))):
            shown = " and is ".join(cut_line(json.dumps(value, ensure_ascii=False), MOST_SHOWN) for value in (was, now))
            raise StudyError(
                f"{path}: is the state of another watch: {key} was {shown}; keep what was declared, or begin a new"
                " state file"
            )
    state.digest = _digest(data)
    return state


def _read(path: Path, data: bytes) -> State:
    try:
        row = _DECODER.decode(data.decode())
        if row[KEY] not in (VERSION, WITHOUT_DIGEST):
            raise StudyError(f"{path}: a state of version {row[KEY]!r}, expected {VERSION}; begin a new state file")
        if ("digest" in row) != (row[KEY] == VERSION) or row.get("digest") not in (None, _digest_row(row)):
            raise ValueError("another digest")
        # What says the same in other bytes, as an escape in another case, was not written here either.
        if row[KEY] == VERSION and _spell(row) != data:
            raise ValueError("other bytes than a watch writes")
        if any(look.keys() < {one.name for one in fields(Seen)} for look in row["looks"]):
            raise ValueError("a look without all its parts")
        # Not as JSON, which pydantic reads without the escapes of bytes that are no UTF-8; what it made of another type
        # is found by writing it again.
        held = {key: row[key] for key in HELD}
        state = TypeAdapter(State).validate_python(held)
        if _spell(_held_by(state)) != _spell(held):
            raise ValueError("a value of another type")
        if len({one.label for one in state.looks}) < len(state.looks):
            raise ValueError("a look stands twice")
        state.checked = row[KEY] == VERSION
        return state
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StudyError(
            f"{path}: is no state of a watch, or a damaged one ({type(error).__name__}); restore it or give another"
            " file: nothing was written"
        ) from error


def save_state(path: Path, state: State) -> None:
    """Replace the file in one step. Errors: StudyError where it cannot be written, or changed meanwhile."""
    row: dict[str, Any] = {KEY: VERSION, **_held_by(state)}
    row["digest"] = _digest_row(row)
    data = _spell(row)
    there = _digest(path.read_bytes()) if path.is_file() else None
    if there != state.digest:
        raise StudyError(f"{path}: changed while this watch was at work; repeat the command")
    write_file(path, data, remedy="choose another place")
    state.digest = _digest(data)
