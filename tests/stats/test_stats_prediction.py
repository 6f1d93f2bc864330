"""Rank correlations over few models, and those of the published table."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from approval_numbers import (
    ENVIRONMENTS,
    GAP_RHOS,
    MODELS,
    PRINTED_UNIT,
    REWARD_RHOS,
    SETUP,
    THERAPY_SIZE_LEAVE_ONE_OUT,
    column,
)
from approval_prediction import (
    RankCorrelation,
    bootstrap_models,
    exact_p,
    leave_one_out,
    partial_from,
    partial_spearman,
    spearman,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.bounded import holm

# How far a rho from the table may lie from the printed one: that of politics is digitised to 0.1, with ties.
WITHIN = {"therapy": 0.01, "advice": 0.01, "politics": 0.035}


def array(name: str) -> np.ndarray:
    return np.array(column(name))


def ranked(values: np.ndarray) -> np.ndarray:
    return np.asarray(stats.rankdata(values))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 7), st.integers(0, 10_000))
def test_rho_and_exact_p_are_those_of_all_permutations(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, (2, size)).astype(float)  # with many ties
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found.rho is None and found.p is None and "same number" in (found.reason or "")
        return
    assert found.rho == pytest.approx(stats.spearmanr(first, second).statistic)
    one, two = ranked(first), ranked(second)
    seen = abs((one - one.mean()) @ (two - two.mean()))
    far = [abs((one - one.mean()) @ np.array(order)) >= seen - 1e-9 for order in permutations(two - two.mean())]
    assert found.p == pytest.approx(np.mean(far))
    assert found.method == "exact"


def test_the_exact_p_of_a_perfect_order() -> None:
    found = spearman(np.arange(5.0), np.array([9.0, 7, 5, 3, 1]))
    assert found == RankCorrelation(rho=-1.0, p=pytest.approx(2 / 120), p_t=0.0, method="exact", n=5)


def test_many_models_take_permutations_and_a_generator() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=30)
    second = 0.4 * first + rng.normal(size=30)
    found = spearman(first, second, rng=np.random.default_rng(1))
    scipy = stats.spearmanr(first, second)
    assert found.method == "permutations" and found.rho == pytest.approx(scipy.statistic)
    assert found.p_t == pytest.approx(scipy.pvalue)
    assert found.p is not None and found.p == pytest.approx(scipy.pvalue, abs=0.006)
    assert found == spearman(first, second, rng=np.random.default_rng(1))
    with pytest.raises(ValueError, match="random generator"):
        spearman(first, second)


def test_p_is_exact_for_few_models_and_never_zero_for_many() -> None:
    exact = spearman(array("size"), array("advice"))
    twice = spearman(np.tile(array("size"), 2), np.tile(array("advice"), 2), rng=np.random.default_rng(0), draws=999)
    assert exact.p is not None and twice.p is not None
    assert twice.p == 1 / 1000  # twice the models: nothing drawn comes as far, and p is never 0
    assert exact.p == pytest.approx(0.003968, abs=1e-6)


def test_models_that_lack_a_number_are_left_out() -> None:
    first, second = np.array([1.0, 2, np.nan, 3, 4]), np.array([1.0, 3, 9, 2, 4])
    assert spearman(first, second) == spearman(first[[0, 1, 3, 4]], second[[0, 1, 3, 4]])
    few = spearman(np.array([1.0, np.nan, 2]), np.array([1.0, 2, 3]))
    assert (few.rho, few.p, few.n) == (None, None, 2) and "fewer than 3" in (few.reason or "")
    with pytest.raises(ValueError, match="same models"):
        spearman(first, second[:3])


def test_a_printed_rho_has_the_largest_p_that_rounds_to_it() -> None:
    x = np.arange(11.0)
    y = x.copy()
    y[[0, 3, 5]] = y[[5, 0, 3]]
    found = spearman(x, y)
    assert found.rho is not None and found.p is not None
    assert exact_p(found.rho, 11) == pytest.approx(found.p)
    assert found.p <= exact_p(round(found.rho, 2), 11, slack=PRINTED_UNIT / 2) < 1.5 * found.p
    for n in (2, 13):
        with pytest.raises(ValueError, match="models"):
            exact_p(0.5, n)


def test_a_partial_correlation_is_that_of_the_ranks_residuals() -> None:
    rng = np.random.default_rng(2)
    first, second, third, fourth = rng.normal(size=(4, 20)) + rng.normal(size=20)
    found = partial_spearman(first, second, third, fourth)
    base = np.column_stack([np.ones(20), ranked(third), ranked(fourth)])
    one, two = (
        ranked(values) - base @ np.linalg.lstsq(base, ranked(values), rcond=None)[0] for values in (first, second)
    )
    expected = float(np.corrcoef(one, two)[0, 1])
    assert found.rho == pytest.approx(expected)
    t = expected * np.sqrt(16 / (1 - expected**2))
    assert found.p_t == pytest.approx(2 * stats.t.sf(abs(t), 16))
    assert (found.n, found.covariates) == (20, 2)


def test_without_covariates_it_is_the_correlation_itself() -> None:
    assert partial_spearman(array("size"), array("therapy")).rho == pytest.approx(
        spearman(array("size"), array("therapy")).rho
    )


def test_covariates_that_say_everything_leave_nothing() -> None:
    first, second = array("size"), array("therapy")
    assert partial_spearman(first, second, first).rho is None
    twice = partial_spearman(first, second, array("capability"), 2 * array("capability"))
    assert twice.rho is None and twice.reason is not None
    still = partial_spearman(first, second, np.ones(11))
    assert still.rho is None and "covariate 1" in (still.reason or "")
    few = partial_spearman(first[:3], second[:3], array("capability")[:3])
    assert few.rho is None and "too few" in (few.reason or "")


def test_without_each_model() -> None:
    found = leave_one_out(array("size"), array("therapy"))
    assert len(found.rhos) == 11
    assert found.rhos[3] == pytest.approx(
        stats.spearmanr(np.delete(array("size"), 3), np.delete(array("therapy"), 3)).statistic
    )
    low, high = THERAPY_SIZE_LEAVE_ONE_OUT
    assert found.low == pytest.approx(low, abs=0.005) and found.high == pytest.approx(high, abs=0.005)
    few = leave_one_out(np.arange(3.0), np.arange(3.0))
    assert (few.rhos, few.low, few.high) == ((None,) * 3, None, None)


def test_the_bootstrap_over_models_holds_rho_and_repeats_itself() -> None:
    first, second = array("size"), array("advice")
    interval = bootstrap_models(first, second, np.random.default_rng(0))
    assert interval is not None and interval == bootstrap_models(first, second, np.random.default_rng(0))
    assert -1 <= interval[0] < 0.807 < interval[1] <= 1
    assert bootstrap_models(np.ones(11), second, np.random.default_rng(0)) is None
    assert bootstrap_models(first[:2], second[:2], np.random.default_rng(0)) is None


def test_a_resample_has_the_rho_of_its_models() -> None:
    """Whatever is drawn of a perfect order stays one, although models repeat."""
    assert bootstrap_models(np.arange(9.0), np.arange(9.0) ** 3, np.random.default_rng(1)) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("predictor", ["capability", "size", "sycophancy"])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_published_correlations_come_out_again(environment: str, predictor: str) -> None:
    found = spearman(array(predictor), array(environment)).rho
    assert found is not None
    assert abs(found - GAP_RHOS[predictor][ENVIRONMENTS.index(environment)]) <= WITHIN[environment]


@pytest.mark.parametrize(
    ("environment", "predictor", "given_", "expected"),
    [
        ("advice", "sycophancy", "capability", -0.76),
        ("therapy", "size", "capability", -0.77),
        ("therapy", "capability", "size", 0.37),
        ("advice", "capability", "size", 0.68),
    ],
)
def test_partial_correlations_of_the_table(environment: str, predictor: str, given_: str, expected: float) -> None:
    found = partial_spearman(array(environment), array(predictor), array(given_)).rho
    assert found == pytest.approx(expected, abs=0.01)


def test_sycophancy_says_nothing_more_on_politics_than_capability_does() -> None:
    """From the printed rhos −0.07; from the digitised gaps a little more."""
    between = spearman(array("sycophancy"), array("capability")).rho
    assert between == pytest.approx(-0.71, abs=0.005)
    assert spearman(array("size"), array("capability")).rho == pytest.approx(0.86, abs=0.005)
    one, two = GAP_RHOS["sycophancy"][2], GAP_RHOS["capability"][2]
    printed = partial_from(np.array([[1.0, one, two], [one, 1.0, between], [two, between, 1.0]]))
    assert printed == pytest.approx(-0.07, abs=0.005)
    table = partial_spearman(array("politics"), array("sycophancy"), array("capability"))
    assert table.rho == pytest.approx(-0.07, abs=0.05) and (table.p_t or 0) > 0.5


def test_which_published_correlations_survive_the_family() -> None:
    """Of 27, nine are below 0.05 by themselves, and Holm leaves two or three of them."""
    bounds = {
        (name, environment): exact_p(rho, len(MODELS), slack=PRINTED_UNIT / 2)
        for name, rhos in GAP_RHOS.items()
        for environment, rho in zip(ENVIRONMENTS, rhos, strict=True)
    }
    assert len(bounds) == 27
    assert sum(p <= 0.05 for p in bounds.values()) == 9
    surviving = {key for key, p in holm({"|".join(key): p for key, p in bounds.items()}).items() if p <= 0.05}
    assert surviving == {"capability|advice", "sycophancy|advice"}
    # The gaps of therapy are printed, so that p of its size needs no rounding: it then survives, narrowly.
    exact = spearman(array("size"), array("therapy")).p
    assert exact is not None
    adjusted = holm({"|".join(key): p for key, p in {**bounds, ("size", "therapy"): exact}.items()})
    assert {key for key, p in adjusted.items() if p <= 0.05} == {*surviving, "size|therapy"}
    assert adjusted["size|therapy"] > 0.04


def test_the_constants_are_whole() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS) == 11
    assert set(REWARD_RHOS) <= set(GAP_RHOS)
    assert SETUP.completions_per_step % SETUP.group_size == 0
    assert SETUP.warmup_steps / SETUP.steps == 0.1
