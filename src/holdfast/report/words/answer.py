"""The answer of a study in plain words: what each first stage gained, and what the next stage took of it.

The page, its cards, the terminal and the first page of the evidence all say what stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.records import Analysis, Estimate, can_be_told, cannot_be_told
from holdfast.records.checkpoints import rank_dose
from holdfast.records.estimates import UNDECLARED_GOAL
from holdfast.records.words import count_noun
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    excludes_zero,
    find_controls,
    format_interval,
    format_number,
    format_signed,
    main_rows,
    name_axes,
    name_lineage,
    prefer_pooled,
)

MOST_FINDINGS = 4  # told in words; the sections have every number
ALL_BUT = 0.5  # of a gain: where more than this may be left, nobody says that all was taken back
RATIO_KINDS = ("erosion", "retained", "persistence")  # rows of main lineages; controls have others
Tone = Literal["good", "bad", "unknown"]
Key = tuple[tuple[str, ...], str, str]  # lineage, objective, axes without the dose
Level = tuple[Estimate | None, str]  # a mean, and where it was measured
Rows = Mapping[Key, Mapping[float, Estimate]]  # by dose, the least first


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one objective along one lineage, in score points.

    ``gain`` is the first stage's change from the base, ``left`` what the second stage left of it over the base; a
    lineage of one stage has a gain alone. ``verdict`` says in a few words what happened, ``tone`` whether that is
    good, bad or not known, ``words`` everything in one sentence.
    """

    lineage: tuple[str, ...]
    objective: str
    axes: str
    gain: Estimate | None
    left: Estimate | None = None
    tone: Tone
    verdict: str
    words: str


def answer(analysis: Analysis) -> list[str]:
    """The answer in a few sentences, the last about what the numbers rest on; empty where nothing was compared.

    An interval that holds zero shows nothing, and a number without one claims nothing.
    """
    findings = find_answer(analysis)
    words = [finding.words for finding in findings[:MOST_FINDINGS]]
    if (more := len(findings) - MOST_FINDINGS) > 0:
        words.append(f"{count_noun(more, 'more comparisons')} of this kind stand under the results.")
    return words + _describe_basis([one.left or one.gain for one in findings[:MOST_FINDINGS]])


def find_answer(analysis: Analysis) -> list[Finding]:
    """What two-stage lineages gained and lost, else what single stages changed; the first listed objective first."""
    means = _index(one for one in analysis.scores if one.kind == "mean")
    deltas = _index(one for one in analysis.deltas if one.kind == "delta")
    erosions = _index(one for one in analysis.persistence if one.kind == "erosion")
    ratios = [one for one in analysis.persistence if one.unit is None and one.kind in RATIO_KINDS]
    pairs = {(one.lineage, one.objective) for one in ratios if one.lineage is not None and len(one.lineage) == 2}
    unknown = {one.lineage[0] for one in ratios if one.lineage and any(UNDECLARED_GOAL in told for told in one.caveats)}
    trained = {lineage[0]: goal for lineage, goal in pairs if goal is not None and lineage[0] not in unknown}
    findings = [
        _judge_second(key, means, deltas, erosions, trained)
        for key in deltas
        if key[:2] in pairs and (key[0][:1], *key[1:]) in deltas
    ]
    if not findings:
        controls = find_controls(analysis)
        findings = [_judge_first(key, means, deltas) for key in deltas if key[0] and key[0] not in controls]
    return sorted(findings, key=lambda one: one.objective != FIRST_OBJECTIVE)


def _index(estimates: Iterable[Estimate]) -> Rows:
    """The rows that are shown, by what they are about; lineages that are there as controls have a unit and are out."""
    rows: dict[Key, dict[float, Estimate]] = {}
    shown = [one for one in main_rows(estimates) if one.unit is None and one.value is not None]
    for one in sorted(prefer_pooled(shown), key=lambda one: float(one.axes.get("dose", 1))):
        if one.lineage is not None and one.objective is not None:
            axes = name_axes({name: value for name, value in one.axes.items() if name != "dose"})
            rows.setdefault((one.lineage, one.objective, axes), {})[float(one.axes.get("dose", 1))] = one
    return rows


def _first(rows: Rows, key: Key) -> Estimate | None:
    """The estimate at the first dose."""
    doses = rows.get(key, {})
    return doses[min(doses, key=rank_dose)] if doses else None


def _judge_second(key: Key, means: Rows, deltas: Rows, erosions: Rows, trained: Mapping[str, str]) -> Finding:
    """What the second stage of a lineage made of what its first had gained."""
    lineage, objective, axes = key
    gain, left = _first(deltas, (lineage[:1], objective, axes)), _first(deltas, key)
    change = _first(erosions, key)
    if change is None and sum(other[:2] == key[:2] for other in deltas) == 1:  # one setting alone is named nowhere else
        change = _first(erosions, (lineage, objective, ""))
    start, second = (f"{trained[name]} training ({name})" if name in trained else f"stage {name}" for name in lineage)
    tone, verdict, clause = _weigh(gain, change, left, (start, second, objective))
    before, after = _first(means, (lineage[:1], objective, axes)), _first(means, key)
    moved = _describe_move((before, f"after {lineage[0]}"), (after, f"after {name_lineage(lineage)}"), change)
    words = f"{clause}: {objective} {moved}; against the base it stands at {_amount(left)}"
    last, latest = list(deltas[key].items())[-1]
    if latest is not left and can_be_told(latest):
        words += f", and after {last:g} times the steps of {lineage[-1]} at {_amount(latest)}"
    words = f"With {axes}: {words}." if axes else f"{_capital(words)}."
    told = {"verdict": verdict, "words": words}
    return Finding(lineage=lineage, objective=objective, axes=axes, gain=gain, left=left, tone=tone, **told)


