"""Dose curves of the last stage, and signs of degenerate training with their gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from operator import neg
from typing import Any

import numpy as np

from holdfast.analysis.design import BASE, Design, Key, by_base, contrast, dose_of, over, subject, without_dose
from holdfast.analysis.panel import Config, Measures, Replicate
from holdfast.analysis.pooled import POOLED, differences, ratios
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Checkpoint, Estimate
from holdfast.records.arrays import Ints, rows_by_group
from holdfast.records.checkpoints import DOSE
from holdfast.stats.contrasts import mean_interval

MEASURED = "measured"
# The gates. A sign of a group is the mean over its checkpoints; those marked "worst" look at its worst checkpoint,
# because one broken run hides in a mean. They are loose: what a gate passes is broken, what it leaves may be ill.
MORE_INVALID_CALLS = 0.3  # calls per episode above the base's: the agent no longer writes calls that a world can read
MORE_INSTANT_FINISHES = 0.4  # share of episodes without any call, above the base's: it has stopped to act
SHORTER_THAN_BASE = 0.7  # mean tokens as a share of the base's: answers have collapsed
MORE_MISSING = 0.1  # worst; share of test episodes without a score, above the base's: a mean of the rest flatters
CHOSEN_DRIFT = 40.0  # worst; nats either way: the answers that training raises have become certain or impossible
REJECTED_DRIFT = -40.0  # worst; nats: pushed so far down, probability lands on episodes that nobody wrote
KL_FROM_PARENT = 10.0  # worst; nats an episode: hardly an episode of the parent is likely to the child
LEAST_DISTINCT = 0.3  # share of distinct trajectories among those sampled
WORST: Mapping[str, Callable[[float], float]] = {  # a sign → how bad a value of it is
    "missing": float,
    "drift_chosen": abs,
    "drift_rejected": neg,
    "kl_parent": float,
}
COUNTED = ("steps", "pairs")  # doses that a study sets: no interval
DIVERGENCES = ("kl_parent", "kl_base")  # never negative
EPISODES = "kl_episodes"  # how many each divergence of a checkpoint was measured on: a count, no dose
STANDARD_ERROR = "_se"  # ends the names of errors within one checkpoint: a mean of them says nothing about the mean


def dose_rows(design: Design, measures: Measures) -> Iterator[Estimate]:
    """Erosion, retained and persistence at each dose of the last stage, and each stage's measured dose."""
    for objective in (SAFETY, HELPFULNESS):
        if objective not in design.panel.objectives:
            continue
        for config in design.configs:
            sequence = design.roles.is_sequence(config[0]) and design.roles.single(config[0][0]) == objective
            if sequence and DOSE in dict(config[1]):
                yield from _at_dose(design, objective, config)
    yield from _measured(design, measures)


def _at_dose(design: Design, objective: str, config: Config) -> Iterator[Estimate]:
    """The three quantities of one two-stage configuration against its first stage, and its second alone at its dose.

    Where the second stage alone was kept at no such dose its smallest one stands in, and a caveat says so.
    """
    core, number = without_dose(config[1]), design.objective(objective)
    first, smallest = (design.main((stage,), core) for stage in config[0])
    same: Config = (config[0][1:], config[1])
    second = same if same in design.configs else smallest
    if first is None or second is None:
        return
    caveats: tuple[str, ...] = ()
    if second != same and dose_of(second) != dose_of(config):
        caveats = (f"against {config[0][1]} alone at dose {dose_of(second):g}: the study keeps none at this dose",)
    # A coefficient of zero: all three quantities are of the replicates that have all three configurations.
    for fields, keys, *_ in design.levels([config, first, second], objective):
        about: dict[str, Any] = {**fields, **subject(config), "objective": objective}
        bottom = contrast(design, number, over(keys, (first, 1.0), (second, -1.0), (config, 0.0)))
        top = contrast(design, number, over(keys, (config, 1.0), (second, -1.0), (first, 0.0)))
        lost = contrast(design, number, over(keys, (config, 1.0), (first, -1.0), (second, 0.0)))
        yield from differences(design, lost, "erosion", **about)
        for row in (*differences(design, top, "retained", **about), *ratios(design, top, bottom, **about)):
            yield replace(row, caveats=(*caveats, *row.caveats))


