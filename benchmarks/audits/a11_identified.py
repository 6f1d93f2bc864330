"""A11: how often a persistence is printed where there is no gap at all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from simulated_study import CONFIGS, quick_layout, simulate

from audits.rows import Row
from holdfast.analysis import pooled
from holdfast.analysis.design import contrast, over
from holdfast.records import Estimate

ITEM = "A11"
CLAIM = "a ratio is printed only where its set is bounded: without any gap in at most 5 % of studies"
DRAWS = 700
BEFORE = {"recipe": "6.6 % ±1.3"}


def measure(scale: float = 1.0) -> list[Row]:
    """The share of studies that print a ratio, by claim, 2 bases × 3 seeds × 300 cases; and with two seeds."""
    rng = np.random.default_rng(11)
    draws = max(40, round(DRAWS * scale))
    flat = dict.fromkeys(CONFIGS, (1.5, 1.5))
    rows = []
    for name, spread in (("seeds differ much", 0.35), ("seeds hardly differ", 0.02)):
        printed = dict.fromkeys(pooled.CLAIMS, 0)
        for _ in range(draws):
            for row in _ratios(rng, flat, 3, spread):
                printed[row.claim] += row.value is not None
        # A checkpoint's own gap is its seeds' luck: it is truly there.
        claims = pooled.CLAIMS if spread < 0.1 else ("recipe",)
        for claim in claims:
            share = printed[claim] / draws
            error = 1.96 * float(np.sqrt(max(share * (1 - share), 1 / draws) / draws))
            high = 0.05 if claim == "recipe" else None
            case = f"printed for a {claim} without a gap, {name}"
            rows.append(Row(case=case, value=share, error=error, high=high, before=BEFORE.get(claim, "")))
    two = [row.value is not None for row in _ratios(rng, CONFIGS, 2, 0.1) if row.claim == "recipe"]
    rows.append(Row(case="recipe ratios printed at two seeds", value=float(sum(two)), high=0, before="1"))
    return rows


def _ratios(
    rng: np.random.Generator, configs: Mapping[tuple[str, ...], tuple[float, float]], seeds: int, spread: float
) -> list[Estimate]:
    """Persistence of S,H over all bases of one simulated study."""
    design, _ = simulate(quick_layout(seeds), rng, configs=configs, seed_spread=spread)
    safety = design.objective("safety")
    first, second, both = (("S",), ()), (("H",), ()), (("S", "H"), ())
    top = contrast(design, safety, over(design.keys, (both, 1.0), (second, -1.0), (first, 0.0)))
    bottom = contrast(design, safety, over(design.keys, (first, 1.0), (second, -1.0), (both, 0.0)))
    return list(pooled.ratios(design, top, bottom))
