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
from dataclasses import dataclass, field
from typing import Any

import orjson

SEAL_ROWS = 4096
READ_ROWS = 10_000  # held as Python objects at a time
DIGEST_BYTES = 16
START = bytes(DIGEST_BYTES)  # of the chain


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTable:
    """How a table's rows are read and written.

    ``columns`` are SQL for what a digest takes, the first ``keys`` of them the primary key; ``stored`` are the columns
    that a new row is given.
    """

    columns: tuple[str, ...]
    keys: int
    stored: tuple[str, ...]

    @property
    def selected(self) -> str:
        """The columns of a row as its digest takes them."""
        return ", ".join(self.columns)

    @property
    def key(self) -> str:
        """The columns of the primary key."""
        return ", ".join(self.columns[: self.keys])


def _numbered(*columns: str, stored: tuple[str, ...] | None = None) -> SealedTable:
    """A table that gives its rows numbers."""
    return SealedTable(columns=("key", *columns), keys=1, stored=stored or columns)


def _keyed(keys: int, *columns: str) -> SealedTable:
    """A table whose first columns are its key."""
    return SealedTable(columns=columns, keys=keys, stored=columns)


# Rows are only ever added to these; each has a column ``seal`` beside.
ADDED_TO = {
    "texts": _numbered("hex(digest)", "dictionary", stored=("digest", "dictionary", "body")),
    "cases": _numbered("id", "suite", "number", "family", "text"),
    "splits": _keyed(2, "split_seed", "case_key", "part"),
    "checkpoints": _numbered("id", "hex(body)", stored=("id", "body")),
    "trajectories": _numbered(
        *("id", "case_key", "checkpoint", "rollout", "step", "ending", "flags", "calls", "invalid_calls", "tokens"),
        "text",
    ),
    "judges": _numbered("name", "objective", "rubric"),
    "scores": _keyed(3, "trajectory", "judge", "repeat", "value", "missing", "label", "reply"),
    "pairs": _keyed(2, "step", "position", "chosen", "rejected", "objectives", "judge", "gap", "weight"),
    "logprobs": _keyed(2, "step", "trajectory", "value"),
    "batches": _keyed(2, "fingerprint", "batch"),
}
REALS = {"scores": (3,), "pairs": (6, 7), "logprobs": (2,)}  # which columns are of type REAL
# Rows of these are replaced. JSON has no infinity: a number that may be NULL is quoted.
REPLACED = {
    "steps": _keyed(1, "fingerprint", "kind", "name", "status", "result", "quote(started)", "quote(finished)"),
    "meta": _keyed(1, "key", "value"),
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


@dataclass(slots=True)
class _Open:
    """The seal of a table that a transaction adds to."""

    number: int
    rows: list[tuple[Any, ...]] = field(default_factory=list)


class Seals:
    """Adds rows to a run's tables and keeps the digests; belongs to the one process that writes."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last, self._chain = 0, START
        self._open: dict[str, _Open] = {}
        self._closed: list[tuple[int, str, int, bytes]] = []
        self._changed: set[str] = set()

    def begin(self) -> None:
        """Start a transaction's seals from what is committed."""
        self._open.clear()
        self._closed.clear()
        self._changed.clear()
        self._last, self._chain = self._db.execute("SELECT seals, chain FROM sealed").fetchone()

    def add(self, place: str, values: Sequence[Any], *, conflict: str | None = None) -> tuple[Any, ...] | None:
        """Add a row, ``values`` without its number where the table numbers its rows; the row as its digest takes it.

        None where a row that is equal in the columns ``conflict`` is there. Errors: sqlite3.IntegrityError.
        """
        held = self._open.get(place)
        if held is None:
            self._last += 1
            held = self._open[place] = _Open(self._last)
        row: tuple[Any, ...] | None = self._db.execute(_insert(place, conflict), (*values, held.number)).fetchone()
        if row is not None:
            if place in REALS:  # RETURNING gives whole numbers in them as integers, reading does not
                row = tuple(
                    float(cell) if number in REALS[place] and cell is not None else cell
                    for number, cell in enumerate(row)
                )
            held.rows.append(row)
            if len(held.rows) == SEAL_ROWS:
                self._close(place)
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
        held = self._open.pop(place)
        if held.rows:
            self._closed.append((held.number, place, len(held.rows), _digest_rows(place, held.rows)))


def _digest_rows(place: str, rows: list[tuple[Any, ...]]) -> bytes:
    keys = ADDED_TO[place].keys
    rows.sort(key=lambda row: row[:keys])
    whole = Digest()
    whole.add(rows)
    return whole.value()


@functools.cache
def _insert(place: str, conflict: str | None) -> str:
    table = ADDED_TO[place]
    marks = ", ".join("?" * (len(table.stored) + 1))
    told = f" ON CONFLICT ({conflict}) DO NOTHING" if conflict else ""
    return f"INSERT INTO {place} ({', '.join(table.stored)}, seal) VALUES ({marks}){told} RETURNING {table.selected}"
