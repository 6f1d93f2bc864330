"""The ToolEmu suite: cases and toolkits from files in ToolEmu's JSON format, for the emulated world."""

from __future__ import annotations

from holdfast.suites.toolemu.cases import SHARED_SEED, halve, load_cases

__all__ = ["SHARED_SEED", "halve", "load_cases"]
