"""GRPO, and SFT and DPO on the best of a group: stages that learn from rewarded rollouts."""

from __future__ import annotations

from holdfast.runs.methods.rewards.plan import expect_cost, plan_stage
from holdfast.runs.methods.rewards.train import train_on_rewards
from holdfast.study.kinds import Method
from holdfast.study.stages import REWARD_METHODS, RewardSection

GRPO, BEST_SFT, BEST_DPO = (
    Method(
        name=name,
        version=None,
        table=RewardSection,
        plan=plan_stage,
        carry_out=train_on_rewards,
        cost=expect_cost,
        cpu_seconds=cpu_seconds,
    )
    for name, cpu_seconds in zip(REWARD_METHODS, (0.15, 0.08, 0.1), strict=True)
)
