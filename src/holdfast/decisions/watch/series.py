"""A watch's looks as numbers: replayed in their order, so that the same looks always give the same answer.

Paired looks (``ChangeMonitor``) compare checkpoints with the baseline case by case. Looks at traces compare two means
and spend the level in the same way: look k may spend α/(k(k+1)), equally over windows of the last 1, 2, 4 and 8 looks,
half of it on the baseline's own bound, so that by the union bound all looks there can ever be raise a false alarm with
probability α at most. A look is read when all its traces are judged, so bounds for a fixed number serve, which are
tighter than those of a stream that may be stopped anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from holdfast.decisions.watch import MIN_COVERAGE
from holdfast.decisions.watch.state import Seen, State, Values
from holdfast.records import Labelled
from holdfast.records.arrays import Floats
from holdfast.records.words import count_noun
from holdfast.stats.bounded import lower_bound, order_cases, upper_bound
from holdfast.stats.power import gather
from holdfast.stats.sequential import SHARE, WINDOWS, ChangeMonitor, Window, delay, spend
from holdfast.store.tables import MAX_SCORE, MIN_SCORE

REACH = float(MAX_SCORE - MIN_SCORE)
PILOTS, UNLUCKY = 20, 0.9  # resamples of the cases, and the share of them that must keep a promise
PILOT_DRAWS, HORIZONS = 60, (8, 24)  # simulated runs of each, and the looks ahead
Kind = Literal["paired", "traces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The change of the judge's scores of the frozen set; ``drifted`` where it is beyond its bounds in some window."""

    n: int
    change: float
    lower: float
    upper: float
    drifted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One look: ``n`` cases (paired) or traces, their mean score and its change against the baseline.

    ``lower`` and ``upper`` bound the change of this look alone, ``spans`` those of longer windows too. ``alarm``: some
    window's upper bound lies below −margin; ``warning``: below 0. ``able``: so many cases could raise an alarm at all.
    ``coverage`` is the share of what was asked that has a score, ``covered`` says whether it is as large as declared.
    ``drift`` is None where the judge was not tried; ``attributable`` is False once the judge has drifted. What could
    not be computed is None, ``reason`` says why.
    """

    label: str
    n: int
    missing: int
    mean: float | None
    change: float | None = None
    lower: float | None = None
    upper: float | None = None
    level: float | None = None
    spans: tuple[Window, ...] = ()
    alarm: bool = False
    warning: bool = False
    able: bool = False
    coverage: float = 0.0
    covered: bool = False
    drift: Drift | None = None
    attributable: bool = True
    reason: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """All that a watch says.

    ``alarm`` and ``drifted`` hold where any look says so, ``able`` where any could have, ``covered`` where all looks
    have scores enough of what they asked. ``best_of`` is how many checkpoints the baseline was chosen from by these
    scores; every bound was taken at its share of ``alpha``. ``basis`` is what stands first: what the score was declared
    to mean, and how whole the baseline's logs are. ``labelled`` and ``reads_state`` say how the judge stands to the
    checkpoints that were looked at, ``baseline_missing`` how many rollouts of the baseline have no score.
    """

    kind: Kind
    baseline: str
    judge: str
    objective: str
    alpha: float
    margin: float
    baseline_mean: float | None
    baseline_n: int
    rows: tuple[Row, ...]
    min_coverage: float = MIN_COVERAGE
    basis: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    promise: str = ""
    best_of: int = 1
    labelled: Labelled = Labelled.UNKNOWN
    reads_state: bool = False
    baseline_missing: int = 0

    @property
    def alarm(self) -> bool:
        """Whether any look raised an alarm."""
        return any(row.alarm for row in self.rows)

    @property
    def drifted(self) -> bool:
        """Whether the judge was found to have drifted at any look."""
        return any(row.drift is not None and row.drift.drifted for row in self.rows)

    @property
    def able(self) -> bool:
        """Whether any look had data enough to raise an alarm, however large the drop."""
        return any(row.able for row in self.rows)

    @property
    def covered(self) -> bool:
        """Whether every look has scores for as much of what it asked as is declared."""
        return all(row.covered for row in self.rows)


def case_means(values: Values) -> dict[str, float]:
    """The mean of each case's rollouts."""
    return {case: float(np.mean(found)) for case, found in values.items() if found}


