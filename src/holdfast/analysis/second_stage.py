"""What a second stage takes of the first one's objective for what it gives of its own, by method, side by side.

Stages that train for differently long, or learn differently fast, are compared at the same gain and at the same
distance from where they started. Rows are of each lineage of safety then helpfulness, or the reverse, at every dose;
"first" is the objective of its first stage, "second" that of its second:

    lost           first objective before the second stage less after it, in score points
    gained         second objective after it less before it
    kl             how far it went: KL(policy ‖ start), in nats an episode
    lost_per_gain  lost / gained, with its Fieller set
    lost_per_nat   lost / kl
    lost_at_gain, lost_at_kl    what is lost where as much is gained, or as far gone, by a stage on rewards and by one
                                on pairs after the same first stage; with _change the former less the latter

``kl`` is the mean of log policy − log start over finished held-out episodes of the policy's own, one a case, as the
rollout step of each checkpoint measured it (``runs.steps.rollout``): the same prompts and the same estimator for every
method. Ratios are of means over all that is pooled; a rate is that of the whole way to a checkpoint, and where it
changes along the way, doses say so. Stages are matched as trainings for approval are (``stats.levels``): what is lost
is read where the rising curve that is fitted to what is gained, or to the KL, at the start and all doses reaches a
level. It is ``SHARE`` of the highest level that both reach, so it is not declared beforehand; intervals hold it fixed
and follow from those at the doses by the gradient.

There are rows only where some second stage learns from rewards that a judge gives on training cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    over,
    subject,
    without_dose,
)
from holdfast.analysis.panel import Config, Measures
from holdfast.analysis.pooled import CLAIMS, POOLED, Claim, claim_fields, differences, missing_interval, ratios, spreads
from holdfast.records import Estimate, Unbounded
from holdfast.records.arrays import Floats
from holdfast.stats.contrasts import MIN_SEEDS, Spread, limits, t_quantile
from holdfast.stats.levels import AtLevel, at_level, rising_blocks
from holdfast.stats.resample import Interval
from holdfast.study.stages import is_rewarded, is_rewarded_by_users

SHARE = 0.8  # of the highest level that both reach: at the highest itself one stands at its end, by luck
STEP = 1e-5  # of the numeric gradient, in score points and nats
KL, STANDARD_ERROR, EPISODES = "kl_parent", "kl_parent_se", "kl_episodes"
LESS = "the second stage lowered its own objective: the ratio is of losses"
NOT_RISEN = "one of the two does not rise above its start, so that there is no level that both reach"
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
        yield from _matched_rows(design, rewarded, paired, measures)


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


# --- a stage on rewards against one on pairs, where both have gained as much or gone as far --------------------------


def _rivals(design: Design) -> Iterator[tuple[Sequence[Config], Sequence[Config]]]:
    """Second stages on rewards with those on pairs after the same first stage, each at all its doses in order."""
    ways: dict[tuple[object, ...], list[Config]] = {}
    for config in _sequences(design):
        ways.setdefault((config[0], without_dose(config[1])), []).append(config)
    rewarded = [way for way in ways.values() if design.roles.role(way[0][0][1]).rewarded]
    for one, other in product(rewarded, [way for way in ways.values() if way not in rewarded]):
        if one[0][0][0] == other[0][0][0] and without_dose(one[0][1]) == without_dose(other[0][1]):
            yield one, other


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Two second stages at one level of pooling: contrasts (lost, gained, lost, gained …), first of the one's doses.

    ``guides`` are what each is followed along, (doses,): what is gained, or the KL, whose limits are ``errors``
    (doses,) away. ``direct`` says that the guides are among the contrasts.
    """

    found: Spread
    guides: tuple[Floats, Floats]
    errors: tuple[Floats, Floats]
    direct: bool

    def lost(self, which: int) -> Floats:
        """What one of them has lost at its doses."""
        values = self.found.values[::2]
        return values[: len(self.guides[0])] if which == 0 else values[len(self.guides[0]) :]

    def at(self, which: int, level: float) -> tuple[AtLevel, Floats, float]:
        """What one has lost where its guide reaches a level, its gradient over all contrasts, and the KL's margin."""
        lost, guide = self.lost(which), self.guides[which]
        start = 0 if which == 0 else len(self.guides[0])
        slope, margin = np.zeros(len(self.found.values)), 0.0
        for place in range(len(lost)):
            step = np.eye(1, len(lost), place)[0] * STEP
            by_lost = _read(lost + step, guide, level) - _read(lost - step, guide, level)
            by_guide = (_read(lost, guide + step, level) - _read(lost, guide - step, level)) / (2 * STEP)
            slope[2 * (start + place)] = by_lost / (2 * STEP)
            if self.direct:
                slope[2 * (start + place) + 1] = by_guide
            else:
                margin += abs(by_guide) * float(self.errors[which][place])
        return at_level(np.append(0.0, lost), np.append(0.0, guide), level), slope, margin


