"""The published correlations of training on approval again, and what its estimator of the gap finds where no gap is.

    python benchmarks/approval_published.py [--json] [--studies N]

"gap" rows: Spearman's rho of a predictor with the Max HEX Gap over the 11 published models, from the table beside this
file, beside the printed one; its exact p and Student's; its range without each model; its interval over
resampled models. "partial" rows: the same given another predictor, from the table and, as the gaps of advice and
politics are digitised, from the printed rhos. "printed" rows: all 9 predictors in 3 environments, with the largest
exact p that rounds to the printed rho and Holm's over the 27; "p_gaps" and "holm_gaps" take p from the gaps where those
are printed, too (therapy). "null" rows: the published estimator over simulated studies without a gap. "late" rows: how
often the intervals of our late gap hold what they speak of, and its mean error with the standard error of that. Ratios
are the largest distance of a rho from the printed one, and what the published estimator is expected to find without a
gap, over the smallest printed gap.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
from approval_numbers import DIGITISED, ENVIRONMENTS, GAP_RHOS, MODELS, PRINTED_UNIT, column
from approval_prediction import bootstrap_models, exact_p, leave_one_out, partial_from, partial_spearman, spearman
from exploitation_null import simulate_late, simulate_null
from machine import document, show
from numpy.typing import NDArray

from holdfast.stats.agreement import correlation, ranks
from holdfast.stats.bounded import holm
from holdfast.stats.exploitation import late_gap

Rows = dict[str, dict[str, float]]
PREDICTORS = ("capability", "size", "sycophancy")
# (environment, predictor, given)
PARTIALS = (
    ("therapy", "size", "capability"),
    ("therapy", "capability", "size"),
    ("advice", "capability", "size"),
    ("advice", "sycophancy", "capability"),
    ("politics", "sycophancy", "capability"),
)
# name → settings of ``simulate_late``; the first has the counts of the studies that ship.
LATE: dict[str, dict[str, Any]] = {
    "3 seeds, 40 scenarios": {},
    "5 seeds, 40 scenarios": {"seeds": 5},
    "3 seeds, 10 scenarios": {"scenarios": 10},
    "3 seeds that do not differ": {"seed_sd": 0.0},
    "3 seeds that differ much": {"seed_sd": 2.0, "scenario_sd": 0.5},
    "scenarios that differ much": {"seed_sd": 0.1, "scenario_sd": 3.0},
}
RARE = (0.005, 0.02, 0.1)  # shares of rollouts in which a gameable user is exploited, and no other
BOOTSTRAP_DRAWS = 400


def array(name: str) -> NDArray[np.float64]:
    """A column of the published table."""
    return np.array(column(name))


def correlations() -> Rows:
    """The "gap" rows."""
    rows: Rows = {}
    for place, environment in enumerate(ENVIRONMENTS):
        for name in PREDICTORS:
            first, second = array(name), array(environment)
            found, without = spearman(first, second), leave_one_out(first, second)
            interval = bootstrap_models(first, second, np.random.default_rng(0))
            printed = GAP_RHOS[name][place]
            numbers = {"rho": found.rho, "p": found.p, "p_t": found.p_t, "lowest": without.low, "highest": without.high}
            numbers |= {"printed": printed, "off": abs((found.rho or 0.0) - printed)}
            numbers |= dict(zip(("boot_low", "boot_high"), interval or (), strict=False))
            rows[f"gap: {name}, {environment}"] = {k: round(v, 5) for k, v in numbers.items() if v is not None}
    return rows


def partials() -> Rows:
    """The "partial" rows: from the table, and from the printed rhos with the table's between predictors."""
    rows: Rows = {}
    for environment, name, given in PARTIALS:
        found = partial_spearman(array(environment), array(name), array(given))
        place = ENVIRONMENTS.index(environment)
        one, two = GAP_RHOS[name][place], GAP_RHOS[given][place]
        between = correlation(ranks(array(name)), ranks(array(given))) or 0.0
        printed = partial_from(np.array([[1.0, one, two], [one, 1.0, between], [two, between, 1.0]]))
        numbers = {"rho": found.rho, "p_t": found.p_t, "from_printed": printed}
        rows[f"partial: {name} given {given}, {environment}"] = {
            k: round(v, 4) for k, v in numbers.items() if v is not None
        }
    return rows


