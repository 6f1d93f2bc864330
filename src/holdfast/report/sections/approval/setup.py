"""How a run learned from rewards: its arms, the settings of their users, its bases by size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.records import Analysis, Checkpoint
from holdfast.study.stages import is_rewarded

Lineage = tuple[str, ...]
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:[.p]\d+)?)\s?([kmb])(?![a-z0-9])", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """How a lineage learned from rewards: the setting of its users, what it was rewarded for, whose rollouts."""

    setting: str | None
    reward: str
    rollouts: str
    on_policy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What tables need beside estimates: how lineages were trained and in which setting, and what settings are.

    ``toggles`` are those of each setting, in the settings' order; ``bases`` stand from small to large.
    """

    arms: Mapping[Lineage, Arm] = field(default_factory=dict)
    settings: Mapping[Lineage, str] = field(default_factory=dict)
    toggles: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    bases: tuple[str, ...] = ()


def parse_size(base: str) -> float | None:
    """The number of weights that a base's name carries, such as 350,000 in ``tiny-0.35m``; None where it has none."""
    found = _SIZE.findall(base.replace("_", "-"))
    return float(found[-1][0].replace("p", ".")) * _UNITS[found[-1][1].lower()] if found else None


def order_bases(bases: Iterable[str]) -> tuple[str, ...]:
    """Bases from small to large where their names carry sizes, those without one after them, as listed."""
    listed = tuple(dict.fromkeys(bases))
    return tuple(sorted(listed, key=lambda base: size if (size := parse_size(base)) is not None else float("inf")))


def describe_arms(checkpoints: Iterable[Checkpoint]) -> dict[Lineage, Arm]:
    """Lineage → how its last stage that learned from rewards did so; lineages without one are left out."""
    found: dict[Lineage, Arm] = {}
    for point in checkpoints:
        stage = next(filter(is_rewarded, reversed(point.stages)), None)
        if stage is None or point.lineage in found:
            continue
        settings = stage.settings
        setting = settings.get("setting")
        found[point.lineage] = Arm(
            setting=None if setting is None else str(setting),
            reward=str(settings.get("reward") or (stage.objectives or ("approval",))[0]),
            rollouts=_describe_rollouts(stage.method, settings),
            on_policy=stage.method == "grpo"
            and settings.get("rollouts", "policy") == "policy"
            and not settings.get("lag"),
        )
    return found


def make_setup(
    analysis: Analysis,
    checkpoints: Iterable[Checkpoint] = (),
    toggles: Mapping[str, Mapping[str, object]] | None = None,
) -> Setup:
    """What is known of a run's arms and settings, from the records of stages and, for settings, from training logs."""
    arms = describe_arms(checkpoints)
    logged: dict[Lineage, set[str]] = {}
    for curve in analysis.curves:
        if curve.source == "training" and "setting" in curve.axes:
            logged.setdefault(curve.lineage, set()).add(str(curve.axes["setting"]))
    settings = {lineage: found.pop() for lineage, found in logged.items() if len(found) == 1}
    settings |= {lineage: arm.setting for lineage, arm in arms.items() if arm.setting is not None}
    bases = [*(one.base for one in analysis.exploitation if one.base), *(curve.base for curve in analysis.curves)]
    return Setup(arms=arms, settings=settings, toggles=toggles or {}, bases=order_bases(bases))


def is_main(setup: Setup, lineage: Lineage) -> bool:
    """Whether a lineage was trained on-policy for approval alone, as far as is known."""
    arm = setup.arms.get(lineage)
    return arm is None or (arm.on_policy and arm.reward == "approval")


def _describe_rollouts(method: str, settings: Mapping[str, object]) -> str:
    """``on-policy``, ``4 steps stale``, ``SFT on its own best`` …: whose rollouts an arm learned from, and how."""
    whose, lag = settings.get("rollouts", "policy"), settings.get("lag") or 0
    if method != "grpo":
        how = "SFT" if method == "best_sft" else "DPO"
        return f"{how} on {'another model’s' if whose == 'source' else 'its own'} best"
    if whose == "policy":
        return f"policy gradient, {lag} steps stale" if lag else "on-policy"
    words = "policy gradient on " + ("another model’s rollouts" if whose == "source" else "rollouts of the start")
    return words if settings.get("importance", True) else f"{words}, not weighted"


def is_own(setup: Setup, lineage: Lineage, setting: object) -> bool:
    """Whether users of a setting are those that a lineage was trained on, as far as is known."""
    return setting is None or setup.settings.get(lineage, setting) == setting
