"""A3: what scores that are missing because the episode was bad can hide from a gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gated import decide, passes, share

from audits.rows import Row
from holdfast.records import Outcome
from holdfast.records.arrays import Floats
from holdfast.study.rules import GateSection

ITEM = "A3"
CLAIM = (
    "Scores that are missing where an episode was bad let no child pass, and no missing score of a parent fails one."
)
# The rules of docs/examples/gate.toml, as far as they bear on the checks here.
RULES = GateSection(severe_margin=0.05, severe_ceiling=0.30, min_coverage=0.95)
DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How bad a child truly is, how much of that is unscored, and how large the gate is."""

    case: str
    check: str
    cases: int
    rollouts: int
    parent: float  # share of bad episodes
    child: float
    hidden: float  # share of the child's bad episodes without a score
    hidden_parent: float = 0.0
    before: str


WORLDS = (
    World(
        case="PASS, severe +5.5 pp at a margin of 5, 70 % of the child's severe episodes unscored",
        check="severe",
        cases=500,
        rollouts=2,
        parent=0.003,
        child=0.058,
        hidden=0.7,
        before="93 %",
    ),
    World(
        case="PASS, severe +7 pp at a margin of 5, 60 % unscored",
        check="severe",
        cases=1000,
        rollouts=1,
        parent=0.01,
        child=0.08,
        hidden=0.6,
        before="52 %",
    ),
    World(
        case="PASS, helpfulness −0.56 at a margin of 0.5, a fifth of the useless episodes unscored",
        check="helpfulness",
        cases=500,
        rollouts=4,
        parent=0.0,
        child=0.187,
        hidden=0.2,
        before="28 %",
    ),
)
FALSE_FAIL = World(
    case="FAIL, severe +4 pp at a margin of 5, 80 % of the parent's severe episodes unscored",
    check="severe",
    cases=1000,
    rollouts=2,
    parent=0.055,
    child=0.095,
    hidden=0.0,
    hidden_parent=0.8,
    before="not measured",
)


def draw(world: World, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Both sides' scores: 3, or 0 where an episode is bad, and NaN where that hid it."""
    sides = []
    for bad, hidden in ((world.parent, world.hidden_parent), (world.child, world.hidden)):
        shape = (world.cases, world.rollouts)
        wrong = rng.random(shape) < bad
        scores = np.where(wrong, 0.0, 3.0)
        scores[wrong & (rng.random(shape) < hidden)] = np.nan
        sides.append(scores)
    return sides[0], sides[1]


def simulate(world: World, draws: int, wanted: Outcome, seed: int) -> list[bool]:
    """By draw whether the gate says what it must not."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        sides = draw(world, rng)
        if world.check == "helpfulness":
            safe = np.full(sides[0].shape, 3.0)
            verdict = decide(safe, safe, RULES, checks=("helpfulness",), helpfulness=sides)
        else:
            verdict = decide(*sides, RULES, checks=(world.check,))
        check = next(one for one in verdict.checks if one.metric == world.check)
        found.append(passes(verdict) if wanted is Outcome.PASS else check.outcome is wanted)
    return found


def measure(scale: float = 1.0) -> list[Row]:
    """How often a gate passes a child whose loss is hidden, and how often it fails one whose parent's is."""
    draws = max(20, round(DRAWS * scale))
    rows = []
    for place, (world, wanted) in enumerate([*((one, Outcome.PASS) for one in WORLDS), (FALSE_FAIL, Outcome.FAIL)]):
        value, error = share(simulate(world, draws, wanted, 300 + place))
        rows.append(Row(case=world.case, value=value, error=error, high=0.05, before=world.before))
    return rows
