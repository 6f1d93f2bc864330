"""How many cases a non-inferiority test needs: simulated from a pilot, with zero true change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from holdfast.records.arrays import Floats, Ints
from holdfast.stats.bounded import BoundMethod, exact_lower, p_values

MOST_CASES = 10_000
GUESS_VALUES = 4000  # that the spread is taken from, for where the search starts by normal theory
HOPELESS = 1.5  # times MOST_CASES: a normal guess above is not looked at further, for no bound needs much less
CHUNK_VALUES = 2_000_000  # bounds memory: values simulated at once
CHECK_DRAWS = 4  # times the draws of the search: fresh ones, for the power that is told
STEP = 1.02  # the search ends where two sizes differ by less, and goes on by so much where the check fails
ONE_ROLLOUT = "the pilot has cases with one rollout: more rollouts cannot be planned from it"
TYPICAL_SHARES = (0.12, 0.20, 0.25, 0.43)  # of the scores 0 to 3, as skewed as those of a published safe agent
LIMIT_ALPHA = 0.05  # of the lower Monte-Carlo limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRow:
    """How often a test passes at a number of cases and rollouts when nothing has changed.

    ``power`` is the share of simulated comparisons that pass and ``lower`` its 95 % Monte-Carlo limit from below.
    ``cases`` is None, and so are the two, where more than ``MOST_CASES`` would be needed; ``cases_t`` is what Student's
    bound would need, which passes falsely when drops are rare and severe. ``note`` says what a reader must know.
    """

    rollouts: int
    cases: int | None
    power: float | None
    lower: float | None
    method: BoundMethod
    cases_t: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """Rollouts of cases to draw new ones from: ``values`` (cases, rollouts), the ``counts`` present ones first.

    The mean of a case over its rollouts varies by the case and by the rollouts that happened to be drawn. A new rollout
    of a case is therefore drawn from its own rollouts, or with probability ``mixing`` from those of any case: the means
    of the cases then vary by as much, and rollouts within a case by as much, as the analysis of variance finds, and no
    value is drawn that was not seen. ``shift`` is added, and the sum cut to [low, high].
    """

    values: Floats
    counts: Ints
    mixing: float
    low: float
    high: float
    shift: float = 0.0

    @property
    def repeated(self) -> bool:
        """Whether cases have several rollouts: what varies within a case is unknown otherwise."""
        return bool(self.values.shape[1] > 1)

    def at(self, picked: Ints, rng: np.random.Generator) -> Floats:
        """One new rollout of each case number in ``picked``: an array of its shape, in [low, high]."""
        rows = picked
        if self.mixing > 0:
            others = rng.integers(0, len(self.values), size=picked.shape)
            rows = np.where(rng.random(picked.shape) < self.mixing, others, picked)
        column = (rng.random(picked.shape) * self.counts[rows]).astype(np.int64)
        return np.clip(self.values[rows, column] + self.shift, self.low, self.high)

    def means(self, picked: Ints, rollouts: int, rng: np.random.Generator) -> Floats:
        """The mean of ``rollouts`` new rollouts of each case number in ``picked``."""
        return np.asarray(sum(self.at(picked, rng) for _ in range(rollouts)) / rollouts)

    def draw(self, rng: np.random.Generator, draws: int, cases: int, rollouts: int) -> Floats:
        """Means over ``rollouts`` of ``cases`` cases drawn with replacement: shape (draws, cases), in [low, high]."""
        return self.means(rng.integers(0, len(self.values), size=(draws, cases)), rollouts, rng)


def gather(values: Floats, *, low: float, high: float) -> Pilot:
    """A pilot as it is, not moved: see ``read_pilot``."""
    scores = np.asarray(values, dtype=np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    scores = scores[np.isfinite(scores).any(axis=1)]
    if len(scores) < 2:
        raise ValueError(f"a pilot needs at least 2 scored cases, found {len(scores)}")
    if np.nanmin(scores) < low or np.nanmax(scores) > high:
        raise ValueError(f"a value of the pilot lies outside {low:g} to {high:g}")
    if np.nanmax(scores) - np.nanmin(scores) < 1e-9:
        raise ValueError("all values of the pilot are equal: nothing can be planned from them; score more cases")
    counts = np.isfinite(scores).sum(axis=1)
    if (counts > 1).sum() < 2:
        first = np.isfinite(scores).argmax(axis=1)
        single = np.take_along_axis(scores, first[:, None], axis=1)
        return Pilot(values=single, counts=np.ones(len(single), dtype=np.int64), mixing=0.0, low=low, high=high)
    scores, counts = scores[counts > 1], counts[counts > 1]
    order = np.argsort(~np.isfinite(scores), axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    # Means of (1 − mixing) own rollouts vary between cases by (1 − mixing)² of what those of the pilot do: as much as
    # is seen of them, less what the rollouts of a case add to it.
    means = np.nanmean(scores, axis=1)
    within = float(np.nansum((scores - means[:, None]) ** 2) / (counts - 1).sum())
    seen = float(means.var(ddof=1))
    between = max(0.0, seen - within * float(np.mean(1 / counts)))
    mixing = 1.0 - float(np.sqrt(between / seen)) if seen > 0 else 1.0
    return Pilot(values=scores, counts=counts, mixing=mixing, low=low, high=high)


def read_pilot(pilot: Floats, *, low: float, high: float, change: float = 0.0) -> Pilot:
    """A pilot moved to a true change of ``change``, from which comparisons are drawn.

    ``pilot`` has shape (cases, rollouts), or (cases,) for one rollout each: differences child − parent in [low, high],
    NaN where a case has fewer rollouts. Cases with one rollout are left out where others have more: only repeated
    rollouts tell what varies within a case. Raises ValueError, with what to do, for fewer than two cases and no spread.
    """
    found = gather(pilot, low=low, high=high)
    there = np.arange(found.values.shape[1]) < found.counts[:, None]
    shift = 0.0
    for _ in range(100):
        moved = np.clip(np.where(there, found.values, 0.0) + shift, low, high)
        mean = float((np.where(there, moved, 0.0).sum(axis=1) / found.counts).mean())
        if abs(mean - change) < 1e-12:
            break
        shift += change - mean
    return replace(found, shift=shift)


def plan_cases(
    pilot: Floats,
    *,
    margin: float,
    alpha: float,
    power: float = 0.8,
    low: float,
    high: float,
    method: BoundMethod = "gaffke",
    rollouts: Sequence[int] = (1, 2, 4, 8),
    draws: int = 400,
    rng: np.random.Generator,
) -> list[PowerRow]:
    """For each number of rollouts the fewest cases that pass with ``power`` when nothing has changed.

    A comparison passes where the lower 1 − ``alpha`` bound of the mean difference lies above −``margin``. Cases and
    their rollouts are drawn from the ``pilot`` (see ``read_pilot``), moved to a mean of zero: the spread between cases
    stays, that of rollouts falls with their number. With one rollout a case the two cannot be told apart, so only one
    rollout is planned. The power told is that of fresh draws, ``CHECK_DRAWS`` times as many as in the search.
    """
    parts = read_pilot(pilot, low=low, high=high)
    note = "" if parts.repeated else ONE_ROLLOUT
    found = []
    for count in tuple(rollouts) if parts.repeated else (1,):
        trial = _Trial(parts=parts, rollouts=count, margin=margin, alpha=alpha, method=method)
        cases, passed, simulated = _fewest(trial, power, draws, rng)
        by_t = cases if method == "t" else _fewest(replace(trial, method="t"), power, draws, rng)[0]
        row = PowerRow(rollouts=count, cases=cases, power=None, lower=None, method=method, cases_t=by_t, note=note)
        if cases is not None:
            row = replace(row, power=passed / simulated, lower=exact_lower(passed, simulated, LIMIT_ALPHA))
        found.append(row)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A comparison to simulate: what differences look like, and the test that they are put to."""

    parts: Pilot
    rollouts: int
    margin: float
    alpha: float
    method: BoundMethod

    def count_passes(self, cases: int, draws: int, rng: np.random.Generator) -> int:
        """How many of ``draws`` simulated comparisons pass."""
        passed, size = 0, max(1, CHUNK_VALUES // cases)
        for done in range(0, draws, size):
            samples = self.parts.draw(rng, min(size, draws - done), cases, self.rollouts)
            found = p_values(samples, -self.margin, low=self.parts.low, high=self.parts.high, method=self.method)
            passed += int((found <= self.alpha).sum())
        return passed


def _fewest(trial: _Trial, power: float, draws: int, rng: np.random.Generator) -> tuple[int | None, int, int]:
    """The fewest cases with ``power``, or None beyond ``MOST_CASES``; passed and simulated in the check of it.

    The search draws from one seed at every size; the check draws afresh, and goes on to larger sizes where the share
    falls short.
    """
    seed = int(rng.integers(2**63))

    def enough(cases: int) -> bool:
        return trial.count_passes(cases, draws, np.random.default_rng(seed)) >= power * draws

    spread = float(trial.parts.draw(rng, 1, GUESS_VALUES, trial.rollouts).var())
    guess = spread * float(special.ndtri(1 - trial.alpha) + special.ndtri(power)) ** 2 / trial.margin**2
    if guess > HOPELESS * MOST_CASES:
        return None, 0, 0
    above = min(max(8, round(guess)), MOST_CASES)
    below = above // 2
    while below > 1 and enough(below):
        below, above = below // 2, below
    while not enough(above):
        if above >= MOST_CASES:
            return None, 0, 0
        below, above = above, min(above + above // 2, MOST_CASES)
    while above > max(below * STEP, below + 1):
        middle = (below + above) // 2
        below, above = (below, middle) if enough(middle) else (middle, above)
    checks = CHECK_DRAWS * draws
    while (passed := trial.count_passes(above, checks, rng)) < power * checks:
        if above >= MOST_CASES:
            return None, 0, 0
        above = min(MOST_CASES, max(above + 1, int(above * STEP)))
    return above, passed, checks


def draw_typical(rng: np.random.Generator, draws: int, cases: int, rollouts: int = 1) -> Floats:
    """Changes of scores between two equal agents, means over rollouts: shape (draws, cases).

    Scores are independent, and as skewed as those of a published safe agent.
    """
    shape = (rollouts, draws, cases)
    scores = [rng.choice(len(TYPICAL_SHARES), size=shape, p=TYPICAL_SHARES).mean(axis=0) for _ in range(2)]
    return np.asarray(scores[0] - scores[1], dtype=np.float64)
