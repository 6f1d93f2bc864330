"""What each kind of step is told, a record a kind. What a record dumps is what the step's fingerprint hashes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from holdfast.models import Speaker
from holdfast.models.entries import ModelEntry
from holdfast.records import JSON
from holdfast.rollout.episode import Limits
from holdfast.store.tables import ScoreTable
from holdfast.study.kinds import kind_of
from holdfast.study.sections import JudgeSection, JudgeTable, ModelSection, PairSection, SuiteTable
from holdfast.study.stages import MERGE, StageTable
from holdfast.study.users import PRACTICE, ApprovalSection
from holdfast.suites.approval.scenarios import SCENARIOS_VERSION
from holdfast.training.pairs import PairSelection, build_pairs

Calls = Literal["auto", "native", "text"]
Kind = Literal["train", "bring", "rollout", "judge", "pair", "reference", "analyze"]
# What of [approval] decides no episode.
_APART = {
    *("lineages", "every_dose", "per_case", "base_per_case"),
    *("judge", "reward_levels", "kl_levels", "late", "taught"),
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """Settings that dump to JSON. A field that is None is left out; a ``flat`` one stands among its record's own keys.

    The other metadata of a field are options of pydantic's ``model_dump`` for the table that it holds.
    """

    def dump(self) -> dict[str, Any]:
        """The settings as JSON."""
        dumped: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            options = dict(item.metadata)
            flat = options.pop("flat", False)
            if isinstance(value, StageTable):
                value = value.resolved()
            elif isinstance(value, BaseModel):
                value = value.model_dump(mode="json", **options)
            elif isinstance(value, Record):
                value = value.dump()
            dumped |= value if flat else {item.name: list(value) if isinstance(value, tuple) else value}
        return dumped


@dataclass(frozen=True, kw_only=True)
class SpeakerModel(Record):
    """A model that speaks in a step: the study's name for it, its entry, and its checkpoint where the run made it."""

    model: str
    entry: ModelEntry
    checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits(Limits, Record):
    """What ends an episode, and how many are run together and committed together."""

    batch_size: int


@dataclass(frozen=True, kw_only=True)
class UserSettings(Record):
    """The users that episodes are with: ``section`` has the settings that are met, ``part`` says of which cases.

    A setting that is added to the study changes none of the others' episodes.
    """

    section: ApprovalSection
    part: str

    def dump(self) -> dict[str, Any]:
        """What decides the users."""
        other = "pairs" if self.part == PRACTICE else "practice"
        return {
            "cases": SCENARIOS_VERSION,
            "settings": list(self.section.settings),
            "condition": self.section.model_dump(mode="json", exclude=_APART | {other}),
        }


@dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """All that a step's work needs besides its inputs. ``version`` is raised by hand when the work changes meaning.

    ``batch`` counts the units that are committed together, by default none before the step's end.
    """

    kind: ClassVar[Kind]
    version: ClassVar[int] = 1
    unit: ClassVar[str]
    batch: ClassVar[int] = 0

    @property
    def work(self) -> str:
        """What steps of the same pace have in common: the kind, or the method of training."""
        return self.kind

    def speakers(self) -> dict[Speaker, SpeakerModel]:
        """The models that speak in the step, by what they do in it; where weights are trained, the agent is apart."""
        asked: dict[Speaker, SpeakerModel | None] = {
            "emulator": getattr(self, "emulator", None),
            "judge": getattr(self, "speaker", None),
        }
        return {who: model for who, model in asked.items() if model is not None}


# Of held-out episodes whose KL is measured, so many are read at once on a processor: more take more memory and no less
# time.
MEASURED_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class RolloutSettings(Settings):
    """Episodes of a checkpoint. Without an ``agent`` it is a tiny model.

    ``suite`` has set what decides an episode. ``cases`` is the version of the generated cases, ``kept_out`` the number
    of training cases that are kept for balances, ``condition`` what the part's table says. ``own`` names the setting of
    users that the checkpoint was trained on, which its drift is measured with.
    """

    kind = "rollout"
    unit = "episodes"
    checkpoint: str
    suite: SuiteTable = field(metadata={"exclude_unset": True})
    split_seed: int
    part: str
    per_case: int
    rollout_seed: int
    limits: EpisodeLimits
    kept_out: int | None = None
    cases: int | str | None = None
    condition: JSON | None = None
    users: UserSettings | None = field(default=None, metadata={"flat": True})
    own: str | None = None
    agent: SpeakerModel | None = None
    emulator: SpeakerModel | None = None

    def speakers(self) -> dict[Speaker, SpeakerModel]:
        """The checkpoint as the agent, and the model that plays the tools."""
        agent = self.agent or SpeakerModel(model="tiny", entry=ModelEntry(kind="tiny"))
        return {"agent": replace(agent, checkpoint=self.checkpoint), **super().speakers()}


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(Settings):
    """Scores by the study's judge of this name. Without a ``section`` they are by the rules that read probes.

    ``kind_version`` is what its kind says of itself.
    """

    kind = "judge"
    unit = "episodes"
    batch = 400
    judge: str
    section: JudgeTable | None = None
    kind_version: int | str | None = None
    speaker: SpeakerModel | None = None

    @property
    def judged_by(self) -> JudgeTable:
        """The judge's table."""
        return self.section or JudgeSection(kind="probes")

    def dump(self) -> dict[str, Any]:
        """The settings as JSON; of a judge whose table changes no score the kind says all."""
        dumped = {**super().dump(), "kind": self.judged_by.kind}
        if kind_of(self.judged_by).plain:
            dumped.pop("section", None)
        return dumped


