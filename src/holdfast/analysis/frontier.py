"""The estimator ``pooled`` in the plane: lines with errors in both axes, R², the test of "best of both"."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import chdtri

from holdfast.analysis.design import (
    BASE,
    Contrast,
    Design,
    Key,
    Level,
    by_base,
    comparable,
    contrast,
    over,
    splits_differ,
)
from holdfast.analysis.panel import HIGHEST_SCORE, LOWEST_SCORE, Config
from holdfast.analysis.pooled import CLAIMS, POOLED, Claim, claim_fields, missing_interval
from holdfast.analysis.published import ABSOLUTE_POINTS, BASE_DELTA_POINTS, DELTA_POINTS, MEAN_DELTA_POINTS
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Estimate
from holdfast.records.arrays import Bools, Floats
from holdfast.records.words import count_noun, true_minus
from holdfast.stats.contrasts import MIN_SEEDS, Spread, limits, spread
from holdfast.stats.lines import (
    BENT,
    bends,
    correlations,
    curve_distances,
    errors_in_both,
    noiseless_correlation,
    signed_distances,
)
from holdfast.stats.resample import NOMINAL, percentile_interval

Statistic = Callable[[Floats, Floats], Floats]  # (…, points) twice → (…)

MEAN_POINTS = "configuration averaged over bases, absolute"
BASE_POINTS = "configuration, absolute"
MIN_LINE_POINTS = 3
WIDEST = HIGHEST_SCORE - LOWEST_SCORE
NO_WIDTH = 1e-4  # a narrower interval is rounding: resampled means have single precision
STEP = 1e-5  # of the numeric gradient, in score points
LIKELY = 0.75  # that the variance between seeds is no larger than what the upper end of R² allows for
R2_CAVEAT = "noise in the points lowers R²: the interval is for the points without noise"
MIN_CURVE_POINTS = 4
THESE_WEIGHTS = "of these weights only: trained again, they may stand on the other side of the line"
NO_CURVE = "too few other points to tell a bend of the line from a distance off it"
EXPLORATORY = "exploratory: one of many looks, not adjusted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Points of one frontier, with whom they belong to: their coordinates, and those of every resample of cases.

    ``x`` and ``y`` have shape (points,), ``x_draws`` and ``y_draws`` (draws, points), in score points. ``weights``
    (2 × points, objectives × rows) and ``spread`` are of the coordinates, first all x then all y; ``unit`` is what the
    spread's seeds are. ``covariance`` is (points, 2, 2) in squared score points; ``left_out`` says what is not
    compared, and why.
    """

    bases: tuple[str | None, ...]
    configs: tuple[Config, ...]
    x: Floats
    y: Floats
    x_draws: Floats
    y_draws: Floats
    weights: Floats
    spread: Spread
    unit: str
    covariance: Floats
    left_out: tuple[str, ...]


def draw_cloud(
    design: Design,
    groups: Sequence[tuple[str | None, Sequence[Key]]],
    configs: Sequence[Config],
    means: Floats,
    *,
    relative: bool,
) -> Cloud:
    """The points of every group of keys × configuration that has scores on both objectives.

    All points of a group are means over the same replicates. ``means`` are resampled row means (draws, objectives ×
    rows).
    """
    needs = (design.objective(HELPFULNESS), design.objective(SAFETY))
    points: list[tuple[str | None, Config, Contrast, Contrast]] = []
    left_out: dict[str, None] = {}
    for base, keys in groups:
        arms = comparable(design, keys, configs, HELPFULNESS, SAFETY)
        idle = [(config, 0.0) for config in (*arms, BASE) if relative or config != BASE]
        for config in arms:
            if relative and config == BASE:
                continue
            terms = ((config, 1.0), *([(BASE, -1.0)] if relative else []), *idle)
            x, y = (contrast(design, objective, over(keys, *terms), needs=needs) for objective in needs)
            left_out |= dict.fromkeys(x.left_out)
            if config == BASE:  # it has no seeds of its own: the same point in each
                x, y = (replace(one, by_unit=(one.weights,) * len(one.units), cells={}) for one in (x, y))
            if x.runs:
                points.append((base, config, x, y))
    both = [x for _, _, x, _ in points] + [y for *_, y in points]
    shared = [unit for unit in (both[0].units if both else ()) if all(unit in one.units for one in both)]
    weights = np.array([one.weights for one in both]).reshape(len(both), design.flat.shape[0])
    by_unit = [np.stack([one.by_unit[one.units.index(unit)] for one in both]) for unit in shared]
    coordinates = spread(design.sample, weights, by_unit, _cells(both, shared))
    used = np.any(weights != 0, axis=0)
    x_draws, y_draws = np.split(means[:, used] @ weights[:, used].T, 2, axis=1)
    values_x, values_y = np.split(coordinates.values, 2)
    return Cloud(
        bases=tuple(base for base, *_ in points),
        configs=tuple(config for _, config, *_ in points),
        x=values_x,
        y=values_y,
        x_draws=x_draws,
        y_draws=y_draws,
        weights=weights,
        spread=coordinates,
        unit=both[0].unit if both else "seeds",
        covariance=np.array([_covariance(design, x, y) for _, _, x, y in points]).reshape(len(points), 2, 2),
        left_out=tuple(left_out),
    )


