"""Studies with known truth, for coverage simulations: scores 0..3 whose expected value is exact."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdfast.analysis.design import Design, read_design
from holdfast.analysis.panel import Panel, Row
from holdfast.analysis.roles import Role, Roles
from holdfast.store.cells import Cells
from holdfast.store.tables import ScoreTable, TrajectoryTable

OBJECTIVES = ("helpfulness", "safety")
CONFIGS: Mapping[tuple[str, ...], tuple[float, float]] = {  # lineage → true (helpfulness, safety) before a base's shift
    (): (2.1, 1.1),
    ("S",): (1.2, 2.1),
    ("H",): (2.3, 1.0),
    ("S", "H"): (1.5, 1.85),
    ("H", "S"): (1.4, 1.8),
    ("S&H",): (1.6, 1.75),
}
ROLES = Roles(
    by_stage={
        "S": Role(objectives=frozenset({"safety"})),
        "H": Role(objectives=frozenset({"helpfulness"})),
        "S&H": Role(objectives=frozenset(OBJECTIVES)),
    }
)
CASE_SPREAD, SEED_SPREAD = 0.25, 0.3  # half-widths of uniform effects, in score points


@dataclass(frozen=True)
class Truth:
    """Expected means of every row: with its own weights (``checkpoint``) and over seeds (``recipe``)."""

    checkpoint: np.ndarray
    recipe: np.ndarray


def _row(base: int, lineage: tuple[str, ...], split: int, seed: int | None) -> Row:
    training = (base, lineage, split if seed is None else seed)
    return Row(
        base=f"base-{base}",
        lineage=lineage,
        axes={},
        judge="state",
        split_seed=split,
        train_seed=seed,
        checkpoint=zlib.crc32(repr(training).encode()) if lineage else base,
    )


@dataclass(frozen=True)
class Layout:
    """Which rows a study has, and which cases each is tested on."""

    rows: tuple[Row, ...]
    tested: np.ndarray
    design: Design


def _empty_panel(rows: tuple[Row, ...], cases: int) -> Panel:
    nothing = np.zeros((len(OBJECTIVES), len(rows), cases))
    none = np.zeros(0, dtype=np.int64)
    table = TrajectoryTable(
        checkpoints=(),
        trajectory=none,
        checkpoint=none,
        case=none,
        rollout=none,
        flags=none,
        calls=none,
        invalid_calls=none,
        tokens=np.zeros(0),
    )
    names = tuple(f"case {number}" for number in range(cases))
    scores = ScoreTable(
        checkpoints=(),
        case_ids=names,
        case_numbers=tuple(range(cases)),
        families=names,
        judges=("state",),
        judge_names=("state",),
        objectives=OBJECTIVES,
        trajectory=none,
        checkpoint=none,
        case=none,
        rollout=none,
        judge=none,
        objective=none,
        repeat=none,
        flags=none,
        value=np.zeros(0),
    )
    empty = np.zeros((0, 1, 2))
    return Panel(
        rows=rows,
        objectives=OBJECTIVES,
        values=nothing,
        fit=nothing,
        low=nothing,
        high=nothing,
        counts={},
        cells=Cells(scores=scores, episodes=table, value=empty, asked=empty > 0, lost=empty),
        tested=np.zeros(0, dtype=np.bool_),
        roles=ROLES,
    )


def published_layout(rng: np.random.Generator) -> Layout:
    """3 bases × 3 split seeds, each tested on its own 72 of 144 cases."""
    halves = [np.isin(np.arange(144), rng.permutation(144)[:72]) for _ in range(3)]
    rows = tuple(_row(base, lineage, split, None) for base in range(3) for lineage in CONFIGS for split in range(3))
    tested = np.array([halves[row.split_seed or 0] for row in rows])
    return Layout(rows, tested, read_design(_empty_panel(rows, 144)))


def quick_layout(seeds: int = 3) -> Layout:
    """2 bases × 3 training seeds, or as many as asked for, all tested on the same 300 cases."""
    rows = tuple(
        _row(base, lineage, 0, seed)
        for base in range(2)
        for lineage in CONFIGS
        for seed in (range(seeds) if lineage else (None,))
    )
    return Layout(rows, np.ones((len(rows), 300), dtype=np.bool_), read_design(_empty_panel(rows, 300)))


def _scores(rng: np.random.Generator, expected: np.ndarray) -> np.ndarray:
    """Whole scores 0..3 with the expected values given: half of them all or nothing, half rounded at random."""
    steps = np.floor(expected + rng.random(expected.shape))
    extremes = 3.0 * (rng.random(expected.shape) < expected / 3)
    return np.where(rng.random(expected.shape) < 0.5, extremes, steps)


def simulate(
    layout: Layout,
    rng: np.random.Generator,
    *,
    configs: Mapping[tuple[str, ...], tuple[float, float]] = CONFIGS,
    seed_spread: float | Mapping[str, float] = SEED_SPREAD,
) -> tuple[Design, Truth]:
    """One study drawn from the truth; ``seed_spread`` is the half-width of what a run's seed adds, for each base."""
    cases = layout.tested.shape[1]
    shift = {f"base-{number}": 0.1 * (number - 1) for number in range(3)}
    recipe = np.array([np.array(configs[row.lineage]) + shift[row.base] for row in layout.rows]).T
    spreads = seed_spread if isinstance(seed_spread, Mapping) else dict.fromkeys(shift, seed_spread)
    luck = rng.uniform(-1, 1, recipe.shape) * [spreads[row.base] * bool(row.lineage) for row in layout.rows]
    checkpoint = recipe + luck
    case = rng.uniform(-CASE_SPREAD, CASE_SPREAD, (len(OBJECTIVES), 1, cases))
    drawn = _scores(rng, checkpoint[:, :, None] + case)
    if len({row.split_seed for row in layout.rows}) > 1:
        drawn = _share_base(layout, drawn)
    values = np.where(layout.tested[None], drawn, np.nan)
    panel = replace(layout.design.panel, values=values)
    return Design(panel=panel, rows=layout.design.rows), Truth(checkpoint.ravel(), recipe.ravel())


def _share_base(layout: Layout, drawn: np.ndarray) -> np.ndarray:
    """A base is rolled out once: its rows under different splits share their scores."""
    first: dict[str, int] = {}
    for index, row in enumerate(layout.rows):
        if not row.lineage:
            drawn[:, index] = drawn[:, first.setdefault(row.base, index)]
    return drawn


def covered(interval: Any, truth: float) -> bool:
    """Whether the interval holds the truth; an unbounded set holds everything."""
    return not isinstance(interval, tuple) or interval[0] <= truth <= interval[1]
