"""A rewarded rollout as training sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from holdfast.training.encoding import Encoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewarded:
    """One rollout: its tokens, and what was said of it.

    ``group`` numbers the prompt within what is passed together, ``case_id`` names it. ``reward`` is None where the
    judge gave none, with ``missing`` as its reason. ``logprob`` is the sum in nats over the agent's own tokens under
    the model that sampled them, as the sampler reports it, and ``sampled`` [agent's tokens] the same token by token as
    the training engine computes it, where it has. ``facts`` are numbers to watch, such as ``harm``, ``exploited``,
    ``success`` and ``gameable`` (0 or 1). ``text`` is what a reader is shown.
    """

    group: int
    case_id: str
    encoded: Encoded
    reward: float | None
    missing: str | None = None
    logprob: float | None = None
    sampled: NDArray[np.float32] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    text: str = ""
