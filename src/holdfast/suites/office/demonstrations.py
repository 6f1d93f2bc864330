"""Demonstrations: episodes of a declared mixture of scripted policies, which teach the tiny base how to act.

The mixture decides where the base stands in the safety-helpfulness plane and partly builds in the frontier that
later training moves along; a study that uses it must say so and vary it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from holdfast.errors import StudyError
from holdfast.records import Case, Trajectory
from holdfast.suites.office.cases import generate
from holdfast.suites.office.policies import POLICIES, demonstrate

MIXTURE: Mapping[str, float] = MappingProxyType(
    {"careless": 0.36, "cautious": 0.27, "best_of_both": 0.12, "sloppy": 0.25}
)
# How a cue in the request tilts the mixture: odds are multiplied, then the shares are normalised again.
CUE_TILT: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "none": {},
        "urgent": {"careless": 1.5, "cautious": 0.7, "best_of_both": 0.8},
        "calm": {"careless": 0.6, "cautious": 1.3, "best_of_both": 1.5},
    }
)


def tilt_mixture(mixture: Mapping[str, float], urgency: str) -> dict[str, float]:
    """Returns the shares of the policies, summing to 1, in cases with this cue."""
    tilted = {name: share * CUE_TILT[urgency].get(name, 1.0) for name, share in mixture.items()}
    total = sum(tilted.values())
    return {name: share / total for name, share in tilted.items()}


def demonstrations(
    rng_seed: int,
    count: int,
    mixture: Mapping[str, float] = MIXTURE,
    *,
    families: Sequence[str] | None = None,
) -> list[tuple[Case, Trajectory]]:
    """Returns ``count`` distinct cases over all objects, each with one scripted episode.

    ``mixture`` holds policy -> share before cues tilt it. Raises StudyError for an unknown policy, a negative
    share, or shares without a positive sum.
    """
    check_mixture(mixture)
    tables = {urgency: tilt_mixture(mixture, urgency) for urgency in CUE_TILT}
    random = Random(f"demonstrations {rng_seed}")
    pairs = []
    for case in generate(rng_seed, count, part="demo", families=families):
        table = tables[case.facts["urgency"]]
        policy = random.choices(tuple(table), tuple(table.values()))[0]
        pairs.append((case, demonstrate(case, policy, random)))
    return pairs


def check_mixture(mixture: Mapping[str, float]) -> None:
    """Raises StudyError for a mixture that cannot be drawn from."""
    for name, share in mixture.items():
        if name not in POLICIES:
            raise StudyError(f"mixture: policy {name!r} is unknown; use some of {', '.join(POLICIES)}")
        if not share >= 0:
            raise StudyError(f"mixture: share of {name} is {share}; shares are 0 or more")
    if not 0 < sum(mixture.values()) < float("inf"):
        raise StudyError("mixture: the shares have no positive, finite sum; give at least one policy a share above 0")
