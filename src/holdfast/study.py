"""What is asked: a study file in TOML, or ``Study(...)`` in Python, validated before anything is spent.

Unknown keys are errors that name the nearest known key. ``load`` reads a file, ``Study.model_validate`` a
dictionary; both raise StudyError with one line that says where, what was found and what to do.
"""

from __future__ import annotations

import difflib
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.errors import StudyError

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=10)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NAME_LENGTH = 80
MOST_CASES = 100_000  # of one part of a suite, or demonstrations
BASES = ("tiny",)
OBJECTIVES = ("safety", "helpfulness")
AXIS_SETTINGS = ("beta", "learning_rate", "steps", "pairs_per_step", "warmup_steps", "lora_r", "loss")
TEXT_AXES = ("loss", "pair_judge")
CaseCount = Annotated[int, Field(ge=1, le=MOST_CASES)]


class Section(BaseModel):
    """A table of a study file: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class StudySection(Section):
    """``[study]``: the name, what is trained, and how often."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
    lineages: Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)]
    train_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    draws: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000


class SFTSection(Section):
    """``[model.sft]``: how a tiny base learns the chat format and the tools from demonstrations."""

    demonstrations: CaseCount = 28_000
    batch_size: Positive = 8
    learning_rate: Rate = 1.5e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    max_grad_norm: Rate = 1.0
    other_weight: Share = 0.15


class ModelSection(Section):
    """``[model]``: the bases. ``tiny`` is made by the study itself, once per seed in ``base_seeds``."""

    bases: Annotated[tuple[str, ...], Field(min_length=1)] = ("tiny",)
    base_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    hidden: Positive = 96
    layers: Positive = 3
    heads: Positive = 3
    ffn: Positive = 256
    sft: SFTSection = SFTSection()


class SuiteSection(Section):
    """``[suite]``: where cases come from and how they are split."""

    name: str = "office"
    train_cases: CaseCount = 200
    test_cases: CaseCount = 300
    split_seed: Seed = 0
    holdout: Literal["objects", "family"] = "objects"
    mixture: Mapping[str, Share] = Field(default_factory=dict)


class RolloutSection(Section):
    """``[rollouts]``: episodes per case and the limits that end an episode."""

    per_train_case: Positive = 12
    per_test_case: Positive = 2
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    max_turns: Positive = 8
    max_tokens: Positive = 16
    batch_size: Positive = 100


class JudgeSection(Section):
    """``[judges.NAME]``: who scores trajectories."""

    kind: Literal["state"]


class PairSection(Section):
    """``[pairs]``: the rule that makes preference pairs of scores.

    ``source`` says whose rollouts a later stage learns from: the base's own, as the first stage does, or
    the stage's own starting checkpoint's (``parent``).
    """

    source: Literal["base", "parent"] = "base"
    judge: str | None = None
    min_gap: Annotated[float, Field(gt=0, le=3)] = 2
    min_chosen: Annotated[float, Field(ge=0, le=3)] = 2
    cap_per_case: Positive | None = 8
    exclude_unfit: bool = False


