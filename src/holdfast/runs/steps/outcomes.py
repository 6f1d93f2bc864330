"""What a step gives while it is carried out: records to commit, how far it is, and how it ended."""

from __future__ import annotations

import sqlite3
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from holdfast.models.remote.endpoints import redact
from holdfast.records import Checkpoint, PreferencePair, Score, Trajectory
from holdfast.records.errors import HoldfastError, ProviderError, StepError
from holdfast.records.outputs import describe_error, free_bytes
from holdfast.store import codec

PROGRESS_SECONDS = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records to commit together. Trajectories come without messages, their texts packed beside them.

    ``logprobs`` are a reference's, in nats by trajectory id; ``checkpoints`` those of another run's trajectories.
    """

    number: int
    size: int
    checkpoints: tuple[Checkpoint, ...] = ()
    trajectories: tuple[tuple[Trajectory, codec.Text], ...] = ()
    scores: tuple[Score, ...] = ()
    logprobs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is, in its own unit, and out of how much where only the step can tell."""

    done: int
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a step: its result (JSON), and what it made.

    That is pairs, or checkpoints with their directories (None for weights that stay where they are) and the ``logs`` of
    their training, files of JSON lines by what is added to their name.
    """

    result: Mapping[str, Any]
    pairs: tuple[PreferencePair, ...] = ()
    checkpoints: tuple[tuple[Checkpoint, Path | None], ...] = ()
    logs: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A step that ended in an error: one line for people, the traceback for the log."""

    message: str
    log: str


@dataclass(frozen=True, slots=True)
class End:
    """A step whose outcomes have all been delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A step that waited for a place and is at work now, on the node of this name, a ``machine`` as told of it."""

    node: str
    machine: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A step whose machine or process was lost, and which is to be carried out again from what is committed.

    ``counted`` is False where that says nothing of the step: a machine that was taken away, a time that ran out.
    """

    message: str
    counted: bool = True


def describe_failure(error: BaseException, run_path: Path) -> Failure:
    """An error that is being handled, as the end of a step of the run at ``run_path``.

    One of the disk names what failed there, and how much room there is.
    """
    shown = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        place = run_path if error.filename is None else error.filename
        shown = f"{place}: {describe_error(error, place)}"
    elif isinstance(error, sqlite3.Error):
        room = free_bytes(run_path)
        shown = f"{run_path}: its database failed ({error}{'' if room is None else f', {room:,} bytes are free there'})"
    return Failure(message=shown, log=redact(traceback.format_exc()))


def complete(results: Sequence[T | ProviderError], what: str) -> list[T]:
    """The results of a batch, if none of them was kept from being made. Errors: StepError naming the first outage."""
    lost = [result for result in results if isinstance(result, ProviderError)]
    if lost:
        raise StepError(
            f"{len(lost)} of {len(results)} {what} were not made: {lost[0]}; what was answered is kept, remove the"
            " cause and repeat the command to go on"
        )
    return [result for result in results if not isinstance(result, ProviderError)]


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, so many at a time: what is committed together."""
    waiting = iter(items)
    return iter(lambda: list(islice(waiting, size)), [])


Outcome = Batch | Progress | Finished
Emit = Callable[[Outcome], None]


def beat(emit: Emit, per_step: int = 1) -> Callable[[int, int], None]:
    """A progress callback that speaks at most every half second, in units of ``per_step``."""
    spoken = [time.monotonic()]

    def tell(done: int, size: int) -> None:
        if time.monotonic() - spoken[0] >= PROGRESS_SECONDS:
            spoken[0] = time.monotonic()
            emit(Progress(done=done * per_step, size=size * per_step))

    return tell
