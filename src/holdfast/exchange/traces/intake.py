"""What readers of all shapes put down, and what they could not read, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from holdfast.exchange.traces.dialogue import Exchange, ToolRun
from holdfast.exchange.traces.records import BadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Speechless:
    """A span of a request to a model whose messages could not be read; ``shape`` says what it has instead.

    An ``outer`` one is of an agent, whose requests may be told by others.
    """

    unit: str
    span: str
    shape: str
    outer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something of a file that could not be read: a row, or a line that may have held several.

    ``lines`` is how many rows a lost line may have held, 0 for a row; ``unit`` is the trace that a row belongs to,
    where that is known. ``silent`` says that it was read, but that no agent says anything in it.
    """

    error: BadRecord
    lines: float = 0.0
    unit: str | None = None
    silent: bool = False


@dataclass(slots=True)
class Intake:
    """Requests, tools' executions and what was left out, of any number of files.

    ``rows`` counts spans, log records and chat records that were met, ``flaws`` attributes and keys beside messages
    that were left out for what stood in them.
    """

    strict: bool = False
    exchanges: list[Exchange] = field(default_factory=list)
    runs: list[ToolRun] = field(default_factory=list)
    speechless: list[Speechless] = field(default_factory=list)
    parents: dict[tuple[str, str], str] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    rows: int = 0
    flaws: Counter[str] = field(default_factory=Counter)

    def lose(self, error: BadRecord, *, lines: float = 0.0, unit: str | None = None, silent: bool = False) -> None:
        """Count what cannot be read. Errors: the error itself if ``strict``."""
        if self.strict:
            raise error
        self.lost.append(Lost(error=error, lines=lines, unit=unit, silent=silent))

    def above(self, unit: str, span: str) -> list[str]:
        """The spans around a span of a trace, the nearest first."""
        found: list[str] = []
        while (span := self.parents.get((unit, span), "")) and span not in found:
            found.append(span)
        return found