def _taken(checkpoint: Checkpoint, measures: Measures) -> dict[str, float]:
    """What was measured of a checkpoint, and the dose of its last stage from its record where training told none."""
    last = checkpoint.stages[-1] if checkpoint.stages else None
    noted = {"steps": last.steps, "pairs": last.pairs} if last is not None else {}
    found = {name: float(value) for name, value in noted.items() if value is not None}
    return found | {name: value for name, value in measures.get(checkpoint.id, {}).items() if np.isfinite(value)}


def _measured(design: Design, measures: Measures) -> Iterator[Estimate]:
    for config in design.configs:
        every = design.keys_with([config])
        for base, keys in [(None, every), *by_base(every)] if every else []:
            rows = [pair for key in keys for pair in design.rows[key, config].items()]
            found = {design.panel.rows[row].checkpoint: seed for seed, row in rows}
            own = {index: _taken(design.panel.trajectories.checkpoints[index], measures) for index in found}
            kinds = dict.fromkeys(name for measured in own.values() for name in measured)
            for kind in (name for name in kinds if name != EPISODES and not name.endswith(STANDARD_ERROR)):
                values = {index: measured[kind] for index, measured in own.items() if kind in measured}
                by_seed: dict[Replicate, list[float]] = {}
                for index, value in values.items():
                    by_seed.setdefault(found[index], []).append(value)
                n = {"checkpoints": len(values), "seeds": len(by_seed)}
                if kind in DIVERGENCES and (episodes := sum(own[index].get(EPISODES, 0) for index in values)):
                    n["episodes"] = int(episodes)
                about = {**({} if base is None else {"base": base}), **subject(config), "n": n}
                about |= {"kind": kind, "estimator": MEASURED, "value": float(np.mean(list(values.values())))}
                interval = mean_interval(np.array([np.mean(some) for some in by_seed.values()]))
                if kind not in COUNTED and interval is not None:
                    # Around the mean of all checkpoints, of which a seed may have more than another.
                    half, mean = (interval[1] - interval[0]) / 2, about["value"]
                    low = max(mean - half, 0.0) if kind in DIVERGENCES else mean - half
                    about |= {"interval": (low, mean + half), "claim": "recipe", "resampled": ("seeds",)}
                yield Estimate(**about)


# --- health -----------------------------------------------------------------------------------------------------


def _tested_by_checkpoint(design: Design) -> list[Ints]:
    """The test episodes of each checkpoint, as positions in the table."""
    table, tested = design.panel.trajectories, np.flatnonzero(design.panel.tested)
    return [tested[rows] for rows in rows_by_group(table.checkpoint[tested], len(table.checkpoints))]


def _signs(design: Design, tested: Sequence[Ints], index: int, measures: Measures) -> dict[str, float]:
    """What the test episodes of a checkpoint look like, and how far its training moved it; none without episodes."""
    table, mask = design.panel.trajectories, tested[index]
    if not len(mask):
        return {}
    tokens = table.tokens[mask]
    signs = {
        "invalid_calls": float(table.invalid_calls[mask].mean()),
        "instant_finish": float(((table.calls + table.invalid_calls)[mask] == 0).mean()),
    }
    asked, value = design.panel.cells.asked[mask], design.panel.cells.value[mask]
    judged = np.flatnonzero(asked.any(axis=(1, 2)))
    if len(judged):
        signs["missing"] = float((asked & ~np.isfinite(value))[judged].any(axis=(1, 2)).mean())
    if np.isfinite(tokens).any():
        signs["tokens"] = float(np.nanmean(tokens))
    taken = measures.get(table.checkpoints[index].id, {})
    names = ("drift_chosen", "drift_rejected", "kl_parent", "distinct_share")
    return signs | {name: taken[name] for name in names if np.isfinite(taken.get(name, np.nan))}


