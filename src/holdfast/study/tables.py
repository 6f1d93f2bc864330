"""The tables of a study together, and what is looked up in them; nothing is checked here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from holdfast.models.entries import TINY, EndpointSection, ModelEntry
from holdfast.records.errors import StudyError, require
from holdfast.records.section import Positive, Section
from holdfast.study.kinds import AnyJudge, AnyStage, AnySuite, rates_users
from holdfast.study.parts import AttackSection, ProbeSection, ShiftSection
from holdfast.study.problems import read_axis
from holdfast.study.rules import GateSection, SearchSection
from holdfast.study.sections import (
    ModelSection,
    NeedSection,
    PairSection,
    RolloutSection,
    RunSection,
    StudySection,
    SuiteSection,
)
from holdfast.study.stages import MergeSection, StageSection
from holdfast.study.users import ApprovalSection

RULES = "approval"  # the kind of judge of users that is the rules, which are the ground truth


class Tables(Section):
    """A whole study.

    ``doses`` keeps a lineage's last stage at multiples of its steps, as checkpoints of one training run. ``models`` are
    the models that go by a name, ``endpoints`` how the remote ones among all models are reached. ``merges`` are
    checkpoints made of others without training. ``attacks``, ``shifts`` and ``probes`` say what checkpoints meet beside
    the held-out cases, ``approval`` the users whose approval is trained on, ``gate`` what a child must not lose,
    ``search`` what ``run --search`` looks for. ``resources`` say by kind what a step needs of a cluster.
    """

    study: StudySection
    axes: Mapping[str, tuple[float | int | str, ...]] = Field(default_factory=dict)
    model: ModelSection = ModelSection()
    models: Mapping[str, ModelEntry] = Field(default_factory=dict)
    endpoints: Mapping[str, EndpointSection] = Field(default_factory=dict)
    suite: AnySuite = SuiteSection()
    rollouts: RolloutSection = RolloutSection()
    judges: Annotated[Mapping[str, AnyJudge], Field(min_length=1)]
    pairs: PairSection = PairSection()
    stages: Mapping[str, AnyStage] = Field(default_factory=dict)
    doses: Mapping[str, tuple[Positive, ...]] = Field(default_factory=dict)
    merges: Mapping[str, MergeSection] = Field(default_factory=dict)
    gate: GateSection = GateSection()
    attacks: AttackSection | None = None
    shifts: ShiftSection | None = None
    probes: ProbeSection | None = None
    approval: ApprovalSection | None = None
    search: SearchSection | None = None
    run: RunSection = RunSection()
    resources: Mapping[Literal["train", "rollout", "reference", "judge"], NeedSection] = Field(default_factory=dict)

    def entry(self, name: str) -> ModelEntry:
        """The model that the study calls ``name``: an entry of ``models``, a base, or a provider's model."""
        if name in self.models:
            return self.models[name]
        if name == TINY:
            return ModelEntry(kind="tiny")
        if name in self.model.bases or name.startswith("local/"):
            return ModelEntry(kind="local", name=name.removeprefix("local/"))
        return ModelEntry(kind="remote", name=name)

    def endpoint(self, name: str) -> EndpointSection:
        """How the remote model ``name`` is reached."""
        return self.endpoints.get(name, EndpointSection())

    def needs(self, kind: str) -> NeedSection:
        """What a step of a kind needs of a machine."""
        return next((needed for name, needed in self.resources.items() if name == kind), NeedSection())

    def check_prices(self, max_cost: float | None) -> None:
        """Raise StudyError for a bound on money where nothing has a price, so that it would never be met."""
        priced = any(one.input_price or one.output_price for one in self.endpoints.values())
        require(
            max_cost is None or priced,
            "--max-cost is given, but no endpoint has a price; set [endpoints.NAME] input_price and output_price, or"
            " bound --max-calls",
        )

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the axes' values, as axis → value."""
        read = [[read_axis(axis, value) for value in values] for axis, values in self.axes.items()]
        for values in itertools.product(*read):
            yield dict(zip(self.axes, values, strict=True))

    @property
    def pair_judge(self) -> str:
        """The judge whose scores make pairs where no axis says otherwise."""
        return self.pairs.judge or next(iter(self.readers), "") or next(iter(self.judges))

    @property
    def readers(self) -> tuple[str, ...]:
        """The judges of all cases but those of ``approval``."""
        return tuple(name for name, judge in self.judges.items() if not rates_users(judge.kind))

    @property
    def raters(self) -> tuple[str, ...]:
        """The judges of the cases of ``approval``."""
        return tuple(name for name, judge in self.judges.items() if rates_users(judge.kind))

    @property
    def tuning_cases(self) -> int:
        """How many cases a split keeps for balances: as many as the stage that asks for most of them."""
        balances = (stage.balance for stage in self.stages.values() if isinstance(stage, StageSection))
        return max((balance.cases for balance in balances if balance is not None), default=0)

    @property
    def labels(self) -> set[str]:
        """The lineages as they stand as keys: names with commas between."""
        return {",".join(lineage) for lineage in self.study.lineages}

    def lineages_of(self, base: str) -> tuple[tuple[str, ...], ...]:
        """The lineages that are trained on a base."""
        return self.study.only.get(base, self.study.lineages)

    def pair_stage(self, name: str) -> StageSection:
        """A stage that learns from pairs. Errors: StudyError for any other."""
        stage = self.stages[name]
        if not isinstance(stage, StageSection):
            raise StudyError(f"stages.{name} is of method {stage.method!r}; name a stage that learns from pairs")
        return stage

    def doses_of(self, lineage: tuple[str, ...]) -> tuple[int, ...]:
        """Multiples of its steps at which the lineage's last stage is kept."""
        return self.doses.get(",".join(lineage), (1,))

    def settings(self) -> dict[str, Any]:
        """The study as JSON without what changes no result."""
        found = self.model_dump(mode="json", exclude={"run", "endpoints", "resources"})
        for name, stage in self.stages.items():
            found["stages"][name] = {key: one for key, one in found["stages"][name].items() if key not in stage.means}
        if self.approval is not None:
            # Told outright: a run does not keep the order of judges, by which the first rewards.
            found["approval"]["judge"] = self.approval.judge or self.raters[0]
        return found
