"""Other people's training loops: what of holdfast is called from inside them.

    from holdfast.integrations import SafetyGate

Importing this package loads no heavy library; ``SafetyGate`` needs transformers when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.records.errors import needs

if TYPE_CHECKING:
    from holdfast.integrations.safety_gate import SafetyGate

__all__ = ["SafetyGate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'holdfast.integrations' has no attribute {name!r}")
    with needs("train", "holdfast.integrations.SafetyGate"):
        from holdfast.integrations.safety_gate import SafetyGate
    return SafetyGate
