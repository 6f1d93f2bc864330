"""A slice: a run with only what one step reads, for whoever carries it out elsewhere.

    RUN/run.db ── rows of the step and its inputs ──▶ SLICE/run.db (same format, digests of its own)

Cases, splits and checkpoints are whole; of trajectories, scores, pairs and log-probabilities those that the step reads.
Replies of judges, addresses of models and weights stay behind.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

from holdfast.records.errors import StoreError
from holdfast.store.checking import digest_run, reseal
from holdfast.store.database import DATABASE, FORMAT, PAGE_BYTES, PRIVATE_DIRECTORY, PRIVATE_FILE, SCHEMA
from holdfast.store.places import ENDPOINTS_KEY, MACHINES_KEY
from holdfast.store.steplog import PLAN_KEY

# No node needs them, and where models are reached is no node's business but that of the calls it makes.
_LEFT_BEHIND = ("format", ENDPOINTS_KEY, MACHINES_KEY, PLAN_KEY)
# ``wanted`` holds the fingerprints of the step and its inputs, ``taken`` the keys of trajectories.
_TAKE = """
INSERT INTO taken SELECT key FROM main.trajectories WHERE step IN (SELECT fingerprint FROM wanted);
INSERT OR IGNORE INTO taken SELECT chosen FROM main.pairs WHERE step IN (SELECT fingerprint FROM wanted);
INSERT OR IGNORE INTO taken SELECT rejected FROM main.pairs WHERE step IN (SELECT fingerprint FROM wanted);
INSERT OR IGNORE INTO taken SELECT t.key FROM main.trajectories t JOIN main.checkpoints c ON c.key = t.checkpoint
  WHERE c.id = :checkpoint;
INSERT INTO slice.dictionaries SELECT * FROM main.dictionaries;
INSERT INTO slice.texts SELECT * FROM main.texts WHERE key IN (
  SELECT text FROM main.cases UNION SELECT text FROM main.trajectories WHERE key IN (SELECT key FROM taken));
INSERT INTO slice.cases SELECT * FROM main.cases;
INSERT INTO slice.splits SELECT * FROM main.splits;
INSERT INTO slice.checkpoints SELECT * FROM main.checkpoints;
INSERT INTO slice.trajectories SELECT * FROM main.trajectories WHERE key IN (SELECT key FROM taken);
INSERT INTO slice.judges SELECT * FROM main.judges;
INSERT INTO slice.scores SELECT trajectory, judge, repeat, value, missing, label, NULL, seal FROM main.scores
  WHERE trajectory IN (SELECT key FROM taken);
INSERT INTO slice.pairs SELECT * FROM main.pairs WHERE step IN (SELECT fingerprint FROM wanted);
INSERT INTO slice.logprobs SELECT * FROM main.logprobs
  WHERE step IN (SELECT fingerprint FROM wanted) AND trajectory IN (SELECT key FROM taken);
INSERT INTO slice.steps SELECT * FROM main.steps WHERE fingerprint IN (SELECT fingerprint FROM wanted);
INSERT INTO slice.batches SELECT * FROM main.batches WHERE fingerprint = :step;
"""


def write_slice(
    db: sqlite3.Connection, target: Path, *, step: str, inputs: Collection[str], checkpoint: str | None = None
) -> str:
    """Write what a step reads of the run that ``db`` has open into the new directory ``target``; the slice's digest.

    ``inputs`` are the fingerprints of the steps that it reads from. With a ``checkpoint`` all its trajectories are
    there too, of whichever step. Errors: StoreError naming the place where it cannot be written.
    """
    try:
        target.mkdir(mode=PRIVATE_DIRECTORY, parents=True)
        os.close(os.open(target / DATABASE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
        _make_tables(target / DATABASE)
        _fill(db, target / DATABASE, [step, *inputs], {"step": step, "checkpoint": checkpoint})
        with contextlib.closing(sqlite3.connect(target / DATABASE, isolation_level=None)) as made:
            made.execute("PRAGMA synchronous=OFF")
            made.execute("BEGIN")
            reseal(made)
            made.execute("COMMIT")
            return digest_run(made)
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreError(f"{target}: cannot write a step's slice of the run ({error}); make room there") from error


def _make_tables(file: Path) -> None:
    # Whoever needs it after the machine stopped gets a new one, so nothing is synced, and there is one file alone.
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(f"PRAGMA page_size={PAGE_BYTES}; PRAGMA synchronous=OFF; BEGIN; {SCHEMA}")
        db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
        db.execute("COMMIT")


def _fill(db: sqlite3.Connection, file: Path, wanted: Collection[str], names: dict[str, str | None]) -> None:
    db.execute("ATTACH ? AS slice", (f"{file.absolute().as_uri()}?mode=rw",))
    try:
        db.execute("PRAGMA slice.synchronous=OFF")
        db.execute("CREATE TEMP TABLE wanted (fingerprint TEXT PRIMARY KEY)")
        db.execute("CREATE TEMP TABLE taken (key INTEGER PRIMARY KEY)")
        db.execute("BEGIN")
        db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", [(name,) for name in wanted])
        marks = ", ".join("?" * len(_LEFT_BEHIND))
        db.execute(f"INSERT INTO slice.meta SELECT * FROM main.meta WHERE key NOT IN ({marks})", _LEFT_BEHIND)
        for statement in filter(None, map(str.strip, _TAKE.split(";"))):
            db.execute(statement, {key: value for key, value in names.items() if f":{key}" in statement})
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.execute("DROP TABLE IF EXISTS temp.wanted")
        db.execute("DROP TABLE IF EXISTS temp.taken")
        db.execute("DETACH slice")
