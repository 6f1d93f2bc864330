"""What preference training reads of a run: pairs, and the log-probabilities that a reference gives trajectories.

Functions on the run's database; the store calls them with its own connection and its way from ids to row numbers.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from holdfast.records import PreferencePair
from holdfast.records.errors import StoreError
from holdfast.store.seals import Seals

KeyOf = Callable[[str], int]

# A REAL holds a float64 bit by bit; NaN would be NULL.
PREFERENCE_SCHEMA = """
CREATE TABLE pairs (step TEXT NOT NULL, position INTEGER NOT NULL, chosen INTEGER NOT NULL, rejected INTEGER NOT NULL,
  objectives TEXT NOT NULL, judge TEXT NOT NULL, gap REAL NOT NULL, weight REAL NOT NULL,
  seal INTEGER NOT NULL, PRIMARY KEY (step, position)) WITHOUT ROWID;
CREATE TABLE logprobs (step TEXT NOT NULL, trajectory INTEGER NOT NULL REFERENCES trajectories,
  value REAL NOT NULL CHECK (typeof(value) = 'real' AND value BETWEEN -1e300 AND 0),
  seal INTEGER NOT NULL, PRIMARY KEY (step, trajectory)) WITHOUT ROWID;
"""


def write_pairs(seals: Seals, key_of: KeyOf, step: str, pairs: Sequence[PreferencePair]) -> None:
    """Store a step's pairs in their order."""
    for position, pair in enumerate(pairs):
        keys = key_of(pair.chosen), key_of(pair.rejected)
        objectives = json.dumps(pair.objectives)
        seals.add("pairs", (step, position, *keys, objectives, pair.judge, pair.gap, pair.weight))


def read_pairs(db: sqlite3.Connection, step: str) -> list[PreferencePair]:
    """A step's pairs in their order."""
    query = (
        "SELECT cases.id, c.id, r.id, objectives, judge, gap, weight FROM pairs"
        " JOIN trajectories c ON c.key = chosen"
        " JOIN trajectories r ON r.key = rejected JOIN cases ON cases.key = c.case_key"
        " WHERE pairs.step = ? ORDER BY position"
    )
    return [
        PreferencePair(
            case_id=case_id,
            chosen=chosen,
            rejected=rejected,
            objectives=tuple(json.loads(objectives)),
            judge=judge,
            gap=gap,
            weight=weight,
        )
        for case_id, chosen, rejected, objectives, judge, gap, weight in db.execute(query, (step,))
    ]


def read_labellers(db: sqlite3.Connection) -> dict[str, frozenset[str]]:
    """Pair step → the judges whose scores made its pairs."""
    found: dict[str, set[str]] = {}
    for step, judge in db.execute("SELECT DISTINCT step, judge FROM pairs"):
        found.setdefault(step, set()).add(judge)
    return {step: frozenset(judges) for step, judges in found.items()}


def write_logprobs(seals: Seals, key_of: KeyOf, step: str, values: Mapping[str, float]) -> None:
    """Store log-probabilities in nats by trajectory id. Errors: StoreError for a value that is none."""
    try:
        for name, value in values.items():
            seals.add("logprobs", (step, key_of(name), value))
    except sqlite3.IntegrityError as error:
        raise StoreError(
            f"reference step {step}: log-probabilities cannot be stored ({error}); each is one number"
            " up to 0 for a trajectory of the run, stored once"
        ) from error


def read_logprobs(db: sqlite3.Connection, step: str) -> dict[str, float]:
    """Trajectory id → log-probability in nats, as one reference step found it."""
    query = "SELECT id, value FROM logprobs JOIN trajectories ON key = trajectory WHERE logprobs.step = ?"
    return dict(db.execute(query, (step,)).fetchall())