def _read(lost: Floats, guide: Floats, level: float) -> float:
    value = at_level(np.append(0.0, lost), np.append(0.0, guide), level).value
    return np.nan if value is None else value


def _matched_rows(
    design: Design, rewarded: Sequence[Config], paired: Sequence[Config], measures: Measures
) -> Iterator[Estimate]:
    """What both have lost where they have gained as much, and where they have gone as far, and the difference."""
    every = (*rewarded, *paired)
    for pair in _pairs(design, rewarded[0], *every):
        steps = [replace(pair, config=config) for config in every]
        contrasts = [one for step in steps for one in _contrasts(design, step, *every)]
        found, _ = spreads(design, *contrasts)
        distances = [_distance(design, step, measures, *every) for step in steps]
        for claim in CLAIMS if contrasts[0].by_unit else CLAIMS[:1]:
            n = {"cases": found.cases, contrasts[0].unit: found.seeds}
            reasons = missing_interval(found, claim, contrasts[0].unit)
            for guide in ("gain", "kl"):
                ways = _follow(found, distances if guide == "kl" else None, claim, len(rewarded))
                for kind, lineage, unit, level, rate in _at_matched(ways, guide, rewarded, paired, claim):
                    value, shown, why = rate
                    told = claim_fields(claim, contrasts[0].unit, (*why, *reasons), contrasts[0].left_out)
                    axes = {**dict(without_dose(pair.config[1])), **({} if level is None else {"level": level})}
                    about = {**pair.about, "lineage": lineage, "axes": axes, "unit": unit, "n": n}
                    yield Estimate(kind=kind, estimator=POOLED, value=value, interval=shown, **told, **about)


def _follow(found: Spread, distances: Sequence[Distance] | None, claim: Claim, first: int) -> Ways:
    """Both ways along what they gain, or along their KL; the ``first`` doses are the one's."""
    if distances is None:
        along, errors = found.values[1::2], np.zeros(len(found.values) // 2)
    else:
        ends = [one.limits.get(claim) for one in distances]
        along = np.array([np.nan if one.value is None else one.value for one in distances])
        errors = np.array([np.nan if one is None else (one[1] - one[0]) / 2 for one in ends])
    return Ways(
        found=found,
        guides=(along[:first], along[first:]),
        errors=(errors[:first], errors[first:]),
        direct=distances is None,
    )


Matched = tuple[str, tuple[str, ...], str | None, float | None, Rate]  # kind, lineage, unit, level, what is found


def _at_matched(
    ways: Ways, guide: str, rewarded: Sequence[Config], paired: Sequence[Config], claim: Claim
) -> Iterator[Matched]:
    lineages = (rewarded[0][0], paired[0][0])
    kind, against = f"lost_at_{guide}", f"against {','.join(lineages[1])}"
    reach = [_reach(one) for one in ways.guides]
    if None in reach or min(filter(None, reach), default=0.0) <= 0:
        why = (UNMEASURED if guide == "kl" and not all(map(_known, ways.guides)) else NOT_RISEN,)
        yield f"{kind}_change", lineages[0], against, None, (None, None, why)
        return
    level = float(f"{SHARE * min(one for one in reach if one is not None):.3g}")
    slopes, margins, values = [], [], []
    for which, lineage in enumerate(lineages):
        there, slope, margin = ways.at(which, level)
        slopes.append(slope)
        margins.append(margin)
        values.append(there.value)
        yield kind, lineage, None, level, _linearised(ways.found, there.value, slope, margin, claim)
    change = None if None in values else float(values[0] or 0.0) - float(values[1] or 0.0)
    found = _linearised(ways.found, change, slopes[0] - slopes[1], sum(margins), claim)
    yield f"{kind}_change", lineages[0], against, level, found


def _known(guide: Floats) -> bool:
    return bool(np.isfinite(guide).all())


def _reach(guide: Floats) -> float | None:
    """The highest level that the rising curve fitted to a guide reaches; None where it was not measured."""
    if not _known(guide):
        return None
    curve = np.append(0.0, guide)
    return max(float(curve[block].mean()) for block in rising_blocks(curve))


def _linearised(found: Spread, value: float | None, slope: Floats, margin: float, claim: Claim) -> Rate:
    """A smooth function of contrasts with the limits that its gradient makes, and those of a KL added to them."""
    if value is None or not np.isfinite(slope).all():
        return None, None, (NOT_RISEN,)
    both = limits(found, slope[None], seeds=claim == "recipe")
    if both is None or not np.isfinite(margin):
        return value, None, ()
    middle = float(slope @ found.values)
    return value, (value + float(both[0, 0]) - middle - margin, value + float(both[0, 1]) - middle + margin), ()
