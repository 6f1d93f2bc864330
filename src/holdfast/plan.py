"""From a study to the steps that carry it out. Pure: the same study gives the same plan everywhere.

    sft ─▶ base ─┬─ rollout (train cases) ─┬─ judge ─ pair ─▶ train S ─┬─ rollout (test cases) ─ judge
                 │                         └─ reference ─────▲         └─ reference, pair ─▶ train H (that is S,H) ─ …
                 └─ rollout (test cases) ─ judge

Where pairs come from another run, a bring step takes the place of the rollout on train cases and of its judges.
A reference step takes the log-probabilities that one checkpoint gives the trajectories of one rollout step. All
stages that start from the checkpoint and learn from the rollout share it, whatever their pairs and settings.

A step's fingerprint hashes its settings, the fingerprints of its inputs and its kind's version, which is
raised by hand when that kind of step changes meaning. Equal work has equal fingerprints, so S and S,H share
one S checkpoint without being told, and a run that stops goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from holdfast.records import JSON, Checkpoint, StageRecord, content_id
from holdfast.sections import AXIS_SETTINGS, StageSection, SuiteSection
from holdfast.study import Study

Kind = Literal["train", "bring", "rollout", "judge", "pair", "reference", "analyze"]
VERSIONS: Mapping[Kind, int] = {
    "train": 2,
    "bring": 1,
    "rollout": 1,
    "judge": 1,
    "pair": 1,
    "reference": 1,
    "analyze": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of a plan. ``size`` counts what it works through, in units of ``unit``.

    ``settings`` say all that the work needs besides its inputs; ``checkpoints`` are what a train step makes,
    one per dose, with path and digest still open. ``means`` say how remote models are reached and what may be spent:
    no part of the fingerprint.
    """

    fingerprint: str
    kind: Kind
    name: str
    inputs: tuple[str, ...]
    settings: JSON
    size: int
    unit: str
    checkpoints: tuple[Checkpoint, ...] = ()
    means: JSON = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a study, each after its inputs."""

    study: Study
    steps: tuple[Step, ...]

    def step(self, fingerprint: str) -> Step:
        """The step with this fingerprint."""
        return next(step for step in self.steps if step.fingerprint == fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A checkpoint of the plan and the step that makes it."""

    checkpoint: Checkpoint
    step: str


