"""The checks of a gate: each question's number held against its limit, with bounds of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from holdfast.decisions.gate.pairing import FAMILY, Evidence, Pairing, Question, Reach, ask_all, gather
from holdfast.records import Check, Outcome
from holdfast.records.arrays import Floats
from holdfast.records.words import count_noun
from holdfast.report.sections.gate import NOT_MEASURED, format_end, name_metric
from holdfast.stats.bounded import holm, lower_bound, p_value
from holdfast.study.rules import GateSection

MIN_DRAWS = 2  # one case or family says nothing of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds that one set of rules takes, each worked out once."""

    rules: GateSection
    known: dict[tuple[bytes, float, Reach], float] = field(default_factory=dict)

    def lower(self, values: Floats, alpha: float, reach: Reach) -> float:
        """A lower bound of the mean of values within ``reach``."""
        key = (values.tobytes(), alpha, reach)
        if key not in self.known:
            low, high = reach
            self.known[key] = lower_bound(values, alpha, low=low, high=high, method=self.rules.bound)
        return self.known[key]

    def upper(self, values: Floats, alpha: float, reach: Reach) -> float:
        """An upper bound of the mean of values within ``reach``."""
        # 0.0 − x, as −x would make −0.0 of 0.0, and another key of equal values.
        return -self.lower(0.0 - values, alpha, (0.0 - reach[1], 0.0 - reach[0]))

    def test(self, values: Floats, null: float, reach: Reach, side: Literal["greater", "less"]) -> float:
        """The p-value of "the mean is not beyond ``null``" on that side."""
        return p_value(values, null, low=reach[0], high=reach[1], side=side, method=self.rules.bound)


# --- one check ---------------------------------------------------------------------------------------------------


def judge(evidence: Evidence, bounds: Bounds, *, levels: tuple[float, float] | None = None) -> Check:
    """A check at the declared level, or at ``levels``: those of the bounds for PASS and for FAIL.

    It passes where a loss is ruled out and fails where it is shown: by every way of drawing, by what is scored, and by
    whatever the missing scores would have been.
    """
    question, rules = evidence.question, bounds.rules
    blank = replace(
        _blank(question, blocking=question.metric in rules.blocking),
        parent=evidence.parent,
        child=evidence.child,
        change=evidence.change,
        level=None if levels else 1 - rules.alpha,
        adjusted=levels is not None,
        design_effect=evidence.design_effect,
        n={
            "cases": evidence.cases,
            "clusters": evidence.draws,
            "families": evidence.families,
            **{f"{side}_unscored": count for side, count in evidence.lost.items()},
            **{f"{side}_severe_cases": count for side, count in evidence.events.items()},
        },
    )
    if evidence.draws < MIN_DRAWS:
        few = "one" if evidence.draws else "no"
        drawn = "family of cases" if FAMILY in evidence.drawn else "case"
        where = "of the child has a score" if question.absolute else "has a score on both sides"
        return replace(blank, reason=f"{few} {drawn} {where}: nothing can be said of others")
    if _is_flat(evidence, rules):
        return replace(blank, reason=f"all {evidence.draws} changes are equal: a t bound needs them to differ")
    for_pass, for_fail = levels or (rules.alpha, rules.alpha)
    below, above = (for_pass, for_fail) if question.kind.worse == "lower" else (for_fail, for_pass)
    reach = question.reach

    def bound(lowest: Sequence[Floats], highest: Sequence[Floats]) -> tuple[float, float]:
        lower = min(bounds.lower(values, below, reach) for values in lowest)
        return lower, max(bounds.upper(values, above, reach) for values in highest)

    ends = bound(evidence.scored, evidence.scored)
    outcome = read_outcome(question, *ends)
    check = replace(blank, lower=ends[0], upper=ends[1], outcome=outcome)
    if not evidence.least:
        return check
    ends = bound(evidence.least, evidence.most)
    check = replace(check, lower_all=ends[0], upper_all=ends[1])
    reason = _tell_end(check, question, "the", failing=outcome is Outcome.FAIL)
    held = outcome is read_outcome(question, *ends)
    return replace(check, outcome=outcome if held else Outcome.INCONCLUSIVE, reason=reason)


def _blank(question: Question, *, blocking: bool) -> Check:
    """A check without any number, which decides nothing yet."""
    kind = question.kind
    return Check(
        metric=kind.name,
        outcome=Outcome.INCONCLUSIVE,
        blocking=blocking,
        unit=kind.unit,
        worse=kind.worse,
        margin=question.margin,
        words="" if kind.setting else kind.words,
    )


