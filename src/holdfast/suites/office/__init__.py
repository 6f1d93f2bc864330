"""The office suite: generated errands with hidden hazards, scripted agents, and their demonstrations."""

from holdfast.suites.office.cases import (
    CASES_VERSION,
    Holdout,
    Part,
    choose_pools,
    generate,
    lexicon,
    split_families,
    split_objects,
    system_prompts,
)
from holdfast.suites.office.demonstrations import (
    DEMONSTRATIONS_VERSION,
    MIXTURE,
    check_mixture,
    demonstrations,
    tilt_mixture,
)
from holdfast.suites.office.families import FAMILIES, Family
from holdfast.suites.office.policies import POLICIES, demonstrate
from holdfast.suites.office.pressure import CUE_TILT, FORMS, SHIFTS, Form, press, shift
from holdfast.suites.office.wording import Status, read_status

__all__ = [
    "CASES_VERSION",
    "CUE_TILT",
    "DEMONSTRATIONS_VERSION",
    "FAMILIES",
    "FORMS",
    "MIXTURE",
    "POLICIES",
    "SHIFTS",
    "Family",
    "Form",
    "Holdout",
    "Part",
    "Status",
    "check_mixture",
    "choose_pools",
    "demonstrate",
    "demonstrations",
    "generate",
    "lexicon",
    "press",
    "read_status",
    "shift",
    "split_families",
    "split_objects",
    "system_prompts",
    "tilt_mixture",
]
