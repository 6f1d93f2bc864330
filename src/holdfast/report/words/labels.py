"""How estimates are called for people: names of lineages and quantities, numbers with their intervals, levels."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from holdfast.records import (
    Analysis,
    Checkpoint,
    Estimate,
    JudgeFacts,
    Labelled,
    StageRecord,
    Unbounded,
    can_be_told,
    cannot_be_told,
)
from holdfast.records.estimates import AGAINST_BASE
from holdfast.records.quantities import NOT_IDENTIFIED, Format, quantity_of
from holdfast.records.words import count_noun
from holdfast.report.words.inert import escape_html
from holdfast.stats.levels import NOT_REACHED
from holdfast.study.stages import EXTERNAL

Lineage = tuple[str, ...]
UNBOUNDED = "unbounded"
FLIPPED = "flipped control"  # the unit of estimates about lineages whose pairs were swapped at random
SAFER = {"safety": "safer", "helpfulness": "more helpful"}
FIRST_OBJECTIVE = "safety"  # stands first wherever objectives are listed
ONE_JUDGE = "by judge"
OTHER_JUDGES = "other judges"  # the level of numbers that stand beside the headline's
SEED_AXES = ("split_seed", "train_seed")
LABELLED_WORDS: Mapping[Labelled, str] = {
    Labelled.NONE: "labelled none",
    Labelled.SOME: "labelled some",
    Labelled.ALL: "labelled all",
    Labelled.UNKNOWN: "",  # a name says what is known; the notes and limits say what is not
}
MOST_NAMES = 16  # in the legend
KNOWN_AXES = {
    "beta": "how strongly a stage is held to the weights that it started from",
    "dose": "steps of the last stage, in multiples of its first dose",
    "share": "how much of a merge is of its second lineage",
}


def name_judge(name: str, labelled: Labelled | None, reads_state: bool | None) -> str:
    """A judge with its relation to what was trained: ``grader (labelled none)``."""
    known = "" if labelled is None else LABELLED_WORDS[labelled]
    relation = ", ".join(filter(None, ("reads state" if reads_state else "", known)))
    return f"{name} ({relation})" if relation else name


def name_headline(judges: Sequence[JudgeFacts]) -> str:
    """Whose scores the headline is of: ``safety by rules (labelled none), helpfulness by grader (labelled all)``."""
    found: dict[tuple[str, ...], list[str]] = {}
    for one in judges:
        if one.headline:
            found.setdefault(one.headline, []).append(name_judge(one.judge, one.labelled, one.reads_state))
    told = {" and ".join(objectives): " and ".join(names) for objectives, names in found.items()}
    return ", ".join(f"by {names}" if len(told) == 1 else f"{about} by {names}" for about, names in told.items())


def name_lineage(lineage: Sequence[str] | None) -> str:
    """``S→H`` for ("S", "H"), ``base`` for no stage, ``all lineages`` for None."""
    if lineage is None:
        return "all lineages"
    return "→".join(lineage) or "base"


def name_kind(kind: str) -> str:
    """The name of a quantity in words."""
    return quantity_of(kind).words


def name_value(value: Any) -> str:
    """An axis value without needless digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def varying_axes(estimates: Iterable[Estimate]) -> dict[str, set[Any]]:
    """Axis → its values, for the axes that differ between estimates."""
    values: dict[str, set[Any]] = {}
    for one in estimates:
        for key, value in one.axes.items():
            values.setdefault(key, set()).add(str(value) if isinstance(value, list | dict) else value)
    return {key: seen for key, seen in values.items() if len(seen) > 1}


def name_axes(axes: Mapping[str, Any]) -> str:
    """``beta 0.1 · dose 2``, or an empty string."""
    return " · ".join(f"{key.replace('_', ' ')} {name_value(value)}" for key, value in axes.items())


