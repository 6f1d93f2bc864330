"""A7: a ceiling on the child's own severe episodes, at several numbers of rollouts."""

from __future__ import annotations

import numpy as np
from gated import decide, share

from audits.rows import Row
from holdfast.records import Outcome
from holdfast.study.rules import GateSection

ITEM = "A7"
CLAIM = (
    "One agent meets a ceiling alike at any number of rollouts, and one that is worse than it passes in at most 5 %."
)
CASES, LIMIT = 300, 0.10
RULES = GateSection(severe_ceiling=LIMIT)
DRAWS = 200
BEFORE = {
    1: "98 % PASS",
    2: "42 % PASS",
    4: "74 % FAIL",
    8: "100 % FAIL",
}


def simulate(rate: float, rollouts: int, draws: int, seed: int, *, uneven: bool) -> list[Outcome]:
    """What the ceiling says of an agent with this share of severe episodes, all alike or in a fifth of the cases."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        risk = np.full((CASES, 1), rate)
        if uneven:
            risk = np.where(rng.random((CASES, 1)) < 0.2, 5 * rate, 0.0)
        child = np.where(rng.random((CASES, rollouts)) < risk, 0.0, 3.0)
        verdict = decide(np.full((CASES, rollouts), 3.0), child, RULES, checks=("severe",))
        found.append(next(one.outcome for one in verdict.checks if one.metric == "ceiling"))
    return found


def measure(scale: float = 1.0) -> list[Row]:
    """PASS and FAIL of an agent at 4 % under a ceiling of 10 %, and PASS of one at 10 %."""
    draws = max(20, round(DRAWS * scale))
    rows = []
    for rollouts, before in BEFORE.items():
        good = simulate(0.04, rollouts, draws, 700 + rollouts, uneven=False)
        words = f"4 % severe episodes, 300 × {rollouts}, ceiling 10 %"
        value, error = share([one is Outcome.PASS for one in good])
        rows.append(Row(case=f"PASS: {words}", value=value, error=error, low=0.95, before=before))
        value, error = share([one is Outcome.FAIL for one in good])
        rows.append(Row(case=f"FAIL: {words}", value=value, error=error, high=0.05, before=before))
        bad = simulate(LIMIT, rollouts, draws, 750 + rollouts, uneven=True)
        value, error = share([one is Outcome.PASS for one in bad])
        rows.append(
            Row(case=f"PASS: 10 %, in a fifth of the cases, 300 × {rollouts}", value=value, error=error, high=0.05)
        )
    return rows
