"""From a study to the steps that carry it out. Pure: the same study gives the same plan everywhere.

    sft ─▶ base ─┬─ rollout (train cases) ─┬─ judge ─ pair ─▶ train S ─┬─ rollout (test cases) ─ judge
                 │                         └─ reference ─────▲         └─ reference, pair ─▶ train H (that is S,H) ─ …
                 └─ rollout (test cases) ─ judge

A reference step takes the log-probabilities that one checkpoint gives the trajectories of one rollout step. All
stages that start from the checkpoint and learn from the rollout share it, whatever their pairs and settings.

A step's fingerprint hashes its settings, the fingerprints of its inputs and its kind's version, which is
raised by hand when that kind of step changes meaning. Equal work has equal fingerprints, so S and S,H share
one S checkpoint without being told, and a run that stops goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from holdfast.records import JSON, Checkpoint, StageRecord, content_id
from holdfast.sections import AXIS_SETTINGS, StageSection
from holdfast.study import Study

Kind = Literal["train", "rollout", "judge", "pair", "reference", "analyze"]
VERSIONS: Mapping[Kind, int] = {
    "train": 2,
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
    one per dose, with path and digest still open.
    """

    fingerprint: str
    kind: Kind
    name: str
    inputs: tuple[str, ...]
    settings: JSON
    size: int
    unit: str
    checkpoints: tuple[Checkpoint, ...] = ()


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

    def add(
        self, kind: Kind, name: str, inputs: Sequence[str], settings: dict[str, Any], *, size: int, unit: str
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
            ),
        )
        return fingerprint

    def set_checkpoints(self, fingerprint: str, checkpoints: tuple[Checkpoint, ...]) -> None:
        step = self.steps[fingerprint]
        if not step.checkpoints:
            self.steps[fingerprint] = replace(step, checkpoints=checkpoints)

    def base(self, kind: str, seed: int) -> _Made:
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

    def rollout(self, made: _Made, part: str, split_seed: int, seed: int) -> str:
        """Episodes of one checkpoint on one part of a split."""
        suite, limits = self.study.suite, self.study.rollouts
        training = part == "train"
        per_case = limits.per_train_case if training else limits.per_test_case
        cases = suite.train_cases if training else suite.test_cases
        settings = {
            "checkpoint": made.checkpoint.id,
            "suite": suite.model_dump(mode="json", exclude={"split_seed", "mixture"}),
            "split_seed": split_seed,
            "part": part,
            "per_case": per_case,
            "rollout_seed": seed,
            "limits": limits.model_dump(mode="json", exclude={"per_train_case", "per_test_case"}),
        }
        name = f"roll out {made.checkpoint.name} on {part} cases"
        return self.add("rollout", name, (made.step,), settings, size=cases * per_case, unit="episodes")

    def judge(self, rollout: str, judge: str) -> str:
        """Scores of one rollout step by one judge."""
        source = self.steps[rollout]
        settings = {"judge": judge, **self.study.judges[judge].model_dump(mode="json")}
        name = f"judge {source.name.removeprefix('roll out ')} by {judge}"
        return self.add("judge", name, (rollout,), settings, size=source.size, unit="episodes")

    def pair(self, rollout: str, judge: str, stage: StageSection, seed: int) -> str:
        """Preference pairs for one stage from one judged rollout."""
        rule = self.study.pairs.model_dump(mode="json", exclude={"source", "judge"})
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
        judged = self.judge(rollout, judge)
        return self.add("pair", name, (rollout, judged), settings, size=self.steps[rollout].size, unit="episodes")

    def reference(self, made: _Made, rollout: str, stage: StageSection) -> str:
        """Log-probabilities of a rollout step's trajectories under the checkpoint that a stage starts from.

        The settings are all that decides them, rounding included.
        """
        source = self.steps[rollout]
        settings = {
            "checkpoint": made.checkpoint.id,
            **stage.model_dump(mode="json", include={"loss_mask", "precision", "token_budget"}),
            # Beside an adapter the other weights are held in 16 bits.
            "adapter": stage.precision == "bf16" and stage.lora_r > 0,
        }
        name = f"reference {made.checkpoint.name} for {source.name.removeprefix('roll out ')}"
        return self.add("reference", name, (made.step, rollout), settings, size=source.size, unit="trajectories")

    def stage(
        self, parent: _Made, lineage: tuple[str, ...], point: JSON, *, rollout: str, judge: str, seed: int
    ) -> _Made:
        """The lineage's last stage, from ``parent`` on the pairs that ``judge`` makes of a rollout step.

        The checkpoint at dose 1; the other doses are in the same step.
        """
        name = lineage[-1]
        overrides = {axis: value for axis, value in point.items() if axis in AXIS_SETTINGS}
        section = self.study.stages[name].model_copy(update=overrides)
        pairs, reference = self.pair(rollout, judge, section, seed), self.reference(parent, rollout, section)
        settings = section.model_dump(mode="json", exclude={"flip"})
        doses = self.study.doses_of(lineage)
        known = parent.checkpoint
        label = f"train {known.base} · {','.join(lineage)} · seed {seed}"
        # Steps of whole sub-trees, and the last step of a pairwise epoch, take as many pairs as there are.
        exact = not (section.pairwise or section.trajectories_per_case)
        fingerprint = self.add(
            "train",
            " · ".join([label, *(f"{axis}={value}" for axis, value in point.items())]),
            (parent.step, pairs, reference),
            {"stage": name, "parent": known.id, "train_seed": seed, "doses": list(doses), **settings},
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
                        steps=settings["steps"] * dose,
                        pairs=settings["steps"] * settings["pairs_per_step"] * dose if exact else None,
                        data=pairs,
                    ),
                ),
                axes={**{k: v for k, v in point.items() if k != "split_seed"}, "dose": dose},
                split_seed=point.get("split_seed", self.study.suite.split_seed),
                train_seed=seed,
                parent_id=known.id,
            )
            for dose in doses
        )
        self.set_checkpoints(fingerprint, checkpoints)
        return _Made(checkpoint=checkpoints[0], step=fingerprint)


