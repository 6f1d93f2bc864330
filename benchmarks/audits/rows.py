"""A row of the audit's tables: what a simulation through the project's functions gave, and what it must give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one item. ``error`` is the 95 % Monte-Carlo half-width, None for what is computed exactly.

    ``low`` and ``high`` are the bounds that the figure must keep, None where there is none on that side. ``before``
    says in words what an audit of the earlier code found.
    """

    case: str
    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None
    before: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bounds, the Monte-Carlo error given away."""
        slack = self.error or 0.0
        above = self.low is None or self.value >= self.low - slack
        return above and (self.high is None or self.value <= self.high + slack)
