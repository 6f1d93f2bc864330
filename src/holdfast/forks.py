"""Starting a new run from an old one: what a changed study can still use is copied, the rest is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from holdfast.plan import Plan
from holdfast.store import DATABASE, Store

FORKED_KEY = "forked_from"
WEIGHTS = "weights"

# What a step made goes with it; what nothing refers to any more goes last.
_PRUNE = """
DELETE FROM meta WHERE key = 'study';
DELETE FROM steps WHERE fingerprint NOT IN (SELECT fingerprint FROM wanted) OR status <> 'done';
DELETE FROM batches WHERE fingerprint NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM pairs WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM scores WHERE trajectory IN
  (SELECT key FROM trajectories WHERE step NOT IN (SELECT fingerprint FROM wanted));
DELETE FROM trajectories WHERE step NOT IN (SELECT fingerprint FROM wanted);
DELETE FROM checkpoints WHERE id NOT IN (SELECT id FROM wanted_checkpoints);
DELETE FROM splits;
DELETE FROM cases WHERE key NOT IN (SELECT case_key FROM trajectories);
DELETE FROM texts WHERE key NOT IN (SELECT text FROM trajectories UNION SELECT text FROM cases
  UNION SELECT reply FROM scores WHERE reply IS NOT NULL);
"""


def fork_run(source: Path, target: Path, plan: Plan) -> None:
    """Make a run at ``target`` with every finished step of ``source`` that ``plan`` needs; ``source`` is not touched.

    A target that is there already is left as it is, so that a fork that was begun goes on. Errors: StoreError
    where ``source`` holds no run.
    """
    Store(source).close()
    if target.exists():
        return
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    (part / WEIGHTS).mkdir(parents=True)
    address = f"file:{source.absolute() / DATABASE}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(address, uri=True)) as old,
        contextlib.closing(sqlite3.connect(part / DATABASE, isolation_level=None)) as new,
    ):
        old.backup(new)
        new.executescript(
            "CREATE TEMP TABLE wanted (fingerprint TEXT PRIMARY KEY);"
            "CREATE TEMP TABLE wanted_checkpoints (id TEXT PRIMARY KEY);"
        )
        new.executemany("INSERT INTO wanted VALUES (?)", [(step.fingerprint,) for step in plan.steps])
        made = {checkpoint.id for step in plan.steps for checkpoint in step.checkpoints}
        new.executemany("INSERT INTO wanted_checkpoints VALUES (?)", [(name,) for name in made])
        new.executescript("BEGIN;" + _PRUNE + "COMMIT; VACUUM; PRAGMA journal_mode=WAL;")
        new.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (FORKED_KEY, str(source.absolute())))
    with Store(part) as store:
        for checkpoint in store.checkpoints():
            if checkpoint.path is not None and not (part / checkpoint.path).exists():
                shutil.copytree(source / checkpoint.path, part / checkpoint.path)
    part.rename(target)