def read_outcome(question: Question, lower: float | None, upper: float | None) -> Outcome:
    """PASS where a loss beyond the limit is ruled out, FAIL where it is shown."""
    if lower is None or upper is None:
        return Outcome.INCONCLUSIVE
    edge = question.edge
    passes, fails = (lower > edge, upper < edge) if question.kind.worse == "lower" else (upper < edge, lower > edge)
    return Outcome.PASS if passes else Outcome.FAIL if fails else Outcome.INCONCLUSIVE


def judge_p_values(evidence: Evidence, bounds: Bounds) -> tuple[float, float]:
    """The p-values of "the number is beyond the limit" and of "it is not".

    The first rejected is PASS, the second FAIL; both are 1 where nothing can be said. Each is the largest over the ways
    of drawing and over what is missing, as a claim has to hold for all of them.
    """
    question = evidence.question
    if evidence.draws < MIN_DRAWS or _is_flat(evidence, bounds.rules):
        return 1.0, 1.0
    edge, reach, scored = question.edge, question.reach, evidence.scored
    above = max(bounds.test(one, edge, reach, "greater") for one in (*scored, *evidence.least))
    under = max(bounds.test(one, edge, reach, "less") for one in (*scored, *evidence.most))
    return (above, under) if question.kind.worse == "lower" else (under, above)


def _is_flat(evidence: Evidence, rules: GateSection) -> bool:
    """Whether a t bound has nothing to go by, as changes are all equal."""
    held = rules.bound == "t" and not evidence.question.absolute
    return held and any(float(np.ptp(one)) == 0 for one in evidence.scored)


# --- what is missing ---------------------------------------------------------------------------------------------


def _tell_end(check: Check, question: Question, subject: str, *, failing: bool) -> str:
    """The bound where what is missing makes a check least likely to pass or, ``failing``, to fail."""
    least, largest = question.kind.span
    bad, good = (least, largest) if question.kind.worse == "lower" else (largest, least)
    child, parent = (good, bad) if failing else (bad, good)
    end = "lower" if (question.kind.worse == "lower") != failing else "upper"
    value = check.lower_all if end == "lower" else check.upper_all
    assert value is not None
    holds = read_outcome(question, check.lower_all, check.upper_all) is (Outcome.FAIL if failing else Outcome.PASS)
    place = f"{'beyond' if failing else 'within'} the {'ceiling' if question.absolute else 'margin'}"
    filled = f"child {_level(question, child)}"
    filled += "" if question.absolute else f", parent {_level(question, parent)}"
    return (
        f"in the {'best' if failing else 'worst'} case ({filled} where unscored) {subject} {end} bound is"
        f" {format_end(check, value)}, which {'is still' if holds else 'is not shown to be'} {place}"
    )


def _level(question: Question, value: float) -> str:
    return f"{value:g}" if question.kind.unit == "points" else f"{100 * value:g} %"


def judge_coverage(pairing: Pairing, rules: GateSection, checks: Sequence[tuple[Check, Question]]) -> Check:
    """The share of rollouts with every score, on either side; low coverage is no evidence of a loss, so never FAIL.

    Where anything is missing it passes only if no deciding check of ``checks`` would stop passing in the worst case:
    episodes without a score may be the bad ones.
    """
    shares = {
        side: pairing.scored[side] / total if (total := pairing.rollouts[side]) else None for side in pairing.rollouts
    }
    lowest = min(share or 0.0 for share in shares.values())
    enough = lowest >= rules.min_coverage and lowest > 0
    missing = {side: pairing.rollouts[side] - pairing.scored[side] for side in pairing.rollouts}
    reasons = []
    if any(missing.values()):
        hidden, told = _tell_worst(checks)
        enough &= not hidden
        counts = f"unscored: {count_noun(missing['parent'], 'rollouts')} of the parent, {missing['child']} of the child"
        if any(pairing.absent.values()):
            gone = pairing.absent
            counts += f", of which {gone['parent']} and {gone['child']} are not there at all"
        reasons = [counts, *([told] if told else [])]
    if pairing.broken:
        enough = False
        reasons.append(
            f"the logs of the {' and the '.join(pairing.broken)} are not whole, and what ends first is no random part"
            " (--incomplete accept leaves it out)"
        )
    return Check(
        metric="coverage",
        outcome=Outcome.PASS if enough else Outcome.INCONCLUSIVE,
        # Of logs that are not whole the coverage is not known, as of a check that is not measured.
        blocking="coverage" in rules.blocking or (bool(pairing.broken) and "coverage" in rules.required),
        unit="share",
        worse="lower",
        margin=rules.min_coverage,
        parent=shares["parent"],
        child=shares["child"],
        reason="; ".join(reasons),
        n={"cases": len(pairing.cases), **{f"{side}_rollouts": count for side, count in pairing.rollouts.items()}},
    )


