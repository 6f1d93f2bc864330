"""What a study says of its stages, and what of it only the data can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from holdfast.records import PreferencePair
from holdfast.records.errors import StepError
from holdfast.training.encoding import Encoded, LossMask
from holdfast.training.loop.loop import TOKEN_BUDGET, Schedule
from holdfast.training.objectives import AdvantageScale, PairLoss
from holdfast.training.policy.adapters import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTSettings:
    """How a base is taught, as ``[model.sft]`` of a study says.

    ``steps`` and ``warmup_steps`` are optimiser steps, ``batch_size`` counts demonstrations, ``max_grad_norm``
    bounds the gradient's L2 norm; ``other_weight`` is the loss weight of tokens that are not the agent's own.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    max_grad_norm: float
    other_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOSettings:
    """How a preference stage trains, as ``[stages.NAME]`` of a study says.

    ``beta`` is per nat; ``steps`` and ``warmup_steps`` are optimiser steps, in whose place ``epochs`` are passes over
    the pairs and ``warmup_ratio`` is a share of the steps; ``max_length`` bounds the tokens of a pair's sides;
    ``lora_r`` 0 trains all weights. From ``pairwise`` on they are those of ``PairOrder``, ``PairObjective``,
    ``LoopSettings`` and ``open_policy``; ``devices`` is the number of processes that train together, with the weights
    sharded over them; each opens the whole model first.
    """

    beta: float
    steps: int
    pairs_per_step: int
    learning_rate: float
    warmup_steps: int
    max_grad_norm: float
    loss_mask: LossMask
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool = False
    epochs: int | None = None
    warmup_ratio: float | None = None
    max_length: int | None = None
    pairwise: bool = False
    trajectories_per_case: int | None = None
    tokens_per_step: int | None = None
    loss: PairLoss = "sigmoid"
    label_smoothing: float = 0.0
    length_normalized: bool = False
    sft_weight: float = 0.0
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    token_budget: int = TOKEN_BUDGET
    precision: Precision = "fp32"
    recompute: bool = False
    devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """How a stage learns from rewarded rollouts; fields are named, and mean, as in ``[stages.NAME]`` of a study.

    ``max_tokens`` bounds a reply and is the constant length of "dr_grpo". Log-probabilities are those at temperature 1,
    whatever the ``temperature`` of sampling is.
    """

    method: Literal["grpo", "best_sft", "best_dpo"]
    rollouts: Literal["policy", "start", "source"] = "policy"
    lag: int = 0
    importance: bool = True
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    scale: AdvantageScale = "group"
    group_size: int = 8
    prompts_per_step: int = 8
    tokens_per_step: int | None = None
    steps: int = 60
    beta: float = 0.1
    kl_weight: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    learning_rate: float = 1.5e-4
    warmup_steps: int = 4
    max_grad_norm: float = 1.0
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    temperature: float = 1.0
    max_tokens: int = 256
    lora_r: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    token_budget: int = TOKEN_BUDGET
    precision: Precision = "fp32"
    recompute: bool = False

    @property
    def on_policy(self) -> bool:
        """Whether rollouts are sampled while the stage trains."""
        return self.rollouts == "policy"


def fit_stage(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], settings: DPOSettings
) -> tuple[list[PreferencePair], DPOSettings]:
    """The pairs that ``max_length`` leaves, and settings with the steps and the warm-up that they make.

    An epoch has as many steps as its pairs fill, the last one perhaps in part; a share of a warm-up step counts as one.
    What is given as steps stays. Errors: StepError where every pair is too long.
    """
    limit = math.inf if settings.max_length is None else settings.max_length
    # What is not encoded is another error, of whoever learns from it.
    long = {name for name, item in encoded.items() if len(item.ids) > limit}
    kept = [pair for pair in pairs if not {pair.chosen, pair.rejected} & long]
    if pairs and not kept:
        raise StepError(f"all {len(pairs)} pairs have a side of more than max_length {limit} tokens; raise it")
    steps, warmup = settings.steps, settings.warmup_steps
    if settings.epochs is not None:
        steps = math.ceil(len(kept) / settings.pairs_per_step) * settings.epochs
    if settings.warmup_ratio is not None:
        warmup = math.ceil(settings.warmup_ratio * steps)
    return kept, replace(settings, steps=steps, warmup_steps=warmup)
