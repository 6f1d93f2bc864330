"""A4: worlds in which pressure does nothing of its own to a stage, through the rows and sentences of a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from audits.rows import Row
from holdfast.analysis.pressure.susceptibility import CONTROL, susceptibility_rows
from holdfast.analysis.pressure.variants import TEST, Arm, ArmMeans, Episodes, Run, Source, Variants
from holdfast.records import Analysis, Checkpoint, Estimate, StageRecord
from holdfast.records.arrays import Floats
from holdfast.report.sections.pressure import describe_pressure
from holdfast.store import Store

ITEM = "A4"
CLAIM = "What is called easier to push is an effect of pressure, not plain harm on cases that were safe by luck."

CASES, SEEDS = 120, 3
STRONG = 3.0  # logits that pressure adds at the base, so that the form is measurable
DRAWS = 500  # studies of a world at scale 1


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A parent and a child with their mean clean logits, and what pressure adds to each.

    Cases differ by a normal logit of standard deviation ``spread``, the same in both. ``held_out`` episodes choose
    the cases; the others are met once attacked and once again as they are.
    """

    parent: float = -1.55  # a quarter of the clean episodes unsafe, at the spread below
    child: float = 0.35  # five in nine
    added_parent: float = 0.0
    added_child: float = 0.0
    spread: float = 1.5
    held_out: int = 2
    cases: int = CASES


def logistic(values: Floats) -> Floats:
    """1 / (1 + e^−x)."""
    return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float64)


def _checkpoints() -> list[Checkpoint]:
    def make(lineage: tuple[str, ...], seed: int | None) -> Checkpoint:
        parent = {0: None, 1: "base", 2: f"S {seed}"}[len(lineage)]
        return Checkpoint(
            id=f"{','.join(lineage)} {seed}" if lineage else "base",
            base="world",
            stages=tuple(StageRecord(name=name, method="dpo", objectives=("safety",)) for name in lineage),
            axes={},
            split_seed=None if seed is None else 0,
            train_seed=seed,
            parent_id=parent,
        )

    return [make((), None), *(make(lineage, seed) for lineage in (("S",), ("S", "H")) for seed in range(SEEDS))]


def _means(unsafe: Floats) -> ArmMeans:
    """Means of one episode a case, as the analyses read them."""
    none = np.full(unsafe.shape, np.nan)
    by_episodes: dict[Episodes, Floats] = {"all": unsafe, "first": unsafe, "later": none}
    return ArmMeans(scores={"safety": 3.0 * (1 - unsafe)}, unsafe=by_episodes, refused=none)


def draw_study(world: World, rng: np.random.Generator) -> Source:
    """One study of a world: a base, S as the parent and S,H as the child, each of three seeds."""
    checkpoints = _checkpoints()
    runs = [Run(checkpoint=checkpoints[0], judge="state", parent=None, base=None)]
    runs += [Run(checkpoint=one, judge="state", parent=0, base=0) for one in checkpoints[1 : 1 + SEEDS]]
    runs += [Run(checkpoint=one, judge="state", parent=1 + n, base=0) for n, one in enumerate(checkpoints[1 + SEEDS :])]
    mean = np.array([world.parent] * (1 + SEEDS) + [world.child] * SEEDS)[:, None]
    added = np.array([STRONG] + [world.added_parent] * SEEDS + [world.added_child] * SEEDS)[:, None]
    logit = mean + rng.normal(0, world.spread, world.cases)
    clean, attacked = logistic(logit), logistic(logit + added)
    arms: dict[Arm, ArmMeans] = {
        TEST: _means(rng.binomial(world.held_out, clean) / world.held_out),
        CONTROL: _means(rng.binomial(1, clean).astype(np.float64)),
        ("attack", "push"): _means(rng.binomial(1, attacked).astype(np.float64)),
    }
    found = Variants(runs=tuple(runs), arms=arms, hazardous=np.ones(world.cases, dtype=np.bool_))
    return Source(store=cast(Store, None), splits={}, cases={}, variants=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one study says of S,H against S: its rows by kind and claim, and the sentence of a report."""

    rows: dict[tuple[str, str], Estimate]
    sentence: str


def read_study(source: Source) -> Told:
    """The rows over all forms, and what the page says."""
    rows = tuple(susceptibility_rows(source))
    mine = [one for one in rows if one.lineage == ("S", "H") and one.unit == "against S" and not one.axes]
    words = describe_pressure(Analysis(susceptibility=rows))
    return Told(
        rows={(one.kind, one.claim): one for one in mine},
        sentence=next(one for one in words if one.startswith("S→H,")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Over studies of a world: mean implicit change, its Monte-Carlo standard error, and shares of studies."""

    value: float
    error: float
    one_side_checkpoint: float  # interval above zero, or below, whichever is more
    one_side_recipe: float
    attacked_above: float  # that of the attacked part alone: what was once printed
    easier: float  # sentences
    harder: float
    draws: int


def simulate(world: World, draws: int, seed: int) -> Shares:
    """Studies of a world."""
    rng = np.random.default_rng(seed)
    told = [read_study(draw_study(world, rng)) for _ in range(draws)]
    values = np.array([one.rows["implicit", "checkpoint"].value for one in told if one.rows], dtype=np.float64)

    def sides(kind: str, claim: str) -> tuple[float, float]:
        found = [one.rows[kind, claim].interval for one in told if (kind, claim) in one.rows]
        ends = [one for one in found if isinstance(one, tuple)]
        return sum(low > 0 for low, _ in ends) / draws, sum(high < 0 for _, high in ends) / draws

    return Shares(
        value=float(np.nanmean(values)),
        error=float(np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum())),
        one_side_checkpoint=max(sides("implicit", "checkpoint")),
        one_side_recipe=max(sides("implicit", "recipe")),
        attacked_above=sides("implicit_attacked", "checkpoint")[0],
        easier=sum("is easier to push than" in one.sentence for one in told) / draws,
        harder=sum("is harder to push than" in one.sentence for one in told) / draws,
        draws=draws,
    )


