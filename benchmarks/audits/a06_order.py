"""A6: whether the order of the cases, that is their names, decides a verdict; and what that costs in power."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from gate_power import ALPHA, UNCHANGED, passing, scores

from audits.rows import Row
from holdfast.records.arrays import Floats
from holdfast.stats.bounded import lower_bound, order_cases, p_value, upper_bound

ITEM = "A6"
CLAIM = "The order of the cases decides nothing: no renaming moves a bound, and none can be looked for that passes."
SETS, ORDERS, MARGIN = 20, 100, 0.25
SIZES = (72, 144, 300)
DRAWS, SEARCHES = 20_000, 300
MOST_POINTS, MOST_POWER_LOST = 0.02, 0.02
# The share of passes of an earlier version's bound over orders drawn at random (20,000 draws; ± 0.7 points).
BEFORE = {
    "scores, 1 rollout": {20: 0.0993, 72: 0.3321, 144: 0.5727, 300: 0.8629},
    "scores, 4 rollouts": {20: 0.0493, 72: 0.7490, 144: 0.9770, 300: 1.0000},
    "few large differences": {20: 0.0059, 72: 0.7808, 144: 0.9777, 300: 0.9999},
    "few small differences": {20: 0.0095, 72: 0.9661, 144: 1.0000, 300: 1.0000},
    "severe events": {20: 0.1182, 72: 0.6683, 144: 0.9376, 300: 0.9990},
}


def measure(scale: float = 1.0) -> list[Row]:
    """How far bounds move over renamings and permutations, what the best of many passes, and the power."""
    return [*_ranges(), *_searched(max(20, round(SEARCHES * scale))), *_power(max(100, round(DRAWS * scale)))]


def _renamed(values: Floats, rng: np.random.Generator) -> Floats:
    """The values in the order of their cases under names drawn at random."""
    names = [f"{number:016x}" for number in rng.integers(0, 2**63, len(values))]
    place = {name: index for index, name in enumerate(names)}
    return values[[place[name] for name in order_cases(names)]]


def _ranges() -> Iterator[Row]:
    before = {72: "-0.46 to -0.11 in one data set", 144: "", 300: ""}
    for n in SIZES:
        rng = np.random.default_rng(n)
        sets = [np.clip(scores(rng, (n,)) - 0.05, -3, 3) for _ in range(SETS)]
        for how, new in (("renamings", _renamed), ("permutations", lambda one, drawn: drawn.permutation(one))):
            widest = 0.0
            for values in sets:
                orders = [new(values, rng) for _ in range(ORDERS)]
                for bound in (lower_bound, upper_bound):
                    found = [bound(one, ALPHA, low=-3, high=3) for one in orders]
                    widest = max(widest, max(found) - min(found))
            case = f"range of a bound over {ORDERS} {how}, {n} cases, widest of {SETS} sets"
            yield Row(case=case, value=widest, high=MOST_POINTS, before=before[n])


def _searched(searches: int) -> Iterator[Row]:
    """Somebody renames, cuts or rolls out anew until it passes, at a true loss of the margin."""
    rng = np.random.default_rng(6)
    lost = np.array([-3.0, 0.0]), (1 / 12, 11 / 12)

    def passes(values: Floats) -> bool:
        return p_value(values, -MARGIN, low=-3, high=3) <= ALPHA

    def share(found: list[bool]) -> tuple[float, float]:
        rate = float(np.mean(found))
        return rate, 1.96 * math.sqrt(max(rate, ALPHA) * (1 - max(rate, ALPHA)) / len(found))

    sets = [rng.choice(lost[0], size=144, p=lost[1]) for _ in range(searches)]
    rate, error = share([any(passes(_renamed(one, rng)) for _ in range(20)) for one in sets])
    told = "18.7 % (20), 32.2 % (100 renamings)"
    yield Row(case="best of 20 renamings passes at the margin", value=rate, error=error, high=ALPHA, before=told)
    rate, error = share([any(passes(one[:count]) for count in range(20, 145)) for one in sets])
    told = "9.1 %, told nowhere"
    yield Row(case="best of --cases 20 … 144 (in limits, fingerprint)", value=rate, error=error, before=told)
    for count, told in ((3, "11.8 %"), (10, "24.7 %")):
        rolls = [any(passes(rng.choice(lost[0], size=144, p=lost[1])) for _ in range(count)) for _ in sets]
        rate, error = share(rolls)
        case = f"best of {count} seeds of --again (in limits, fingerprint)"
        yield Row(case=case, value=rate, error=error, before=told)


def _power(draws: int) -> Iterator[Row]:
    for n in next(iter(BEFORE.values())):
        now = {name: passing(setting, n, "gaffke", draws, seed=n) for name, setting in UNCHANGED.items()}
        was = {name: shares[n] for name, shares in BEFORE.items()}
        # Both errors, of about as many draws: these were the same samples, which makes it less.
        error = 1.96 * math.sqrt(2 * 0.25 / draws / len(now))
        mean, mean_was = (float(np.mean(list(one.values()))) for one in (now, was))
        case = f"power where nothing changed, mean of {len(now)} kinds, {n} cases"
        yield Row(case=case, value=mean, error=error, low=mean_was - MOST_POWER_LOST, before=f"{mean_was:.4f}")
        name = min(now, key=lambda one: now[one] - was[one])
        case = f"largest power lost in one kind ({name}), {n} cases"
        lost = was[name] - now[name]
        yield Row(case=case, value=lost, error=error * math.sqrt(len(now)), high=MOST_POWER_LOST, before="0")
