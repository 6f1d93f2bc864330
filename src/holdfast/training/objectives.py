"""Losses as pure functions: log-probabilities in, a scalar loss and its metrics out.

A step may be computed in parts that share no pair and no completion. Each function then takes the normaliser
of the whole step (``total``, and ``total_tokens`` where tokens are counted too), and the parts' losses and
metrics add up to those of the step. Without it, what is passed is the whole step. Log-probabilities are in
nats and metrics carry no gradient; ranges of settings are the study's to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.records.errors import StudyError
from holdfast.study.stages import RewardSection

PairLoss = Literal["sigmoid", "ipo", "hinge"]
Aggregation = Literal["sequence", "token", "constant"]
AdvantageScale = Literal["group", "batch", "none"]
# Added to a standard deviation before dividing by it, as in TRL.
_LEAST_DEVIATION = 1e-4


class RewardSettings(RewardSection):
    """A study's stage on rewards. ``max_tokens`` bounds a reply and is the constant length of "dr_grpo".

    Log-probabilities are those at temperature 1, whatever that of sampling is.
    """

    max_tokens: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The loss of a batch of pairs, and what to watch beside it.

    ``margin`` is the mean of beta times (chosen minus rejected log-ratio); ``accuracy`` is the share whose
    margin is positive. Log-ratios are of whole completions whatever the loss divides by. Both are weighted
    like the loss.
    """

    loss: Tensor
    margin: Tensor
    accuracy: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradient:
    """The loss of a batch of sampled completions, and means over its tokens to watch beside it.

    ``clip_fraction`` is the share of tokens whose ratio clipping cuts off from the gradient, ``ratio`` the mean
    probability ratio of the policy to the one that sampled, ``kl`` the estimated divergence from the reference
    in nats (None without a reference).
    """

    loss: Tensor
    clip_fraction: Tensor
    ratio: Tensor
    kl: Tensor | None


def sft(logps: Tensor, weights: Tensor, total: float | None = None) -> Tensor:
    """The weighted mean negative log-probability, in nats per unit of weight.

    Both tensors are of one shape; ``total`` is the sum of weights over the step.
    """
    _check_shapes("sft", logps, weights)
    return -(logps * weights).sum() / (weights.sum() if total is None else total)


def dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    weights: Tensor | None = None,
    loss: PairLoss = "sigmoid",
    label_smoothing: float = 0.0,
    lengths_chosen: Tensor | None = None,
    lengths_rejected: Tensor | None = None,
    length_normalized: bool = False,
    sft_weight: float = 0.0,
    total: float | None = None,
    total_tokens: float | None = None,
) -> Preference:
    """The preference loss, averaged over pairs by weight.

    Every tensor is [pairs]: a completion's log-probability summed over its tokens, its count of such tokens,
    or a pair's weight. With h the chosen minus the rejected log-ratio of policy to reference:

    - ``sigmoid``: -log sigmoid(beta h); Rafailov et al. 2023 (arXiv 2305.18290), equation 7. With
      ``label_smoothing`` e, the labels being wrong that often: -(1 - e) log sigmoid(beta h) - e log
      sigmoid(-beta h), conservative DPO (Mitchell 2023), which TRL has under ``aot`` alone.
    - ``ipo``: (h - 1 / (2 beta))^2; Azar et al. 2023 (arXiv 2310.12036), equation 17. Each log-ratio is first
      divided by its completion's length, as in TRL, whose authors have it from those of IPO.
    - ``hinge``: max(0, 1 - beta h); Zhao et al. 2023 (SLiC-HF, arXiv 2305.10425), in the form of Liu et al.
      2023 (RSO, arXiv 2309.06657).

    ``length_normalized`` divides each log-ratio by its length under the other losses too; with ``sigmoid`` that
    is TRL's ``sigmoid_norm``. ``sft_weight`` times the negative log-probability of the chosen completions is
    added. As in TRL's ``["sigmoid", "sft"]`` that term is a mean over the chosen tokens of all pairs, where
    Pang et al. 2024 (RPO, arXiv 2404.19733) average within each completion first; a pair's weight also weighs
    its tokens. ``total`` is the step's sum of weights, ``total_tokens`` its sum of weight times chosen length.
    """
    weights = torch.ones_like(policy_chosen) if weights is None else weights
    _check_shapes("dpo", policy_chosen, policy_rejected, ref_chosen, ref_rejected, weights)
    share = weights / (weights.sum() if total is None else total)
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    margins = (beta * (chosen - rejected)).detach()
    if length_normalized or loss == "ipo":
        chosen = _per_token(chosen, lengths_chosen, "lengths_chosen")
        rejected = _per_token(rejected, lengths_rejected, "lengths_rejected")
    value = (_pair_losses(chosen - rejected, loss, beta, label_smoothing) * share).sum()
    if sft_weight > 0:
        if lengths_chosen is None:
            raise StudyError("dpo: sft_weight is a weight per token of chosen; pass lengths_chosen")
        _check_shapes("dpo", policy_chosen, lengths_chosen)
        tokens = (weights * lengths_chosen).sum() if total_tokens is None else total_tokens
        value = value - sft_weight * (policy_chosen * weights).sum() / tokens
    return Preference(loss=value, margin=(margins * share).sum(), accuracy=((margins > 0) * share).sum())


