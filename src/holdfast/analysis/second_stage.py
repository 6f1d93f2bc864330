"""What a second stage takes of the first one's objective for what it gives of its own, by method, side by side.

Stages that train for differently long, or learn differently fast, are compared at the same gain and at the same
distance from where they started. Rows are of each lineage of safety then helpfulness, or the reverse, at every dose;
"first" is the objective of its first stage, "second" that of its second:

    lost           first objective before the second stage less after it, in score points
    gained         second objective after it less before it
    kl             how far it went: KL(policy ‖ start), in nats an episode
    lost_per_gain  lost / gained, with its Fieller set
    lost_per_nat   lost / kl
    lost_per_gain_change, lost_per_nat_change    the same of a stage on rewards less that of one on pairs, both at
                                                 their first dose, after the same first stage

``kl`` is the mean of log policy − log start over finished held-out episodes of the policy's own, one a case, as the
rollout step of each checkpoint measured it (``runs.steps.rollout``): the same prompts and the same estimator for every
method. Ratios are of means over all that is pooled. Nothing is interpolated: a rate is that of the whole way to a
checkpoint, and where it changes along the way, doses say so.

There are rows only where some second stage learns from rewards that a judge gives on training cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from holdfast.analysis.design import (
    Contrast,
    Design,
    Key,
    contrast,
    dose_of,
    match,
    name_config,
    over,
    subject,
    without_dose,
)
from holdfast.analysis.panel import Config, Measures
from holdfast.analysis.pooled import CLAIMS, POOLED, Claim, claim_fields, differences, missing_interval, ratios, spreads
from holdfast.records import Estimate, Unbounded
from holdfast.records.checkpoints import rank_dose
from holdfast.stats.contrasts import MIN_SEEDS, Spread, limits, t_quantile
from holdfast.stats.resample import Interval
from holdfast.study.stages import is_rewarded, is_rewarded_by_users

KL, STANDARD_ERROR, EPISODES = "kl_parent", "kl_parent_se", "kl_episodes"
LESS = "the second stage lowered its own objective: the ratio is of losses"
NEAR = "linearised: where a gain is close to zero, the interval is too narrow"
APART = "the limits of both rates are subtracted, as if they erred against each other: the interval is wide enough"
NO_GAIN = "a gain cannot be told from zero"
UNMEASURED = "KL to the start was not measured"
NO_LIMITS = "too few seeds or episodes: a point, no interval"
NO_KL = "the KL to the start cannot be told from zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A second stage at a level: its configuration and that of its start, and what is pooled.

    ``first`` and ``second`` are the objectives of the two stages, ``fields`` those of an Estimate at the level.
    """

    config: Config
    start: Config
    first: str
    second: str
    fields: Mapping[str, Any]
    keys: tuple[Key, ...]

    @property
    def about(self) -> dict[str, Any]:
        """The fields of an Estimate about the first stage's objective."""
        return {**self.fields, **subject(self.config), "objective": self.first}


def second_stage_rows(design: Design, measures: Measures) -> Iterator[Estimate]:
    """All rows of the second stages of a run; none where no judge rewarded a stage."""
    stages = [stage for one in design.panel.trajectories.checkpoints for stage in one.stages]
    if not any(is_rewarded(stage) and not is_rewarded_by_users(stage) for stage in stages):
        return
    for config in _sequences(design):
        for pair in _pairs(design, config):
            distance = _distance(design, pair, measures)
            yield from _lost_and_gained(design, pair)
            yield from _per_gain(design, pair)
            yield from _kl_rows(pair, distance, _contrasts(design, pair)[0].unit)
            yield from _per_nat(design, pair, distance)
    for rewarded, paired in _rivals(design):
        yield from _change_rows(design, rewarded, paired, measures)


