"""What the names in a report stand for, read from the records of the stages."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.records import Checkpoint, StageRecord
from holdfast.report.words.inert import escape_html

MOST_NAMES = 16  # in the legend
KNOWN_AXES = {
    "beta": "how strongly a stage is held to the weights that it started from",
    "dose": "steps of the last stage, in multiples of its first dose",
    "share": "how much of a merge is of its second lineage",
}


def describe_names(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """What each stage name and axis stands for, read from the records of the stages: (name, words)."""
    found: dict[str, str] = {}
    for stage in (stage for checkpoint in checkpoints for stage in checkpoint.stages):
        flip = float(stage.settings.get("flip") or 0)
        words = f"a stage of {stage.method} on {' and '.join(stage.objectives) or 'no objective'}"
        if flip > 0:
            words += f" with the sides of {100 * flip:.0f} % of the pairs swapped: a control"
        words += _describe_repair(stage)
        found.setdefault(stage.name, words)
    pairs = sorted(found.items(), key=lambda pair: ("control" in pair[1], len(pair[0]), pair[0]))
    first = next((one.lineage for one in checkpoints if len(one.lineage) == 2), None)
    if first is not None:
        pairs.append(("→".join(first), f"stage {first[0]}, then stage {first[1]}"))
    axes = {key for checkpoint in checkpoints for key in checkpoint.axes}
    return [*pairs, *((key, words) for key, words in KNOWN_AXES.items() if key in axes)]


def _describe_repair(stage: StageRecord) -> str:
    """How a stage keeps a second objective, in words; nothing where it keeps none."""
    settings = stage.settings
    if stage.method == "merge":
        return f": weights between {' and '.join('→'.join(lineage) for lineage in settings.get('of', ()))}"
    if mix := settings.get("mix"):
        return f", {100 * mix['share']:.0f} % of each step's pairs for {mix['objective']}"
    if term := settings.get("term"):
        return f", with a term for {term['objective']} of weight {term['weight']:g}"
    if balance := settings.get("balance"):
        return f", with a term for {balance['objective']} that follows its score (floor {balance['floor']:g})"
    return ""


def names_html(checkpoints: Sequence[Checkpoint]) -> str:
    """The names as a list of definitions; an empty string where nothing was trained."""
    pairs = describe_names(checkpoints)[:MOST_NAMES]
    items = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(words)}</dd>" for name, words in pairs)
    return f'<dl class="names">{items}</dl>' if items else ""
