"""What steps cost: calls to models, pairs and tokens to learn from; nothing here spends any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.models import Speaker
from holdfast.runs.plan.settings import SpeakerModel
from holdfast.study.users import ApprovalSection

# By speaker: calls of one episode, or of one judgement.
PUBLISHED_CALLS: Mapping[str, float] = {"agent": 2.0, "emulator": 1.0, "judge": 1.0}
# By speaker: tokens read and written in one call.
PUBLISHED_TOKENS: Mapping[str, tuple[float, float]] = {
    "agent": (3_400, 400),
    "emulator": (3_500, 2_000),
    "judge": (4_500, 750),
}
# The same of one call in talk with users, and of one rating.
TALK_TOKENS = (350, 120)
RATING_TOKENS = (400, 4)
RATED_OBJECTIVES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How often a model is asked in a step, and the tokens read and written in one call."""

    speaker: Speaker
    model: SpeakerModel
    calls: float
    tokens: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a train step takes: the pairs that it learns from, None before they can be counted, other tokens, calls."""

    pairs: int | None = 0
    tokens: float = 0.0
    calls: Sequence[Calls] = ()


def calls_with_users(users: ApprovalSection) -> float:
    """The agent's replies in an episode with a user, on average over settings: one a turn, and a call to report on."""
    found = []
    for one in users.settings.values():
        environments = one.environments or users.environments
        found.append(one.turns + environments.count("report") / len(environments))
    return float(sum(found) / len(found))
