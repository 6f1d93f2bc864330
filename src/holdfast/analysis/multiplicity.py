"""How many intervals of an analysis lie away from zero, and how many would by chance: no row is adjusted for others.

An interval of 95 % misses its truth once in twenty. Among many rows of no change some therefore lie away from zero, and
whoever reads them all finds these. Rows are counted by family: one quantity, by what it is split (form of pressure,
shift, dimension, base), and its claim. Rows of a family share cases and checkpoints, so that they err together: the
expected number holds whatever they share, its spread does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from holdfast.records import Analysis, Family, can_be_told
from holdfast.records.checkpoints import DOSE
from holdfast.records.quantities import CHANGE_SECTIONS, quantity_of
from holdfast.stats.resample import NOMINAL

SPLITS = ("form", "shift", "dimension", "environment")  # axes that make many rows of one quantity
COUNTED = ("scores", "deltas", "agreement", "audit", "dose", "health")  # sections with rows that have no interval


def count_families(analysis: Analysis) -> tuple[Family, ...]:
    """Every family of an analysis, in the order of its sections.

    A number that stands in several rows, as that of the first dose does, counts once.
    """
    met: set[tuple[object, ...]] = set()
    away: dict[tuple[str, str, tuple[str, ...], str], list[bool]] = {}  # family → whether each interval is
    for section in CHANGE_SECTIONS:
        for one in getattr(analysis, section):
            if quantity_of(one.kind).change and isinstance(one.interval, tuple) and can_be_told(one):
                axes = frozenset((name, str(value)) for name, value in one.axes.items() if name != DOSE)
                number = one.kind, one.claim, one.base, one.lineage, axes, one.judge, one.objective, one.interval
                if number in met:
                    continue
                met.add(number)
                by = (*(axis for axis in SPLITS if axis in one.axes), *(("base",) if one.base is not None else ()))
                apart = one.interval[0] > 0 or one.interval[1] < 0
                away.setdefault((section, one.kind, by, one.claim), []).append(apart)
    return tuple(
        Family(
            section=section,
            kind=kind,
            by=by,
            claim=claim,
            intervals=len(those),
            away=sum(those),
            by_chance=(1 - NOMINAL) * len(those),
        )
        for (section, kind, by, claim), those in away.items()
    )


def with_families(analysis: Analysis) -> Analysis:
    """The analysis with its families, and notes on what is not adjusted for them and on rows without an interval."""
    counted = replace(analysis, families=count_families(analysis))
    return replace(counted, notes=(*counted.notes, *_notes(counted)))


def _notes(analysis: Analysis) -> Iterator[str]:
    for claim in ("checkpoint", "recipe"):
        mine = [one for one in analysis.families if one.claim == claim]
        total, away = sum(one.intervals for one in mine), sum(one.away for one in mine)
        if total > 1:
            yield (
                f"not adjusted for looking often: of {total:,} intervals of changes ({claim} claims) {away:,} lie away"
                f" from zero, and {(1 - NOMINAL) * total:,.1f} would by chance if nothing had changed"
            )
    bare = {
        section: sum(one.value is not None and one.interval is None for one in getattr(analysis, section))
        for section in COUNTED
    }
    if named := ", ".join(f"{count:,} of {section}" for section, count in bare.items() if count):
        yield f"without an interval, and so no claim beyond what was counted here: {named}"
