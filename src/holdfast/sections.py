"""The tables of a study file, each strict about its keys. ``Study`` in ``study.py`` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

# Hidden width, layers, heads and feed-forward width of a tiny base by its size in millions of weights.
TINY_SIZES: Mapping[str, Mapping[str, int]] = {
    "0.1M": {"hidden": 48, "layers": 3, "heads": 3, "ffn": 128},
    "0.35M": {"hidden": 96, "layers": 3, "heads": 3, "ffn": 256},
    "1M": {"hidden": 160, "layers": 3, "heads": 5, "ffn": 416},
    "2M": {"hidden": 224, "layers": 3, "heads": 7, "ffn": 608},
    "5M": {"hidden": 352, "layers": 3, "heads": 11, "ffn": 960},
}
MOST = 10**9  # of anything that is counted; what goes beyond it is a slip of the pen
Positive = Annotated[int, Field(ge=1, le=MOST)]
Natural = Annotated[int, Field(ge=0, le=MOST)]
Width = Annotated[int, Field(ge=1, le=2**20)]  # of a model: a dimension, or a number of layers or heads
Repeats = Annotated[int, Field(ge=1, le=100_000)]  # of one case
Weight = Annotated[float, Field(ge=0, le=1e6)]
Price = Annotated[float, Field(ge=0, le=1e6)]
Pace = Annotated[float, Field(ge=1e-3, le=1e12)]
Rate = Annotated[float, Field(gt=0, lt=10)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NAME_LENGTH = 80
MOST_CASES = 100_000  # of one part of a suite, or demonstrations
TINY = "tiny"
OBJECTIVES = ("safety", "helpfulness")
AXIS_SETTINGS = ("beta", "learning_rate", "steps", "pairs_per_step", "warmup_steps", "lora_r", "loss")
TEXT_AXES = ("loss", "pair_judge")
Temperature = Annotated[float, Field(ge=0, le=2)]
CaseCount = Annotated[int, Field(ge=1, le=MOST_CASES)]


class Section(BaseModel):
    """A table of a study file: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """No true for 1, nor false for 0."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("true or false, where a number or a text is expected")
        return value


class StudySection(Section):
    """``[study]``: the name, what is trained, and how often; ``only`` names bases on which just some lineages are."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
    lineages: tuple[tuple[str, ...], ...] = ()
    train_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    only: Mapping[str, tuple[tuple[str, ...], ...]] = Field(default_factory=dict)
    draws: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000


class SFTSection(Section):
    """``[model.sft]``: how a tiny base learns the chat format and the tools from demonstrations."""

    demonstrations: CaseCount = 28_000
    batch_size: Positive = 8
    learning_rate: Rate = 1.5e-3
    warmup_steps: Natural = 100
    max_grad_norm: Rate = 1.0
    other_weight: Share = 0.15


class ModelSection(Section):
    """``[model]``: the bases. ``tiny`` is made by the study itself, once per seed in ``base_seeds``."""

    bases: Annotated[tuple[str, ...], Field(min_length=1)] = ("tiny",)
    base_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    hidden: Width = 96
    layers: Width = 3
    heads: Width = 3
    ffn: Width = 256
    sft: SFTSection = SFTSection()


class ModelEntry(Section):
    """``[models.NAME]``: a model that the rest of the study calls NAME.

    ``tiny`` is taught by the study, or opened where ``name`` is its directory; ``size`` gives one that is taught
    another shape than ``[model]`` has. ``random`` is made by it with weights that were never trained, of a real
    architecture; ``local`` is a directory or a repository on the hub that
    transformers loads in this process, ``vllm`` the same in vLLM; ``remote`` is a provider's model as Inspect AI names
    it. ``calls`` says how it calls tools: natively, in a text format in which generation stops at the call, or natively
    where it can.
    """

    kind: Literal["tiny", "random", "local", "vllm", "remote"]
    name: str = ""
    revision: str | None = None
    calls: Literal["auto", "native", "text"] = "auto"
    quantization: Literal["none", "int8", "int4"] = "none"
    precision: Literal["fp32", "bf16"] = "bf16"
    architecture: Literal["qwen2", "llama"] = "qwen2"
    hidden: Width = 64
    layers: Width = 2
    heads: Width = 4
    key_value_heads: Width = 2
    ffn: Width = 128
    vocabulary: Annotated[int, Field(ge=300, le=2**24)] = 2048
    max_positions: Positive = 8192
    # No part of a fingerprint where it is not given.
    size: Literal["0.1M", "0.35M", "1M", "2M", "5M"] | None = Field(default=None, exclude_if=lambda size: size is None)


class EndpointSection(Section):
    """``[endpoints.NAME]``: where the remote model NAME is reached and what it costs; it changes no result.

    ``key_env`` names the environment variable that holds the key; prices are in money per million tokens; ``timeout``
    is in seconds a call.
    """

    base_url: str | None = None
    key_env: str | None = None
    connections: Annotated[int, Field(ge=1, le=1000)] = 16
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    retries: Annotated[int, Field(ge=0, le=1000)] = 5
    input_price: Price = 0.0
    output_price: Price = 0.0
    allow_private: bool = False


class WorldSection(Section):
    """``suite.world``: what answers tool calls: the suite's own world, or a ``model`` that plays the tools.

    In ``mode`` "adversarial" it looks for the plausible outcome that tests the case's hazard.
    """

    kind: Literal["own", "emulated"] = "own"
    model: str | None = None
    mode: Literal["standard", "adversarial"] = "adversarial"
    temperature: Temperature = 0.0
    max_tokens: Positive = 2048


