"""The engine that a name stands for: nothing or ``local``, ``ray``, ``ray:ADDRESS``, ``slurm``, ``jobs``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from holdfast.records.disks import is_shared
from holdfast.records.errors import StudyError, did_you_mean
from holdfast.runs.build import build
from holdfast.runs.engines.engine import Engine
from holdfast.runs.engines.local import InProcess, Workers
from holdfast.runs.engines.sliced import SlicedWorkers
from holdfast.runs.steps.reading import rest
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store
from holdfast.store.places import CARRIED
from holdfast.study.study import Study

VARIABLE = "HOLDFAST_ENGINE"
LOCAL, RAY, SLURM, JOBS = "local", "ray", "slurm", "jobs"
NAMES = (LOCAL, RAY, SLURM, JOBS)


def name_engine(given: str | None) -> str:
    """The engine that was asked for: what was given, else what the environment says, else ``local``.

    Errors: StudyError for one that there is not.
    """
    name = given or os.environ.get(VARIABLE) or LOCAL
    kind, colon, address = name.partition(":")
    if kind not in NAMES or (colon and (kind != RAY or not address)):
        hint = did_you_mean(kind, NAMES, after=" ")
        raise StudyError(f"--engine {name!r:.80}: {hint}engines there are: local, ray, ray:ADDRESS, slurm, jobs")
    return name


def look_at_engine(name: str, study: Study) -> list[str]:
    """What a cluster has, and what of it is unlike this machine, a line each; nothing of this machine itself.

    Errors: StudyError for what the study needs and the cluster lacks.
    """
    kind, _, address = name.partition(":")
    if kind == RAY:
        from holdfast.runs.engines.ray import look_at_cluster

        return look_at_cluster(address, build(study).steps)
    if kind in (SLURM, JOBS):
        from holdfast.runs.engines.jobs import look_at_queue

        return look_at_queue(kind, build(study).steps)
    return []


def _end_attempts(folder: Path) -> None:
    """End and remove what a driver that is no more had carried out elsewhere, whichever engine it had.

    Tasks of Ray end with their driver.
    """
    if folder.is_dir():
        from holdfast.runs.engines.jobs import cancel_job

        for attempt in folder.iterdir():
            cancel_job(attempt)
        shutil.rmtree(folder, ignore_errors=True)


def open_engine(name: str, store: Store, workers: int) -> Engine:
    """The engine of a name that ``name_engine`` gave, for the run that ``store`` writes.

    It has so many ``workers``, processes of this machine. Errors: StudyError in one line for what it lacks.
    """
    kind, _, address = name.partition(":")
    _end_attempts(store.path / CARRIED)
    if kind == LOCAL and workers == 1 and not is_shared(store.path):
        return InProcess(carry_out, store.path)
    if is_shared(store.path):
        near: Workers = SlicedWorkers(store, workers)
    else:
        near = Workers(carry_out, rest, store.path, workers)
    if kind == LOCAL:
        return near
    try:
        if kind == RAY:
            from holdfast.runs.engines.ray import RayEngine

            return RayEngine(store, near, address)
        from holdfast.runs.engines.jobs import JobEngine

        return JobEngine(store, near, queue=kind)
    except BaseException:
        near.close()
        raise