class StageSection(Section):
    """``[stages.NAME]``: one training stage. ``flip`` is the share of pairs whose sides are swapped (a control).

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
    pairs_per_step: Positive = 32
    warmup_steps: Annotated[int, Field(ge=0)] = 4
    max_grad_norm: Rate = 1.0
    loss_mask: Literal["agent", "completion"] = "agent"
    lora_r: Annotated[int, Field(ge=0)] = 0
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    pairwise: bool = False
    trajectories_per_case: Annotated[int, Field(ge=2)] | None = None
    tokens_per_step: Positive | None = None
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    length_normalized: bool = False
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    token_budget: Positive = 32_768
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    devices: Annotated[int, Field(ge=1, le=1024)] = 1

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives as a tuple, also where one was written as a word."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective


class RunSection(Section):
    """``[run]``: how the work is done; it changes no result and is no part of a fingerprint."""

    workers: Annotated[int, Field(ge=1, le=1024)] = 2


class Study(Section):
    """A whole study.

    ``doses`` keeps a lineage's last stage at multiples of its steps, as checkpoints of one training run.
    """

    study: StudySection
    axes: Mapping[str, tuple[float | int | str, ...]] = Field(default_factory=dict)
    model: ModelSection = ModelSection()
    suite: SuiteSection = SuiteSection()
    rollouts: RolloutSection = RolloutSection()
    judges: Annotated[Mapping[str, JudgeSection], Field(min_length=1)]
    pairs: PairSection = PairSection()
    stages: Mapping[str, StageSection]
    doses: Mapping[str, tuple[Positive, ...]] = Field(default_factory=dict)
    run: RunSection = RunSection()

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A study from a dictionary. Errors: StudyError."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise StudyError(_first_problem(error, cls)) from error

    @model_validator(mode="after")
    def _refer(self) -> Self:
        """Every name that the study uses is a name that it defines."""
        self._refer_names()
        for position, lineage in enumerate(self.study.lineages):
            _require(len(lineage) > 0, f"study.lineages[{position}] is empty; the base needs no entry, remove it")
            for name in lineage:
                _require_known(name, self.stages, f"study.lineages[{position}] names the stage", "[stages.…]")
        self._refer_rollouts()
        labels = {",".join(lineage) for lineage in self.study.lineages}
        for label, doses in self.doses.items():
            _require_known(label, labels, "doses names the lineage", "study.lineages")
            _require(
                1 in doses and list(doses) == sorted(set(doses)),
                f"doses.{label!r} must rise from 1, found {list(doses)}",
            )
            last = self.stages[label.split(",")[-1]]
            _require(
                doses == (1,) or last.schedule == "constant",
                f"doses.{label!r} is {list(doses)}, but its last stage has schedule {last.schedule!r}, under which a"
                ' dose differs from a run of that many steps; use "constant" or the dose 1 alone',
            )
        for name, stage in self.stages.items():
            self._refer_stage(name, stage)
        if self.pairs.judge is not None:
            _require_known(self.pairs.judge, self.judges, "pairs.judge names", "[judges.…]")
        _require_distinct(self.study.train_seeds, "study.train_seeds")
        self._refer_axes()
        return self

    def _refer_names(self) -> None:
        name, model = self.study.name, self.model
        _require(
            name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name),
            f"study.name is {name!r}; it names the run's directory: no slash, no control character, no dot first",
        )
        for base in model.bases:
            _require_known(base, BASES, "model.bases has", "the bases that can be run here")
        _require(
            model.hidden % (2 * model.heads) == 0,
            f"model.hidden is {model.hidden} for {model.heads} heads; give a multiple of {2 * model.heads}",
        )
        _require_distinct(model.bases, "model.bases")
        _require_distinct(model.base_seeds, "model.base_seeds")

    def _refer_rollouts(self) -> None:
        """Pairs join episodes of one case that went differently."""
        rollouts, remedy = self.rollouts, "so that a case's episodes can differ; pairs are made of those that do"
        _require(rollouts.temperature > 0, f"rollouts.temperature is 0; give more, {remedy}")
        _require(rollouts.per_train_case > 1, f"rollouts.per_train_case is 1; give at least 2, {remedy}")

    def _refer_stage(self, name: str, stage: StageSection) -> None:
        """A stage's settings fit together, also under every value of the axes."""
        place = f"stages.{name}"
        _require(bool(name) and "," not in name, f"stages.{name!r}: a stage's name is not empty and has no comma")
        _require_distinct(stage.objectives, f"{place}.objective")
        for objective in stage.objectives:
            _require_known(objective, OBJECTIVES, f"{place}.objective is", "the objectives that judges score")
        for key in ("trajectories_per_case", "tokens_per_step"):
            _require(
                not (stage.pairwise and getattr(stage, key)),
                f"{place}.{key} is {getattr(stage, key)}, but pairwise takes pairs one by one; leave one of them out",
            )
        _require(
            stage.tokens_per_step is None or stage.trajectories_per_case is not None,
            f"{place}.tokens_per_step is {stage.tokens_per_step}; it bounds sub-trees, set trajectories_per_case too",
        )
        losses = self.axes.get("loss", (stage.loss,))
        _require(
            stage.label_smoothing == 0 or set(losses) == {"sigmoid"},
            f"{place}.label_smoothing is {stage.label_smoothing}, which only the loss 'sigmoid' has; found"
            f" {', '.join(map(str, losses))}; set it to 0 or take that loss",
        )

    def _refer_axes(self) -> None:
        for axis, values in self.axes.items():
            _require_known(axis, (*AXIS_SETTINGS, "split_seed", "pair_judge"), "axes has", "the axes there are")
            if axis == "pair_judge":
                for value in values:
                    _require_known(str(value), self.judges, "axes.pair_judge names", "[judges.…]")
            _require_distinct([_read_axis(axis, value) for value in values], f"axes.{axis}")

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the axes' values, as axis → value."""
        read = [[_read_axis(axis, value) for value in values] for axis, values in self.axes.items()]
        for values in itertools.product(*read):
            yield dict(zip(self.axes, values, strict=True))

    @property
    def pair_judge(self) -> str:
        """The judge whose scores make pairs where no axis says otherwise."""
        return self.pairs.judge or next(iter(self.judges))

    def doses_of(self, lineage: tuple[str, ...]) -> tuple[int, ...]:
        """Multiples of its steps at which the lineage's last stage is kept."""
        return self.doses.get(",".join(lineage), (1,))

    def settings(self) -> dict[str, Any]:
        """The study as JSON without what changes no result."""
        return self.model_dump(mode="json", exclude={"run"})