def replay(
    state: State,
    kind: Kind,
    alpha: float,
    margin: float,
    min_coverage: float = MIN_COVERAGE,
    *,
    baseline: float = 1.0,
) -> tuple[Row, ...]:
    """Every look of a state in its order; ``baseline`` is the share of the baseline's rollouts that have a score."""
    read = _paired if kind == "paired" else _streams
    rows, drifted = [], False
    for seen, now, drift in zip(state.looks, read(state, alpha, margin), _drifts(state, alpha), strict=True):
        drifted |= drift is not None and drift.drifted
        newest = now.windows[0] if now.windows else None
        change, lower, upper = (newest.change, newest.lower, newest.upper) if newest else (None, None, None)
        # A drop hides as well in what is missing of the baseline: its best episodes may be.
        share = min(baseline, cover(state, seen, kind))
        row = Row(
            label=seen.label,
            n=newest.cases if newest else 0,
            missing=seen.missing,
            mean=now.mean,
            change=change,
            lower=lower,
            upper=upper,
            level=now.level,
            spans=now.windows,
            alarm=any(window.alarm for window in now.windows),
            warning=any(window.warning for window in now.windows),
            able=now.able,
            coverage=share,
            covered=share >= min_coverage,
            drift=drift,
            attributable=not drifted,
            reason=now.reason,
            notes=seen.notes,
        )
        rows.append(row)
    return tuple(rows)


def cover(state: State, seen: Seen, kind: Kind) -> float:
    """The share of what was asked that has a score, from 0 to 1.

    The least of two: of the look's rollouts (or traces) those with a score; and of the baseline's cases those with a
    score on both sides, or of its traces those with a score.
    """
    scored = sum(len(found) for found in seen.values.values())
    both = len(seen.values.keys() & state.baseline.keys()) if kind == "paired" else len(state.baseline)
    asked = len(state.baseline) if state.asked is None else state.asked
    shares = ((scored, scored + seen.missing), (both, asked))
    return min((part / whole if whole else 0.0) for part, whole in shares)


class _Read(NamedTuple):
    """What a look's scores say: their mean and the windows that end with it, the newest look alone first."""

    mean: float | None
    windows: tuple[Window, ...] = ()
    level: float | None = None
    able: bool = False
    reason: str = ""


def _paired(state: State, alpha: float, margin: float) -> Iterator[_Read]:
    monitor = ChangeMonitor(low=-REACH, high=REACH, alpha=alpha, margin=margin)
    before = case_means(state.baseline)
    for seen in state.looks:
        now = case_means(seen.values)
        mean = float(np.mean(list(now.values()))) if now else None
        differences = {case: value - before[case] for case, value in now.items() if case in before}
        if not differences:
            yield _Read(mean, reason="no case has a score here and in the baseline")
            continue
        look = monitor.look(differences)
        # Whether so many cases could alarm if all of them had lost everything.
        lost, level = np.full(look.windows[0].cases, -REACH), look.level / len(look.windows)
        able = upper_bound(lost, level, low=-REACH, high=REACH) < -margin
        yield _Read(mean, look.windows, look.level, bool(able))


def _streams(state: State, alpha: float, margin: float) -> Iterator[_Read]:
    reference = flatten(state.baseline)
    arrived: list[Floats] = []
    for seen in state.looks:
        new = flatten(seen.values)
        if not len(new) or not len(reference):
            yield _Read(None, reason="no trace has a score" if len(reference) else "the baseline has no score")
            continue
        arrived.append(new)
        spans = [looks for looks in WINDOWS if looks <= len(arrived)]
        level = spend(len(arrived), alpha)
        windows = tuple(_compare(reference, arrived[-looks:], level / len(spans), margin) for looks in spans)
        # Whether so many traces could alarm if all of them had the lowest score.
        lowest = np.full(windows[-1].cases, float(MIN_SCORE))
        able = _compare(reference, [lowest], level / len(spans), margin).alarm
        yield _Read(float(new.mean()), windows, level, able)


def flatten(values: Values) -> Floats:
    """All scores in one row, by the digest of their keys: the same row however the traces were read."""
    return np.array([one for case in order_cases(list(values)) for one in values[case]], dtype=np.float64)


