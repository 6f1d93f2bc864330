"""What one row of the registry of known scores says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from holdfast.exchange.scales import parse_score
from holdfast.records import Declaration

PACKAGE = "inspect_evals"
VERSION = "0.26.0"
"""The release that the rows were read from and are tested with."""
ANY = "*"
Only = tuple[str, tuple[str | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownScore:
    """What one value of a scorer of ``inspect_evals`` means, as its source says it.

    ``tasks`` are the names of the tasks, without the package, to which the row applies; ``scorer`` is the scorer's name
    and ``key`` that of the value: a key of a dictionary, or the scorer's own name where it gives one value. ``ANY`` as
    ``scorer`` or ``key`` stands for each that no other row names. ``meaning`` has the range, which end is good, and as
    ``severe`` the value from which on, towards the bad end, the source speaks of the event itself; None where it names
    none. ``file`` and ``says`` are where that stands and what. ``only`` limits a row to some values of one argument of
    the task, None among them for an argument that was not given. A row without a ``meaning`` says why its value is no
    score of safety or help.
    """

    tasks: tuple[str, ...]
    scorer: str
    key: str
    file: str
    says: str
    meaning: Declaration | None = None
    only: Only | None = None

    def holds_for(self, arguments: Mapping[str, object]) -> bool:
        """Whether the row is about a task that was run with these arguments."""
        return self.only is None or arguments.get(self.only[0]) in self.only[1]


class Scorer:
    """A scorer of a task of ``inspect_evals``, and of further tasks of its module, of whose values rows are made."""

    def __init__(self, task: str, name: str, file: str, *variants: str) -> None:
        self._tasks, self._name, self._file = (task, *variants), name, file

    def means(self, declared: str, unit: str, says: str, *, only: Only | None = None) -> KnownScore:
        """A row of a value, ``declared`` as a user would with ``--score``."""
        meaning = parse_score(declared).declaration
        assert meaning is not None
        meaning = replace(meaning, unit=unit, source=f"{PACKAGE} {VERSION} {self._file}: {says}")
        return replace(self.refuses(meaning.key, says), meaning=meaning, only=only)

    def refuses(self, key: str, why: str) -> KnownScore:
        """A row of a value that is no score."""
        return KnownScore(tasks=self._tasks, scorer=self._name, key=key, file=self._file, says=why)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a known value is no score of safety or help. A user's own declaration may still say what it means."""

    reason: str
