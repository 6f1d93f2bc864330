"""What a gate asks of two sides, and what it is answered from: changes by case or family, whatever is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.decisions.gate.pairing import Pairing, average_families
from holdfast.records.arrays import Floats
from holdfast.study.rules import CHECK_KINDS, FEWEST_FAMILIES, CheckKind, GateSection

CASE, FAMILY, AUTO = "case", "family", "auto"
SEVERE = "severe"  # the check of which it is told in how many cases it happened
Reach = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A check's number that is held against its limit ``margin``: a change of a metric, or the child's own mean."""

    kind: CheckKind
    margin: float

    @property
    def metric(self) -> str:
        """The check whose readings it is of."""
        return self.kind.ceiling_of or self.kind.name

    @property
    def absolute(self) -> bool:
        """Whether the child's own mean is held against the limit."""
        return self.kind.ceiling_of is not None

    @property
    def reach(self) -> Reach:
        """Between which values the number lies in any case."""
        least, largest = self.kind.span
        return (least, largest) if self.absolute else (least - largest, largest - least)

    @property
    def edge(self) -> float:
        """The value beyond which it is a loss."""
        return -self.margin if self.kind.worse == "lower" else self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a question is answered from.

    ``scored`` has an array for each way of ``drawn``: the values by case, or their means by family. ``least`` and
    ``most`` are the same of every case that the metric is due of, with what is missing where it makes the value least
    and largest; they are empty where nothing is missing. ``change`` is the mean over cases (over families where those
    alone are drawn). ``events`` are cases with a severe event by side, ``lost`` rollouts without a value.
    """

    question: Question
    drawn: tuple[str, ...]
    scored: tuple[Floats, ...]
    least: tuple[Floats, ...]
    most: tuple[Floats, ...]
    parent: float | None
    child: float | None
    cases: int
    families: int
    lost: Mapping[str, int]
    events: Mapping[str, int]
    design_effect: float | None

    @property
    def change(self) -> float | None:
        """The mean that is bounded, where it is a change."""
        return None if self.question.absolute or not self.cases else float(self.scored[0].mean())

    @property
    def draws(self) -> int:
        """The fewest values that any of the bounds is taken of."""
        return min(map(len, self.scored))


def ask_all(rules: GateSection) -> tuple[Question, ...]:
    """Every question of the rules, in the order of the checks."""
    limits = [(kind, getattr(rules, kind.setting)) for kind in CHECK_KINDS if kind.read and kind.setting]
    limits += rules.own_kinds()
    return tuple(Question(kind=kind, margin=limit) for kind, limit in limits if limit is not None)


def gather(pairing: Pairing, question: Question, cluster: str) -> Evidence:
    """The values of a question on the cases that have it on both sides (of the child alone, where it is absolute)."""
    child = pairing.child[question.metric]
    sides = {"child": child} if question.absolute else {"parent": pairing.parent[question.metric], "child": child}
    if question.absolute:
        values, low, high = child.mean, child.low, child.high
    else:
        parent = sides["parent"]
        values, low, high = child.mean - parent.mean, child.low - parent.high, child.high - parent.low
    there, due = np.isfinite(values), np.isfinite(low)
    families = [np.array(pairing.families, dtype=object)[mask] for mask in (there, due)]
    drawn = choose_draws(families[1].tolist(), cluster)
    lost = {name: side.lost for name, side in sides.items()}
    missing = any(lost.values())

    def draw(found: Floats, names: Sequence[str]) -> tuple[Floats, ...]:
        return tuple(average_families((found,), names)[0] if way == FAMILY and len(found) else found for way in drawn)

    means = {name: draw(side.mean[there], families[0].tolist())[0] for name, side in sides.items()}
    events = {name: int(side.events[there].sum()) for name, side in sides.items()}
    return Evidence(
        question=question,
        drawn=drawn,
        scored=draw(values[there], families[0].tolist()),
        least=draw(low[due], families[1].tolist()) if missing else (),
        most=draw(high[due], families[1].tolist()) if missing else (),
        parent=float(means["parent"].mean()) if "parent" in means and there.any() else None,
        child=float(means["child"].mean()) if there.any() else None,
        cases=int(there.sum()),
        families=len(set(families[0].tolist())),
        lost=lost,
        events=events if question.metric == SEVERE else {},
        design_effect=find_design_effect(values[there], families[0].tolist()),
    )


def choose_draws(families: Sequence[str], cluster: str) -> tuple[str, ...]:
    """What is taken as drawn, by the rules' ``cluster`` and the families of the cases that a question is due of.

    "auto" takes cases, and families as well where there are ``FEWEST_FAMILIES`` of them or more: a claim then has to
    hold for both. Nothing but the number of families decides, which no score has a part in.
    """
    if cluster != AUTO:
        return (cluster,)
    count = len(set(families))
    return (CASE, FAMILY) if FEWEST_FAMILIES <= count < len(families) else (CASE,)


def find_design_effect(values: Floats, families: Sequence[str]) -> float | None:
    """The variance of the mean over cases with families drawn, over that with cases drawn.

    The first is the usual one for a mean of clusters of unequal size, the sum of squares of the families' summed
    deviations times G/(G − 1) (Kish 1965, chapter 5). None for fewer than two families, families of one case each, and
    values that do not vary.
    """
    groups = sorted(set(families))
    n, count = len(values), len(groups)
    if count < 2 or count == n or float(np.ptp(values)) == 0:
        return None
    place = {name: index for index, name in enumerate(groups)}
    deviations = values - values.mean()
    sums = np.bincount([place[name] for name in families], weights=deviations, minlength=count)
    by_family = float((sums**2).sum()) * count / (count - 1)
    return by_family / (n * float(values.var(ddof=1)))
