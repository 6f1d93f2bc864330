"""Parts to test with, public so that users test as this project does: a scripted model, a fixed judge, a provider."""

from holdfast.models.fakes.provider import FAULTS, POSITIONS, Charge, FakeProvider, faults_at, request_digest
from holdfast.models.fakes.scripted import FixedJudge, Script, ScriptedModel, script_reply

__all__ = [
    "FAULTS",
    "POSITIONS",
    "Charge",
    "FakeProvider",
    "FixedJudge",
    "Script",
    "ScriptedModel",
    "faults_at",
    "request_digest",
    "script_reply",
]
