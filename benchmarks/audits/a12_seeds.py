"""A12: recipe intervals with seeds pooled within base and judge: coverage, and the spread of their widths."""

from __future__ import annotations

import numpy as np
from simulated_study import covered, quick_layout, simulate

from audits.rows import Row
from holdfast.analysis import pooled
from holdfast.analysis.design import contrast, over

ITEM = "A12"
CLAIM = "seeds of independent trainings are pooled within base and judge, so that no study's interval is narrow by luck"
DRAWS = 900


def measure(scale: float = 1.0) -> list[Row]:
    """Coverage of the recipe's erosion, and how often it is hardly wider than the checkpoint's."""
    rng = np.random.default_rng(12)
    draws = max(40, round(DRAWS * scale))
    rows = []
    for name, spreads in (("seeds of both bases alike", (0.3, 0.3)), ("one base's seeds differ most", (0.4, 0.05))):
        holds, narrow = np.zeros(draws), np.zeros(draws)
        for draw in range(draws):
            by_base = {f"base-{number}": spread for number, spread in enumerate(spreads)}
            design, truth = simulate(quick_layout(3), rng, seed_spread=by_base)
            one = contrast(
                design, design.objective("safety"), over(design.keys, ((("S", "H"), ()), 1.0), ((("S",), ()), -1.0))
            )
            checkpoint, recipe = pooled.differences(design, one, "erosion")
            assert isinstance(recipe.interval, tuple) and isinstance(checkpoint.interval, tuple)
            holds[draw] = covered(recipe.interval, float(one.weights @ truth.recipe))
            own, wide = (np.ptp(interval) for interval in (checkpoint.interval, recipe.interval))
            narrow[draw] = wide < 1.1 * own
        for case, values, low, high, before in (
            ("recipe interval holds", holds, 0.93, None, ""),
            ("recipe interval hardly wider than the checkpoint's", narrow, None, 0.05, "with 2 degrees, by luck"),
        ):
            share = float(values.mean())
            error = 1.96 * float(np.sqrt(max(share * (1 - share), 1 / draws) / draws))
            rows.append(Row(case=f"{case}, {name}", value=share, error=error, low=low, high=high, before=before))
    return rows
