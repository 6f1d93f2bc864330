"""Collects a plan's steps, each once: bases, episodes, judgements, pairs, references; ``plan`` says what a step is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from holdfast.models.entries import TINY_SIZES
from holdfast.records import JSON, Checkpoint, StageRecord, content_id
from holdfast.records.checkpoints import AS_IT_WAS, START
from holdfast.records.errors import HoldfastError, StudyError
from holdfast.runs.plan.settings import (
    BringSettings,
    Calls,
    EpisodeLimits,
    JudgeSettings,
    OpenSettings,
    PairSettings,
    RandomSettings,
    ReferenceSettings,
    RolloutSettings,
    Settings,
    SpeakerModel,
    StageSettings,
    StartSettings,
    TeachSettings,
    TrainSettings,
    UserSettings,
)
from holdfast.runs.plan.step import Made, Means, Replicate, Step, fingerprint_of
from holdfast.study.kinds import METHODS, kind_of, method_of, read_suite, suite_of
from holdfast.study.parts import PartSection
from holdfast.study.sections import SuiteSection, SuiteTable
from holdfast.study.stages import SourceSection, StageSection, StageTable
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL, ApprovalSection
from holdfast.suites import probes
from holdfast.suites.approval import demonstrations
from holdfast.suites.office.demonstrations import DEMONSTRATIONS_VERSION
from holdfast.suites.parts import PARTS, count_cases

# The seed of episodes that are met once more, where a suite has no fresh cases.
ONCE_MORE = 1
# The training seed of a base's start, whatever those of the study: runs of other seeds begin with the same base.
START_SEED = 0


class Planner:
    """Collects steps, each once; ``fresh`` are lineages that meet fresh cases too."""

    def __init__(self, study: Study, fresh: Collection[tuple[str, ...]] = ()) -> None:
        self.study, self.fresh = study, fresh
        self.suite = suite_of(study.suite)
        self.steps: dict[str, Step] = {}
        # By checkpoint and part, the rollout steps that are asked for again: those on test cases, by split seed, and
        # the one on probes, which are the same in every split.
        self._met: dict[tuple[str, str], dict[int | None, str]] = {}

    def add(self, name: str, inputs: Sequence[str], settings: Settings, *, size: int) -> str:
        fingerprint = fingerprint_of(settings, inputs)
        remote = [one.model for one in settings.speakers().values() if one.entry.kind == "remote"]
        self.steps.setdefault(
            fingerprint,
            Step(
                fingerprint=fingerprint,
                name=name,
                inputs=tuple(inputs),
                settings=settings,
                size=size,
                means=Means(
                    endpoints={model: self.study.endpoint(model) for model in remote},
                    needs=self.study.needs(settings.kind),
                    own_gpus=self._count_gpus(settings),
                ),
            ),
        )
        return fingerprint

    def _count_gpus(self, settings: Settings) -> int:
        """How many accelerators a step takes where there are any: none for tiny models, and where none computes."""
        real = any(one.entry.kind in ("local", "vllm") for one in settings.speakers().values())
        if isinstance(settings, StageSettings):
            real = settings.agent is not None
        elif isinstance(settings, ReferenceSettings):
            real = settings.calls is not None
        return getattr(getattr(settings, "section", None), "devices", 1) if real else 0

    def make(self, fingerprint: str, checkpoints: Sequence[Checkpoint]) -> list[Made]:
        """Notes what a train step makes, where it is not known yet."""
        step = self.steps[fingerprint]
        self.steps[fingerprint] = replace(step, checkpoints=step.checkpoints or tuple(checkpoints))
        return [Made(checkpoint=checkpoint, step=fingerprint) for checkpoint in checkpoints]

    def add_training(
        self,
        replicate: Replicate,
        name: str,
        inputs: Sequence[str],
        settings: TrainSettings,
        *,
        size: int,
        parent: Checkpoint,
        kept: Mapping[Any, tuple[Sequence[StageRecord], JSON]],
        verb: str = "train",
    ) -> list[Made]:
        """A train step, and what is ``kept`` of it: by dose, steps or share the stages and axes of a checkpoint."""
        if isinstance(settings, StageSettings):
            settings = replace(settings, method_version=METHODS.find(settings.method).version)
        label = replicate.label(verb, parent.base, name)
        fingerprint = self.add(label, list(dict.fromkeys(inputs)), settings, size=size)
        checkpoints = [
            Checkpoint(
                id=content_id("checkpoint", fingerprint, at),
                base=parent.base,
                stages=tuple(stages),
                axes={**replicate.axes, **axes},
                split_seed=replicate.split_seed,
                train_seed=replicate.seed,
                parent_id=parent.id,
            )
            for at, (stages, axes) in kept.items()
        ]
        return self.make(fingerprint, checkpoints)

    def base(self, kind: str, seed: int) -> Made:
        """A base as the study begins with it: after the stages of its start, where it has one."""
        stages = self.study.entry(kind).start
        if not stages:
            return self.untaught(kind, seed)
        study, root = self.study, self.untaught(kind, seed)
        # A study with a start has one split: what is held out was not taught.
        (split_seed,) = study.axes.get("split_seed", (study.suite.split_seed,))
        replicate = Replicate(base=kind, root=root, point={}, seed=START_SEED, split_seed=int(split_seed))
        lineage: tuple[str, ...] = (START,)  # so that no lineage of the study is meant, and none of its doses
        made = {lineage: root}
        for stage in stages:
            made[*lineage, stage] = self.train(replicate, made, (*lineage, stage))
            lineage = (*lineage, stage)
            self._hide(made[lineage].step)
        taught = made[lineage]
        settings = StartSettings(base=kind, parent=taught.checkpoint.id, stages=stages)
        name = root.checkpoint.base.removesuffix(f" {AS_IT_WAS}")
        fingerprint = self.add(f"begin with {name} after {','.join(stages)}", (taught.step,), settings, size=1)
        checkpoint = Checkpoint(id=content_id("checkpoint", fingerprint, 1), base=name, start=taught.checkpoint.stages)
        return self.make(fingerprint, [checkpoint])[0]

    def _hide(self, fingerprint: str) -> None:
        """Mark what a step of a start makes as no result of the run."""
        step = self.steps[fingerprint]
        hidden = tuple(replace(one, source=START) for one in step.checkpoints)
        self.steps[fingerprint] = replace(step, checkpoints=hidden)

    def untaught(self, kind: str, seed: int) -> Made:
        """A base before its start: made or taught as tiny ones are, once a seed, or opened where it is."""
        entry, size = self.study.entry(kind).untaught, 1
        settings: Settings
        if entry.kind == "tiny" and not entry.name:
            name, verb = f"{kind}-{seed}", "teach"
            settings, size = self._teaching(kind, seed)
        elif entry.kind == "random":
            name, verb = f"{kind}-{seed}", "make"
            settings = RandomSettings(
                base=kind,
                entry=entry,
                base_seed=seed,
                suite=self.decisive_suite(),
                split_seeds=self.study.axes.get("split_seed", (self.study.suite.split_seed,)),
                cases=self.suite.version if self.suite.decides is None else None,
            )
        else:
            name, verb = kind, "open"
            settings = OpenSettings(base=kind, entry=entry)
        fingerprint = self.add(f"{verb} {name}", (), settings, size=size)
        model = entry.name + (f"@{entry.revision}" if entry.revision else "")
        identity, source = content_id("checkpoint", fingerprint, 1), None
        if self.study.entry(kind).start:
            # Another id than without a start: its episodes are another row's.
            identity, source, name = content_id("checkpoint", fingerprint, START), START, f"{name} {AS_IT_WAS}"
        checkpoint = Checkpoint(id=identity, base=name, model=model or None, source=source)
        return self.make(fingerprint, [checkpoint])[0]

    def _teaching(self, kind: str, seed: int) -> tuple[TeachSettings, int]:
        """The supervised stage that makes one tiny base, and how many demonstrations it has."""
        study = self.study
        size = study.entry(kind).size
        own = self.suite.decides is None
        settings = TeachSettings(
            base=kind,
            base_seed=seed,
            model=study.model.model_copy(update=TINY_SIZES[size] if size else {}),
            suite=study.suite.name,
            mixture=dict(study.suite.mixture) if isinstance(study.suite, SuiteSection) else {},
            demonstrations=DEMONSTRATIONS_VERSION,
            probes=probes.taught_settings(study.probes),
            approval=demonstrations.taught_settings(study.approval),
            table=self.decisive_suite() if own else None,
            cases=self.suite.version if own else None,
        )
        # Those of probes and of users come beside those of the suite.
        count = 0 if self.suite.teach is None else study.model.sft.demonstrations
        count += round(settings.probes["share"] * count) if settings.probes else 0
        return settings, count + (settings.approval["count"] if settings.approval else 0)

    def train(self, replicate: Replicate, made: Mapping[tuple[str, ...], Made], lineage: tuple[str, ...]) -> Made:
        """A lineage's last stage, after what is made so far. Errors: StudyError where its method plans none."""
        stage = self.study.stages[lineage[-1]]
        plan = method_of(stage).plan or Planner.train_alone
        try:
            planned = plan(self, replicate, made[lineage[:-1]], lineage)
        except Exception as error:
            if stage.method in METHODS.shipped or isinstance(error, HoldfastError):
                raise
            raise StudyError(
                f"stages.{lineage[-1]}: the method {stage.method!r} cannot plan it ({type(error).__name__}: {error});"
                " mend the method"
            ) from error
        if not isinstance(planned, Made):
            raise StudyError(
                f"stages.{lineage[-1]}: the method {stage.method!r} plans {type(planned).__name__}, and no"
                " holdfast.runs.plan.step.Made; mend the method"
            )
        return planned

    def of_stage(self, replicate: Replicate, parent: Made, name: str, section: StageTable) -> dict[str, Any]:
        """What the settings of every stage say: its table, where it starts, its seed, how its base writes calls."""
        return {
            "method": section.method,
            "section": section,
            "stage": name,
            "parent": parent.checkpoint.id,
            "train_seed": replicate.seed,
            "calls": self.calls_of(replicate.base),
        }

    def train_alone(self, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
        """A stage that needs nothing but the checkpoint that it starts from, of which it makes one."""
        name, known = lineage[-1], parent.checkpoint
        stage = self.study.stages[name].at_point(replicate.point)
        steps = getattr(stage, "steps", 1)
        settings = StageSettings(**self.of_stage(replicate, parent, name, stage), agent=self.agent(replicate.base))
        record = StageRecord(
            name=name,
            method=stage.method,
            objectives=stage.objectives,
            settings=stage.resolved(),
            steps=steps,
            data="",  # no pairs and no rewards
        )
        kept = {1: ([*known.stages, record], {"dose": 1})}
        label, inputs = ",".join(lineage), [parent.step]
        return self.add_training(replicate, label, inputs, settings, size=steps, parent=known, kept=kept)[0]

    def train_source(self, replicate: Replicate, source: SourceSection) -> Made:
        """The checkpoint whose rollouts a stage learns from, trained with the same seed."""
        own = source.base == replicate.base
        root = replicate.root if own else self.base(source.base, self.study.model.base_seeds[0])
        other = replace(replicate, base=source.base, root=root)
        made: dict[tuple[str, ...], Made] = {(): root}
        for length in range(1, len(source.lineage) + 1):
            made[source.lineage[:length]] = self.train(other, made, source.lineage[:length])
        return made[source.lineage]

    def speaker(self, name: str) -> tuple[SpeakerModel, tuple[str, ...]]:
        """A model that speaks beside the agent, and the step that makes it, if one does."""
        entry = self.study.entry(name)
        if entry.kind == "remote":
            return SpeakerModel(model=name, entry=entry), ()
        made = self.base(name, self.study.model.base_seeds[0])
        return SpeakerModel(model=name, entry=entry, checkpoint=made.checkpoint.id), (made.step,)

    def emulator(self) -> tuple[SpeakerModel | None, tuple[str, ...]]:
        """The model that plays the tools, if one does, and the step that makes it."""
        name = self.study.suite.world.model
        return (None, ()) if name is None else self.speaker(name)

    def agent(self, base: str) -> SpeakerModel | None:
        """A base as it speaks in episodes; None for a tiny one."""
        entry = self.study.entry(base)
        return None if entry.kind == "tiny" else SpeakerModel(model=base, entry=entry.untaught)

    def rollout(
        self, base: str, made: Made, part: str, split_seed: int, seed: int, *, per_case: int | None = None
    ) -> str:
        """Episodes of one checkpoint of a base on one part of a split; ``per_case`` of them as the study says."""
        met = self._met.setdefault((made.checkpoint.id, part), {})
        key = 0 if part == "probe" else split_seed if part == "test" and seed != ONCE_MORE else None
        if key in met:
            return met[key]
        shared = self.suite.shared
        seed = self.reseed(seed)
        if shared and part != "test":
            # A case is for training in one split and held out in another: its episodes are others in each.
            seed = int(content_id(part, split_seed, seed)[:12], 16)
        study, condition = self.study, None
        if part in PARTS:
            section: PartSection = getattr(study, PARTS[part].key)
            condition = section.model_dump(mode="json", exclude={"lineages", "every_dose", "per_case"})
            count, usual = count_cases(study, part, split_seed), section.per_case
        elif part == "train":
            count, usual = study.suite.train_cases, study.rollouts.per_train_case
        else:  # held-out cases, or the fresh ones, which are as many
            count, usual = study.suite.test_cases, study.rollouts.per_test_case
        rolled = self.episodes(
            base,
            made,
            RolloutSettings(
                checkpoint=made.checkpoint.id,
                suite=SuiteSection(name="probes") if part == "probe" else self.decisive_suite(),
                split_seed=split_seed,
                part=part,
                per_case=usual if per_case is None else per_case,
                rollout_seed=seed,
                limits=self.limits(),
                kept_out=self.kept_out() if part == "train" else None,
                cases=None if part == "probe" else self.suite.version,
                condition=condition,
            ),
            count=count,
            # One after the other: a case that is held out in two splits is met once.
            after=list(met.values())[-1:] if shared and part == "test" else (),
        )
        if key is not None:
            met[key] = rolled
        return rolled

    def episodes(
        self, base: str, made: Made, settings: RolloutSettings, *, count: int, after: Sequence[str] = ()
    ) -> str:
        """The rollout step of a checkpoint with ``count`` cases of a part, after some other steps."""
        settings, inputs = replace(settings, agent=self.agent(base)), (made.step, *after)
        # What has a world of its own has no emulator.
        if "world" in settings.suite.model_fields_set:
            emulator, needed = self.emulator()
            settings, inputs = replace(settings, emulator=emulator), (*inputs, *needed)
        name = f"roll out {made.checkpoint.name} on {settings.part} cases"
        return self.add(name, inputs, settings, size=count * settings.per_case)

    def reseed(self, seed: int) -> int:
        """The seed of some episodes under the study's own ``rollouts.seed``."""
        own = self.study.rollouts.seed
        # 48 bits, which every reader of JSON takes as a whole number.
        return int(content_id("rollouts", own, seed)[:12], 16) if own else seed

    def decisive_suite(self) -> SuiteTable:
        """The table of the suite with what decides its episodes set; all other keys are left out."""
        return read_suite(self.suite.episode_settings(self.study.suite))

    def limits(self) -> EpisodeLimits:
        """What ends an episode, and how many are run together."""
        limits = self.study.rollouts
        return EpisodeLimits(**{item.name: getattr(limits, item.name) for item in fields(EpisodeLimits)})

    def kept_out(self) -> int | None:
        """How many cases of a split's train half are kept for balances, where that takes them out of it."""
        return self.study.tuning_cases or None if self.suite.reserve is None else None

    def bring(self, source: str) -> str:
        """The trajectories and scores of another run."""
        settings = BringSettings(source=source, digest=self.study.pairs.digest)
        return self.add(f"bring trajectories of {source}", (), settings, size=1)

    def rollout_to_learn_from(self, replicate: Replicate, parent: Made) -> str:
        """The episodes of training cases that a stage on ``parent`` learns from, as ``pairs.source`` has it."""
        source = self.study.pairs.source
        if source not in ("base", "parent"):
            return self.bring(source)
        made = parent if source == "parent" else replicate.root
        return self.rollout(replicate.base, made, "train", replicate.split_seed, replicate.seed)

    def judged(self, rollout: str, judge: str) -> tuple[str, ...]:
        """A rollout step and the step of its scores by a judge; what another run brought was judged there."""
        brought = isinstance(self.steps[rollout].settings, BringSettings)
        return (rollout,) if brought else (rollout, self.judge(rollout, judge))

    def judge(self, rollout: str, judge: str | None) -> str:
        """Scores of one rollout step by one judge; None is the rules that read probes."""
        source, settings = self.steps[rollout], JudgeSettings(judge=judge or "probes")
        inputs: tuple[str, ...] = (rollout,)
        if judge is not None:
            section = self.study.judges[judge]
            # What was brought from another run is of no suite that is known here.
            if isinstance(source.settings, RolloutSettings):
                section = suite_of(source.settings.suite).fit_judge(section)
            settings = replace(settings, section=section, kind_version=kind_of(section).version)
            if section.model is not None:
                speaker, needed = self.speaker(section.model)
                settings, inputs = replace(settings, speaker=speaker), (*inputs, *needed)
        name = f"judge {source.name.removeprefix('roll out ')} by {judge or 'rules'}"
        return self.add(name, inputs, settings, size=source.size)

    def pair(self, rollout: str, judge: str, stage: StageSection, split_seed: int, seed: int) -> str:
        """Preference pairs for one stage from one judged rollout, or from what was brought of the train cases."""
        source = self.steps[rollout]
        settings = PairSettings(
            rule=self.study.pairs,
            judge=judge,
            objectives=stage.objectives,
            agree=stage.agree,
            flip=stage.flip,
            pair_seed=seed,
            **self._own_half(source, split_seed),
        )
        flipped = " flipped" if stage.flip else ""
        name = f"pair {'+'.join(stage.objectives)}{flipped} from {source.name.removeprefix('roll out ')}"
        return self.add(name, self.judged(rollout, judge), settings, size=source.size)

    def reference(self, base: str, made: Made, rollout: str, stage: StageSection, split_seed: int) -> str:
        """Log-probabilities of a rollout step's trajectories under the checkpoint that a stage starts from."""
        source = self.steps[rollout]
        settings = ReferenceSettings(
            checkpoint=made.checkpoint.id,
            loss_mask=stage.loss_mask,
            precision=stage.precision,
            token_budget=stage.token_budget,
            adapter=stage.precision == "bf16" and stage.lora_r > 0,
            calls=self.calls_of(base),
            **self._own_half(source, split_seed),
        )
        name = f"reference {made.checkpoint.name} for {source.name.removeprefix('roll out ')}"
        return self.add(name, (made.step, rollout), settings, size=source.size)

    def _own_half(self, source: Step, split_seed: int) -> dict[str, int | None]:
        """Which cases are learnt from of what another run brought, which is of both halves of a split."""
        brought = isinstance(source.settings, BringSettings)
        return {"split_seed": split_seed, "kept_out": self.kept_out()} if brought else {}

    @property
    def users(self) -> ApprovalSection:
        """The study's [approval]."""
        assert self.study.approval is not None  # a study with such stages has users
        return self.study.approval

    def choose_users(self, part: str, names: Sequence[str]) -> UserSettings:
        """The users of some settings in a part."""
        chosen = {name: self.users.settings[name] for name in names}
        return UserSettings(section=self.users.model_copy(update={"settings": chosen}), part=part)

    def meet_users(
        self, made: Made, settings: Sequence[str], *, part: str, split_seed: int, per_case: int, seed: int
    ) -> RolloutSettings:
        """What decides the episodes of a checkpoint with the users of some settings in a part."""
        return RolloutSettings(
            checkpoint=made.checkpoint.id,
            suite=SuiteSection(name=APPROVAL),
            split_seed=split_seed,
            part=part,
            per_case=per_case,
            rollout_seed=self.reseed(seed),
            limits=self.limits(),
            users=self.choose_users(part, settings),
        )

    def calls_of(self, base: str) -> Calls | None:
        """How a base's conversations write calls where its tokenizer leaves a choice."""
        entry = self.study.entry(base)
        return None if entry.kind == "tiny" else entry.calls
