"""The report's first words: what was compared, what persisted, how much of it can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.records import Analysis, Estimate, Outcome, Verdict, can_be_told, cannot_be_told
from holdfast.records.arrays import Ints
from holdfast.records.quantities import NOT_IDENTIFIED
from holdfast.records.words import CUT_OFF_AT, count_noun
from holdfast.report.sections.approval.section import describe_approval, name_key, void_notes
from holdfast.report.sections.approval.tables import keep_judge, make_setup, pick_last
from holdfast.report.sections.gate import describe_verdict, overall, tally
from holdfast.report.words.answer import Finding, Tone, answer, find_answer
from holdfast.report.words.labels import (
    explain_persistence,
    format_ends,
    format_interval,
    format_percent,
    format_point,
    format_signed,
    is_against_base,
    most_pooled,
    name_axes,
    name_headline,
    name_judge,
    name_kind,
    name_lineage,
    pick_claim,
    prefer_pooled,
    tell_reasons,
)
from holdfast.report.words.layout import Shown
from holdfast.store import Store
from holdfast.store.codec import FLAG_BITS
from holdfast.store.tables import ScoreTable

TEST_EVALUATIONS = "test evaluations"
MOST_INVENTED = 0.05  # of episodes in which no tool was executed and a result invented, before the page starts with it
MOST_UNFIT = 0.25
APPROVAL_SENTENCES = 2  # of training for approval at the top
MOST_JUDGES = 4  # named with their counts
SENTENCES = 6  # of persistence at the top; the rest stand in their section


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One card at the top: its name, a verdict in a few words with its tone, numbers with words, small print."""

    name: str
    verdict: str = ""
    tone: Tone = "unknown"
    numbers: tuple[tuple[str, str], ...] = ()
    note: str = ""


def headline_estimates(analysis: Analysis) -> list[Estimate]:
    """Persistence at its most pooled level and fewest axes, by the pooled estimator where there is one; no controls."""
    ratios = [one for one in analysis.persistence if "persistence" in one.kind and one.unit is None]
    level = most_pooled(ratios)
    fewest = {one.objective: len(one.axes) for one in sorted(level, key=lambda one: -len(one.axes))}
    level = [one for one in level if len(one.axes) == fewest[one.objective]]
    return prefer_pooled(level)


def describe_persistence(claims: Sequence[Estimate]) -> str:
    """One sentence about one persistence ratio, with the interval of each claim that is made of it."""
    ratio = next((claim for claim in claims if claim.value is not None), claims[0])
    ranges, reasons = [], []
    for claim in claims:
        whose = f"for {'the recipe' if claim.claim == 'recipe' else 'these checkpoints'}"
        if claim.value is not None:
            ranges.append(f"{_describe_range(claim)} {whose}")
        else:
            reasons.append((whose, tell_reasons(claim)))
    after = f" after {name_lineage(ratio.lineage)}" if ratio.lineage else ""
    first = f"Persistence of {ratio.objective or 'the objective'}{after}"
    tail = ", ".join(filter(None, (f"{ratio.estimator} estimator", name_axes(ratio.axes))))
    if ratio.value is None:
        told = [f"{whose}: {why}" for whose, why in reasons if why]
        return f"{first} is {NOT_IDENTIFIED} ({'; '.join([*told, tail])})."
    if not can_be_told(ratio):
        return f"{first} {cannot_be_told(ratio.n['cases'])} ({tail})."
    ranges += [f"{whose} {NOT_IDENTIFIED}" + (f": {why}" if why else "") for whose, why in reasons]
    return f"{first} is {_describe_share(ratio)} (95\u00a0% interval: {', '.join(ranges)}; {tail})."


def _describe_share(one: Estimate) -> str:
    """``86 % of the gap between S and H``, or of S's gain over the base where H alone is not there."""
    lineage = one.lineage or ()
    if lineage and is_against_base(one):
        return f"{format_percent(one.value)} of {lineage[0]}'s gain over the base"
    gap = f" of the gap between {lineage[0]} and {lineage[-1]}" if len(lineage) == 2 else ""
    return f"{format_percent(one.value)}{gap}"


