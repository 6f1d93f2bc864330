"""How whole the logs of a checkpoint are, and what they lack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.records.words import count_noun
from holdfast.store.origins import LogState

MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What the logs of one checkpoint lack.

    ``short`` says by case how many rollouts of it are absent, ``samples`` by sample id how many rollouts each sample
    lacks of which there is no episode at all, ``unnamed`` how many rollouts each of those lacks whose ids no log tells.
    ``broken`` are the logs that are not whole, ``whole`` how many are.
    """

    short: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    unnamed: tuple[int, ...] = ()
    broken: tuple[LogState, ...] = ()
    whole: int = 0

    @property
    def rollouts(self) -> int:
        """How many rollouts are absent."""
        return sum(self.short.values()) + sum(self.samples.values()) + sum(self.unnamed)

    @property
    def logged(self) -> bool:
        """Whether logs say how many rollouts there were to be."""
        return bool(self.broken or self.whole)


def find_gaps(states: Iterable[LogState], checkpoint: str) -> Gaps:
    """What the logs of a checkpoint lack, those aside that another log answers for."""
    mine = [one for one in states if one.checkpoint == checkpoint and not one.superseded]
    short: dict[str, int] = {}
    samples: dict[str, int] = {}
    unnamed: list[int] = []
    for one in mine:
        for case, count in one.short.items():
            short[case] = short.get(case, 0) + count
        samples |= {name: max(one.epochs, samples.get(name, 0)) for name in one.absent_ids}
        unnamed += [one.epochs] * max(one.absent - len(one.absent_ids), 0)
    broken = tuple(one for one in mine if not one.complete)
    return Gaps(short=short, samples=samples, unnamed=tuple(unnamed), broken=broken, whole=len(mine) - len(broken))


def describe_log(one: LogState, side: str) -> str:
    """``the child's log child.eval is cancelled: 80 of 400 samples, 320 rollouts absent``."""
    held = max(one.samples - one.absent, 0)
    told = f"{held:,} of {count_noun(one.samples, 'samples')}"
    if one.epochs > 1:
        told += f" in {one.epochs} epochs"
    return (
        f"the {side}'s log {one.file} is of status {one.status}: {told}, {count_noun(one.lacking, 'rollouts')} absent"
    )


def describe_gaps(gaps: Gaps, side: str, *, counted: bool) -> list[str]:
    """A sentence for each log that is not whole; ``counted`` says whether what is absent counts as unscored."""
    told = [describe_log(one, side) for one in gaps.broken[:MOST_NAMED]]
    if len(gaps.broken) > MOST_NAMED:
        told.append(f"{count_noun(len(gaps.broken) - MOST_NAMED, 'more logs')} of the {side} are not whole")
    how = "what is absent counts as unscored" if counted else "what is absent is left out, as accepted"
    return [f"{one} ({how})" for one in told]
