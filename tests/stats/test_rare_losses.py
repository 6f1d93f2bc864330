"""Intervals where losses are rare and severe; ratios, seeds and lines that are sure of no more than the data are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_study import CONFIGS, quick_layout, simulate

from holdfast.analysis import frontier, pooled
from holdfast.analysis.design import Contrast, Design, by_base, contrast, over, read_design
from holdfast.records import Estimate, Unbounded, can_be_told
from holdfast.stats.contrasts import t_quantile
from holdfast.stats.limits import mean_limits
from holdfast.stats.lines import BENT
from holdfast.stats.resample import resampled_means

S, H, SH = (("S",), ()), (("H",), ()), (("S", "H"), ())
FLAT = dict.fromkeys(CONFIGS, (1.5, 1.5))


def _limits(values: np.ndarray) -> np.ndarray:
    return mean_limits(values, np.tile([-3.0, 3.0], (len(values), 1)), 0.95)


# --- rare losses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [(-3.0,), (-1.0,), (3.0,), (1.0,), (-1.0, -3.0), (3.0, -3.0)])
@pytest.mark.parametrize("n", [20, 72, 144, 300])
def test_rare_changes_are_covered(changes: tuple[float, ...], n: int) -> None:
    rng = np.random.default_rng([n, len(changes)])
    for q in (0.01, 0.02, 0.03, 0.05, 0.1):
        odds = [*(q / len(changes) for _ in changes), 1 - q]
        values = rng.choice([*changes, 0.0], size=(800, n), p=odds)
        found, truth = _limits(values), q * float(np.mean(changes))
        assert ((found[:, 0] <= truth) & (truth <= found[:, 1])).mean() >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / 800), q
        assert (found[:, 1] - found[:, 0]).min() > 3 / (n + 4)


@pytest.mark.parametrize(("n", "q", "most"), [(300, 0.1, 1.2), (144, 0.05, 1.5)])
@pytest.mark.parametrize("change", [-3.0, -1.0, 1.0])
def test_widths_stay_near_those_of_student(n: int, q: float, most: float, change: float) -> None:
    values = np.where(np.random.default_rng(n).random((400, n)) < q, change, 0.0)
    found = _limits(values)
    student = 2 * t_quantile(n - 1) * values.std(axis=1, ddof=1) / np.sqrt(n)
    assert np.median(found[:, 1] - found[:, 0]) <= most * np.median(student)


# --- ratios ---------------------------------------------------------------------------------------------------------


def _both(design: Design) -> tuple[Contrast, Contrast]:
    safety, keys = design.objective("safety"), design.keys
    top = contrast(design, safety, over(keys, (SH, 1.0), (H, -1.0), (S, 0.0)))
    return top, contrast(design, safety, over(keys, (S, 1.0), (H, -1.0), (SH, 0.0)))


def _ratio(design: Design, claim: str) -> Estimate:
    (found,) = (row for row in pooled.ratios(design, *_both(design)) if row.claim == claim)
    return found


def test_a_ratio_is_printed_where_the_interval_of_its_gap_excludes_zero() -> None:
    rng = np.random.default_rng(3)
    printed = 0
    for spread in [0.05, 0.1, 0.2, 0.4] * 6:
        design, _ = simulate(quick_layout(), rng, configs=FLAT, seed_spread=spread)
        _, bottom = _both(design)
        for row, gap in zip(
            pooled.ratios(design, *_both(design)), pooled.differences(design, bottom, "gap"), strict=True
        ):
            assert isinstance(gap.interval, tuple)
            sure = gap.interval[0] > 0 or gap.interval[1] < 0
            assert (row.value is not None) == sure
            assert isinstance(row.interval, tuple) if sure else row.interval is Unbounded.UNBOUNDED
            assert sure or "cannot be told from zero" in row.caveats[0]
            printed += sure
    assert printed  # checkpoints differ by their seeds' luck


def test_two_seeds_give_no_ratio_of_the_recipe() -> None:
    design, _ = simulate(quick_layout(2), np.random.default_rng(4))
    row = _ratio(design, "recipe")
    assert row.value is None and row.interval is None
    assert any("2 seeds, fewer than 3" in caveat for caveat in row.caveats)
    assert _ratio(design, "checkpoint").value is not None


@pytest.mark.parametrize("cases", [2, 5, 30])
def test_cases_that_are_all_alike_identify_nothing_and_leave_no_interval_without_width(cases: int) -> None:
    full, _ = simulate(quick_layout(), np.random.default_rng(5))
    level = {(): 0.0, ("S",): 3.0, ("H",): 0.0, ("S", "H"): 2.0}
    values = np.array([[level.get(row.lineage, 1.0)] * cases for row in full.panel.rows])
    design = Design(panel=replace(full.panel, values=np.stack([3 - values, values])), rows=full.rows)
    for claim in pooled.CLAIMS:
        assert _ratio(design, claim).value is None
    top, _ = _both(design)
    for row in pooled.differences(design, top, "retained"):
        assert row.value == pytest.approx(2.0) and isinstance(row.interval, tuple)
        assert row.interval[1] - row.interval[0] > 3 / (cases + 4)
        assert can_be_told(row) == (cases >= 10)
        assert any(f"cannot be told ({cases} cases)" in caveat for caveat in row.caveats) == (cases < 10)


def test_a_line_through_cases_that_are_all_alike_has_no_interval_without_width() -> None:
    full, _ = simulate(quick_layout(), np.random.default_rng(5))
    level = [[CONFIGS[row.lineage][objective] for row in full.panel.rows] for objective in (0, 1)]
    values = np.repeat(np.array(level)[:, :, None], 30, axis=2)
    design = Design(panel=replace(full.panel, values=values), rows=full.rows)
    rows = list(frontier.frontier_estimates(design, resampled_means(design.flat, 200, np.random.default_rng(0))))
    lines = [row for row in rows if row.kind in ("slope", "intercept") and isinstance(row.interval, tuple)]
    assert lines and all(row.interval[1] - row.interval[0] > 0.05 for row in lines)


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_seeds_of_own_trainings_are_pooled_within_bases_and_those_of_shared_splits_stand_beside() -> None:
    own, _ = simulate(quick_layout(), np.random.default_rng(6))
    top, _ = _both(own)
    found, beside = pooled.spreads(own, top)
    assert (len(found.parts), found.degrees, beside) == (2, 4, None)
    split = replace(top, units=tuple((seed, None) for seed in range(3)))
    found, beside = pooled.spreads(own, split)
    assert (len(found.parts), found.degrees) == (1, 2) and beside is not None and beside.degrees == 4
    (recipe,) = (row for row in pooled.differences(own, split, "retained") if row.claim == "recipe")
    assert any("pooled within 2 cells" in caveat and "(4 df)" in caveat for caveat in recipe.caveats)


def test_names_of_seeds_decide_nothing_where_trainings_are_independent() -> None:
    own, _ = simulate(quick_layout(), np.random.default_rng(6))
    rows = tuple(
        replace(row, train_seed=row.train_seed + 10) if row.base == "base-1" and row.train_seed is not None else row
        for row in own.panel.rows
    )
    renamed = read_design(replace(own.panel, rows=rows))
    means = resampled_means(own.flat, 200, np.random.default_rng(0))
    for of in (pooled.delta_rows, pooled.persistence_rows, lambda one: frontier.frontier_estimates(one, means)):
        found = list(of(own))
        assert any(row.claim == "recipe" and row.base is None and row.interval is not None for row in found)
        assert list(of(renamed)) == found


def test_seeds_that_are_alike_by_luck_are_told() -> None:
    full, _ = simulate(quick_layout(), np.random.default_rng(7))
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    same = [first.setdefault((row.base, row.lineage), place) for place, row in enumerate(full.panel.rows)]
    design = Design(panel=replace(full.panel, values=full.panel.values[:, same]), rows=full.rows)
    top, _ = _both(design)
    (recipe,) = (row for row in pooled.differences(design, top, "retained") if row.claim == "recipe")
    assert any("may be alike by luck" in caveat for caveat in recipe.caveats)


# --- the frontier ---------------------------------------------------------------------------------------------------


def _on_a_curve(sag: float, off: float = 0.0) -> dict[tuple[str, ...], tuple[float, float]]:
    """Recipes on a parabola from S to H, but for S&H, which lies ``off`` it."""
    found: dict[tuple[str, ...], tuple[float, float]] = {(): (1.2, 1.2)}
    for lineage, place in ((("S",), 0.0), (("H",), 1.0), (("S", "H"), 0.7), (("H", "S"), 0.3), (("S&H",), 0.5)):
        bulge = (4 * sag * place * (1 - place) + (off if lineage == ("S&H",) else 0.0)) / np.sqrt(2)
        found[lineage] = (0.9 + place + bulge, 1.9 - place + bulge)
    return found


def _joint(sag: float, off: float, seed: int) -> tuple[Estimate, Estimate]:
    """The bend of the line, and S&H's distance from it, of these checkpoints."""
    design, _ = simulate(quick_layout(), np.random.default_rng(seed), configs=_on_a_curve(sag, off), seed_spread=0.02)
    means = np.repeat(design.means.reshape(1, -1), 2, axis=0)
    drawn = frontier.draw_cloud(design, by_base(design.keys), design.recipes, means, relative=True)
    (bend,) = (row for row in frontier.line_rows(drawn, {}, "") if row.kind == "bend" and row.claim == "recipe")
    rows = frontier.best_of_both_rows(drawn, design, {}, "", looks=False)
    (found,) = (row for row in rows if row.lineage == ("S&H",) and row.claim == "recipe")
    return bend, found


def test_a_bend_is_measured_and_not_taken_for_a_distance() -> None:
    bend, distance = _joint(0.35, 0.0, 8)
    assert isinstance(bend.interval, tuple) and isinstance(distance.interval, tuple)
    assert bend.interval[0] > 0 and bend.value == pytest.approx(0.35, abs=0.1)
    assert distance.interval[0] > 0
    assert any(caveat.startswith(BENT) for caveat in distance.caveats)


def test_a_recipe_beyond_a_straight_line_is_beyond_a_curve_too() -> None:
    _, distance = _joint(0.0, 0.5, 9)
    assert isinstance(distance.interval, tuple) and distance.interval[0] > 0
    assert not any(caveat.startswith(BENT) for caveat in distance.caveats)
