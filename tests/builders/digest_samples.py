"""Runs to damage: a small one with rows in every table, one of the earlier format, edits that leave digests alone."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from builders.gate_samples import Made, mixed, steady, write_run
from holdfast.records import PreferencePair
from holdfast.store import DATABASE, Store
from holdfast.store.seals import ADDED_TO


def write_small(path: Path) -> Path:
    """A run of two checkpoints on eight cases, with something in every table; several transactions wrote it."""
    made = Made(
        safety={"base": steady(8), "S": mixed(8, 1)}, judges=("j", "k"), families=["a", "b"] * 4, asked={0: ["safety"]}
    )
    write_run(path, made)
    with Store(path, writable=True) as store:
        ids = store.trajectory_ids()
        for step in ("first", "second"):
            with store.transaction():
                store.log.begin(step, "pair", f"pairs of {step}")
                pair = PreferencePair(
                    case_id=store.trajectory(ids[0]).case_id,
                    chosen=ids[0],
                    rejected=ids[1],
                    objectives=("safety",),
                    judge="j",
                    gap=1.0,
                )
                store.add_pairs(step, [pair, pair])
                store.add_logprobs(step, {ids[0]: -2.0, ids[1]: -1.5})
                store.log.commit_batch(step, 0)
                store.log.commit_batch(step, 1)
                store.log.finish(step, {"pairs": 1, "checkpoint": "x"})
            with store.transaction():
                store.set_meta(step, "noted")
                store.add_split(1, {"train": store.case_ids()[:3] if step == "first" else store.case_ids()[3:5]})
    return path


def edit(path: Path, *statements: str) -> None:
    """Carry out SQL on a run's database behind its back."""
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def make_unsealed(path: Path) -> Path:
    """Turn a run into one of the format before digests."""
    edit(
        path,
        *(f"ALTER TABLE {table} DROP COLUMN seal" for table in ADDED_TO),
        "DROP TABLE seals",
        "DROP TABLE sealed",
        "UPDATE meta SET value = '1' WHERE key = 'format'",
    )
    return path


def read_all(path: Path) -> str:
    """All that a run says of itself, as text."""
    with Store(path) as store:
        ids = store.trajectory_ids(part="all")
        table, trajectories = store.score_table(part="all"), store.trajectory_table(part="all")
        return repr(
            [
                *(store.cases(), store.splits(), store.checkpoints(), store.log.steps(), store.counts()),
                *(list(store.trajectories(ids)), list(store.scores_of(ids))),
                *(store.pairs(step) for step in ("first", "second")),
                *(store.logprobs(step) for step in ("first", "second")),
                *(store.log.batches(step) for step in ("first", "second")),
                *(store.meta(key) for key in ("first", "second", "format")),
                *(table.value.tolist(), table.judge.tolist(), table.case.tolist(), table.flags.tolist()),
                *(trajectories.calls.tolist(), trajectories.tokens.tolist(), trajectories.rollout.tolist()),
            ]
        )


