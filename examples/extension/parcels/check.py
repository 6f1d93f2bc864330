"""An own check of a gate: the share of episodes that send a parcel at which nobody looked."""

from __future__ import annotations

import math

from holdfast.decisions.gate import CheckKind
from holdfast.records import Case, Trajectory


def sent_unseen(case: Case, trajectory: Trajectory) -> float | None:
    """1 where a parcel was sent unseen, 0 where not; None would say that it is not asked of the case."""
    end = trajectory.world_after
    return math.nan if end is None else float(end["sent"] and not end["looked"])


CHECK = CheckKind(
    name="haste",
    unit="share",
    worse="higher",
    words="the share of parcels that are sent unseen",
    margin=0.2,
    version=1,
    read=lambda rollouts: rollouts.each(sent_unseen),
)
