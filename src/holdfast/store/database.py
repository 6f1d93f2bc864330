"""A run's database file: its schema, how it is made, opened, and kept to one writer.

One process writes, under a lock on ``run.lock`` that ends with the process; any number read.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast.records.disks import is_shared
from holdfast.records.errors import StoreError, StudyError
from holdfast.records.inputs import reading_address
from holdfast.store.checking import refuse_links, reseal
from holdfast.store.seals import SEAL_SCHEMA
from holdfast.store.steplog import STEP_SCHEMA

FORMAT = 2
UNSEALED = 1  # the format before, whose rows have no digests: it is read, and never written
DATABASE = "run.db"
LOCK = "run.lock"
SNAPSHOT = "snapshot.db"  # of a run that is being written on a network disk
COPIED_KEY = "digests"  # under ``meta`` of a copy whose source had none
PRIVATE_FILE, PRIVATE_DIRECTORY = 0o600, 0o700  # what a run holds is for its owner's eyes
FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal")
PAGE_CACHE_KIB = 32 * 1024
PAGE_BYTES = 16 * 1024  # compressed texts are 1-20 kB: larger pages waste less space and time on them
# A REAL holds a float64 bit by bit; NaN would be NULL.
SCHEMA = (
    STEP_SCHEMA
    + SEAL_SCHEMA
    + """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE dictionaries (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE texts (key INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, dictionary INTEGER NOT NULL,
  body BLOB NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE cases (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, suite TEXT NOT NULL, number INTEGER NOT NULL,
  family TEXT NOT NULL, text INTEGER NOT NULL REFERENCES texts, seal INTEGER NOT NULL,
  UNIQUE (suite, number));
CREATE TABLE splits (split_seed INTEGER NOT NULL, case_key INTEGER NOT NULL REFERENCES cases, part TEXT NOT NULL,
  seal INTEGER NOT NULL, PRIMARY KEY (split_seed, case_key)) WITHOUT ROWID;
CREATE TABLE checkpoints (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL,
  seal INTEGER NOT NULL);
CREATE TABLE trajectories (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, case_key INTEGER NOT NULL REFERENCES cases,
  checkpoint INTEGER NOT NULL REFERENCES checkpoints, rollout INTEGER NOT NULL, step TEXT, ending TEXT NOT NULL,
  flags INTEGER NOT NULL, calls INTEGER NOT NULL, invalid_calls INTEGER NOT NULL, tokens INTEGER,
  text INTEGER NOT NULL REFERENCES texts, seal INTEGER NOT NULL);
CREATE INDEX trajectories_by_step ON trajectories (step) WHERE step IS NOT NULL;
CREATE TABLE judges (key INTEGER PRIMARY KEY, name TEXT NOT NULL, objective TEXT NOT NULL, rubric TEXT NOT NULL,
  seal INTEGER NOT NULL, UNIQUE (name, objective, rubric));
CREATE TABLE scores (trajectory INTEGER NOT NULL REFERENCES trajectories, judge INTEGER NOT NULL REFERENCES judges,
  repeat INTEGER NOT NULL, value REAL, missing TEXT, label TEXT, reply INTEGER REFERENCES texts,
  seal INTEGER NOT NULL, PRIMARY KEY (trajectory, judge, repeat),
  CHECK ((value IS NULL) <> (missing IS NULL))) WITHOUT ROWID;
CREATE TABLE pairs (step TEXT NOT NULL, position INTEGER NOT NULL, chosen INTEGER NOT NULL, rejected INTEGER NOT NULL,
  objectives TEXT NOT NULL, judge TEXT NOT NULL, gap REAL NOT NULL, weight REAL NOT NULL,
  seal INTEGER NOT NULL, PRIMARY KEY (step, position)) WITHOUT ROWID;
CREATE TABLE logprobs (step TEXT NOT NULL, trajectory INTEGER NOT NULL REFERENCES trajectories,
  value REAL NOT NULL CHECK (typeof(value) = 'real' AND value BETWEEN -1e300 AND 0),
  seal INTEGER NOT NULL, PRIMARY KEY (step, trajectory)) WITHOUT ROWID;
"""
)


class WriteLock:
    """The right to write to a run; held until it is closed or the process ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock of the run at ``path``. Errors: StoreError naming the process that holds it."""
        try:
            self._file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise StoreError(
                f"{path / LOCK}: cannot be written ({error.strerror}); check its disk and owner"
            ) from error
        _take(self._file, path, fcntl.LOCK_EX)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Give the right to write back."""
        os.close(self._file)


@contextlib.contextmanager
def hold_still(path: Path) -> Iterator[None]:
    """Keep writers from the run at ``path`` while it is read. Errors: StoreError naming the process that writes to it.

    Any number hold a run still at a time. One whose file of the lock is gone, or that nobody may write to, has no
    writer to keep away.
    """
    try:
        file = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield
        return
    _take(file, path, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path, how: int) -> None:
    """Lock the open file of a run's lock, or close it. Errors: StoreError naming the process that holds it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(file, 32).decode(errors="replace").strip()
        os.close(file)
        raise StoreError(f"{path}: another process writes to this run (pid {owner}); wait for it or stop it") from error


def readable(path: Path) -> Path:
    """The database to read of the run at ``path``: its own, or the last snapshot where its own may not be opened now.

    On a disk that several machines share, whoever writes has the database alone. Errors: StoreError where it is being
    written and there is no snapshot yet.
    """
    if not is_shared(path) or not _is_written(path):
        return path / DATABASE
    if not (path / SNAPSHOT).is_file():
        raise StoreError(
            f"{path}: is being written on a network disk, and there is no snapshot to read yet; try again in a minute"
        )
    return path / SNAPSHOT


def _is_written(path: Path) -> bool:
    """Whether a process holds the right to write to a run."""
    try:
        with hold_still(path):
            return False
    except StoreError:
        return True


def write_snapshot(db: sqlite3.Connection, path: Path) -> None:
    """Write what is committed as a database of its own, which readers open while the run's may not be."""
    part = path / f"{SNAPSHOT}.part"
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
    with contextlib.closing(sqlite3.connect(part)) as copy:
        copy.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # so that it is one file, whole
    part.replace(path / SNAPSHOT)


def _have_alone(db: sqlite3.Connection, path: Path) -> None:
    """Let no other process open the database that ``db`` writes, where machines share its disk: no memory is shared."""
    if is_shared(path):
        db.execute("PRAGMA locking_mode=EXCLUSIVE")


def connect(path: Path, *, writable: bool) -> tuple[sqlite3.Connection, dict[int, bytes], bool]:
    """A connection to the run at ``path``, its compression dictionaries by number, and whether its rows have digests.

    Errors: StoreError where it is damaged, of another format, or of the earlier one and is to be written.
    """
    file = path / DATABASE if writable else readable(path)
    address = f"{file.absolute().as_uri()}?mode=rw" if writable else reading_address(file)
    db = sqlite3.connect(address, uri=True, isolation_level=None)
    try:
        if writable:
            _have_alone(db, path)
        db.executescript(f"PRAGMA busy_timeout=10000; PRAGMA cache_size=-{PAGE_CACHE_KIB};")
        if writable:
            db.executescript("PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        found = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        dictionaries = dict(db.execute("SELECT number, body FROM dictionaries"))
        sealed = bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('seals', 'sealed')").fetchone()[0])
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        db.close()
        tell_damage(path, error)
        raise StoreError(f"{path / DATABASE}: cannot be opened ({error}); check its disk and its owner") from error
    form, problem = found and found[0], None
    if form not in (str(FORMAT), str(UNSEALED)):
        problem = f"store format {form}, this holdfast reads {UNSEALED} and {FORMAT}; use the version that wrote it"
    elif sealed != (form == str(FORMAT)):
        problem = f"damaged (format {form} {'with' if sealed else 'without'} digests); restore the run"
        path /= DATABASE
    elif writable and not sealed:
        problem = (
            "was written by an earlier version, whose rows have no digests, and is only read; go on with a copy:"
            f" `holdfast export {path} --to run -o NEW`"
        )
    if problem is not None:
        db.close()
        raise StoreError(f"{path}: {problem}")
    return db, dictionaries, sealed


def tell_damage(path: Path, error: BaseException | None) -> None:
    """Raise a StoreError that names the database if ``error`` says that its content is damaged."""
    damaged = isinstance(error, UnicodeDecodeError | sqlite3.DataError) or type(error) is sqlite3.DatabaseError
    if isinstance(error, sqlite3.OperationalError):  # a schema or a text that cannot be read; the rest is the disk's
        damaged = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR
    if damaged:
        finding = f"not a readable run database ({' '.join(str(error).split())[:200]})"
        raise StoreError(f"{path / DATABASE}: {finding}; restore it or make the run anew") from error


def create(path: Path) -> None:
    """Make an empty run database in the directory ``path``, which is its owner's alone from then on.

    Errors: StudyError where it cannot be written, StoreError where it holds a link.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if holds_tables(path) or not {one.name for one in path.iterdir()} <= {LOCK, SNAPSHOT, *FILES}:
            raise StudyError(f"{path}: the directory is not empty and holds no run; choose another output")
        refuse_links(path)
        with contextlib.suppress(PermissionError):  # somebody else's directory, that we may write to
            path.chmod(PRIVATE_DIRECTORY)
        with contextlib.closing(WriteLock(path)):
            # A kill between the making of the file and its first commit leaves an empty database.
            if not holds_tables(path):
                make_tables(path)
    except (OSError, sqlite3.OperationalError) as error:
        raise StudyError(f"{path}: cannot write a run here ({error}); choose another output") from error


def make_tables(path: Path) -> None:
    try:
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        os.close(os.open(path / DATABASE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
        with contextlib.closing(sqlite3.connect(path / DATABASE, isolation_level=None)) as db:
            _have_alone(db, path)
            db.executescript(f"PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            db.executescript("BEGIN;" + SCHEMA)
            db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
            reseal(db)
            db.execute("COMMIT")
    except BaseException:
        remove_files(path)
        raise


@functools.cache
def known_schema() -> frozenset[str]:
    """The statements that make a run's tables, as SQLite keeps them."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        return frozenset(row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))


def copy_rows(source: Path, target: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    """The rows of the run at ``source``, of this format or the one before, in a new database at ``target``.

    ``change`` may then remove some, inside the transaction; what is left gets digests of its own, and a copy of rows
    that had none says so under ``COPIED_KEY``.
    """
    make_tables(target)
    address = (target / DATABASE).absolute().as_uri()
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
        _have_alone(db, target)
        db.execute("ATTACH ? AS old", (reading_address(readable(source)),))
        db.execute("BEGIN IMMEDIATE")
        held = {row[0] for row in db.execute("SELECT name FROM old.sqlite_master WHERE type = 'table'")}
        for (table,) in db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in db.execute(f"PRAGMA main.table_info({table})")]
            if table in held and table not in ("seals", "sealed"):
                taken = ", ".join("0" if name == "seal" else name for name in columns)
                where = " WHERE key <> 'format'" if table == "meta" else ""
                db.execute(f"INSERT INTO main.{table} SELECT {taken} FROM old.{table}{where}")
        if "seals" not in held:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, 'of a copy')", (COPIED_KEY,))
        change(db)
        reseal(db)
        db.execute("COMMIT")
        db.execute("DETACH old")
        db.execute("VACUUM")


def remove_files(path: Path) -> None:
    """Remove a run's database and lock; only its one writer may call this."""
    for name in (LOCK, *FILES):
        (path / name).unlink(missing_ok=True)


def holds_tables(path: Path) -> bool:
    """Whether the file of a database holds a schema: one killed before its first commit holds none."""
    if (path / DATABASE).is_symlink():
        return True  # opening it says what is wrong, and nothing is written where it leads
    if not (path / DATABASE).is_file() or not (path / DATABASE).stat().st_size:
        return False
    try:
        with contextlib.closing(sqlite3.connect(path / DATABASE)) as db:
            return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.DatabaseError:
        return True  # damaged is not empty: opening it says what is wrong


def signature(file: Path) -> tuple[object, ...]:
    """What tells whether a database was written since: which file it and its log are, their sizes and times."""
    found: list[object] = []
    for path in (file, file.with_name(f"{file.name}-wal")):
        with contextlib.suppress(FileNotFoundError):
            if not (told := path.stat()).st_size:  # a reader may leave an empty log
                continue
            found += [path.name, told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns]
    return tuple(found)
