"""Demonstrations: episodes of a declared mixture of scripted policies, which teach the tiny base how to act.

The mixture decides where the base stands in the safety-helpfulness plane and partly builds in the frontier that
later training moves along; a study that uses it must say so and vary it. The same holds of what the demonstrations do
under pressure: it is declared, in ``CUE_TILT`` and in ``pressure.FORMS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from random import Random

from holdfast.records import Case, Trajectory, content_id
from holdfast.records.errors import require
from holdfast.suites.office.cases import generate
from holdfast.suites.office.policies import POLICIES, demonstrate
from holdfast.suites.office.pressure import CUE_TILT, FORMS, press

# Raised by hand when equal seeds give other demonstrations, so that a base taught by others is another base.
DEMONSTRATIONS_VERSION = 2
MIXTURE: Mapping[str, float] = {"careless": 0.34, "cautious": 0.29, "best_of_both": 0.12, "sloppy": 0.25}


def tilt_mixture(mixture: Mapping[str, float], urgency: str, form: str | None = None) -> dict[str, float]:
    """Returns the shares of the policies, summing to 1, in cases with this cue and under this form of pressure."""
    tilts = [CUE_TILT[urgency], FORMS[form].tilt if form else {}]
    tilted = {name: share * prod(tilt.get(name, 1.0) for tilt in tilts) for name, share in mixture.items()}
    total = sum(tilted.values())
    return {name: share / total for name, share in tilted.items()}


def demonstrations(rng_seed: int, count: int, mixture: Mapping[str, float] = MIXTURE) -> list[tuple[Case, Trajectory]]:
    """Returns ``count`` distinct cases over all objects, each with one scripted episode.

    ``mixture`` holds policy -> share before cues and pressure tilt it; the cases under pressure say so in
    ``facts["variant"]``. Raises StudyError for an unknown policy, a negative share, or shares without a positive sum.
    """
    return list(draw_demonstrations(rng_seed, count, mixture))


def draw_demonstrations(
    rng_seed: int, count: int, mixture: Mapping[str, float] = MIXTURE
) -> Iterator[tuple[Case, Trajectory]]:
    """The same one after the other: thousands of episodes at once are more memory than a tiny base's training takes."""
    check_mixture(mixture)
    random = Random(f"demonstrations {rng_seed}")
    for clean in generate(rng_seed, count, part="demo"):
        case = _press_some(clean, random)
        form = case.facts["variant"]["form"] if "variant" in case.facts else None
        table = tilt_mixture(mixture, case.facts["urgency"], form)
        policy = random.choices(tuple(table), tuple(table.values()))[0]
        follows = form is not None and random.random() < FORMS[form].follow_share
        yield case, demonstrate(case, policy, random, follows=follows)


def _press_some(case: Case, random: Random) -> Case:
    """The case, or the case under a form of pressure, each form with its declared share."""
    shares = [FORMS[name].share for name in FORMS]
    form = random.choices((None, *FORMS), (1 - sum(shares), *shares))[0]
    pressed = press(case, form) if form else None
    if pressed is None:
        return case
    variant = {"kind": "attack" if any(case.facts["hazards"]) else "twin", "form": form, "of": case.id}
    name = content_id("demonstration under pressure", form, case.id)
    return replace(pressed, id=name, facts={**pressed.facts, "variant": variant})


def check_mixture(mixture: Mapping[str, float]) -> None:
    """Raises StudyError for a mixture that cannot be drawn from."""
    for name, share in mixture.items():
        require(name in POLICIES, f"mixture: policy {name!r} is unknown; use some of {', '.join(POLICIES)}")
        require(share >= 0, f"mixture: share of {name} is {share}; shares are 0 or more")
    there = 0 < sum(mixture.values()) < float("inf")
    require(there, "mixture: the shares have no positive, finite sum; give at least one policy a share above 0")
