"""One run's rows put together from several runs: what each gives, and where two of them tell of one step differently.

The rows of a step come from one run, as they were committed there. Ids say what a record is of, so that a row finds
its case, checkpoint and trajectory again whichever run those came from.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from holdfast.records import Trajectory
from holdfast.records.errors import StoreError
from holdfast.records.inputs import reading_address
from holdfast.store import Store
from holdfast.store.checking import reseal
from holdfast.store.database import DATABASE, make_tables, readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a run gives to the one that is joined.

    ``steps`` are its steps by fingerprint, with the names that they get; ``scores`` those of its judges, as (rollout
    step, judge); ``checkpoints`` ids; ``alike`` are rollout steps whose trajectories in the joined run are its own or
    equal to them, so that scores which no step of the study made (by ``holdfast judge``) may be taken too;
    ``splits`` are the split seeds whose cases it gives.
    """

    path: Path
    steps: Mapping[str, str]
    scores: Collection[tuple[str, str]]
    checkpoints: Collection[str]
    alike: Collection[str]
    splits: Sequence[int] = field(default=())


# --- where two runs differ ----------------------------------------------------------------------------------------

_TRAJECTORIES = (
    "SELECT t.id, c.id, t.rollout, t.ending, t.flags, t.calls, t.invalid_calls, t.tokens, x.digest"
    " FROM {run}.trajectories t JOIN {run}.cases c ON c.key = t.case_key LEFT JOIN {run}.texts x ON x.key = t.text"
    " WHERE t.step = :step"
)
_SCORES = (
    "SELECT t.id, j.name, j.objective, j.rubric, s.repeat, s.value, s.missing, s.label, x.digest"
    " FROM {run}.trajectories t JOIN {run}.scores s ON s.trajectory = t.key JOIN {run}.judges j ON j.key = s.judge"
    " LEFT JOIN {run}.texts x ON x.key = s.reply WHERE t.step = :step AND (j.name = :judge OR :judge IS NULL)"
)
_PAIRS = (
    "SELECT p.position, c.id, r.id, p.objectives, p.judge, p.gap, p.weight FROM {run}.pairs p"
    " JOIN {run}.trajectories c ON c.key = p.chosen JOIN {run}.trajectories r ON r.key = p.rejected"
    " WHERE p.step = :step"
)
_LOGPROBS = (
    "SELECT t.id, l.value FROM {run}.logprobs l JOIN {run}.trajectories t ON t.key = l.trajectory WHERE l.step = :step"
)
_DIFFERING = (
    "WITH a AS ({a}), b AS ({b}) SELECT * FROM (SELECT * FROM a EXCEPT SELECT * FROM b)"
    " UNION ALL SELECT * FROM (SELECT * FROM b EXCEPT SELECT * FROM a)"
)


