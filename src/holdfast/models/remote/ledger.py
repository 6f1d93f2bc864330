"""What remote models were asked and answered: nothing is paid for twice, and a budget is kept.

    intend ─ (the call) ─▶ settle: the answer is on disk before it is used
       │                ├▶ withdraw: it was surely not billed
       │                └▶ leave: it stays in doubt, for it may have been billed
       └▶ an equal call is in flight: its answer is waited for

A call that is equal to an answered one is answered from here, also where several processes write to one ledger: an
intent stands under the call's key, with who has it in flight, until it is settled, withdrawn or left, or its process
ends. A budget of calls counts every request that a server got. What a process writes at about the same time shares
one transaction, so that many calls in flight wait for few syncs of the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import platform
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import zstandard

from holdfast.records.disks import is_shared
from holdfast.records.errors import BudgetSpent, StoreError
from holdfast.records.inputs import reading_address

BUSY_MILLISECONDS = 60_000
SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, speaker TEXT NOT NULL, model TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('intent', 'done')), reply BLOB, served TEXT,
  input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0,
  seconds REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, in_doubt INTEGER NOT NULL DEFAULT 0,
  CHECK ((status = 'done') = (reply IS NOT NULL)));
CREATE TABLE IF NOT EXISTS spent (one INTEGER PRIMARY KEY CHECK (one = 1), calls INTEGER NOT NULL, cost REAL NOT NULL);
INSERT OR IGNORE INTO spent (one, calls, cost) VALUES (1, 0, 0);
CREATE TABLE IF NOT EXISTS flights (key BLOB PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most calls and the most money that a ledger may hold; None is no limit, 0 allows no call at all."""

    max_calls: int | None = None
    max_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The calls of one speaker to one model.

    ``from_cache`` counts what this process was answered from the ledger; ``in_doubt`` calls without a reply that may
    have been billed; ``served`` names the models that servers said have answered.
    """

    speaker: str
    model: str
    calls: int
    from_cache: int
    input_tokens: int
    output_tokens: int
    cost: float
    seconds: float
    attempts: int
    in_doubt: int
    served: tuple[str, ...]


class Ledger:
    """A file of calls, by key."""

    def __init__(self, path: Path, budget: Budget | None = None) -> None:
        """Open or make the file at ``path``. Errors: StoreError where it is no ledger or cannot be written."""
        self.path, self.budget = path, budget or Budget()
        self._hits: Counter[tuple[str, str]] = Counter()
        self._reading, self._queueing = threading.Lock(), threading.Lock()
        self._queue: list[tuple[Callable[[], bool], Future[bool]]] = []
        self._owner = new_owner()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # For its owner's eyes, unless it is there; a link is not followed.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._out, self._in = self._connect(), self._connect()
            # Machines that share a disk share no memory, which a log beside the file would need.
            journal = "DELETE" if is_shared(path) else "WAL"
            self._out.executescript(f"PRAGMA journal_mode={journal}; BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            check_structure(self._out)
            keep_digests(self._out)
            self._sound = f"digest IS {digest_of(self._in, 'calls')}"
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self._writer.shutdown()
            raise _unusable(self.path, error) from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        db.executescript(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}; PRAGMA synchronous=FULL;")
        teach_digests(db)
        return db

    def close(self) -> None:
        """Write what is waiting and close the file; what is in flight stays in doubt."""
        self._writer.shutdown()
        _open.discard(self._owner)
        self._out.close()
        self._in.close()

    def find(self, key: bytes, speaker: str, model: str) -> Any | None:
        """The recorded answer to the call, or None; a hit is counted for who asks.

        Errors: StoreError for one that is damaged.
        """
        try:
            with self._reading:
                query = f"SELECT status = 'done', reply, {self._sound} FROM calls WHERE key = ?"
                done, reply, sound = self._in.execute(query, (key,)).fetchone() or (False, b"", True)
            if not sound:
                raise DamagedRow(f"the call {key.hex()[:12]} is not the one that was recorded")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _unusable(self.path, error) from error
        if not done:
            return None
        with self._reading:
            self._hits[speaker, model] += 1
        return orjson.loads(zstandard.decompress(reply))

    async def intend(self, key: bytes, speaker: str, model: str) -> bool:
        """Record that a call is about to be made; False where an equal one was answered or is in flight elsewhere.

        Then nothing is recorded: ``find`` has the answer, now or in a while. Errors: BudgetSpent.
        """

        def write() -> bool:
            done = self._out.execute("SELECT 1 FROM calls WHERE key = ? AND status = 'done'", (key,)).fetchone()
            flight = self._out.execute("SELECT owner FROM flights WHERE key = ?", (key,)).fetchone()
            if done or (flight and flight[0] != self._owner and is_under_way(flight[0])):
                return False
            self._check_budget(model)
            self._out.execute("INSERT OR REPLACE INTO flights VALUES (?, ?)", (key, self._owner))
            self._out.execute(
                "INSERT INTO calls (key, speaker, model, status, in_doubt) VALUES (?, ?, ?, 'intent', 1)"
                " ON CONFLICT (key) DO UPDATE SET in_doubt = in_doubt + 1",
                (key, speaker, model),
            )
            self._out.execute("UPDATE spent SET calls = calls + 1")
            return True

        return await asyncio.wrap_future(self._write(write))

    async def settle(
        self,
        key: bytes,
        answer: Any,
        served: str,
        *,
        tokens: tuple[int, int],
        cost: float,
        seconds: float,
        attempts: int,
    ) -> None:
        """Record the answer; it is on disk when this returns. Of two answers to equal calls, the first stays.

        ``answer`` is JSON that the reply is made from, ``served`` the model that the server says has answered,
        ``tokens`` those read and written, ``cost`` money by the endpoint's prices, for so many ``attempts``.
        """
        body = zstandard.compress(orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS))

        def write() -> bool:
            self._out.execute(
                "UPDATE calls SET status = 'done', reply = ifnull(reply, ?), served = ifnull(served, ?),"
                " input_tokens = input_tokens + ?, output_tokens = output_tokens + ?, cost = cost + ?,"
                " seconds = seconds + ?, attempts = attempts + ?, in_doubt = in_doubt - 1 WHERE key = ?",
                (body, served, *tokens, cost, seconds, attempts, key),
            )
            self._out.execute("UPDATE spent SET cost = cost + ?", (cost,))
            return self._land(key)

        await asyncio.wrap_future(self._write(write))

    async def withdraw(self, key: bytes, *, sent: bool = False) -> None:
        """Forget one intent: the call was surely not billed. Where it was ``sent`` all the same, a budget counts it."""

        def write() -> bool:
            self._out.execute("UPDATE calls SET in_doubt = in_doubt - 1 WHERE key = ?", (key,))
            self._out.execute("DELETE FROM calls WHERE key = ? AND status = 'intent' AND in_doubt = 0", (key,))
            self._out.execute("UPDATE spent SET calls = calls - ?", (int(not sent),))
            return self._land(key)

        await asyncio.wrap_future(self._write(write))

    def leave(self, key: bytes) -> None:
        """Note, soon, that a call is no longer in flight, and stays in doubt: others need not wait for it."""
        self._write(lambda: self._land(key))

    def _land(self, key: bytes) -> bool:
        return bool(self._out.execute("DELETE FROM flights WHERE key = ? AND owner = ?", (key, self._owner)).rowcount)

    def summary(self) -> tuple[Spending, ...]:
        """What was spent, by speaker and model, over all processes. Errors: StoreError for a damaged ledger."""
        try:
            with self._reading:
                return _summarise(self._in, self._hits)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _unusable(self.path, error) from error

    def _check_budget(self, model: str) -> None:
        calls, cost = self._out.execute("SELECT calls, cost FROM spent").fetchone()
        most_calls, most_cost = self.budget.max_calls, self.budget.max_cost
        if most_calls is not None and calls >= most_calls:
            raise BudgetSpent(
                f"{model}: the budget of {most_calls} calls is spent ({calls} made or in doubt); what was answered is"
                " kept; repeat with a larger --max-calls to go on"
            )
        if most_cost is not None and cost >= most_cost:
            raise BudgetSpent(
                f"{model}: the budget of {most_cost:g} is spent ({cost:.4g} in {calls} calls); what was answered is"
                " kept; repeat with a larger --max-cost to go on"
            )

    def _write(self, operation: Callable[[], bool]) -> Future[bool]:
        future: Future[bool] = Future()
        with self._queueing:
            self._queue.append((operation, future))
        self._writer.submit(self._drain)
        return future

    def _drain(self) -> None:
        """Everything that waits, in one transaction."""
        with self._queueing:
            batch, self._queue = self._queue, []
        if not batch:
            return
        outcomes: list[BaseException | bool] = []
        try:
            self._out.execute("BEGIN IMMEDIATE")
            for operation, _ in batch:
                try:
                    outcomes.append(operation())
                except BudgetSpent as error:
                    outcomes.append(error)
            self._out.execute("COMMIT")
        except BaseException as error:
            if self._out.in_transaction:
                self._out.execute("ROLLBACK")
            outcomes = [_unusable(self.path, error) if isinstance(error, sqlite3.Error) else error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.set_running_or_notify_cancel():
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)


def _unusable(path: Path, error: Exception, use: str = "recorded here") -> StoreError:
    if isinstance(error, DamagedRow):
        remedy = "restore it from a copy, or put it aside to ask again what it holds"
        return StoreError(f"{path}: damaged ({error}); {remedy}")
    return StoreError(f"{path}: calls cannot be {use} ({error}); check the file, its disk and rights")


def read_spending(path: Path) -> tuple[Spending, ...]:
    """What the ledger at ``path`` says was spent, also where nothing can be written. Errors: StoreError."""
    try:
        with contextlib.closing(sqlite3.connect(reading_address(path), uri=True, isolation_level=None)) as db:
            db.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
            # A process that was killed as it made the file left it empty.
            made = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'calls'").fetchone()[0]
            teach_digests(db)
            return _summarise(db, Counter()) if made else ()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _unusable(path, error, "read") from error


_TOLD = "key, speaker, model, status, reply, served, input_tokens, output_tokens, cost, seconds, attempts, in_doubt"


def join_ledgers(sources: Sequence[Path], target: Path) -> None:
    """A new ledger at ``target`` with every call of several; what several paid for counts each time.

    Of equal calls the first answer, in the order of ``sources``, stands under the call's key, so that it is the one
    that is found; the others stand under keys that no call has. An answered call that is equal in all, the seconds that
    it took among them, is a copy of one call, as the ledger of a fork holds it, and counts once. Errors: StoreError for
    a damaged ledger.
    """
    for source in sources:
        try:
            with contextlib.closing(sqlite3.connect(reading_address(source), uri=True)) as db:
                teach_digests(db)
                check_ledger(db)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _unusable(source, error, "read") from error
    with contextlib.closing(Ledger(target)) as ledger:
        out = ledger._out
        out.execute("BEGIN IMMEDIATE")
        # A call in doubt has no answer to be found: it comes behind those that have.
        for source, status in [(source, status) for status in ("done", "intent") for source in sources]:
            with contextlib.closing(sqlite3.connect(reading_address(source), uri=True)) as db:
                rows = db.execute(f"SELECT {_TOLD} FROM calls WHERE status = ?", (status,))
                copies = [cost for row in rows if (cost := _add_call(out, row)) is not None]
                calls, cost = db.execute("SELECT calls, cost FROM spent").fetchone() if status == "done" else (0, 0.0)
            paid = (calls - len(copies), cost - sum(copies))
            out.execute("UPDATE spent SET calls = calls + ?, cost = cost + ?", paid)
        out.execute("COMMIT")


def _add_call(out: sqlite3.Connection, row: tuple[Any, ...]) -> float | None:
    """Add a call to a ledger, under another key where its own is taken; the cost of one that is a copy, else None."""
    key, rest = row[0], row[1:]
    while (held := out.execute(f"SELECT {_TOLD} FROM calls WHERE key = ?", (key,)).fetchone()) is not None:
        if held[1:] == rest and rest[2] == "done":
            return float(row[8])
        key = hashlib.blake2b(key, digest_size=DIGEST_BYTES).digest()
    out.execute(f"INSERT INTO calls ({_TOLD}) VALUES ({', '.join('?' * 12)})", (key, *rest))
    return None


_SUMS = ("calls", "input_tokens", "output_tokens", "cost", "seconds", "attempts", "in_doubt")


def _summarise(db: sqlite3.Connection, hits: Counter[tuple[str, str]]) -> tuple[Spending, ...]:
    """The spending of a ledger whose rows are those that were written. Errors: DamagedRow, sqlite3.Error."""
    check_ledger(db)
    rows = db.execute(
        # Sums of huge counts are no integers of SQLite; total() is a float.
        "SELECT speaker, model, sum(status = 'done'), total(input_tokens), total(output_tokens), sum(cost),"
        " sum(seconds), sum(attempts), sum(in_doubt), group_concat(DISTINCT served) FROM calls GROUP BY speaker, model"
    ).fetchall()
    counted = {(row[0], row[1]): row[2:] for row in rows}
    spent = []
    for speaker, model in sorted(counted.keys() | hits.keys()):
        *sums, served = counted.get((speaker, model), (0, 0, 0, 0.0, 0.0, 0, 0, None))
        counts: dict[str, Any] = dict(zip(_SUMS, sums, strict=True)) | {"from_cache": hits[speaker, model]}
        counts |= {key: int(counts[key]) for key in ("input_tokens", "output_tokens")}
        names = tuple(sorted(served.split(","))) if served else ()
        spent.append(Spending(speaker=speaker, model=model, served=names, **counts))
    return tuple(spent)


# --- who has a call in flight -------------------------------------------------------------------------------------
# A name for each open ledger tells machine, start of the machine, process, start of the process, and which of its
# ledgers. Processes of another machine cannot be looked at; one is believed for so long after its name was first seen.

FOREIGN_SECONDS = 900.0
_open: set[str] = set()
_numbers = itertools.count()
_first_seen: dict[str, float] = {}


def new_owner() -> str:
    """A name for a ledger that is opened in this process."""
    # A forked process counts on from the same number: its own number stands in the name.
    name = " ".join((*_machine(), str(os.getpid()), _started(os.getpid()), str(next(_numbers))))
    _open.add(name)
    return name


def is_under_way(owner: str) -> bool:
    """Whether the ledger of this name may be waiting for an answer."""
    try:
        name, start, process, started, _ = owner.split(" ")
    except ValueError:
        return False  # no name that this module gave
    if (name, start, process) == (*_machine(), str(os.getpid())):
        return owner in _open
    if name != _machine()[0]:
        seen = _first_seen.setdefault(owner, time.monotonic())
        return time.monotonic() - seen < FOREIGN_SECONDS
    if start != _machine()[1] or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    return _started(int(process)) == started


@cache
def _machine() -> tuple[str, str]:
    """This machine's name, and which of its starts this is, as far as that can be told."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        start = "-"
    return platform.node().replace(" ", "-") or "-", start