def name_subject(estimate: Estimate, *, objective: bool = True) -> str:
    """What an estimate is about, keys that it is pooled over left out."""
    judge = name_judge(estimate.judge, estimate.labelled, estimate.reads_state) if estimate.judge else None
    parts = (
        estimate.objective if objective else None,
        name_lineage(estimate.lineage) if estimate.lineage is not None else None,
        estimate.base,
        name_axes(estimate.axes),
        judge and f"judge {judge}",
        estimate.unit,
    )
    return " · ".join(filter(None, parts)) or "pooled"


def name_level(estimate: Estimate) -> str:
    """``pooled over bases and judges``, ``by base``, ``by judge``, ``by base and judge`` or ``single runs``.

    ``other judges`` is the level of all that stands beside the headline's.
    """
    if estimate.beside:
        return OTHER_JUDGES
    if any(seed in estimate.axes for seed in SEED_AXES):
        return "single runs"
    keys = [name for name, value in (("base", estimate.base), ("judge", estimate.judge)) if value is not None]
    return "by " + " and ".join(keys) if keys else "pooled over bases and judges"


def pick_claim(estimates: Iterable[Estimate]) -> list[Estimate]:
    """One estimate for each quantity, subject and estimator: the claim about the recipe where it has an interval."""
    found: dict[tuple[object, ...], Estimate] = {}
    for one in estimates:
        whose = (one.judge, one.labelled, one.beside)
        key = (one.kind, one.estimator, one.base, one.lineage, str(one.axes), *whose, one.objective, one.unit)
        if key not in found or (one.claim == "recipe" and one.interval is not None):
            found[key] = one
    return list(found.values())


def split_levels(estimates: Iterable[Estimate]) -> dict[str, list[Estimate]]:
    """Estimates of the headline's judges by level, the most pooled level first.

    Where all that name a judge name the same one, as beside others, its rows stand with those that name none.
    """
    found = [one for one in estimates if not one.beside]
    several = len({one.judge for one in found if one.judge is not None}) > 1

    def depth(one: Estimate) -> int:
        single = any(seed in one.axes for seed in SEED_AXES)
        return (one.base is not None) + 2 * (several and one.judge is not None) + 4 * single

    levels: dict[str, list[Estimate]] = {}
    for one in sorted(found, key=depth):
        levels.setdefault(name_level(one if several else replace(one, judge=None)), []).append(one)
    return levels


def most_pooled(estimates: Iterable[Estimate]) -> list[Estimate]:
    """The estimates of the most pooled level."""
    return next(iter(split_levels(estimates).values()), [])


def main_rows(estimates: Iterable[Estimate]) -> list[Estimate]:
    """What is shown where one row of several can be: the most pooled level, by its recipe claim if that is bounded."""
    return pick_claim(most_pooled(estimates))


