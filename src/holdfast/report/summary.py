"""The report's first words: what was compared, what persisted, how much of it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.records import Analysis, Estimate, Unbounded
from holdfast.report.cases import count_flags
from holdfast.report.labels import (
    FLAG_WORDS,
    NOT_IDENTIFIED,
    name_axes,
    name_lineage,
    pick_claim,
    split_levels,
)
from holdfast.store import Store

CLAIM_WORDS = {"checkpoint": "these checkpoints", "recipe": "the recipe"}
SENTENCES = 6  # of persistence at the top; the rest stand in their section


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One large number at the top: what it is called, the number, what stands under it."""

    name: str
    value: str
    note: str


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %".replace("-", "−")


def _range(estimate: Estimate) -> str:
    if isinstance(estimate.interval, Unbounded):
        return "unbounded"
    if estimate.interval is None:
        return "none"
    return f"{_percent(estimate.interval[0])} to {_percent(estimate.interval[1])}"


def count_things(number: int, word: str) -> str:
    """``1 base``, ``3 bases``."""
    plural = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return f"{number:,} {word if number == 1 else plural}"


def headline_estimates(analysis: Analysis) -> list[Estimate]:
    """Persistence at its most pooled level and fewest axes, by the pooled estimator where there is one; no controls."""
    ratios = [one for one in analysis.persistence if "persistence" in one.kind and one.unit is None]
    level = next(iter(split_levels(ratios).values()), [])
    fewest = {one.objective: len(one.axes) for one in sorted(level, key=lambda one: -len(one.axes))}
    level = [one for one in level if len(one.axes) == fewest[one.objective]]
    return [one for one in level if "pooled" in one.estimator] or level


def group_claims(estimates: Sequence[Estimate]) -> list[list[Estimate]]:
    """Estimates that differ in their claim only, together."""
    groups: dict[tuple[object, ...], list[Estimate]] = {}
    for one in estimates:
        key = (one.objective, one.lineage, str(one.axes), one.base, one.judge, one.estimator)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def describe_persistence(claims: Sequence[Estimate]) -> str:
    """One sentence about one persistence ratio, with the interval of each claim that is made of it."""
    one = next((claim for claim in claims if claim.value is not None), claims[0])
    stage = f" that stage {one.lineage[0]} brought" if one.lineage else ""
    after = f" after {name_lineage(one.lineage)}" if one.lineage else ""
    axes = name_axes(one.axes)
    tail = f"{one.estimator} estimator{', ' + axes if axes else ''}"
    ranges = [f"{_range(claim)} for {CLAIM_WORDS[claim.claim]}" for claim in claims if claim.value is not None]
    ranges += [
        f"for {CLAIM_WORDS[claim.claim]} {NOT_IDENTIFIED}: {'; '.join(claim.caveats)}"
        for claim in claims
        if claim.value is None
    ]
    gain = f"the gain in {one.objective or 'the objective'}{stage}"
    if one.value is None:
        return f"What is left of {gain}{after} is {NOT_IDENTIFIED} ({'; '.join([*ranges, tail])})."
    return f"Of {gain}, {_percent(one.value)} is left{after} (95 % interval: {', '.join(ranges)}; {tail})."


def describe_design(store: Store) -> str:
    """One sentence: what was compared, on what, judged by whom."""
    counts, checkpoints, scores = store.counts(), store.checkpoints(), store.score_table()
    bases = len({checkpoint.base for checkpoint in checkpoints})
    lineages = list(dict.fromkeys(checkpoint.lineage for checkpoint in checkpoints if checkpoint.stages))
    names = ", ".join(name_lineage(lineage) for lineage in lineages[:12])
    more = f" and {len(lineages) - 12} more" if len(lineages) > 12 else ""
    judges = " and ".join(scores.judges) if len(scores.judges) < 4 else f"{len(scores.judges)} judges"
    trained = f" taken through {count_things(len(lineages), 'lineage')} ({names}{more})" if lineages else ""
    return (
        f"{count_things(bases, 'base model')}{trained}: {count_things(len(checkpoints), 'checkpoint')} acted in"
        f" {count_things(counts['cases'], 'case')}, which gave {counts['trajectories']:,} trajectories and"
        f" {count_things(counts['scores'], 'score')}{' by ' + judges if judges else ''}."
    )


def _unfit(analysis: Analysis) -> Estimate | None:
    """The rate of unfit trajectories over everything, if the analysis has it."""
    found = [one for one in analysis.audit if "unfit" in one.kind and one.objective is None and one.lineage is None]
    level = next(iter(split_levels(found).values()), [])
    level.sort(key=lambda one: one.unit != "test evaluations")
    return next((one for one in level if one.value is not None), None)


def describe_fitness(store: Store, analysis: Analysis) -> str:
    """One or two sentences: how many trajectories are unfit to be judged or carry a flag, and why."""
    runs = store.trajectory_table()
    total = len(runs.flags)
    if not total:
        return "No trajectory is stored."
    unfit = _unfit(analysis)
    flagged = int(np.count_nonzero(runs.flags))
    first = (
        ""
        if unfit is None
        else f"{_percent(unfit.value or 0.0)} of the {unfit.unit or 'trajectories'} are unfit to be judged. "
    )
    reasons = ", ".join(f"{FLAG_WORDS[name]} {count:,}" for name, count in list(count_flags(runs).items())[:4])
    tail = f"; most often: {reasons}" if reasons else ""
    return f"{first}{flagged:,} of {total:,} trajectories ({_percent(flagged / total)}) carry an audit flag{tail}."


def make_headlines(store: Store, analysis: Analysis) -> list[Headline]:
    """The large numbers: persistence of each objective, and the share of trajectories that are unfit or flagged."""
    cards = []
    seen: set[str | None] = set()
    for one in pick_claim(headline_estimates(analysis)):
        if one.objective in seen:
            continue
        seen.add(one.objective)
        value = NOT_IDENTIFIED if one.value is None else _percent(one.value)
        note = "; ".join(one.caveats) if one.value is None else f"95 % interval {_range(one)}"
        lineage = f" after {name_lineage(one.lineage)}" if one.lineage else ""
        axes = name_axes(one.axes)
        tail = " · ".join(part for part in (f"{one.claim} claim", axes) if part)
        cards.append(Headline(name=f"{one.objective} gain left{lineage}", value=value, note=f"{note} · {tail}"))
    runs, unfit = store.trajectory_table(), _unfit(analysis)
    total = max(1, len(runs.flags))
    if unfit is not None:
        cards.append(
            Headline(
                name="unfit trajectories", value=_percent(unfit.value or 0.0), note=unfit.unit or "all trajectories"
            )
        )
    else:
        flagged = int(np.count_nonzero(runs.flags))
        cards.append(
            Headline(name="trajectories flagged by the audit", value=_percent(flagged / total), note="any flag")
        )
    return cards


def summarise(store: Store, analysis: Analysis) -> Sequence[str]:
    """The summary's sentences."""
    found = headline_estimates(analysis)
    groups = group_claims(found)
    sentences = [describe_design(store), *(describe_persistence(claims) for claims in groups[:SENTENCES])]
    if len(groups) > SENTENCES:
        sentences.append(f"{len(groups) - SENTENCES} more ratios stand under Persistence.")
    if not found and analysis.persistence == ():
        sentences.append("Persistence is not estimated: no lineage has a second stage with both ends judged.")
    return [*sentences, describe_fitness(store, analysis)]
