"""The store: the only reader and writer of a run's artifacts.

A run is one directory. ``run.db`` (SQLite, WAL, synchronous=FULL) holds cases, checkpoints, trajectories, scores,
pairs, reference log-probabilities and the status of every step; ``weights/`` holds directories of weights under the
digest of their files. One process writes; any number read. Committed means durable. Nothing is edited in place.

Work is committed in batches: ``store.transaction()`` is all or nothing, and ``commit_batch`` marks a batch of
a step as done in the same transaction that holds its records, so that a killed run never repeats it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from holdfast.records import Case, Checkpoint, PreferencePair, Score, Trajectory
from holdfast.records.errors import StoreError, StudyError
from holdfast.records.groups import group_by_key
from holdfast.store import codec, database, slices, tables
from holdfast.store.beside import CheckBeside, is_worth_it
from holdfast.store.checking import check_rows, digest_run, refuse_links
from holdfast.store.database import DATABASE
from holdfast.store.seals import Seals
from holdfast.store.steplog import StepLog
from holdfast.store.weights import WEIGHTS, holds

READ_ROWS = 256  # of one query by id: round trips cost more than rows
NOUNS = {"cases": "case", "checkpoints": "checkpoint", "trajectories": "trajectory"}


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


UNSEALED = (
    "rows not checked: the run was written by an earlier version, without digests of its rows; `holdfast export RUN"
    " --to run` makes a copy that has them from then on"
)
SEALED_LATE = (
    "rows checked from a copy on: an earlier version wrote the run without digests of its rows, and what changed before"
    " it was copied is not known"
)
_checked: set[tuple[Any, ...]] = set()  # databases that this process has held against their digests, as they were then


class Store:
    """A run directory, opened to read, or by one process at a time to write."""

    def __init__(
        self,
        path: Path,
        *,
        writable: bool = False,
        check: bool | Literal["beside"] = True,
        weights_root: Path | None = None,
    ) -> None:
        """Open an existing run; ``create`` makes a new one. Weights lie in ``weights_root``, by default in the run.

        Every row is held against the digests that were written with it, once a process as long as the files stay as
        they are; without ``check``, for parts of one execution, that is left to whoever began it. "beside" lets another
        process do it where the run is large: it has ended when a ``with`` block has, so nothing of what is worked out
        in the block may be told or kept before. Errors: StoreError where there is no run, where it holds a link, and
        where it is damaged.
        """
        self.path = Path(path)
        self.weights_root = weights_root or self.path / WEIGHTS
        if not (self.path / DATABASE).is_file():
            raise StoreError(
                f"{self.path}: no run here (no {DATABASE}); make one with `holdfast run` or `holdfast import`"
            )
        refuse_links(self.path)
        with contextlib.ExitStack() as opened:
            if writable:
                opened.enter_context(contextlib.closing(database.WriteLock(self.path)))
            self._file = self.path / DATABASE if writable else database.readable(self.path)
            self._db, dictionaries, self.sealed = database.connect(self.path, writable=writable)
            opened.enter_context(contextlib.closing(self._db))
            self._codec = codec.TextCodec(dictionaries)
            self._beside = self._begin_check() if check == "beside" and self.sealed else None
            if check and self.sealed and self._beside is None:
                self._check()
            self._opened = opened.pop_all()
        self._is_sound = writable and check
        self._keys: dict[str, dict[Any, int]] = {}
        self._seals = Seals(self._db)
        self.log = StepLog(self._db, self._seals)

    def _check(self) -> None:
        """Hold the rows against their digests, unless this process has since they were last written."""
        if (now := database.signature(self._file)) in _checked:
            return
        try:
            check_rows(self._file, self._db, database.known_schema())
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            database.tell_damage(self.path, error)
            raise
        _checked.add(now)

    def _begin_check(self) -> tuple[CheckBeside, str | None] | None:
        """The check that another process makes, and the run's digest at its beginning; None where this one makes it."""
        if database.signature(self._file) in _checked or not is_worth_it(self._file):
            return None
        try:
            before = self.digest()
        except (sqlite3.DatabaseError, TypeError):
            return None  # damaged, which the check here tells
        return CheckBeside(self.path), before

    def _settle(self) -> None:
        """Wait for the check of another process. Errors: StoreError where rows are not those that were written."""
        if self._beside is None:
            return
        (check, before), self._beside = self._beside, None
        now = database.signature(self._file)
        # Whoever writes meanwhile changes the run's digest: what was read is then checked here.
        if check.settle() == before == self.digest():
            _checked.add(now)
        else:
            self._check()

    @classmethod
    def create(cls, path: Path) -> Store:
        """A new, empty run at ``path``, opened for writing. Errors: StudyError where it cannot be written."""
        database.create(Path(path))
        return cls(path, writable=True)

    @classmethod
    def open_or_create(cls, path: Path) -> Store:
        """The run at ``path`` opened for writing, made first if there is none."""
        return cls(path, writable=True) if database.holds_tables(Path(path)) else cls.create(path)

    def close(self) -> None:
        """Close the database and give up the right to write."""
        if self._is_sound:
            self._db.close()
            (self.path / database.SNAPSHOT).unlink(missing_ok=True)  # the run itself can be read again
            _checked.add(database.signature(self._file))  # what this process wrote itself, on top of what it checked
        if self._beside is not None:
            self._beside[0].stop()
        self._opened.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            # An error may come of damaged rows, which are then the finding; whoever interrupts waits for nothing.
            if error is None or isinstance(error, Exception):
                self._settle()
        finally:
            self.close()
        database.tell_damage(self.path, error)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together with its digests, or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._seals.begin()
            yield
            self._seals.commit()
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            self._keys.clear()
            raise
        self._db.execute("COMMIT")

    def _writing(self) -> contextlib.AbstractContextManager[Seals]:
        """The seals of the transaction that is open, else of one of its own."""
        return contextlib.nullcontext(self._seals) if self._db.in_transaction else self._transaction()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Seals]:
        with self.transaction():
            yield self._seals

    @property
    def doubt(self) -> str | None:
        """What cannot be said of the rows, for whoever reads results of the run; None where they are checked."""
        if not self.sealed:
            return UNSEALED
        if self._file.name == database.SNAPSHOT:
            taken = time.strftime("%H:%M", time.localtime(self._file.stat().st_mtime))
            return f"a snapshot of {taken}: the run is being written on a network disk, where nobody else may open it"
        return SEALED_LATE if self.meta(database.COPIED_KEY) is not None else None

    def digest(self) -> str | None:
        """The run's digest, over every row, every text and all weights that it made; None for the earlier format.

        It is computed from the digests that were written with the rows, which opening the run holds them against.
        """
        return digest_run(self._db) if self.sealed else None

    def write_snapshot(self) -> None:
        """Let readers see what is committed, where they may not open the run while it is written."""
        database.write_snapshot(self._db, self.path)

    def write_slice(self, target: Path, *, step: str, inputs: Collection[str], checkpoint: str | None = None) -> str:
        """Write what one step reads into the new directory ``target``; the slice's digest. See ``store.slices``."""
        return slices.write_slice(self._db, target, step=step, inputs=inputs, checkpoint=checkpoint)

    # --- meta -------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """The value noted under ``key``, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Note ``value`` under ``key``."""
        with self._writing() as seals:
            self._db.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
            )
            seals.change("meta")

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
        with self._writing() as seals:
            row = seals.add("texts", (text.digest, text.dictionary, text.body), conflict="digest")
        if row is None:
            row = self._db.execute("SELECT key FROM texts WHERE digest = ?", (text.digest,)).fetchone()
        return int(row[0])

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
        with self._writing() as seals:
            for case in cases:
                text = self.add_text(self._codec.pack(codec.case_to_bytes(case)))
                seals.add("cases", (case.id, case.suite, case.number, case.family, text), conflict="id")

    def add_split(self, split_seed: int, parts: Mapping[str, Iterable[str]]) -> None:
        """Note which cases (ids) are ``train`` and ``test`` under a split seed."""
        with self._writing() as seals:
            for part, ids in parts.items():
                for case_id in ids:
                    row = (split_seed, self._key("cases", case_id), part)
                    seals.add("splits", row, conflict="split_seed, case_key")

    def splits(self) -> dict[int, dict[str, tuple[str, ...]]]:
        """Split seed → part → case ids, in the order of case numbers."""
        found: dict[int, dict[str, tuple[str, ...]]] = {}
        query = "SELECT split_seed, part, id FROM splits JOIN cases ON key = case_key ORDER BY split_seed, number"
        parts = group_by_key(((seed, part), case_id) for seed, part, case_id in self._db.execute(query))
        for (seed, part), ids in parts.items():
            found.setdefault(seed, {})[part] = tuple(ids)
        return found

    def cases(self) -> list[Case]:
        """Every case, by suite and number."""
        return self._read_cases("ORDER BY suite, number")

    def case(self, case_id: str) -> Case:
        """One case by id. Errors: StoreError."""
        return self._read_cases("WHERE c.key = ?", (self._key("cases", case_id),))[0]

    def _read_cases(self, clause: str, parameters: tuple[int, ...] = ()) -> list[Case]:
        columns = "c.id, c.suite, c.number, c.family, x.digest, x.dictionary, x.body"
        query = f"SELECT {columns} FROM cases c LEFT JOIN texts x ON x.key = c.text {clause}"
        with codec.telling_damage("a case: its text"):
            return [
                codec.case_from_bytes(self._codec.unpack(*text), id=i, suite=s, number=n, family=f)
                for i, s, n, f, *text in self._db.execute(query, parameters)
            ]

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint unless its id is there. Errors: StoreError where its weights are not in the run."""
        codec.check_place(checkpoint)
        with self._writing() as seals:
            seals.add("checkpoints", (checkpoint.id, codec.checkpoint_to_bytes(checkpoint)), conflict="id")

    def checkpoints(self, *, brought: bool = False) -> list[Checkpoint]:
        """The run's checkpoints by base, stages, axes and seeds, whichever was made first.

        Those that came with another run's trajectories, and bases as they were before they were taught, are among them
        if ``brought``.
        """
        stored = [codec.checkpoint_from_bytes(body) for (body,) in self._db.execute("SELECT body FROM checkpoints")]
        return tables.in_order(one for one in stored if brought or one.source is None)

    def checkpoint(self, checkpoint_id: str) -> Checkpoint:
        """One checkpoint by id. Errors: StoreError."""
        key = self._key("checkpoints", checkpoint_id)
        (body,) = self._db.execute("SELECT body FROM checkpoints WHERE key = ?", (key,)).fetchone()
        return codec.checkpoint_from_bytes(body)

    def weights(self, checkpoint: Checkpoint, *, remedy: str = "run the study again in a new run") -> Path:
        """The directory of the weights that this run made, held against their digest once a process.

        Errors: StudyError with the ``remedy`` where they are not there, StoreError where they are not those.
        """
        directory = self.weights_root / Path(checkpoint.path or "").name
        if checkpoint.path is None or not directory.is_dir():
            raise StudyError(f"{checkpoint.name}: its weights are not at {directory}; {remedy}")
        if not holds(directory, directory.name):
            raise StoreError(
                f"{directory}: holds other weights than {checkpoint.name} was made with (another digest); restore them"
                " from a copy, or run the study again in a new run"
            )
        return directory

    # --- trajectories and scores --------------------------------------------------------------------------

    def add_trajectory(self, trajectory: Trajectory, text: codec.Text | int, *, step: str | None = None) -> bool:
        """Store a trajectory whose text (or its key) is ``codec.trajectory_to_bytes`` packed; False if it was there."""
        with self._writing() as seals:
            values = (
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
            )
            row = seals.add("trajectories", values, conflict="id")
        if row is not None:
            self._keys.setdefault("trajectories", {})[trajectory.id] = int(row[0])
        return row is not None

    def add_score(self, score: Score, reply: codec.Text | int | None = None) -> bool:
        """Store a score, with its reply packed (or its text's key) where there is one; False if it was there.

        Errors: StoreError where the same judge, rubric and repeat gave this trajectory another value.
        """
        with self._writing() as seals:
            judges = self._keys.setdefault("judges", {})
            judge = (score.judge, score.objective, score.rubric)
            if judge not in judges:
                seals.add("judges", judge, conflict="name, objective, rubric")
                query = "SELECT key FROM judges WHERE name = ? AND objective = ? AND rubric = ?"
                judges[judge] = int(self._db.execute(query, judge).fetchone()[0])
            if reply is None and score.reply is not None:
                reply = self._codec.pack(score.reply.encode("utf-8", "surrogatepass"))
            place = (self._key("trajectories", score.trajectory_id), judges[judge], score.repeat)
            text = self.add_text(reply) if isinstance(reply, codec.Text) else reply
            values = (*place, score.value, score.missing, score.label, text)
            if seals.add("scores", values, conflict="trajectory, judge, repeat") is not None:
                return True
        query = "SELECT value FROM scores WHERE trajectory = ? AND judge = ? AND repeat = ?"
        (held,) = self._db.execute(query, place).fetchone()
        if held != score.value:
            raise StoreError(
                f"{self.path}: trajectory {score.trajectory_id}: {score.judge} scored {score.objective} {held}"
                f" before and {score.value} now (repeat {score.repeat}); number the repeats or use a new rubric"
            )
        return False

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """One trajectory by id. Errors: StoreError."""
        return next(self.trajectories([trajectory_id]))

    def trajectories(
        self,
        ids: Iterable[str] | None = None,
        *,
        step: str | None = None,
        part: str | None = None,
        cases: Mapping[str, Case] | None = None,
    ) -> Iterator[Trajectory]:
        """Trajectories by id in the order of ``ids``, or of a ``tables.scope`` in the order of storing.

        ``cases`` are the run's by id, where the caller has read them: a world before an episode is often its case's.
        """
        query = (
            "SELECT t.key, t.id, c.id, p.id, t.rollout, t.ending, t.flags, t.calls, t.invalid_calls, t.tokens,"
            " x.digest, x.dictionary, x.body FROM trajectories t LEFT JOIN cases c ON c.key = t.case_key"
            " LEFT JOIN checkpoints p ON p.key = t.checkpoint LEFT JOIN texts x ON x.key = t.text"
        )
        rows: Iterator[Any]
        if ids is not None:
            rows = (row for batch in self._key_batches(ids) for row in self._rows_of(query, batch))
        else:
            where, parameters = tables.scope(step, part)
            rows = self._db.execute(f"{query} WHERE {where} ORDER BY t.key", parameters)
        states: dict[str, Any] = {}
        names = ("id", "case_id", "checkpoint_id", "rollout", "ending", "flags", "calls", "invalid_calls", "tokens")
        for _, *columns, digest, dictionary, body in rows:
            if (case_id := columns[1]) not in states:
                states[case_id] = (self.case(case_id) if cases is None else cases[case_id]).state
            with codec.telling_damage(f"trajectory {columns[0]}: its text"):
                plain = self._codec.unpack(digest, dictionary, body)
            yield codec.trajectory_from_bytes(
                plain, case_state=states[case_id], **dict(zip(names, columns, strict=True))
            )

    def _key_batches(self, ids: Iterable[str]) -> Iterator[list[int]]:
        """Row numbers of trajectory ids in their order, some at a time. Errors: StoreError where one is unknown."""
        known, waiting = self._keys.setdefault("trajectories", {}), iter(ids)
        while batch := list(islice(waiting, READ_ROWS)):
            new = [identity for identity in batch if identity not in known]
            known.update(self._db.execute(f"SELECT id, key FROM trajectories WHERE id IN ({_marks(new)})", new))
            yield [self._key("trajectories", identity) for identity in batch]

    def _rows_of(self, query: str, keys: Sequence[int]) -> Iterator[Any]:
        """The rows of a query on trajectories, which begin with their keys, in the order of ``keys``."""
        found = {row[0]: row for row in self._db.execute(f"{query} WHERE t.key IN ({_marks(keys)})", keys)}
        with codec.telling_damage("the table of trajectories"):
            rows = [found[key] for key in keys]
        yield from rows

    def scores(self, trajectory_id: str) -> list[Score]:
        """Every score of one trajectory with the judges' replies. Errors: StoreError."""
        return next(self.scores_of([trajectory_id]))

    def scores_of(self, ids: Iterable[str]) -> Iterator[list[Score]]:
        """For each trajectory id its scores with the judges' replies. Errors: StoreError."""
        query = (
            "SELECT t.id, s.trajectory, j.name, j.objective, j.rubric, s.repeat, s.value, s.missing, s.label,"
            " s.reply, x.digest, x.dictionary, x.body FROM scores s JOIN judges j ON j.key = s.judge"
            " JOIN trajectories t ON t.key = s.trajectory LEFT JOIN texts x ON x.key = s.reply"
        )
        names = ("trajectory_id", "judge", "objective", "rubric", "repeat", "value", "missing", "label")
        for keys in self._key_batches(ids):
            found: dict[int, list[Score]] = {key: [] for key in keys}
            where = f" WHERE s.trajectory IN ({_marks(keys)}) ORDER BY j.name, j.objective, s.repeat"
            for identity, key, *columns, reply, digest, dictionary, body in self._db.execute(query + where, keys):
                text = None
                if reply is not None:
                    with codec.telling_damage(f"trajectory {identity}: a judge's reply"):
                        text = self._codec.unpack(digest, dictionary, body).decode("utf-8", "surrogatepass")
                with codec.telling_damage(f"trajectory {identity}: a score"):
                    found[key].append(Score(**dict(zip(names, (identity, *columns), strict=True)), reply=text))
            yield from (found[key] for key in keys)

    def labels(self, part: str) -> list[tuple[str, str, str, str, str, float | None, str | None]]:
        """Checkpoint id, case id, judge, objective, rubric, value and label of every score of a part; no replies."""
        where, parameters = tables.scope(None, part)
        query = (
            "SELECT t.checkpoint, t.case_key, s.judge, s.value, s.label FROM trajectories t"
            f" JOIN scores s ON s.trajectory = t.key WHERE {where} ORDER BY t.key, s.judge, s.repeat"
        )
        with codec.telling_damage("the labels of scores"):
            checkpoints = dict(self._db.execute("SELECT key, id FROM checkpoints"))
            cases = dict(self._db.execute("SELECT key, id FROM cases"))
            judges = {key: names for key, *names in self._db.execute("SELECT key, name, objective, rubric FROM judges")}
            return [
                (checkpoints[checkpoint], cases[case], *judges[judge], value, label)
                for checkpoint, case, judge, value, label in self._db.execute(query, parameters)
            ]

    def score_table(
        self, *, step: str | None = None, part: str | Sequence[str] | None = None, of: str | None = None
    ) -> tables.ScoreTable:
        """Scores as columns without texts, of the trajectories of a ``tables.scope``."""
        checkpoints = self.checkpoints(brought=step is not None) if of is None else [self.checkpoint(of)]
        with codec.telling_damage("the table of scores"):
            return tables.read_scores(self._db, checkpoints, step, part, of=of)

    def digest_scores(self) -> str:
        """SHA-256 over the ids of trajectories, and over judge, objective, rubric, repeat and value of every score."""
        query = (
            "SELECT t.id, j.name, j.objective, j.rubric, s.repeat, s.value FROM trajectories t"
            " LEFT JOIN scores s ON s.trajectory = t.key LEFT JOIN judges j ON j.key = s.judge ORDER BY 1, 2, 3, 4, 5"
        )
        whole = hashlib.sha256()
        for row in self._db.execute(query):
            whole.update(repr(row).encode())
        return whole.hexdigest()

    def scored_by(self, judge: str, rubrics: Mapping[str, str], repeats: int = 1) -> set[str]:
        """Ids of the trajectories that a judge scored or recorded as missing, under each rubric by objective."""
        query = (
            "SELECT t.id FROM scores s JOIN judges j ON j.key = s.judge JOIN trajectories t ON t.key = s.trajectory"
            " WHERE j.name = ? AND j.objective = ? AND j.rubric = ? GROUP BY t.key HAVING count(*) >= ?"
        )
        found = [{row[0] for row in self._db.execute(query, (judge, *pair, repeats))} for pair in rubrics.items()]
        return set.intersection(*found) if found else set()

    def mean_scores(self, step: str) -> dict[tuple[str, str], tuple[float | None, int]]:
        """(judge, objective) → the mean score of one rollout step's trajectories, and how many have a score."""
        query = (
            "SELECT j.name, j.objective, avg(s.value), count(s.value) FROM trajectories t"
            " JOIN scores s ON s.trajectory = t.key JOIN judges j ON j.key = s.judge WHERE t.step = ? GROUP BY 1, 2"
        )
        return {(judge, objective): (mean, count) for judge, objective, mean, count in self._db.execute(query, (step,))}

    def trajectory_table(
        self, *, part: str | Sequence[str] | None = None, of: str | None = None
    ) -> tables.TrajectoryTable:
        """The columns of the trajectories of a ``tables.scope``, texts left where they are."""
        checkpoints = self.checkpoints() if of is None else [self.checkpoint(of)]
        with codec.telling_damage("the table of trajectories"):
            return tables.read_trajectories(self._db, checkpoints, part, of=of)

    def judge_names(self, start: str) -> list[str]:
        """The names, sorted, of judges that begin so and have scores of what this run is about."""
        where, parameters = tables.scope(None, "all")
        query = (
            "SELECT DISTINCT j.name FROM judges j WHERE substr(j.name, 1, ?) = ? AND EXISTS (SELECT 1 FROM scores s"
            f" JOIN trajectories t ON t.key = s.trajectory WHERE s.judge = j.key AND {where}) ORDER BY j.name"
        )
        return [row[0] for row in self._db.execute(query, (len(start), start, *parameters))]

    def trajectory_ids(self, *, step: str | None = None, part: str | None = None) -> list[str]:
        """Trajectory ids in the order of storing: the ``trajectory`` column of tables of this scope indexes them."""
        where, parameters = tables.scope(step, part)
        rows = self._db.execute(f"SELECT t.id FROM trajectories t WHERE {where} ORDER BY t.key", parameters)
        return [row[0] for row in rows]

    def planned_ids(self, *, part: str | None = None) -> list[str]:
        """The ids of ``trajectory_ids`` in the order of the plan's steps, whichever of them was carried out first."""
        where, parameters = tables.scope(None, part)
        rows = self._db.execute(f"SELECT t.id, t.step FROM trajectories t WHERE {where} ORDER BY t.key", parameters)
        order = {step: number for number, step in enumerate(self.log.steps())}
        return [identity for identity, _ in sorted(rows, key=lambda row: order.get(row[1], -1))]

    def case_ids(self) -> list[str]:
        """Case ids in the order of storing: the tables' ``case`` column indexes them."""
        return [row[0] for row in self._db.execute("SELECT id FROM cases ORDER BY key")]

    def counts(self) -> dict[str, int]:
        """How many cases, checkpoints, trajectories, scores, pairs and texts there are."""
        names = ("cases", "checkpoints", "trajectories", "scores", "pairs", "texts")
        return {name: int(self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in names}

    # --- what preference training reads ---------------------------------------------------------------------

    def add_pairs(self, step: str, pairs: Sequence[PreferencePair]) -> None:
        """Store a step's pairs in their order."""
        with self._writing() as seals:
            for position, pair in enumerate(pairs):
                keys = self._key("trajectories", pair.chosen), self._key("trajectories", pair.rejected)
                told = json.dumps(pair.objectives), pair.judge, pair.gap, pair.weight
                seals.add("pairs", (step, position, *keys, *told))

    def pairs(self, step: str) -> list[PreferencePair]:
        """A step's pairs in their order."""
        query = (
            "SELECT cases.id, c.id, r.id, judge, gap, weight, objectives FROM pairs"
            " JOIN trajectories c ON c.key = chosen"
            " JOIN trajectories r ON r.key = rejected JOIN cases ON cases.key = c.case_key"
            " WHERE pairs.step = ? ORDER BY position"
        )
        names = ("case_id", "chosen", "rejected", "judge", "gap", "weight")
        return [
            PreferencePair(**dict(zip(names, columns, strict=True)), objectives=tuple(json.loads(objectives)))
            for *columns, objectives in self._db.execute(query, (step,))
        ]

    def pair_judges(self) -> dict[str, frozenset[str]]:
        """Pair step → the judges whose scores made its pairs."""
        found = group_by_key(self._db.execute("SELECT DISTINCT step, judge FROM pairs"))
        return {step: frozenset(judges) for step, judges in found.items()}

    def add_logprobs(self, step: str, values: Mapping[str, float]) -> None:
        """Store what a reference step found: log-probabilities in nats by trajectory id. Errors: StoreError."""
        with self._writing() as seals:
            try:
                for name, value in values.items():
                    seals.add("logprobs", (step, self._key("trajectories", name), value))
            except sqlite3.IntegrityError as error:
                raise StoreError(
                    f"reference step {step}: log-probabilities cannot be stored ({error}); each is one number"
                    " up to 0 for a trajectory of the run, stored once"
                ) from error

    def logprobs(self, step: str) -> dict[str, float]:
        """Trajectory id → log-probability in nats, as one reference step found it."""
        query = "SELECT id, value FROM logprobs JOIN trajectories ON key = trajectory WHERE logprobs.step = ?"
        return dict(self._db.execute(query, (step,)).fetchall())
