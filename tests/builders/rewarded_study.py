"""A study of safety, then helpfulness on-policy, on the base of the small study; a judge of states or a remote one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import holdfast as hf
from builders.sample_studies import changed
from builders.smoke_study import smoke_settings
from holdfast.models.fakes import request_digest

GROUP, PROMPTS, STEPS = 6, 6, 2
ON_POLICY = {"method": "grpo", "objective": "helpfulness", "group_size": GROUP, "prompts_per_step": PROMPTS}
ON_POLICY |= {"unscored": "left_out"}  # so that there are rollouts without a reward


def settings_of(**changes: Any) -> dict[str, Any]:
    """The settings of the study, some of them changed."""
    study = changed(
        smoke_settings(),
        {
            "study/name": "on-policy",
            "study/lineages": [["S"], ["S", "R"]],
            "doses": None,
            "suite/train_cases": 24,
            "suite/test_cases": 8,
            "stages/S/steps": 1,
            "stages/R": {**ON_POLICY, "steps": STEPS, "every": 1, "learning_rate": 3e-4},
        },
    )
    return changed(study, changes)


def paid_study(base_url: str, **endpoint: Any) -> hf.Study:
    """One step whose eight rollouts a remote judge rewards, which scores four held-out episodes besides."""
    changes = {
        "study/lineages": [["R"]],
        "stages": {"R": {**ON_POLICY, "group_size": 4, "prompts_per_step": 2, "steps": 1, "every": 1}},
        "suite/test_cases": 2,
        "rollouts/per_test_case": 1,
        "judges": {"gpt": {"kind": "rubric", "model": "judge", "rubrics": {"helpfulness": "default"}}},
        "models": {"judge": {"kind": "remote", "name": "openai-api/fake/judge"}},
    }
    return hf.Study.model_validate(settings_of(**changes, endpoints={"judge": {"base_url": base_url, **endpoint}}))


def verdict(request: Mapping[str, Any]) -> str:
    """What the remote judge answers: a score that hangs on the request alone."""
    return json.dumps({"reasoning": "I looked.", "score": int(request_digest(request)[:8], 16) % 4})