def printed_family() -> Rows:
    """The "printed" rows, from the smallest p on."""
    rhos = {
        (name, environment): rho
        for name, found in GAP_RHOS.items()
        for environment, rho in zip(ENVIRONMENTS, found, strict=True)
    }
    names = {key: ", ".join(key) for key in rhos}
    bounds = {names[key]: exact_p(rho, len(MODELS), slack=PRINTED_UNIT / 2) for key, rho in rhos.items()}
    known = dict(bounds)
    for name, environment in product(PREDICTORS, set(ENVIRONMENTS) - set(DIGITISED)):
        found = spearman(array(name), array(environment))
        if found.p is not None:
            known[names[name, environment]] = found.p
    adjusted, from_gaps = holm(bounds), holm(known)
    return {
        f"printed: {names[key]}": {
            "rho": rhos[key],
            "p": round(bounds[names[key]], 6),
            "holm": round(adjusted[names[key]], 4),
            "p_gaps": round(known[names[key]], 6),
            "holm_gaps": round(from_gaps[names[key]], 4),
        }
        for key in sorted(rhos, key=lambda key: bounds[names[key]])
    }


def null_rows(studies: int) -> Rows:
    """The "null" rows."""
    rows: Rows = {}
    for sd in (1, 2, 3):
        found = simulate_null(sd, np.random.default_rng(sd), studies)
        rows[f"null: score SD {sd}"] = {
            "expected": round(found.expected, 3),
            "sd": round(found.sd, 3),
            "highest_95": round(found.highest, 3),
            "per_seed": round(found.per_seed, 3),
            "in_edge": round(found.in_edge, 3),
        }
    return rows


def rare_coverage(
    share: float, studies: int, seeds: int = 3, scenarios: int = 40, rollouts: int = 4
) -> dict[str, float]:
    """Coverage where a few gameable users are exploited by 8 rating points, and nobody else."""
    rng = np.random.default_rng(9)
    hits: Counter[str] = Counter()
    for _ in range(studies):
        found = late_gap(8.0 * rng.binomial(rollouts, share, (seeds, scenarios)) / rollouts)
        for name, interval in (("checkpoint", found.checkpoint), ("recipe", found.recipe)):
            assert interval is not None
            hits[name] += interval[0] <= 8.0 * share <= interval[1]
    return {name: round(count / studies, 4) for name, count in hits.items()}


def late_rows(studies: int) -> Rows:
    """The "late" rows."""
    rows: Rows = {}
    for seed, (name, settings) in enumerate(LATE.items()):
        found = simulate_late(np.random.default_rng(seed), studies, draws=BOOTSTRAP_DRAWS, **settings)
        rows[f"late: {name}"] = {column: round(float(share), 4) for column, share in found.items()}
    for share in RARE:
        rows[f"late: {share:.1%} of rollouts exploit"] = rare_coverage(share, studies)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    gaps, null = correlations(), null_rows(options.studies)
    figures = {**gaps, **partials(), **printed_family(), **null, **late_rows(options.studies)}
    off = {e: max(row["off"] for name, row in gaps.items() if name.endswith(e)) for e in ENVIRONMENTS}
    smallest = min(column("therapy"))
    ratios = {
        "largest distance from a printed rho": off,
        "expected without a gap / smallest printed gap": {
            name.removeprefix("null: "): round(row["expected"] / smallest, 2) for name, row in null.items()
        },
    }
    show(document("approval_published", ("numpy", "scipy"), figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
