"""What a joined run notes of the runs that it was made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from holdfast.records.errors import StoreError
from holdfast.records.words import count_noun
from holdfast.store import Store

JOINED_KEY = "joined"  # under ``meta``


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One of the runs that were joined.

    ``run`` is its directory, ``digest`` the run's own, ``seeds`` the values of each kind of seed that it has.
    ``machines`` are those that carried out its steps (``records.machine``), empty where it was made by a version that
    did not note them. Of its steps ``taken`` are in the joined run, ``equal`` were equal to another run's, ``begun``
    were not finished and come from another run; ``left`` counts, by step, the records that differed and were left out.
    ``cpu_seconds`` is what all its finished steps took, ``calls`` and ``cost`` what its ledger holds, where it was
    forked that of its source too. ``joined`` are its own sources, where it was joined itself.
    """

    run: str
    digest: str
    seeds: Mapping[str, Sequence[int]]
    machines: Sequence[Mapping[str, str]] = ()
    taken: int = 0
    equal: int = 0
    begun: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    calls: int = 0
    cost: float = 0.0
    forked_from: str | None = None
    joined: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The sources of a joined run, whose shared steps stand where they differed, and what a reader must know."""

    sources: tuple[Source, ...]
    shared: str | None = None
    notes: tuple[str, ...] = ()


def write_joined(store: Store, joined: Joined) -> None:
    """Note what a run was joined of."""
    store.set_meta(JOINED_KEY, json.dumps(asdict(joined)))


def read_joined(store: Store) -> Joined | None:
    """What a run was joined of; None for any other run. Errors: StoreError where that is damaged."""
    if (noted := store.meta(JOINED_KEY)) is None:
        return None
    try:
        row = json.loads(noted)
        sources = tuple(Source(**one) for one in row["sources"])
        return Joined(sources=sources, shared=row["shared"], notes=tuple(row["notes"]))
    except (ValueError, TypeError, LookupError) as error:
        raise StoreError(
            f"{store.path}: what it notes of the runs that it was joined of is damaged; join them again"
        ) from error


def tell_joined(store: Store) -> Iterator[str]:
    """What a reader of a joined run's numbers must know: nothing where its sources agreed in all that they share."""
    if (joined := read_joined(store)) is not None:
        yield from joined.notes


def describe_source(source: Source) -> Iterator[str]:
    """A source in short texts: where it is, its seeds, what was taken, what it was made with."""
    yield source.run
    seeds = (f"{name} {', '.join(map(str, values))}" for name, values in source.seeds.items())
    yield "; ".join(seeds)
    told = count_noun(source.taken, "steps")
    told += f", {source.equal:,} equal to another run's" if source.equal else ""
    told += f", {source.begun:,} begun and taken from another run" if source.begun else ""
    if left := sum(source.left.values()):
        told += f", {count_noun(left, 'differing records')} of {count_noun(len(source.left), 'steps')} left out"
    yield told
    yield f"{source.cpu_seconds:,.0f} s of CPU time"
    if source.calls:
        yield f"{count_noun(source.calls, 'calls')} in its ledger ({source.cost:,.4f})"
    for machine in source.machines:
        versions = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("system", "processor"))
        yield f"{versions} on {machine.get('system')}, {machine.get('processor')}"
    if not source.machines:
        yield "machine and versions not noted"
    yield f"digest {source.digest[:12]}"
    if source.joined:
        yield f"itself joined of {count_noun(len(source.joined), 'runs')}"