def _require(held: bool, message: str) -> None:
    if not held:
        raise StudyError(message)


def _require_distinct(values: Sequence[object], place: str) -> None:
    _require(len(values) > 0, f"{place} is empty; give at least one value")
    _require(len(set(values)) == len(values), f"{place} repeats a value, found {list(values)}; give each once")


def _read_axis(axis: str, value: float | int | str) -> Any:
    """An axis's value as the setting of its name takes it: 1 and 1.0 are one beta. Errors: StudyError."""
    if axis == "pair_judge":
        return value
    section: type[BaseModel] = SuiteSection if axis == "split_seed" else StageSection
    needed = {} if section is SuiteSection else {"objective": OBJECTIVES[0]}
    try:
        read = section.model_validate({**needed, axis: value})
    except ValidationError as error:
        raise StudyError(f"axes.{_first_problem(error, section)}") from error
    _require(
        axis in TEXT_AXES or not isinstance(value, str),
        f"axes.{axis} has the text {value!r}; write the number without quotes",
    )
    return getattr(read, axis)


def _require_known(name: str, known: Any, subject: str, place: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, [str(k) for k in known], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StudyError(f"{subject} {name!r}, not among {place}: {', '.join(sorted(map(str, known)))}{hint}")


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field's type holds, directly or as the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that are known in the table at ``location``; a mapping's own key is stepped over."""
    for part in location:
        if part in model.model_fields:
            model = _section_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    problem = error.errors(include_url=False)[0]
    location = tuple(part for part in problem["loc"] if part != "")
    place = ".".join(str(part) for part in location) or "the study"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{place}: unknown key; {hint}{more}"
    found = "" if problem["type"] == "missing" else f", found {problem['input']!r:.80}"
    return f"{place}: {problem['msg'].lower()}{found}{more}"


def load(path: Path | str) -> Study:
    """The study that a TOML file describes. Errors: StudyError naming the file and the place."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); give the path of a study file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not valid TOML ({error})") from error
    try:
        return Study.model_validate(raw)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


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
