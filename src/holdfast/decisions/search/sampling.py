"""Which trial comes next: an optimiser that is asked for points and told what came of them.

Points are told in the order in which they were asked for, and the sampler has a seed, so that a search that is begun
anew asks for the same points as long as it is told the same: what is on disk need not hold the optimiser's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.records import Outcome, Verdict
from holdfast.records.errors import MissingExtra
from holdfast.study.rules import SearchSection

SHARE_STEPS = 100  # a share is a whole number of hundredths
RANDOM_TRIALS = 5  # before the optimiser models anything; no budget changes it, so that a search can be prolonged
MOST_REPEATS = 20  # asks in a row that give points which are known


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    """What a trial varies: the other objective's ``share`` of a step's pairs, and the stage's optimiser ``steps``."""

    share: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of a point: the gate's outcome, the mean that is to be large, and how far each check is from passing.

    ``value`` is None where nothing has a score. ``violations`` are in the checks' units, at most 0 where they pass.
    ``verdicts`` are those of every child.
    """

    outcome: Outcome
    value: float | None
    violations: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A point that was tried, in the order of trials from 0."""

    number: int
    point: Point
    found: Found


def look(section: SearchSection, evaluate: Callable[[int, Point], Found]) -> Iterator[Trial]:
    """Every trial of a search, no point twice, each as soon as it is evaluated.

    A point passes or not, as the gate says (the optimiser's constraints); among those that pass it seeks the largest
    value: Watanabe 2023 (arXiv 2304.11127) describes the estimator (TPE). Errors: MissingExtra without Optuna, and
    whatever ``evaluate`` raises.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("a search", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=section.seed, n_startup_trials=RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known: dict[Point, Found] = {}
    repeats = 0
    while len(known) < section.trials:
        if repeats >= MOST_REPEATS:
            study.enqueue_trial(_nearest_new(section, known))
        asked = study.ask()
        share = asked.suggest_int("share", *_hundredths(section)) / SHARE_STEPS
        point = Point(share=share, steps=asked.suggest_int("steps", *section.steps))
        repeats = repeats + 1 if point in known else 0
        is_new = point not in known
        found = known[point] = known[point] if not is_new else evaluate(len(known), point)
        for name, value in found.violations.items():
            asked.set_constraint(name, value)
        if found.value is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, found.value)
        if is_new:
            yield Trial(number=len(known) - 1, point=point, found=found)


def choose(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the largest value among those that pass, the shorter one of two alike; None where none passes."""
    passing = [one for one in trials if one.found.outcome is Outcome.PASS and one.found.value is not None]
    return max(passing, key=lambda one: (one.found.value, -one.point.steps, -one.point.share), default=None)


def _hundredths(section: SearchSection) -> tuple[int, int]:
    """The bounds of a share in hundredths, both within the declared ones."""
    low, high = section.share
    return math.ceil(low * SHARE_STEPS - 1e-9), math.floor(high * SHARE_STEPS + 1e-9)


def _nearest_new(section: SearchSection, known: Mapping[Point, Found]) -> dict[str, int]:
    """A point that was not tried, next to the best of the known ones; the study holds enough of them."""
    (low, high), (least, most) = _hundredths(section), section.steps
    best = max(known, key=lambda one: (known[one].outcome is Outcome.PASS, known[one].value or 0.0, one))
    every = (
        (abs(share / SHARE_STEPS - best.share) * SHARE_STEPS / (high - low + 1), abs(steps - best.steps), share, steps)
        for share in range(low, high + 1)
        for steps in range(least, most + 1)
        if Point(share=share / SHARE_STEPS, steps=steps) not in known
    )
    *_, share, steps = min(every, key=lambda one: (one[0] + one[1] / (most - least + 1), one[2:]))
    return {"share": share, "steps": steps}
