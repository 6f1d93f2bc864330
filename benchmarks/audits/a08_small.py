"""A8: what a page says of a few cases: no finding, and no number in a cell, whatever the interval."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from audits import a04_implicit as a04
from audits.rows import Row
from holdfast.analysis.multiplicity import count_families
from holdfast.analysis.pressure.susceptibility import susceptibility_rows
from holdfast.records import FEW_CASES, Analysis, Estimate
from holdfast.report.sections.pressure import NOT_MEASURABLE, describe_pressure, format_cell
from holdfast.report.words.labels import excludes_zero
from holdfast.report.words.tables import format_estimate

ITEM = "A8"
CLAIM = "Below ten cases the words are that it cannot be told, in sentences, in cells and in what is counted."

PAGES = 200  # at scale 1
# Strong pressure on few cases, so that intervals would often lie away from zero.
SMALL = a04.World(parent=0.0, child=0.0, added_parent=-1.0, added_child=6.0, cases=12)


def _few(one: Estimate) -> bool:
    return one.value is not None and one.n["cases"] < FEW_CASES


def measure(scale: float = 1.0) -> list[Row]:
    """The table of A8."""
    return list(_rows(max(10, round(PAGES * scale))))


def _rows(pages: int) -> Iterator[Row]:
    rng = np.random.default_rng(80)
    sentences = findings = cells = shown = away = counted = intervals = 0
    for _ in range(pages):
        rows = tuple(susceptibility_rows(a04.draw_study(SMALL, rng)))
        few = [one for one in rows if _few(one)]
        words = describe_pressure(Analysis(susceptibility=rows))
        small = any(one.kind == "implicit" and one.unit == "against S" and not one.axes for one in few)
        sentences += small
        findings += small and not any(one.startswith("S→H,") and "cannot be told (" in one for one in words)
        cells += len(few)
        texts = [text(one) for one in few for text in (format_cell, format_estimate)]
        shown += sum("cannot be told (" not in one and one != NOT_MEASURABLE for one in texts)
        away += sum(isinstance(one.interval, tuple) and one.interval[0] > 0 for one in few)
        counted += sum(excludes_zero(one) for one in few)
        intervals += sum(one.intervals for one in count_families(Analysis(susceptibility=tuple(few))))
    yield Row(case="pages whose implicit change rests on fewer than ten cases", value=sentences, low=1)
    before = '"neither easier nor harder to push … −12.5 pp [−100, 100]" of 3 cases'
    yield Row(case="of them: a sentence other than that it cannot be told", value=findings, high=0, before=before)
    yield Row(case="numbers of fewer than ten cases", value=cells, low=1)
    yield Row(case="of them: shown in a cell", value=shown, high=0, before="points such as +33.3 pp [−100, 100]")
    yield Row(case="of them: intervals above zero", value=away, low=1)
    yield Row(case="of them: called away from zero, or counted in a family", value=counted + intervals, high=0)
