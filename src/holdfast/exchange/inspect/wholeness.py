"""How whole logs are: what a log was to hold, held against the episodes of all attempts at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inspect_ai.log import EvalLog

from holdfast.exchange.inspect.actors import compared_settings
from holdfast.exchange.inspect.attempts import SHOWN, Attempts, Log
from holdfast.models.calls.structured import clean
from holdfast.store.origins import LogState


@dataclass(slots=True)
class Held:
    """The episodes of one evaluation, all its attempts together: case id → epochs, and sample id → case ids."""

    epochs: dict[str, set[int]] = field(default_factory=dict)
    cases: dict[str, set[str]] = field(default_factory=dict)

    def add(self, sample: str, epoch: int, case: str) -> None:
        """An episode that was kept."""
        self.epochs.setdefault(case, set()).add(epoch)
        self.cases.setdefault(sample, set()).add(case)


def describe_logs(logs: Sequence[Log], attempts: Attempts, held: Mapping[int, Held]) -> list[LogState]:
    """The state of each log of other agents, in their order; ``held`` goes by the last attempt."""
    others = [(place, log) for place, log in enumerate(logs) if not log.own]
    replaced, chain = attempts.replaced, attempts.chain
    return [_describe(log, place in replaced, held.get(chain[place], Held())) for place, log in others]


def _describe(log: Log, superseded: bool, held: Held) -> LogState:
    header = log.header.eval
    # Epochs are numbered: one that stands in no sample was run all the same.
    epochs = header.config.epochs or max((spot.epoch for spot in log.spots), default=1)
    there = {spot.id for spot in log.spots} | set(held.cases)
    named = [str(one) for one in header.dataset.sample_ids or ()]
    missing = [name for name in dict.fromkeys(named) if name not in held.cases]
    samples = max(_planned(log.header), len(there | set(named)))
    state = LogState(
        file=str(log.path),
        log=header.eval_id,
        task=clean(header.task),
        checkpoint=log.checkpoint,
        status=str(log.header.status),
        epochs=epochs,
        samples=samples,
        episodes=len(log.spots),
        attempt=header.task_id,
        superseded=superseded,
        settings=compared_settings(log.header),
    )
    if superseded:
        return state
    short = {case: epochs - len(found) for case, found in held.epochs.items() if len(found) < epochs}
    return replace(state, absent=samples - len(held.cases), absent_ids=tuple(map(clean, missing)), short=short)


def _planned(log: EvalLog) -> int:
    """How many samples a log was to hold, after the limits that it was run with."""
    config, dataset = log.eval.config, log.eval.dataset
    if config.sample_id is not None and dataset.sample_ids:
        # Of a choice by id Inspect counts the whole data set and lists those that were chosen.
        return len(dataset.sample_ids)
    planned = int(dataset.samples if dataset.samples is not None else len(dataset.sample_ids or ()))
    if planned == 0 and log.results is not None:
        planned = int(log.results.total_samples) // max(config.epochs or 1, 1)
    if isinstance(config.limit, int):
        return min(planned, int(config.limit))
    if isinstance(config.limit, tuple):
        return max(0, min(planned, int(config.limit[1])) - int(config.limit[0]))
    return planned


def merge_states(before: Iterable[LogState], new: Sequence[LogState]) -> list[LogState]:
    """The states of a run's logs after another import: one of each log, earlier attempts superseded."""
    mine = {(one.checkpoint, one.log) for one in new}
    later = {(one.checkpoint, one.attempt) for one in new if one.attempt}
    kept = []
    for one in before:
        if (one.checkpoint, one.log) in mine:
            continue
        superseded = one.superseded or (one.checkpoint, one.attempt) in later
        kept.append(replace(one, superseded=True, absent=0, absent_ids=(), short={}) if superseded else one)
    return [*kept, *new]


def tell_states(states: Sequence[LogState]) -> list[str]:
    """What a reader must know of how whole the logs are, a sentence for each that is not."""
    sentences = []
    for state in (one for one in states if not one.complete):
        lacks = [f"its status is {state.status!r}"] if state.status != "success" else []
        if state.absent:
            ids = list(state.absent_ids[:SHOWN])
            which = f" ({', '.join(ids)}{' …' if state.absent > len(ids) else ''})" if ids else ""
            lacks.append(f"{state.absent} of its {state.samples} samples are absent{which}")
        if state.short:
            lacks.append(f"{sum(state.short.values())} rollouts of {len(state.short)} other samples are absent")
        sentences.append(f"{state.file.rsplit('/', 1)[-1]} is not whole: {'; '.join(lacks)}")
    return sentences