def policy_gradient(
    logps: Tensor,
    old_logps: Tensor | None,
    advantages: Tensor,
    owner: Tensor,
    *,
    aggregation: Aggregation = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ref_logps: Tensor | None = None,
    kl_weight: float = 0.0,
    constant_length: float | None = None,
    counts: Tensor | None = None,
    total: float | None = None,
    total_tokens: float | None = None,
) -> PolicyGradient:
    """The clipped policy-gradient loss over sampled completions, as in TRL's GRPOTrainer.

    ``logps``, ``old_logps`` (of the policy that sampled; None where it is the present one) and ``ref_logps``
    are [tokens], of sampled tokens alone; ``owner`` [tokens] says which of the ``advantages`` [completions]
    is a token's. With q the ratio of new to old probability and A the advantage, a token costs -min(q A,
    clamp(q, 1 - clip_low, 1 + clip_high) A), plus ``kl_weight`` times an estimate of its
    divergence from the reference (k3, weighted by q). An infinite ``clip_high``
    bounds nothing. The tokens add up as

    - ``sequence``: the mean of each completion's mean; GRPO, Shao et al. 2024 (arXiv 2402.03300), equation 3.
    - ``token``: the mean over all tokens; DAPO, Yu et al. 2025 (arXiv 2503.14476), section 3.3.
    - ``constant``: the sum over completions times ``constant_length``; Dr. GRPO, Liu et al. 2025 (arXiv
      2503.20783), where that is the most tokens a completion may have.

    A completion without tokens costs 0 and still counts. ``counts`` [completions] says how often each one was sampled,
    with one advantage; the loss and the metrics are those of a batch that holds it so often. ``total`` is the step's
    number of completions and ``total_tokens`` of tokens, both with repeats; a part takes both, as the metrics are
    means over tokens.
    """
    old_logps = logps.detach() if old_logps is None else old_logps
    _check_shapes("policy_gradient", logps, old_logps, owner)
    counts = torch.ones_like(advantages) if counts is None else counts
    _check_shapes("policy_gradient", advantages, counts)
    repeats = counts[owner]
    completions = max(1.0, counts.sum().item()) if total is None else total
    tokens = max(1.0, repeats.sum().item()) if total_tokens is None else total_tokens
    gains, ratio, kl = advantages[owner], torch.exp(logps - old_logps), None
    losses = -torch.min(ratio * gains, ratio.clamp(1 - clip_low, 1 + clip_high) * gains)
    if ref_logps is not None:
        divergences = _divergences(logps, ref_logps, ratio)
        losses = losses + kl_weight * divergences if kl_weight > 0 else losses
        kl = (divergences.detach() * repeats).sum() / tokens
    elif kl_weight > 0:
        raise StudyError(f"policy_gradient: kl_weight is {kl_weight}, but there is no reference; pass ref_logps")
    if aggregation == "sequence":
        losses = losses / torch.bincount(owner, minlength=advantages.numel())[owner]
    units = tokens if aggregation == "token" else completions * (constant_length or 1)
    cut = (ratio < 1 - clip_low) & (gains < 0) | (ratio > 1 + clip_high) & (gains > 0)
    return PolicyGradient(
        loss=(losses * repeats).sum() / units,
        clip_fraction=(cut * repeats).sum() / tokens,
        ratio=(ratio.detach() * repeats).sum() / tokens,
        kl=kl,
    )


