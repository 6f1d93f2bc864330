"""A step as a job of a queue, beside a driver that shares a directory with it.

ATTEMPT/slice/        what the driver wrote
ATTEMPT/out/N.out     what came of it, whole or not there
ATTEMPT/out/beat      touched while the process lives
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.models.remote.clerk import FarLedger, ask_server
from holdfast.records.extensions import allow
from holdfast.runs.carrying.carry import SUFFIX, admit, beating, carry
from holdfast.runs.carrying.cutting import read_slice
from holdfast.runs.carrying.envelopes import pack
from holdfast.runs.plan.step import Means
from holdfast.runs.steps.outcomes import describe_failure

OUT, BEAT = "out", "beat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An attempt as a job: where it lies, its name, and the digest of its slice as the driver wrote it.

    ``means`` say how remote models are reached, ``clerk`` at which address the run's ledger is asked, with which token;
    ``permitted`` is what of others' code the driver's study names, ``variables`` what the process is to have in its
    environment, None for what it is not to have.
    """

    folder: Path
    attempt: str
    digest: str
    weights_root: Path
    scratch: Path
    means: Means
    clerk: tuple[tuple[str, int], str] | None
    permitted: tuple[Any, ...]
    variables: Mapping[str, str | None]


def runs_programs() -> bool:
    """Whether whoever started this process lets steps run programs here: ``HOLDFAST_ALLOW_COMMAND=1``."""
    return os.environ.get("HOLDFAST_ALLOW_COMMAND") == "1"


def carry_job(job: Job) -> bool:
    """Carry out an attempt's slice; whether that succeeded."""
    # By it submitit has a job stopped that is about to be taken away, or put it back into the queue. Slurm's own word
    # is what counts, and until then there is work to do.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    for name, value in job.variables.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    out, count = job.folder / OUT, 0
    allow(job.permitted)

    def send(data: bytes) -> None:
        # Not synced: after a crash of the machine the driver has the step carried out again.
        nonlocal count
        part = out / f".{count:06d}"
        part.write_bytes(data)
        part.rename(out / f"{count:06d}{SUFFIX}")
        count += 1

    with beating((out / BEAT).touch):
        try:
            piece = read_slice(job.folder / "slice")
            piece.require(job.attempt, job.digest)
            admit(piece.step, runs_programs())
        except Exception as error:
            send(pack(job.attempt, count, describe_failure(error, job.folder), job.scratch))
            return False
        means = job.means
        if job.clerk is not None:
            means = replace(means, ledger=FarLedger(ask_server(*job.clerk, job.attempt)))
        return carry(piece, send, weights_root=job.weights_root, scratch=job.scratch, means=means)
