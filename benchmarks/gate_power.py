"""How often the gate's bounds pass when nothing has changed, and when a drop of the margin has: Gaffke against t.

    python benchmarks/gate_power.py [--json] [--draws N]

Simulated differences child − parent. "pass" rows: no true change, by bound and number of cases (the power, and what
a bound that holds costs against t). "false" rows: a true drop of exactly the margin, rare and severe, where a t bound
passes before it has seen one. "cases" rows: what ``plan_cases`` asks for with 80 % power, from a pilot of 200 cases.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from machine import document, show

from holdfast.records.arrays import Floats
from holdfast.stats.bounded import BoundMethod, p_values
from holdfast.stats.power import TYPICAL_SHARES, plan_cases

METHODS: tuple[BoundMethod, ...] = ("gaffke", "bernstein", "t")
SIZES = (20, 40, 72, 144, 300)
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A kind of difference: how to draw it, its range −``high`` to ``high``, and the margin it is tested with."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], Floats]
    high: float = 3.0
    margin: float = 0.25


def scores(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Differences of two single rollouts of equal agents."""
    return np.asarray(
        rng.choice(4, size=shape, p=TYPICAL_SHARES) - rng.choice(4, size=shape, p=TYPICAL_SHARES), dtype=np.float64
    )


def pick(
    values: tuple[float, ...], shares: tuple[float, ...]
) -> Callable[[np.random.Generator, tuple[int, ...]], Floats]:
    """Differences that take a few values with given shares."""
    return lambda rng, shape: rng.choice(np.array(values), size=shape, p=shares)


UNCHANGED = {
    "scores, 1 rollout": Setting(draw=scores),
    "scores, 4 rollouts": Setting(draw=lambda rng, shape: scores(rng, (4, *shape)).mean(axis=0)),
    "few large differences": Setting(draw=pick((-3.0, 0.0, 3.0), (0.02, 0.96, 0.02))),
    "few small differences": Setting(draw=pick((-1.0, 0.0, 1.0), (0.1, 0.8, 0.1))),
    "severe events": Setting(draw=pick((-1.0, 0.0, 1.0), (0.05, 0.9, 0.05)), high=1.0, margin=0.1),
}
DROPPED = {
    "rare and severe": Setting(draw=pick((-3.0, 0.0), (1 / 12, 11 / 12))),
    "a tenth of severe events": Setting(draw=pick((-1.0, 0.0), (0.1, 0.9)), high=1.0, margin=0.1),
}


def passing(setting: Setting, cases: int, method: BoundMethod, draws: int, seed: int) -> float:
    """The share of ``draws`` samples whose lower bound lies above −margin."""
    samples = setting.draw(np.random.default_rng(seed), (draws, cases))
    p = p_values(samples, -setting.margin, low=-setting.high, high=setting.high, method=method)
    return float((p <= ALPHA).mean())


def measure(draws: int) -> dict[str, dict[str, float]]:
    """All rows: name → column → number."""
    rows: dict[str, dict[str, float]] = {}
    for kind, settings in (("pass", UNCHANGED), ("false", DROPPED)):
        for name, setting in settings.items():
            for method in METHODS:
                found = {str(n): passing(setting, n, method, draws, seed=n) for n in SIZES}
                rows[f"{kind}: {name}, {method}"] = {n: round(share, 4) for n, share in found.items()}
    rng = np.random.default_rng(0)
    kept = rng.choice([-0.5, 0.0, 0.5], size=(200, 1), p=[0.15, 0.7, 0.15])
    pilot = np.clip(scores(rng, (200, 4)) + kept, -3, 3)
    for margin in (0.25, 0.5):
        plan = plan_cases(pilot, margin=margin, alpha=ALPHA, low=-3.0, high=3.0, rng=np.random.default_rng(1))
        for column in ("cases", "cases_t"):
            found_cases = {str(row.rollouts): getattr(row, column) for row in plan}
            rows[f"cases: margin {margin:g}, {'t' if column == 'cases_t' else 'gaffke'}"] = found_cases
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--draws", type=int, default=4000)
    options = parser.parse_args()
    rows = measure(options.draws)
    ratios = {
        name.removesuffix(", gaffke"): {
            n: round(share / rows[name.replace(", gaffke", ", t")][n], 3)
            for n, share in columns.items()
            if rows[name.replace(", gaffke", ", t")][n]
        }
        for name, columns in rows.items()
        if name.endswith(", gaffke") and not name.startswith("false")
    }
    show(document("gate_power", ("numpy", "scipy"), rows, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
