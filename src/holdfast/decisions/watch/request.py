"""What a watch is asked for: what is looked at, what is declared of it, and what it may spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.exchange.scales import ScoreOption
from holdfast.runs.rescoring import FoundJudge, find_judge
from holdfast.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """What both kinds of watch are told.

    ``baseline`` and ``where`` name a checkpoint of the run that holds it. The judge (of the file ``judges``) gives the
    ``objective``, and ``score`` says what those of logs are. ``margin`` is in points, ``min_coverage`` and ``alpha``
    are shares; the baseline was the best of ``best_of``. ``frozen`` trajectories are judged anew each time. ``state``
    is where what was seen so far is kept; the look is called ``label``.
    """

    baseline: str | None
    where: Mapping[str, str]
    label: str | None
    judges: Path | None
    trust_endpoints: bool
    objective: str
    score: tuple[ScoreOption, ...]
    margin: float
    min_coverage: float
    alpha: float
    best_of: int
    frozen: int | None
    seed: int
    state: Path | None
    drop: float | None
    quiet: bool
    max_calls: int | None
    max_cost: float | None

    @property
    def level(self) -> float:
        """The level of all looks together against one baseline.

        A baseline that is the best of k by these scores was lucky, and a model that has not changed then looks worse.
        With a share of the level for each of the k, no alarm is false against any of them but with probability alpha,
        whichever is chosen (Bonferroni).
        """
        return self.alpha / self.best_of

    def find_judge(self, name: str, store: Store) -> FoundJudge:
        """A judge of ``judges`` or of the run in ``store``, within what may be spent. Errors: StudyError."""
        budget = {"max_calls": self.max_calls, "max_cost": self.max_cost}
        return find_judge(name, self.judges, store, budget, trusted=self.trust_endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWatch(WatchRequest):
    """Later checkpoints of ``run``, or of later ``runs``, in the order of time."""

    run: Path
    judge: str | None
    checkpoints: Sequence[str] | None
    runs: Sequence[Path] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceWatch(WatchRequest):
    """One look at ``traces``, imported into ``output``; without ``run`` they are to be a baseline themselves.

    Of the traces ``sample`` are judged; ``strict`` refuses a record that cannot be read.
    """

    run: Path | None
    judge: str
    traces: Sequence[Path]
    output: Path
    sample: int | None
    strict: bool