def _sequences(design: Design) -> list[Config]:
    """Every configuration of two stages with one objective each, the plain ones first, by dose."""
    found = [config for config in design.configs if design.roles.is_sequence(config[0])]
    return sorted(found, key=lambda config: (config[0], str(without_dose(config[1])), dose_of(config)))


def _start_of(design: Design, config: Config) -> Config | None:
    """The configuration that the last stage of another started from."""
    return design.main(config[0][:1], without_dose(config[1]))


def _pairs(design: Design, config: Config, *others: Config) -> Iterator[Pair]:
    """A second stage at every level of pooling; ``others`` are compared with it on the same levels."""
    start, (first, second) = _start_of(design, config), map(design.roles.single, config[0])
    if start is None or first is None or second is None or not {first, second} <= set(design.panel.objectives):
        return
    for fields, keys, *_ in design.levels([config, start, *others], first, second):
        yield Pair(config=config, start=start, first=first, second=second, fields=fields, keys=keys)


def _contrasts(design: Design, pair: Pair, *idle: Config) -> tuple[Contrast, Contrast]:
    """What is lost and what is gained, of the same runs; ``idle`` are configurations that these runs have too."""
    objectives = [design.objective(name) for name in (pair.first, pair.second)]
    also = [(config, 0.0) for config in idle]
    lost, gained = (
        contrast(design, objective, over(pair.keys, (pair.start, -sign), (pair.config, sign), *also), needs=objectives)
        for objective, sign in zip(objectives, (-1.0, 1.0), strict=True)
    )
    return lost, gained


def _lost_and_gained(design: Design, pair: Pair) -> Iterator[Estimate]:
    lost, gained = _contrasts(design, pair)
    yield from differences(design, lost, "lost", **pair.about)
    yield from differences(design, gained, "gained", **{**pair.about, "objective": pair.second})


def _per_gain(design: Design, pair: Pair) -> Iterator[Estimate]:
    lost, gained = _contrasts(design, pair)
    unit = f"per point of {pair.second}"
    yield from ratios(design, lost, gained, kind="lost_per_gain", falling=LESS, unit=unit, **pair.about)


