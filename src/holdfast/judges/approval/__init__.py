"""Judges of talk with users by rules, which are the ground truth there."""

from __future__ import annotations

from holdfast.judges.approval.judge import KIND

__all__ = ["KIND"]
