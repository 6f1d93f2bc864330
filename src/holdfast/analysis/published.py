"""The estimator ``published``: means of run means, ratios averaged over base × judge, ordinary regression.

It repeats arXiv 2603.02229 as published, on any study that has the lineages; ``pooled`` is the one to believe. Where
several judges scored the same checkpoints it averages them too, beside each by itself, and a caveat says so.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.analysis.design import (
    BASE,
    Design,
    Key,
    Level,
    Matched,
    by_base,
    comparable,
    compare,
    describe_arm,
    match,
    subject,
)
from holdfast.analysis.panel import Axes, Config, Replicate
from holdfast.analysis.roles import HELPFULNESS, SAFETY, Arm
from holdfast.records import Estimate
from holdfast.records.arrays import Floats
from holdfast.stats.contrasts import SMALLEST_DENOMINATOR, mean_of_ratios
from holdfast.stats.lines import correlations, ordinary_lines, slope_p_value
from holdfast.stats.resample import percentile_interval, resampled_means

Slot = tuple[Arm, Axes]  # what one persistence is computed for

PUBLISHED = "published"
DELTA_POINTS = "base × configuration, difference from base"
BASE_DELTA_POINTS = "configuration, difference from base"
MEAN_DELTA_POINTS = "configuration averaged over bases, difference from base"
ABSOLUTE_POINTS = "base × configuration with bases, absolute"
TRAINED_POINTS = "base × configuration without bases, absolute"
RUN_POINTS = "run, absolute"
RUN_DELTA_POINTS = "run, difference from base"
# The published ratio has heavy tails: at 10,000 draws of few cells the ends of some intervals still move by 0.02 from
# seed to seed. A mean over many cells has lighter ones, and each cell costs as much as the first.
FACTOR, MOST_RESAMPLES = 16, 3_000_000
NOT_INDEPENDENT = "as published: treats points that share bases, cases and parents as independent"


def _mean(design: Design, objective: int, rows: Sequence[int]) -> float:
    """The mean of run means; NaN without runs."""
    return float(np.mean(design.means[objective, rows])) if len(rows) else np.nan


def _finite(value: float, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """A value with its caveats as the fields of an Estimate."""
    if np.isfinite(value):
        return {"value": value, "caveats": left_out}
    return {"value": None, "caveats": left_out or ("no scores",)}


def _whose(level: Level) -> tuple[str, ...]:
    """Which judges of the same checkpoints are averaged, as published; nothing where none are."""
    if not level.averaged:
        return ()
    names = sorted({key.judge for key in level.keys})
    return (f"as published: the mean of judges of the same checkpoints: {', '.join(names)}",)


def score_rows(design: Design) -> Iterator[Estimate]:
    """The mean of every run; means and standard deviations (n − 1) of run means at every level."""
    means = design.means
    cases = np.isfinite(design.panel.values).sum(axis=2)
    for objective, name in enumerate(design.panel.objectives):
        for index, row in enumerate(design.panel.rows):
            seeds = {"split_seed": row.split_seed, "train_seed": row.train_seed}
            yield Estimate(
                kind="mean",
                estimator=PUBLISHED,
                objective=name,
                n={"cases": int(cases[objective, index]), "runs": 1},
                base=row.base,
                lineage=row.lineage,
                axes=dict(row.axes) | {name: seed for name, seed in seeds.items() if seed is not None},
                judge=row.judge,
                labelled=row.labelled,
                reads_state=row.reads_state,
                **_finite(float(means[objective, index])),
            )
        for config in design.configs:
            for level in design.published_levels([config], name):
                rows, left_out = compare(design, level.keys, [config], name)
                left_out = _whose(level) + left_out
                about = {**level.fields, **subject(config), "objective": name, "n": {"runs": len(rows[config])}}
                own = means[objective, rows[config]]
                mean = _finite(_mean(design, objective, rows[config]), left_out)
                yield Estimate(kind="mean", estimator=PUBLISHED, **about, **mean)
                deviation: dict[str, Any] = {"value": None, "caveats": ("fewer than 2 runs: no deviation", *left_out)}
                if len(own) > 1:
                    deviation = _finite(float(np.std(own, ddof=1)), left_out)
                yield Estimate(kind="std", estimator=PUBLISHED, **about, **deviation)


def delta_rows(design: Design) -> Iterator[Estimate]:
    """Differences of group means from the base's group mean at every level."""
    for objective, name in enumerate(design.panel.objectives):
        for config in design.configs:
            if config == BASE:
                continue
            for level in design.published_levels([config, BASE], name):
                rows, left_out = compare(design, level.keys, [config, BASE], name)
                value = _mean(design, objective, rows[config]) - _mean(design, objective, rows[BASE])
                about = {**level.fields, **subject(config), "objective": name, "n": {"runs": len(rows[config])}}
                yield Estimate(kind="delta", estimator=PUBLISHED, **about, **_finite(value, _whose(level) + left_out))


