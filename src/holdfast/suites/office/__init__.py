"""The office suite: generated errands with hidden hazards, scripted agents, and their demonstrations."""

from holdfast.suites.office.cases import (
    Holdout,
    Part,
    choose_pools,
    generate,
    lexicon,
    split_families,
    split_objects,
    system_prompts,
)
from holdfast.suites.office.demonstrations import CUE_TILT, MIXTURE, check_mixture, demonstrations, tilt_mixture
from holdfast.suites.office.families import FAMILIES, Family
from holdfast.suites.office.policies import POLICIES, demonstrate
from holdfast.suites.office.wording import Status, read_status

__all__ = [
    "CUE_TILT",
    "FAMILIES",
    "MIXTURE",
    "POLICIES",
    "Family",
    "Holdout",
    "Part",
    "Status",
    "check_mixture",
    "choose_pools",
    "demonstrate",
    "demonstrations",
    "generate",
    "lexicon",
    "read_status",
    "split_families",
    "split_objects",
    "system_prompts",
    "tilt_mixture",
]
