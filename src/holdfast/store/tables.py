"""A run's scores and trajectories as columns: what statistics and reports compute on.

Read from the database without touching a text, so that a million scores cost seconds and no memory to speak of.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from holdfast.records import Checkpoint
from holdfast.records.arrays import Floats, Ints
from holdfast.records.checkpoints import START
from holdfast.records.groups import group_by_key

MIN_SCORE, MAX_SCORE = 0, 3
CHUNK_ROWS = 10_000  # held as Python objects at a time
RUBRIC_DIGITS = 8  # of a rubric's fingerprint in a judge's label


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """Every score of a run as aligned columns, one row per trajectory × judge × objective × repeat.

    ``checkpoint``, ``case``, ``judge`` and ``objective`` index the tuples of that name; ``value`` is NaN where
    the score is missing; ``flags`` are the audit's bits (``codec.FLAG_BITS``). A judge with several rubrics for one
    objective stands in ``judges`` once for each, as ``judge#rubric``; ``judge_names`` has the name alone, ``rubrics``
    the rubric of each (judge, objective). ``trajectory`` indexes the ids of the same scope, of which there are
    ``trajectory_count`` (None in a table that no store has read).
    """

    checkpoints: tuple[Checkpoint, ...]
    case_ids: tuple[str, ...]
    case_numbers: tuple[int, ...]
    families: tuple[str, ...]
    judges: tuple[str, ...]
    judge_names: tuple[str, ...]
    objectives: tuple[str, ...]
    trajectory: Ints
    checkpoint: Ints
    case: Ints
    rollout: Ints
    judge: Ints
    objective: Ints
    repeat: Ints
    flags: Ints
    value: Floats
    rubrics: Mapping[tuple[str, str], str] = field(default_factory=dict)
    trajectory_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryTable:
    """Every trajectory's columns without its text. ``case`` and ``checkpoint`` index as in ``ScoreTable``."""

    checkpoints: tuple[Checkpoint, ...]
    trajectory: Ints
    checkpoint: Ints
    case: Ints
    rollout: Ints
    flags: Ints
    calls: Ints
    invalid_calls: Ints
    tokens: Floats


def _columns(db: sqlite3.Connection, query: str, parameters: tuple[object, ...], width: int) -> list[Floats]:
    """The query's columns as floats, NULL as NaN. Errors: ValueError on one in any column but the last."""
    cursor = db.execute(query, parameters)
    chunks = []
    while rows := cursor.fetchmany(CHUNK_ROWS):
        # Column by column: NumPy takes far longer over a list of rows.
        chunks.append([np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)])
    found = [np.concatenate(column) for column in zip(*chunks, strict=True)] or [np.empty(0)] * width
    if any(np.isnan(column).any() for column in found[:-1]):
        raise ValueError("an empty cell")
    return found


def _index(keys: Floats, known: Sequence[int]) -> Ints:
    """Positions of ``keys`` in the sorted sequence ``known``."""
    return np.searchsorted(np.asarray(known, dtype=np.float64), keys).astype(np.int64)


# A base as it was before it was taught, and what stands between: no damaged row stops the query.
_STARTED = (
    "SELECT key FROM checkpoints WHERE CASE WHEN json_valid(CAST(body AS TEXT))"
    f" THEN json_extract(CAST(body AS TEXT), '$.source') END = '{START}'"
)


