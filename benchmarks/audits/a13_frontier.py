"""A13: "beyond the line" where all recipes lie on one line, and where all lie on one curve."""

from __future__ import annotations

import numpy as np
from simulated_study import quick_layout, simulate

from audits.rows import Row
from holdfast.analysis import frontier
from holdfast.analysis.design import by_base
from holdfast.stats.lines import BENT

ITEM = "A13"
CLAIM = "a bend of the frontier is not taken for a recipe that leaves it, and checkpoints speak of themselves only"
DRAWS = 150
SPAN, SAG = 1.35, 0.14
PLACES = {("S",): 0.0, ("H",): 1.0, ("S", "H"): 0.7, ("H", "S"): 0.35, ("S&H",): 0.5}


def _truth(sag: float) -> dict[tuple[str, ...], tuple[float, float]]:
    """(helpfulness, safety) of each recipe on the curve with this sag, and a base below it."""
    found = {}
    for lineage, place in PLACES.items():
        bulge = 4 * sag * place * (1 - place) / np.sqrt(2)
        found[lineage] = (0.9 + SPAN * place / np.sqrt(2) + bulge, 1.95 - SPAN * place / np.sqrt(2) + bulge)
    return {(): (1.2, 1.2), **found}


def measure(scale: float = 1.0) -> list[Row]:
    """How often S&H is said to be beyond the line, by the truth and the claim."""
    rng = np.random.default_rng(13)
    draws = max(20, round(DRAWS * scale))
    rows = []
    befores = {(0.0, "recipe"): "1.3–1.7 %", (SAG, "recipe"): "15.5 % ±5", (SAG, "checkpoint"): "72 %, no word"}
    for sag, name in ((0.0, "line"), (SAG, "curve")):
        found = {claim: np.zeros(draws) for claim in ("recipe", "checkpoint", "checkpoint, silent")}
        for draw in range(draws):
            design, _ = simulate(quick_layout(3), rng, configs=_truth(sag), seed_spread=0.26)
            means = np.repeat(design.means.reshape(1, -1), 2, axis=0)
            drawn = frontier.draw_cloud(design, by_base(design.keys), design.recipes, means, relative=True)
            for row in frontier.best_of_both_rows(drawn, design, {}, "", looks=False):
                if row.lineage != ("S&H",) or not isinstance(row.interval, tuple) or row.interval[0] <= 0:
                    continue
                found[row.claim][draw] = not any(caveat.startswith(BENT) for caveat in row.caveats)
                if row.claim == "checkpoint":
                    found["checkpoint, silent"][draw] = frontier.THESE_WEIGHTS not in row.caveats
        for claim, values in found.items():
            share = float(values.mean())
            error: float | None = 1.96 * float(np.sqrt(max(share * (1 - share), 1 / draws) / draws))
            high = {"recipe": 0.05, "checkpoint, silent": 0.0}.get(claim)
            case = f"S&H beyond the {name} without a word on bends, {claim}"
            if claim == "checkpoint, silent":
                case, error = f"S&H beyond the {name}, not said to be of these weights only", None
            rows.append(Row(case=case, value=share, error=error, high=high, before=befores.get((sag, claim), "")))
    return rows
