"""Whether what a base goes through before the study begins can teach it: one line each, as in ``checks``."""

from __future__ import annotations

from holdfast.records.errors import require, require_known
from holdfast.study.stages import ExternalSection, RewardSection
from holdfast.study.tables import Tables


def check_starts(study: Tables) -> None:
    """A start names stages that can teach a base of the study, and one split says what they may not teach.

    Errors: StudyError.
    """
    for name, entry in study.models.items():
        if entry.start is None:
            continue
        place = f"models.{name}.start"
        require(len(entry.start) > 0, f"{place} is empty; name the stages that teach it, or remove it")
        require(
            name in study.model.bases,
            f"{place} is for bases, and {name!r} is none; add it to model.bases, or remove it",
        )
        beside = {f"judges.{judge}.model": section.model for judge, section in study.judges.items()}
        for other, model in {**beside, "suite.world.model": study.suite.world.model}.items():
            require(
                model != name,
                f"{other} is {name!r}, which {place} teaches as an agent; give the model that speaks there another name"
                " in [models.…]",
            )
        require(entry.kind != "remote", f"{place}: a remote model cannot be trained here; remove it")
        require(entry.quantization == "none", f"{place}: no stage can be put on quantised weights; leave one out")
        for stage in entry.start:
            require_known(stage, study.stages, f"{place} names the stage", "[stages.…]")
            require(
                not isinstance(study.stages[stage], ExternalSection),
                f"{place} has {stage!r}, which was trained elsewhere; name that model as the base itself"
                f" (models.{name}.name)",
            )
            require(
                not isinstance(study.stages[stage], RewardSection),
                f"{place} has {stage!r}, which learns from users' rewards; name stages of demonstrations or of pairs",
            )
        splits = study.axes.get("split_seed", ())
        require(
            len(splits) < 2,
            f"{place}: a base is taught once, and axes.split_seed has {len(splits)} splits, of which one holds out what"
            " another teaches; give one",
        )
