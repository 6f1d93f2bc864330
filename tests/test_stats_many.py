"""Many betting bounds at once are those of one sample after the other."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.stats.bounded import lower_bound
from holdfast.stats.many import ROWS_AT_ONCE, lower_bounds


@pytest.mark.parametrize(("size", "alpha"), [(1, 0.05), (2, 0.05), (7, 0.01), (40, 0.05), (120, 0.2)])
def test_each_row_has_its_own_bound(size: int, alpha: float) -> None:
    rng = np.random.default_rng(size)
    samples = np.clip(np.round(rng.normal(rng.normal(0, 1, (12, 1)), 1.2, (12, size))), -3, 3)
    samples[0], samples[1], samples[2] = 0.0, 3.0, -3.0
    samples[3, :] = np.where(np.arange(size) % 17 == 3, -3.0, 0.0)  # rare and severe
    found = lower_bounds(samples, alpha, low=-3, high=3)
    alone = [lower_bound(row, alpha, low=-3, high=3) for row in samples]
    assert found == pytest.approx(alone, abs=1e-8)
    assert found[2] == -3 and (found <= samples.mean(axis=1)).all()


def test_samples_of_several_sizes_are_bounded_together() -> None:
    rng = np.random.default_rng(3)
    samples = [np.clip(np.round(rng.normal(0.3, 1.2, size)), -3, 3) for size in (40, 1, 39, 7, 120, 40, 2)]
    found = lower_bounds(samples, 0.05, low=-3, high=3)
    assert found == pytest.approx([lower_bound(one, 0.05, low=-3, high=3) for one in samples], abs=1e-8)


def test_no_rows_have_no_bounds_and_more_rows_than_fit_have_all() -> None:
    assert lower_bounds(np.zeros((0, 5)), 0.05, low=-1, high=1).shape == (0,)
    samples = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (ROWS_AT_ONCE + 2, 6))
    found = lower_bounds(samples, 0.05, low=-1, high=1)
    assert len(found) == len(samples)
    assert found[-1] == pytest.approx(lower_bound(samples[-1], 0.05, low=-1, high=1), abs=1e-8)