def group_advantages(rewards: Tensor, groups: Tensor, scale: AdvantageScale = "group") -> Tensor:
    """Each completion's reward less the mean of its group, [completions], over a standard deviation.

    ``groups`` [completions] numbers the group (the prompt) of each completion. ``scale`` says whose deviation:
    that of the ``group`` (GRPO, Shao et al. 2024, arXiv 2402.03300), of the rewards of the ``batch``, or
    ``none`` (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783). As in TRL the deviation is the unbiased one plus
    1e-4, and a reward that is NaN takes no part and has an advantage of 0.
    """
    _check_shapes("group_advantages", rewards, groups)
    known = ~rewards.isnan()
    values = rewards.nan_to_num(nan=0.0)
    places = torch.unique(groups, return_inverse=True)[1]
    counts, sums, squares = (values.new_zeros(len(values)) for _ in range(3))
    counts.index_add_(0, places, known.to(values.dtype))
    sums.index_add_(0, places, values)
    advantages = torch.where(known, values - (sums / counts.clamp(min=1))[places], 0.0)
    if scale == "none":
        return advantages
    if scale == "group":
        squares.index_add_(0, places, advantages.square())
        return advantages / ((squares / (counts - 1).clamp(min=1)).sqrt()[places] + _LEAST_DEVIATION)
    spread = torch.where(known, values - values.sum() / known.sum().clamp(min=1), 0.0)
    return advantages / ((spread.square().sum() / (known.sum() - 1).clamp(min=1)).sqrt() + _LEAST_DEVIATION)


def _divergences(logps: Tensor, ref_logps: Tensor, ratio: Tensor) -> Tensor:
    """Each token's estimate of the policy's divergence from the reference, in nats.

    It is exp(d) - d - 1 with d = ref_logps - logps (Schulman 2020, "Approximating KL divergence", k3). Times the
    ratio, through which the gradient flows too, its mean over tokens of the policy that sampled estimates the
    present policy's divergence and that divergence's gradient without bias (DeepSeek-V3.2, arXiv 2512.02556),
    as TRL does unless told otherwise.
    """
    _check_shapes("policy_gradient", logps, ref_logps)
    gaps = ref_logps - logps
    return (torch.exp(gaps) - gaps - 1) * ratio


def _pair_losses(gaps: Tensor, loss: PairLoss, beta: float, label_smoothing: float) -> Tensor:
    if loss == "ipo":
        return (gaps - 1 / (2 * beta)).square()
    if loss == "hinge":
        return torch.relu(1 - beta * gaps)
    return -(1 - label_smoothing) * F.logsigmoid(beta * gaps) - label_smoothing * F.logsigmoid(-beta * gaps)


def _per_token(log_ratios: Tensor, lengths: Tensor | None, name: str) -> Tensor:
    if lengths is None:
        raise StudyError(f"dpo: this loss divides by the number of tokens; pass {name}")
    _check_shapes("dpo", log_ratios, lengths)
    return log_ratios / lengths.clamp(min=1)


def _check_shapes(place: str, *tensors: Tensor) -> None:
    """Tensors that differ in shape would broadcast to a loss over every combination."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise StudyError(f"{place}: tensors differ in shape: {', '.join(map(str, shapes))}; pass one value for each")
