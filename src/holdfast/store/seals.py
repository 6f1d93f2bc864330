"""Digests of a run's rows, by batch: what is read is what was committed.

    row ─▶ seal (up to 4,096 rows of one table, of one transaction) ─▶ chain over all seals ─┐
    tables whose rows change: one digest each ────────────────────────────────────────────────┴▶ the run's digest

A seal's digest is BLAKE2b over its rows as JSON, in the order of their keys. Seals are numbered as they are committed
and never change. A flipped bit, a changed, added, removed, exchanged or moved row, and a removed seal leave a digest
that does not fit. Texts stand in it by their own digests, weights by those of their checkpoints. Whoever changes rows
*and* all digests leaves another digest of the run: it is worth what it is compared with.
"""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

SEAL_ROWS = 4096
READ_ROWS = 10_000  # held as Python objects at a time
DIGEST_BYTES = 16
START = bytes(DIGEST_BYTES)  # of the chain


class SealedTable:
    """How a table's rows are read and written.

    ``selected`` is SQL for the columns that a digest takes, ``key`` for the first ``keys`` of them, the primary key, in
    a table that gives its rows numbers that number; ``stored`` are the columns that a new row is given.
    """

    def __init__(self, *columns: str, keys: int = 0, stored: tuple[str, ...] = ()) -> None:
        taken = columns if keys else ("key", *columns)
        self.keys, self.stored = keys or 1, stored or columns
        self.selected, self.key = ", ".join(taken), ", ".join(taken[: self.keys])


# Rows are only ever added to these; each has a column ``seal`` beside.
ADDED_TO = {
    "texts": SealedTable("hex(digest)", "dictionary", stored=("digest", "dictionary", "body")),
    "cases": SealedTable("id", "suite", "number", "family", "text"),
    "splits": SealedTable("split_seed", "case_key", "part", keys=2),
    "checkpoints": SealedTable("id", "hex(body)", stored=("id", "body")),
    "trajectories": SealedTable(
        *("id", "case_key", "checkpoint", "rollout", "step", "ending", "flags", "calls", "invalid_calls", "tokens"),
        "text",
    ),
    "judges": SealedTable("name", "objective", "rubric"),
    "scores": SealedTable("trajectory", "judge", "repeat", "value", "missing", "label", "reply", keys=3),
    "pairs": SealedTable("step", "position", "chosen", "rejected", "objectives", "judge", "gap", "weight", keys=2),
    "logprobs": SealedTable("step", "trajectory", "value", keys=2),
    "batches": SealedTable("fingerprint", "batch", keys=2),
}
REALS = {"scores": (3,), "pairs": (6, 7), "logprobs": (2,)}  # which columns are of type REAL
# Rows of these are replaced. JSON has no infinity: a number that may be NULL is quoted.
REPLACED = {
    "steps": SealedTable(
        "fingerprint", "kind", "name", "status", "result", "quote(started)", "quote(finished)", keys=1
    ),
    "meta": SealedTable("key", "value", keys=1),
}
SEAL_SCHEMA = """
CREATE TABLE seals (number INTEGER PRIMARY KEY, place TEXT NOT NULL, rows INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE sealed (one INTEGER PRIMARY KEY CHECK (one = 1), seals INTEGER NOT NULL, chain BLOB NOT NULL,
  steps BLOB NOT NULL, meta BLOB NOT NULL);
"""


class Digest:
    """A digest of rows that may come in several parts, and how many they were."""

    __slots__ = ("_hash", "rows")

    def __init__(self) -> None:
        self._hash, self.rows = hashlib.blake2b(digest_size=DIGEST_BYTES), 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take rows, in the order of their keys. Errors: TypeError for what no row of a run holds."""
        # Without the brackets the bytes of several parts are those of the whole.
        self._hash.update(orjson.dumps(rows)[1:-1] + b",")
        self.rows += len(rows)

    def value(self) -> bytes:
        """The digest of all that was taken."""
        return self._hash.digest()


def link(chain: bytes, number: int, place: str, rows: int, digest: bytes) -> bytes:
    """The chain over all seals up to this one."""
    whole = Digest()
    whole.add([(chain.hex(), number, place, rows, digest.hex())])
    return whole.value()


def digest_table(db: sqlite3.Connection, place: str) -> bytes:
    """The digest of a whole table of those whose rows are replaced."""
    table, whole = REPLACED[place], Digest()
    for rows in chunks(db, f"SELECT {table.selected} FROM {place} ORDER BY {table.key}"):
        whole.add(rows)
    return whole.value()


def chunks(db: sqlite3.Connection, query: str, size: int = READ_ROWS) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a query, some at a time."""
    cursor = db.execute(query)
    while rows := cursor.fetchmany(size):
        yield rows


class Seals:
    """Adds rows to a run's tables and keeps the digests; belongs to the one process that writes."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last, self._chain = 0, START
        self._open: dict[str, tuple[int, list[tuple[Any, ...]]]] = {}  # number and rows of the seals that are added to
        self._closed: list[tuple[int, str, int, bytes]] = []
        self._changed: set[str] = set()

    def begin(self) -> None:
        """Start a transaction's seals from what is committed."""
        self._open.clear()
        self._closed.clear()
        self._changed.clear()
        self._last, self._chain = self._db.execute("SELECT seals, chain FROM sealed").fetchone()

    def add(self, table: str, values: Sequence[Any], *, conflict: str | None = None) -> tuple[Any, ...] | None:
        """Add a row, ``values`` without its number where the table numbers its rows; the row as its digest takes it.

        None where a row that is equal in the columns ``conflict`` is there. Errors: sqlite3.IntegrityError.
        """
        if table not in self._open:
            self._last += 1
            self._open[table] = self._last, []
        number, rows = self._open[table]
        row: tuple[Any, ...] | None = self._db.execute(_insert(table, conflict), (*values, number)).fetchone()
        if row is not None:
            if table in REALS:  # RETURNING gives whole numbers in them as integers, reading does not
                real = REALS[table]
                row = tuple(float(cell) if at in real and cell is not None else cell for at, cell in enumerate(row))
            rows.append(row)
            if len(rows) == SEAL_ROWS:
                self._close(table)
        return row

    def change(self, place: str) -> None:
        """Note that rows of a table that is replaced have changed."""
        self._changed.add(place)

    def commit(self) -> None:
        """Write the digests of what was added and changed; call it last in the transaction."""
        for place in list(self._open):
            self._close(place)
        for number, place, rows, digest in sorted(self._closed):
            self._chain = link(self._chain, number, place, rows, digest)
            self._db.execute("INSERT INTO seals VALUES (?, ?, ?, ?)", (number, place, rows, digest))
            self._db.execute("UPDATE sealed SET seals = ?, chain = ?", (number, self._chain))
        for place in sorted(self._changed):
            self._db.execute(f"UPDATE sealed SET {place} = ?", (digest_table(self._db, place),))

    def _close(self, place: str) -> None:
        number, rows = self._open.pop(place)
        if rows:
            keys, whole = ADDED_TO[place].keys, Digest()
            rows.sort(key=lambda row: row[:keys])
            whole.add(rows)
            self._closed.append((number, place, len(rows), whole.value()))


@functools.cache
def _insert(place: str, conflict: str | None) -> str:
    table = ADDED_TO[place]
    marks = ", ".join("?" * (len(table.stored) + 1))
    told = f" ON CONFLICT ({conflict}) DO NOTHING" if conflict else ""
    return f"INSERT INTO {place} ({', '.join(table.stored)}, seal) VALUES ({marks}){told} RETURNING {table.selected}"
