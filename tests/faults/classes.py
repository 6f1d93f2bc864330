"""What became of a fault: classes, and the table of their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What became of it; ``FAILING`` are those that must not be."""

    RIGHT = "as it should be"
    TOLD = "told"
    SILENT = "silent"
    TRACEBACK = "traceback"
    HANG = "hang"
    LOST = "lost"
    DUPLICATED = "duplicated"
    LEFTOVER = "leftover"
    MISSED = "not reached"  # the command ended before the chosen operation: not counted


FAILING = frozenset({Kind.SILENT, Kind.TRACEBACK, Kind.HANG, Kind.LOST, Kind.DUPLICATED})
COLUMNS = tuple(kind for kind in Kind if kind is not Kind.MISSED)


@dataclass(frozen=True, slots=True)
class Found:
    """One case: its name, by which ``--only`` does it again, its class, and what was seen."""

    name: str
    kind: Kind
    told: str
    placeless: bool = False

    @property
    def group(self) -> str:
        """The row of the table that it is counted in."""
        return self.name.rpartition("/")[0]


def render(found: Iterable[Found]) -> str:
    """The table as Markdown, a row a group."""
    rows: dict[str, Counter[Kind]] = {}
    for one in found:
        rows.setdefault(one.group, Counter())[one.kind] += 1
    lines = ["| | tried | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    totals: Counter[str] = Counter()
    for name, counts in rows.items():
        tried = sum(counts[kind] for kind in COLUMNS)
        totals[name.partition("/")[0]] += tried
        lines.append(f"| {name} | {tried} | " + " | ".join(str(counts[kind] or "–") for kind in COLUMNS) + " |")
    lines.append("")
    lines.append("tried: " + ", ".join(f"{count} {name}" for name, count in totals.items()))
    return "\n".join(lines)
