"""Stages of training as a study declares them: on pairs, on rewards, and merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from holdfast.records import Checkpoint, StageRecord
from holdfast.records.errors import require
from holdfast.records.section import MOST, CaseCount, Natural, Positive, Rate, Section, Share, Weight

# What ``data`` of a stage names beside a file, and what stands in records for that.
DEMONSTRATIONS, TRAJECTORIES, PAIRS = "demonstrations", "trajectories", "pairs"
NAMED_DATA, FILE = (DEMONSTRATIONS, TRAJECTORIES, PAIRS), "file"
DATA_BYTES = 1 << 30  # of a file that a stage learns from
AXIS_SETTINGS = ("beta", "learning_rate", "steps", "pairs_per_step", "warmup_steps", "lora_r", "loss")


class MixSection(Section):
    """``stages.X.mix``: a ``share`` of each step's pairs is of another objective, by the same rule."""

    objective: str = "safety"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.25


class TermSection(Section):
    """``stages.X.term``: beside the stage's pairs each step holds as many of another objective, of this ``weight``."""

    objective: str = "safety"
    weight: Annotated[float, Field(gt=0, le=100)] = 0.5


class BalanceSection(Section):
    """``stages.X.balance``: the weight of another objective's term follows what training does to it.

    Every ``every`` steps the checkpoint is rolled out on ``cases`` cases that give no pairs, and scored. With g the
    points by which the mean falls short of ``floor``, the weight becomes min(``most``, max(0, weight + ``rate`` · g)):
    dual ascent on the constraint that the mean stays at the floor.
    """

    objective: str = "safety"
    floor: Annotated[float, Field(ge=0, le=3)] = 2.0
    every: Positive = 4
    cases: CaseCount = 40
    rate: Annotated[float, Field(gt=0, le=100)] = 1.0
    initial: Annotated[float, Field(ge=0, le=100)] = 0.0
    most: Annotated[float, Field(gt=0, le=100)] = 4.0


class StageTable(Section):
    """``[stages.NAME]`` of any method, whose name it holds."""

    # Keys that are no part of a checkpoint's record nor of a fingerprint: always, and where they are not given.
    apart: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    # Keys that may change from one execution to the next: a study with others is the same study.
    means: ClassVar[tuple[str, ...]] = ()

    method: str

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the stage is trained for: its key ``objective``, also where that is one word; none without the key."""
        named = getattr(self, "objective", ())
        return (named,) if isinstance(named, str) else tuple(named)

    def resolved(self) -> dict[str, Any]:
        """What of the stage is noted of its checkpoints, and is part of its train step's fingerprint."""
        absent = {name for name in self.optional if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude={*self.apart, *absent})

    def at_point(self, point: Mapping[str, Any]) -> Self:
        """The stage with the values of a study's axes; the axis ``loss`` is that of stages that learn from pairs."""
        axes = [key for key in AXIS_SETTINGS if key in type(self).model_fields and key in point]
        return self.model_copy(
            update={key: point[key] for key in axes if key != "loss" or isinstance(self, StageSection)}
        )


def check_named_data(place: str, stage: StageTable, known: Sequence[str], without: str) -> None:
    """Raises StudyError for data that a method does not know by name, and for a digest of no file.

    ``without`` says what there is instead.
    """
    data, digest = getattr(stage, "data", None), getattr(stage, "digest", None)
    named = data in NAMED_DATA
    require(
        not named or data in known,
        f"{place}.data is {data!r}, and method {stage.method!r} has no such data; {without}, or ./{data} for a file",
    )
    require(
        digest is None or (data is not None and not named),
        f"{place}.digest is of a file of data, and there is none; it is filled in, remove it",
    )


class TrainingSection(StageTable):
    """What every stage that trains has: how it optimises, and which weights.

    Rates and steps are the optimiser's, ``beta`` is per nat, ``max_grad_norm`` bounds the gradient's L2 norm;
    ``lora_r`` 0 trains all weights. ``token_budget`` is the number of tokens in memory at once, ``recompute`` saves
    more memory for time.
    """

    beta: Rate = 0.1
    steps: Positive
    tokens_per_step: Positive | None = None
    learning_rate: Rate
    warmup_steps: Natural = 4
    max_grad_norm: Rate = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: Weight = 0.0
    lora_r: Annotated[int, Field(ge=0, le=2**20)] = 0
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    token_budget: Positive = 32_768
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False


