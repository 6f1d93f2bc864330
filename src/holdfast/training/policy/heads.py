"""From a model's states to the log-probabilities of given tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits are computed for so many numbers at a time, and again in the backward pass, where there are more.
LOGIT_NUMBERS = 2**26


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """From states to logits: ``weight`` [vocabulary, width] and ``bias``, then a factor, then a cap by tanh."""

    weight: Tensor
    bias: Tensor | None = None
    factor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a Hugging Face model, with what its configuration does to logits."""
        linear, config = model.get_output_embeddings(), model.config
        factor = getattr(config, "logit_scale", None) or 1.0
        return cls(
            weight=linear.weight,
            bias=linear.bias,
            factor=factor / (getattr(config, "logits_scaling", None) or 1.0),
            cap=getattr(config, "final_logit_softcapping", None),
        )

    def logits(self, states: Tensor) -> Tensor:
        """Logits [P, vocabulary] in 32-bit floats."""
        logits = F.linear(states, self.weight, self.bias).float()
        logits = logits if self.factor == 1.0 else logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def picked_logprobs(states: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The log-probability [P] of each target under the state [P, width] that predicts it."""

    def piece(states: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(head.logits(states), targets, reduction="none")

    rows = max(1, LOGIT_NUMBERS // len(head.weight))
    if len(states) <= rows:
        return piece(states, targets)
    from torch.utils.checkpoint import checkpoint

    parts = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    return torch.cat([checkpoint(piece, *part, use_reentrant=False) for part in parts])