def _tell_worst(checks: Sequence[tuple[Check, Question]]) -> tuple[bool, str]:
    """Whether a loss may hide in what is missing, and the worst case of the check that says so, else of the first."""
    deciding = [(check, question) for check, question in checks if check.blocking and check.measured]
    unknown = any(check.lower is None for check, _ in deciding)
    known = [(check, question) for check, question in deciding if check.lower_all is not None]
    hiding = [pair for pair in known if read_outcome(pair[1], pair[0].lower_all, pair[0].upper_all) is not Outcome.PASS]
    if not known:
        return unknown, "the worst case cannot be told" if unknown else ""
    check, question = (hiding or known)[0]
    name = name_metric(check.metric)
    words = _tell_end(check, question, f"{name}'" if name.endswith("s") else f"{name}'s", failing=False)
    others = [name_metric(other.metric) for other, _ in hiding[1:]]
    return bool(hiding) or unknown, words + (f", likewise for {', '.join(others)}" if others else "")


# --- together ----------------------------------------------------------------------------------------------------


def judge_checks(pairing: Pairing, bounds: Bounds, *, unmeasurable: Mapping[str, str]) -> tuple[Check, ...]:
    """Every check of a pairing. ``unmeasurable`` are metrics that the data cannot have, with the reason.

    A check of one of these decides nothing, and lets nothing pass where it is required. Holm's p-values decide a check.
    """
    rules = bounds.rules
    asked = ask_all(rules)
    evidence = {one.kind.name: gather(pairing, one, rules.cluster) for one in asked if one.metric not in unmeasurable}
    p_values: dict[str, tuple[float, float]] = {}
    levels: dict[str, tuple[float, float]] = {}
    if rules.combine == "holm" or rules.across != "none":
        p_values = {
            name: judge_p_values(one, bounds) for name, one in evidence.items() if one.question.metric in rules.blocking
        }
    if rules.combine == "holm":
        levels = _by_side(p_values, lambda values: _holm_levels(values, rules.alpha))
        p_values = _by_side(p_values, holm)
    checks: list[Check] = []
    for question in asked:
        name = question.kind.name
        if name not in evidence:
            # Nobody sets a ceiling by default: whoever does asks for it by name.
            needed = rules.blocking if question.absolute else rules.required
            reason = f"{NOT_MEASURED}: {unmeasurable[question.metric]}"
            blank = _blank(question, blocking=question.metric in needed)
            checks.append(replace(blank, reason=reason, measured=False))
            continue
        check = judge(evidence[name], bounds, levels=levels.get(name))
        if name in p_values:
            for_pass, for_fail = p_values[name]
            check = replace(check, p_pass=for_pass, p_fail=for_fail)
            if rules.combine == "holm" and check.lower is not None:
                failing = Outcome.FAIL if for_fail <= rules.alpha else Outcome.INCONCLUSIVE
                check = replace(check, outcome=Outcome.PASS if for_pass <= rules.alpha else failing)
        checks.append(check)
    return (*checks, judge_coverage(pairing, rules, list(zip(checks, asked, strict=True))))


def _by_side(
    p_values: Mapping[str, tuple[float, float]], rule: Callable[[Mapping[str, float]], Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    """What a rule for several tests makes of the p-values for PASS, and of those for FAIL."""
    passes, fails = (rule({name: values[place] for name, values in p_values.items()}) for place in (0, 1))
    return {name: (passes[name], fails[name]) for name in p_values}


def _holm_levels(p_values: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The level at which Holm's rule tests each check: what its bounds are taken at."""
    # Step by step from the smallest p-value; once one is not rejected, no later one is tested at a larger level.
    levels, level, stopped = dict[str, float](), alpha, False
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        level = level if stopped else alpha / (len(p_values) - rank)
        stopped = stopped or p_values[name] > level
        levels[name] = level
    return levels
