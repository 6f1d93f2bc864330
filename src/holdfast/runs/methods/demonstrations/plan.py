"""Plans stages that imitate episodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.records import StageRecord
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import StageSettings
from holdfast.runs.plan.step import Made, Replicate
from holdfast.study.sections import SuiteSection, SuiteTable
from holdfast.study.stages import DEMONSTRATIONS, TRAJECTORIES, DemonstrationSection
from holdfast.suites.office.demonstrations import DEMONSTRATIONS_VERSION


@dataclass(frozen=True, kw_only=True)
class ImitationSettings(StageSettings):
    """A stage that imitates episodes, kept at every dose.

    Of a suite's demonstrations there are the ``suite`` and ``version``, of the run's own trajectories the ``judge``
    that chooses them. No demonstration opens as a held-out case of the split ``split_seed`` does.
    """

    section: DemonstrationSection = field(metadata={"flat": True})
    doses: tuple[int, ...]
    split_seed: int
    suite: SuiteTable | None = field(default=None, metadata={"exclude_unset": True})
    version_of_demonstrations: int | str | None = None
    judge: str | None = None


def plan_stage(planner: Planner, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
    """A lineage's last stage at dose 1, on what its ``data`` names."""
    name, study, known = lineage[-1], planner.study, parent.checkpoint
    section = study.stages[name].at_point(replicate.point)
    assert isinstance(section, DemonstrationSection)
    inputs = [parent.step]
    suite, version, judge = None, None, None
    if section.data == DEMONSTRATIONS:
        suite = planner.decisive_suite()
        version = planner.suite.version if planner.suite.decides is None else DEMONSTRATIONS_VERSION
        # What is drawn when no mixture is declared for the stage.
        if isinstance(study.suite, SuiteSection) and not section.mixture:
            section = section.model_copy(update={"mixture": dict(study.suite.mixture)})
    elif section.data == TRAJECTORIES:
        judge = replicate.point.get("pair_judge", study.pair_judge)
        inputs += planner.judged(planner.rollout_to_learn_from(replicate, parent), judge)
    doses = study.doses_of(lineage)
    settings = ImitationSettings(
        method=section.method,
        section=section,
        stage=name,
        parent=known.id,
        train_seed=replicate.seed,
        doses=doses,
        calls=planner.calls_of(replicate.base),
        split_seed=replicate.split_seed,
        suite=suite,
        version_of_demonstrations=version,
        judge=judge,
    )
    kept = {
        dose: (
            [
                *known.stages,
                StageRecord(
                    name=name,
                    method=section.method,
                    objectives=section.objectives,
                    # Who chose trajectories labelled them, as those who label pairs do.
                    settings=section.resolved() | ({} if judge is None else {"pair_judge": judge}),
                    # How many make an epoch is known when the demonstrations are.
                    steps=None if section.epochs else section.steps * dose,
                    data=inputs[-1] if judge is not None else section.digest or "",
                ),
            ],
            {"dose": dose},
        )
        for dose in doses
    }
    size = section.steps * doses[-1]
    return planner.add_training(replicate, ",".join(lineage), inputs, settings, size=size, parent=known, kept=kept)[0]
