"""A5: intervals of differences and means where losses are rare and severe, through sample, spread and interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from audits.rows import Row
from holdfast.records.arrays import Floats
from holdfast.stats.contrasts import interval, sample_of, spread, t_quantile

ITEM = "A5"
CLAIM = "95 % intervals of score points cover at least 93 % where losses are rare and severe, and have width"

DRAWS = 1200
CHANGES, RARITIES = (-3.0, -1.0, 3.0, 1.0), (0.01, 0.02, 0.05, 0.1)
BEFORE: Mapping[tuple[int, float], str] = {
    (20, 0.01): "18 %",
    (20, 0.02): "34 %",
    (20, 0.05): "64 %",
    (20, 0.1): "88 %",
    (72, 0.01): "51 %",
    (72, 0.02): "78 %",
    (144, 0.01): "77 %",
    (300, 0.01): "80 %",
}
# Changes of a case → their probabilities, all others none: what a single size of loss would not show.
MIXTURES: dict[str, dict[float, float]] = {
    "−1 in 5 %, −3 in 2 %": {-1.0: 0.05, -3.0: 0.02},
    "+3 in 2 %, −3 in 2 %": {3.0: 0.02, -3.0: 0.02},
    "−0.25 in 10 %, −3 in 2 %": {-0.25: 0.1, -3.0: 0.02},
}
WIDEST = {(300, 0.1): 1.2, (144, 0.05): 1.5}  # of Student's interval, in the median


PAIR = np.array([1.0, -1.0])


def measure(scale: float = 1.0) -> list[Row]:
    """Coverage by size, sign and rarity of the change, and widths against Student's."""
    rng = np.random.default_rng(5)
    draws = max(40, round(DRAWS * scale))
    kinds = {f"{change:+.0f} in {q:.0%}": {change: q} for change in CHANGES for q in RARITIES} | MIXTURES
    rows = []
    for name, changes in kinds.items():
        for n in (20, 72, 144, 300):
            truth = sum(change * q for change, q in changes.items())
            studies = _studies(rng, changes, draws, n)
            before = BEFORE.get((n, changes[-3.0]), "") if set(changes) == {-3.0} else ""
            rows.append(_coverage(f"{name} of {n} cases", studies, PAIR, truth, before))
            most = WIDEST.get((n, next(iter(changes.values())))) if len(changes) == 1 else None
            if most is not None:
                ratio = _ratio(studies)
                rows.append(Row(case=f"{name} of {n} cases: median width / Student's", value=ratio, high=most))
    for n in (20, 72, 144, 300):
        for start, end in ((3.0, 0.0), (0.0, 3.0)):
            scores = np.where(rng.random((draws, 1, n)) < 0.02, end, start)
            name = f"mean of {n} cases, {end:.0f} in 2 %, else {start:.0f}"
            rows.append(_coverage(name, scores, np.ones(1), start + 0.02 * (end - start), ""))
    for n in (2, 5, 20, 300):
        found = interval(spread(sample_of(np.array([[1.1] * n, [0.5] * n])), PAIR), seeds=False)
        width = 0.0 if found is None else found[1] - found[0]
        rows.append(Row(case=f"width where {n} cases are alike", value=width, low=3 / (n + 4), before="0"))
    return rows


def _studies(rng: np.random.Generator, changes: Mapping[float, float], draws: int, n: int) -> Floats:
    """Scores of a child and of its parent, which leaves room for the change: (draws, 2, n)."""
    sizes, odds = np.array([*changes, 0.0]), np.array([*changes.values(), 1 - sum(changes.values())])
    moved = rng.choice(sizes, size=(draws, n), p=odds)
    parent = np.where(moved > 0, 3.0 - moved, 3.0)
    return np.stack([parent + moved, parent], axis=1)


def _coverage(name: str, studies: Floats, weights: Floats, truth: float, before: str) -> Row:
    found = np.array([interval(spread(sample_of(one), weights), seeds=False) for one in studies])
    share = float(((found[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= found[:, 1])).mean())
    error = 1.96 * float(np.sqrt(max(share * (1 - share), 1 / len(found)) / len(found)))
    return Row(case=name, value=share, error=error, low=0.93, before=before)


def _ratio(studies: Floats) -> float:
    """The median width over Student's."""
    n = studies.shape[2]
    found = np.array([interval(spread(sample_of(one), PAIR), seeds=False) for one in studies])
    student = 2 * t_quantile(n - 1) * (studies[:, 0] - studies[:, 1]).std(axis=1, ddof=1) / np.sqrt(n)
    return float(np.median(found[:, 1] - found[:, 0]) / np.median(student))