def _cells(both: Sequence[Contrast], shared: Sequence[Hashable]) -> tuple[tuple[Floats, ...], ...]:
    """The coordinates' parts within each shared unit; none where seeds are taken at once."""
    names = dict.fromkeys(name for one in both for name in one.cells)
    if len(names) < 2 or splits_differ(shared):
        return ()

    def part(one: Contrast, name: Hashable, unit: Hashable) -> Floats:
        return one.cells[name][one.units.index(unit)] if name in one.cells else np.zeros_like(one.weights)

    return tuple(tuple(np.stack([part(one, name, unit) for one in both]) for unit in shared) for name in names)


def _covariance(design: Design, x: Contrast, y: Contrast) -> Floats:
    """Covariance of (x, y) from cases, and from seeds where there are enough."""
    both = [np.stack(pair) for pair in zip(x.by_unit, y.by_unit, strict=True)]
    found = spread(design.sample, np.stack([x.weights, y.weights]), both)
    total = np.zeros((2, 2)) if found.case is None else found.case.copy()
    if found.seed is not None and found.seeds >= MIN_SEEDS:
        total += found.seed
    return total


def whitening(drawn: Cloud) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    """The mean covariance of the points for the line, or the unit matrix (with a caveat) where it is singular."""
    mean = drawn.covariance.sum(axis=0) / max(len(drawn.covariance), 1)
    if np.linalg.det(mean) > 1e-12 * max(float(np.trace(mean)), 1e-12) ** 2:
        return (float(mean[0, 0]), float(mean[0, 1]), float(mean[1, 1])), ()
    return (1.0, 0.0, 1.0), ("the points' covariance is singular: equal errors on both axes assumed",)


def distances_of(
    drawn: Cloud, statistic: Statistic, claim: Claim, level: float = NOMINAL
) -> tuple[float, float] | None:
    """How far the limits of a smooth statistic lie below and above it: those of the contrast that its gradient makes.

    A case can add to it as much as one configuration does that falls or rises on one objective by the whole range of
    scores in all its runs.
    """
    # Derivatives by every x, then every y.
    shift = STEP * np.eye(len(drawn.x))
    x, y = np.broadcast_to(drawn.x, shift.shape), np.broadcast_to(drawn.y, shift.shape)
    by_x = statistic(x + shift, y) - statistic(x - shift, y)
    by_y = statistic(x, y + shift) - statistic(x, y - shift)
    slope = np.concatenate([by_x, by_y]) / (2 * STEP)
    if not np.isfinite(slope).all():
        return None
    owners = np.array([list(dict.fromkeys(drawn.configs)).index(one) for one in drawn.configs])
    moves = [abs(part[owners == owner].sum()) for part in np.split(slope, 2) for owner in np.unique(owners)]
    reach = np.array([WIDEST * max(moves)])
    both = limits(drawn.spread, slope[None], seeds=claim == "recipe", level=level, reach=reach)
    if both is None:
        return None
    middle = float(slope @ drawn.spread.values)
    return middle - float(both[0, 0]), float(both[0, 1]) - middle


def interval_of(drawn: Cloud, statistic: Statistic, value: float, claim: Claim) -> tuple[float, float] | None:
    """The interval of a smooth statistic from its gradient."""
    away = distances_of(drawn, statistic, claim)
    return None if away is None else (value - away[0], value + away[1])


def _line_interval(drawn: Cloud, statistic: Statistic, value: float, claim: Claim) -> tuple[float, float] | None:
    """That of a line's slope or height: percentiles where cases alone are random, as it is a ratio.

    Resamples of cases that are all alike have no width, and of 3 seeds too little: there the gradient's stands.
    """
    if claim == "checkpoint" and drawn.spread.case is not None:
        found = percentile_interval(statistic(drawn.x_draws, drawn.y_draws))
        if found is not None and found[1] - found[0] > NO_WIDTH:
            return found
    return interval_of(drawn, statistic, value, claim)