class DataSection(TrainingSection):
    """What stages have that may learn from a file: ``data`` is its path, ``digest`` the SHA-256 of what is in it.

    The digest is filled in when the study is read, and says in records and fingerprints which file it was.
    """

    data: str | None = None
    digest: str | None = None

    def resolved(self) -> dict[str, Any]:
        """As of any stage, with the file's digest in place of its path."""
        return super().resolved() | ({"data": FILE} if self.digest else {})


class StageSection(DataSection):
    """``[stages.NAME]``: one training stage. ``flip`` is the share of pairs whose sides are swapped (a control).

    Pairs are the study's own, by ``[pairs]``, or those of a file of preferences, whose path is ``data``.
    ``epochs`` passes over the pairs take the place of ``steps``, and ``warmup_ratio`` that of ``warmup_steps``; pairs
    with a side of more than ``max_length`` tokens are left out, and counted.
    ``mix``, ``term`` and ``balance``, at most one of them, keep a second objective in the stage.
    ``grouping`` "family" fills steps with pairs of cases of one family, whose system message and tools are computed
    once; "mixed", the default, takes any.
    ``pairwise``, ``trajectories_per_case`` and ``tokens_per_step`` say which pairs make a step; ``loss`` to
    ``sft_weight`` are the objective's; ``devices`` share one stage's weights and work.
    """

    # The pair step's fingerprint holds the flip; of a file's pairs, which have no such step, ``resolved`` does.
    apart = ("flip",)
    optional = ("data", "digest", "epochs", "warmup_ratio", "max_length", "grouping", "mix", "term", "balance")

    method: str = "dpo"
    objective: str | tuple[str, ...]
    agree: Literal["all", "any"] = "all"
    flip: Share = 0.0
    learning_rate: Rate = 1.3e-4
    steps: Positive = 20
    epochs: Positive | None = None
    pairs_per_step: Positive = 32
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length: Positive | None = None
    loss_mask: Literal["agent", "completion"] = "agent"
    # No part of a stage's identity where it is not given.
    grouping: Literal["family", "mixed"] | None = Field(default=None, exclude_if=lambda grouping: grouping is None)
    pairwise: bool = False
    trajectories_per_case: Annotated[int, Field(ge=2, le=MOST)] | None = None
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    length_normalized: bool = False
    sft_weight: Weight = 0.0
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    mix: MixSection | None = None
    term: TermSection | None = None
    balance: BalanceSection | None = None

    def resolved(self) -> dict[str, Any]:
        """As of any stage that may learn from a file, with the share of a file's pairs that is flipped."""
        return super().resolved() | ({"flip": self.flip} if self.digest and self.flip else {})


class DemonstrationSection(DataSection):
    """``[stages.NAME]`` with ``method`` "sft": a stage that imitates episodes, token by token.

    ``data`` says which: ``count`` "demonstrations" of the suite's scripted agents, drawn by ``mixture``; the run's own
    "trajectories" of training cases, of each case the ``best`` that the judge of pairs gives ``at_least`` so many
    points for every ``objective``; or a path of a file of chats, JSON lines, with its ``digest``, filled in when the
    study is read. ``objective`` says what else the stage is for. ``pairs.source`` says whose trajectories they are.

    A step takes ``examples_per_step`` episodes: with ``grouping`` "family" of one family, whose system message and
    tools are computed once, "mixed" of any. ``epochs`` passes take the place of ``steps``, ``warmup_ratio`` that of
    ``warmup_steps``; episodes of more than ``max_length`` tokens are left out, and counted. Only the agent's own tokens
    count, or with ``loss_mask`` "completion" all that follows a case's opening.
    """

    optional = ("digest", "epochs", "warmup_ratio", "max_length", "tokens_per_step")

    method: str = "sft"
    data: str = DEMONSTRATIONS
    objective: str | tuple[str, ...] = ()
    count: CaseCount = 600
    mixture: Mapping[str, Share] = Field(default_factory=dict)
    at_least: Annotated[float, Field(ge=0, le=3)] = 2.0
    best: Positive = 1
    steps: Positive = 20
    epochs: Positive | None = None
    examples_per_step: Positive = 24
    grouping: Literal["family", "mixed"] = "mixed"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    learning_rate: Rate = 3e-4
    max_length: Positive | None = None
    loss_mask: Literal["agent", "completion"] = "agent"


