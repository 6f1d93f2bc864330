"""A run copied, whole or in part, with everything held against its digests."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from holdfast.records.errors import StoreError
from holdfast.records.inputs import reading_address
from holdfast.store import Store
from holdfast.store.checking import read_checked
from holdfast.store.database import PRIVATE_DIRECTORY, copy_rows
from holdfast.store.places import ANALYSIS_FILE, LEDGER, LOGS
from holdfast.store.steplog import LOG_DIGESTS
from holdfast.store.weights import WEIGHTS

_KIND = re.compile(r"[\w.-]*")  # what is added to the name of a log


def copy_run(source: Path, target: Path) -> None:
    """A run with all that it holds in the empty directory ``target``, in today's format, whichever it had.

    Its weights, logs and analysis are held against their digests. Errors: StoreError.
    """
    target.chmod(PRIVATE_DIRECTORY)
    fill_copy(source, target, lambda _: None)
    with Store(source) as store:
        if (data := read_analysis(store)) is not None:
            (target / ANALYSIS_FILE).write_bytes(data)


def read_analysis(store: Store) -> bytes | None:
    """The document of a run's analysis as its step wrote it; None where there is none. Errors: StoreError."""
    ended = [one for one in store.log.steps().values() if one.kind == "analyze" and one.status == "done"]
    # A study that grew, as a search's does, ends with another analysis in the same place.
    last = max(ended, key=lambda one: one.finished or 0, default=None)
    return read_checked(store.path / ANALYSIS_FILE, None if last is None else last.result.get("digest"))


def fill_copy(source: Path, target: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    """A run's database with a change, and the calls, weights and logs that go with what is left of it."""
    with Store(source) as old:
        copy_rows(source, target, change)
        if (source / LEDGER).is_file():  # what was paid for is not paid for again
            _back_up(source / LEDGER, target / LEDGER)
        for name in (WEIGHTS, LOGS):
            (target / name).mkdir(mode=PRIVATE_DIRECTORY)
        with Store(target) as store:
            for checkpoint in store.checkpoints():
                if checkpoint.path is not None and not (target / checkpoint.path).exists():
                    shutil.copytree(old.weights(checkpoint), target / checkpoint.path)
            for path, data in read_logs(store, source):
                if data is not None:
                    (target / LOGS / path.name).write_bytes(data)


def read_logs(
    store: Store, source: Path | None = None, *, steps: Collection[str] | None = None
) -> Iterator[tuple[Path, bytes | None]]:
    """The logs of a run's training stages, None for one that is gone; of ``source`` where that holds them.

    With ``steps`` those of these steps alone, by fingerprint.

    Errors: StoreError for one that is not as it was written, and for a name that would lead elsewhere.
    """
    for fingerprint, status in store.log.steps().items():
        if steps is not None and fingerprint not in steps:
            continue
        noted: Mapping[str, str | None] = status.result.get(LOG_DIGESTS, {"": None})
        for kind, digest in noted.items():
            if not _KIND.fullmatch(kind):
                raise StoreError(f"{store.path}: {kind[:40]!r} is no kind of a log of training; restore the run")
            path = (source or store.path) / LOGS / f"{fingerprint}{kind}.jsonl"
            data = read_checked(path, digest)
            if data is not None or digest is not None:
                yield path, data


def _back_up(source: Path, target: Path) -> None:
    """A ledger as it is, whoever writes to it meanwhile; nothing is in flight in the copy."""
    with (
        contextlib.closing(sqlite3.connect(reading_address(source), uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        if new.execute("SELECT count(*) FROM sqlite_master WHERE name = 'flights'").fetchone()[0]:
            new.execute("DELETE FROM flights")
            new.commit()
