"""Carries out a step from its slice, wherever that lies, and gives its outcomes as numbered envelopes.

SLICE ─ carry ─▶ OUT/000000.out, 000001.out, …      one outcome each, whole or not there
                 OUT/scratch/…                       what a training step leaves: weights and logs
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.records.errors import StoreError, require
from holdfast.records.extensions import allow
from holdfast.records.machine import describe_machine
from holdfast.records.outputs import write_file
from holdfast.runs.carrying.cutting import Slice, read_slice
from holdfast.runs.carrying.envelopes import pack
from holdfast.runs.plan.settings import StageSettings
from holdfast.runs.plan.step import Means, Step
from holdfast.runs.steps.outcomes import Began, End, describe_failure
from holdfast.runs.steps.working import carry_out
from holdfast.store.weights import WEIGHTS
from holdfast.study.command import CommandSection

SUFFIX = ".out"  # of the files of outcomes
SCRATCH = "scratch"
BEAT_SECONDS = 5.0
Send = Callable[[bytes], None]


def carry(
    piece: Slice, send: Send, *, weights_root: Path, scratch: Path, means: Means | None = None, node: str = ""
) -> bool:
    """Carry out a slice's step and send every outcome, last its end or its failure; whether it succeeded.

    ``weights_root`` holds the weights that the slice names under their digests, ``scratch`` is the step's own
    directory, and ``means`` say how remote models are reached. What ``send`` raises ends the step.
    """
    number = 0

    def emit(outcome: Any) -> None:
        nonlocal number
        data = pack(piece.attempt, number, outcome, scratch)
        number += 1
        try:
            send(data)
        except Exception as error:
            raise _NotSentError from error

    step = replace(piece.step, means=means or Means())
    try:
        emit(Began(node=node or os.uname().nodename, machine=describe_machine()))
        try:
            carry_out(step, piece.path, emit, weights_root=weights_root, scratch=scratch)
        except _NotSentError:
            raise
        except Exception as error:
            emit(describe_failure(error, piece.path))
            return False
        emit(End())
    except _NotSentError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    return True


class _NotSentError(Exception):
    """An outcome could not be sent: nobody waits for the step any more."""


def carry_to_directory(
    slice_path: Path,
    output: Path,
    *,
    weights_root: Path | None = None,
    scratch: Path | None = None,
    allow_command: bool = False,
    budget: Mapping[str, float | None] | None = None,
) -> bool:
    """Carry out the step of a slice into the new or empty directory ``output``; whether it succeeded.

    Weights lie in the slice unless a ``weights_root`` is given, the step's own directory in the output. A stage by a
    program is carried out where ``allow_command`` says so, one that asks remote models within a ``budget``
    (``max_calls``, ``max_cost``). Errors: StudyError for an output that holds something and for calls without a budget,
    StoreError for a slice that cannot be read or was changed.
    """
    piece = read_slice(slice_path)
    admit(piece.step, allow_command)
    asked = sorted(one.model for one in piece.step.settings.speakers().values() if one.entry.kind == "remote")
    bound = {name: most for name, most in (budget or {}).items() if most is not None}
    require(
        not asked or bool(bound),
        f"{piece.step.name}: asks {', '.join(dict.fromkeys(asked))}, which may be paid for; say how much with"
        " --max-calls or --max-cost",
    )
    require(not output.exists() or not any(output.iterdir()), f"{output}: is not empty; choose another output")
    output.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = weights_root or slice_path / WEIGHTS
    if lacking := [digest for digest in piece.weights if not (root / digest).is_dir()]:
        raise StoreError(
            f"{root}: lacks the weights {lacking[0]} ({len(lacking)} of {len(piece.weights)} lack); put the run's"
            " weights there, or name their directory with --weights"
        )
    count = 0

    def send(data: bytes) -> None:
        nonlocal count
        write_file(output / f"{count:06d}{SUFFIX}", data)
        count += 1

    means = Means(budget=bound)
    return carry(piece, send, weights_root=root, scratch=scratch or output / SCRATCH, means=means)


def admit(step: Step, allow_command: bool) -> None:
    """Refuse a stage by a program, unless whoever started this process lets programs run: no slice is a reason to.

    Errors: StoreError.
    """
    settings = step.settings
    if not (isinstance(settings, StageSettings) and isinstance(settings.section, CommandSection)):
        return
    if not allow_command:
        raise StoreError(
            f"{step.name}: is carried out by a program ({settings.section.line:.200}), which a slice is no reason to"
            " run; run it on the driver, or let this machine run programs (docs/cluster.md)"
        )
    allow([settings.section.command])


@contextlib.contextmanager
def beating(beat: Callable[[], object]) -> Iterator[None]:
    """Inside, signs of life are given at times; that one cannot be given ends nothing."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # whether the driver can be reached, the step's own words find out
                beat()

    threading.Thread(target=go, daemon=True).start()
    try:
        yield
    finally:
        over.set()
