"""Whether a run is what was committed: its files, its schema, every row against the digests in ``seals``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from holdfast.records.errors import StoreError
from holdfast.store.places import CARRIED
from holdfast.store.seals import ADDED_TO, REPLACED, SEAL_ROWS, START, Digest, SealedTable, chunks, digest_table, link

_SEAL, _ROW = itemgetter(0), itemgetter(slice(1, None))  # of what is read: the number of its seal, then the row
REMEDY = "restore the run from a copy, or make it anew"


def refuse_links(path: Path) -> None:
    """Refuse a run that holds a link, a pipe or a device: what is written to it would go elsewhere.

    A file that has another name (a hard link) is one, too. The run's directory itself may be named through a link.
    What queues of jobs leave beside a step's outcomes is not looked at: nothing in it is opened as a part of the run.
    Errors: StoreError.
    """
    waiting, apart = [str(path)], str(path / CARRIED)
    while waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [entry.path] * (entry.path != apart)
                elif (kind := _find_strange(entry)) is not None:
                    raise StoreError(
                        f"{entry.path}: {kind}, and a run holds files and directories of its own only; put a copy in"
                        " its place, remove it, or use a copy of the run"
                    )


def _find_strange(entry: os.DirEntry[str]) -> str | None:
    """What an entry of a run is that is no file of its own; None where it is one."""
    if entry.is_symlink():
        return "is a link"
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # what another process removes meanwhile
        return None
    if not stat.S_ISREG(found.st_mode):
        return "is a pipe or a device"
    return "has another name elsewhere (a hard link)" if found.st_nlink > 1 else None


def check_rows(path: Path, db: sqlite3.Connection, schema: frozenset[str]) -> None:
    """Hold a run's database against its digests. ``schema`` has the statements that made its tables.

    Errors: StoreError that names the database and what differs; sqlite3.Error where it cannot be read.
    """
    # One transaction reads one state of the database throughout, whoever writes meanwhile.
    is_ours = not db.in_transaction
    if is_ours:
        db.execute("BEGIN")
    try:
        _check(db, schema)
    except (_DamageError, TypeError, ValueError, LookupError, OverflowError) as error:
        raise StoreError(f"{path}: damaged in the store: {error}; {REMEDY}") from error
    finally:
        if is_ours and db.in_transaction:
            db.execute("ROLLBACK")


def read_checked(path: Path, digest: str | None) -> bytes | None:
    """The bytes of a file that stands beside the database, with the SHA-256 that the run noted; None where it is gone.

    Without a digest, which earlier versions did not note, nothing is checked. Errors: StoreError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(f"{path}: is not what the run wrote (another digest); restore it from a copy")
    return data


def digest_run(db: sqlite3.Connection) -> str:
    """The run's digest: SHA-256 over its chain of seals and the digests of the tables whose rows are replaced."""
    chain, *tables = db.execute(f"SELECT chain, {', '.join(REPLACED)} FROM sealed").fetchone()
    return hashlib.sha256(b"".join([b"holdfast run\n", chain, *tables])).hexdigest()


class _DamageError(Exception):
    """Rows are not those that were committed; the text says which."""


def _check(db: sqlite3.Connection, schema: frozenset[str]) -> None:
    found = {row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if found != schema:
        raise _DamageError("its tables are not those of a run")
    # Rows are read in order by the digests and by searching elsewhere: both ways must lead to the same.
    (told,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if told != "ok":
        raise _DamageError(" ".join(str(told).split())[:200])
    sealed = db.execute(f"SELECT seals, chain, {', '.join(REPLACED)} FROM sealed").fetchall()
    if len(sealed) != 1:
        raise _DamageError("the digest of its digests is missing")
    last, chain, *tables = sealed[0]
    seals: dict[str, dict[int, tuple[int, bytes]]] = {}  # table → number → rows and digest of its seals
    walked, reached = START, 0
    for reached, place, count, digest in db.execute("SELECT number, place, rows, digest FROM seals ORDER BY number"):
        walked = link(walked, reached, place, count, digest)
        seals.setdefault(place, {})[reached] = (count, digest)
    if (walked, reached) != (chain, last):
        raise _DamageError("the digests of its rows are not those that were written")
    for place, digest in zip(REPLACED, tables, strict=True):
        if digest_table(db, place) != digest:
            raise _DamageError(f"{place} are not those that were written" if place == "steps" else f"{place} differs")
    for place, table in ADDED_TO.items():
        _check_table(db, place, table, seals.get(place, {}))


def _check_table(db: sqlite3.Connection, name: str, table: SealedTable, seals: dict[int, tuple[int, bytes]]) -> None:
    digests = {number: Digest() for number in seals}
    for rows in chunks(db, f"SELECT seal, {table.selected} FROM {name} ORDER BY {table.key}"):
        # Rows of a seal stand together. For each of millions a line of Python would take as long as reading it.
        start = 0
        for number, run in groupby(map(_SEAL, rows)):
            part = list(map(_ROW, rows[start : start + sum(1 for _ in run)]))
            start += len(part)
            if number not in digests:
                raise _DamageError(f"{len(part):,} rows of {name} were not written by holdfast")
            digests[number].add(part)
    for number, (count, digest) in seals.items():
        if digests[number].rows != count:
            raise _DamageError(f"{digests[number].rows:,} rows of {name} where {count:,} were written (batch {number})")
        if digests[number].value() != digest:
            raise _DamageError(f"{count:,} rows of {name} are not those that were written (batch {number})")


def reseal(db: sqlite3.Connection) -> None:
    """Give every row of a database its seal anew, inside a transaction: of a copy that holds a part of a run's rows."""
    db.execute("DELETE FROM seals")
    number, chain = 0, START
    for name, table in ADDED_TO.items():
        bounds = []
        for rows in chunks(db, f"SELECT {table.selected} FROM {name} ORDER BY {table.key}", SEAL_ROWS):
            number += 1
            part = Digest()
            part.add(rows)
            bounds.append((number, rows[0][: table.keys], rows[-1][: table.keys]))
            chain = link(chain, number, name, len(rows), part.value())
            db.execute("INSERT INTO seals VALUES (?, ?, ?, ?)", (number, name, len(rows), part.value()))
        marks = ", ".join("?" * table.keys)
        between = f"({table.key}) >= ({marks}) AND ({table.key}) <= ({marks})"
        for given, first, last in bounds:
            db.execute(f"UPDATE {name} SET seal = ? WHERE {between}", (given, *first, *last))
    db.execute("INSERT OR REPLACE INTO sealed VALUES (1, ?, ?, ?, ?)", (number, chain, b"", b""))
    for name in REPLACED:
        db.execute(f"UPDATE sealed SET {name} = ?", (digest_table(db, name),))