@dataclass(frozen=True, kw_only=True)
class PairSettings(Settings):
    """Preference pairs by the ``rule`` of [pairs].

    ``flip`` is the share of pairs whose sides are swapped. ``split_seed`` is given for pairs of brought trajectories,
    which are of both halves of the cases.
    """

    kind = "pair"
    unit = "episodes"
    rule: PairSection = field(metadata={"flat": True, "exclude": {"source", "digest", "judge"}})
    judge: str
    objectives: tuple[str, ...]
    agree: Literal["all", "any"]
    flip: float
    pair_seed: int
    split_seed: int | None = None
    kept_out: int | None = None

    def select(
        self, table: ScoreTable, names: Sequence[str], rng: np.random.Generator, cases: Collection[str] | None
    ) -> PairSelection:
        """The pairs of these trajectories by the rule, before any is flipped."""
        return build_pairs(
            table,
            names,
            objectives=self.objectives,
            judge=self.judge,
            min_gap=self.rule.min_gap,
            min_chosen=self.rule.min_chosen,
            combine=self.agree,
            cap_per_case=self.rule.cap_per_case or None,
            exclude_unfit=self.rule.exclude_unfit,
            rng=rng,
            cases=cases,
        )


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings(Settings):
    """Log-probabilities of trajectories under a checkpoint: all that decides them, rounding included.

    ``adapter`` says that the weights beside an adapter are held in 16 bits.
    """

    kind = "reference"
    unit = "trajectories"
    batch = 1000
    checkpoint: str
    loss_mask: Literal["agent", "completion"]
    precision: Literal["fp32", "bf16"]
    token_budget: int
    adapter: bool
    calls: Calls | None = None
    split_seed: int | None = None
    kept_out: int | None = None


@dataclass(frozen=True, kw_only=True)
class BringSettings(Settings):
    """Trajectories and scores of the run at ``source``; ``digest`` is that of its scores when the study was read."""

    kind = "bring"
    unit = "run"
    batch = 500
    source: str
    digest: str | None

    def dump(self) -> dict[str, Any]:
        """The settings as JSON; the digest stands there too where no run was found yet."""
        return {**super().dump(), "digest": self.digest}


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(Settings):
    """Every estimate of the run, with ``draws`` resamples."""

    kind = "analyze"
    version = 2
    unit = "resamples"
    draws: int


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """New checkpoints by a ``method``."""

    kind = "train"
    version = 2
    method: str

    @property
    def work(self) -> str:
        """The method."""
        return self.method


@dataclass(frozen=True, kw_only=True)
class OpenSettings(TrainSettings):
    """A base that is opened where it is."""

    unit = "model"
    method: str = "open"
    base: str
    entry: ModelEntry


@dataclass(frozen=True, kw_only=True)
class StartSettings(TrainSettings):
    """A base with the weights of ``parent``, which the ``stages`` of its start have taught."""

    unit = "model"
    method: str = "start"
    base: str
    parent: str
    stages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RandomSettings(TrainSettings):
    """A base of random weights, whose tokenizer is made of the cases that the run holds.

    ``cases`` is the version of those of a suite from elsewhere.
    """

    unit = "model"
    method: str = "random"
    base: str
    entry: ModelEntry
    base_seed: int
    suite: SuiteTable = field(metadata={"exclude_unset": True})
    split_seeds: tuple[float | int | str, ...]
    cases: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class TeachSettings(TrainSettings):
    """A tiny base, taught from ``demonstrations`` of this version, and from what ``probes`` and ``approval`` add.

    Of a suite from elsewhere ``table`` and ``cases``, its version, say what it teaches.
    """

    unit = "demonstrations"
    method: str = "sft"
    base: str
    base_seed: int
    model: ModelSection = field(metadata={"exclude": {"bases", "base_seeds"}})
    suite: str
    mixture: Mapping[str, float]
    demonstrations: int
    probes: JSON | None = None
    approval: JSON | None = None
    table: SuiteTable | None = field(default=None, metadata={"exclude_unset": True})
    cases: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class StageSettings(TrainSettings):
    """A stage of the study, named ``stage``, from the checkpoint ``parent``.

    ``section`` is its table at a point of the axes, ``method_version`` what its method says of itself.
    """

    unit = "steps"
    stage: str
    parent: str
    train_seed: int
    section: StageTable = field(metadata={"flat": True})
    method_version: int | str | None = None
    calls: Calls | None = None
    agent: SpeakerModel | None = None


@dataclass(frozen=True, kw_only=True)
class MergeSettings(TrainSettings):
    """Weights between two checkpoints at every share of the second."""

    unit = "merges"
    method: str = MERGE
    stage: str
    of: tuple[str, str]
    shares: tuple[float, ...]
