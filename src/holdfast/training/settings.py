"""What only the data can tell of a stage, beside what a study says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from holdfast.records import PreferencePair
from holdfast.records.errors import StepError
from holdfast.study.stages import RewardSection, StageSection
from holdfast.training.encoding import Encoded


class RewardSettings(RewardSection):
    """A study's stage on rewards. ``max_tokens`` bounds a reply and is the constant length of "dr_grpo".

    Log-probabilities are those at temperature 1, whatever that of sampling is.
    """

    setting: str = ""
    max_tokens: int = 256


def fit_stage(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], settings: StageSection
) -> tuple[list[PreferencePair], StageSection]:
    """The pairs that ``max_length`` leaves, and settings with the steps and the warm-up that they make.

    An epoch has as many steps as its pairs fill, the last one perhaps in part; a share of a warm-up step counts as one.
    What is given as steps stays. Errors: StepError where every pair is too long.
    """
    limit = math.inf if settings.max_length is None else settings.max_length
    # What is not encoded is another error, of whoever learns from it.
    long = {name for name, item in encoded.items() if len(item.ids) > limit}
    kept = [pair for pair in pairs if not {pair.chosen, pair.rejected} & long]
    if pairs and not kept:
        raise StepError(f"all {len(pairs)} pairs have a side of more than max_length {limit} tokens; raise it")
    steps, warmup = settings.steps, settings.warmup_steps
    if settings.epochs is not None:
        steps = math.ceil(len(kept) / settings.pairs_per_step) * settings.epochs
    if settings.warmup_ratio is not None:
        warmup = math.ceil(settings.warmup_ratio * steps)
    return kept, settings.model_copy(update={"steps": steps, "warmup_steps": warmup})
