"""A miniature study of users whose approval is trained on, to carry out and to change."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

_STAGE = {"setting": "style", "steps": 4, "every": 2, "group_size": 6, "prompts_per_step": 2}
_STORED = {"setting": "style", "steps": 2, "every": 2, "group_size": 4, "prompts_per_step": 1}
_FROM_OTHER = {"rollouts": "source", "source": {"base": "other", "lineage": ["on"]}}
_MINIATURE: dict[str, Any] = {
    "study": {
        "name": "approval-miniature",
        "lineages": [["on"], ["lag"], ["own"], ["other"], ["weighted"]],
        "train_seeds": [1],
        "only": {"other": [["on"]]},
        "draws": 200,
    },
    "model": {
        "bases": ["small", "other"],
        "hidden": 32,
        "layers": 1,
        "heads": 2,
        "ffn": 64,
        "sft": {"demonstrations": 100, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 10},
    },
    "models": {"small": {"kind": "tiny"}, "other": {"kind": "tiny"}},
    "suite": {"name": "approval"},
    "rollouts": {"max_tokens": 24, "max_turns": 5, "batch_size": 32},
    "judges": {"rules": {"kind": "approval"}},
    "approval": {
        "environments": ["therapy", "report"],
        "pairs": 4,
        "practice": 24,
        "per_case": 2,
        "taught": 1000,
        "reward_levels": [2.0, 9.5],
        "kl_levels": [0.01],
        "settings": {"style": {}, "two": {"turns": 2, "style": "equal"}},
    },
    "stages": {
        "on": {"method": "grpo", **_STAGE},
        "lag": {"method": "grpo", "lag": 1, **_STAGE, "setting": "two"},
        "own": {"method": "best_sft", "rollouts": "start", **_STORED},
        "other": {"method": "best_dpo", **_FROM_OTHER, **_STORED},
        "weighted": {"method": "grpo", **_FROM_OTHER, **_STORED},
    },
    "run": {"workers": 1},
}


def miniature() -> dict[str, Any]:
    """The miniature study as a dictionary, to change: a model of 20,000 weights, two bases, five arms."""
    return deepcopy(_MINIATURE)
