"""What a gate found as numbers for whatever a trainer reports to."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from holdfast.records import Outcome

ERROR = "ERROR"  # the word of a checkpoint whose gate failed; the others are the gate's own
# In the order of what is known to be good, so that a curve that falls is bad news.
VERDICTS: Mapping[str, int] = {Outcome.PASS.value: 1, Outcome.INCONCLUSIVE.value: 0, Outcome.FAIL.value: -1, ERROR: -2}


def name_numbers(document: Mapping[str, Any]) -> dict[str, float]:
    """The verdict, and of each check its change and the bounds of it, by the names under which they are logged.

    A check by itself (``ceiling``) has the child's level for its change. What was not measured is left out.
    """
    found: dict[str, float] = {"holdfast/verdict": float(VERDICTS[document["outcome"]])}
    for check in (check for verdict in document["verdicts"] for check in verdict["checks"]):
        change = check["child"] if check["change"] is None else check["change"]
        values = {"change": change, "low": check["lower"], "high": check["upper"]}
        if check["lower"] is None or check["upper"] is None:
            continue
        found |= {f"holdfast/{check['metric']}_{key}": value for key, value in values.items() if value is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def log_numbers(callback: TrainerCallback, args: Any, state: Any, control: Any, numbers: Mapping[str, float]) -> bool:
    """Log as ``Trainer.log`` does, into the history and to all other callbacks; False where no trainer calls.

    A trainer's own ``log`` is not called: TRL's adds what it has gathered since the last one and forgets it, so that
    its curves would be others with a gate than without.
    """
    logs = {**numbers, **({} if state.epoch is None else {"epoch": state.epoch})}
    state.log_history.append({**logs, "step": state.global_step})
    handler = _find_handler(callback)
    if handler is not None:
        handler.on_log(args, state, control, dict(logs))
    return handler is not None


def _find_handler(callback: TrainerCallback) -> CallbackHandler | None:
    """Who calls this callback and its neighbours, those that report among them.

    Transformers tells a callback neither its trainer nor its neighbours, and asks for nothing to be logged when a
    checkpoint is saved. Whoever calls stands on the stack.
    """
    frame = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, CallbackHandler) and any(one is callback for one in owner.callbacks):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None
