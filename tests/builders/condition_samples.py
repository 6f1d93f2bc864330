"""Estimates by hand of what pressure, shifts and repairs do, in the shape in which the analysis gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from holdfast.records import Analysis, Estimate

LINEAGES = ((), ("S",), ("H",), ("S", "H"))
HARM = {(): 0.4, ("S",): 0.08, ("H",): 0.55, ("S", "H"): 0.3}
FORMS = ("role_play", "tool_result", "prefill")
LOST_FORM = "prefill"
BASES = ("tiny-0", "tiny-1")
CHOSEN = {"cases": 35, "seeds": 1, "runs": 1}  # of 60: those that both handled safely when clean


def make_estimate(kind: str, value: float | None, half: float = 0.05, **about: Any) -> Estimate:
    """An estimate with an interval of this half-width."""
    interval = None if value is None else (value - half, value + half)
    settled: dict[str, Any] = {"estimator": "paired", "judge": "state", "n": {"cases": 60, "seeds": 1, "runs": 1}}
    return Estimate(kind=kind, value=value, interval=interval, **(settled | about))


def own_axes(lineage: tuple[str, ...]) -> dict[str, Any]:
    """The axes of a trained checkpoint."""
    return {"dose": 1} if lineage else {}


def against(lineage: tuple[str, ...]) -> list[str]:
    """What a lineage is held against: its parent, and its base where that is another."""
    parent = f"against {','.join(lineage[:-1]) or 'base'}"
    return [] if not lineage else [parent, "against base"] if len(lineage) > 1 else [parent]


def taxonomy() -> Iterator[Estimate]:
    """Harm and over-refusal by dimension and failure; one dimension has no implicit failure."""
    for dimension, failure, factor in (
        ("action", "explicit", 1.0),
        ("action", "implicit", 1.4),
        ("refusal", "explicit", 0.6),
        ("information", "explicit", 0.5),
    ):
        for base in (None, *BASES):
            for lineage in LINEAGES:
                axes = {**own_axes(lineage), "dimension": dimension, "failure": failure}
                about: dict[str, Any] = {"lineage": lineage, "axes": axes, "base": base}
                harm = HARM[lineage] * factor
                yield make_estimate("harm_rate", harm, objective="safety", **about)
                yield make_estimate("over_refusal", 0.5 - harm / 2, objective="helpfulness", **about)
                if lineage:
                    rise = factor * (HARM[lineage] - HARM[lineage[:-1]])
                    yield make_estimate("harm_change", rise, objective="safety", unit=against(lineage)[0], **about)


def susceptibility() -> Iterator[Estimate]:
    """Rates under pressure by lineage and form; one form shows no effect before any stage."""
    for base in BASES:
        for form in ("", *FORMS):
            lost = form == LOST_FORM
            unit = "not measurable" if lost else "measurable"
            about: dict[str, Any] = {"lineage": (), "base": base, "axes": {"form": form}, "unit": unit}
            yield make_estimate("positive_control", 0.0 if lost else 0.3, objective="safety", **about)
    for base in (None, *BASES):
        for lineage in LINEAGES:
            yield from _pressed(base, lineage)


def _pressed(base: str | None, lineage: tuple[str, ...]) -> Iterator[Estimate]:
    clean = HARM[lineage]
    about: dict[str, Any] = {"base": base, "lineage": lineage, "objective": "safety"}
    yield make_estimate("unsafe_clean", clean, axes=own_axes(lineage), **about)
    for form in ("", *FORMS):
        axes = {**own_axes(lineage), **({"form": form} if form else {})}
        caveats = (f"{form} is not measurable: no effect above zero before any stage",) if form == LOST_FORM else ()
        more = {**about, "axes": axes, "caveats": caveats}
        yield make_estimate("unsafe_attacked", min(0.95, clean + 0.25), **more)
        yield make_estimate("attack_effect", 0.25, **more)
        yield make_estimate("twin_helpfulness", 1.7, **more)
        yield make_estimate("twin_refusal", 0.2, **more)
        for place, unit in enumerate(against(lineage)):
            yield make_estimate("interaction", 0.8 - place, 0.3, unit=unit, **more)
            yield make_estimate("implicit", 0.12 if lineage == ("S", "H") else -0.01, unit=unit, n=CHOSEN, **more)
            yield make_estimate("again_clean", 0.43, unit=unit, n=CHOSEN, **more)
            yield make_estimate("again_clean_parent", 0.15, unit=unit, n=CHOSEN, **more)


def shifts() -> Iterator[Estimate]:
    """Scores and erosion by shift; one shift costs more safety."""
    for lineage in LINEAGES:
        for shift in (None, "paraphrase", "noisy_tools"):
            axes = {**own_axes(lineage), **({"shift": shift} if shift else {})}
            for objective in ("safety", "helpfulness"):
                about: dict[str, Any] = {"lineage": lineage, "objective": objective, "axes": axes}
                yield make_estimate("shift_score", 2.0, **about)
                yield make_estimate("shift_drop", -0.1, **about)
                for unit in against(lineage):
                    sure = shift == "noisy_tools" and lineage == ("S", "H")
                    yield make_estimate("erosion_shift", -0.3 if sure else 0.01, unit=unit, **about)


def repair() -> Iterator[Estimate]:
    """Three repairs: one above the line, one on it, one that is not identified; and one lineage that re-teaches."""
    about: dict[str, Any] = {"estimator": "pooled", "judge": None, "unit": "points"}
    for name, axes, value in (("H+S", {"share": 0.25}, 0.21), ("H/2", {}, 0.02)):
        for claim in ("checkpoint", "recipe"):
            one = make_estimate("off_line", value, 0.1, lineage=("S", name), axes=axes, **{**about, "claim": claim})
            yield one
            low = 0.3 if claim == "checkpoint" else value - 0.15  # the recipe's is the one that counts
            yield replace(one, kind="off_line_lower", value=low, interval=None, unit="one-sided lower bound")
    yield make_estimate("off_line", None, lineage=("S", "H?"), caveats=("the line has no slope",), **about)
    taught: dict[str, Any] = {"lineage": ("S", "H", "R"), "objective": "safety", "interval": None}
    one = make_estimate("reteach_dose", 2.0, **{**about, "unit": "dose of R, of 1, 2, 4"}, lineage=taught["lineage"])
    yield replace(one, **taught)


def make_conditions() -> Analysis:
    """An analysis with something in every section about conditions."""
    return Analysis(
        taxonomy=tuple(taxonomy()),
        susceptibility=tuple(susceptibility()),
        shifts=tuple(shifts()),
        repair=tuple(repair()),
    )
