"""Tables of scores into a run: sides are checkpoints, each row an episode of which nothing but the score is known."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.exchange.published.reader import ImportProgress, ImportSummary, Listener
from holdfast.exchange.scales import ScoreOption
from holdfast.exchange.scoring import Origin, Scoring
from holdfast.exchange.tables.files import find_tables, read_table
from holdfast.exchange.tables.rows import ScoreRow, ScoreTable
from holdfast.models.calls.structured import clean
from holdfast.records import Case, Checkpoint, Ending, Message, Trajectory, content_id
from holdfast.records.errors import refuse
from holdfast.store import Store, codec, origins
from holdfast.store.origins import LogState

UNKNOWN = (
    "what was done is not known: of these episodes the scores alone are here, so that none could be looked at for being"
    " cut off, looping or empty"
)
EMPTY = "empty: the table has no value"


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as a scorer of Inspect gives one."""

    value: Any
    explanation: str | None
    reason: str | None


def import_tables(
    source: Path, store: Store, *, scores: Sequence[ScoreOption] = (), progress: Listener | None = None
) -> ImportSummary:
    """What was read of the tables at ``source``, a file or a folder, into ``store``, all or nothing.

    ``scores`` say what the columns mean. Errors: StudyError.
    """
    started = time.monotonic()
    tables = [read_table(path) for path in find_tables(source)]
    scoring = Scoring(source, scores, origins.read_declarations(store) or ())
    reading = _Import(store, scoring)
    with store.transaction():
        for table in tables:
            reading.take(table)
        scoring.require_options()
        scoring.require_scales()
        origins.add_declarations(store, scoring.declarations())
        origins.write_notes(store, origins.UNDECLARED, scoring.undeclared(origins.read_undeclared(store)))
        origins.write_notes(store, origins.LOGS, reading.states(source))
        kept = [UNKNOWN, *scoring.doubts(), *(note for table in tables for note in table.notes)]
        origins.write_notes(store, origins.NOTES, dict.fromkeys(map(clean, kept)))
        store.set_meta(origins.UNSEEN, "1")
    seconds = time.monotonic() - started
    if progress is not None:
        size = sum(table.path.stat().st_size for table in tables)
        count = {"trajectories": reading.trajectories, "scores": reading.scores}
        progress(ImportProgress(bytes_read=size, bytes_total=size, seconds=seconds, **count))
    return ImportSummary(
        files=len(tables),
        ignored=0,
        checkpoints=len(reading.sides),
        cases=len(reading.cases),
        trajectories=reading.trajectories,
        scores=reading.scores,
        missing=reading.missing,
        new_trajectories=reading.trajectories,
        new_scores=reading.scores,
        seconds=seconds,
        notes=(*map(clean, scoring.notes()), *map(clean, kept)),
    )


class _Import:
    """What is known while the rows go by."""

    def __init__(self, store: Store, scoring: Scoring) -> None:
        self._store, self._scoring = store, scoring
        self.cases: dict[tuple[str, str], Case] = {}
        self.sides: dict[str, Checkpoint] = {}
        self._rollouts: dict[tuple[str, str], set[int]] = {}  # by checkpoint and case
        self._numbers: Counter[str] = Counter()
        self.trajectories = self.scores = self.missing = 0

    def take(self, table: ScoreTable) -> None:
        """The rows of one table. Errors: StudyError."""
        found = {row.task: Origin(task=row.task, told=table.told, prefix=origins.TABLES) for row in table.rows}
        for row in table.rows:
            self._take(row, found[row.task])

    def _take(self, row: ScoreRow, origin: Origin) -> None:
        case, side = self._case(row), self._side(row)
        rollout = self._rollout(row, side, case)
        messages = (Message(role="assistant", content=clean(row.reply)),) if row.reply else ()
        made = Trajectory(
            id=content_id("table row", side.id, case.id, rollout),
            case_id=case.id,
            checkpoint_id=side.id,
            rollout=rollout,
            messages=messages,
            ending=Ending.FINISHED,
        )
        self._store.add_trajectory(made, self._store.text_codec.pack(codec.trajectory_to_bytes(made, case.state)))
        self.trajectories += 1
        for (scorer, key), value in row.values.items():
            given = _Given({key: value}, row.explanation, None if value is not None else row.reason or EMPTY)
            for _, score in self._scoring.read(origin, scorer, given, (made.id, side.id, True)):
                self.scores += self._store.add_score(score)
                self.missing += score.value is None

    def _case(self, row: ScoreRow) -> Case:
        key = (row.task, row.case)
        if key not in self.cases:
            number = self._numbers[row.task]
            self._numbers[row.task] += 1
            case = Case(
                id=content_id("table case", *key),
                suite=clean(row.task),
                number=number,
                family=clean(row.family),
                messages=(Message(role="user", content=clean(row.prompt)),) if row.prompt else (),
                tools=(),
                state={},
                facts={"sample": clean(row.case)},
            )
            self.cases[key] = case
            self._store.add_cases([case])
        case = self.cases[key]
        if row.family and case.family != clean(row.family):
            refuse(
                row.place,
                f"the case {row.case!r} is of the family {row.family!r} here and {case.family!r} before",
                "give a case one family",
            )
        return case

    def _side(self, row: ScoreRow) -> Checkpoint:
        if row.side not in self.sides:
            name = clean(row.side)
            self.sides[row.side] = Checkpoint(id=content_id("table side", row.side), base=name, model=name)
            self._store.add_checkpoint(self.sides[row.side])
        return self.sides[row.side]

    def _rollout(self, row: ScoreRow, side: Checkpoint, case: Case) -> int:
        """The rollout's number: its own, else the next. Errors: StudyError where it stands twice."""
        held = self._rollouts.setdefault((side.id, case.id), set())
        number = len(held) if row.rollout is None else row.rollout
        if number in held:
            refuse(
                row.place,
                f"rollout {number} of the case {row.case!r} of {row.side!r} stands twice",
                "number rollouts apart, or leave the column out",
            )
        held.add(number)
        return number

    def states(self, source: Path) -> list[LogState]:
        """What each side has; of rows that are not there a table says nothing."""
        found = []
        for side in self.sides.values():
            mine = {case: held for (one, case), held in self._rollouts.items() if one == side.id}
            most = max(map(len, mine.values()), default=0)
            found.append(
                LogState(
                    file=str(source),
                    log=side.id,
                    task=side.base,
                    checkpoint=side.id,
                    status="success",
                    epochs=most,
                    samples=len(mine),
                    episodes=sum(map(len, mine.values())),
                )
            )
        return found
