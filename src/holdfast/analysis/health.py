"""Dose curves of the last stage, and signs of degenerate training with their gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import neg
from typing import Any

import numpy as np

from holdfast.analysis.design import BASE, DOSE, Design, Key, by_base, contrast, dose_of, over, subject, without_dose
from holdfast.analysis.panel import Config, Replicate
from holdfast.analysis.pooled import POOLED, differences, ratios
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Checkpoint, Estimate
from holdfast.stats.contrasts import MIN_SEEDS, t_quantile

Measures = Mapping[str, Mapping[str, float]]

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


def _checkpoints(design: Design, keys: Sequence[Key], config: Config) -> list[int]:
    rows = [row for key in keys for row in design.rows[key, config].values()]
    return sorted({design.panel.rows[row].checkpoint for row in rows})


def _taken(checkpoint: Checkpoint, measures: Measures) -> dict[str, float]:
    """What was measured of a checkpoint, and the dose of its last stage from its record where training told none."""
    last = checkpoint.stages[-1] if checkpoint.stages else None
    noted = {"steps": last.steps, "pairs": last.pairs} if last is not None else {}
    found = {name: float(value) for name, value in noted.items() if value is not None}
    return found | {name: value for name, value in measures.get(checkpoint.id, {}).items() if np.isfinite(value)}


def _with_all(found: Sequence[tuple[str | None, Sequence[Key]]]) -> Iterator[tuple[str | None, Sequence[Key]]]:
    """Keys of all bases together, under None, then those of each."""
    if found:
        yield None, [key for _, keys in found for key in keys]
    yield from found


def _measured(design: Design, measures: Measures) -> Iterator[Estimate]:
    for config in design.configs:
        for base, keys in _with_all(by_base(design.keys_with([config]))):
            fields = {} if base is None else {"base": base}
            cells = [design.rows[key, config] for key in keys]
            found = {design.panel.rows[row].checkpoint: seed for cell in cells for seed, row in cell.items()}
            own = {index: _taken(design.panel.trajectories.checkpoints[index], measures) for index in found}
            kinds = dict.fromkeys(name for one in own.values() for name in one)
            for kind in (name for name in kinds if name != EPISODES and not name.endswith(STANDARD_ERROR)):
                values = {index: one[kind] for index, one in own.items() if kind in one}
                by_seed: dict[Replicate, list[float]] = {}
                for index, value in values.items():
                    by_seed.setdefault(found[index], []).append(value)
                n = {"checkpoints": len(values), "seeds": len(by_seed)}
                if kind in DIVERGENCES and (episodes := sum(own[index].get(EPISODES, 0) for index in values)):
                    n["episodes"] = int(episodes)
                about = {**fields, **subject(config), "n": n}
                yield _measure(kind, list(values.values()), [float(np.mean(one)) for one in by_seed.values()], about)


def _measure(kind: str, values: Sequence[float], by_seed: Sequence[float], about: dict[str, Any]) -> Estimate:
    """The mean over checkpoints, with Student's t interval over seeds where there are enough."""
    mean = float(np.mean(values))
    if kind in COUNTED or len(by_seed) < MIN_SEEDS:
        return Estimate(kind=kind, estimator=MEASURED, value=mean, **about)
    half = t_quantile(len(by_seed) - 1) * float(np.std(by_seed, ddof=1) / np.sqrt(len(by_seed)))
    low = max(mean - half, 0.0) if kind in DIVERGENCES else mean - half
    interval = (low, mean + half)
    return Estimate(
        kind=kind, estimator=MEASURED, value=mean, interval=interval, claim="recipe", resampled=("seeds",), **about
    )


# --- health -----------------------------------------------------------------------------------------------------


