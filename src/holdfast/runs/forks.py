"""Starting a new run from an old one: what a changed study can still use is copied, the rest is left behind."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from holdfast.records.errors import StudyError
from holdfast.records.outputs import new_directory
from holdfast.runs.plan.settings import JudgeSettings
from holdfast.runs.plan.step import Plan
from holdfast.store import Store
from holdfast.store.copying import fill_copy
from holdfast.store.database import PRIVATE_DIRECTORY
from holdfast.store.places import FORKED_KEY, STUDY_KEY

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
            fill_copy(source, part, lambda db: _prune(db, source, plan))
        except sqlite3.OperationalError as error:
            raise StudyError(f"{target}: cannot write a run here ({error}); {remedy}") from error


def _prune(db: sqlite3.Connection, source: Path, plan: Plan) -> None:
    """Take out what a plan has no use for, inside the transaction of a copy."""
    for table in _WANTED:
        db.execute(f"CREATE TEMP TABLE {table}")
    db.executemany("INSERT INTO wanted VALUES (?)", [(step.fingerprint,) for step in plan.steps])
    brought = [(step.fingerprint,) for step in plan.steps if step.kind == "bring"]
    db.executemany("INSERT INTO wanted_brought VALUES (?)", brought)
    begun = {row[0] for row in db.execute("SELECT fingerprint FROM main.steps")}
    judged = [
        (step.inputs[0], step.settings.judge)
        for step in plan.steps
        if isinstance(step.settings, JudgeSettings) and step.fingerprint in begun
    ]
    db.executemany("INSERT INTO wanted_scores VALUES (?, ?)", judged)
    made = {checkpoint.id for step in plan.steps for checkpoint in step.checkpoints}
    db.executemany("INSERT INTO wanted_checkpoints VALUES (?)", [(name,) for name in made])
    for statement in _PRUNE.split(";"):
        db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (FORKED_KEY, str(source.absolute())))