def _weigh(
    gain: Estimate | None, change: Estimate | None, left: Estimate | None, names: tuple[str, str, str]
) -> tuple[Tone, str, str]:
    """Whether a gain was kept: the tone, a few words, and a clause that names both stages and the objective."""
    start, second, objective = names
    few = next((one for one in (gain, change, left) if one is not None and not can_be_told(one)), None)
    if few is not None:
        unknown = cannot_be_told(few.n["cases"])
        return "unknown", unknown, f"whether {second} takes back what {start} gained {unknown}"
    if not excludes_zero(gain):
        if excludes_zero(change) and (change.value or 0.0) < 0:
            return "bad", "lowered", f"{second} lowered {objective}, which {start} is not shown to have raised"
        return "unknown", "no gain is shown", f"{start} is not shown to gain {objective} that {second} could take back"
    if (gain.value or 0.0) < 0:
        return "bad", "lost from the start", f"{start} lowered {objective}, before {second}"
    if not excludes_zero(change):
        return "unknown", "no loss is shown", f"{second} is not shown to change what {start} had gained"
    if (change.value or 0.0) > 0:
        return "good", "grew further", f"{second} added to what {start} had gained"
    if excludes_zero(left):
        if (left.value or 0.0) > 0:
            return "bad", "partly lost", f"{second} took back part of what {start} had gained"
        return "bad", "more than lost", f"{second} took back more than {start} had gained"
    if left is None or not isinstance(left.interval, tuple) or left.interval[1] > ALL_BUT * (gain.value or 0.0):
        return "bad", "lost, perhaps all", f"{second} took back what {start} had gained, perhaps all of it"
    return "bad", "lost again", f"{second} took back all that {start} had gained, as far as can be seen"


def _judge_first(key: Key, means: Rows, deltas: Rows) -> Finding:
    """What one lineage changed against the base, where no gain of a first stage was followed by a second."""
    lineage, objective, axes = key
    gain = deltas[key][min(deltas[key])]
    name = " · ".join(filter(None, (name_lineage(lineage), axes)))
    if not can_be_told(gain):
        verdict = cannot_be_told(gain.n["cases"])
        words = f"What {name} changed of {objective} {verdict}."
    else:
        verdict = ("rose" if (gain.value or 0.0) > 0 else "fell") if excludes_zero(gain) else "no change is shown"
        base = _first(means, ((), objective, axes)) or _first(means, ((), objective, ""))
        moved = _describe_move((base, "at the base"), (_first(means, key), f"after {name}"), gain)
        words = f"{_capital(objective)} {moved}."
    return Finding(
        lineage=lineage, objective=objective, axes=axes, gain=gain, tone="unknown", verdict=verdict, words=words
    )


def _describe_move(before: Level, after: Level, change: Estimate | None) -> str:
    """``fell from 2.44 after S to 1.82 after S→H (−0.62 [−0.71, −0.53])``; what is not shown neither fell nor rose."""
    (first, start), (last, end) = before, after
    if first is None or last is None or first.value is None or last.value is None:
        return f"changed from {start.partition(' ')[2]} to {end.partition(' ')[2]} by {_amount(change)}"
    ends = f"{format_number(first.value)} {start}", f"{format_number(last.value)} {end}"
    if excludes_zero(change):
        return f"{'fell' if (change.value or 0.0) < 0 else 'rose'} from {ends[0]} to {ends[1]} ({_amount(change)})"
    return f"was {ends[0]} and {ends[1]} ({_amount(change)}: no change is shown)"


def _amount(estimate: Estimate | None) -> str:
    """``−0.04 [−0.13, 0.05]``, or why there is no such number."""
    if estimate is None or estimate.value is None:
        return "an unknown amount"
    if not can_be_told(estimate):
        return f"what {cannot_be_told(estimate.n['cases'])}"
    return f"{format_signed(estimate.value)} {format_interval(estimate) or 'without an interval'}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _describe_basis(estimates: Sequence[Estimate | None]) -> list[str]:
    """What the sentences rest on: bases, seeds, cases, and of what the intervals speak."""
    told = [one for one in estimates if one is not None]
    if not told:
        return []
    counts = [count_noun(max(one.n.get(what, 0) for one in told), what) for what in ("bases", "seeds", "cases")]
    known = [words for words in counts if not words.startswith("0 ")]
    claims = {one.claim for one in told if one.interval is not None}
    about = "other seeds of this training on these bases" if claims == {"recipe"} else "these checkpoints alone"
    about = "mixed claims: see the results" if len(claims) > 1 else f"95\u00a0% intervals that speak of {about}"
    words = f"Held-out cases; means over {', '.join(known)}; " if known else ""
    return [f"{words}{about if claims else 'no intervals'}."]