def _started(process: int) -> str:
    """When a process was started, in ticks of this machine: numbers of processes come again. "-" if unknown.

    One that has ended and waits for its parent to notice was never started.
    """
    try:
        # The name of the program stands in brackets and may hold anything; what follows it does not.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return "-"


# --- digests of rows ----------------------------------------------------------------------------------------------
# Every row has a column ``digest``, BLAKE2b over its other columns. Triggers of the connection that writes keep it,
# whatever the statement; a ledger of an earlier version gets it when it is opened.

TABLES = {"calls": "key", "spent": "one"}  # and what names a row
DIGEST_BYTES = 16
FUNCTION = "row_digest"


class DamagedRow(sqlite3.DatabaseError):
    """A row of a ledger is not the one that was written."""


def teach_digests(db: sqlite3.Connection) -> None:
    """Let a connection compute digests of rows."""
    db.create_function(FUNCTION, -1, _digest, deterministic=True)


def keep_digests(db: sqlite3.Connection) -> None:
    """Let a connection that writes keep the digests, and give them to a ledger that has none. Errors: sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    for table in TABLES:
        if "digest" not in _columns(db, table):
            db.execute(f"ALTER TABLE {table} ADD COLUMN digest BLOB")
            db.execute(f"UPDATE {table} SET digest = {digest_of(db, table)}")
    db.execute("COMMIT")
    for table, key in TABLES.items():
        watched = ", ".join(name for name in _columns(db, table) if name != "digest")
        for event in ("INSERT", f"UPDATE OF {watched}"):
            db.execute(
                f"CREATE TEMP TRIGGER {event[:6].lower()}_{table} AFTER {event} ON main.{table} BEGIN"
                f" UPDATE {table} SET digest = {digest_of(db, table)} WHERE {key} = NEW.{key}; END"
            )


def digest_of(db: sqlite3.Connection, table: str) -> str:
    """The digest that a table's row should have, as SQL."""
    return f"{FUNCTION}({', '.join(name for name in _columns(db, table) if name != 'digest')})"


def check_ledger(db: sqlite3.Connection) -> None:
    """Hold a ledger's structure and every row against the digests; a ledger of an earlier version has none.

    Errors: DamagedRow, sqlite3.Error.
    """
    check_structure(db)
    for table in TABLES:
        if "digest" not in _columns(db, table):
            continue
        lost = db.execute(f"SELECT count(*) FROM {table} WHERE digest IS NOT {digest_of(db, table)}").fetchone()[0]
        if lost:
            raise DamagedRow(f"{lost:,} rows of {table} are not those that were written")


def check_structure(db: sqlite3.Connection) -> None:
    """Have SQLite look for pages and indexes that do not fit. Errors: DamagedRow, sqlite3.Error."""
    (finding,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if finding != "ok":
        raise DamagedRow(" ".join(str(finding).split())[:200])


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _digest(*cells: object) -> bytes:
    """Numbers count as such: a trigger sees 2.0 in a column of type REAL as 2."""
    told = [float(cell) if isinstance(cell, int | float) else cell for cell in cells]
    return hashlib.blake2b(orjson.dumps(told, default=bytes.hex), digest_size=DIGEST_BYTES).digest()