class _Planner:
    """Collects steps, each once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.steps: dict[str, Step] = {}
        # By checkpoint, the rollout steps on test cases that share cases between splits, by split seed.
        self._tested: dict[str, dict[int, str]] = {}

    def add(
        self,
        kind: Kind,
        name: str,
        inputs: Sequence[str],
        settings: dict[str, Any],
        *,
        size: int,
        unit: str,
        speakers: Sequence[str] = (),
    ) -> str:
        fingerprint = content_id(kind, VERSIONS[kind], settings, sorted(inputs))
        self.steps.setdefault(
            fingerprint,
            Step(
                fingerprint=fingerprint,
                kind=kind,
                name=name,
                inputs=tuple(inputs),
                settings=settings,
                size=size,
                unit=unit,
                means={"endpoints": {one: self.study.endpoint(one).model_dump(mode="json") for one in speakers}},
            ),
        )
        return fingerprint

    def set_checkpoints(self, fingerprint: str, checkpoints: tuple[Checkpoint, ...]) -> None:
        step = self.steps[fingerprint]
        if not step.checkpoints:
            self.steps[fingerprint] = replace(step, checkpoints=checkpoints)

    def base(self, kind: str, seed: int) -> _Made:
        """A base: taught or made here, once a seed, or opened where it is."""
        entry = self.study.entry(kind)
        if entry.kind == "tiny":
            return self._taught(kind, seed)
        settings: dict[str, Any] = {"method": "open", "base": kind, "entry": entry.model_dump(mode="json")}
        name, verb = kind, "open"
        if entry.kind == "random":
            # Its tokenizer is made of the cases that the run holds.
            seeds = self.study.axes.get("split_seed", (self.study.suite.split_seed,))
            settings |= {"method": "random", "base_seed": seed, "suite": suite_settings(self.study.suite)}
            settings["split_seeds"] = list(seeds)
            name, verb = f"{kind}-{seed}", "make"
        fingerprint = self.add("train", f"{verb} {name}", (), settings, size=1, unit="model")
        model = entry.name + (f"@{entry.revision}" if entry.revision else "")
        checkpoint = Checkpoint(id=content_id("checkpoint", fingerprint, 1), base=name, model=model or None)
        self.set_checkpoints(fingerprint, (checkpoint,))
        return _Made(checkpoint=checkpoint, step=fingerprint)

    def _taught(self, kind: str, seed: int) -> _Made:
        """The supervised stage that makes one tiny base."""
        study = self.study
        settings = {
            "method": "sft",
            "base": kind,
            "base_seed": seed,
            "model": study.model.model_dump(mode="json", exclude={"bases", "base_seeds"}),
            "suite": study.suite.name,
            "mixture": dict(study.suite.mixture),
        }
        name = f"{kind}-{seed}"
        size = study.model.sft.demonstrations
        fingerprint = self.add("train", f"teach {name}", (), settings, size=size, unit="demonstrations")
        checkpoint = Checkpoint(id=content_id("checkpoint", fingerprint, 1), base=name)
        self.set_checkpoints(fingerprint, (checkpoint,))
        return _Made(checkpoint=checkpoint, step=fingerprint)

    def speaker(self, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What a step is told of a model that speaks beside the agent, and the step that makes it, if one does."""
        entry = self.study.entry(name)
        told: dict[str, Any] = {"model": name, "entry": entry.model_dump(mode="json")}
        if entry.kind == "remote":
            return told, ()
        made = self.base(name, self.study.model.base_seeds[0])
        return {**told, "checkpoint": made.checkpoint.id}, (made.step,)

    def rollout(self, base: str, made: _Made, part: str, split_seed: int, seed: int) -> str:
        """Episodes of one checkpoint of a base on one part of a split."""
        suite, limits = self.study.suite, self.study.rollouts
        tested = self._tested.setdefault(made.checkpoint.id, {})
        if part == "test" and split_seed in tested:
            return tested[split_seed]
        shared = suite.name != "office"
        if shared and part == "train":
            # A case is for training in one split and held out in another: its episodes are others in each.
            seed = int(content_id("train", split_seed, seed)[:12], 16)
        per_case = limits.per_train_case if part == "train" else limits.per_test_case
        optional = {name for name in ("max_episode_tokens", "max_seconds") if getattr(limits, name) is None}
        settings = {
            "checkpoint": made.checkpoint.id,
            "suite": suite_settings(suite),
            "split_seed": split_seed,
            "part": part,
            "per_case": per_case,
            "rollout_seed": seed,
            "limits": limits.model_dump(mode="json", exclude={"per_train_case", "per_test_case", *optional}),
        }
        inputs, speakers = [made.step], []
        if shared and part == "test":
            # One after the other: a case that is held out in two splits is met once.
            inputs += list(tested.values())[-1:]
        entry = self.study.entry(base)
        if entry.kind != "tiny":
            settings["agent"] = {"model": base, "entry": entry.model_dump(mode="json")}
            speakers.append(base)
        if suite.world.model is not None:
            settings["emulator"], needed = self.speaker(suite.world.model)
            inputs += needed
            speakers.append(suite.world.model)
        name = f"roll out {made.checkpoint.name} on {part} cases"
        size = (suite.train_cases if part == "train" else suite.test_cases) * per_case
        found = self.add("rollout", name, inputs, settings, size=size, unit="episodes", speakers=speakers)
        if part == "test":
            tested[split_seed] = found
        return found

    def bring(self, source: str) -> str:
        """The trajectories and scores of another run."""
        settings = {"source": source, "digest": self.study.pairs.digest}
        return self.add("bring", f"bring trajectories of {source}", (), settings, size=1, unit="run")

    def judge(self, rollout: str, judge: str) -> str:
        """Scores of one rollout step by one judge."""
        source, section = self.steps[rollout], self.study.judges[judge]
        settings: dict[str, Any] = {"judge": judge, "kind": section.kind}
        inputs: tuple[str, ...] = (rollout,)
        if section.kind != "state":
            settings["section"] = section.model_dump(mode="json")
        if section.model is not None:
            settings["speaker"], needed = self.speaker(section.model)
            inputs += needed
        name = f"judge {source.name.removeprefix('roll out ')} by {judge}"
        speakers = () if section.model is None else (section.model,)
        return self.add("judge", name, inputs, settings, size=source.size, unit="episodes", speakers=speakers)

    def pair(self, rollout: str, judge: str, stage: StageSection, split_seed: int, seed: int) -> str:
        """Preference pairs for one stage from one judged rollout, or from what was brought of the train cases."""
        rule = self.study.pairs.model_dump(mode="json", exclude={"source", "digest", "judge"})
        settings = {
            **rule,
            "judge": judge,
            "objectives": list(stage.objectives),
            "agree": stage.agree,
            "flip": stage.flip,
            "pair_seed": seed,
        }
        flipped = " flipped" if stage.flip else ""
        name = f"pair {'+'.join(stage.objectives)}{flipped} from {self.steps[rollout].name.removeprefix('roll out ')}"
        brought = self.steps[rollout].kind == "bring"
        if brought:
            settings["split_seed"] = split_seed
        inputs = (rollout,) if brought else (rollout, self.judge(rollout, judge))
        return self.add("pair", name, inputs, settings, size=self.steps[rollout].size, unit="episodes")

    def reference(self, base: str, made: _Made, rollout: str, stage: StageSection, split_seed: int) -> str:
        """Log-probabilities of a rollout step's trajectories under the checkpoint that a stage starts from.

        The settings are all that decides them, rounding included.
        """
        source = self.steps[rollout]
        settings = {
            "checkpoint": made.checkpoint.id,
            **stage.model_dump(mode="json", include={"loss_mask", "precision", "token_budget"}),
            # Beside an adapter the other weights are held in 16 bits.
            "adapter": stage.precision == "bf16" and stage.lora_r > 0,
            **self.format_of(base),
        }
        if source.kind == "bring":
            settings["split_seed"] = split_seed
        name = f"reference {made.checkpoint.name} for {source.name.removeprefix('roll out ')}"
        return self.add("reference", name, (made.step, rollout), settings, size=source.size, unit="trajectories")

    def format_of(self, base: str) -> dict[str, Any]:
        """How a base's conversations are written where its tokenizer leaves a choice."""
        entry = self.study.entry(base)
        return {} if entry.kind == "tiny" else {"calls": entry.calls}

    def stage(
        self, base: str, parent: _Made, lineage: tuple[str, ...], point: JSON, *, rollout: str, judge: str, seed: int
    ) -> _Made:
        """The lineage's last stage, from ``parent`` on the pairs that ``judge`` makes of a rollout step.

        The checkpoint at dose 1; the other doses are in the same step.
        """
        name = lineage[-1]
        overrides = {axis: value for axis, value in point.items() if axis in AXIS_SETTINGS}
        section = self.study.stages[name].model_copy(update=overrides)
        split_seed = point.get("split_seed", self.study.suite.split_seed)
        pairs = self.pair(rollout, judge, section, split_seed, seed)
        reference = self.reference(base, parent, rollout, section, split_seed)
        optional = {name for name in ("epochs", "warmup_ratio", "max_length") if getattr(section, name) is None}
        settings = section.model_dump(mode="json", exclude={"flip", *optional})
        doses = self.study.doses_of(lineage)
        known = parent.checkpoint
        label = f"train {known.base} · {','.join(lineage)} · seed {seed}"
        # Steps of whole sub-trees, and the last step of a pairwise epoch, take as many pairs as there are.
        exact = not (section.pairwise or section.trajectories_per_case or section.epochs)
        fingerprint = self.add(
            "train",
            " · ".join([label, *(f"{axis}={value}" for axis, value in point.items())]),
            (parent.step, pairs, reference),
            {
                **{"stage": name, "parent": known.id, "train_seed": seed, "doses": list(doses)},
                **settings,
                **self.format_of(base),
            },
            size=settings["steps"] * doses[-1],
            unit="steps",
        )
        checkpoints = tuple(
            Checkpoint(
                id=content_id("checkpoint", fingerprint, dose),
                base=known.base,
                stages=(
                    *known.stages,
                    StageRecord(
                        name=name,
                        method=section.method,
                        objectives=section.objectives,
                        # The pair step's fingerprint holds the flip; the record tells a control from its stage.
                        settings={**settings, "flip": section.flip},
                        # How many make an epoch is known when the pairs are.
                        steps=None if section.epochs else settings["steps"] * dose,
                        pairs=settings["steps"] * settings["pairs_per_step"] * dose if exact else None,
                        data=pairs,
                    ),
                ),
                axes={**{k: v for k, v in point.items() if k != "split_seed"}, "dose": dose},
                split_seed=split_seed,
                train_seed=seed,
                parent_id=known.id,
            )
            for dose in doses
        )
        self.set_checkpoints(fingerprint, checkpoints)
        return _Made(checkpoint=checkpoints[0], step=fingerprint)