# --- how far a stage went --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """The mean KL of some checkpoints to their start, in nats an episode, with its limits by claim.

    ``value`` is None where a checkpoint has none. ``episodes`` counts those that it was measured on, ``seeds`` units of
    training.
    """

    value: float | None
    limits: Mapping[Claim, Interval]
    episodes: int = 0
    seeds: int = 0


def _distance(design: Design, pair: Pair, measures: Measures, *idle: Config) -> Distance:
    """The KL of a second stage over the runs that its scores are compared on, which have ``idle`` configurations too.

    Errors over cases are taken as alike in all runs, which meet the same cases: they are averaged and not divided.
    Seeds add to them as in MOVER.
    """
    needs = [design.objective(name) for name in (pair.first, pair.second)]
    places = design.panel.trajectories.checkpoints
    runs: list[dict[str, Mapping[str, float]]] = []  # by key: checkpoint → what was measured
    for key in pair.keys:
        rows = match(design, key, [pair.start, pair.config, *idle], needs).rows[pair.config]
        ids = [places[design.panel.rows[row].checkpoint].id for row in rows]
        runs += [{name: measures.get(name, {}) for name in ids}] if ids else []
    found = [{name: one.get(KL, np.nan) for name, one in some.items()} for some in runs]
    values = np.array([np.mean(list(some.values())) for some in found])
    if len(values) == 0 or not np.isfinite(values).all():
        return Distance(value=None, limits={})
    value = float(values.mean())
    distinct = {name: one for some in runs for name, one in some.items()}
    episodes = [int(one.get(EPISODES, 0)) for one in distinct.values()]
    errors = np.array([np.mean([one.get(STANDARD_ERROR, np.nan) for one in some.values()]) for some in runs])
    if min(episodes) < 2 or not np.isfinite(errors).all():
        return Distance(value=value, limits={}, episodes=sum(episodes), seeds=len(distinct))
    half = t_quantile(min(episodes) - 1) * float(errors.mean())
    both: dict[Claim, Interval] = {"checkpoint": (value - half, value + half)}
    seeds = np.array([distinct[name][KL] for name in distinct])
    if len(seeds) >= MIN_SEEDS:
        # Within each base and judge, whose trainings are independent: the mean over keys has the mean of variances.
        parts = [np.var(list(some.values()), ddof=1) / len(some) for some in found if len(some) > 1]
        if len(parts) == len(found):
            spread = float(np.sum(parts)) / len(parts) ** 2
            more = t_quantile(min(map(len, found)) - 1) ** 2 * spread
            wide = float(np.hypot(half, np.sqrt(more)))
            both["recipe"] = (value - wide, value + wide)
    return Distance(value=value, limits=both, episodes=sum(episodes), seeds=len(distinct))


def _kl_rows(pair: Pair, distance: Distance, unit: str) -> Iterator[Estimate]:
    """The KL of the runs that the scores are of, for each claim that can be made of it."""
    for claim in CLAIMS if distance.seeds > 1 else CLAIMS[:1]:
        shown = distance.limits.get(claim)
        reasons = (UNMEASURED,) if distance.value is None else () if shown else (NO_LIMITS,)
        told = claim_fields(claim, unit, reasons, ())
        about = {**pair.about, "objective": None, "n": {"episodes": distance.episodes, "checkpoints": distance.seeds}}
        # A mean of log-ratios may be below zero by chance; what it estimates is not.
        ends = None if shown is None else (max(0.0, shown[0]), max(0.0, shown[1]))
        yield Estimate(kind="kl", estimator=POOLED, value=distance.value, interval=ends, **told, **about)


def _per_nat(design: Design, pair: Pair, distance: Distance) -> Iterator[Estimate]:
    """What is lost over the KL, for each claim that can be made of it."""
    lost, _ = _contrasts(design, pair)
    found, _ = spreads(design, lost)
    for claim in CLAIMS if lost.by_unit else CLAIMS[:1]:
        value, shown, reasons = _rate(found, 0, distance, claim)
        n = {"cases": found.cases, lost.unit: found.seeds, "runs": lost.runs, "episodes": distance.episodes}
        told = claim_fields(claim, lost.unit, (*reasons, *missing_interval(found, claim, lost.unit)), lost.left_out)
        row: dict[str, Any] = {"kind": "lost_per_nat", "estimator": POOLED, "value": value, "interval": shown}
        yield Estimate(**row, n=n, unit="per nat of KL to the start", **told, **pair.about)


Rate = tuple[float | None, Interval | Unbounded | None, tuple[str, ...]]  # value, interval, and why there is none


def _rate(found: Spread, place: int, distance: Distance, claim: Claim) -> Rate:
    """One contrast over a KL.

    How the two err together is not known, so that their limits are divided: where each holds its truth, so does the
    quotient. It is what Fieller's set is where the margins of both are added, which no correlation exceeds.
    """
    if distance.value is None:
        return None, None, (UNMEASURED,)
    bottom = distance.limits.get(claim) or distance.limits.get("checkpoint")
    if bottom is None or bottom[0] <= 0:
        return None, Unbounded.UNBOUNDED if claim in distance.limits else None, (NO_KL,)
    if not np.isfinite(found.values[place]):
        return None, None, ()
    both = limits(found, np.eye(len(found.values))[[place]], seeds=claim == "recipe")
    shown = None
    if both is not None and claim in distance.limits:
        shown = _divide((float(both[0, 0]), float(both[0, 1])), bottom)
    return float(found.values[place]) / distance.value, shown, ()


def _divide(top: Interval, bottom: Interval) -> Interval:
    """The least and the largest quotient of values within two intervals, of which the second is above zero."""
    quotients = [one / other for one, other in product(top, bottom)]
    return min(quotients), max(quotients)


# --- a stage on rewards against one on pairs ---------------------------------------------------------------------


def _rivals(design: Design) -> Iterator[tuple[Config, Config]]:
    """Second stages on rewards with those on pairs after the same first stage, all at their first dose."""
    main: dict[tuple[object, ...], Config] = {}
    for config in sorted(_sequences(design), key=lambda one: rank_dose(dose_of(one))):
        main.setdefault((config[0], without_dose(config[1])), config)
    configs = list(main.values())
    rewarded = [one for one in configs if design.roles.role(one[0][1]).rewarded]
    for one, other in product(rewarded, [one for one in configs if one not in rewarded]):
        if one[0][0] == other[0][0] and without_dose(one[1]) == without_dose(other[1]):
            yield one, other


def _change_rows(design: Design, rewarded: Config, paired: Config, measures: Measures) -> Iterator[Estimate]:
    """By how much a stage on rewards loses more for the same gain, and over the same KL, than one on pairs."""
    unit = f"against {name_config(paired)}"
    for pair in _pairs(design, rewarded, paired):
        other = replace(pair, config=paired)
        mine, theirs = _contrasts(design, pair, paired), _contrasts(design, other, rewarded)
        both = (_distance(design, pair, measures, paired), _distance(design, other, measures, rewarded))
        found, _ = spreads(design, *mine, *theirs)
        for claim in CLAIMS if mine[0].by_unit else CLAIMS[:1]:
            n = {"cases": found.cases, mine[0].unit: found.seeds, "runs": mine[0].runs + theirs[0].runs}
            for kind, (value, shown, reasons) in {
                "lost_per_gain_change": _gain_change(found, claim),
                "lost_per_nat_change": _nat_change(found, both, claim),
            }.items():
                caveats = (*reasons, *missing_interval(found, claim, mine[0].unit))
                told = claim_fields(claim, mine[0].unit, caveats, mine[0].left_out)
                row: dict[str, Any] = {"kind": kind, "estimator": POOLED, "value": value, "interval": shown}
                yield Estimate(**row, n=n, unit=unit, **told, **pair.about)


def _gain_change(found: Spread, claim: Claim) -> Rate:
    """The first ratio of four contrasts (lost, gained, lost, gained) less the second, by the delta method."""
    seeds = claim == "recipe"
    lost, gained, lost_there, gained_there = map(float, found.values)
    if not np.isfinite(found.values).all():
        return None, None, ()
    gains = limits(found, np.eye(4)[[1, 3]], seeds=seeds)
    if gains is None:  # below three seeds there is a point without an interval
        gains = limits(found, np.eye(4)[[1, 3]], seeds=False)
    if gains is None or bool(((gains[:, 0] <= 0) & (gains[:, 1] >= 0)).any()):
        return None, None, (NO_GAIN,)
    value = lost / gained - lost_there / gained_there
    slope = np.array([1 / gained, -lost / gained**2, -1 / gained_there, lost_there / gained_there**2])
    both = limits(found, slope[None], seeds=seeds)
    middle = float(slope @ found.values)
    shown = None if both is None else (value - middle + float(both[0, 0]), value - middle + float(both[0, 1]))
    return value, shown, (NEAR,)


def _nat_change(found: Spread, both: tuple[Distance, Distance], claim: Claim) -> Rate:
    """What is lost per nat by the first of two stages less that by the second, whose contrasts are first and third."""
    (mine, own, reasons), (theirs, other, more) = (
        _rate(found, place, distance, claim) for place, distance in zip((0, 2), both, strict=True)
    )
    if mine is None or theirs is None:
        return None, None, tuple(dict.fromkeys((*reasons, *more)))
    if not isinstance(own, tuple) or not isinstance(other, tuple):
        return mine - theirs, None, ()
    return mine - theirs, (own[0] - other[1], own[1] - other[0]), (APART,)
