"""Starting a new run from an old one: what a changed study can still use is copied, the rest is left behind."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from holdfast.errors import StoreError, StudyError
from holdfast.outputs import new_directory
from holdfast.plan import Plan
from holdfast.store import Store
from holdfast.store.checking import read_checked
from holdfast.store.database import PRIVATE_DIRECTORY, copy_rows, reading_address
from holdfast.store.steplog import LOG_DIGESTS
from holdfast.store.weights import WEIGHTS

STUDY_KEY = "study"
ENDPOINTS_KEY = "endpoints"  # how the study's remote models are reached: no secrets, and no part of what was asked
FORKED_KEY = "forked_from"
LEDGER = "calls.db"  # of a run: every call to a remote model, with its reply
ANALYSIS_FILE = "analysis.json"
LOGS = "logs"  # where a run keeps the logs of its training stages, by step

_KIND = re.compile(r"[\w.-]*")  # what is added to the name of a log
_WANTED = (
    *("wanted (fingerprint TEXT PRIMARY KEY)", "wanted_brought (fingerprint TEXT PRIMARY KEY)"),
    *("wanted_checkpoints (id TEXT PRIMARY KEY)", "wanted_scores (step TEXT, judge TEXT, PRIMARY KEY (step, judge))"),
)
# What a step made goes with it; what nothing refers to any more goes last.
_PRUNE = """
DELETE FROM meta WHERE key = 'study';
DELETE FROM steps WHERE fingerprint NOT IN (SELECT fingerprint FROM wanted) OR status <> 'done';
DELETE FROM batches WHERE fingerprint NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM pairs WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM logprobs WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM scores WHERE NOT EXISTS
  (SELECT 1 FROM wanted_scores w JOIN trajectories t ON t.step = w.step JOIN judges j ON j.name = w.judge
   WHERE t.key = scores.trajectory AND j.key = scores.judge)
  AND trajectory NOT IN (SELECT key FROM trajectories WHERE step IN (SELECT fingerprint FROM wanted_brought));
DELETE FROM judges WHERE key NOT IN (SELECT judge FROM scores);
DELETE FROM trajectories WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM checkpoints WHERE id NOT IN (SELECT id FROM wanted_checkpoints)
  AND key NOT IN (SELECT checkpoint FROM trajectories);
DELETE FROM splits;
DELETE FROM cases WHERE key NOT IN (SELECT case_key FROM trajectories);
DELETE FROM texts WHERE key NOT IN (SELECT text FROM trajectories UNION SELECT text FROM cases
  UNION SELECT reply FROM scores WHERE reply IS NOT NULL);
"""


def fork_run(source: Path, target: Path, plan: Plan) -> None:
    """Make a run at ``target`` with every finished step of ``source`` that ``plan`` needs; ``source`` is not touched.

    A target that is there already is left as it is, so that a fork that was begun goes on. Errors: StoreError
    where ``source`` holds no run, StudyError where it holds no study's or ``target`` cannot be written.
    """
    with Store(source) as store:
        if store.meta(STUDY_KEY) is None:
            raise StudyError(
                f"{source}: holds no study's run; there is nothing to fork, run the study into a new output"
            )
    if target.exists():
        return
    remedy = "choose another place for the fork"
    with new_directory(target, remedy=remedy) as part:
        part.chmod(PRIVATE_DIRECTORY)
        try:
            _fill(source, part, lambda db: _prune(db, source, plan))
        except sqlite3.OperationalError as error:
            raise StudyError(f"{target}: cannot write a run here ({error}); {remedy}") from error


def copy_run(source: Path, target: Path) -> None:
    """A run with all that it holds in the empty directory ``target``, in today's format, whichever it had.

    Its weights, logs and analysis are held against their digests. Errors: StoreError.
    """
    target.chmod(PRIVATE_DIRECTORY)
    _fill(source, target, lambda _: None)
    with Store(source) as store:
        if (data := read_analysis(store)) is not None:
            (target / ANALYSIS_FILE).write_bytes(data)


def read_analysis(store: Store) -> bytes | None:
    """The document of a run's analysis as its step wrote it; None where there is none. Errors: StoreError."""
    ended = [one for one in store.log.steps().values() if one.kind == "analyze" and one.status == "done"]
    # A study that grew, as a search's does, ends with another analysis in the same place.
    last = max(ended, key=lambda one: one.finished or 0, default=None)
    return read_checked(store.path / ANALYSIS_FILE, None if last is None else last.result.get("digest"))


def _fill(source: Path, target: Path, change: Callable[[sqlite3.Connection], None]) -> None:
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


def read_logs(store: Store, source: Path | None = None) -> Iterator[tuple[Path, bytes | None]]:
    """The logs of a run's training stages, None for one that is gone; of ``source`` where that holds them.

    Errors: StoreError for one that is not as it was written, and for a name that would lead elsewhere.
    """
    for fingerprint, status in store.log.steps().items():
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


def _prune(db: sqlite3.Connection, source: Path, plan: Plan) -> None:
    """Take out what a plan has no use for, inside the transaction of a copy."""
    for table in _WANTED:
        db.execute(f"CREATE TEMP TABLE {table}")
    db.executemany("INSERT INTO wanted VALUES (?)", [(step.fingerprint,) for step in plan.steps])
    brought = [(step.fingerprint,) for step in plan.steps if step.kind == "bring"]
    db.executemany("INSERT INTO wanted_brought VALUES (?)", brought)
    begun = {row[0] for row in db.execute("SELECT fingerprint FROM main.steps")}
    judged = [step for step in plan.steps if step.kind == "judge" and step.fingerprint in begun]
    db.executemany(
        "INSERT INTO wanted_scores VALUES (?, ?)", [(one.inputs[0], one.settings["judge"]) for one in judged]
    )
    made = {checkpoint.id for step in plan.steps for checkpoint in step.checkpoints}
    db.executemany("INSERT INTO wanted_checkpoints VALUES (?)", [(name,) for name in made])
    for statement in _PRUNE.split(";"):
        db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (FORKED_KEY, str(source.absolute())))
