"""The report's first words: what was compared, what persisted, how much of it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.records import Analysis, Estimate, Outcome, Unbounded, Verdict, can_be_told, cannot_be_told
from holdfast.records.quantities import NOT_IDENTIFIED
from holdfast.records.words import count_noun
from holdfast.report.sections.approval.setup import make_setup
from holdfast.report.sections.approval.tables import keep_judge, pick_last
from holdfast.report.sections.approval.words import describe_approval, name_key, void_notes
from holdfast.report.sections.gate import overall, tally
from holdfast.report.words.answer import Finding, Tone, answer, find_answer
from holdfast.report.words.labels import (
    count_flags,
    explain_persistence,
    format_ends,
    format_interval,
    format_percent,
    format_point,
    format_signed,
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
from holdfast.store.tables import ScoreTable, TrajectoryTable

CLAIM_WORDS = {"checkpoint": "these checkpoints", "recipe": "the recipe"}
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


def _range(estimate: Estimate) -> str:
    if isinstance(estimate.interval, Unbounded):
        return "unbounded"
    if estimate.interval is None:
        return "none"
    return f"{format_percent(estimate.interval[0])} to {format_percent(estimate.interval[1])}"


def headline_estimates(analysis: Analysis) -> list[Estimate]:
    """Persistence at its most pooled level and fewest axes, by the pooled estimator where there is one; no controls."""
    ratios = [one for one in analysis.persistence if "persistence" in one.kind and one.unit is None]
    level = most_pooled(ratios)
    fewest = {one.objective: len(one.axes) for one in sorted(level, key=lambda one: -len(one.axes))}
    level = [one for one in level if len(one.axes) == fewest[one.objective]]
    return prefer_pooled(level)


def describe_persistence(claims: Sequence[Estimate]) -> str:
    """One sentence about one persistence ratio, with the interval of each claim that is made of it."""
    one = next((claim for claim in claims if claim.value is not None), claims[0])
    lineage = one.lineage or ()
    after = f" after {name_lineage(lineage)}" if lineage else ""
    axes = name_axes(one.axes)
    tail = f"{one.estimator} estimator{', ' + axes if axes else ''}"
    ranges = [f"{_range(claim)} for {CLAIM_WORDS[claim.claim]}" for claim in claims if claim.value is not None]
    first = f"Persistence of {one.objective or 'the objective'}{after}"
    reasons = [(f"for {CLAIM_WORDS[claim.claim]}", tell_reasons(claim)) for claim in claims if claim.value is None]
    if one.value is None:
        told = [f"{whose}: {why}" for whose, why in reasons if why]
        return f"{first} is {NOT_IDENTIFIED} ({'; '.join([*told, tail])})."
    ranges += [f"{whose} {NOT_IDENTIFIED}" + (f": {why}" if why else "") for whose, why in reasons]
    if not can_be_told(one):
        return f"{first} {cannot_be_told(one.n['cases'])} ({tail})."
    gap = f" of the gap between {lineage[0]} and {lineage[-1]}" if len(lineage) == 2 else ""
    return f"{first} is {format_percent(one.value)}{gap} (95\u00a0% interval: {', '.join(ranges)}; {tail})."


def describe_design(store: Store) -> str:
    """One sentence: what was compared, on what, judged by whom. Every part counts; what was brought in does not."""
    checkpoints, scores, runs = store.checkpoints(), store.score_table(part="all"), store.trajectory_table(part="all")
    bases = len({checkpoint.base for checkpoint in checkpoints})
    lineages = list(dict.fromkeys(checkpoint.lineage for checkpoint in checkpoints if checkpoint.stages))
    names = ", ".join(name_lineage(lineage) for lineage in lineages[:12])
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
    found = name_headline(analysis.judges)
    if not found:
        return []
    words = f"The numbers here rest on scores {found}"
    beside = [name_judge(one.judge, one.labelled, one.reads_state) for one in analysis.judges if not one.headline]
    return [f"{words}; beside them stand those by {', '.join(beside)}." if beside else f"{words}."]


def _count_scores(scores: ScoreTable) -> str:
    """``296,012 scores (276,556 by state, 19,456 by probes; 20 of them missing)``."""
    counts = np.bincount(scores.judge, minlength=len(scores.judges)).tolist()
    ranked = sorted(zip(counts, scores.judges, strict=True), key=lambda pair: -pair[0])
    total = count_noun(len(scores.value), "scores")
    missing = int(np.count_nonzero(~np.isfinite(scores.value)))
    without = f"{missing:,} of them missing" if missing else ""
    if len(ranked) == 1:
        return f"{total} by {ranked[0][1]}" + (f" ({without})" if without else "")
    told = ", ".join(f"{count:,} by {judge}" for count, judge in ranked[:MOST_JUDGES])
    told += f", the rest by {count_noun(len(ranked) - MOST_JUDGES, 'judges')}" if len(ranked) > MOST_JUDGES else ""
    words = "; ".join(part for part in (told, without) if part)
    return f"{total} ({words})" if words else total


def _pooled_rate(analysis: Analysis, kind: str) -> Estimate | None:
    """The rate of one finding over everything, among test evaluations where it is told for them."""
    found = [one for one in analysis.audit if one.kind == kind and one.objective is None and one.lineage is None]
    level = most_pooled(found)
    level.sort(key=lambda one: one.unit != TEST_EVALUATIONS)
    return next((one for one in level if one.value is not None), None)


def _counted(rate: Estimate) -> str:
    """``42 % of the test evaluations (5,548 of 13,338)``."""
    counts = f" ({rate.n['count']:,} of {rate.n['trajectories']:,})" if {"count", "trajectories"} <= set(rate.n) else ""
    return f"{format_percent(rate.value)} of the {rate.unit or 'trajectories'}{counts}"


def needs_alert(analysis: Analysis) -> bool:
    """Whether so many episodes are invented or unfit that a reader must know it before any score."""
    limits = {"no_call_and_invented": MOST_INVENTED, "unfit": MOST_UNFIT}
    return any(
        one.kind in limits and one.lineage is None and one.objective is None and (one.value or 0.0) >= limits[one.kind]
        for one in analysis.audit
        if one.base is None and one.judge is None
    )


def describe_alert(analysis: Analysis) -> str | None:
    """What stands before everything else where many episodes cannot be judged; None where few are so."""
    if not needs_alert(analysis):
        return None
    invented, unfit = _pooled_rate(analysis, "no_call_and_invented"), _pooled_rate(analysis, "unfit")
    parts = []
    if invented is not None and (invented.value or 0.0) > 0:
        parts.append(f"In {_counted(invented)} no tool was ever executed and the agent wrote the tools' answers itself")
    if unfit is not None:
        parts.append(f"{_counted(unfit)} are unfit to be judged")
    return f"{'; '.join(parts)}. The scores below are judges' readings of these episodes."


def _read_runs(store: Store) -> TrajectoryTable:
    """The trajectories on cases to train on and held out, or all where a run has none of these."""
    runs = store.trajectory_table()
    return runs if len(runs.flags) else store.trajectory_table(part="all")


def describe_fitness(store: Store, analysis: Analysis) -> str:
    """One or two sentences: how many trajectories are unfit to be judged or carry a flag, and why."""
    runs = _read_runs(store)
    total = len(runs.flags)
    if not total:
        return "No trajectory is stored."
    unfit = _pooled_rate(analysis, "unfit")
    flagged = int(np.count_nonzero(runs.flags))
    first = "" if unfit is None else f"{_counted(unfit)} are unfit to be judged. "
    reasons = "; ".join(f"“{name_kind(name)}” in {count:,}" for name, count in list(count_flags(runs).items())[:4])
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
    cards += [card for card in (_gap_card(analysis), _verdict_card(shown.verdicts)) if card is not None]
    unfit = _pooled_rate(analysis, "unfit")
    if unfit is not None:
        note = f"of the {unfit.unit or 'trajectories'}"
        return [*cards, Headline(name="unfit to be judged", numbers=((format_percent(unfit.value), note),))]
    flags = _read_runs(store).flags
    share = format_percent(int(np.count_nonzero(flags)) / max(1, len(flags)))
    return [*cards, Headline(name="trajectories flagged by the audit", numbers=((share, "any flag"),))]


def _card(objective: str, finding: Finding | None, ratio: Estimate | None) -> Headline:
    """Score points against the base after the first and the second stage, with persistence in small print."""
    note = "" if ratio is None else _note_persistence(ratio)
    if finding is None:
        after = f" after {name_lineage(ratio.lineage)}" if ratio is not None and ratio.lineage else ""
        return Headline(name=f"persistence of {objective}{after}", numbers=((note.removeprefix("persistence "), ""),))
    stages = [(finding.gain, finding.lineage[:1]), (finding.left, finding.lineage)]
    if finding.left is None:
        stages = [(finding.gain, finding.lineage)]
    numbers = [
        (format_signed(one.value), f"{format_interval(one) or '(no interval)'} after {name_lineage(lineage)}")
        for one, lineage in stages
        if one is not None and one.value is not None and can_be_told(one)
    ]
    axes = f", {finding.axes}" if finding.axes else ""
    return Headline(
        name=f"{objective} against the base, score points{axes}",
        verdict=finding.verdict,
        tone=finding.tone,
        numbers=tuple(numbers),
        note=note,
    )


def _note_persistence(one: Estimate) -> str:
    lineage = one.lineage or ()
    gap = f" of the gap between {lineage[0]} and {lineage[-1]}" if len(lineage) == 2 else ""
    if one.value is None:
        words = f"{NOT_IDENTIFIED}: {tell_reasons(one)}"
    elif not can_be_told(one):
        words = cannot_be_told(one.n["cases"])
    else:
        words = f"{format_percent(one.value)}{gap}, interval {_range(one)}"
    return " · ".join(part for part in (f"persistence {words}", one.claim, name_axes(one.axes)) if part)


def _verdict_card(verdicts: Sequence[Verdict]) -> Headline | None:
    """How many comparisons came out how, under the worst of them."""
    if not verdicts:
        return None
    worst = overall(verdicts)
    numbers = tuple((f"{count:,}", outcome.value) for outcome, count in tally(verdicts).items())
    tone: Tone = {Outcome.FAIL: "bad", Outcome.PASS: "good"}.get(worst, "unknown")  # type: ignore[assignment]
    name = f"verdicts on {count_noun(len(verdicts), 'comparisons')} with a parent"
    return Headline(name=name, verdict=worst.value, tone=tone, numbers=numbers)


def _gap_card(analysis: Analysis) -> Headline | None:
    """The largest gap of harm between gameable and other users; None where none was estimated."""
    setup, (analysis, _) = make_setup(analysis), keep_judge(analysis)
    late = pick_last(analysis.exploitation, "late_gap", setup)
    known = {key: one for key, one in late.items() if one.value is not None}
    if not known:
        return None
    best = max(known, key=lambda key: known[key].value or 0.0)
    return Headline(
        name="largest gap of harm, gameable − other user, rating points",
        numbers=((format_point(known[best]), format_ends(known[best])),),
        note=name_key(best) + ("; void where a base does not react" if void_notes(analysis) else ""),
    )


def summarise(store: Store, analysis: Analysis) -> Sequence[str]:
    """What the answer rests on, in sentences."""
    found = headline_estimates(analysis)
    by_claim: dict[tuple[object, ...], list[Estimate]] = {}  # estimates that differ in their claim only, together
    for one in found:
        key = (one.objective, one.lineage, str(one.axes), one.base, one.judge, one.estimator)
        by_claim.setdefault(key, []).append(one)
    groups = list(by_claim.values())
    sentences = [describe_design(store), *describe_judges(analysis)]
    if groups:
        sentences.append(explain_persistence(groups[0][0].objective, groups[0][0].lineage))
    sentences += [describe_persistence(claims) for claims in groups[:SENTENCES]]
    if len(groups) > SENTENCES:
        sentences.append(f"{len(groups) - SENTENCES} more ratios stand under Persistence.")
    if not found and not analysis.persistence and not analysis.exploitation:
        sentences.append("Persistence is not estimated: no lineage has a second stage with both ends judged.")
    return [*sentences, describe_fitness(store, analysis)]


def answer_all(analysis: Analysis) -> list[str]:
    """The answer in words, with what training for approval did; never empty."""
    words = [*answer(analysis), *(describe_approval(analysis)[:APPROVAL_SENTENCES] if analysis.exploitation else [])]
    return words or ["Nothing is compared yet: no checkpoint and its base have both been judged."]
