"""Numbers in sentences."""

from __future__ import annotations


def count_noun(count: int, plural: str) -> str:
    """``1 base``, ``3 bases``, ``1 trajectory``: a count before a noun that is given in the plural."""
    single = plural[:-3] + "y" if plural.endswith("ies") else plural.removesuffix("s")
    return f"{count:,} {single if count == 1 else plural}"


def true_minus(text: str) -> str:
    """A text of numbers with true minus signs."""
    return text.replace("-", "−")


CUT_OFF_AT = "were cut off at rollouts."
"""Stands in a run's note that says at which limit episodes ended, so that a report can tell it first."""
