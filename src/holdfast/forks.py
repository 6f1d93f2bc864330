"""Starting a new run from an old one: what a changed study can still use is copied, the rest is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from holdfast.errors import StudyError
from holdfast.plan import Plan
from holdfast.store import DATABASE, Store
from holdfast.store.preferences import LOGPROB_SCHEMA
from holdfast.store.weights import TEMPORARY, WEIGHTS

STUDY_KEY = "study"
ENDPOINTS_KEY = "endpoints"  # how the study's remote models are reached: no secrets, and no part of what was asked
FORKED_KEY = "forked_from"
LEDGER = "calls.db"  # of a run: every call to a remote model, with its reply
LOGS = "logs"  # where a run keeps the logs of its training stages, by step

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
    part = target.with_name(f".{target.name}{TEMPORARY}{os.getpid()}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        (part / WEIGHTS).mkdir(parents=True)
        _copy_database(source, part, plan)
        if (source / LEDGER).is_file():  # what was paid for is not paid for again
            _back_up(source / LEDGER, part / LEDGER)
        with Store(part) as store:
            for checkpoint in store.checkpoints():
                if checkpoint.path is not None and not (part / checkpoint.path).exists():
                    shutil.copytree(source / checkpoint.path, part / checkpoint.path)
            _copy_logs(source, part, store)
        part.rename(target)
    except (OSError, shutil.Error, sqlite3.OperationalError) as error:
        raise StudyError(f"{target}: cannot write a run here ({error}); choose another place for the fork") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _back_up(source: Path, target: Path) -> None:
    """A database as it is, whoever writes to it meanwhile."""
    with (
        contextlib.closing(sqlite3.connect(f"file:{source.absolute()}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _copy_logs(source: Path, target: Path, store: Store) -> None:
    """The logs of the training stages that the fork has."""
    (target / LOGS).mkdir()
    for fingerprint in store.log.steps():
        if (log := source / LOGS / f"{fingerprint}.jsonl").is_file():
            shutil.copyfile(log, target / LOGS / log.name)


def _copy_database(source: Path, target: Path, plan: Plan) -> None:
    """The database of ``source`` at ``target``, without what the plan has no use for."""
    address = f"file:{source.absolute() / DATABASE}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(address, uri=True)) as old,
        contextlib.closing(sqlite3.connect(target / DATABASE, isolation_level=None)) as new,
    ):
        old.backup(new)
        new.executescript(
            LOGPROB_SCHEMA + "CREATE TEMP TABLE wanted (fingerprint TEXT PRIMARY KEY);"
            "CREATE TEMP TABLE wanted_checkpoints (id TEXT PRIMARY KEY);"
            "CREATE TEMP TABLE wanted_brought (fingerprint TEXT PRIMARY KEY);"
            "CREATE TEMP TABLE wanted_scores (step TEXT, judge TEXT, PRIMARY KEY (step, judge));"
        )
        new.executemany("INSERT INTO wanted VALUES (?)", [(step.fingerprint,) for step in plan.steps])
        brought = [(step.fingerprint,) for step in plan.steps if step.kind == "bring"]
        new.executemany("INSERT INTO wanted_brought VALUES (?)", brought)
        begun = {row[0] for row in new.execute("SELECT fingerprint FROM steps")}
        judged = [step for step in plan.steps if step.kind == "judge" and step.fingerprint in begun]
        wanted_scores = [(step.inputs[0], step.settings["judge"]) for step in judged]
        new.executemany("INSERT INTO wanted_scores VALUES (?, ?)", wanted_scores)
        made = {checkpoint.id for step in plan.steps for checkpoint in step.checkpoints}
        new.executemany("INSERT INTO wanted_checkpoints VALUES (?)", [(name,) for name in made])
        new.executescript("BEGIN;" + _PRUNE + "COMMIT; VACUUM; PRAGMA journal_mode=WAL;")
        new.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (FORKED_KEY, str(source.absolute())))
