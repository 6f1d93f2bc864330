"""holdfast: did this training stage cost us safety, and does safety training hold when the agent is trained further?

    import holdfast as hf

    run = hf.run("studies/quick.toml", output="runs/quick")
    run.persistence("safety")

Importing this package loads no heavy library: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast.records.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from holdfast.records import (
        Analysis,
        Case,
        Checkpoint,
        Estimate,
        Frontier,
        Message,
        Point,
        PreferencePair,
        Score,
        ToolCall,
        ToolSpec,
        Trajectory,
    )
    from holdfast.records.errors import HoldfastError, JudgeError, MissingExtra, StepError, StoreError, StudyError
    from holdfast.runs.joining.join import join
    from holdfast.runs.run import Run, run
    from holdfast.store import Store
    from holdfast.study.study import Study

__all__ = [
    "Analysis",
    "Case",
    "Checkpoint",
    "Estimate",
    "Frontier",
    "HoldfastError",
    "JudgeError",
    "Message",
    "MissingExtra",
    "Point",
    "PreferencePair",
    "Run",
    "Score",
    "StepError",
    "Store",
    "StoreError",
    "Study",
    "StudyError",
    "ToolCall",
    "ToolSpec",
    "Trajectory",
    "join",
    "run",
]

_HOME_OF = dict.fromkeys(__all__, "records") | {
    **{name: "records.errors" for name in __all__ if name.endswith("Error") or name == "MissingExtra"},
    **{"Run": "runs.run", "run": "runs.run", "join": "runs.joining.join", "Store": "store", "Study": "study.study"},
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"holdfast.{_HOME_OF[name]}"), name)
