"""The bettor behind the bounds of bounded means: values in [0, 1], wealth against a mean, predictable bets.

Against "the mean is at most m" a bettor starts with 1 and, at each value x in turn, multiplies the wealth by
1 + λ(x − m) with 0 ≤ λ < 1/m chosen from earlier values alone. Under that hypothesis the wealth is a non-negative
supermartingale, so that it ever reaches 1/α with probability at most α (Ville), whatever the distribution and n; 1 over
the highest wealth is a p-value (Waudby-Smith & Ramdas 2024, arXiv 2010.09686). How λ is chosen decides the power only.

The bets here recompute at each value what is still missing of the goal (Voráček & Orabona 2025, "STaR-Bets", arXiv
2505.22422): λ = √(2·(log goal − log wealth)/(values left × variance around m)), at most STAKE/m. A reached goal of 1/α
is squared, so that smaller levels than α can be rejected too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The bets against the upper end of one of so many equal parts of [0, 1] serve every mean inside it: the wealth then
# falls in the mean within a part, and the smallest mean that is kept is found exactly, without a grid that misses one.
CELLS = 1024
# Of the stake that a bet may lose: 1 would let a single value end the game.
STAKE = 0.95
# Before the first value the variance is taken as (a fifth of the range)², with the weight of ten values: chosen by the
# power over score differences of published agents, rates, and rare severe drops.
PRIOR_VARIANCE, PRIOR_WEIGHT = 0.04, 10.0
PRECISION = 1e-9
COMPRESS = 8  # values between two looks at who has reached the target


def p_of_rows(x: Floats, m: float, aim: float) -> Floats:
    """The p-value of each row of ``x`` (rows, n) for ``m`` alone: 1 over the highest wealth, 1 for ``m`` ≥ its mean."""
    return np.asarray(np.exp(-_log_wealth(x, m, aim)), dtype=np.float64)


def p_of(x: Floats, m: float, aim: float) -> float:
    """The p-value of "the mean is at most ``m``": the largest of those of ``m`` and of the smaller means."""
    found = float(_log_wealth(x[None], m, aim)[0])
    resisting = _resisting(x, _cell(m) - 1, found, aim)
    return math.exp(-min(found, float(resisting.best.min(initial=found))))


def lower(x: Floats, alpha: float, aim: float) -> float:
    """The smallest mean that is not rejected at ``alpha``, at most the mean of ``x`` (n,)."""
    target = -math.log(alpha)
    kept = _kept_cell(x, target, aim)
    below = _resisting(x, kept - 1, target, aim).tops
    cell = round(float(below[0]) * CELLS) if len(below) else kept
    stakes = _stakes(x, cell / CELLS, aim)
    low, high = (cell - 1) / CELLS, cell / CELLS
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if _highest(x, stakes, middle) < target else (middle, high)
    return min(low, float(x.mean()))


@dataclass(slots=True)
class _Game:
    """Many players side by side: the mean each plays against, log wealth, its highest, squares around it, the goal."""

    tops: Floats
    target: float
    wealth: Floats
    best: Floats
    squares: Floats
    goal: Floats

    @classmethod
    def start(cls, tops: Floats, aim: float) -> _Game:
        target = -math.log(aim)
        squares = np.full(tops.shape, PRIOR_VARIANCE * PRIOR_WEIGHT)
        return cls(tops, target, np.zeros(tops.shape), np.zeros(tops.shape), squares, np.full(tops.shape, target))

    def play(self, values: Floats | float, step: int, n: int) -> Floats:
        """The bets on value number ``step`` (from 0) of ``n``, which is settled at once."""
        stake = self.goal - self.wealth
        stake /= self.squares
        stake *= 2 * (PRIOR_WEIGHT + step) / (n - step)
        np.sqrt(stake, out=stake)
        np.minimum(stake, STAKE / self.tops, out=stake)
        gain = values - self.tops
        self.wealth += np.log1p(stake * gain)
        gain *= gain
        self.squares += gain
        np.maximum(self.best, self.wealth, out=self.best)
        reached = self.wealth >= self.goal
        if reached.any():
            self.goal[reached] = self.target * (np.floor(self.wealth[reached] / self.target) + 1)
        return stake

    def keep(self, players: NDArray[np.bool_]) -> None:
        """Go on with these players only."""
        for name in ("tops", "wealth", "best", "squares", "goal"):
            setattr(self, name, getattr(self, name)[players])


def _log_wealth(x: Floats, m: float, aim: float) -> Floats:
    """The highest log wealth of each row against ``m``, or 0 where ``m`` is the row's mean or more."""
    rows, n = x.shape
    game = _Game.start(np.full(rows, _cell(m) / CELLS), aim)
    wealth, best = np.zeros(rows), np.zeros(rows)
    for step, values in enumerate(np.ascontiguousarray(x.T)):
        stake = game.play(values, step, n)
        wealth += np.log1p(stake * (values - m))
        np.maximum(best, wealth, out=best)
    return np.asarray(np.where(x.mean(axis=1) > m, best, 0.0), dtype=np.float64)


def _cell(m: float) -> int:
    """The number (from 1) of the part of [0, 1] that holds ``m``; a part holds its upper end."""
    return max(1, math.ceil(m * CELLS - PRECISION))


def _resisting(x: Floats, cells: int, target: float, aim: float) -> _Game:
    """The players against the ends of the first ``cells`` parts whose log wealth never reaches ``target``."""
    game = _Game.start(np.arange(1, cells + 1) / CELLS, aim)
    for step, value in enumerate(x.tolist()):
        if len(game.tops) == 0:
            break
        game.play(value, step, len(x))
        if step % COMPRESS == COMPRESS - 1 or step == len(x) - 1:
            staying = game.best < target
            if not staying.all():
                game.keep(staying)
    return game


def _kept_cell(x: Floats, target: float, aim: float) -> int:
    """A part whose end is kept while the end of the part below is rejected, searched outward from a normal guess."""
    guess = float(x.mean()) - math.sqrt(2 * target) * float(x.std()) / math.sqrt(len(x))
    rejected, kept = 0, CELLS  # a mean of 1 is never rejected
    middle = min(max(1, round(guess * CELLS)), CELLS - 1)
    step = 1
    while kept - rejected > 1:
        if _highest(x, _stakes(x, middle / CELLS, aim), middle / CELLS) < target:
            kept, middle = middle, middle - step
        else:
            rejected, middle = middle, middle + step
        step *= 2
        if not rejected < middle < kept:
            middle = (rejected + kept) // 2
    return kept


def _highest(x: Floats, stakes: Floats, mean: float) -> float:
    """The highest log wealth against a mean under given bets."""
    return max(0.0, float(np.cumsum(np.log1p(stakes * (x - mean))).max()))


def _stakes(x: Floats, top: float, aim: float) -> Floats:
    """The bets of ``_Game`` of one player on one sample, shape (n,)."""
    n, target = len(x), -math.log(aim)
    stakes = np.empty(n)
    wealth, squares, goal = 0.0, PRIOR_VARIANCE * PRIOR_WEIGHT, target
    for step, value in enumerate(x.tolist()):
        stake = min(math.sqrt((goal - wealth) / squares * (2 * (PRIOR_WEIGHT + step) / (n - step))), STAKE / top)
        stakes[step] = stake
        gain = value - top
        wealth += math.log1p(stake * gain)
        squares += gain * gain
        if wealth >= goal:
            goal = target * (math.floor(wealth / target) + 1)
    return stakes
