"""Signs of degenerate training, those that passed a threshold first."""

from __future__ import annotations

from dataclasses import replace

from holdfast.report.words.inert import wrap_lines
from holdfast.report.words.layout import COUNTED_ONLY, Section, Shown
from holdfast.report.words.tables import describe_flag, pivot

TRAINING_SIGNS = ("tokens", "kl_parent", "drift_chosen", "drift_rejected", "distinct_share")
NOT_MEASURED = (
    "Training is not assessed for imported runs: neither its measures (KL, drift) nor the lengths of episodes came with"
    " them."
)


def health_section(shown: Shown) -> Section | None:
    """Signs of degenerate training, with the flags first."""
    health = shown.analysis.health
    if not health:
        return None
    section = Section(identity="health", title="Health of training", short="Health")
    flagged = [one for one in health if one.caveats]
    measured = any(one.kind in TRAINING_SIGNS for one in health)
    if measured and not flagged:
        section.say("No sign of degenerate training is flagged.")
    section.bullets(map(describe_flag, flagged), "flags")
    section.say(COUNTED_ONLY if measured else f"{NOT_MEASURED} {COUNTED_ONLY}")
    signs = [
        replace(one, estimator="", unit=None)
        for one in health
        if not one.kind.endswith("_vs_base") and (measured or one.kind != "degenerate")
    ]
    title = "Health of training" if measured else "Signs in the episodes"
    section.table("health", pivot(signs, title, shown.colors))
    return section


def health_text(shown: Shown, width: int) -> str | None:
    """The signs that passed a threshold, a line each."""
    flags = (f"! {describe_flag(one)}" for one in shown.analysis.health if one.caveats)
    lines = wrap_lines(flags, width, rest="      ")
    return "\n".join(["Flags", *lines]) if lines else None
