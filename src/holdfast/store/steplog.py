"""The log of a run's steps: which are under way, done or failed, and which batches of them are committed.

It lives in the run's database; ``Store.log`` is the way to it, and writes join the store's transaction.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.records.errors import StoreError
from holdfast.store.codec import telling_damage
from holdfast.store.seals import Seals

LOG_DIGESTS = "logs"  # in a step's result: SHA-256 of each log of its training, by what is added to the log's name
PLAN_KEY = "plan"  # under ``meta``: the fingerprints of the steps that the study of a run has, in their order
STEP_SCHEMA = """
CREATE TABLE steps (fingerprint TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
  result TEXT, started REAL, finished REAL) WITHOUT ROWID;
CREATE TABLE batches (fingerprint TEXT NOT NULL, batch INTEGER NOT NULL,
  seal INTEGER NOT NULL, PRIMARY KEY (fingerprint, batch)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """What is known of a step: its status (``running``, ``done``, ``failed``) and its result."""

    fingerprint: str
    kind: str
    name: str
    status: str
    result: Mapping[str, Any]
    seconds: float | None
    finished: float | None  # seconds since the epoch


class StepLog:
    """Reads and writes the status of steps; made by the store on its own connection."""

    def __init__(self, db: sqlite3.Connection, seals: Seals) -> None:
        self._db, self._seals = db, seals

    def begin(self, fingerprint: str, kind: str, name: str) -> None:
        """Note that a step is under way; inside the store's transaction, like all that writes here.

        A step that failed or was broken off begins anew; one that is done stays done.
        """
        self._db.execute(
            "INSERT INTO steps VALUES (?, ?, ?, 'running', NULL, ?, NULL)"
            " ON CONFLICT (fingerprint) DO UPDATE SET status = 'running', started = excluded.started"
            " WHERE status <> 'done'",
            (fingerprint, kind, name, time.time()),
        )
        self._seals.change("steps")

    def finish(self, fingerprint: str, result: Mapping[str, Any], *, status: str = "done") -> None:
        """Note a step's end (``done`` or ``failed``) and its result, a JSON object."""
        text = json.dumps(result, sort_keys=True, allow_nan=False)
        self._db.execute(
            "UPDATE steps SET status = ?, result = ?, finished = ? WHERE fingerprint = ?",
            (status, text, time.time(), fingerprint),
        )
        self._seals.change("steps")

    def commit_batch(self, fingerprint: str, batch: int) -> None:
        """Mark one batch of a step as done; call it in the transaction that stores the batch."""
        self._seals.add("batches", (fingerprint, batch))

    def batches(self, fingerprint: str) -> set[int]:
        """The batches of a step that are done."""
        return {row[0] for row in self._db.execute("SELECT batch FROM batches WHERE fingerprint = ?", (fingerprint,))}

    def steps(self) -> dict[str, StepStatus]:
        """Every step that was ever begun, by fingerprint: in the order of the run's plan, the others behind them.

        The plan's order is no clock's, and a step that was repeated keeps its place. Errors: StoreError for a step that
        cannot be read.
        """
        with telling_damage("the log of steps"):
            planned = self._db.execute("SELECT value FROM meta WHERE key = ?", (PLAN_KEY,)).fetchone()
            order = {name: number for number, name in enumerate(json.loads(planned[0]) if planned else ())}
            rows = self._db.execute("SELECT * FROM steps ORDER BY started, fingerprint")
            return {
                row[0]: StepStatus(
                    fingerprint=_check_fingerprint(row[0]),
                    kind=row[1],
                    name=row[2],
                    status=row[3],
                    result=dict(json.loads(row[4] or "{}")),
                    seconds=None if row[6] is None else row[6] - row[5],
                    finished=row[6],
                )
                for row in sorted(rows, key=lambda row: order.get(row[0], len(order)))
            }


def _check_fingerprint(name: str) -> str:
    """A step's fingerprint names files of the run. Errors: StoreError where it could name others."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise StoreError(f"the log of steps: {name[:40]!r} is no fingerprint of a step; restore the run")
    return name
