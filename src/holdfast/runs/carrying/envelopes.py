"""What comes of a step, as bytes that travel: JSON of one outcome, with the attempt that it is of and its number.

Nothing is unpickled of what another machine sends. Directories and logs that a step leaves travel as paths within the
step's own directory, which whoever takes them lays under its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from holdfast.records.errors import StoreError
from holdfast.runs.steps.outcomes import Batch, Began, End, Failure, Finished, Lost, Outcome, Progress
from holdfast.store.weights import digest_directory

Travelling = Batch | Progress | Finished | Began | End | Failure | Lost
_LOG_KIND = re.compile(r"[.\w]*")  # what is added to the name of a step's log
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants", extra="forbid")
# In a tuple: a dataclass alone would take no settings but its own.
_KINDS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(tuple[kind], config=_CONFIG)  # type: ignore[valid-type]
    for kind in get_args(Travelling)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One outcome: of which attempt, and which of its outcomes, counted from 0.

    ``digests`` are those of the directories of weights that it leaves, by their paths in the step's directory.
    """

    attempt: str
    number: int
    outcome: Any
    digests: Mapping[str, str]


def pack(attempt: str, number: int, outcome: Travelling | Outcome, scratch: Path) -> bytes:
    """An outcome as bytes; what it left lies in ``scratch``. Errors: StoreError for what lies elsewhere."""
    digests: dict[str, str] = {}
    if isinstance(outcome, Finished):
        left = [place for _, place in outcome.checkpoints if place is not None]
        digests = {_within(place, scratch).as_posix(): digest_directory(place) for place in left}
        made = tuple((one, place and _within(place, scratch)) for one, place in outcome.checkpoints)
        logs = {kind: _within(log, scratch) for kind, log in outcome.logs.items()}
        outcome = replace(outcome, checkpoints=made, logs=logs)
    kind = type(outcome).__name__
    body = _KINDS[kind].dump_json((outcome,))
    told = {"attempt": attempt, "number": number, "kind": kind, "digests": digests, "body": _digest(body)}
    return json.dumps(told).encode() + b"\n" + body


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def unpack(data: bytes, scratch: Path) -> Envelope:
    """The envelope of some bytes, with what it left in ``scratch``. Errors: StoreError for what is none."""
    try:
        head, _, body = data.partition(b"\n")
        told = json.loads(head)
        if told["body"] != _digest(body):
            raise ValueError("it is not as it was sent")
        (outcome,) = _KINDS[told["kind"]].validate_json(body)
        envelope = Envelope(
            attempt=str(told["attempt"]),
            number=int(told["number"]),
            outcome=outcome,
            digests={str(name): str(digest) for name, digest in told["digests"].items()},
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ValidationError) as error:
        shown = " ".join(str(error).split())[:200]
        raise StoreError(f"an outcome of a step that cannot be read ({type(error).__name__}: {shown})") from error
    if isinstance(outcome, Finished):
        made = tuple((one, place and place_below(place, scratch)) for one, place in outcome.checkpoints)
        logs = {kind: place_below(log, scratch) for kind, log in outcome.logs.items()}
        if strange := [kind for kind in logs if not _LOG_KIND.fullmatch(kind)]:
            raise StoreError(f"{strange[0]!r:.80} is no kind of log; the outcome is not taken")
        envelope = replace(envelope, outcome=replace(outcome, checkpoints=made, logs=logs))
    return envelope


def _within(place: Path, scratch: Path) -> Path:
    try:
        return place.absolute().relative_to(scratch.absolute())
    except ValueError as error:
        raise StoreError(f"{place}: lies outside the step's directory {scratch}; mend the method") from error


def place_below(place: Path, scratch: Path) -> Path:
    """A path within a step's directory, which no name in it leaves. Errors: StoreError."""
    parts = PurePosixPath(place).parts
    if not parts or PurePosixPath(place).is_absolute() or any(part in ("..", ".") for part in parts):
        raise StoreError(f"{str(place)[:200]!r} is no place in a step's directory; the outcome is not taken")
    found = scratch
    for part in parts:
        found /= part
        if found.is_symlink():
            raise StoreError(f"{found}: is a link; the outcome is not taken")
    return found
