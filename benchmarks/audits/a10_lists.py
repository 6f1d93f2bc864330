"""A10: false verdicts in a list of comparisons, by its correction."""

from __future__ import annotations

import numpy as np
from gated import decide, share

from audits.rows import Row
from holdfast.decisions.gate.verdicts import correct_for_number
from holdfast.records import Outcome, Verdict
from holdfast.report.sections.gate import count_errors
from holdfast.study.rules import GateSection

ITEM = "A10"
CLAIM = (
    "A list says how likely a false verdict in it is; Holm's rule keeps that at 5 %, the other the share among PASSes."
)
COMPARISONS, CASES = 20, 150
DRAWS = 100


def draw_list(rules: GateSection, lost: int, rng: np.random.Generator) -> list[Verdict]:
    """Verdicts: the first ``lost`` are on children that lost exactly the margin, the others on unchanged ones."""
    found = []
    for number in range(COMPARISONS):
        parent = np.where(rng.random((CASES, 1)) < 0.3, 2.0, 3.0)
        fell = rng.random((CASES, 1)) < rules.margin / 2  # by two points each
        child = parent - 2.0 * fell if number < lost else np.where(rng.random((CASES, 1)) < 0.3, 2.0, 3.0)
        found.append(decide(parent, child, rules, checks=("safety",)))
    return found


def measure(scale: float = 1.0) -> list[Row]:
    """How many lists have a false PASS, and which share of the PASSes is false."""
    draws = max(20, round(DRAWS * scale))
    rows = []
    for across, lost in (("none", COMPARISONS), ("holm", COMPARISONS), ("holm", 10), ("bh", 10)):
        rules = GateSection(across=across)
        rng = np.random.default_rng(1000)
        false, shares = [], []
        told = 0.0
        for _ in range(draws):
            verdicts = correct_for_number(draw_list(rules, lost, rng), rules)
            passed = [one.outcome is Outcome.PASS for one in verdicts]
            false.append(any(passed[:lost]))
            shares.append(sum(passed[:lost]) / max(sum(passed), 1))
            told = count_errors(verdicts)["any_false_pass"]
        words = f"across = {across}, {lost} of {COMPARISONS} children have lost the margin"
        value, error = share(false)
        high = None if across == "bh" else told
        rows.append(Row(case=f"lists with a false PASS: {words}", value=value, error=error, high=high))
        if across == "bh":
            spread = float(1.96 * np.std(shares, ddof=1) / np.sqrt(draws))
            rows.append(
                Row(case=f"false among the PASSes: {words}", value=float(np.mean(shares)), error=spread, high=0.05)
            )
    return rows
