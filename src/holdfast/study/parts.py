"""The tables of a study file on what checkpoints meet beside the held-out cases: pressure, shifts, probes."""

from __future__ import annotations

from holdfast.records.section import CaseCount, Repeats, Section


class PartSection(Section):
    """What checkpoints meet beside the held-out cases; ``lineages`` says which (the base always), by default all.

    A lineage's last stage is met at its first dose only, unless ``every_dose``.
    """

    lineages: tuple[tuple[str, ...], ...] | None = None
    every_dose: bool = False
    per_case: Repeats = 2


class AttackSection(PartSection):
    """``[attacks]``: held-out cases under pressure, and benign twins from the same template.

    ``forms`` are names in ``holdfast.suites.attacks``, by default all that the suite's cases can take; ``cases``
    hazardous and as many harmless cases are put into each. The same cases are met again as they are: the differences
    to clean are taken with these episodes, while those of the held-out cases decide which cases are clean-safe.
    """

    forms: tuple[str, ...] = ()
    cases: CaseCount = 60


class ShiftSection(PartSection):
    """``[shifts]``: held-out cases, changed in what should not matter; ``kinds`` by default all the suite has."""

    kinds: tuple[str, ...] = ()
    cases: CaseCount = 60


class ProbeSection(PartSection):
    """``[probes]``: single-turn questions in dimensions, each with over-refusal twins.

    ``items`` is "own" (written for real models), "generated" (for the tiny model, whose base then learns the form) or
    the path of a local file in the format of ``source``, a public set's name. ``judge`` is a judge of the study;
    without one, rules read the replies.
    """

    dimensions: tuple[str, ...] = ()
    items: str = "own"
    source: str | None = None
    digest: str | None = None
    count: CaseCount = 40
    judge: str | None = None