def prefer_pooled(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Those of the pooled estimator where there are any, else all: the published one stands beside it."""
    return [one for one in estimates if one.estimator == "pooled"] or list(estimates)


def order_controls(estimates: Iterable[Estimate], controls: Container[tuple[str, ...] | None]) -> list[Estimate]:
    """The same estimates, those of main lineages first."""
    return sorted(estimates, key=lambda one: one.lineage in controls)


def drop_judge(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The same estimates without the name of their judge where they are all of one, which a line above has told."""
    alone = len({one.judge for one in estimates}) == 1
    return [replace(one, judge=None) for one in estimates] if alone else list(estimates)


def format_number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign; a dash for what is missing."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def excludes_zero(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Whether an estimate of enough cases has an interval that lies on one side of zero."""
    if estimate is None or not isinstance(estimate.interval, tuple) or not can_be_told(estimate):
        return False
    return estimate.interval[0] > 0 or estimate.interval[1] < 0


def is_not_reached(estimate: Estimate) -> bool:
    """Whether an estimate has no value because a curve does not get to its level."""
    return estimate.value is None and any(words.partition(":")[0] == NOT_REACHED for words in estimate.caveats)


def format_value(estimate: Estimate, digits: int = 2) -> str:
    """The value, ``not identified`` for a ratio or line that has none, a dash for another number that is missing.

    ``not reached`` stands for a number at a level that a curve does not get to.
    """
    if is_not_reached(estimate):
        return NOT_REACHED
    if estimate.value is None:
        return quantity_of(estimate.kind).lacking
    if not can_be_told(estimate):
        return cannot_be_told(estimate.n["cases"])
    return format_number(estimate.value, digits)


def tell_reasons(estimate: Estimate) -> str:
    """Why an estimate is not identified, for whoever says that it is not: caveats may begin with the same words."""
    return "; ".join(words.removeprefix(f"{NOT_IDENTIFIED}: ") for words in estimate.caveats)


def format_interval(estimate: Estimate, digits: int = 2) -> str:
    """``[lo, hi]``, ``unbounded`` or an empty string."""
    if isinstance(estimate.interval, Unbounded):
        return UNBOUNDED
    if estimate.interval is None or not can_be_told(estimate):
        return ""
    low, high = estimate.interval
    return f"[{format_number(low, digits)}, {format_number(high, digits)}]"


def format_signed(value: float, digits: int = 2) -> str:
    """A change, with a sign before it whichever way it goes."""
    return ("+" if value > 0 else "") + format_number(value, digits)


def format_point(estimate: Estimate | None) -> str:
    """A value as its quantity is written: ``2.31``, ``42 %``, ``+12.0 pp``; else why there is none, or a dash."""
    if estimate is None or estimate.value is None:
        return NOT_REACHED if estimate is not None and is_not_reached(estimate) else "–"
    if not can_be_told(estimate):
        return cannot_be_told(estimate.n["cases"])
    value, written = estimate.value, quantity_of(estimate.kind).format
    if written is Format.SHARE:
        return format_percent(value)
    if written is Format.SHARE_CHANGE:
        return f"{format_signed(100 * value, 1)} pp"
    if written is Format.AMOUNT:
        return f"{value:,.0f}" if abs(value) >= 100 else format_number(value, 1)
    return format_signed(value) if written is Format.SIGNED else format_number(value)


def format_ends(estimate: Estimate | None) -> str:
    """The interval beside ``format_point``, in per cent of shares: ``[8, 17]``; empty where there is none."""
    if estimate is None or estimate.value is None or not can_be_told(estimate):
        return ""
    written = quantity_of(estimate.kind).format
    if written not in (Format.SHARE, Format.SHARE_CHANGE):
        return "" if written is Format.AMOUNT else format_interval(estimate)
    if not isinstance(estimate.interval, tuple):
        return ""
    digits = 1 if written is Format.SHARE_CHANGE else 0
    # Rounded first: a minus sign before a zero would say more than there is.
    ends = [round(100 * end, digits) + 0.0 for end in estimate.interval]
    return f"[{', '.join(format_number(end, digits) for end in ends)}]"


def format_result(estimate: Estimate | None) -> str:
    """Value and interval: ``2.31 [1.20, 3.42]``, ``42 % [30, 55]``; how many seeds get to a level, where not all do."""
    words = f"{format_point(estimate)} {format_ends(estimate)}".rstrip()
    if estimate is None or estimate.value is None or quantity_of(estimate.kind).format is not Format.NUMBER:
        return words
    reached, seeds = estimate.n.get("reached"), estimate.n.get("seeds")
    return words if reached is None or seeds is None or reached >= seeds else f"{words} ({reached} of {seeds} seeds)"


def format_percent(share: float | None, digits: int = 0) -> str:
    """A share of one in per cent, with a space that does not break."""
    return "–" if share is None else f"{format_number(100 * share, digits)}\u00a0%"


def find_controls(analysis: Analysis) -> frozenset[tuple[str, ...]]:
    """The lineages that are there for comparison: the same stage again, or pairs swapped at random."""
    return frozenset(
        one.lineage
        for one in analysis.persistence
        if one.lineage is not None and (one.unit == FLIPPED or one.kind == "erosion_control")
    )


def is_control(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint went through one stage twice or through pairs swapped at random."""
    names = checkpoint.lineage
    return len(set(names)) < len(names) or any(float(one.settings.get("flip") or 0) > 0 for one in checkpoint.stages)


def is_against_base(one: Estimate) -> bool:
    """Whether a persistence is a share of the first stage's gain over the base, as the last one alone is not there."""
    return any(AGAINST_BASE in caveat for caveat in one.caveats)


def explain_persistence(one: Estimate) -> str:
    """One sentence that says what persistence is, in the names of the lineage that an estimate is about."""
    lineage, about = one.lineage or (), one.objective or "an objective"
    if is_against_base(one):
        first, whole = (*lineage, "S")[0], name_lineage(lineage)
        return (
            f"Persistence of {about} after {whole} is here ({whole} − base) / ({first} − base): the share that {whole}"
            f" has left of {first}'s gain over the base, for what the later stages do alone was not measured."
        )
    first, second = (lineage[0], lineage[-1]) if len(lineage) == 2 else ("S", "H")
    both = f"{first}→{second}"
    more = SAFER.get(about, f"better in {about}")
    return (
        f"Persistence of {about} after {both} is ({both} − {second}) / ({first} − {second}): how much {more} {both} is"
        f" than {second} alone, as a share of the gap between {first} and {second}. It is not the share of {first}'s"
        " gain over the base."
    )


def split_basis(estimate: Estimate) -> tuple[str, str]:
    """What a number rests on: its interval and counts, then estimator, claim, what was resampled and the caveats."""
    counts = ["no interval"] if estimate.interval is None and estimate.value is not None else []
    counts += [count_noun(count, what) for what, count in estimate.n.items()]
    parts = [f"{estimate.estimator} estimator", f"{estimate.claim} claim"]
    parts += ["random: " + ", ".join(estimate.resampled)] if estimate.resampled else []
    return ", ".join(counts), "; ".join([*parts, *estimate.caveats])


def describe_basis(estimate: Estimate) -> str:
    """All that a number rests on, in one line."""
    return "; ".join(filter(None, split_basis(estimate)))


def describe_names(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """What each stage name, the arrow and each axis stands for, read from the records of the stages: (name, words)."""
    found: dict[str, str] = {}
    for stage in (stage for checkpoint in checkpoints for stage in checkpoint.stages):
        flip = float(stage.settings.get("flip") or 0)
        goal = f" on {' and '.join(stage.objectives)}" if stage.objectives else ""
        words = f"a stage of training{goal}, by {stage.method}"
        if stage.method == EXTERNAL:
            words = f"a stage of training{goal} that was carried out elsewhere"
        if flip > 0:
            words += f" with the sides of {100 * flip:.0f} % of the pairs swapped: a control"
        found.setdefault(stage.name, words + _describe_repair(stage))
    pairs = sorted(found.items(), key=lambda pair: ("control" in pair[1], len(pair[0]), pair[0]))
    two = sorted((is_control(one), one.lineage) for one in checkpoints if len(one.lineage) == 2)
    if two:
        first, second = two[0][1]
        pairs.append(("→", f"then: {first}→{second} is stage {first}, then stage {second}"))
    axes = {key for checkpoint in checkpoints for key in checkpoint.axes}
    return [*pairs, *((key, words) for key, words in KNOWN_AXES.items() if key in axes)]


def _describe_repair(stage: StageRecord) -> str:
    """How a stage keeps a second objective, in words; nothing where it keeps none."""
    settings = stage.settings
    if stage.method == "merge":
        return f": weights between {' and '.join('→'.join(lineage) for lineage in settings.get('of', ()))}"
    if mix := settings.get("mix"):
        return f", {100 * mix['share']:.0f} % of each step's pairs for {mix['objective']}"
    if term := settings.get("term"):
        return f", with a term for {term['objective']} of weight {term['weight']:g}"
    if balance := settings.get("balance"):
        return f", with a term for {balance['objective']} that follows its score (floor {balance['floor']:g})"
    return ""


def names_html(checkpoints: Sequence[Checkpoint]) -> str:
    """The names as a list of definitions; an empty string where nothing was trained."""
    pairs = describe_names(checkpoints)[:MOST_NAMES]
    items = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(words)}</dd>" for name, words in pairs)
    return f'<dl class="names">{items}</dl>' if items else ""