class Pair:
    """Two runs side by side: of what one step made in both, which records differ."""

    def __init__(self, one: Store, other: Store) -> None:
        self._one, self._other = one, other
        self._db = sqlite3.connect(":memory:", isolation_level=None, uri=True)
        for name, store in (("one", one), ("other", other)):
            self._db.execute(f"ATTACH ? AS {name}", (reading_address(readable(store.path)),))

    def close(self) -> None:
        """Let both runs go."""
        self._db.close()

    def _differing(self, query: str, step: str, judge: str | None = None) -> list[str]:
        """The ids (a pair's: its position) of the rows of a query that are in one run alone."""
        told = _DIFFERING.format(a=query.format(run="one"), b=query.format(run="other"))
        rows = self._db.execute(told, {"step": step, "judge": judge} if ":judge" in query else {"step": step})
        return list(dict.fromkeys(str(row[0]) for row in rows))

    def trajectories(self, step: str) -> list[str]:
        """Ids of the trajectories of a rollout step that differ."""
        return self._differing(_TRAJECTORIES, step)

    def scores(self, rollout: str, judge: str | None) -> list[str]:
        """Ids of the trajectories of a rollout step that a judge (None: any) scored otherwise, or only in one run."""
        return self._differing(_SCORES, rollout, judge)

    def pairs(self, step: str) -> list[str]:
        """Positions of the pairs of a pair step that differ."""
        return self._differing(_PAIRS, step)

    def logprobs(self, step: str) -> list[str]:
        """Ids of the trajectories to which a reference step gave other log-probabilities."""
        return self._differing(_LOGPROBS, step)

    def said_otherwise(self, step: str, ids: Sequence[str]) -> list[str]:
        """Of a step's trajectories that differ, those that do in more than the log-probability of their own tokens."""
        known = {*self._one.trajectory_ids(step=step)} & {*self._other.trajectory_ids(step=step)}
        both = [one for one in ids if one in known]
        pairs = zip(self._one.trajectories(both), self._other.trajectories(both), strict=True)
        same = {mine.id for mine, theirs in pairs if _as_said(mine) == _as_said(theirs)}
        return [one for one in ids if one not in same]

    def scored_otherwise(self, steps: Collection[str], planned: Collection[tuple[str, str]]) -> dict[str, int]:
        """Of judges that no step of the study asks, how many trajectories of some steps they scored otherwise.

        A trajectory that such a judge scored in one run alone is no difference.
        """
        names = [_scored_by(self._db, run) for run in ("one", "other")]
        extra = {key for key in names[0] & names[1] if key[0] in steps and key not in planned}
        found: dict[str, int] = {}
        for step, judge in sorted(extra):
            rows = [
                {row[:5]: row[5:] for row in self._db.execute(_SCORES.format(run=run), {"step": step, "judge": judge})}
                for run in ("one", "other")
            ]
            differ = {key[0] for key in rows[0].keys() & rows[1].keys() if rows[0][key] != rows[1][key]}
            if differ:
                found[judge] = found.get(judge, 0) + len(differ)
        return found


def _scored_by(db: sqlite3.Connection, run: str) -> set[tuple[str, str]]:
    query = (
        f"SELECT DISTINCT t.step, j.name FROM {run}.trajectories t JOIN {run}.scores s ON s.trajectory = t.key"
        f" JOIN {run}.judges j ON j.key = s.judge WHERE t.step IS NOT NULL"
    )
    return set(db.execute(query))


def scored_by(store: Store) -> set[tuple[str, str]]:
    """Whose scores a run holds: (step of the trajectories, judge)."""
    with contextlib.closing(sqlite3.connect(reading_address(readable(store.path)), uri=True)) as db:
        return _scored_by(db, "main")


def _as_said(trajectory: Trajectory) -> Trajectory:
    """A trajectory without what only rounding changes."""
    detail = {key: value for key, value in (trajectory.detail or {}).items() if key != "logprob"}
    return replace(trajectory, detail=detail)


# --- the rows of the joined run -----------------------------------------------------------------------------------