def _signs(design: Design, index: int, measures: Measures) -> dict[str, float]:
    """What the test episodes of a checkpoint look like, and how far its training moved it; none without episodes."""
    table = design.panel.trajectories
    mask = design.panel.tested & (table.checkpoint == index)
    if not mask.any():
        return {}
    tokens = table.tokens[mask]
    signs = {
        "invalid_calls": float(table.invalid_calls[mask].mean()),
        "instant_finish": float(((table.calls + table.invalid_calls)[mask] == 0).mean()),
    }
    asked, value = design.panel.cells.asked[mask], design.panel.cells.value[mask]
    judged = asked.any(axis=(1, 2))
    if judged.any():
        signs["missing"] = float((asked & ~np.isfinite(value)).any(axis=(1, 2))[judged].mean())
    if np.isfinite(tokens).any():
        signs["tokens"] = float(np.nanmean(tokens))
    taken = measures.get(table.checkpoints[index].id, {})
    names = ("drift_chosen", "drift_rejected", "kl_parent", "distinct_share")
    return signs | {name: taken[name] for name in names if np.isfinite(taken.get(name, np.nan))}


def _mean_signs(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in found for name in one)
    return {name: float(np.mean([one[name] for one in found if name in one])) for name in names}


def _worst_signs(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The value farthest on the bad side of each sign whose gate looks at single checkpoints."""
    values = {name: [one[name] for one in found if name in one] for name in WORST}
    return {name: max(some, key=WORST[name]) for name, some in values.items() if some}


def _gates(own: Mapping[str, float], worst: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, ...]:
    """The declared thresholds that a checkpoint group passes, in words."""
    fired = []
    if own["invalid_calls"] - base.get("invalid_calls", 0.0) > MORE_INVALID_CALLS:
        fired.append(
            f"invalid calls per episode: {own['invalid_calls']:.2f}, base {base.get('invalid_calls', 0.0):.2f}"
        )
    if own["instant_finish"] - base.get("instant_finish", 0.0) > MORE_INSTANT_FINISHES:
        fired.append(
            f"episodes without a call: {own['instant_finish']:.0%}, base {base.get('instant_finish', 0.0):.0%}"
        )
    if "tokens" in own and "tokens" in base and own["tokens"] < SHORTER_THAN_BASE * base["tokens"]:
        fired.append(f"mean length: {own['tokens']:.1f} tokens, base {base['tokens']:.1f}")
    if worst.get("missing", 0.0) - base.get("missing", 0.0) > MORE_MISSING:
        fired.append(f"episodes without a score: {worst['missing']:.0%} at worst, base {base.get('missing', 0.0):.0%}")
    if abs(worst.get("drift_chosen", 0.0)) > CHOSEN_DRIFT:
        fired.append(f"log-probability of chosen answers moved by {worst['drift_chosen']:+.0f} nats at worst")
    if worst.get("drift_rejected", 0.0) < REJECTED_DRIFT:
        fired.append(f"log-probability of rejected answers moved by {worst['drift_rejected']:+.0f} nats at worst")
    if worst.get("kl_parent", 0.0) > KL_FROM_PARENT:
        fired.append(f"KL from the parent: {worst['kl_parent']:.1f} nats at worst")
    if own.get("distinct_share", 1.0) < LEAST_DISTINCT:
        fired.append(f"distinct trajectories: {own['distinct_share']:.0%}")
    return tuple(fired)


def health_rows(design: Design, measures: Measures) -> Iterator[Estimate]:
    """Signs of degenerate training for every base × configuration, and whether a declared threshold is passed."""
    signs: dict[int, dict[str, float]] = {}

    def read(keys: Sequence[Key], config: Config) -> list[dict[str, float]]:
        found = _checkpoints(design, keys, config)
        for index in found:
            if index not in signs:
                signs[index] = _signs(design, index, measures)
        return [signs[index] for index in found if signs[index]]

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
    mean, base = _mean_signs(own), _mean_signs(home)
    for kind, value in mean.items():
        yield Estimate(kind=kind, estimator=MEASURED, value=value, **about)
        if trained and kind in base:
            yield Estimate(kind=f"{kind}_vs_base", estimator=MEASURED, value=value - base[kind], **about)
    if trained and mean:
        fired = _gates(mean, _worst_signs(own), base)
        yield Estimate(kind="degenerate", estimator=POOLED, value=float(bool(fired)), caveats=fired, **about)