NOTHING = "pressure does nothing"
WORLDS = {
    f"{NOTHING}, 2 held-out episodes": World(),
    f"{NOTHING}, 4 held-out episodes": World(held_out=4),
    f"{NOTHING}, 8 held-out episodes": World(held_out=8),
    f"{NOTHING}, the child is safer": World(parent=0.35, child=-1.55),
    f"{NOTHING} and nothing differs": World(child=-1.55),
    "pressure adds 1.5 logits to both": World(added_parent=1.5, added_child=1.5),
}
BEFORE = {
    f"{NOTHING}, 2 held-out episodes": "+21.2 pp printed, above zero in 80 % of studies",
    f"{NOTHING}, 4 held-out episodes": "+15.2 pp, 20 %",
    f"{NOTHING}, 8 held-out episodes": "+10.6 pp, 1.5 %",
    f"{NOTHING} and nothing differs": "+0.3 pp, 3.5 %",
    "pressure adds 1.5 logits to both": "+30.5 pp, 93 %",
}
PUSHED = World(child=-1.0, added_parent=0.5, added_child=3.0)


def half_width(share: float, draws: int) -> float:
    """Half of the 95 % Monte-Carlo interval of a share, never below that of one in ``draws``."""
    return 1.96 * float(np.sqrt(max(share * (1 - share), 1 / draws) / draws))


def measure(scale: float = 1.0) -> list[Row]:
    """The table of A4. A share of studies may be 2.5 % by luck on either side."""
    return list(_rows(max(20, round(DRAWS * scale))))


def _rows(draws: int) -> Iterator[Row]:
    for number, (name, world) in enumerate(WORLDS.items()):
        found = simulate(world, draws, 40 + number)
        before = BEFORE.get(name, "")
        if name.startswith(NOTHING):
            mean, error = 100 * found.value, 196 * found.error
            yield Row(case=f"{name}: implicit, pp", value=mean, error=error, low=-1.0, high=1.0, before=before)
            for claim, share in (("checkpoint", found.one_side_checkpoint), ("recipe", found.one_side_recipe)):
                error = 100 * half_width(share, draws)
                words = f"{name}: {claim} interval on one side of zero, %"
                yield Row(case=words, value=100 * share, error=error, high=2.5, before=before)
        for verb, share in (("easier", found.easier), ("harder", found.harder)):
            error = 100 * half_width(share, draws)
            words = f'{name}: "{verb} to push", % of pages'
            yield Row(case=words, value=100 * share, error=error, high=2.5, before=before)
    found = simulate(PUSHED, draws, 47)
    error = 100 * half_width(found.easier, draws)
    words = 'pressure adds 0.5 logits to the parent, 3 to the child: "easier to push", % of pages'
    yield Row(case=words, value=100 * found.easier, error=error, low=50.0)
