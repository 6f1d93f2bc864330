"""A run's scores one by one."""

from __future__ import annotations

import math
from typing import Any

from holdfast.store import Store


def score_rows(store: Store, part: str | None = None) -> list[dict[str, Any]]:
    """One row per checkpoint × case × objective × rollout × judge × repeat; a missing value is None.

    ``part`` is one of the parts beside the cases to train on and the held-out ones (``attack``, ``shift``, ``probe``),
    or "all".
    """
    table, ids = store.score_table(part=part), store.trajectory_ids(part=part)
    rows = []
    for i, value in enumerate(table.value.tolist()):
        checkpoint = table.checkpoints[table.checkpoint[i]]
        rows.append(
            {
                "checkpoint": checkpoint.name,
                "checkpoint_id": checkpoint.id,
                "lineage": list(checkpoint.lineage),
                "case": table.case_ids[table.case[i]],
                "objective": table.objectives[table.objective[i]],
                "judge": table.judges[table.judge[i]],
                "rollout": int(table.rollout[i]),
                "repeat": int(table.repeat[i]),
                "trajectory": ids[table.trajectory[i]],
                "value": None if math.isnan(value) else value,
            }
        )
    return rows
