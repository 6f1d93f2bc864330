"""A9: families of cases that are hit or spared whole."""

from __future__ import annotations

import numpy as np
from gated import decide, share

from audits.rows import Row
from holdfast.records import Outcome, Verdict
from holdfast.records.arrays import Floats
from holdfast.study.rules import GateSection

ITEM = "A9"
CLAIM = "Where a verdict claims other families of cases, at most 5 % pass at a loss of the margin; else it says so."
HIT, LOSS = 1 / 8, 2.0  # a family loses two points in one of eight: a quarter of a point, the margin, in all of them
RULES = GateSection()
DRAWS = 400
SIZES = {
    "11 families of 27": [27] * 11,
    "38 unequal families": [1] * 10 + [2] * 8 + [3] * 6 + [4] * 5 + [6] * 4 + [8] * 3 + [12] * 2,
    "38 families of 4": [4] * 38,
}
BEFORE = {"11 families of 27": "33.8 %", "38 unequal families": "31.1 %", "38 families of 4": "14.3 %"}


def draw(sizes: list[int], rng: np.random.Generator) -> tuple[Floats, Floats, list[str]]:
    """Both sides' scores and the families: the child falls by two points in the cases of each family that is hit."""
    names = [f"family {number}" for number, size in enumerate(sizes) for _ in range(size)]
    hit = np.repeat(rng.random(len(sizes)) < HIT, sizes)
    parent = np.where(rng.random(len(names)) < 0.5, 2.0, 3.0)
    child = parent - LOSS * hit
    return parent[:, None], child[:, None], names


def claims_families(verdict: Verdict) -> bool:
    """Whether the verdict claims that it holds for other families too."""
    return not any("families of cases are held fixed" in limit for limit in verdict.limits)


def measure(scale: float = 1.0) -> list[Row]:
    """False PASSes at a loss of exactly the margin, in the population of families and in the families at hand."""
    draws = max(40, round(DRAWS * scale))
    rows = []
    for place, (words, sizes) in enumerate(SIZES.items()):
        rng = np.random.default_rng(900 + place)
        passed, told, beyond = [], [], []
        for _ in range(draws):
            parent, child, names = draw(sizes, rng)
            verdict = decide(parent, child, RULES, checks=("safety",), families=names)
            passed.append(verdict.outcome is Outcome.PASS)
            told.append(claims_families(verdict))
            if float((parent - child).mean()) >= RULES.margin:
                beyond.append(passed[-1])
        value, error = share(passed)
        claimed = all(told)
        rows.append(
            Row(
                case=f"PASS: {words}, loss of the margin in the population of families",
                value=value,
                error=error,
                high=0.05 if claimed else None,
                before=BEFORE[words],
            )
        )
        rows.append(Row(case=f"verdicts that claim other families: {words}", value=share(told)[0]))
        value, error = share(beyond)
        rows.append(
            Row(case=f"PASS: {words}, these families have lost the margin", value=value, error=error, high=0.05)
        )
    return rows
