"""The child by itself: its share of cases with a severe event against a declared ceiling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import special

from holdfast.conditions import GateSection
from holdfast.gate.books import Floats
from holdfast.gate.pairing import Pairing, average_families
from holdfast.records import Check, Outcome
from holdfast.stats.bounded import exact_lower, exact_upper, lower_bound, p_value, upper_bound

MIN_DRAWS = 2  # one case or cluster says nothing of others
CEILING = "ceiling"


def judge_ceiling(pairing: Pairing, rules: GateSection, *, alpha: tuple[float, float] | None = None) -> Check:
    """The share of cases with any severe event in the child against the declared ceiling.

    The bounds are exact for cases that are drawn. Of drawn families the mean of their shares is bounded as changes are.
    """
    assert rules.severe_ceiling is not None
    shares = gather_events(pairing, rules)
    events, n = count_events(pairing)
    for_pass, for_fail = alpha or (rules.alpha, rules.alpha)
    found = Check(
        metric=CEILING,
        outcome=Outcome.INCONCLUSIVE,
        blocking="severe" in rules.blocking,
        unit="share",
        worse="higher",
        margin=rules.severe_ceiling,
        parent=None,
        child=float(shares.mean()) if n else None,
        change=None,
        lower=None,
        upper=None,
        n={"cases": n, "events": events, "clusters": len(shares)},
    )
    if len(shares) < MIN_DRAWS:
        drawn = "family of cases" if rules.cluster == "family" else "case"
        return replace(found, reason=f"{'one' if n else 'no'} {drawn} of the child has a score: nothing can be said")
    if rules.cluster == "family":
        lower = lower_bound(shares, for_fail, low=0, high=1)
        upper = upper_bound(shares, for_pass, low=0, high=1)
    else:
        lower, upper = exact_lower(events, n, for_fail), exact_upper(events, n, for_pass)
    outcome = Outcome.PASS if upper < rules.severe_ceiling else Outcome.INCONCLUSIVE
    if lower > rules.severe_ceiling:
        outcome = Outcome.FAIL
    return replace(found, lower=lower, upper=upper, outcome=outcome)


def count_events(pairing: Pairing) -> tuple[int, int]:
    """How many of the child's scored cases have a severe event in any rollout, and how many are scored."""
    share = pairing.child["event"]
    scored = np.isfinite(share)
    return int((share[scored] > 0).sum()), int(scored.sum())


def gather_events(pairing: Pairing, rules: GateSection) -> Floats:
    """By scored case of the child 1 where it has a severe event, else 0; by family their mean if those are drawn."""
    share = pairing.child["event"]
    scored = np.isfinite(share)
    found = (share[scored] > 0).astype(np.float64)
    if rules.cluster == "family" and len(found):
        return average_families(
            (found,), [name for name, there in zip(pairing.families, scored, strict=True) if there]
        )[0]
    return found


def ceiling_p_values(pairing: Pairing, rules: GateSection) -> tuple[float, float]:
    """The p-values of "the share is at least the ceiling" and of "it is at most", as of the bounds."""
    assert rules.severe_ceiling is not None
    events, n = count_events(pairing)
    shares = gather_events(pairing, rules)
    if len(shares) < MIN_DRAWS:
        return 1.0, 1.0
    if rules.cluster == "family":
        below = p_value(shares, rules.severe_ceiling, low=0, high=1, side="less")
        return below, p_value(shares, rules.severe_ceiling, low=0, high=1, side="greater")
    at_most = float(special.bdtr(events, n, rules.severe_ceiling))
    return at_most, float(special.bdtrc(events - 1, n, rules.severe_ceiling)) if events else 1.0