# --- frontier -------------------------------------------------------------------------------------------------


def point_weights(
    design: Design, keys: Sequence[Key], configs: Iterable[Config], *, relative: bool
) -> tuple[dict[Config, Floats], tuple[str, ...]]:
    """Each configuration's published mean, or difference from base, as weights (rows,) of run means.

    All configurations are averaged over the same replicates; what was left out for that comes second, in words.
    """
    arms = comparable(design, keys, configs, HELPFULNESS, SAFETY)
    rows, left_out = compare(design, keys, (BASE, *arms) if relative else arms, HELPFULNESS, SAFETY)
    found = {}
    for config in arms:
        if not rows[config] or (relative and config == BASE):
            continue
        found[config] = np.zeros(len(design.panel.rows))
        for one, sign in ((config, 1.0), (BASE, -1.0))[: 1 + relative]:
            np.add.at(found[config], rows[one], sign / len(rows[one]))
    return found, left_out


def point_of(design: Design, weights: Floats) -> tuple[float, float]:
    """(helpfulness, safety) of weights over rows; both run means of every row that counts are known."""
    used = weights != 0
    x, y = (float(weights[used] @ design.means[design.objective(name), used]) for name in (HELPFULNESS, SAFETY))
    return x, y


def _run_points(design: Design, keys: Container[Key]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(absolute points of every run of some keys, differences of every trained run from its base's run)."""
    x, y = (design.means[design.objective(name)] for name in (HELPFULNESS, SAFETY))
    wanted = {BASE, *design.recipes}
    absolute, delta = [], []
    counted: set[int] = set()
    for (key, config), cell in design.rows.items():
        if config not in wanted or key not in keys:
            continue
        home = design.rows.get((key, BASE), {})
        for replicate, row in cell.items():
            if row in counted:  # a base stands in every recipe
                continue
            counted.add(row)
            absolute.append((float(x[row]), float(y[row])))
            parent = home.get((replicate[0], None))
            if config != BASE and parent is not None:
                delta.append((float(x[row] - x[parent]), float(y[row] - y[parent])))
    first, second = ([one for one in points if bool(np.isfinite(one).all())] for points in (absolute, delta))
    return first, second


def frontier_rows(design: Design) -> Iterator[Estimate]:
    """Every ordinary regression of safety on helpfulness: slope, intercept, r, R², p of each unit of points."""
    if not design.recipes or not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    recipes, every = design.recipes, (BASE, *design.recipes)

    def fit(
        groups: Sequence[Sequence[Key]], configs: Sequence[Config], unit: str, level: Level, *, relative: bool
    ) -> Iterator[Estimate]:
        found = [point_weights(design, group, configs, relative=relative) for group in groups]
        points = [point_of(design, one) for weights, _ in found for one in weights.values()]
        left_out = tuple(dict.fromkeys(words for _, left_out in found for words in left_out))
        return _fit(points, unit, level.fields, _whose(level) + left_out)

    for level in design.published_levels(recipes, HELPFULNESS, SAFETY):
        keys, groups = level.keys, [group for _, group in by_base(level.keys)]
        if level.span == "base":
            yield from fit([keys], recipes, BASE_DELTA_POINTS, level, relative=True)
        if level.span in ("all", "judge"):
            yield from fit(groups, recipes, DELTA_POINTS, level, relative=True)
        if level.span == "all":
            yield from fit([keys], recipes, MEAN_DELTA_POINTS, level, relative=True)
            yield from fit(groups, every, ABSOLUTE_POINTS, level, relative=False)
            yield from fit(groups, recipes, TRAINED_POINTS, level, relative=False)
            absolute, delta = _run_points(design, set(keys))
            yield from _fit(absolute, RUN_POINTS, level.fields, _whose(level))
            yield from _fit(delta, RUN_DELTA_POINTS, level.fields, _whose(level))


def _fit(
    points: Sequence[tuple[float, float]], unit: str, fields: Mapping[str, Any], left_out: tuple[str, ...]
) -> Iterator[Estimate]:
    """Ordinary regression of points as estimates; None with the reason where it is not defined."""
    kinds = ("slope", "intercept", "r", "r2", "p")
    about: dict[str, Any] = {**fields, "unit": unit, "estimator": PUBLISHED, "n": {"points": len(points)}}
    values = np.array(points, dtype=np.float64).reshape(-1, 2)
    if len(values) < 3 or float(np.ptp(values[:, 0])) <= SMALLEST_DENOMINATOR:
        reason = ("fewer than 3 points, or no variation in helpfulness", *left_out)
        yield from (Estimate(kind=kind, value=None, caveats=reason, **about) for kind in kinds)
        return
    line, r = ordinary_lines(values[:, 0], values[:, 1]), float(correlations(values[:, 0], values[:, 1]))
    found = (float(line.slope), float(line.intercept), r, r * r, slope_p_value(r, len(values)))
    for kind, value in zip(kinds, found, strict=True):
        known = np.isfinite(value)
        first = ("no variation in safety",) if not known else (NOT_INDEPENDENT,) if kind in ("r2", "p") else ()
        yield Estimate(kind=kind, value=value if known else None, caveats=(*first, *left_out), **about)


# --- persistence ----------------------------------------------------------------------------------------------


def persistence_rows(design: Design, draws: int, rng: np.random.Generator) -> Iterator[Estimate]:
    """Persistence at every level with the published bootstrap, per arm, objective and axes.

    It takes a multiple of ``draws``, see ``_count_draws``.
    """
    if not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    objectives = [design.objective(name) for name in (SAFETY, HELPFULNESS)]
    wanted: dict[Slot, list[Config]] = {}
    for arm in design.arms:
        s, h = arm.ordered(SAFETY)
        for core in design.core_axes:
            configs = [design.main(lineage, core) for lineage in ((s,), (h,), (s, h), (h, s))]
            present = [config for config in configs if config is not None]
            if len(present) == len(configs):
                wanted[arm, core] = present
    matched = {
        (slot, key): match(design, key, chosen, objectives)
        for slot, chosen in wanted.items()
        for key in design.keys_for(chosen, SAFETY, HELPFULNESS)
    }
    draws = _count_draws(draws, matched)
    drawn = _draw_keys(design, matched, draws, rng)
    points = {
        place: _contrasts(np.array([[[_mean(design, one, rows) for rows in runs] for one in objectives]]))[0]
        for place, runs in ((place, matched[place].rows.values()) for place in drawn)
    }
    for slot, chosen in wanted.items():
        for level in design.published_levels(chosen, SAFETY, HELPFULNESS):
            kept = [(slot, key) for key in level.keys if (slot, key) in drawn]
            stacked = np.array([drawn[place] for place in kept]).reshape(-1, draws, 2, 2).swapaxes(0, 1)
            point = np.array([points[place] for place in kept]).reshape(-1, 2, 2)
            left_out = tuple(dict.fromkeys(words for key in level.keys for words in matched[slot, key].left_out))
            about = {**level.fields, "axes": dict(slot[1])}
            yield from _persistence(slot[0], point, stacked, _whose(level) + left_out, about)


def _count_draws(draws: int, matched: Mapping[tuple[Slot, Key], Matched]) -> int:
    """Resamples of the published bootstrap: ``FACTOR`` times ``draws``, or as many as ``MOST_RESAMPLES`` allow."""
    cells = {(key, seed) for (_, key), one in matched.items() for seed in one.replicates}
    return draws * max(1, min(FACTOR, MOST_RESAMPLES // (draws * max(1, len(cells)))))


def _contrasts(means: Floats) -> Floats:
    """(numerator, denominator) of both persistences: shape (draws, 2 objectives, 2)."""
    s, h, s_then_h, h_then_s = (means[..., index] for index in range(4))
    safe = np.stack([(s_then_h - h)[:, 0], (s - h)[:, 0]], axis=-1)
    helpful = np.stack([(h_then_s - s)[:, 1], (h - s)[:, 1]], axis=-1)
    return np.stack([safe, helpful], axis=1)


def _draw_keys(
    design: Design, matched: Mapping[tuple[Slot, Key], Matched], draws: int, rng: np.random.Generator
) -> dict[tuple[Slot, Key], Floats]:
    """Numerators and denominators of every draw, (draws, 2, 2), by slot and key, where there are replicates.

    Cases are drawn within each key and seed, once for all of the key's configurations there, as published.
    """
    found = {}
    for key in sorted({key for _, key in matched}):
        here = [(slot, one) for (slot, other), one in matched.items() if other == key and one.replicates]
        cells = [dict(zip(one.replicates, rows, strict=True)) for _, one in here for rows in one.rows.values()]
        means = _resampled_cells(design, cells, draws=draws, rng=rng)
        ends = np.cumsum([len(one.rows) for _, one in here])
        for (slot, one), end in zip(here, ends, strict=True):
            found[slot, key] = _contrasts(means[:, :, end - len(one.rows) : end])
    return found


def _resampled_cells(
    design: Design, cells: Sequence[Mapping[Replicate, int]], *, draws: int, rng: np.random.Generator
) -> Floats:
    """The resampled means of cells of one key on (safety, helpfulness): shape (draws, 2, cells)."""
    objectives = [design.objective(SAFETY), design.objective(HELPFULNESS)]
    found = np.zeros((draws, 2, len(cells)))
    for seed in sorted({seed for cell in cells for seed in cell}, key=str):
        here = [index for index, cell in enumerate(cells) if seed in cell]
        values = design.panel.values[np.ix_(objectives, [cells[index][seed] for index in here])]
        columns = np.isfinite(values).any(axis=(0, 1))
        means = resampled_means(values[:, :, columns].reshape(2 * len(here), -1), draws, rng)
        share = np.array([1 / len(cells[index]) for index in here])
        found[:, :, here] += means.reshape(draws, 2, len(here)) * share
    return found


def _persistence(
    arm: Arm, point: Floats, drawn: Floats, left_out: tuple[str, ...], about: dict[str, Any]
) -> Iterator[Estimate]:
    """Both persistences from points (keys, 2, 2) and draws (draws, keys, 2, 2)."""
    for index, objective in enumerate((SAFETY, HELPFULNESS)):
        exact = mean_of_ratios(point[None, :, index, 0], point[None, :, index, 1])
        draws = mean_of_ratios(drawn[..., index, 0], drawn[..., index, 1])
        unit, caveats = describe_arm(arm)
        if exact.dropped:
            caveats += (f"{exact.dropped} of {len(point)} base × judge cells left out: no gain to divide by",)
        if draws.dropped:
            total = drawn.shape[0] * drawn.shape[1]
            caveats += (
                f"{draws.dropped} of {total} cell draws dropped, their denominator at most {SMALLEST_DENOMINATOR:g};"
                f" {draws.skipped} of {len(drawn)} draws skipped",
            )
        value = float(exact.values[0])
        yield Estimate(
            kind="persistence",
            estimator=PUBLISHED,
            value=value if np.isfinite(value) else None,
            interval=percentile_interval(draws.values) if np.isfinite(value) else None,
            lineage=arm.ordered(objective),
            objective=objective,
            unit=unit,
            resampled=("cases",),
            n={"cells": len(point)},
            caveats=caveats + left_out,
            **about,
        )
