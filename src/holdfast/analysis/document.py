"""An analysis as one JSON document of flat rows; ``schemas/analysis.json`` is its schema."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from typing import Any

from holdfast.records import Analysis, Curve, Estimate, Family, Frontier, JudgeFacts, Point, Unbounded
from holdfast.records.estimates import SECTIONS

DIGITS = 12  # significant digits of a number: what lies beyond changes with the processor's linear algebra
CURVE_DIGITS = 6  # of a point of a curve, of which there are many: more than a chart can show


def document(analysis: Analysis) -> dict[str, Any]:
    """The analysis as JSON values: a list of rows for each section, the frontiers and curves to draw, and notes.

    In a row, an absent key means pooled over; ``value`` and ``interval`` are always there and may be null. The
    optional sections are there only where the study asks for them, or a judge's truth is known. ``judges`` say whose
    scores these are; a row that is ``beside`` is of a judge whose numbers are not the headline. ``multiplicity``
    counts the intervals of every family of changes.
    """
    rows: dict[str, Any] = {
        name: [estimate_row(row) for row in estimates]
        for name, estimates in analysis.sections()
        if estimates or name in SECTIONS
    }
    if analysis.curves:
        rows["curves"] = [_curve(one) for one in analysis.curves]
    if analysis.judges:
        rows["judges"] = [_judge(one) for one in analysis.judges]
    if analysis.families:
        rows["multiplicity"] = [_family(one) for one in analysis.families]
    return rows | {"frontiers": [_frontier(one) for one in analysis.frontiers], "notes": list(analysis.notes)}


def schema() -> dict[str, Any]:
    """The JSON Schema of ``document``."""
    text = resources.files("holdfast").joinpath("schemas/analysis.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def estimate_row(estimate: Estimate) -> dict[str, Any]:
    """One estimate as a flat row."""
    row: dict[str, Any] = {"kind": estimate.kind, "estimator": estimate.estimator, "claim": estimate.claim}
    for name in ("base", "lineage", "judge", "objective", "unit"):
        value = getattr(estimate, name)
        if value is not None:
            row[name] = list(value) if name == "lineage" else value
    if estimate.labelled is not None:
        row |= {"labelled": estimate.labelled.value, "reads_state": bool(estimate.reads_state)}
    if estimate.beside:
        row["beside"] = True
    if estimate.axes:
        row["axes"] = dict(estimate.axes)
    row["value"] = None if estimate.value is None else _number(estimate.value)
    row["interval"] = _interval(estimate.interval)
    return row | {
        "resampled": list(estimate.resampled),
        "n": dict(estimate.n),
        "caveats": list(estimate.caveats),
    }


def _interval(interval: tuple[float, float] | Unbounded | None) -> Any:
    if interval is None:
        return None
    return {"kind": interval.value} if isinstance(interval, Unbounded) else [_number(end) for end in interval]


def _number(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def _judge(facts: JudgeFacts) -> dict[str, Any]:
    return {
        "judge": facts.judge,
        "objectives": list(facts.objectives),
        "labelled": facts.labelled.value,
        "reads_state": facts.reads_state,
        "headline": list(facts.headline),
    }


def _family(family: Family) -> dict[str, Any]:
    return {
        "section": family.section,
        "kind": family.kind,
        "by": list(family.by),
        "claim": family.claim,
        "intervals": family.intervals,
        "away_from_zero": family.away,
        "by_chance": round(family.by_chance, 2),
    }


def _curve(curve: Curve) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": curve.kind, "source": curve.source, "base": curve.base}
    row |= {"lineage": list(curve.lineage), "axes": dict(curve.axes), "train_seed": curve.train_seed}
    if curve.judge is not None:
        row["judge"] = curve.judge
    y = [None if value is None else _number(value, CURVE_DIGITS) for value in curve.y]
    return row | {"x": list(curve.x), "y": y}


def _point(point: Point) -> dict[str, Any]:
    found = {field.name: getattr(point, field.name) for field in fields(point)}
    found |= {"lineage": list(point.lineage), "axes": dict(point.axes), "x": _number(point.x), "y": _number(point.y)}
    if point.covariance is not None:
        found["covariance"] = [_number(part) for part in point.covariance]
    return {name: value for name, value in found.items() if value is not None}


def _frontier(frontier: Frontier) -> dict[str, Any]:
    return {
        "unit": frontier.unit,
        "x_objective": frontier.x_objective,
        "y_objective": frontier.y_objective,
        "relative": frontier.relative,
        "resampled": list(frontier.resampled),
        "points": [_point(point) for point in frontier.points],
        "lines": [estimate_row(line) for line in frontier.lines],
    }
