"""Judges that are models and read a trajectory by a rubric."""

from __future__ import annotations

from holdfast.judges.rubric.judge import KIND

__all__ = ["KIND"]
