"""Which logs are attempts at one evaluation, and which of their episodes count.

A retry has the id of its first attempt (Inspect's ``task_id``) and carries over the samples that were done, each with
its own ``uuid``. One uuid is one episode; a sample and epoch that a later attempt redid counts as that did it. Logs
that share neither are evaluations of their own, and all of their episodes count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.log import EvalLog

from holdfast.exchange.scoring import Origin
from holdfast.records.groups import group_by_key, group_tied

SHOWN = 6  # files or sample ids, in a message


@dataclass(frozen=True, slots=True)
class Spot:
    """A sample in a log, as its summary names it."""

    id: str
    epoch: int
    uuid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One log that is to be imported: its file, its header, whose it is, what it holds, where its scores come from."""

    path: Path
    header: EvalLog
    checkpoint: str
    own: bool
    spots: tuple[Spot, ...]
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How logs belong together, by their places in the list that they were given in.

    ``order`` is the order in which to read them, ``chain`` names each log's evaluation by the place of its last
    attempt, ``replaced`` are the logs that another attempt answers for. ``answered`` says of a log which spots another
    one answers for, and whether it holds the same episode (True) or redid it (False). ``notes`` tell it, a sentence
    each.
    """

    order: tuple[int, ...]
    chain: tuple[int, ...]
    replaced: frozenset[int]
    answered: Mapping[int, Mapping[Spot, bool]]
    notes: tuple[str, ...]


def sort_attempts(logs: Sequence[Log]) -> Attempts:
    """How the logs of one import belong together."""
    notes: list[str] = []
    answered: dict[int, dict[Spot, bool]] = {}
    chain = list(range(len(logs)))
    for group in group_tied([() if log.own else _ties(log) for log in logs]):
        group.sort(key=lambda place: _age(logs[place]))
        for place in group:
            chain[place] = group[-1]
        if len(group) > 1:
            answered |= _answer(logs, group)
            notes.append(_tell_answered(logs, group, answered))
    replaced = {place for place, last in enumerate(chain) if place != last}
    kept = [place for place in range(len(logs)) if place not in replaced]
    rest = sorted(replaced, key=lambda place: _age(logs[place]), reverse=True)
    return Attempts(
        order=(*kept, *rest),
        chain=tuple(chain),
        replaced=frozenset(replaced),
        answered=answered,
        notes=(*notes, *_joined(logs, kept)),
    )


def _ties(log: Log) -> list[tuple[str, ...]]:
    """What a log shares with other attempts at its evaluation."""
    told = log.header.eval
    ids = [("attempt", told.task_id), ("log", told.eval_id), *(("uuid", spot.uuid) for spot in log.spots)]
    return [(log.checkpoint, kind, identity) for kind, identity in ids if identity]


def _age(log: Log) -> tuple[str, str, int, bool, str]:
    """Sorts attempts, the last one last: by their times, then by what they hold."""
    header = log.header
    started = header.stats.started_at if header.stats else ""
    return (str(header.eval.created), str(started), len(log.spots), header.results is not None, str(log.path))


def _answer(logs: Sequence[Log], group: Sequence[int]) -> dict[int, dict[Spot, bool]]:
    """Which episodes of earlier attempts later ones answer for."""
    later: set[Spot] = set()
    answered = {}
    for place in reversed(group):
        places = {(spot.id, spot.epoch) for spot in later}
        spots = logs[place].spots
        answered[place] = {one: one in later for one in spots if one in later or (one.id, one.epoch) in places}
        later |= set(spots)
    return answered


def _tell_answered(logs: Sequence[Log], group: Sequence[int], answered: Mapping[int, Mapping[Spot, bool]]) -> str:
    last, earlier = logs[group[-1]].path.name, _names([logs[place].path.name for place in group[:-1]])
    states = [same for place in group for same in answered[place].values()]
    told = [f"{sum(states)} episodes stand in several and count once"] if any(states) else []
    told += [f"{states.count(False)} attempts that it replaced do not count"] if not all(states) else []
    return f"{last} is a later state of {earlier}: {', '.join(told) or 'no episode of theirs is in it'}"


def _joined(logs: Sequence[Log], kept: Sequence[int]) -> list[str]:
    """Which logs are read as one checkpoint although each is an evaluation of its own."""
    others = (logs[place] for place in kept if not logs[place].own and logs[place].spots)
    groups = group_by_key((log.checkpoint, log.path.name) for log in others)
    words = "logs were read as one checkpoint, for nothing in them tells their models apart"
    joined = (names for names in groups.values() if len(names) > 1)
    return [f"{len(names)} {words}: {_names(names)}" for names in joined] + _shared(logs)


def _shared(logs: Sequence[Log]) -> list[str]:
    """Episodes that stand under two checkpoints: the same uuid, another model or setting."""
    owners = group_by_key((spot.uuid, log.checkpoint) for log in logs for spot in log.spots if spot.uuid is not None)
    count = sum(len(set(checkpoints)) > 1 for checkpoints in owners.values())
    return [f"{count} episodes stand in logs of different models or settings and count for each"] if count else []


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
