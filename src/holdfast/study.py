"""What is asked: a study file in TOML, or ``Study(...)`` in Python, validated before anything is spent.

Unknown keys are errors that name the nearest known key. ``load`` reads a file, ``Study.model_validate`` a
dictionary; both raise StudyError with one line that says where, what was found and what to do.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from holdfast.attachments import read_attachments
from holdfast.conditions import AttackSection, GateSection, ProbeSection, SearchSection, ShiftSection, refuse_old_bound
from holdfast.consistency import check_study, first_problem, read_axis
from holdfast.errors import StudyError, require, require_known
from holdfast.incentives import ApprovalSection, RewardSection
from holdfast.inputs import parse_toml, read_settings
from holdfast.laboratory import PREFERENCE_TAG, RATERS, REWARD_TAG, sort_stage
from holdfast.sections import (
    TINY,
    EndpointSection,
    JudgeSection,
    MergeSection,
    ModelEntry,
    ModelSection,
    PairSection,
    Positive,
    RolloutSection,
    RunSection,
    Section,
    StageSection,
    StudySection,
    SuiteSection,
)

# What a stage of a study is; its ``method`` tells which.
Stage = Annotated[
    Annotated[StageSection, Tag(PREFERENCE_TAG)] | Annotated[RewardSection, Tag(REWARD_TAG)], Discriminator(sort_stage)
]


class Study(Section):
    """A whole study.

    ``doses`` keeps a lineage's last stage at multiples of its steps, as checkpoints of one training run. ``models`` are
    the models that go by a name, ``endpoints`` how the remote ones among all models are reached. ``merges`` are
    checkpoints made of others without training. ``attacks``, ``shifts`` and ``probes`` say what checkpoints meet beside
    the held-out cases, ``approval`` the users whose approval is trained on, ``gate`` what a child must not lose,
    ``search`` what ``run --search`` looks for.
    """

    study: StudySection
    axes: Mapping[str, tuple[float | int | str, ...]] = Field(default_factory=dict)
    model: ModelSection = ModelSection()
    models: Mapping[str, ModelEntry] = Field(default_factory=dict)
    endpoints: Mapping[str, EndpointSection] = Field(default_factory=dict)
    suite: SuiteSection = SuiteSection()
    rollouts: RolloutSection = RolloutSection()
    judges: Annotated[Mapping[str, JudgeSection], Field(min_length=1)]
    pairs: PairSection = PairSection()
    stages: Mapping[str, Stage] = Field(default_factory=dict)
    doses: Mapping[str, tuple[Positive, ...]] = Field(default_factory=dict)
    merges: Mapping[str, MergeSection] = Field(default_factory=dict)
    gate: GateSection = GateSection()
    attacks: AttackSection | None = None
    shifts: ShiftSection | None = None
    probes: ProbeSection | None = None
    approval: ApprovalSection | None = None
    search: SearchSection | None = None
    run: RunSection = RunSection()

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A study from a dictionary. Errors: StudyError."""
        try:
            return super().model_validate(read_attachments(obj), **options)
        except ValidationError as error:
            raise StudyError(first_problem(error, cls)) from error

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        """Every name that the study uses is a name that it defines, and its settings fit together."""
        check_study(self)
        return self

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
        return tuple(name for name, judge in self.judges.items() if judge.kind not in RATERS)

    @property
    def raters(self) -> tuple[str, ...]:
        """The judges of the cases of ``approval``."""
        return tuple(name for name, judge in self.judges.items() if judge.kind in RATERS)

    def lineages_of(self, base: str) -> tuple[tuple[str, ...], ...]:
        """The lineages that are trained on a base."""
        return self.study.only.get(base, self.study.lineages)

    def pair_stage(self, name: str) -> StageSection:
        """A stage that learns from pairs. Errors: StudyError for one that learns from rewards."""
        stage = self.stages[name]
        if isinstance(stage, RewardSection):
            raise StudyError(f"stages.{name} learns from rewards; name a stage that learns from pairs")
        return stage

    @property
    def pair_stages(self) -> Iterator[StageSection]:
        """All stages that learn from pairs."""
        return (stage for stage in self.stages.values() if isinstance(stage, StageSection))

    def doses_of(self, lineage: tuple[str, ...]) -> tuple[int, ...]:
        """Multiples of its steps at which the lineage's last stage is kept."""
        return self.doses.get(",".join(lineage), (1,))

    def settings(self) -> dict[str, Any]:
        """The study as JSON without what changes no result."""
        found = self.model_dump(mode="json", exclude={"run", "endpoints"})
        if self.approval is not None:
            # Told outright: a run does not keep the order of judges, by which the first rewards.
            found["approval"]["judge"] = self.approval.judge or self.raters[0]
        return found


def load(path: Path | str, *, scale: str | None = None, changes: Sequence[str] = ()) -> Study:
    """The study that a TOML file describes. Errors: StudyError naming the file and the place.

    ``scale`` names one of the file's ``[scales.NAME]`` tables, whose values replace those of the study; ``changes`` are
    "dotted.key=value", the value as TOML writes it or a bare text, and come last.
    """
    raw = read_settings(path, "a study file")
    try:
        scales = raw.pop("scales", {})
        tables = isinstance(scales, dict) and all(isinstance(one, dict) for one in scales.values())
        require(tables, "scales is no table of tables; write the values of each in [scales.NAME]")
        if scale is not None:
            require_known(scale, scales, "--scale is", "[scales.…]")
            _merge(raw, scales[scale])
        for change in changes:
            _merge(raw, _read_change(change))
        refuse_old_bound(raw["gate"] if isinstance(raw.get("gate"), dict) else {}, "gate")
        return Study.model_validate(raw)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


def _merge(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put ``changes`` over a nested table, table by table."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def _read_change(change: str) -> dict[str, Any]:
    key, found, value = change.partition("=")
    try:
        if not found:
            raise StudyError(f"--set {change!r} has no value; write it as table.key=value")
        return parse_toml(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        pass
    try:
        return parse_toml(f"{key} = {json.dumps(value)}")
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"--set {change!r}: {key!r} is no key; write it as table.key=value") from error


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two studies' settings, with both values."""
    changes: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} → {after!r}")
    return changes
