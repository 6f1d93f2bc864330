"""An analysis as one JSON document of flat rows; ``schemas/analysis.json`` is its schema."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from typing import Any

from holdfast.records import Analysis, Estimate, Point, Unbounded
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
        names = ("kind", "source", "base", "lineage", "axes", "train_seed", "judge", "x")
        rows["curves"] = [
            _plain(one, *names) | {"y": [None if value is None else _number(value, CURVE_DIGITS) for value in one.y]}
            for one in analysis.curves
        ]
    if analysis.judges:
        facts = ("judge", "objectives", "labelled", "reads_state", "headline")
        rows["judges"] = [_plain(one, *facts) | {"labelled": one.labelled.value} for one in analysis.judges]
    if analysis.families:
        rows["multiplicity"] = [
            _plain(family, "section", "kind", "by", "claim", "intervals")
            | {"away_from_zero": family.away, "by_chance": round(family.by_chance, 2)}
            for family in analysis.families
        ]
    rows["frontiers"] = [
        _plain(frontier, "unit", "x_objective", "y_objective", "relative", "resampled")
        | {"points": list(map(_point, frontier.points)), "lines": list(map(estimate_row, frontier.lines))}
        for frontier in analysis.frontiers
    ]
    return rows | {"notes": list(analysis.notes)}


def _plain(record: object, *names: str) -> dict[str, Any]:
    """Some fields of a record as JSON values; a judge only where it has one."""
    found = {name: getattr(record, name) for name in names}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return {name: value for name, value in plain.items() if name != "judge" or value is not None}


def schema() -> dict[str, Any]:
    """The JSON Schema of ``document``."""
    text = resources.files("holdfast").joinpath("schemas/analysis.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


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
    shown = estimate.interval
    row["interval"] = {"kind": shown.value} if isinstance(shown, Unbounded) else shown and list(map(_number, shown))
    return row | {"resampled": list(estimate.resampled), "n": dict(estimate.n), "caveats": list(estimate.caveats)}


def _number(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def _point(point: Point) -> dict[str, Any]:
    found = {field.name: getattr(point, field.name) for field in fields(point)}
    found |= {"lineage": list(point.lineage), "axes": dict(point.axes), "x": _number(point.x), "y": _number(point.y)}
    if point.covariance is not None:
        found["covariance"] = [_number(part) for part in point.covariance]
    return {name: value for name, value in found.items() if value is not None}