def _describe_range(one: Estimate) -> str:
    if isinstance(one.interval, tuple):
        return " to ".join(map(format_percent, one.interval))
    return "none" if one.interval is None else "unbounded"


def describe_design(store: Store) -> str:
    """One sentence: what was compared, on what, judged by whom. Every part counts; what was brought in does not."""
    checkpoints, scores, runs = store.checkpoints(), store.score_table(part="all"), store.trajectory_table(part="all")
    bases = len({checkpoint.base for checkpoint in checkpoints})
    lineages = list(dict.fromkeys(checkpoint.lineage for checkpoint in checkpoints if checkpoint.stages))
    names = ", ".join(map(name_lineage, lineages[:12]))
    more = f" and {len(lineages) - 12} more" if len(lineages) > 12 else ""
    trained = f" taken through {count_noun(len(lineages), 'lineages')} ({names}{more})" if lineages else ""
    acted, cases = len(np.unique(runs.checkpoint)), len(np.unique(runs.case))
    whole = "" if acted == len(checkpoints) else f" of {len(checkpoints):,}"
    return (
        f"{count_noun(bases, 'base models')}{trained}: {acted:,}{whole} checkpoint{'' if acted == 1 else 's'} acted in"
        f" {count_noun(cases, 'cases')}, which gave {count_noun(len(runs.flags), 'trajectories')} and"
        f" {_count_scores(scores)}."
    )


def describe_judges(analysis: Analysis) -> list[str]:
    """Whose scores the numbers are, and whose stand beside them; nothing where none are told."""
    beside = [name_judge(one.judge, one.labelled, one.reads_state) for one in analysis.judges if not one.headline]
    more = f"; beside them stand those by {', '.join(beside)}" if beside else ""
    found = name_headline(analysis.judges)
    return [f"The numbers here rest on scores {found}{more}."] if found else []


def _count_scores(scores: ScoreTable) -> str:
    """``296,012 scores (276,556 by state, 19,456 by probes; 20 of them missing)``."""
    counts = np.bincount(scores.judge, minlength=len(scores.judges)).tolist()
    ranked = Counter(dict(zip(scores.judges, counts, strict=True))).most_common()
    total = count_noun(len(scores.value), "scores")
    missing = int(np.count_nonzero(~np.isfinite(scores.value)))
    without = f"{missing:,} of them missing" if missing else ""
    if len(ranked) == 1:
        return f"{total} by {ranked[0][0]}" + (f" ({without})" if without else "")
    told = ", ".join(f"{count:,} by {judge}" for judge, count in ranked[:MOST_JUDGES])
    told += f", the rest by {count_noun(len(ranked) - MOST_JUDGES, 'judges')}" if len(ranked) > MOST_JUDGES else ""
    words = "; ".join(filter(None, (told, without)))
    return f"{total} ({words})" if words else total


def _pooled_rate(analysis: Analysis, kind: str) -> Estimate | None:
    """The rate of one finding over everything, among test evaluations where it is told for them."""
    found = (one for one in analysis.audit if one.kind == kind and one.objective is None and one.lineage is None)
    known = [one for one in most_pooled(found) if one.value is not None]
    return min(known, key=lambda one: one.unit != TEST_EVALUATIONS, default=None)


def _counted(rate: Estimate) -> str:
    """``42 % of the test evaluations (5,548 of 13,338)``."""
    counts = f" ({rate.n['count']:,} of {rate.n['trajectories']:,})" if {"count", "trajectories"} <= set(rate.n) else ""
    return f"{format_percent(rate.value)} of the {rate.unit or 'trajectories'}{counts}"


