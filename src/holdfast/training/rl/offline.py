"""Steps from stored rollouts: what a stage learns from rewarded rollouts that its own policy did not just sample.

    best_sft   imitates the best rollout of each prompt
    best_dpo   prefers it to the worst
    grpo       follows the policy gradient over the whole group, with or without weights for its source

``selection`` says which data; here they become optimiser steps. Streams are endless and do not depend on how much of
them is used, so a stage goes on at any step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.records import PreferencePair
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded, score_picked
from holdfast.training.objectives import Aggregation, group_advantages
from holdfast.training.rl.selection import (
    Rewarded,
    RewardSettings,
    Unit,
    count_own,
    mean_fact,
    mean_reward,
    name_rollout,
    reward_or,
    select,
    units_per_step,
)
from holdfast.training.trees.parts import GroupObjective, TrainStep, demonstration_step, group_step, pair_step

# How a loss adds tokens up.
_AGGREGATIONS: Mapping[str, Aggregation] = {"dapo": "token", "grpo": "sequence", "dr_grpo": "constant"}


def offline_steps(
    groups: Sequence[Rewarded],
    settings: RewardSettings,
    *,
    seed: int,
    reference: Mapping[str, float] | None = None,
    token_reference: Mapping[str, NDArray[np.float32]] | None = None,
) -> Iterator[TrainStep]:
    """The steps of a stage on stored rollouts, endlessly; every pass takes every unit of ``select`` once, in new order.

    A step takes as many completions whatever the method: ``prompts_per_step`` groups, ``group_size`` times as many
    demonstrations, or half of these in pairs. With ``tokens_per_step`` it takes whole units until the tokens of all
    steps so far reach their share, so that methods differ by less than one unit however long they train. A step may
    span two passes.

    ``reference`` is, by ``name_rollout``, a rollout's log-probability in nats at the start of the stage, for
    "best_dpo"; ``token_reference`` the same token by token, for "grpo" with a ``kl_weight``. Each step's ``facts``
    describe the rollouts that it teaches, of a pair the chosen one. Errors: those of ``select``, before the first step.
    """
    units = select(groups, settings).units
    return (
        _build(taken, settings, reference or {}, token_reference or {})
        for taken in take_units(units, settings, seed=seed)
    )


def take_units(units: Sequence[Unit], settings: RewardSettings, *, seed: int) -> Iterator[list[Unit]]:
    """The units of each step, endlessly; ``offline_steps`` says how many."""
    per_step, share = units_per_step(settings), settings.tokens_per_step
    taken: list[Unit] = []
    tokens = steps = 0
    for unit in _shuffle(units, seed):
        taken.append(unit)
        tokens += unit.tokens
        full = len(taken) == per_step if share is None else tokens >= (steps + 1) * share
        if full:
            yield taken
            taken, steps = [], steps + 1


def describe(rollouts: Sequence[Rewarded]) -> dict[str, float]:
    """What is watched of some rollouts: means by name, over those that have the fact; none of them, no name."""
    found = {"success": mean_fact("success", rollouts), "reward": mean_reward(rollouts)}
    for side, label in (("gameable", 1.0), ("other", 0.0)):
        members = [rollout for rollout in rollouts if rollout.facts.get("gameable") == label]
        found[f"reward_{side}"] = mean_reward(members)
        found[f"harm_{side}"] = mean_fact("harm", members)
        found[f"exploit_{side}"] = mean_fact("exploited", members)
        # Those of a judge that is a model, where one rewards and the rules rate too.
        found[f"harm_judge_{side}"] = mean_fact("harm_judge", members)
        found[f"exploit_judge_{side}"] = mean_fact("exploited_judge", members)
        found[f"count_{side}"] = float(len(members))
    found["length"] = float(np.mean([count_own(rollout) for rollout in rollouts])) if rollouts else None
    found["distinct"] = float(len({(rollout.case_id, rollout.encoded.ids.tobytes()) for rollout in rollouts}))
    return {name: value for name, value in found.items() if value is not None}


def choose_objective(settings: RewardSettings) -> GroupObjective:
    """How the policy gradient of a stage adds its tokens up, clips and is held to the start."""
    return GroupObjective(
        aggregation=_AGGREGATIONS[settings.loss],
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        kl_weight=settings.kl_weight,
        constant_length=float(settings.max_tokens) if settings.loss == "dr_grpo" else None,
    )


def _shuffle(units: Sequence[Unit], seed: int) -> Iterator[Unit]:
    epoch = 0
    while True:
        for place in np.random.default_rng([seed, epoch]).permutation(len(units)).tolist():
            yield units[place]
        epoch += 1


def _build(
    units: Sequence[Unit],
    settings: RewardSettings,
    reference: Mapping[str, float],
    token_reference: Mapping[str, NDArray[np.float32]],
) -> TrainStep:
    taught = [rollout for unit in units for rollout in unit.taught]
    if settings.method == "best_sft":
        step = demonstration_step([_own(rollout.encoded) for rollout in taught], 0.0)
    elif settings.method == "best_dpo":
        step = _preference(units, settings, reference)
    else:
        step = _gradient(units, settings, token_reference)
    counts = {"groups": float(len(units)), "gradient_tokens": float(sum(unit.tokens for unit in units))}
    return replace(step, facts=describe(taught) | counts)


def _own(encoded: Encoded) -> Encoded:
    """The same with what the agent says in the case's opening left out of what is imitated."""
    return replace(encoded, agent=encoded.picked("agent"))


def _preference(units: Sequence[Unit], settings: RewardSettings, reference: Mapping[str, float]) -> TrainStep:
    encoded = {name_rollout(rollout): rollout.encoded for unit in units for rollout in unit.rollouts}
    pairs = [
        PreferencePair(
            case_id=unit.case_id,
            chosen=name_rollout(unit.taught[0]),
            rejected=name_rollout(unit.against[0]),
            objectives=("reward",),
            judge="",
            gap=reward_or(unit.taught[0], 0.0) - reward_or(unit.against[0], 0.0),
        )
        for unit in units
    ]
    return pair_step(pairs, encoded, reference, StageSection(objective="reward", beta=settings.beta))


def _gradient(
    units: Sequence[Unit], settings: RewardSettings, token_reference: Mapping[str, NDArray[np.float32]]
) -> TrainStep:
    """The policy gradient over whole groups.

    Its normaliser counts the groups that are trained on alone, all of which differ in reward; the on-policy loss counts
    all of a step's, also those without a gradient.
    """
    members = [(number, rollout) for number, unit in enumerate(units) for rollout in unit.taught]
    rewards = torch.tensor([reward_or(rollout, math.nan) for _, rollout in members], dtype=torch.float64)
    groups = torch.tensor([number for number, _ in members])
    advantages = group_advantages(rewards, groups, settings.scale).to(torch.float32).numpy()
    sampled = (
        [rollout.sampled for _, rollout in members if rollout.sampled is not None] if settings.importance else None
    )
    start = [token_reference[name_rollout(rollout)] for _, rollout in members] if settings.kl_weight > 0 else None
    return group_step(
        [score_picked(f"case {rollout.case_id}", rollout.encoded, "agent") for _, rollout in members],
        advantages,
        objective=choose_objective(settings),
        sampled=sampled,
        reference=start,
    )
