"""Plans stages that imitate episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from holdfast.records import StageRecord
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import StageSettings
from holdfast.runs.plan.step import Made, Replicate
from holdfast.study.command import CommandSection
from holdfast.study.sections import SuiteSection, SuiteTable
from holdfast.study.stages import DEMONSTRATIONS, TRAJECTORIES, DemonstrationSection
from holdfast.suites.office.demonstrations import DEMONSTRATIONS_VERSION

Imitating = TypeVar("Imitating", DemonstrationSection, CommandSection)


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


class Imitation(Protocol):
    """What says which episodes a stage is given, of whichever method: as ``ImitationSettings`` has it."""

    @property
    def stage(self) -> str: ...
    @property
    def section(self) -> DemonstrationSection | CommandSection: ...
    @property
    def train_seed(self) -> int: ...
    @property
    def split_seed(self) -> int | None: ...
    @property
    def suite(self) -> SuiteTable | None: ...
    @property
    def judge(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a stage's episodes come from, as ``ImitationSettings`` has it; ``inputs`` are the steps that make them."""

    inputs: tuple[str, ...] = ()
    suite: SuiteTable | None = None
    version: int | str | None = None
    judge: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of ``ImitationSettings`` that say so."""
        return {"suite": self.suite, "version_of_demonstrations": self.version, "judge": self.judge}


def plan_source(planner: Planner, replicate: Replicate, parent: Made, section: Imitating) -> tuple[Imitating, Source]:
    """Where the episodes that ``section.data`` names come from, and the section with what decides them."""
    study = planner.study
    if section.data == DEMONSTRATIONS:
        version = planner.suite.version if planner.suite.decides is None else DEMONSTRATIONS_VERSION
        # What is drawn when no mixture is declared for the stage.
        if isinstance(study.suite, SuiteSection) and not section.mixture:
            section = section.model_copy(update={"mixture": dict(study.suite.mixture)})
        return section, Source(suite=planner.decisive_suite(), version=version)
    if section.data == TRAJECTORIES:
        judge = replicate.point.get("pair_judge", study.pair_judge)
        inputs = planner.judged(planner.rollout_to_learn_from(replicate, parent), judge)
        return section, Source(inputs=inputs, judge=judge)
    return section, Source()


def plan_stage(planner: Planner, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
    """A lineage's last stage at dose 1, on what its ``data`` names."""
    name, study, known = lineage[-1], planner.study, parent.checkpoint
    section = study.stages[name].at_point(replicate.point)
    assert isinstance(section, DemonstrationSection)
    section, source = plan_source(planner, replicate, parent, section)
    inputs = [parent.step, *source.inputs]
    doses = study.doses_of(lineage)
    settings = ImitationSettings(
        **planner.of_stage(replicate, parent, name, section),
        doses=doses,
        split_seed=replicate.split_seed,
        **source.settings,
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
                    settings=section.resolved() | ({"pair_judge": source.judge} if source.judge else {}),
                    # How many make an epoch is known when the demonstrations are.
                    steps=None if section.epochs else section.steps * dose,
                    data=inputs[-1] if source.judge else section.digest or "",
                ),
            ],
            {"dose": dose},
        )
        for dose in doses
    }
    size = section.steps * doses[-1]
    return planner.add_training(replicate, ",".join(lineage), inputs, settings, size=size, parent=known, kept=kept)[0]
