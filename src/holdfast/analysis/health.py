"""Dose curves of the last stage, and signs of degenerate training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.design import (
    BASE,
    DOSE,
    HELP_STAGE,
    HELPFULNESS,
    SAFE_STAGE,
    SAFETY,
    Design,
    contrast,
    levels,
    over,
    subject,
    without_dose,
)
from holdfast.analysis.panel import Config
from holdfast.analysis.pooled import POOLED, differences, ratios
from holdfast.records import Estimate

Floats = NDArray[np.float64]
Measures = Mapping[str, Mapping[str, float]]

MEASURED = "measured"
MORE_INVALID_CALLS = 0.3  # per episode, above the base
MORE_INSTANT_FINISHES = 0.4  # share of episodes without any call, above the base
SHORTER_THAN_BASE = 0.7  # mean tokens, as a share of the base's
CHOSEN_DRIFT = 40.0  # nats that the chosen answers' log-probability may move, either way
LEAST_DISTINCT = 0.3  # share of distinct trajectories among those sampled


def dose_rows(design: Design, measures: Measures) -> Iterator[Estimate]:
    """Erosion, retained and persistence at each dose of the last stage, and each stage's measured dose."""
    for objective, first, second in ((SAFETY, SAFE_STAGE, HELP_STAGE), (HELPFULNESS, HELP_STAGE, SAFE_STAGE)):
        if objective not in design.panel.objectives:
            continue
        for config in design.configs:
            if config[0] == (first, second) and DOSE in dict(config[1]):
                yield from _at_dose(design, objective, config)
    yield from _measured(design, measures)


def _at_dose(design: Design, objective: str, config: Config) -> Iterator[Estimate]:
    """The three quantities of one two-stage configuration against its first and second stage alone."""
    core, number = without_dose(config[1]), design.objective(objective)
    first, second = (design.main((stage,), core) for stage in config[0])
    if first is None or second is None:
        return
    for fields, keys in levels(design.keys_with([config, first, second])):
        about: dict[str, Any] = {**fields, **subject(config), "objective": objective}
        bottom = contrast(design, number, over(keys, (first, 1.0), (second, -1.0)))
        top = contrast(design, number, over(keys, (config, 1.0), (second, -1.0)))
        lost = contrast(design, number, over(keys, (config, 1.0), (first, -1.0)))
        yield from differences(design, lost, "erosion", **about)
        yield from differences(design, top, "retained", **about)
        yield from ratios(design, top, bottom, **about)


def _checkpoints(design: Design, keys: Sequence[tuple[str, str]], config: Config) -> list[int]:
    rows = [row for key in keys for row in design.cells[(*key, config)].values()]
    return sorted({design.panel.rows[row].checkpoint for row in rows})


def _mean_measures(design: Design, found: Sequence[int], measures: Measures) -> dict[str, tuple[float, int]]:
    """The mean of every measure over checkpoints that have it, with their number."""
    own = [measures.get(design.panel.trajectories.checkpoints[index].id, {}) for index in found]
    names = dict.fromkeys(name for one in own for name in one)
    values = {name: [one[name] for one in own if name in one and np.isfinite(one[name])] for name in names}
    return {name: (float(np.mean(some)), len(some)) for name, some in values.items() if some}


def _measured(design: Design, measures: Measures) -> Iterator[Estimate]:
    for config in design.configs:
        for fields, keys in levels(design.keys_with([config])):
            if "judge" in fields:
                continue
            found = _mean_measures(design, _checkpoints(design, keys, config), measures)
            for kind, (value, count) in found.items():
                about = {**fields, **subject(config), "n": {"checkpoints": count}}
                yield Estimate(kind=kind, estimator=MEASURED, value=value, **about)


# --- health -----------------------------------------------------------------------------------------------------


def _signs(design: Design, found: Sequence[int], measures: Measures) -> dict[str, float]:
    """What the test episodes of some checkpoints look like; tokens only where they are known."""
    table = design.panel.trajectories
    mask = design.panel.tested & np.isin(table.checkpoint, np.asarray(found, dtype=np.int64))
    if not mask.any():
        return {}
    tokens = table.tokens[mask]
    signs = {
        "invalid_calls": float(table.invalid_calls[mask].mean()),
        "instant_finish": float(((table.calls + table.invalid_calls)[mask] == 0).mean()),
    }
    if np.isfinite(tokens).any():
        signs["tokens"] = float(np.nanmean(tokens))
    taken = _mean_measures(design, found, measures)
    signs |= {name: taken[name][0] for name in ("drift_chosen", "drift_rejected", "distinct_share") if name in taken}
    return signs


def _gates(own: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, ...]:
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
    if abs(own.get("drift_chosen", 0.0)) > CHOSEN_DRIFT:
        fired.append(f"log-probability of chosen answers moved by {own['drift_chosen']:+.0f} nats")
    if own.get("distinct_share", 1.0) < LEAST_DISTINCT:
        fired.append(f"distinct trajectories: {own['distinct_share']:.0%}")
    return tuple(fired)


def health_rows(design: Design, measures: Measures) -> Iterator[Estimate]:
    """Signs of degenerate training for every base × configuration, and whether a declared threshold is passed."""
    home = {
        base: _signs(
            design, _checkpoints(design, [key for key in design.keys_with([BASE]) if key[0] == base], BASE), {}
        )
        for base in dict.fromkeys(key[0] for key in design.keys)
    }
    for config in design.configs:
        for fields, keys in levels(design.keys_with([config])):
            if "judge" in fields or "base" not in fields:
                continue
            found = _checkpoints(design, keys, config)
            own, base = _signs(design, found, measures), home[fields["base"]]
            about: dict[str, Any] = {**fields, **subject(config), "n": {"checkpoints": len(found)}}
            for kind, value in own.items():
                yield Estimate(kind=kind, estimator=MEASURED, value=value, **about)
                if config != BASE and kind in base:
                    yield Estimate(kind=f"{kind}_vs_base", estimator=MEASURED, value=value - base[kind], **about)
            if config != BASE and own:
                fired = _gates(own, base)
                yield Estimate(kind="degenerate", estimator=POOLED, value=float(bool(fired)), caveats=fired, **about)
