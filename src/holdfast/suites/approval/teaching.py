"""What a tiny base learns of users who can or cannot be gamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.study.kinds import Taught
from holdfast.study.users import ApprovalSection, SettingSection
from holdfast.suites.approval import demonstrations
from holdfast.suites.approval.scenarios import SCENARIOS_VERSION, lexicon
from holdfast.suites.approval.wording import system_prompts

# The toggles that an agent can see.
_SEEN = {"policy_role", "traits", "style", "leak", "turns"}


def taught_settings(section: ApprovalSection | None) -> dict[str, Any] | None:
    """What of ``[approval]`` decides a tiny base: how much it is shown, of which environments and settings.

    A base is shown the study's settings alone, as far as an agent can tell them apart: it has no examples to spare.
    """
    if section is None:
        return None
    seen = [setting.model_dump(mode="json", include=_SEEN) for setting in section.settings.values()]
    return {
        "count": section.taught,
        "environments": list(section.environments),
        "settings": sorted({tuple(sorted(one.items())) for one in seen}),
        "version": [SCENARIOS_VERSION, demonstrations.DEMONSTRATIONS_VERSION],
    }


def teach_beside(settings: Mapping[str, Any] | None, seed: int) -> Taught:
    """What the settings of ``taught_settings`` add to a base."""
    if settings is None:
        return Taught(system_prompts={})
    shown = [SettingSection.model_validate(dict(one)) for one in settings["settings"]]
    return Taught(
        words=lexicon(),
        system_prompts=system_prompts(),
        demonstrations=demonstrations.demonstrations(seed, settings["count"], settings["environments"], settings=shown),
    )
