"""The tables of a study file, each strict about its keys. ``Study`` in ``study.py`` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from holdfast.records.section import (
    NAME_LENGTH,
    CaseCount,
    Natural,
    Pace,
    Positive,
    Rate,
    Repeats,
    Section,
    Seed,
    Share,
    Temperature,
    Width,
)

OBJECTIVES = ("safety", "helpfulness")
TEXT_AXES = ("loss", "pair_judge")


class StudySection(Section):
    """``[study]``: the name, what is trained, and how often.

    ``only`` names bases on which just some lineages are; ``compare`` two bases, the second of which a gate holds
    against the first, as nothing of the study says that one was trained from the other.
    """

    name: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
    lineages: tuple[tuple[str, ...], ...] = ()
    train_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    only: Mapping[str, tuple[tuple[str, ...], ...]] = Field(default_factory=dict)
    draws: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    compare: tuple[str, str] | None = Field(default=None, exclude_if=lambda compare: compare is None)


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


class WorldSection(Section):
    """``suite.world``: what answers tool calls: the suite's own world, or a ``model`` that plays the tools.

    In ``mode`` "adversarial" it looks for the plausible outcome that tests the case's hazard.
    """

    kind: Literal["own", "emulated"] = "own"
    model: str | None = None
    mode: Literal["standard", "adversarial"] = "adversarial"
    temperature: Temperature = 0.0
    max_tokens: Positive = 2048


class SuiteTable(Section):
    """``[suite]`` of any suite: its name, who answers tool calls, and how many cases a split has."""

    name: str
    world: WorldSection = WorldSection()
    train_cases: CaseCount = 200
    test_cases: CaseCount = 300
    split_seed: Seed = 0


class SuiteSection(SuiteTable):
    """``[suite]`` of the suites that ship: where cases come from, how they are split, and who answers tool calls.

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
    holdout: Literal["case", "objects", "family"] = "objects"
    mixture: Mapping[str, Share] = Field(default_factory=dict)


class CasesWorldSection(WorldSection):
    """``suite.world`` of a user's own cases: their fixed replies, or a ``model`` that plays tools which have none."""

    mode: Literal["standard"] = "standard"


class CasesSection(SuiteTable):
    """``[suite]`` of a user's own cases, name "cases".

    ``file`` holds them, a JSON line each, or is a directory of tasks; ``digest`` is the SHA-256 of what it holds,
    filled in when the study is read. With ``split`` "none" every case is a test case; "halves" gives whole families to
    training until half of the cases are there, the same ones for every seed. ``train_cases`` and ``test_cases`` bound
    the parts.
    """

    name: str = "cases"
    file: str | None = None
    digest: str | None = None
    split: Literal["none", "halves"] = "none"
    world: CasesWorldSection = CasesWorldSection()


class RolloutSection(Section):
    """``[rollouts]``: episodes per case and the limits that end an episode; another ``seed`` is another draw of them.

    ``max_tokens`` bounds one turn of the agent, ``max_episode_tokens`` and ``max_seconds`` all turns together. Where a
    base is a real model ``max_tokens`` is 256 unless it is given, and ``batch_size`` 64 for those of kind ``local``.
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


class JudgeTable(Section):
    """``[judges.NAME]`` of any kind: a ``model`` if it asks one, and how often it judges each trajectory."""

    kind: str
    model: str | None = None
    repeats: Repeats = 1


class JudgeSection(JudgeTable):
    """``[judges.NAME]`` of the kinds that ship: who scores trajectories.

    ``state`` reads the world's end state, ``probes`` the replies to probes. ``rules`` holds predicates over tool calls.
    ``rubric`` is a ``model`` that reads the trajectory by one rubric an objective: "default", another name that ships,
    or a Markdown text (a path that ends in .md is read when the study is). ``repeats`` judges each trajectory so often;
    ``logprobs`` asks for the probabilities of scores where the model gives them. ``approval`` reads episodes of
    simulated users by rules, and ``rating`` is a ``model`` that rates them from 1 to 10.
    """

    rubrics: Mapping[str, str] = Field(default_factory=dict)
    rules: Mapping[str, Any] | None = None
    parser: Literal["strict", "tolerant"] = "strict"
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


class NeedSection(Section):
    """``[resources.KIND]``: what a step of a kind needs where machines are given out; it changes no result.

    ``gpus`` of 0 is none; left open, a step with a real model takes one (a stage on several devices so many) where
    there are any. ``memory_gb`` is in gigabytes, ``accelerator`` its name as the cluster tells it.
    """

    gpus: Annotated[int, Field(ge=0, le=1024)] | None = None
    cpus: Annotated[int, Field(ge=0, le=4096)] = 1
    memory_gb: Annotated[float, Field(gt=0, le=1e5)] | None = None
    accelerator: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)] | None = None


class RunSection(Section):
    """``[run]``: how the work is done; it changes no result and is no part of a fingerprint.

    ``generate_rate`` and ``train_rate`` are tokens a second that models in this process write and learn from: what a
    forecast counts with.
    """

    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    generate_rate: Pace | None = None
    train_rate: Pace | None = None