EXTERNAL = "external"  # the method of a stage that was trained elsewhere


class ExternalSection(StageTable):
    """``[stages.NAME]`` with ``method`` "external": checkpoints that training elsewhere left behind.

    ``path`` is a directory, a pattern of directories ("out/checkpoint-*"), or a repository of the hub that is among its
    downloads here, with ``revisions`` where there are several. Each is a dose, in the order of its ``steps``: those
    given here in the order of the names, else ``global_step`` of its trainer_state.json, else the number by which the
    names differ. The dose is the steps over those of the first. ``objective`` says what the stage was trained for, and
    may be left out. ``places`` and ``digests``, of weights, settings and tokenizer, are filled in when the study is
    read: what lies there is part of the study, where it lies is not.
    """

    apart = ("path", "revisions", "places")
    optional = ("steps",)

    method: str = EXTERNAL
    path: Annotated[str, Field(min_length=1)]
    revisions: tuple[str, ...] = ()
    objective: str | tuple[str, ...] = ()
    steps: Positive | tuple[Positive, ...] | None = None
    places: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    def at_point(self, point: Mapping[str, Any]) -> Self:
        """The stage itself: no axis changes what was trained elsewhere."""
        return self

    @property
    def counted(self) -> tuple[int | None, ...]:
        """The steps of every checkpoint; None for a single one of which nothing says."""
        if self.steps is None:
            return (None,) * len(self.digests)
        return (self.steps,) if isinstance(self.steps, int) else self.steps

    @property
    def doses(self) -> tuple[float, ...]:
        """The steps of every checkpoint over those of the first, which is dose 1."""
        first, *more = self.counted or (None,)
        told = [1, *((one or 1) / (first or 1) for one in more)]
        rounded = [int(dose) if dose == int(dose) else round(dose, 4) for dose in told]
        return tuple(rounded if len(set(rounded)) == len(told) else told)


class MergeSection(Section):
    """``[merges.NAME]``: weights between two lineages of one base: (1 − share) of the first, ``share`` of the second.

    Nothing is trained. Adapters on one base are interpolated as the weights that they make.
    """

    of: Annotated[tuple[tuple[str, ...], ...], Field(min_length=2, max_length=2)]
    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.25, 0.5, 0.75)


MERGE = "merge"  # what a checkpoint's record calls what was made by [merges.NAME]
REWARD_METHODS = ("grpo", "best_sft", "best_dpo")  # of those that ship, the methods that learn from rewarded rollouts
OF_USERS = ("reward", "weight")  # keys of a stage on rewards that say what of its users rewards
BY_JUDGE = "objective"  # what the reward is noted as where the judge of pairs rewards, and no users do
LOWEST_RATING, HIGHEST_RATING = 1.0, 10.0


class SourceSection(Section):
    """``stages.X.source``: the checkpoint whose rollouts a stage learns from: a base, and a lineage trained from it."""

    base: str
    lineage: tuple[str, ...] = ()


