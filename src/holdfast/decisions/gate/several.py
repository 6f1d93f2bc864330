"""A list of verdicts corrected for its length: by Holm's rule, or by Benjamini and Hochberg's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.records import Outcome, Verdict
from holdfast.stats.bounded import benjamini_hochberg, holm
from holdfast.study.rules import GateSection

ADJUST = {"holm": holm, "bh": benjamini_hochberg}
WORDS = {"holm": "Holm", "bh": "Benjamini and Hochberg"}


def correct_for_number(verdicts: Sequence[Verdict], rules: GateSection) -> list[Verdict]:
    """The verdicts of one list with p-values adjusted for their number, which decide where the rules ask for it.

    The p-value of a PASS is the largest of its deciding checks' (all must pass), that of a FAIL the smallest times
    their number (any may fail; after Holm's rule within a comparison the smallest). A verdict whose adjusted value is
    above ``alpha`` becomes INCONCLUSIVE; none becomes anything else. A list of one is as it is.
    """
    if rules.across == "none" or len(verdicts) < 2:
        return list(verdicts)
    adjust = ADJUST[rules.across]
    raw = [_p_values(one, rules) for one in verdicts]
    places = [str(place) for place in range(len(verdicts))]
    passes, fails = (adjust({place: pair[end] for place, pair in zip(places, raw, strict=True)}) for end in (0, 1))
    return [_decide(one, passes[place], fails[place], rules) for place, one in zip(places, verdicts, strict=True)]


def _p_values(verdict: Verdict, rules: GateSection) -> tuple[float, float]:
    """The p-values of a verdict's PASS and of its FAIL; 1 for what it is not."""
    tested = [one for one in verdict.checks if one.blocking and one.p_pass is not None and one.p_fail is not None]
    many = 1 if rules.combine == "holm" else len(tested)
    for_pass = max((one.p_pass for one in tested if one.p_pass is not None), default=0.0)
    for_fail = min((one.p_fail for one in tested if one.p_fail is not None), default=1.0) * many
    return (
        for_pass if verdict.outcome is Outcome.PASS else 1.0,
        min(1.0, for_fail) if verdict.outcome is Outcome.FAIL else 1.0,
    )


def _decide(verdict: Verdict, for_pass: float, for_fail: float, rules: GateSection) -> Verdict:
    value = {Outcome.PASS: for_pass, Outcome.FAIL: for_fail}.get(verdict.outcome, 0.0)
    found = replace(verdict, p_pass=for_pass, p_fail=for_fail)
    if value <= rules.alpha:
        return found
    told = f"{WORDS[rules.across]} over the list: adjusted p = {value:.2g}, above {rules.alpha:g}"
    note = (
        f"by itself this would be {verdict.outcome.value}, corrected for the number of comparisons it is not ({told})"
    )
    return replace(found, outcome=Outcome.INCONCLUSIVE, note=note)