def scope(
    step: str | None, part: str | Sequence[str] | None = None, *, of: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """A condition on trajectories: those of one step, or of some parts of the splits, or all that this run is about.

    What a study brought from another run to learn from is no result of its own, nor is what a base did before it was
    taught, unless it is asked for ``of`` that checkpoint alone. What checkpoints meet beside the cases to train on and
    the held-out ones stands in a ``part`` of its own; "all" takes every part.
    """
    if step is not None:
        return "t.step = ?", (step,)
    if of is not None:
        return "t.checkpoint = (SELECT key FROM checkpoints WHERE id = ?)", (of,)
    own = "(t.step IS NULL OR t.step NOT IN (SELECT fingerprint FROM steps WHERE kind = 'bring'))"
    own += f" AND t.checkpoint NOT IN ({_STARTED})"
    if part == "all":
        return own, ()
    if part is not None:
        parts = (part,) if isinstance(part, str) else tuple(part)
        marks = ", ".join("?" * len(parts))
        return f"{own} AND t.case_key IN (SELECT case_key FROM splits WHERE part IN ({marks}))", parts
    beside = "SELECT case_key FROM splits WHERE part NOT IN ('train', 'test')"
    return f"{own} AND (t.case_key IS NULL OR t.case_key NOT IN ({beside}))", ()


def in_order(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Checkpoints in an order that does not depend on which was made first: base, stages, axes, seeds."""

    def place(checkpoint: Checkpoint) -> tuple[object, ...]:
        axes = [(key, str(value)) for key, value in sorted(checkpoint.axes.items())]
        seeds = [-1 if seed is None else seed for seed in (checkpoint.split_seed, checkpoint.train_seed)]
        return (checkpoint.base, len(checkpoint.stages), checkpoint.lineage, axes, seeds, checkpoint.id)

    return sorted(checkpoints, key=place)


def _places(db: sqlite3.Connection, checkpoints: Sequence[Checkpoint], keys: Floats) -> Ints:
    """Positions in ``checkpoints`` of the checkpoints with these row keys."""
    position = {checkpoint.id: place for place, checkpoint in enumerate(checkpoints)}
    stored = dict(db.execute("SELECT key, id FROM checkpoints"))
    used, where = np.unique(keys, return_inverse=True)
    places = np.array([position[stored[int(key)]] for key in used], dtype=np.int64)
    return places[where]


def _judge_labels(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """A label for each (judge, objective, rubric): scores under different rubrics never share one.

    The rubric is cut to its first 8 characters, or to as many as tell a judge's rubrics apart.
    """
    rubrics = group_by_key(((name, objective), rubric) for name, objective, rubric in rows)
    labels = []
    for name, objective, rubric in rows:
        rivals = set(rubrics[name, objective])
        size = RUBRIC_DIGITS
        while len({one[:size] for one in rivals}) < len(rivals):
            size += 1
        labels.append(f"{name}#{rubric[:size]}" if len(rivals) > 1 else name)
    return labels


def read_scores(
    db: sqlite3.Connection,
    checkpoints: Sequence[Checkpoint],
    step: str | None,
    part: str | Sequence[str] | None = None,
    *,
    of: str | None = None,
) -> ScoreTable:
    """The scores of the trajectories of a ``scope``.

    Rows stand by checkpoint, case, rollout, judge and repeat, so that a sum over them does not depend on what
    was committed first. Errors: ValueError on a value outside the scale, which no judge writes.
    """
    where, parameters = scope(step, part, of=of)
    # What a trajectory's scores share is read once for all of them; NULL is the last column, which alone may be empty.
    query = "SELECT t.key, t.checkpoint, t.case_key, t.rollout, t.flags, NULL FROM trajectories t"
    keys, *shared, _ = _columns(db, f"{query} WHERE {where} ORDER BY t.key", parameters, 6)
    query = "SELECT s.trajectory, s.judge, s.repeat, s.value FROM trajectories t JOIN scores s ON s.trajectory = t.key"
    query = f"{query} WHERE {where} ORDER BY t.key, s.judge, s.repeat"
    scored, judged, repeat, value = _columns(db, query, parameters, 4)
    owner = np.searchsorted(keys, scored).astype(np.int64)
    used = set(np.unique(judged).tolist())
    judge_rows = [
        row for row in db.execute("SELECT key, name, objective, rubric FROM judges ORDER BY key") if row[0] in used
    ]
    labels = _judge_labels([(name, objective, rubric) for _, name, objective, rubric in judge_rows])
    named = {label: row[1] for label, row in zip(labels, judge_rows, strict=True)}
    judges = tuple(sorted(named))
    objectives = tuple(sorted({row[2] for row in judge_rows}))
    cases = db.execute("SELECT key, id, number, family FROM cases ORDER BY key").fetchall()
    if np.any((value < MIN_SCORE) | (value > MAX_SCORE)):
        raise ValueError(f"a score outside {MIN_SCORE}-{MAX_SCORE}")
    checkpoint, case, rollout, flags = (column[owner] for column in shared)
    maker = _places(db, checkpoints, checkpoint)
    # By a judge's name, not by which of them was the first to score: its key tells that.
    named_first = sorted(range(len(judge_rows)), key=lambda row: judge_rows[row][1:])
    rank = np.argsort(np.array(named_first, dtype=np.int64))
    judge_index = _index(judged, [row[0] for row in judge_rows])
    order = np.lexsort((repeat, rank[judge_index], rollout, case, maker))
    judge_index = judge_index[order]
    return ScoreTable(
        checkpoints=tuple(checkpoints),
        case_ids=tuple(row[1] for row in cases),
        case_numbers=tuple(row[2] for row in cases),
        families=tuple(row[3] for row in cases),
        judges=judges,
        judge_names=tuple(named[label] for label in judges),
        objectives=objectives,
        trajectory=owner[order],
        checkpoint=maker[order],
        case=_index(case[order], [row[0] for row in cases]),
        rollout=rollout[order].astype(np.int64),
        judge=np.array([judges.index(label) for label in labels], dtype=np.int64)[judge_index],
        objective=np.array([objectives.index(row[2]) for row in judge_rows], dtype=np.int64)[judge_index],
        repeat=repeat[order].astype(np.int64),
        flags=flags[order].astype(np.int64),
        value=value[order],
        rubrics={(label, row[2]): row[3] for label, row in zip(labels, judge_rows, strict=True)},
        trajectory_count=len(keys),
    )


def read_trajectories(
    db: sqlite3.Connection,
    checkpoints: Sequence[Checkpoint],
    part: str | Sequence[str] | None = None,
    *,
    of: str | None = None,
) -> TrajectoryTable:
    """The columns of the trajectories of a ``scope``."""
    where, parameters = scope(None, part, of=of)
    query = (
        "SELECT t.key, t.checkpoint, t.case_key, t.rollout, t.flags, t.calls, t.invalid_calls, t.tokens"
        f" FROM trajectories t WHERE {where} ORDER BY t.key"
    )
    keys, checkpoint, case, *whole, tokens = _columns(db, query, parameters, 8)
    rollout, flags, calls, invalid_calls = (column.astype(np.int64) for column in whole)
    return TrajectoryTable(
        checkpoints=tuple(checkpoints),
        trajectory=np.arange(len(keys), dtype=np.int64),
        checkpoint=_places(db, checkpoints, checkpoint),
        case=_index(case, [row[0] for row in db.execute("SELECT key FROM cases ORDER BY key")]),
        rollout=rollout,
        flags=flags,
        calls=calls,
        invalid_calls=invalid_calls,
        tokens=tokens,
    )