_TEXTS = (
    "INSERT INTO texts (digest, dictionary, body, seal) SELECT digest, dictionary, body, 0 FROM old.texts"
    " WHERE true ORDER BY key ON CONFLICT (digest) DO NOTHING"
)
_CASES = (
    "INSERT INTO cases (id, suite, number, family, text, seal) SELECT c.id, c.suite, c.number, c.family, n.key, 0"
    " FROM old.cases c JOIN old.texts o ON o.key = c.text JOIN main.texts n ON n.digest = o.digest"
    " WHERE c.key IN (SELECT case_key FROM old.splits WHERE split_seed = ?) ORDER BY c.key ON CONFLICT (id) DO NOTHING"
)
_SPLITS = (
    "INSERT INTO splits SELECT s.split_seed, n.key, s.part, 0 FROM old.splits s JOIN old.cases c ON c.key = s.case_key"
    " JOIN main.cases n ON n.id = c.id WHERE s.split_seed = ?"
)
_CHECKPOINTS = (
    "INSERT INTO checkpoints (id, body, seal) SELECT id, body, 0 FROM old.checkpoints"
    " WHERE id IN (SELECT id FROM taken_checkpoints) ORDER BY key"
)
_OWN = " FROM old.{table} r JOIN taken_steps w ON w.step = r.{step}"
_STEPS = (
    "INSERT INTO steps SELECT r.fingerprint, r.kind, w.name, r.status, r.result, r.started, r.finished"
    + _OWN.format(table="steps", step="fingerprint")
)
_BATCHES = "INSERT INTO batches SELECT r.fingerprint, r.batch, 0" + _OWN.format(table="batches", step="fingerprint")
_OWN_EPISODES = _OWN.format(table="trajectories", step="step")
_EPISODES = (
    "INSERT INTO trajectories (key, id, case_key, checkpoint, rollout, step, ending, flags, calls, invalid_calls,"
    " tokens, text, seal) SELECT w.start + row_number() OVER (PARTITION BY r.step ORDER BY r.key), r.id, nc.key,"
    " np.key, r.rollout, r.step, r.ending, r.flags, r.calls, r.invalid_calls, r.tokens, nx.key, 0"
    + _OWN_EPISODES
    + " JOIN old.cases oc ON oc.key = r.case_key JOIN main.cases nc ON nc.id = oc.id"
    " JOIN old.checkpoints op ON op.key = r.checkpoint JOIN main.checkpoints np ON np.id = op.id"
    " JOIN old.texts ox ON ox.key = r.text JOIN main.texts nx ON nx.digest = ox.digest"
)
_OF_TRAJECTORY = " JOIN old.trajectories o{x} ON o{x}.key = r.{x} JOIN main.trajectories n{x} ON n{x}.id = o{x}.id"
_CHOICES = (
    "INSERT INTO pairs SELECT r.step, r.position, nchosen.key, nrejected.key, r.objectives, r.judge, r.gap, r.weight, 0"
    + _OWN.format(table="pairs", step="step")
    + _OF_TRAJECTORY.format(x="chosen")
    + _OF_TRAJECTORY.format(x="rejected")
)
_REFERENCES = (
    "INSERT INTO logprobs SELECT r.step, ntrajectory.key, r.value, 0"
    + _OWN.format(table="logprobs", step="step")
    + _OF_TRAJECTORY.format(x="trajectory")
)
_OWN_SCORES = (
    " FROM old.scores r JOIN old.judges oj ON oj.key = r.judge JOIN old.trajectories ot ON ot.key = r.trajectory"
    " WHERE (ot.step, oj.name) IN (SELECT step, judge FROM taken_scores)"
    " OR ((ot.step, oj.name) NOT IN (SELECT step, judge FROM planned_scores)"
    " AND ot.step IN (SELECT step FROM alike_steps))"
)
_JUDGES = (
    "INSERT INTO judges (name, objective, rubric, seal) SELECT name, objective, rubric, 0 FROM old.judges"
    " WHERE key IN (SELECT r.judge" + _OWN_SCORES + ") ORDER BY key ON CONFLICT (name, objective, rubric) DO NOTHING"
)
_JUDGEMENTS = (
    "INSERT INTO scores SELECT nt.key, nj.key, o.repeat, o.value, o.missing, o.label, nx.key, 0 FROM"
    " (SELECT r.*, ot.id AS place, oj.name, oj.objective, oj.rubric" + _OWN_SCORES + ") o"
    " JOIN main.trajectories nt ON nt.id = o.place JOIN main.judges nj"
    " ON (nj.name, nj.objective, nj.rubric) = (o.name, o.objective, o.rubric)"
    " LEFT JOIN old.texts ox ON ox.key = o.reply LEFT JOIN main.texts nx ON nx.digest = ox.digest"
    " WHERE true ON CONFLICT (trajectory, judge, repeat) DO NOTHING"
)
_OF_STUDY = (
    "SELECT count(*) FROM {run}.scores r JOIN {run}.judges j ON j.key = r.judge JOIN {run}.trajectories t"
    " ON t.key = r.trajectory WHERE (t.step, j.name) IN (SELECT step, judge FROM taken_scores)"
)
# Every one of these rows must arrive: what finds no case, checkpoint or trajectory is no row of a sound run.
_WHOLE = {
    _EPISODES: ("trajectories", "step"),
    _CHOICES: ("pairs", "step"),
    _REFERENCES: ("logprobs", "step"),
    _BATCHES: ("batches", "fingerprint"),
    _STEPS: ("steps", "fingerprint"),
}
_UNUSED_TEXTS = (
    "DELETE FROM texts WHERE key NOT IN (SELECT text FROM trajectories UNION SELECT text FROM cases"
    " UNION SELECT reply FROM scores WHERE reply IS NOT NULL)"
)


