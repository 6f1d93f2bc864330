"""What is asked: a study file in TOML, or ``Study(...)`` in Python, validated before anything is spent.

Unknown keys are errors that name the nearest known key. ``load`` reads a file, ``Study.model_validate`` a
dictionary; both raise StudyError with one line that says where, what was found and what to do.
"""

from __future__ import annotations

import difflib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from holdfast.attachments import read_attachments
from holdfast.errors import StudyError
from holdfast.sections import (
    AXIS_SETTINGS,
    OBJECTIVES,
    TEXT_AXES,
    TINY,
    EndpointSection,
    JudgeSection,
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


class Study(Section):
    """A whole study.

    ``doses`` keeps a lineage's last stage at multiples of its steps, as checkpoints of one training run. ``models`` are
    the models that go by a name, ``endpoints`` how the remote ones among all models are reached.
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
    stages: Mapping[str, StageSection] = Field(default_factory=dict)
    doses: Mapping[str, tuple[Positive, ...]] = Field(default_factory=dict)
    run: RunSection = RunSection()

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A study from a dictionary. Errors: StudyError."""
        try:
            return super().model_validate(read_attachments(obj), **options)
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
        for name, judge in self.judges.items():
            self._refer_judge(name, judge)
        if self.pairs.judge is not None:
            _require_known(self.pairs.judge, self.judges, "pairs.judge names", "[judges.…]")
        self._refer_world()
        self._refer_endpoints()
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
            if "/" not in base:  # neither a directory nor a repository on the hub
                _require_known(base, {TINY, *self.models}, "model.bases has", "the names in [models.…]")
            entry = self.entry(base)
            _require(
                entry.quantization == "none" or not self.study.lineages,
                f"models.{base}.quantization is {entry.quantization!r}: no stage can be put on quantised weights;"
                " leave it out or remove study.lineages",
            )
            _require(
                entry.kind != "remote" or not self.study.lineages,
                f"model.bases has {base!r}, a remote model, which cannot be trained here; remove study.lineages to"
                " evaluate it as it is",
            )
        for name, one in self.models.items():
            _require(
                one.kind in ("tiny", "random") or bool(one.name),
                f"models.{name}.name is missing; give the model's name, repository or directory",
            )
            _require(
                one.kind != "random" or one.hidden % (2 * one.heads) == 0 == one.heads % one.key_value_heads,
                f"models.{name}: hidden {one.hidden}, heads {one.heads} and key_value_heads {one.key_value_heads} do"
                " not divide; give a multiple of twice the heads, and heads that are a multiple of key_value_heads",
            )
        _require(
            model.hidden % (2 * model.heads) == 0,
            f"model.hidden is {model.hidden} for {model.heads} heads; give a multiple of {2 * model.heads}",
        )
        _require_distinct(model.bases, "model.bases")
        _require_distinct(model.base_seeds, "model.base_seeds")

    def _refer_rollouts(self) -> None:
        """Pairs join episodes of one case that went differently."""
        if self.pairs.source not in ("base", "parent") or not self.study.lineages:
            return
        rollouts, remedy = self.rollouts, "so that a case's episodes can differ; pairs are made of those that do"
        _require(rollouts.temperature > 0, f"rollouts.temperature is 0; give more, {remedy}")
        _require(rollouts.per_train_case > 1, f"rollouts.per_train_case is 1; give at least 2, {remedy}")

    def _refer_endpoints(self) -> None:
        """Every endpoint is of a model that the study uses, and one model has one."""
        used = [*self.models, *self.model.bases, self.suite.world.model, *(one.model for one in self.judges.values())]
        for name in self.endpoints:
            _require_known(name, {one for one in used if one}, "endpoints has", "the models of this study")
        places: dict[str, str | None] = {}
        for name in dict.fromkeys(one for one in used if one and self.entry(one).kind == "remote"):
            served, place = self.entry(name).name, self.endpoint(name).base_url
            _require(
                places.setdefault(served, place) == place,
                f"endpoints.{name}.base_url is another server of {served}; servers of one name would share replies,"
                " name one of the models differently",
            )

    def _refer_judge(self, name: str, judge: JudgeSection) -> None:
        """A judge has what its kind judges with, and nothing of another kind."""
        needed = {"state": None, "rules": "rules", "rubric": "model"}[judge.kind]
        for key in ("rules", "model"):
            given = getattr(judge, key) is not None
            _require(given or key != needed, f"judges.{name}.{key} is missing, which kind {judge.kind!r} judges by")
            _require(not given or key == needed, f"judges.{name}.{key} is for another kind than {judge.kind!r}")
        for objective in judge.rubrics:
            _require_known(objective, OBJECTIVES, f"judges.{name}.rubrics has", "the objectives that judges score")

    def _refer_world(self) -> None:
        world = self.suite.world
        _require(
            self.suite.split != "none" or not self.study.lineages,
            'suite.split is "none", which leaves no case to train on; remove study.lineages or split the cases',
        )
        emulated = world.kind == "emulated"
        _require(
            emulated == (world.model is not None),
            f"suite.world.kind is {world.kind!r} {'without' if emulated else 'with'} a model; a model plays the"
            ' tools in kind "emulated" alone',
        )

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
        _require(
            stage.epochs is None or not (stage.pairwise or stage.trajectories_per_case or "steps" in self.axes),
            f"{place}.epochs counts passes over pairs in steps of pairs_per_step; leave out pairwise,"
            " trajectories_per_case and the axis steps",
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
        _require(
            max_cost is None or priced,
            "--max-cost is given, but no endpoint has a price; set [endpoints.NAME] input_price and output_price, or"
            " bound --max-calls",
        )

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
        return self.model_dump(mode="json", exclude={"run", "endpoints"})


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


def load(path: Path | str, *, scale: str | None = None, changes: Sequence[str] = ()) -> Study:
    """The study that a TOML file describes. Errors: StudyError naming the file and the place.

    ``scale`` names one of the file's ``[scales.NAME]`` tables, whose values replace those of the study; ``changes`` are
    "dotted.key=value", the value as TOML writes it or a bare text, and come last.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); give the path of a study file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not valid TOML ({error})") from error
    try:
        scales = raw.pop("scales", {})
        if scale is not None:
            _require_known(scale, scales, "--scale is", "[scales.…]")
            _merge(raw, scales[scale])
        for change in changes:
            _merge(raw, _read_change(change))
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
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        pass
    try:
        return tomllib.loads(f"{key} = {json.dumps(value)}")
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