class RewardSection(TrainingSection):
    """``[stages.NAME]`` with ``method`` "grpo", "best_sft" or "best_dpo": a stage that learns from rewarded rollouts.

    "grpo" follows the policy gradient with advantages within groups of ``group_size`` rollouts of one prompt, by the
    ``loss`` "dapo" (mean over tokens), "grpo" (mean of each completion's mean) or "dr_grpo" (constant length).
    "best_sft" imitates the best rollout of each group, "best_dpo" prefers it to the worst.

    Without users, ``objective`` is what the judge of pairs scores in rollouts of the suite's training cases, the mean
    of several. A rollout that has no score of one of them, or that pairs leave out as unfit, has the lowest score for
    its reward where the agent itself spoilt it (cut off, unreadable, unfit), else none, and is left out of its group.
    With ``unscored`` "left_out" both are left out: a policy is then not held from what is never scored.

    With users, ``setting`` names them. ``reward`` is their approval, the task's success, ``weight`` of approval and the
    rest of success ("mixture"), or approval less ``weight`` times the rating of harm above the lowest ("penalized").
    That harm is the rules' where the study has a judge of kind "approval", whose rules are the ground truth; else it is
    that of the judge that rewards.

    ``rollouts`` says whose they are: "policy", of the weights ``lag`` steps before (0 is on-policy), "start", of the
    checkpoint that the stage starts from, or "source", of the one that ``source`` names. What was not sampled by the
    present weights is weighted by the ratio of probabilities unless ``importance`` is false.

    Every step takes ``prompts_per_step`` prompts, or as many as it takes to train ``tokens_per_step`` tokens. A group
    whose rewards are all equal has no gradient and is skipped. The checkpoint is kept and evaluated every ``every``
    steps. ``kl_weight`` holds the policy to where it started. How rollouts are sampled stands in ``[rollouts]``. With
    ``grouping`` "family" an on-policy step's prompts are of one family of cases, as many as it has, whose system
    message and tools are computed once; "mixed", the default, takes any.
    """

    optional = ("source", "tokens_per_step", "objective", "setting", "unscored", "grouping")

    method: str
    objective: str | tuple[str, ...] | None = None
    unscored: Literal["lowest", "left_out"] | None = None
    setting: str | None = None
    reward: Literal["approval", "success", "mixture", "penalized"] = "approval"
    weight: Annotated[float, Field(ge=0, le=10)] = 0.5
    rollouts: Literal["policy", "start", "source"] = "policy"
    source: SourceSection | None = None
    lag: Annotated[int, Field(ge=0, le=1000)] = 0
    importance: bool = True
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    scale: Literal["group", "batch", "none"] = "group"
    group_size: Annotated[int, Field(ge=2, le=1024)] = 8
    prompts_per_step: Positive = 8
    grouping: Literal["family", "mixed"] | None = None
    steps: Positive = 60
    every: Positive = 20
    kl_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    clip_low: Share = 0.2
    clip_high: Weight = 0.2
    learning_rate: Rate = 1.5e-4

    @field_validator("group_size", mode="before")
    @classmethod
    def _refuse_one(cls, value: Any) -> Any:
        if value in (0, 1):
            raise ValueError("rewards are compared within a group, which takes 2 rollouts or more")
        return value

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the stage is trained for."""
        if self.objective is None:
            return (self.reward,)
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    def resolved(self) -> dict[str, Any]:
        """As of any stage; without users its ``reward`` is "objective"."""
        found = super().resolved()
        if self.objective is None:
            return found
        return {**{name: value for name, value in found.items() if name not in OF_USERS}, "reward": BY_JUDGE}

    @property
    def on_policy(self) -> bool:
        """Whether rollouts are sampled while the stage trains, from its own weights."""
        return self.rollouts == "policy"


def combine_reward(
    kind: str, weight: float, *, approval: float | None, success: float | None, harm: float | None
) -> float | None:
    """The reward of a rollout, as ``RewardSection`` defines it, on the scale of ratings; None where a part is missing.

    ``approval`` and ``harm`` are ratings, ``success`` is 0 or 1 and counts as the lowest or the highest rating.
    """
    worth = None if success is None else LOWEST_RATING + (HIGHEST_RATING - LOWEST_RATING) * success
    if kind == "approval":
        return approval
    if kind == "success":
        return worth
    other = worth if kind == "mixture" else harm
    if approval is None or other is None:
        return None
    if kind == "mixture":
        return weight * approval + (1 - weight) * other
    return approval - weight * (other - LOWEST_RATING)


def is_rewarded(stage: StageRecord) -> bool:
    """Whether a stage that was run learnt from rewarded rollouts; of a method from elsewhere its settings tell."""
    return stage.method in REWARD_METHODS or "reward" in stage.settings


def is_rewarded_by_users(stage: StageRecord) -> bool:
    """Whether users rewarded a stage that was run, and not the judge of pairs for an objective."""
    return is_rewarded(stage) and stage.settings.get("reward") != BY_JUDGE


def is_midway(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint was kept on the way of a stage that users reward; it meets its own users alone."""
    return any(map(is_rewarded_by_users, checkpoint.stages[-1:])) and checkpoint.axes.get("dose", 1) != 1