def needs_alert(analysis: Analysis) -> bool:
    """Whether so many episodes are invented or unfit that a reader must know it before any score."""
    limits = {"no_call_and_invented": MOST_INVENTED, "unfit": MOST_UNFIT}
    pooled = (one for one in analysis.audit if (one.lineage, one.objective, one.base, one.judge) == (None,) * 4)
    return any(one.kind in limits and (one.value or 0.0) >= limits[one.kind] for one in pooled)


def describe_alert(analysis: Analysis) -> str | None:
    """What stands before everything else where many episodes cannot be judged; None where few are so."""
    limits = find_cut(analysis)
    if not needs_alert(analysis):
        return " ".join(f"{note}." for note in limits) or None
    invented, unfit = _pooled_rate(analysis, "no_call_and_invented"), _pooled_rate(analysis, "unfit")
    parts = []
    if invented is not None and (invented.value or 0.0) > 0:
        parts.append(f"In {_counted(invented)} no tool was ever executed and the agent wrote the tools' answers itself")
    if unfit is not None:
        parts.append(f"{_counted(unfit)} are unfit to be judged")
    causes = "".join(f" {note}." for note in limits)
    return f"{'; '.join(parts)}.{causes} The scores below are judges' readings of these episodes."


def find_cut(analysis: Analysis) -> list[str]:
    """The run's notes that say at which limit episodes ended: the cause of what has no score."""
    return [note for note in analysis.notes if CUT_OFF_AT in note]


def _read_flags(store: Store) -> Ints:
    """The flags of trajectories on cases to train on and held out, or of all where a run has none of these."""
    flags = store.trajectory_table().flags
    return flags if len(flags) else store.trajectory_table(part="all").flags


def describe_fitness(store: Store, analysis: Analysis) -> str:
    """One or two sentences: how many trajectories are unfit to be judged or carry a flag, and why."""
    flags = _read_flags(store)
    total, flagged = len(flags), int(np.count_nonzero(flags))
    if not total:
        return "No trajectory is stored."
    unfit = _pooled_rate(analysis, "unfit")
    first = "" if unfit is None else f"{_counted(unfit)} are unfit to be judged. "
    counts = Counter({flag.value: int(np.count_nonzero(flags & bit)) for flag, bit in FLAG_BITS.items()})
    reasons = "; ".join(f"“{name_kind(name)}” in {count:,}" for name, count in counts.most_common(4) if count)
    tail = f". Most often: {reasons}" if reasons else ""
    every = f"{format_percent(flagged / total)} of all stored trajectories ({flagged:,} of {total:,})"
    return f"{first}{every} carry at least one audit flag{tail}."


def make_headlines(store: Store, shown: Shown) -> list[Headline]:
    """The large numbers: each objective against the base, the widest gap of harm, verdicts, what is unfit."""
    analysis = shown.analysis
    findings: dict[str, Finding] = {}
    for finding in find_answer(analysis):
        findings.setdefault(finding.objective, finding)
    ratios: dict[str, Estimate] = {}
    for one in pick_claim(headline_estimates(analysis)):
        ratios.setdefault(one.objective or "the objective", one)
    cards = [_card(name, findings.get(name), ratios.get(name)) for name in dict.fromkeys([*findings, *ratios])]
    if (gap := _gap_card(analysis)) is not None:
        cards.append(gap)
    if shown.verdicts:  # how many comparisons came out how, under the worst of them
        worst = overall(shown.verdicts)
        counts = tuple((f"{count:,}", outcome.value) for outcome, count in tally(shown.verdicts).items())
        tone: Tone = "bad" if worst is Outcome.FAIL else "good" if worst is Outcome.PASS else "unknown"
        name = f"verdicts on {count_noun(len(shown.verdicts), 'comparisons')} with a parent"
        cards.append(Headline(name=name, verdict=worst.value, tone=tone, numbers=counts))
    if (unfit := _pooled_rate(analysis, "unfit")) is not None:
        number = (format_percent(unfit.value), f"of the {unfit.unit or 'trajectories'}")
        return [*cards, Headline(name="unfit to be judged", numbers=(number,))]
    flags = _read_flags(store)
    number = (format_percent(int(np.count_nonzero(flags)) / max(1, len(flags))), "any flag")
    return [*cards, Headline(name="trajectories flagged by the audit", numbers=(number,))]