def join_rows(
    shares: Sequence[Share], target: Path, order: Sequence[str], planned: Collection[tuple[str, str]]
) -> None:
    """Write a new database at ``target`` with what each run gives.

    ``order`` has the fingerprints of the plan's steps, in which trajectories stand as if one process had made them;
    ``planned`` are the (rollout step, judge) of the study's own judges. Cases stand by split, those of one split as its
    run has them. Errors: StoreError where rows of a run do not belong together.
    """
    make_tables(target)
    address = (target / DATABASE).absolute().as_uri()
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
        _name_table(db, "planned_scores", ("step", "judge"), planned)
        for seed, number in sorted((seed, number) for number, one in enumerate(shares) for seed in one.splits):
            with _attached(db, shares[number]):
                for statement in (_TEXTS, _CASES, _SPLITS):
                    db.execute(statement, (seed,) if "?" in statement else ())
        starts = _number_trajectories(db, shares, order)
        for statements in ((_TEXTS, _CHECKPOINTS), (_EPISODES,), (_JUDGES, _JUDGEMENTS, _CHOICES, _REFERENCES)):
            for share in shares:
                with _attached(db, share, starts):
                    for statement in statements:
                        _insert(db, statement, share)
        for share in shares:
            with _attached(db, share):
                for statement in (_BATCHES, _STEPS):
                    _insert(db, statement, share)
        db.execute("BEGIN IMMEDIATE")
        db.execute(_UNUSED_TEXTS)
        reseal(db)
        db.execute("COMMIT")
        db.execute("VACUUM")


def _insert(db: sqlite3.Connection, statement: str, share: Share) -> None:
    """Take rows of the run that is attached. Errors: StoreError where some of them find no place."""
    taken = db.execute(statement).rowcount
    if statement in _WHOLE:
        table, step = _WHOLE[statement]
        given = db.execute("SELECT count(*)" + _OWN.format(table=table, step=step)).fetchone()[0]
        if given != taken:
            raise StoreError(
                f"{share.path}: {given - taken:,} of {given:,} {table} belong to no case, checkpoint or trajectory of"
                " the runs that are joined; restore the run from a copy, or make it anew"
            )
    if statement == _JUDGEMENTS:
        given, there = (db.execute(_OF_STUDY.format(run=run)).fetchone()[0] for run in ("old", "main"))
        if given != there:
            raise StoreError(f"{share.path}: {given:,} scores are to be taken and {there:,} arrived; report this")


def _number_trajectories(db: sqlite3.Connection, shares: Sequence[Share], order: Sequence[str]) -> dict[str, int]:
    """By step, how many trajectories of other steps stand before its own."""
    counts: dict[str, int] = {}
    for share in shares:
        with _attached(db, share):
            counts |= dict(db.execute("SELECT r.step, count(*)" + _OWN_EPISODES + " GROUP BY r.step"))
    starts, before = {}, 0
    for step in order:
        starts[step] = before
        before += counts.get(step, 0)
    return starts


@contextlib.contextmanager
def _attached(db: sqlite3.Connection, share: Share, starts: Mapping[str, int] = MappingProxyType({})) -> Iterator[None]:
    """A run's database as ``old``, with what is taken of it in tables beside; one transaction."""
    db.execute("ATTACH ? AS old", (reading_address(readable(share.path)),))
    try:
        steps = ((step, name, starts.get(step)) for step, name in share.steps.items())
        _name_table(db, "taken_steps", ("step", "name", "start"), steps)
        _name_table(db, "taken_scores", ("step", "judge"), share.scores)
        _name_table(db, "taken_checkpoints", ("id",), ((one,) for one in share.checkpoints))
        _name_table(db, "alike_steps", ("step",), ((one,) for one in share.alike))
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    finally:
        db.execute("DETACH old")


def _name_table(db: sqlite3.Connection, name: str, columns: Sequence[str], rows: object) -> None:
    told = ", ".join(columns)
    db.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} ({told}, PRIMARY KEY ({told}))")
    db.execute(f"DELETE FROM temp.{name}")
    db.executemany(f"INSERT INTO temp.{name} VALUES ({', '.join('?' * len(columns))})", rows)  # type: ignore[arg-type]
