"""What tests of the field cases of Inspect logs share."""

from __future__ import annotations

from pathlib import Path

from holdfast.records import Score, Trajectory
from holdfast.store import Store, origins
from holdfast.store.origins import LogState


def episodes(run: Path) -> list[Trajectory]:
    with Store(run) as store:
        return list(store.trajectories())


def scores(run: Path) -> list[Score]:
    with Store(run) as store:
        return [score for one in store.trajectories() for score in store.scores(one.id)]


def states(run: Path) -> dict[str, LogState]:
    with Store(run) as store:
        return {Path(one.file).name: one for one in origins.read_log_states(store)}


def told(notes: tuple[str, ...], *words: str) -> bool:
    return any(all(word in note for word in words) for note in notes)