def _r2_interval(drawn: Cloud, claim: Claim) -> tuple[float, float] | None:
    """An interval for the R² of the points without sampling noise, through Fisher's z of r.

    Noise lowers the observed R², so the lower end starts from the observed r and the upper end from r with the
    scatter that noise adds taken off.
    """

    def fisher(x: Floats, y: Floats) -> Floats:
        return np.arctanh(np.clip(correlations(x, y), -1 + 1e-12, 1 - 1e-12))  # an r of 1 has no finite z

    away = distances_of(drawn, fisher, claim)
    if away is None:
        return None
    half, found, noise = max(away), drawn.spread, drawn.spread.case
    assert noise is not None  # a margin needs it
    if claim == "recipe" and found.seed is not None:
        # Few seeds tell their own variance badly: the upper end takes off as much as it may well be.
        noise = noise + found.seed * found.degrees / chdtri(found.degrees, LIKELY)
    clean = noiseless_correlation(drawn.x, drawn.y, noise)
    z = float(fisher(drawn.x, drawn.y))
    low = 0.0 if half >= abs(z) else np.tanh(abs(z) - half) ** 2
    high = 1.0 if abs(clean) >= 1 else np.tanh(np.arctanh(max(abs(clean), abs(np.tanh(z)))) + half) ** 2
    return float(low), float(high)


