"""Scores and erosion on cases that are changed in what should not matter.

    shift_score     the mean score on shifted cases
    shift_drop      the same less that on the cases as they are, paired by case
    erosion_shift   (child − parent) on shifted cases, less (child − parent) on the cases as they are

The axis "shift" names the kind; rows without it take the mean over a case's kinds first. A drop alone says that a case
became harder, for any checkpoint; the difference of differences says whether what a stage took is more, out there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.pressure.variants import (
    TEST,
    Group,
    Other,
    Source,
    Variants,
    against,
    comparisons,
    estimates,
    groups,
    mean_over,
)
from holdfast.records import Estimate
from holdfast.stats.clusters import Statistic, mean_statistic

Floats = NDArray[np.float64]


def shift_rows(source: Source) -> Iterator[Estimate]:
    """Rows of a run's shifted cases, in score points; none where a study has no shifts."""
    found = source.variants
    if found is None:
        return
    for group in groups(found.runs, np.flatnonzero(found.has("shift")).tolist()):
        for objective in found.objectives("shift"):
            yield from _rows(found, group, objective)


def _rows(found: Variants, group: Group, objective: str) -> Iterator[Estimate]:
    empty = np.full((len(found.runs), len(found.hazardous)), np.nan)
    plain = found.cells[TEST].scores.get(objective, empty)
    kinds = found.forms("shift")
    shifted = {kind: found.cells[("shift", kind)].scores.get(objective, empty) for kind in kinds}
    every = tuple(shifted.values())
    for kind, parts in {"": every, **{kind: (values,) for kind, values in shifted.items()}}.items():
        values, axes = mean_over(parts), {"shift": kind} if kind else {}
        for name, of in (("shift_score", values), ("shift_drop", values - plain)):
            yield from estimates(name, group, found.runs, partial(_mean, of), axes=axes, objective=objective)
        for other, unit in comparisons(group, found.runs):
            erosion = partial(_erosion, found, parts, plain, other)
            yield from estimates("erosion_shift", group, found.runs, erosion, axes=axes, objective=objective, unit=unit)


def _mean(values: Floats, place: int) -> Statistic:
    return mean_statistic(values[place])


def _erosion(found: Variants, parts: tuple[Floats, ...], plain: Floats, other: Other, place: int) -> Statistic | None:
    """By case, the change on shifted cases, over the kinds that both have scores on, less that on the case itself."""
    rival = against(found.runs, place, other)
    if rival is None:
        return None
    return mean_statistic(mean_over([one[place] - one[rival] for one in parts]) - (plain[place] - plain[rival]))
