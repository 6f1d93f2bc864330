"""The store: the only reader and writer of a run's artifacts.

A run is one directory. ``run.db`` (SQLite, WAL, synchronous=FULL) holds cases, checkpoints, trajectories,
scores, pairs and the status of every step; ``weights/`` holds directories of weights under the digest of
their files. One process writes; any number read. Committed means durable. Nothing is edited in place.

Work is committed in batches: ``store.transaction()`` is all or nothing, and ``commit_batch`` marks a batch of
a step as done in the same transaction that holds its records, so that a killed run never repeats it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.errors import StoreError
from holdfast.records import Case, Checkpoint, PreferencePair, Score, Trajectory
from holdfast.store import codec, database, tables
from holdfast.store.database import DATABASE
from holdfast.store.steplog import StepLog

NOUNS = {"cases": "case", "checkpoints": "checkpoint", "trajectories": "trajectory"}


class Store:
    """A run directory, opened to read, or by one process at a time to write."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Open an existing run; ``create`` makes a new one. Errors: StoreError."""
        self.path = Path(path)
        if not (self.path / DATABASE).is_file():
            raise StoreError(
                f"{self.path}: no run here (no {DATABASE}); make one with `holdfast run` or `holdfast import`"
            )
        with contextlib.ExitStack() as opened:
            if writable:
                opened.callback(database.WriteLock(self.path).release)
            self._db = opened.enter_context(contextlib.closing(database.connect(self.path, writable=writable)))
            self._codec = codec.TextCodec(dict(self._db.execute("SELECT number, body FROM dictionaries")))
            self._opened = opened.pop_all()
        self._keys: dict[str, dict[Any, int]] = {}
        self.log = StepLog(self._db)

    @classmethod
    def create(cls, path: Path) -> Store:
        """A new, empty run at ``path``, opened for writing. Errors: StudyError where it cannot be written."""
        database.create(Path(path))
        return cls(path, writable=True)

    @classmethod
    def open_or_create(cls, path: Path) -> Store:
        """The run at ``path`` opened for writing, made first if there is none."""
        if database.holds_tables(Path(path)):
            return cls(path, writable=True)
        # A kill between the making of the file and its first commit leaves an empty database.
        for leftover in Path(path).glob(DATABASE + "*"):
            leftover.unlink()
        return cls.create(path)

    def close(self) -> None:
        """Close the database and give up the right to write."""
        self._opened.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._keys.clear()
            raise
        self._db.execute("COMMIT")

    # --- meta -------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """The value noted under ``key``, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Note ``value`` under ``key``."""
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    # --- texts ------------------------------------------------------------------------------------------

    @property
    def text_codec(self) -> codec.TextCodec:
        """Compresses texts for this run; its ``pack`` may be called from other threads."""
        return self._codec

    def add_dictionary(self, body: bytes) -> int:
        """Keep a compression dictionary; returns its number for ``codec.pack``."""
        number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM dictionaries").fetchone()[0])
        self._db.execute("INSERT INTO dictionaries VALUES (?, ?)", (number, body))
        self._codec.add_dictionary(number, body)
        return number

    def add_text(self, text: codec.Text) -> int:
        """Store a text unless it is there; returns its key."""
        row = self._db.execute(
            "INSERT INTO texts (digest, dictionary, body) VALUES (?, ?, ?)"
            " ON CONFLICT (digest) DO NOTHING RETURNING key",
            (text.digest, text.dictionary, text.body),
        ).fetchone()
        if row is None:
            row = self._db.execute("SELECT key FROM texts WHERE digest = ?", (text.digest,)).fetchone()
        return int(row[0])

    def _text(self, key: int) -> bytes:
        return self._codec.unpack(
            *self._db.execute("SELECT digest, dictionary, body FROM texts WHERE key = ?", (key,)).fetchone()
        )

    # --- cases, splits, checkpoints -----------------------------------------------------------------------

    def _key(self, table: str, identity: str) -> int:
        """The row number of a case, checkpoint or trajectory id. Errors: StoreError where it is unknown."""
        known = self._keys.setdefault(table, {})
        if identity not in known:
            row = self._db.execute(f"SELECT key FROM {table} WHERE id = ?", (identity,)).fetchone()
            if row is None:
                raise StoreError(f"{self.path}: no {NOUNS[table]} {identity!r}")
            known[identity] = int(row[0])
        return known[identity]

    def add_cases(self, cases: Iterable[Case]) -> None:
        """Store cases that are not there yet."""
        for case in cases:
            text = self.add_text(self._codec.pack(codec.case_to_bytes(case)))
            self._db.execute(
                "INSERT INTO cases (id, suite, number, family, text) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO NOTHING",
                (case.id, case.suite, case.number, case.family, text),
            )

    def add_split(self, split_seed: int, parts: Mapping[str, Iterable[str]]) -> None:
        """Note which cases (ids) are ``train`` and ``test`` under a split seed."""
        rows = [(split_seed, self._key("cases", case_id), part) for part, ids in parts.items() for case_id in ids]
        self._db.executemany("INSERT INTO splits VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def splits(self) -> dict[int, dict[str, tuple[str, ...]]]:
        """Split seed → part → case ids, in the order of case numbers."""
        found: dict[int, dict[str, list[str]]] = {}
        query = "SELECT split_seed, part, id FROM splits JOIN cases ON key = case_key ORDER BY split_seed, number"
        for seed, part, case_id in self._db.execute(query):
            found.setdefault(seed, {}).setdefault(part, []).append(case_id)
        return {seed: {part: tuple(ids) for part, ids in parts.items()} for seed, parts in found.items()}

    def cases(self) -> list[Case]:
        """Every case, by suite and number."""
        query = (
            "SELECT id, suite, number, family, digest, dictionary, body FROM cases JOIN texts ON texts.key = text"
            " ORDER BY suite, number"
        )
        return [
            codec.case_from_bytes(self._codec.unpack(*text), id=i, suite=s, number=n, family=f)
            for i, s, n, f, *text in self._db.execute(query)
        ]

    def case(self, case_id: str) -> Case:
        """One case by id. Errors: StoreError."""
        key = self._key("cases", case_id)
        suite, number, family, text = self._db.execute(
            "SELECT suite, number, family, text FROM cases WHERE key = ?", (key,)
        ).fetchone()
        return codec.case_from_bytes(self._text(text), id=case_id, suite=suite, number=number, family=family)

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint unless its id is there."""
        self._db.execute(
            "INSERT INTO checkpoints (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
            (checkpoint.id, codec.checkpoint_to_bytes(checkpoint)),
        )

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint by base, stages, axes and seeds, whichever was made first."""
        stored = self._db.execute("SELECT body FROM checkpoints")
        return tables.in_order(codec.checkpoint_from_bytes(body) for (body,) in stored)

    def checkpoint(self, checkpoint_id: str) -> Checkpoint:
        """One checkpoint by id. Errors: StoreError."""
        key = self._key("checkpoints", checkpoint_id)
        return codec.checkpoint_from_bytes(
            self._db.execute("SELECT body FROM checkpoints WHERE key = ?", (key,)).fetchone()[0]
        )

    # --- trajectories and scores --------------------------------------------------------------------------

    def add_trajectory(self, trajectory: Trajectory, text: codec.Text | int, *, step: str | None = None) -> bool:
        """Store a trajectory whose text (or its key) is ``codec.trajectory_to_bytes`` packed; False if it was there."""
        row = self._db.execute(
            "INSERT INTO trajectories"
            " (id, case_key, checkpoint, rollout, step, ending, flags, calls, invalid_calls, tokens, text)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING key",
            (
                trajectory.id,
                self._key("cases", trajectory.case_id),
                self._key("checkpoints", trajectory.checkpoint_id),
                trajectory.rollout,
                step,
                trajectory.ending.value,
                codec.flags_to_bits(trajectory.flags),
                trajectory.calls,
                trajectory.invalid_calls,
                trajectory.tokens,
                text if isinstance(text, int) else self.add_text(text),
            ),
        ).fetchone()
        if row is not None:
            self._keys.setdefault("trajectories", {})[trajectory.id] = int(row[0])
        return row is not None

    def add_score(self, score: Score, reply: codec.Text | int | None = None) -> bool:
        """Store a score, with its reply packed (or its text's key) where there is one; False if it was there."""
        judges = self._keys.setdefault("judges", {})
        judge = (score.judge, score.objective, score.rubric)
        if judge not in judges:
            self._db.execute(
                "INSERT INTO judges (name, objective, rubric) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", judge
            )
            query = "SELECT key FROM judges WHERE name = ? AND objective = ? AND rubric = ?"
            judges[judge] = int(self._db.execute(query, judge).fetchone()[0])
        if reply is None and score.reply is not None:
            reply = self._codec.pack(score.reply.encode("utf-8", "surrogatepass"))
        row = self._db.execute(
            "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1",
            (
                self._key("trajectories", score.trajectory_id),
                judges[judge],
                score.repeat,
                score.value,
                score.missing,
                score.label,
                self.add_text(reply) if isinstance(reply, codec.Text) else reply,
            ),
        ).fetchone()
        return row is not None

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """One trajectory by id. Errors: StoreError."""
        return next(self.trajectories([trajectory_id]))

    def trajectories(self, ids: Iterable[str] | None = None, *, step: str | None = None) -> Iterator[Trajectory]:
        """Trajectories by id, or of one step, or all, in the order of storing (of ``ids`` where given)."""
        query = (
            "SELECT t.id, c.id, p.id, t.rollout, t.ending, t.flags, t.calls, t.invalid_calls, t.tokens,"
            " x.digest, x.dictionary, x.body"
            " FROM trajectories t JOIN cases c ON c.key = t.case_key JOIN checkpoints p ON p.key = t.checkpoint"
            " JOIN texts x ON x.key = t.text"
        )
        rows: Iterator[Any]
        if ids is not None:
            keys = (self._key("trajectories", identity) for identity in ids)
            rows = (self._db.execute(query + " WHERE t.key = ?", (key,)).fetchone() for key in keys)
        elif step is not None:
            rows = self._db.execute(query + " WHERE t.step = ? ORDER BY t.key", (step,))
        else:
            rows = self._db.execute(query + " ORDER BY t.key")
        states: dict[str, Any] = {}
        names = ("id", "case_id", "checkpoint_id", "rollout", "ending", "flags", "calls", "invalid_calls", "tokens")
        for *columns, digest, dictionary, body in rows:
            case_id = columns[1]
            if case_id not in states:
                states[case_id] = self.case(case_id).state
            plain = self._codec.unpack(digest, dictionary, body)
            yield codec.trajectory_from_bytes(
                plain, case_state=states[case_id], **dict(zip(names, columns, strict=True))
            )

    def scores(self, trajectory_id: str) -> list[Score]:
        """Every score of one trajectory with the judges' replies."""
        query = (
            "SELECT name, objective, rubric, repeat, value, missing, label, reply FROM scores"
            " JOIN judges ON judges.key = judge"
            " WHERE trajectory = ? ORDER BY name, objective, repeat"
        )
        return [
            Score(
                trajectory_id=trajectory_id,
                judge=name,
                objective=objective,
                rubric=rubric,
                repeat=repeat,
                value=value,
                missing=missing,
                label=label,
                reply=None if reply is None else self._text(reply).decode("utf-8", "surrogatepass"),
            )
            for name, objective, rubric, repeat, value, missing, label, reply in self._db.execute(
                query, (self._key("trajectories", trajectory_id),)
            )
        ]

    def score_table(self, *, step: str | None = None) -> tables.ScoreTable:
        """Every score as columns without texts; of one rollout step's trajectories if ``step`` is given."""
        return tables.read_scores(self._db, self.checkpoints(), step)

    def mean_scores(self, step: str) -> dict[tuple[str, str], tuple[float | None, int]]:
        """(judge, objective) → the mean score of one rollout step's trajectories, and how many have a score."""
        query = (
            "SELECT j.name, j.objective, avg(s.value), count(s.value) FROM trajectories t"
            " JOIN scores s ON s.trajectory = t.key JOIN judges j ON j.key = s.judge WHERE t.step = ? GROUP BY 1, 2"
        )
        return {(judge, objective): (mean, count) for judge, objective, mean, count in self._db.execute(query, (step,))}

    def trajectory_table(self) -> tables.TrajectoryTable:
        """Every trajectory's columns, texts left where they are."""
        return tables.read_trajectories(self._db, self.checkpoints())

    def trajectory_ids(self) -> list[str]:
        """Trajectory ids in the order of storing: row ``i`` of the tables' ``trajectory`` column is ``ids[i]``."""
        return [row[0] for row in self._db.execute("SELECT id FROM trajectories ORDER BY key")]

    def case_ids(self) -> list[str]:
        """Case ids in the order of storing: the tables' ``case`` column indexes them."""
        return [row[0] for row in self._db.execute("SELECT id FROM cases ORDER BY key")]

    def counts(self) -> dict[str, int]:
        """How many cases, checkpoints, trajectories, scores, pairs and texts there are."""
        names = ("cases", "checkpoints", "trajectories", "scores", "pairs", "texts")
        return {name: int(self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in names}

    # --- pairs ----------------------------------------------------------------------------------------------

    def add_pairs(self, step: str, pairs: Sequence[PreferencePair]) -> None:
        """Store a step's pairs in their order."""
        rows = [
            (
                step,
                position,
                self._key("trajectories", pair.chosen),
                self._key("trajectories", pair.rejected),
                json.dumps(pair.objectives),
                pair.judge,
                pair.gap,
                pair.weight,
            )
            for position, pair in enumerate(pairs)
        ]
        self._db.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def pairs(self, step: str) -> list[PreferencePair]:
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
            for case_id, chosen, rejected, objectives, judge, gap, weight in self._db.execute(query, (step,))
        ]
