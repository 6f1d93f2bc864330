"""A14: matched reward, a baseline that its own score chose, promises of a drop, and what small looks can see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from audits.rows import Row
from holdfast.decisions.watch.series import promise_looks, replay
from holdfast.decisions.watch.state import Seen, State
from holdfast.records.arrays import Floats
from holdfast.stats.levels import at_level, over_seeds

ITEM = "A14"
CLAIM = "Levels are read on a fitted curve, a chosen baseline pays for its choice, and promises of a drop are kept."

LEVEL, SEEDS = 7.0, 3
ALPHA, MARGIN = 0.05, 0.25
STUDIES, SEQUENCES, WORLDS, RUNS = 1500, 200, 24, 8  # at scale 1
# Drop → what the audit found where one was only just promised, and where it was promised easily. That was a drop of 0.6
# under an earlier bound, which today is promised in no world.
DROPS = {0.7: "0.41 where promised 0.85", 0.9: "0.83–0.95"}


def half_width(share: float, draws: int) -> float:
    """Half of the 95 % Monte-Carlo interval of a share, never below that of one in ``draws``."""
    return 1.96 * float(np.sqrt(max(share * (1 - share), 1 / draws) / draws))


# --- matched reward -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A training whose reward rises from 5 to 8 in ``steps``, checked ``every`` so many; its gap rises with it."""

    steps: int
    every: int
    reward_noise: float = 0.3
    gap_noise: float = 0.4
    seed_sd: float = 0.3  # of the gap at equal reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Over studies of an arm: the mean error of the gap at the level with its standard error, and intervals' coverage.

    ``first_crossing`` is the mean error of the gap where single checkpoints first reach the level.
    """

    bias: float
    error: float
    held: float
    first_crossing: float


def simulate(arm: Arm, studies: int, seed: int) -> Matched:
    """Studies of three seeds of an arm."""
    rng = np.random.default_rng(seed)
    at = np.arange(0, arm.steps + 1, arm.every)
    reward = 5 + 3 * at / arm.steps
    gap = 1.2 * (reward - 5)
    truth = 1.2 * (LEVEL - 5)
    errors, crossings, held = [], [], 0
    for _ in range(studies):
        found = []
        for _ in range(SEEDS):
            guide = reward + rng.normal(0, arm.reward_noise, len(at))
            quantity = gap + rng.normal(0, arm.seed_sd) + rng.normal(0, arm.gap_noise, len(at))
            found.append(at_level(quantity, guide, LEVEL))
            crossings.append(_first_crossing(quantity, guide) - truth)
        whole = over_seeds(found)
        errors.append((whole.value if whole.value is not None else np.nan) - truth)
        held += whole.interval is not None and whole.interval[0] <= truth <= whole.interval[1]
    kept = np.array(errors)[np.isfinite(errors)]
    return Matched(
        bias=float(kept.mean()),
        error=float(kept.std(ddof=1) / np.sqrt(len(kept))),
        held=held / studies,
        first_crossing=float(np.nanmean(crossings)),
    )


def _first_crossing(quantity: Floats, guide: Floats) -> float:
    above = np.flatnonzero(guide >= LEVEL)
    if not len(above):
        return float("nan")
    first = int(above[0])
    if first == 0:
        return float(quantity[0])
    return float(np.interp(LEVEL, guide[first - 1 : first + 1], quantity[first - 1 : first + 1]))


ARMS = {
    "slow arm, checked every 2 steps": (Arm(steps=60, every=2), "−0.16 ±0.02"),
    "slow arm, checked every 5 steps": (Arm(steps=60, every=5), "−0.10 ±0.02"),
    "fast arm, checked every 5 steps": (Arm(steps=20, every=5), "−0.02 ±0.02"),
}


def _matched(scale: float) -> Iterator[Row]:
    studies = max(100, round(STUDIES * scale))
    for number, (name, (arm, before)) in enumerate(ARMS.items()):
        found = simulate(arm, studies, 140 + number)
        error = 1.96 * found.error
        yield Row(case=f"{name}: bias of the gap", value=found.bias, error=error, low=-0.02, high=0.02, before=before)
        words = f"{name}: intervals hold, share"
        yield Row(case=words, value=found.held, error=half_width(found.held, studies), low=0.93, before="0.94–0.96")


# --- a baseline that its own score chose --------------------------------------------------------------------------


def draw_scores(rng: np.random.Generator, cases: Floats, rollouts: int) -> Floats:
    """(cases, rollouts) scores of 0 or 3; ``cases`` are the chances of 0."""
    return np.asarray(np.where(rng.random((len(cases), rollouts)) < cases[:, None], 0.0, 3.0), dtype=np.float64)


def _values(scores: Floats) -> dict[str, tuple[float, ...]]:
    return {f"case {number}": tuple(row) for number, row in enumerate(scores.tolist())}


def false_lower(best_of: int, sequences: int, seed: int, *, told: bool, looks: int = 10, cases: int = 60) -> float:
    """How often any of ten looks at an unchanged model says "lower", the baseline the best of equal checkpoints."""
    rng = np.random.default_rng(seed)
    lower = 0
    for _ in range(sequences):
        chances = rng.beta(0.6, 1.4, cases)
        candidates = [draw_scores(rng, chances, 1) for _ in range(best_of)]
        state = State(declared={}, baseline=_values(max(candidates, key=lambda one: float(one.mean()))))
        for number in range(looks):
            seen = Seen(label=str(number), data=str(number), values=_values(draw_scores(rng, chances, 1)))
            state.looks.append(seen)
        rows = replay(state, "paired", ALPHA / (best_of if told else 1), MARGIN)
        lower += any(row.warning for row in rows)
    return lower / sequences


def _chosen(scale: float) -> Iterator[Row]:
    sequences = max(20, round(SEQUENCES * scale))
    for told in (False, True):
        share = false_lower(5, sequences, 150, told=told)
        words = "told with --best-of 5" if told else "not told"
        yield Row(
            case=f"baseline the best of 5, {words}: any 'lower' in ten looks without a change, share",
            value=share,
            error=half_width(share, sequences),
            high=0.05 if told else None,
            before="0.085 ±0.022",
        )


# --- promises of a drop -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Over worlds: in which share a drop is promised, and in which share of those worlds' futures it was caught.

    ``error`` is the 95 % Monte-Carlo half-width of ``delivered``, from how worlds differ; both NaN where fewer than
    two promise.
    """

    promised: float
    delivered: float
    error: float