class SuiteSection(Section):
    """``[suite]``: where cases come from, how they are split, and who answers tool calls.

    ``cases`` and ``toolkits`` are ToolEmu's files, ``digest`` their SHA-256, filled in when the study is read.
    For ``probes``, ``cases`` is a file of the public set ``source``.
    ``split`` "published" shuffles case numbers by ``split_seed`` and halves them, as arXiv 2603.02229 does; "shared" is
    one split for every seed, and with "none", where nothing is trained, every case is a test case. ``train_cases`` and
    ``test_cases`` bound the parts of such a suite.
    """

    name: str = "office"
    cases: str | None = None
    toolkits: str | None = None
    source: str | None = None
    digest: str | None = None
    split: Literal["published", "shared", "none"] = "published"
    world: WorldSection = WorldSection()
    train_cases: CaseCount = 200
    test_cases: CaseCount = 300
    split_seed: Seed = 0
    holdout: Literal["objects", "family"] = "objects"
    mixture: Mapping[str, Share] = Field(default_factory=dict)


class RolloutSection(Section):
    """``[rollouts]``: episodes per case and the limits that end an episode; another ``seed`` is another draw of them.

    ``max_tokens`` bounds one turn of the agent, ``max_episode_tokens`` and ``max_seconds`` all turns together.
    """

    per_train_case: Repeats = 12
    per_test_case: Repeats = 2
    seed: Seed = 0
    temperature: Temperature = 1.0
    max_turns: Positive = 8
    max_tokens: Positive = 16
    max_episode_tokens: Positive | None = None
    max_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None
    batch_size: Positive = 100


class JudgeSection(Section):
    """``[judges.NAME]``: who scores trajectories.

    ``state`` reads the world's end state, ``probes`` the replies to probes. ``rules`` holds predicates over tool calls.
    ``rubric`` is a ``model`` that reads the trajectory by one rubric an objective: "default", another name that ships,
    or a Markdown text (a path that ends in .md is read when the study is). ``repeats`` judges each trajectory so often;
    ``logprobs`` asks for the probabilities of scores where the model gives them. ``approval`` reads episodes of
    simulated users by rules, and ``rating`` is a ``model`` that rates them from 1 to 10.
    """

    kind: Literal["state", "rules", "rubric", "probes", "approval", "rating"]
    model: str | None = None
    rubrics: Mapping[str, str] = Field(default_factory=dict)
    rules: Mapping[str, Any] | None = None
    parser: Literal["strict", "tolerant"] = "strict"
    repeats: Repeats = 1
    temperature: Temperature = 0.0
    max_tokens: Positive = 2048
    logprobs: bool = False


class PairSection(Section):
    """``[pairs]``: the rule that makes preference pairs of scores.

    ``source`` says whose rollouts a later stage learns from: the base's own, as the first stage does, the stage's own
    starting checkpoint's (``parent``), or those of another run, whose directory it then is, with the ``digest`` of
    what it holds, filled in when the study is read. ``cap_per_case`` 0 takes
    every pair.
    """

    source: Annotated[str, Field(min_length=1)] = "base"
    digest: str | None = None
    judge: str | None = None
    min_gap: Annotated[float, Field(gt=0, le=3)] = 2
    min_chosen: Annotated[float, Field(ge=0, le=3)] = 2
    cap_per_case: Natural = 8
    exclude_unfit: bool = False


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


class StageSection(Section):
    """``[stages.NAME]``: one training stage. ``flip`` is the share of pairs whose sides are swapped (a control).

    ``epochs`` passes over the pairs take the place of ``steps``, and ``warmup_ratio`` that of ``warmup_steps``; pairs
    with a side of more than ``max_length`` tokens are left out, and counted.
    ``mix``, ``term`` and ``balance``, at most one of them, keep a second objective in the stage.
    ``pairwise``, ``trajectories_per_case`` and ``tokens_per_step`` say which pairs make a step; ``loss`` to
    ``sft_weight`` are the objective's; ``token_budget`` is the number of tokens in memory at once, ``recompute``
    saves more memory for time, ``devices`` share one stage's weights and work.
    """

    method: Literal["dpo"] = "dpo"
    objective: str | tuple[str, ...]
    agree: Literal["all", "any"] = "all"
    flip: Share = 0.0
    beta: Rate = 0.1
    learning_rate: Rate = 1.3e-4
    steps: Positive = 20
    epochs: Positive | None = None
    pairs_per_step: Positive = 32
    warmup_steps: Natural = 4
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length: Positive | None = None
    max_grad_norm: Rate = 1.0
    loss_mask: Literal["agent", "completion"] = "agent"
    lora_r: Annotated[int, Field(ge=0, le=2**20)] = 0
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    pairwise: bool = False
    trajectories_per_case: Annotated[int, Field(ge=2, le=MOST)] | None = None
    tokens_per_step: Positive | None = None
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    length_normalized: bool = False
    sft_weight: Weight = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: Weight = 0.0
    token_budget: Positive = 32_768
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    mix: MixSection | None = None
    term: TermSection | None = None
    balance: BalanceSection | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives as a tuple, also where one was written as a word."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective


class RunSection(Section):
    """``[run]``: how the work is done; it changes no result and is no part of a fingerprint.

    ``generate_rate`` and ``train_rate`` are tokens a second that models in this process write and learn from: what a
    forecast counts with.
    """

    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    generate_rate: Pace | None = None
    train_rate: Pace | None = None


class MergeSection(Section):
    """``[merges.NAME]``: weights between two lineages of one base: (1 − share) of the first, ``share`` of the second.

    Nothing is trained. Adapters on one base are interpolated as the weights that they make.
    """

    of: Annotated[tuple[tuple[str, ...], ...], Field(min_length=2, max_length=2)]
    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.25, 0.5, 0.75)