def describe_cloud(drawn: Cloud, fields: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """The fields of an Estimate that say what a cloud's rows are about."""
    bases = len({base for base in drawn.bases if base is not None})
    counts = {"points": len(drawn.x), "cases": drawn.spread.cases, drawn.unit: drawn.spread.seeds}
    return {**fields, "unit": unit, "estimator": POOLED, "n": counts | ({"bases": bases} if bases else {})}


def line_rows(drawn: Cloud, fields: Mapping[str, Any], unit: str) -> Iterator[Estimate]:
    """Slope, intercept, R², its leave-one-base-out range, and the bend of one cloud, for both claims."""
    about = describe_cloud(drawn, fields, unit)
    covariance, caveats = whitening(drawn)
    statistics: dict[str, Statistic] = {
        "slope": lambda x, y: errors_in_both(x, y, covariance).slope,
        "intercept": lambda x, y: errors_in_both(x, y, covariance).intercept,
        "r2": lambda x, y: np.asarray(correlations(x, y) ** 2, dtype=np.float64),
        "bend": lambda x, y: bends(errors_in_both(x, y, covariance), x, y),
    }
    few = len(drawn.x) < MIN_LINE_POINTS
    for kind, statistic in statistics.items():
        value = np.nan if few else float(statistic(drawn.x, drawn.y))
        if not np.isfinite(value):
            reason = f"{count_noun(len(drawn.x), 'points')}, or no line through them"
            yield Estimate(kind=kind, value=None, caveats=(reason, *drawn.left_out), **about)
            continue
        for claim in claims_of(drawn):
            interval = _r2_interval(drawn, claim) if kind == "r2" else _line_interval(drawn, statistic, value, claim)
            extra = (R2_CAVEAT,) if kind == "r2" else caveats
            yield claim_row(drawn, Estimate(kind=kind, value=value, interval=interval, **about), claim, extra)
    yield from _leave_one_out(drawn, about)


def claims_of(drawn: Cloud) -> tuple[Claim, ...]:
    """The claims that can be made of a cloud: one on the recipe only where it has seeds or bases."""
    return CLAIMS if drawn.spread.seeds else CLAIMS[:1]


def claim_row(drawn: Cloud, estimate: Estimate, claim: Claim, caveats: tuple[str, ...]) -> Estimate:
    """The estimate with its claim, what was resampled, and why an interval is missing."""
    caveats += missing_interval(drawn.spread, claim, drawn.unit)
    return replace(estimate, **claim_fields(claim, drawn.unit, caveats, drawn.left_out))


def _leave_one_out(drawn: Cloud, about: dict[str, Any]) -> Iterator[Estimate]:
    """The smallest and largest R² when one base is left out."""
    owner = np.array([str(base) for base in drawn.bases])
    bases = {str(base) for base in drawn.bases if base is not None}
    kept = [owner != base for base in bases if len(bases) > 1]
    found = [float(correlations(drawn.x[mask], drawn.y[mask]) ** 2) for mask in kept if mask.sum() >= MIN_LINE_POINTS]
    if finite := [value for value in found if np.isfinite(value)]:
        about = about | {"caveats": drawn.left_out}
        yield Estimate(kind="r2_leave_one_base_out_min", value=min(finite), **about)
        yield Estimate(kind="r2_leave_one_base_out_max", value=max(finite), **about)


def distance_of(tested: Bools, covariance: tuple[float, float, float], *, curved: bool = False) -> Statistic:
    """The mean signed distance of the ``tested`` points (points,) from the line, or parabola, through all others."""

    def distance(x: Floats, y: Floats) -> Floats:
        line = errors_in_both(x[..., ~tested], y[..., ~tested], covariance)
        if curved:
            return curve_distances(line, x, y, tested)
        return signed_distances(line, x[..., tested], y[..., tested])

    return distance


def distance_caveats(
    drawn: Cloud, tested: Bools, covariance: tuple[float, float, float], claim: Claim
) -> tuple[str, ...]:
    """What a distance of the ``tested`` points from the line through all others does not say.

    Where all recipes lie on one curve, those in its middle are off the line of the others, so that the distance is
    held against a parabola through the others as well.
    """
    caveats = (THESE_WEIGHTS,) if claim == "checkpoint" else ()
    distance = distance_of(tested, covariance, curved=True)
    value = float(distance(drawn.x, drawn.y)) if (~tested).sum() >= MIN_CURVE_POINTS else np.nan
    interval = interval_of(drawn, distance, value, claim) if np.isfinite(value) else None
    if interval is None:
        return (NO_CURVE, *caveats)
    low, high = interval
    if low > 0 or high < 0:
        return caveats
    apart = true_minus(f"{value:+.2f} [{low:.2f}, {high:.2f}]")
    return (f"{BENT}: {apart} from a curve through the other points", *caveats)


def distance_rows(
    drawn: Cloud,
    distance: Statistic,
    about: Mapping[str, Any],
    lacking: str,
    caveats: Mapping[Claim, tuple[str, ...]],
) -> Iterator[Estimate]:
    """A distance as an estimate for every claim, in score points; ``lacking`` says why there may be none."""
    value = float(distance(drawn.x, drawn.y))
    if not np.isfinite(value):
        yield Estimate(value=None, caveats=(lacking, *drawn.left_out), **about)
        return
    for claim in claims_of(drawn):
        row = Estimate(value=value, interval=interval_of(drawn, distance, value, claim), **about)
        yield claim_row(drawn, row, claim, caveats[claim])


def best_of_both_rows(
    drawn: Cloud, design: Design, fields: Mapping[str, Any], unit: str, *, looks: bool
) -> Iterator[Estimate]:
    """How far lineages lie beyond the line through all other recipes, in score points; positive is better on both.

    The test of a joint stage is named before looking; those of sequences, and further ``looks`` at parts of the data or
    at other judges, are exploratory.
    """
    covariance, singular = whitening(drawn)
    lineages = dict.fromkeys(config[0] for config in drawn.configs)
    joint = [lineage for lineage in lineages if design.roles.is_joint(lineage)]
    for lineage in (*joint, *(one for one in lineages if design.roles.is_sequence(one))):
        tested: Bools = np.array([config[0] == lineage for config in drawn.configs])
        if (~tested).sum() < MIN_LINE_POINTS:
            continue
        looked = () if not looks and joint == [lineage] else (EXPLORATORY,)
        about = describe_cloud(drawn, fields, unit) | {"kind": "best_of_both", "lineage": lineage}
        caveats = {
            claim: looked + distance_caveats(drawn, tested, covariance, claim) + singular for claim in claims_of(drawn)
        }
        distance = distance_of(tested, covariance)
        yield from distance_rows(drawn, distance, about, "no line through the other points", caveats)


def frontier_estimates(design: Design, means: Floats) -> Iterator[Estimate]:
    """Lines, R² and best-of-both tests of the pooled estimator. ``means``: resampled row means (draws, rows)."""
    if not design.recipes or not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    recipes = design.recipes
    for level, unit, drawn in delta_clouds(design, recipes, means):
        yield from line_rows(drawn, level.fields, unit)
        looks = level.span != "all" or "beside" in level.fields
        yield from best_of_both_rows(drawn, design, level.fields, unit, looks=looks)
        if level.span == "all":
            for points, groups, relative in (
                (ABSOLUTE_POINTS, by_base(level.keys), False),
                (MEAN_DELTA_POINTS, [(None, level.keys)], True),
                (MEAN_POINTS, [(None, level.keys)], False),
            ):
                other = draw_cloud(design, groups, (BASE, *recipes), means, relative=relative)
                yield from line_rows(other, level.fields, points)


def delta_clouds(design: Design, configs: Sequence[Config], means: Floats) -> Iterator[tuple[Level, str, Cloud]]:
    """Differences from the base at every level but single cells, with the unit that says what a point is."""
    for level in design.levels(configs, HELPFULNESS, SAFETY):
        if level.span != "cell":
            unit = BASE_DELTA_POINTS if level.span == "base" else DELTA_POINTS
            yield level, unit, draw_cloud(design, by_base(level.keys), configs, means, relative=True)