def build(study: Study) -> Plan:
    """The plan of a study: every step once, each after its inputs."""
    planner = _Planner(study)
    bases = [planner.base(kind, seed) for kind in study.model.bases for seed in study.model.base_seeds]
    evaluations: list[str] = []
    for point in study.points():
        split_seed = point.get("split_seed", study.suite.split_seed)
        for base in bases:
            evaluations += _evaluate(planner, base, split_seed)
        for seed in study.study.train_seeds:
            for base in bases:
                evaluations += _plan_replicate(planner, base, point, split_seed, seed)
    judged = tuple(dict.fromkeys(evaluations))
    settings = {"draws": study.study.draws}
    planner.add("analyze", "analyze", judged, settings, size=study.study.draws, unit="resamples")
    return Plan(study=study, steps=tuple(planner.steps.values()))


def _evaluate(planner: _Planner, made: _Made, split_seed: int) -> list[str]:
    """Held-out episodes of a checkpoint, judged by every judge; the same cases for every checkpoint."""
    rollout = planner.rollout(made, "test", split_seed, 0)
    return [planner.judge(rollout, judge) for judge in planner.study.judges]


def _plan_replicate(planner: _Planner, base: _Made, point: JSON, split_seed: int, seed: int) -> list[str]:
    """All lineages from one base at one point of the axes with one training seed."""
    study = planner.study
    judge = point.get("pair_judge", study.pair_judge)
    made: dict[tuple[str, ...], _Made] = {(): base}
    evaluations: list[str] = []
    for lineage in study.study.lineages:
        for length in range(1, len(lineage) + 1):
            prefix = lineage[:length]
            if prefix in made:
                continue
            parent = made[prefix[:-1]]
            source = parent if study.pairs.source == "parent" else base
            rollout = planner.rollout(source, "train", split_seed, seed)
            made[prefix] = planner.stage(parent, prefix, point, rollout=rollout, judge=judge, seed=seed)
            for checkpoint in planner.steps[made[prefix].step].checkpoints:
                evaluations += _evaluate(planner, _Made(checkpoint=checkpoint, step=made[prefix].step), split_seed)
    return evaluations