def suite_settings(suite: SuiteSection) -> dict[str, Any]:
    """What of a suite decides an episode; the keys that are for another suite are left out."""
    own = {"holdout"} if suite.name == "office" else {"digest", "split", "world"}
    return suite.model_dump(mode="json", include={"name", "train_cases", "test_cases", *own})


def build(study: Study) -> Plan:
    """The plan of a study: every step once, each after its inputs."""
    planner = _Planner(study)
    bases: list[tuple[str, _Made]] = []
    for name in study.model.bases:
        # What is opened where it is has no seed of its own.
        made_here = study.entry(name).kind in ("tiny", "random")
        bases += [(name, planner.base(name, seed)) for seed in study.model.base_seeds[: None if made_here else 1]]
    evaluations: list[str] = []
    for point in study.points():
        split_seed = point.get("split_seed", study.suite.split_seed)
        for name, base in bases:
            evaluations += _evaluate(planner, name, base, split_seed)
        for seed in study.study.train_seeds:
            for name, base in bases:
                evaluations += _plan_replicate(planner, name, base, point, seed)
    judged = tuple(dict.fromkeys(evaluations))
    settings = {"draws": study.study.draws}
    planner.add("analyze", "analyze", judged, settings, size=study.study.draws, unit="resamples")
    return Plan(study=study, steps=tuple(planner.steps.values()))


