"""Plans stages that learn from pairs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from holdfast.records import StageRecord
from holdfast.records.errors import StudyError
from holdfast.runs.forecast import Cost
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import BringSettings, EpisodeLimits, PairSettings, Record, SpeakerModel, StageSettings
from holdfast.runs.plan.step import Made, Plan, Replicate, Step
from holdfast.store import DATABASE, Store
from holdfast.store.tables import ScoreTable
from holdfast.study.sections import JudgeTable, SuiteTable
from holdfast.study.stages import StageSection
from holdfast.suites import split_cases


@dataclass(frozen=True, kw_only=True)
class TuningSettings(Record):
    """What a balance is measured with: the cases kept for it, of as many as the stage that asks for most has ``of``."""

    suite: SuiteTable = field(metadata={"exclude_unset": True})
    split_seed: int
    of: int
    limits: EpisodeLimits
    judge: str
    section: JudgeTable


@dataclass(frozen=True, kw_only=True)
class PairStageSettings(StageSettings):
    """A stage that learns from pairs, kept at every dose.

    A stage with a balance has ``tuning``, and the models that speak while it is measured. Of a file's pairs none opens
    as a held-out case of the split ``split_seed`` does.
    """

    section: StageSection = field(metadata={"flat": True})
    doses: tuple[int, ...]
    split_seed: int | None = None
    tuning: TuningSettings | None = None
    emulator: SpeakerModel | None = None


def plan_stage(planner: Planner, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
    """A lineage's last stage at dose 1, on the pairs that the study's judge of pairs makes of a rollout step.

    A stage that keeps a second objective has its pairs of the same rollouts, by the same rule, as one more input.
    """
    name, study = lineage[-1], planner.study
    base, split_seed, seed, known = replicate.base, replicate.split_seed, replicate.seed, parent.checkpoint
    section = study.pair_stage(name).at_point(replicate.point)
    judge = replicate.point.get("pair_judge", study.pair_judge)
    inputs, pairs = [parent.step], section.digest
    if pairs is None:
        rollout = planner.rollout_to_learn_from(replicate, parent)
        pairs = planner.pair(rollout, judge, section, split_seed, seed)
        inputs += [pairs, planner.reference(base, parent, rollout, section, split_seed)]
    doses = study.doses_of(lineage)
    settings = PairStageSettings(
        **planner.of_stage(replicate, parent, name, section),
        doses=doses,
        split_seed=split_seed if section.digest else None,
    )
    if (second := section.mix or section.term or section.balance) is not None:
        plain = section.model_copy(update={"objective": second.objective, "agree": "all", "flip": 0.0})
        inputs.append(planner.pair(rollout, judge, plain, split_seed, seed))
    if section.balance is not None:
        emulator, needed = planner.emulator()
        tuning = TuningSettings(
            suite=planner.decisive_suite(),
            split_seed=split_seed,
            # The part is drawn for the stage that asks for most, which decides its cases.
            of=study.tuning_cases,
            limits=planner.limits(),
            judge=judge,
            section=study.judges[judge],
        )
        settings = replace(settings, tuning=tuning, agent=planner.agent(base), emulator=emulator)
        inputs += needed
    size = section.steps * doses[-1]
    kept = {dose: ([*known.stages, _record(section, name, dose, pairs)], {"dose": dose}) for dose in doses}
    return planner.add_training(replicate, ",".join(lineage), inputs, settings, size=size, parent=known, kept=kept)[0]


def _record(section: StageSection, name: str, dose: int, pairs: str) -> StageRecord:
    """The stage as it is run to a dose; ``pairs`` identifies its own pairs: the step that made them, or their file."""
    # Steps of whole sub-trees, and the last step of a pairwise epoch, take as many pairs as there are; a balance takes
    # a second pair only while it weighs something.
    exact = not (section.pairwise or section.trajectories_per_case or section.epochs or section.balance)
    each = section.pairs_per_step * (2 if section.term is not None else 1)
    return StageRecord(
        name=name,
        method=section.method,
        objectives=section.objectives,
        # The record tells a control from its stage.
        settings={**section.resolved(), "flip": section.flip},
        # How many make an epoch is known when the pairs are.
        steps=None if section.epochs else section.steps * dose,
        pairs=section.steps * each * dose if exact else None,
        data=pairs,
    )


def expect_cost(plan: Plan, step: Step) -> Cost:
    """How often a stage learns from a pair, which cannot always be told before its pairs are made."""
    assert isinstance(step.settings, PairStageSettings)
    section = step.settings.section
    if not section.epochs:
        # A second objective's term takes as many pairs again; a balance takes them while it weighs something.
        return Cost(pairs=step.size * section.pairs_per_step * (2 if section.term or section.balance else 1))
    if section.data is not None and section.digest is not None:
        count = _count_file(section.data, section.digest)
        return Cost(pairs=None if count is None else section.epochs * count)
    paired = plan.step(step.inputs[1])
    brought, rule = plan.step(paired.inputs[0]).settings, paired.settings
    assert isinstance(rule, PairSettings)
    if not isinstance(brought, BringSettings) or not (Path(brought.source) / DATABASE).is_file():
        return Cost(pairs=None)
    assert rule.split_seed is not None  # as of all pairs of what was brought
    cases = split_cases(plan.study.suite, rule.split_seed)["train"]
    # Neither the share of flipped pairs nor the seed changes how many there are.
    alike = replace(rule, flip=0.0, pair_seed=0)
    return Cost(pairs=section.epochs * _count_brought(Path(brought.source), tuple(one.id for one in cases), alike))


@lru_cache(maxsize=16)
def _count_file(path: str, _: str) -> int | None:
    from holdfast.exchange.datasets.preferences import read_preferences

    with contextlib.suppress(StudyError):  # the stage itself says what is wrong
        return len(read_preferences(Path(path)).pairs)
    return None


@lru_cache(maxsize=256)
def _count_brought(source: Path, cases: tuple[str, ...], settings: PairSettings) -> int:
    table, names = _read_source(source)
    return len(settings.select(table, names, np.random.default_rng(0), cases))


@lru_cache(maxsize=1)
def _read_source(source: Path) -> tuple[ScoreTable, list[str]]:
    with Store(source) as store:
        return store.score_table(), store.trajectory_ids()
