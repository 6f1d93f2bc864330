"""Whether a child kept what its parent had: non-inferiority with declared margins."""

from holdfast.study.rules import CheckKind, Measured, Rollouts

__all__ = ["CheckKind", "Measured", "Rollouts"]
