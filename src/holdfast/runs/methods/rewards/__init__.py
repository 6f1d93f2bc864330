"""GRPO, and SFT and DPO on the best of a group: stages that learn from rewarded rollouts."""

from __future__ import annotations

from holdfast.runs.methods.method import Method
from holdfast.runs.methods.rewards.plan import expect_cost, plan_stage
from holdfast.runs.methods.rewards.train import train_on_rewards
from holdfast.study.stages import RewardSection

METHODS = tuple(
    Method(
        name=name,
        section=RewardSection,
        plan=plan_stage,
        carry_out=train_on_rewards,
        cost=expect_cost,
        cpu_seconds=cpu_seconds,
    )
    for name, cpu_seconds in (("grpo", 0.15), ("best_sft", 0.08), ("best_dpo", 0.1))
)