def _compare(reference: Floats, looks: Sequence[Floats], level: float, margin: float) -> Window:
    """Two means: each bound takes the far bounds of both, so that the baseline's own error is in it."""
    values = np.concatenate(list(looks))
    (low, high), (now_low, now_high) = (
        [bound(side, level / 2, low=float(MIN_SCORE), high=float(MAX_SCORE)) for bound in (lower_bound, upper_bound)]
        for side in (reference, values)
    )
    return Window(
        looks=len(looks),
        cases=len(values),
        change=float(values.mean() - reference.mean()),
        lower=now_low - high,
        upper=now_high - low,
        alarm=now_high - low < -margin,
        warning=now_high - low < 0,
    )


def _drifts(state: State, alpha: float) -> Iterator[Drift | None]:
    """At each look at which the judge was tried, the change of the frozen set's scores, up or down."""
    # Half the level for each side: a drift may go up or down.
    monitor = ChangeMonitor(low=-REACH, high=REACH, alpha=alpha / 2, margin=0.0)
    for seen in state.looks:
        now = {key: value for key, value in (seen.frozen or {}).items() if value is not None}
        differences = {key: value - state.frozen[key] for key, value in now.items() if key in state.frozen}
        if not differences:
            yield None
            continue
        windows = monitor.look(differences).windows
        drifted, newest = any(one.upper < 0 or one.lower > 0 for one in windows), windows[0]
        yield Drift(n=newest.cases, change=newest.change, lower=newest.lower, upper=newest.upper, drifted=drifted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """In how many further ``looks`` a drop is caught, in at least ``SHARE`` of simulated runs; None for none.

    ``kept`` counts the resampled sets of cases, of ``PILOTS``, that keep it; ``horizon`` is how far ahead was looked.
    """

    looks: int | None
    kept: int
    horizon: int


def promise_looks(state: State, drop: float, *, alpha: float, margin: float, rng: np.random.Generator) -> Promise:
    """How many paired looks it takes to catch a drop of ``drop`` points, simulated from the looks so far.

    The looks so far are luck too: taken as they are, a drop that is only just promised is promised where the scores
    happened to vary little, and then not kept. So cases are resampled ``PILOTS`` times, and the promise is the number
    of looks within which nearly all of these pilots (``UNLUCKY`` of them) have the power. The drop comes after as many
    looks as were taken, for later looks may spend less of the level. Raises ValueError as ``sequential.delay``.
    """
    before = case_means(state.baseline)
    looks = [case_means(seen.values) for seen in state.looks]
    pilot = np.array([[look.get(case, np.nan) - before[case] for look in looks] for case in sorted(before)])
    gather(pilot, low=-REACH, high=REACH)  # refuses, with its reason, what no pilot can be drawn from
    drawn = [pilot[rng.integers(0, len(pilot), len(pilot))] for _ in range(PILOTS)]
    needed = int(np.ceil(UNLUCKY * PILOTS))
    for horizon in HORIZONS:  # the short one first: most drops are caught soon or never
        waits = []
        for cases in drawn:
            with suppress(ValueError):  # all its cases are alike: nothing is promised from it
                waits.append(
                    delay(
                        cases,
                        drop,
                        margin=margin,
                        alpha=alpha,
                        low=-REACH,
                        high=REACH,
                        before=len(looks),
                        horizon=horizon,
                        draws=PILOT_DRAWS,
                        rng=rng,
                    )
                )
        caught = sorted(wait for wait in waits if wait is not None)
        if len(caught) >= needed:
            promised = caught[needed - 1]
            return Promise(looks=promised, kept=sum(wait <= promised for wait in caught), horizon=horizon)
    return Promise(looks=None, kept=len(caught), horizon=horizon)


def promise_delay(state: State, drop: float, *, alpha: float, margin: float, rng: np.random.Generator) -> str:
    """``promise_looks`` in words; a sentence that says why where it cannot be told."""
    try:
        promise = promise_looks(state, drop, alpha=alpha, margin=margin, rng=rng)
    except ValueError as error:
        return f"How soon a drop is caught cannot be told: {error}."
    when = f"A drop of {drop:g} points that comes after the {count_noun(len(state.looks), 'looks')} so far"
    held = f"{promise.kept} of {PILOTS} resamples of the cases"
    if promise.looks is None:
        return (
            f"{when} is not promised to be caught within {promise.horizon} further looks: only {held} would catch it in"
            f" {SHARE:.0%} of simulated runs."
        )
    return (
        f"{when} would be caught within {promise.looks} further look{'s' if promise.looks > 1 else ''} in at least"
        f" {SHARE:.0%} of simulated runs, by {held}."
    )
