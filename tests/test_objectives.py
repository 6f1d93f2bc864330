"""The losses against arithmetic done by hand."""

import math

import pytest
import torch

from holdfast.training.objectives import dpo, sft


def test_sft_is_the_weighted_mean():
    loss = sft(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([1.0, 0.5, 0.0]))
    assert loss.item() == pytest.approx((1.0 + 1.0) / 1.5)


def test_dpo_by_hand_with_weights():
    chosen, rejected = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -1.0])
    result = dpo(chosen, rejected, torch.zeros(2), torch.zeros(2), beta=0.5, weights=torch.tensor([3.0, 1.0]))
    expected = 0.75 * math.log1p(math.exp(-0.5)) + 0.25 * math.log1p(math.exp(1.0))
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)
    assert result.margin.item() == pytest.approx(0.75 * 0.5 + 0.25 * -1.0)
    assert result.accuracy.item() == pytest.approx(0.75)


def test_dpo_starts_at_log_two_and_pushes_the_sides_apart():
    chosen = torch.tensor([-5.0, -7.0], requires_grad=True)
    rejected = torch.tensor([-6.0, -4.0], requires_grad=True)
    result = dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(math.log(2.0))
    assert torch.allclose(chosen.grad, torch.full((2,), -0.1 / 4))
    assert torch.allclose(rejected.grad, torch.full((2,), 0.1 / 4))
    assert not result.margin.requires_grad and not result.accuracy.requires_grad


def test_dpo_is_finite_far_out():
    far = dpo(torch.tensor([-900.0]), torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([0.0]), beta=1.0)
    assert far.loss.item() == pytest.approx(900.0)