def _evaluate(planner: _Planner, base: str, made: _Made, split_seed: int) -> list[str]:
    """Held-out episodes of a checkpoint, judged by every judge; the same cases for every checkpoint."""
    rollout = planner.rollout(base, made, "test", split_seed, 0)
    return [planner.judge(rollout, judge) for judge in planner.study.judges]


def _plan_replicate(planner: _Planner, name: str, base: _Made, point: JSON, seed: int) -> list[str]:
    """All lineages from one base at one point of the axes with one training seed."""
    study = planner.study
    split_seed = point.get("split_seed", study.suite.split_seed)
    judge = point.get("pair_judge", study.pair_judge)
    made: dict[tuple[str, ...], _Made] = {(): base}
    evaluations: list[str] = []
    for lineage in study.study.lineages:
        for length in range(1, len(lineage) + 1):
            prefix = lineage[:length]
            if prefix in made:
                continue
            parent = made[prefix[:-1]]
            if study.pairs.source in ("base", "parent"):
                source = parent if study.pairs.source == "parent" else base
                rollout = planner.rollout(name, source, "train", split_seed, seed)
            else:
                rollout = planner.bring(study.pairs.source)
            made[prefix] = planner.stage(name, parent, prefix, point, rollout=rollout, judge=judge, seed=seed)
            for checkpoint in planner.steps[made[prefix].step].checkpoints:
                kept = _Made(checkpoint=checkpoint, step=made[prefix].step)
                evaluations += _evaluate(planner, name, kept, split_seed)
    return evaluations