def _card(objective: str, finding: Finding | None, ratio: Estimate | None) -> Headline:
    """Score points against the base after the first and the second stage, with persistence in small print."""
    note = "" if ratio is None else _note_persistence(ratio)
    if finding is None:
        after = f" after {name_lineage(ratio.lineage)}" if ratio is not None and ratio.lineage else ""
        return Headline(name=f"persistence of {objective}{after}", numbers=((note.removeprefix("persistence "), ""),))
    stages = [(finding.gain, finding.lineage)]
    if finding.left is not None:
        stages = [(finding.gain, finding.lineage[:1]), (finding.left, finding.lineage)]
    numbers = [
        (format_signed(one.value), f"{format_interval(one) or '(no interval)'} after {name_lineage(lineage)}")
        for one, lineage in stages
        if one is not None and one.value is not None and can_be_told(one)
    ]
    name = f"{objective} against the base, score points" + (f", {finding.axes}" if finding.axes else "")
    return Headline(name=name, verdict=finding.verdict, tone=finding.tone, numbers=tuple(numbers), note=note)


def _note_persistence(one: Estimate) -> str:
    if one.value is None:
        words = f"{NOT_IDENTIFIED}: {tell_reasons(one)}"
    elif not can_be_told(one):
        words = cannot_be_told(one.n["cases"])
    else:
        words = f"{_describe_share(one)}, interval {_describe_range(one)}"
    return " · ".join(filter(None, (f"persistence {words}", one.claim, name_axes(one.axes))))


def _gap_card(analysis: Analysis) -> Headline | None:
    """The largest gap of harm between gameable and other users; None where none was estimated."""
    setup, (analysis, _) = make_setup(analysis), keep_judge(analysis)
    late = pick_last(analysis.exploitation, "late_gap", setup)
    known = [(one.value, key, one) for key, one in late.items() if one.value is not None]
    if not known:
        return None
    _, key, best = max(known, key=lambda row: row[0])
    note = name_key(key) + ("; void where a base does not react" if void_notes(analysis) else "")
    name, numbers = "largest gap of harm, gameable − other user, rating points", (format_point(best), format_ends(best))
    return Headline(name=name, numbers=(numbers,), note=note)


def summarise(store: Store, analysis: Analysis) -> Sequence[str]:
    """What the answer rests on, in sentences."""
    by_claim: dict[tuple[object, ...], list[Estimate]] = {}  # estimates that differ in their claim only, together
    for one in headline_estimates(analysis):
        key = (one.objective, one.lineage, str(one.axes), one.base, one.judge, one.estimator)
        by_claim.setdefault(key, []).append(one)
    groups = list(by_claim.values())
    sentences = [describe_design(store), *describe_judges(analysis)]
    if groups:
        sentences.append(explain_persistence(groups[0][0]))
    elif not analysis.persistence and not analysis.exploitation:
        sentences.append("Persistence is not estimated: no lineage has a second stage with both ends judged.")
    sentences += map(describe_persistence, groups[:SENTENCES])
    if len(groups) > SENTENCES:
        sentences.append(f"{len(groups) - SENTENCES} more ratios stand under Persistence.")
    return [*sentences, describe_fitness(store, analysis)]


def answer_all(analysis: Analysis, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """The answer in words, with what training for approval did, else the verdicts'; never empty."""
    words = [*answer(analysis), *(describe_approval(analysis)[:APPROVAL_SENTENCES] if analysis.exploitation else [])]
    words = words or list(map(describe_verdict, verdicts))
    return words or ["Nothing is compared yet: no checkpoint and its base have both been judged."]
