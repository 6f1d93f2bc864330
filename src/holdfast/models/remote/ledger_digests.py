"""Digests of a ledger's rows: what was paid for is given as it was answered, or not at all.

Every row has a column ``digest``, BLAKE2b over its other columns. Triggers of the connection that writes keep it,
whatever the statement; a ledger of an earlier version gets it when it is opened.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import orjson

TABLES = {"calls": "key", "spent": "one"}  # and what names a row
DIGEST_BYTES = 16
FUNCTION = "row_digest"


class DamagedRow(sqlite3.DatabaseError):
    """A row of a ledger is not the one that was written."""


def make_private(path: Path) -> None:
    """Make the file of a ledger for its owner's eyes unless it is there; a link is not followed. Errors: OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


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
    (told,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if told != "ok":
        raise DamagedRow(" ".join(str(told).split())[:200])


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _digest(*cells: object) -> bytes:
    """Numbers count as such: a trigger sees 2.0 in a column of type REAL as 2."""
    told = [
        cell.hex() if isinstance(cell, bytes) else float(cell) if isinstance(cell, int | float) else cell
        for cell in cells
    ]
    return hashlib.blake2b(orjson.dumps(told), digest_size=DIGEST_BYTES).digest()