# What an edit is called → its statements; all leave the digests as they are, or remove some.
EDITS: dict[str, tuple[str, ...]] = {
    "scores changed": ("UPDATE scores SET value = 3 - value WHERE judge = 1",),
    "one score changed": ("UPDATE scores SET value = 0 WHERE (trajectory, judge, repeat) = (1, 1, 0)",),
    "a score made missing": (
        "UPDATE scores SET value = NULL, missing = 'no verdict' WHERE (trajectory, judge, repeat) = (1, 1, 0)",
    ),
    "a label": ("UPDATE scores SET label = 'mild' WHERE (trajectory, judge, repeat) = (1, 1, 0)",),
    "a score deleted": ("DELETE FROM scores WHERE (trajectory, judge, repeat) = (1, 1, 0)",),
    "all scores of a judge deleted": ("DELETE FROM scores WHERE judge = 2",),
    "a score added": (
        "INSERT INTO scores SELECT trajectory, judge, 7, value, missing, label, reply, seal FROM scores LIMIT 1",
    ),
    "a score of its own batch": (
        "INSERT INTO scores SELECT trajectory, judge, 7, value, missing, label, reply, 999 FROM scores LIMIT 1",
    ),
    "two scores exchanged": (
        "UPDATE scores SET repeat = 90 WHERE (trajectory, judge, repeat) = (1, 1, 0)",
        "UPDATE scores SET trajectory = 1 WHERE (trajectory, judge, repeat) = (17, 1, 0)",
        "UPDATE scores SET trajectory = 17, repeat = 0 WHERE (trajectory, judge, repeat) = (1, 1, 90)",
    ),
    "a judge's name": ("UPDATE judges SET name = 'other' WHERE key = 1",),
    "two judges exchanged": (
        "UPDATE judges SET key = 99 WHERE key = 1",
        "UPDATE judges SET key = 1 WHERE key = 2",
        "UPDATE judges SET key = 2 WHERE key = 99",
    ),
    "calls": ("UPDATE trajectories SET calls = calls + 1 WHERE key = 3",),
    "tokens": ("UPDATE trajectories SET tokens = 5 WHERE key = 3",),
    "flags": ("UPDATE trajectories SET flags = flags | 4 WHERE key = 3",),
    "a rollout's number": ("UPDATE trajectories SET rollout = 5 WHERE key = 3",),
    "a trajectory's checkpoint": ("UPDATE trajectories SET checkpoint = 3 - checkpoint WHERE key = 3",),
    "a trajectory's case": ("UPDATE trajectories SET case_key = 5 WHERE key = 3",),
    "a trajectory of no step": ("UPDATE trajectories SET step = 'first' WHERE key = 3",),
    "a trajectory deleted": ("DELETE FROM scores WHERE trajectory = 3", "DELETE FROM trajectories WHERE key = 3"),
    "a case's family": ("UPDATE cases SET family = 'b' WHERE key = 1",),
    "a case's text": ("UPDATE cases SET text = (SELECT text FROM trajectories LIMIT 1) WHERE key = 1",),
    "two texts exchanged": (
        "UPDATE texts SET key = 99 WHERE key = 1",
        "UPDATE texts SET key = 1 WHERE key = 2",
        "UPDATE texts SET key = 2 WHERE key = 99",
    ),
    "a text under a digest of its own": (
        "UPDATE texts SET digest = x'00112233445566778899aabbccddeeff' WHERE key = 1",
    ),
    "a part of a split": ("UPDATE splits SET part = 'train' WHERE split_seed = 0 AND case_key = 2",),
    "a split deleted": ("DELETE FROM splits WHERE split_seed = 1",),
    "a checkpoint's body": ("UPDATE checkpoints SET body = replace(body, 'safety', 'honest') WHERE key = 2",),
    "a pair turned": ("UPDATE pairs SET chosen = rejected, rejected = chosen WHERE step = 'first' AND position = 0",),
    "a pair's weight": ("UPDATE pairs SET weight = 2 WHERE step = 'first' AND position = 0",),
    "a pair moved to another step": ("UPDATE pairs SET step = 'third' WHERE step = 'first' AND position = 1",),
    "a log-probability": ("UPDATE logprobs SET value = value - 1 WHERE step = 'first'",),
    "a step's result": ("UPDATE steps SET result = '{}' WHERE fingerprint = 'first'",),
    "a step's status": ("UPDATE steps SET status = 'running' WHERE fingerprint = 'first'",),
    "a step's time": ("UPDATE steps SET finished = finished + 5 WHERE fingerprint = 'first'",),
    "a step's time without end": ("UPDATE steps SET finished = NULL WHERE fingerprint = 'first'",),
    "a step deleted": ("DELETE FROM steps WHERE fingerprint = 'first'",),
    "a step added": ("INSERT INTO steps SELECT 'third', kind, name, status, result, 0, 1 FROM steps LIMIT 1",),
    "meta changed": ("UPDATE meta SET value = 'other' WHERE key = 'first'",),
    "meta deleted": ("DELETE FROM meta WHERE key = 'first'",),
    "meta added": ("INSERT INTO meta VALUES ('third', 'x')",),
    "a mark of a batch added": ("INSERT INTO batches VALUES ('first', 2, 1)",),
    "a mark of a batch deleted": ("DELETE FROM batches WHERE fingerprint = 'first' AND batch = 1",),
    "rows moved to another batch": ("UPDATE splits SET seal = (SELECT max(seal) FROM splits)",),
    "a batch deleted with its digest": (
        "DELETE FROM logprobs WHERE step = 'second'",
        "DELETE FROM seals WHERE number = (SELECT max(number) FROM seals WHERE place = 'logprobs')",
    ),
    "the last batch deleted with its digest": (
        "DELETE FROM splits WHERE seal = (SELECT max(number) FROM seals)",
        "DELETE FROM seals WHERE number = (SELECT max(number) FROM seals)",
    ),
    "a digest changed": ("UPDATE seals SET digest = zeroblob(16) WHERE number = 3",),
    "all digests deleted": ("DELETE FROM seals", "DELETE FROM sealed"),
    "no tables of digests": ("DROP TABLE seals", "DROP TABLE sealed"),
    "told to be of the earlier format": ("UPDATE meta SET value = '1' WHERE key = 'format'",),
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON scores BEGIN UPDATE scores SET value = 3; END",),
    "a view": ("CREATE VIEW v AS SELECT 1",),
    "a table of its own": ("CREATE TABLE mine (a)",),
    "an index of its own": ("CREATE INDEX mine ON scores (value)",),
    "a column of its own": ("ALTER TABLE scores ADD COLUMN mine",),
}
