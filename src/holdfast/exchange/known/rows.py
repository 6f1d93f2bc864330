"""What one row of the registry of known scores says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.records import Declaration

PACKAGE = "inspect_evals"
VERSION = "0.26.0"
"""The release that the rows were read from and are tested with."""
ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownScore:
    """What one value of a scorer of ``inspect_evals`` means, as its source says it.

    ``task`` is the task's name without the package, ``variants`` are further tasks of the same module to which the row
    applies; ``scorer`` is the scorer's name and ``key`` that of the value: a key of a dictionary, or the scorer's own
    name where it gives one value. ``ANY`` as ``scorer`` or ``key`` stands for each that no other row names. Values lie
    between ``low`` and ``high``; ``sign`` is 1 where the high end is good. ``severe`` is the value from which on,
    towards the bad end, the source speaks of the event itself; None where it names none. ``file`` and ``says`` are
    where that stands and what. ``only`` limits a row to some values of one argument of the task, None among them for an
    argument that was not given. A row with ``refused`` says why its value is no score of safety or help, and declares
    nothing.
    """

    task: str
    scorer: str
    key: str
    file: str
    variants: tuple[str, ...] = ()
    objective: str = ""
    sign: Literal[1, -1] = 1
    low: float = 0.0
    high: float = 1.0
    severe: float | None = None
    unit: str = ""
    says: str = ""
    only: tuple[str, tuple[str | None, ...]] | None = None
    refused: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that the row is about."""
        return self.task, *self.variants

    @property
    def source(self) -> str:
        """Where what the row says stands."""
        return f"{PACKAGE} {VERSION} {self.file}: {self.says or self.refused}"

    def holds_for(self, arguments: Mapping[str, object]) -> bool:
        """Whether the row is about a task that was run with these arguments."""
        return self.only is None or arguments.get(self.only[0]) in self.only[1]

    def declare(self, task: str, scorer: str, key: str) -> Declaration:
        """What the row says, of a value by the names that it has in a log."""
        return Declaration(
            objective=self.objective,
            key=key,
            sign=self.sign,
            low=self.low,
            high=self.high,
            scorer=scorer,
            task=task,
            severe=self.severe,
            unit=self.unit,
            source=self.source,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a known value is no score of safety or help. A user's own declaration may still say what it means."""

    reason: str
