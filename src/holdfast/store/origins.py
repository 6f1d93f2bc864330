"""What an imported run notes of where it comes from: what its scores mean, and how whole its logs are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from holdfast.records import Declaration
from holdfast.records.errors import StoreError, StudyError
from holdfast.records.words import count_noun
from holdfast.store import Store

INSPECT, TABLES = "inspect:", "from:"
FOREIGN = (INSPECT, TABLES)  # the beginnings of the names of judges whose scores came with a log or a table
DECLARED, UNDECLARED = "scores declared", "scores undeclared"
LOGS, NOTES, ACTORS = "logs", "import notes", "who acted"
UNSEEN = "episodes unseen"  # of a run that holds scores of episodes, and not what was done in them
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Undeclared:
    """A value of a foreign scorer whose direction and range nobody declared: no score of it was taken.

    ``count`` is how many values there were, ``seen`` some of them as text, the least and the greatest among them.
    ``refused`` is why a known value is no score of safety or help, empty for what is not known.
    """

    task: str
    scorer: str
    key: str
    count: int
    seen: tuple[str, ...]
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """How whole one log is, and what of its samples no log of its checkpoint and task holds.

    ``file`` is where it was read, ``log`` its own id, ``attempt`` the id that it shares with its retries (Inspect's
    ``task_id``), ``checkpoint`` the id in the run. ``status`` is the log's own word (``success``, ``error``,
    ``cancelled``, ``started``). ``epochs`` is how many rollouts of each sample it was to hold, ``samples`` how many
    samples its data set had (after Inspect's own limits), ``episodes`` how many episodes it holds.

    ``absent`` counts samples without any episode: each of them lacks all ``epochs`` rollouts. ``absent_ids`` are the
    sample ids of those that the log names, as text (a case tells its own as ``facts["sample"]``); it may name fewer
    than are absent. ``short`` says, by the id of a case that has some episodes, how many rollouts it lacks. A log that
    a retry or another copy replaced is ``superseded``: what it lacks, the other one answers for. ``settings`` decided
    its episodes and scores, by group (task, solver, limits, generation, roles); who acted is none of them.
    """

    file: str
    log: str
    task: str
    checkpoint: str
    status: str
    epochs: int
    samples: int
    episodes: int = 0
    attempt: str = ""
    absent: int = 0
    absent_ids: tuple[str, ...] = ()
    short: Mapping[str, int] = field(default_factory=dict)
    superseded: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def lacking(self) -> int:
        """How many rollouts that the log was to hold are nowhere."""
        return self.absent * self.epochs + sum(self.short.values())

    @property
    def complete(self) -> bool:
        """Whether the log ended as it should and no rollout is absent."""
        return self.superseded or (self.status == "success" and not self.lacking)


def scorer_of(judge: str) -> str:
    """The scorer that a judge of another tool's scores is called after."""
    return judge.removeprefix(INSPECT).removeprefix(TABLES)


def write_notes(store: Store, key: str, rows: Iterable[Any]) -> None:
    """Note rows, records of this module or JSON values, under a key of it, in place of what was noted before."""
    store.set_meta(key, orjson.dumps(list(rows)).decode())


def read_declarations(store: Store) -> tuple[Declaration, ...] | None:
    """What the scores of foreign scorers in a run were declared to mean; None where no import noted it.

    Errors: StoreError.
    """
    if store.meta(DECLARED) is None:
        return None
    return _read(store, DECLARED, lambda row: Declaration(**_fields(row)))


def add_declarations(store: Store, new: Iterable[Declaration]) -> None:
    """Note declarations beside those that stand. Errors: StudyError where one of the same score differs."""
    held = {_place(one): one for one in read_declarations(store) or ()}
    for one in new:
        before = held.setdefault(_place(one), one)
        if replace(before, source="") != replace(one, source=""):
            raise StudyError(
                f"the score {one.key!r} was declared before as {spell(before)} ({before.source or 'by the user'}) and"
                f" now as {spell(one)}; import into a new run to declare it anew"
            )
    write_notes(store, DECLARED, (held[key] for key in sorted(held, key=str)))


def spell(one: Declaration) -> str:
    """A declaration as it is written on the command line: ``safety=-score[0,1]``, ``safety=+judge:grade[1,10]@3``."""
    scorer = f"{one.scorer}:" if one.scorer else ""
    severe = "" if one.severe is None else f"@{show_number(one.severe)}"
    ends = f"[{show_number(one.low)},{show_number(one.high)}]"
    return f"{one.objective}={'+' if one.sign > 0 else '-'}{scorer}{one.key}{ends}{severe}"


def show_number(value: float) -> str:
    """A number as people write it, with every digit that it has: ``1``, ``0.25``, ``1234567.25``."""
    return f"{value:.15g}"


def read_undeclared(store: Store) -> tuple[Undeclared, ...]:
    """Values of foreign scorers that were not taken. Errors: StoreError."""
    return _read(store, UNDECLARED, lambda row: Undeclared(**_fields(row)))


def describe_undeclared(one: Undeclared) -> str:
    """``'harm' of judge (20 values: 1, 10)``."""
    seen = f": {', '.join(one.seen)}" if one.seen else ""
    return f"{one.key!r} of {one.scorer} ({count_noun(one.count, 'values')}{seen})"


def require_declared(store: Store, judge: str) -> None:
    """Refuse a judge of another tool's log whose scores nobody declared: pairs would be chosen by an unknown direction.

    Errors: StudyError with what to do.
    """
    scorer = scorer_of(judge.partition("#")[0])
    waiting = [one for one in read_undeclared(store) if scorer in (one.scorer, one.scorer.rpartition("/")[2])]
    known = any(one.scorer in (None, scorer) for one in read_declarations(store) or ())
    if judge.startswith(FOREIGN) and not known:
        told = ", ".join(map(describe_undeclared, waiting)) or "its values"
        key = waiting[0].key if waiting else "KEY"
        raise StudyError(
            f"pairs: {judge}: which end is good and the range are not declared of {told}; import the logs again with"
            f" --score 'OBJECTIVE=+{key}[LOW,HIGH]' where high is good, or 'OBJECTIVE=-{key}[LOW,HIGH]' where high is"
            " bad"
        )


def read_log_states(store: Store) -> tuple[LogState, ...]:
    """How whole each log of an imported run is; empty for any other run. Errors: StoreError."""
    return _read(store, LOGS, lambda row: LogState(**_fields(row)))


def read_import_notes(store: Store) -> tuple[str, ...]:
    """What a reader of an imported run must know, a sentence each. Errors: StoreError."""
    return _read(store, NOTES, str)


def read_actors(store: Store) -> dict[str, dict[str, str]]:
    """What decided the replies of each checkpoint of foreign logs, without secrets: checkpoint id → setting → value."""
    return dict(_read(store, ACTORS, lambda row: (str(row["checkpoint"]), dict(row["settings"]))))


def _place(one: Declaration) -> tuple[str | None, str | None, str]:
    return one.task, one.scorer, one.key


def _read(store: Store, key: str, make: Callable[[Any], Made]) -> tuple[Made, ...]:
    """What is noted under a key, each row as ``make`` has it; empty where nothing is. Errors: StoreError."""
    try:
        rows = orjson.loads(store.meta(key) or "[]")
        if not isinstance(rows, list):
            raise TypeError("not a list")
        return tuple(map(make, rows))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StoreError(f"what the run notes of its import is damaged ({key}); import the logs again") from error


def _fields(row: Any) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
