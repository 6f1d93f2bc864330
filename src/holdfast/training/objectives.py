"""Losses as pure functions: log-probabilities in, a scalar loss and its metrics out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The loss of a batch of pairs, and what to watch beside it.

    ``margin`` is the mean of beta times (chosen minus rejected log-ratio); ``accuracy`` the share of pairs
    whose margin is positive. Both are weighted like the loss and carry no gradient.
    """

    loss: Tensor
    margin: Tensor
    accuracy: Tensor


def sft(logps: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean negative log-probability, in nats per unit of weight; both tensors of one shape."""
    return -(logps * weights).sum() / weights.sum()


def dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    weights: Tensor | None = None,
) -> Preference:
    """The sigmoid preference loss, averaged over pairs by weight.

    Each tensor is [pairs]: a completion's log-probability in nats, summed over its tokens. Rafailov et al.
    2023 (arXiv 2305.18290), equation 7.
    """
    margins = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    share = torch.ones_like(margins) if weights is None else weights
    share = share / share.sum()
    return Preference(
        loss=(-F.logsigmoid(margins) * share).sum(),
        margin=(margins.detach() * share).sum(),
        accuracy=((margins.detach() > 0) * share).sum(),
    )
