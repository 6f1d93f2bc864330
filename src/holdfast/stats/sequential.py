"""Looking again and again at a changing model without false alarms: paired looks at frozen cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from holdfast.records.arrays import Bools, Floats
from holdfast.stats.bounded import exact_lower, lower_bound, order_cases, p_values, upper_bound
from holdfast.stats.power import LIMIT_ALPHA, read_pilot

WINDOWS = (1, 2, 4, 8)  # looks
SHARE = 0.8  # of the runs with a drop, in which it is caught within the looks that are promised


def spend(look: int, alpha: float) -> float:
    """The level of look number ``look`` (from 1): α/(k(k+1)), which sums to α over all looks there can be."""
    if look < 1:
        raise ValueError(f"looks are numbered from 1, not {look}")
    return alpha / (look * (look + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The mean change over the last ``looks`` looks with its bounds; ``cases`` were met in all of them.

    ``alarm``: the upper bound lies below −margin; ``warning``: it lies below 0.
    """

    looks: int
    cases: int
    change: float
    lower: float
    upper: float
    alarm: bool
    warning: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look says: its ``windows`` are the spans that end with it, the newest look alone first.

    ``level`` is what this look may spend, over all its windows together.
    """

    windows: tuple[Window, ...]
    level: float


@dataclass(slots=True, kw_only=True)
class ChangeMonitor:
    """Looks at checkpoints, one after another, by paired differences to one baseline.

    The differences of all looks share the baseline's sampling error, and looks depend on each other in ways nobody
    knows. So nothing is multiplied over looks: each look spends its own part of ``alpha`` (``spend``), equally over the
    windows that it has, and by the union bound no upper bound of any window at any look ever lies below the true mean
    change of that window, but with probability ``alpha``; the same, by itself, for the lower bounds. The baseline's
    error is inside each paired difference, the cases being what is drawn. A window's change is the mean over its looks:
    an alarm says that over these looks the mean was lower by more than ``margin``.
    """

    low: float
    high: float
    alpha: float
    margin: float
    seen: list[Mapping[str, float]] = field(default_factory=list)

    def look(self, differences_by_case: Mapping[str, float]) -> Look:
        """Add the newest look: case id → (mean of the rollouts now) − (mean of the baseline's).

        Raises ValueError for no case, or values outside [low, high].
        """
        if not differences_by_case:
            raise ValueError("a look without any case says nothing")
        self.seen.append(dict(differences_by_case))
        spans = [span for span in WINDOWS if span <= len(self.seen)]
        level = spend(len(self.seen), self.alpha)
        windows = [self._window(span, level / len(spans)) for span in spans]
        return Look(windows=tuple(window for window in windows if window is not None), level=level)

    def _window(self, span: int, level: float) -> Window | None:
        looks = self.seen[-span:]
        shared = order_cases([case for case in looks[-1] if all(case in one for one in looks)])
        if not shared:
            return None
        values = np.array([[one[case] for one in looks] for case in shared], dtype=np.float64).mean(axis=1)
        low, high = (bound(values, level, low=self.low, high=self.high) for bound in (lower_bound, upper_bound))
        return Window(
            looks=span,
            cases=len(shared),
            change=float(values.mean()),
            lower=low,
            upper=high,
            alarm=high < -self.margin,
            warning=high < 0,
        )


def alarms(differences: Floats, *, low: float, high: float, alpha: float, margin: float) -> Bools:
    """At which looks ``ChangeMonitor`` alarms, in many runs at once: (runs, cases, looks) → (runs, looks).

    For simulations: the same cases at every look, in an order that has nothing to do with the differences.
    """
    runs, _, looks = differences.shape
    found = np.zeros((runs, looks), dtype=np.bool_)
    for index in range(1, looks + 1):
        spans = [span for span in WINDOWS if span <= index]
        level = spend(index, alpha) / len(spans)
        for span in spans:
            values = differences[:, :, index - span : index].mean(axis=2)
            p = p_values(values, -margin, low=low, high=high, side="less")
            found[:, index - 1] |= p < level
    return found


def delay(
    differences: Floats,
    drop: float,
    *,
    margin: float,
    alpha: float,
    low: float,
    high: float,
    before: int = 4,
    horizon: int = 24,
    draws: int = 300,
    rng: np.random.Generator,
) -> int | None:
    """The looks within which a ``drop`` of the mean is caught in at least ``SHARE`` of runs simulated from a pilot.

    They count from the first look with the drop, which comes after ``before`` looks without. None where so much cannot
    be promised within ``horizon`` looks: the lower 95 % Monte-Carlo limit of the share stays below.

    ``differences`` has shape (cases, looks): each case's difference to the baseline at looks (or of rollouts) without
    a change. What a case keeps over its columns, the baseline's error among it, is drawn once a run and shared by all
    looks; the rest is drawn anew at every look. As many cases as in the pilot are met a look, and the drop moves all of
    them alike: few deep drops are caught later. A run that alarms before the drop is not counted as caught. Raises
    ValueError as ``read_pilot``.
    """
    pilot = read_pilot(differences, low=low, high=high)
    changed = read_pilot(differences, low=low, high=high, change=-drop)
    picked = rng.integers(0, len(pilot.values), size=(draws, len(pilot.values)))
    looks_before = [pilot.at(picked, rng) for _ in range(before)]
    looks_after = [changed.at(picked, rng) for _ in range(horizon)]
    runs = np.stack(looks_before + looks_after, axis=2)
    rung = alarms(runs, low=low, high=high, alpha=alpha, margin=margin)
    later = rung[:, before:] & ~rung[:, :before].any(axis=1, keepdims=True)
    waits = np.where(later.any(axis=1), np.argmax(later, axis=1) + 1, horizon + 1)
    caught = [int((waits <= look).sum()) for look in range(1, horizon + 1)]
    return next((look for look, count in enumerate(caught, 1) if exact_lower(count, draws, LIMIT_ALPHA) >= SHARE), None)