def keep_promises(drop: float, worlds: int, futures: int, seed: int, *, cases: int = 150, taken: int = 2) -> Kept:
    """Worlds with ``taken`` looks at an unchanged model, then the drop, for as many looks as were promised.

    Cases and the baseline's rollouts stay as they are in a world; what follows is drawn anew.
    """
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(worlds):
        chances = rng.beta(0.6, 2.4, cases)
        state = State(declared={}, baseline=_values(draw_scores(rng, chances, 1)))
        for number in range(taken):
            seen = Seen(label=str(number), data=str(number), values=_values(draw_scores(rng, chances, 1)))
            state.looks.append(seen)
        promise = promise_looks(state, drop, alpha=ALPHA, margin=MARGIN, rng=rng)
        if promise.looks is None:
            continue
        worse = chances + (1 - chances) * drop / (3 * (1 - float(chances.mean())))
        caught = 0
        for _ in range(futures):
            after = State(declared={}, baseline=state.baseline, looks=list(state.looks))
            for number in range(promise.looks):
                label = f"after {number}"
                after.looks.append(Seen(label=label, data=label, values=_values(draw_scores(rng, worse, 1))))
            rows = replay(after, "paired", ALPHA, MARGIN)
            caught += any(row.alarm for row in rows[taken:]) and not any(row.alarm for row in rows[:taken])
        shares.append(caught / futures)
    # A share of as many futures as there are is the least that the worlds' spread can be told to.
    spread = max(float(np.std(shares, ddof=1)), 1 / futures) if len(shares) > 1 else np.nan
    return Kept(
        promised=len(shares) / worlds,
        delivered=float(np.mean(shares)) if len(shares) > 1 else np.nan,
        error=float(1.96 * spread / np.sqrt(max(1, len(shares)))),
    )


def _promises(scale: float) -> Iterator[Row]:
    worlds, futures = max(4, round(WORLDS * scale)), RUNS
    for number, (drop, before) in enumerate(DROPS.items()):
        found = keep_promises(drop, worlds, futures, 160 + number)
        words = f"drop of {drop:g}, 150 cases × 1"
        # What nobody promises cannot be broken: the next row then holds nothing.
        yield Row(case=f"{words}: promised, share of worlds", value=found.promised, low=0.2)
        case = f"{words}: kept where promised"
        yield Row(case=case, value=found.delivered, error=found.error, low=0.8, before=before)


def measure(scale: float = 1.0) -> list[Row]:
    """The table of A14; what small looks at traces can see is tested in words."""
    return [*_matched(scale), *_chosen(scale), *_promises(scale)]
