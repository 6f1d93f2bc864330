"""A blessed baseline: a former before-side, kept with the day on which it was blessed and digests of all that it holds.

    DIR/baseline.json   the stamp: when, of which commit, which side, and the digests
    DIR/NAME            the side itself: a log, a table, a folder of them, or a run

What was changed since is refused: a gate against another before-side than the one that was blessed is another test.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from holdfast.decisions.gate.books import is_run, split_place
from holdfast.records.errors import StudyError, require
from holdfast.records.inputs import SETTINGS_BYTES, read_bytes
from holdfast.records.outputs import new_directory, to_json, write_file
from holdfast.records.section import Section
from holdfast.records.words import count_noun
from holdfast.runs.run import check_run
from holdfast.store import Store
from holdfast.store.copying import copy_run

STAMP = "baseline.json"
_DAY = 86_400  # seconds
_CLOCKS = 1.0  # days by which the clocks of two machines may be apart
_ANEW = "bless one anew"


class _Stamp(Section):
    """What stands in ``baseline.json``. ``digests`` are by file, or the one digest of a run under its name."""

    format: Literal[1]
    blessed: AwareDatetime
    commit: str = Field(default="", pattern=r"^([0-9a-f]{7,64})?$")
    side: str = Field(pattern=r"^[^/\x00]+$")
    checkpoint: str = ""
    digests: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A before-side that was blessed: ``side`` is what a gate takes as parent; no date where nobody noted one."""

    side: str
    stamp: Path
    blessed: datetime | None = None
    commit: str = ""

    def age(self, now: datetime) -> float | None:
        """Days since it was blessed; None where nobody noted when."""
        return None if self.blessed is None else max(0.0, (now - self.blessed).total_seconds() / _DAY)


def bless(side: str, folder: Path, *, commit: str = "", now: datetime | None = None) -> Baseline:
    """Copy a before-side into ``folder``, in place of a former baseline; what it is of now on.

    Errors: StudyError where there is no such side, or something else is at ``folder``; StoreError for a damaged run.
    """
    place, checkpoint = split_place(side, None)
    place = place.resolve()
    require(place.name != STAMP, f"{place}: is a baseline's stamp; give the log, the table or the run beside it")
    free = not folder.exists() or (folder / STAMP).is_file() or (folder.is_dir() and not any(folder.iterdir()))
    require(free, f"{folder}: is there and holds no baseline; give another directory")
    with new_directory(folder, replaces=True) as part:
        _copy(place, part / place.name)
        stamp = {
            "format": 1,
            "blessed": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
            "commit": commit,
            "side": place.name,
            "checkpoint": checkpoint,
            "digests": _digest(part / place.name),
        }
        write_file(part / STAMP, to_json(stamp) + "\n")
    return open_baseline(folder, now)


def open_baseline(path: Path, now: datetime | None = None) -> Baseline:
    """The baseline at a path: a blessed directory, or any side, of which nobody knows how old it is.

    Errors: StudyError where nothing is there, or what is there is not what was blessed.
    """
    require(path.exists(), f"baseline {path}: is not there; {_ANEW} from the before-side of a gate that you trust")
    if not (path / STAMP).is_file():
        return Baseline(side=str(path), stamp=path)
    stamp = _read_stamp(path / STAMP)
    side = path / stamp.side
    require(side.exists(), f"baseline {side}: is not there, though it was blessed; {_ANEW}")
    _compare(side, stamp.digests)
    since = (stamp.blessed - (now or datetime.now(UTC))).total_seconds() / _DAY
    require(since <= _CLOCKS, f"baseline {path}: says that it was blessed in {since:.0f} days; {_ANEW}")
    named = f"{side}:{stamp.checkpoint}" if stamp.checkpoint else str(side)
    return Baseline(side=named, stamp=path / STAMP, blessed=stamp.blessed, commit=stamp.commit)


def describe_baseline(baseline: Baseline, now: datetime) -> str:
    """``the baseline baseline/before.eval was blessed 12 days ago, on 2026-11-19 (commit 0123456)``."""
    days, blessed = baseline.age(now), baseline.blessed
    if days is None or blessed is None:
        return f"the baseline {baseline.side} has no {STAMP}: nobody noted how old it is"
    ago = f"{count_noun(int(days), 'days')} ago" if days >= 1 else "today"
    told = f"the baseline {baseline.side} was blessed {ago}, on {blessed.astimezone(UTC).date()}"
    return f"{told} (commit {baseline.commit[:7]})" if baseline.commit else told


def doubt_baseline(baseline: Baseline, most_days: float, now: datetime) -> str:
    """Why a baseline is to be blessed anew; empty where it is not."""
    days = baseline.age(now)
    if days is None:
        return f"{describe_baseline(baseline, now)}; bless it, so that its age is known"
    if days > most_days:
        return f"{describe_baseline(baseline, now)}: more than {most_days:g} days; bless a new one"
    return ""


def _read_stamp(path: Path) -> _Stamp:
    try:
        data: Any = json.loads(read_bytes(path, SETTINGS_BYTES, remedy=_ANEW))
        stamp = _Stamp.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise StudyError(f"{path}: no stamp of a baseline ({where}: {first['msg']}); {_ANEW}") from error
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: no JSON ({error}); {_ANEW}") from error
    require(stamp.side not in (".", "..", STAMP), f"{path}: side {stamp.side!r} is no name of a file; {_ANEW}")
    return stamp


def _copy(source: Path, target: Path) -> None:
    if is_run(source):
        target.mkdir()
        copy_run(source, target)
    elif source.is_dir():
        for one in _files(source):
            (target / one).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / one, target / one)
    else:
        shutil.copyfile(source, target)


def _digest(side: Path) -> dict[str, str]:
    """SHA-256 by file, or the run's own digest."""
    if is_run(side):
        with Store(side) as store:
            return {side.name: check_run(store)[0]}
    found = {}
    for one in _files(side):
        with (side / one).open("rb") as file:
            found[str(one)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _files(side: Path) -> list[PurePosixPath]:
    """The files of a side below it, or the side itself as ``.``. Errors: StudyError for what is neither."""
    found = []
    for one in sorted(side.rglob("*")) if side.is_dir() else [side]:
        require(not one.is_symlink(), f"{one}: is a link; a baseline holds files, so put the file itself there")
        if not one.is_dir():
            require(one.is_file(), f"{one}: is a device or a pipe; a baseline holds files")
            found.append(PurePosixPath(one.relative_to(side).as_posix()))
    return found


def _compare(side: Path, noted: Mapping[str, str]) -> None:
    """Hold a side against the digests of its stamp. Errors: StudyError with the first file that differs."""
    found = _digest(side)
    for name in sorted(noted.keys() | found.keys()):
        if noted.get(name) != found.get(name):
            how = "is new" if name not in noted else "is gone" if name not in found else "was changed"
            place = side if name in (".", side.name) else side / name
            raise StudyError(f"baseline {place}: {how} since it was blessed; restore it, or {_ANEW}")