def health_rows(design: Design, measures: Measures) -> Iterator[Estimate]:
    """Signs of degenerate training for every base × configuration, and whether a declared threshold is passed."""
    signs = cache(partial(_signs, design, _tested_by_checkpoint(design), measures=measures))

    def read(keys: Sequence[Key], config: Config) -> list[dict[str, float]]:
        rows = [row for key in keys for row in design.rows[key, config].values()]
        return list(filter(None, map(signs, sorted({design.panel.rows[row].checkpoint for row in rows}))))

    for config in design.configs:
        for name, keys in by_base(design.keys_with([config])):
            own = read(keys, config)
            home = read([key for key in design.keys_with([BASE]) if key.base == name], BASE)
            about: dict[str, Any] = {"base": name, **subject(config), "n": {"checkpoints": len(own)}}
            yield from _sign_rows(own, home, about, trained=config != BASE)


def _sign_rows(
    own: Sequence[Mapping[str, float]], home: Sequence[Mapping[str, float]], about: dict[str, Any], *, trained: bool
) -> Iterator[Estimate]:
    """The signs of one group, their differences from its base's, and the gates."""
    mean, base = ({name: float(np.mean(some)) for name, some in _by_name(group).items()} for group in (own, home))
    for kind, value in mean.items():
        yield Estimate(kind=kind, estimator=MEASURED, value=value, **about)
        if trained and kind in base:
            yield Estimate(kind=f"{kind}_vs_base", estimator=MEASURED, value=value - base[kind], **about)
    if trained and mean:
        worst = {name: max(some, key=WORST[name]) for name, some in _by_name(own).items() if name in WORST}
        fired = tuple(_fired(mean, worst, base))
        yield Estimate(kind="degenerate", estimator=POOLED, value=float(bool(fired)), caveats=fired, **about)


def _by_name(signs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for one in signs for name in one)
    return {name: [one[name] for one in signs if name in one] for name in names}


def _fired(own: Mapping[str, float], worst: Mapping[str, float], base: Mapping[str, float]) -> Iterator[str]:
    """The declared thresholds that a checkpoint group passes, in words."""
    calls, instant, missing = (base.get(name, 0.0) for name in ("invalid_calls", "instant_finish", "missing"))
    if own["invalid_calls"] - calls > MORE_INVALID_CALLS:
        yield f"invalid calls per episode: {own['invalid_calls']:.2f}, base {calls:.2f}"
    if own["instant_finish"] - instant > MORE_INSTANT_FINISHES:
        yield f"episodes without a call: {own['instant_finish']:.0%}, base {instant:.0%}"
    if "tokens" in own and "tokens" in base and own["tokens"] < SHORTER_THAN_BASE * base["tokens"]:
        yield f"mean length: {own['tokens']:.1f} tokens, base {base['tokens']:.1f}"
    if worst.get("missing", 0.0) - missing > MORE_MISSING:
        yield f"episodes without a score: {worst['missing']:.0%} at worst, base {missing:.0%}"
    if abs(worst.get("drift_chosen", 0.0)) > CHOSEN_DRIFT:
        yield f"log-probability of chosen answers moved by {worst['drift_chosen']:+.0f} nats at worst"
    if worst.get("drift_rejected", 0.0) < REJECTED_DRIFT:
        yield f"log-probability of rejected answers moved by {worst['drift_rejected']:+.0f} nats at worst"
    if worst.get("kl_parent", 0.0) > KL_FROM_PARENT:
        yield f"KL from the parent: {worst['kl_parent']:.1f} nats at worst"
    if own.get("distinct_share", 1.0) < LEAST_DISTINCT:
        yield f"distinct trajectories: {own['distinct_share']:.0%}"
