"""The nouns. Frozen records that alone cross the borders between rooms.

    Case ─ rollout ─▶ Trajectory ─ judge ─▶ Score ─ pair ─▶ PreferencePair ─ train ─▶ Checkpoint
    Score ─ analyze ─▶ Estimate ─ decide ─▶ Verdict

Mappings inside a record are JSON values and are never changed after it is made. Ids are derived from
content, so equal things have equal ids in every run and on every machine. Beside them stand errors, the strict table
of settings files, and how files are read and written.
"""

from holdfast.records.checkpoints import Checkpoint, PreferencePair, StageRecord
from holdfast.records.episodes import (
    CUT_OFF,
    JSON,
    SCALE_ROUNDING,
    Case,
    Declaration,
    Ending,
    Flag,
    Message,
    Role,
    Score,
    ToolCall,
    ToolSpec,
    Trajectory,
    content_id,
)
from holdfast.records.estimates import (
    FEW_CASES,
    Analysis,
    Curve,
    Estimate,
    Family,
    Frontier,
    JudgeFacts,
    Labelled,
    Point,
    Unbounded,
    can_be_told,
    cannot_be_told,
)
from holdfast.records.verdicts import Check, Outcome, Verdict

__all__ = [
    "CUT_OFF",
    "FEW_CASES",
    "JSON",
    "SCALE_ROUNDING",
    "Analysis",
    "Case",
    "Check",
    "Checkpoint",
    "Curve",
    "Declaration",
    "Ending",
    "Estimate",
    "Family",
    "Flag",
    "Frontier",
    "JudgeFacts",
    "Labelled",
    "Message",
    "Outcome",
    "Point",
    "PreferencePair",
    "Role",
    "Score",
    "StageRecord",
    "ToolCall",
    "ToolSpec",
    "Trajectory",
    "Unbounded",
    "Verdict",
    "can_be_told",
    "cannot_be_told",
    "content_id",
]
