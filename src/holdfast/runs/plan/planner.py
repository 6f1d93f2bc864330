"""Collects a plan's steps, each once: bases, episodes, judgements, pairs, references; ``plan`` says what a step is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from holdfast.models.entries import TINY_SIZES
from holdfast.records import JSON, Checkpoint, content_id
from holdfast.runs.plan.step import VERSIONS, Kind, Made, Step
from holdfast.study.conditions import PartSection
from holdfast.study.kinds import SUITES, kind_of, suite_of
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import StageSection
from holdfast.study.study import Study
from holdfast.suites import probes
from holdfast.suites.approval import teaching
from holdfast.suites.casebook import FRESH, PARTS, count_cases, count_fresh, count_tuning
from holdfast.suites.office import DEMONSTRATIONS_VERSION

# The seed of episodes that are met once more, where a suite has no fresh cases.
_ONCE_MORE = 1


class Planner:
    """Collects steps, each once; ``fresh`` are lineages that meet fresh cases too."""

    def __init__(self, study: Study, fresh: Collection[tuple[str, ...]] = ()) -> None:
        self.study, self.fresh = study, fresh
        self.suite = suite_of(study.suite)
        self.steps: dict[str, Step] = {}
        # By checkpoint, the rollout steps on test cases that share cases between splits, by split seed.
        self._tested: dict[str, dict[int, str]] = {}
        # By checkpoint, the rollout step on probes, which are the same in every split.
        self._probed: dict[str, str] = {}

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

    def base(self, kind: str, seed: int) -> Made:
        """A base: taught or made here, once a seed, or opened where it is."""
        entry = self.study.entry(kind)
        if entry.kind == "tiny" and not entry.name:
            return self._taught(kind, seed)
        settings: dict[str, Any] = {"method": "open", "base": kind, "entry": entry.model_dump(mode="json")}
        name, verb = kind, "open"
        if entry.kind == "random":
            # Its tokenizer is made of the cases that the run holds.
            seeds = self.study.axes.get("split_seed", (self.study.suite.split_seed,))
            settings |= {"method": "random", "base_seed": seed, "suite": self.suite_settings()}
            if self.suite.decides is None:
                settings["cases"] = self.suite.version
            settings["split_seeds"] = list(seeds)
            name, verb = f"{kind}-{seed}", "make"
        fingerprint = self.add("train", f"{verb} {name}", (), settings, size=1, unit="model")
        model = entry.name + (f"@{entry.revision}" if entry.revision else "")
        checkpoint = Checkpoint(id=content_id("checkpoint", fingerprint, 1), base=name, model=model or None)
        self.set_checkpoints(fingerprint, (checkpoint,))
        return Made(checkpoint=checkpoint, step=fingerprint)

    def _taught(self, kind: str, seed: int) -> Made:
        """The supervised stage that makes one tiny base."""
        study = self.study
        size = study.entry(kind).size
        settings = {
            "method": "sft",
            "base": kind,
            "base_seed": seed,
            "model": {
                **study.model.model_dump(mode="json", exclude={"bases", "base_seeds"}),
                **(TINY_SIZES[size] if size else {}),
            },
            "suite": study.suite.name,
            "mixture": dict(study.suite.mixture) if isinstance(study.suite, SuiteSection) else {},
            "demonstrations": DEMONSTRATIONS_VERSION,
            **probes.taught_settings(study.probes),
            **teaching.taught_settings(study.approval),
        }
        if self.suite.decides is None:
            settings |= {"table": self.suite_settings(), "cases": self.suite.version}
        name = f"{kind}-{seed}"
        # Those of probes and of users come beside those of the suite.
        count = 0 if self.suite.teach is None else study.model.sft.demonstrations
        count += round(settings["probes"]["share"] * count) if "probes" in settings else 0
        count += settings["approval"]["count"] if "approval" in settings else 0
        fingerprint = self.add("train", f"teach {name}", (), settings, size=count, unit="demonstrations")
        checkpoint = Checkpoint(id=content_id("checkpoint", fingerprint, 1), base=name)
        self.set_checkpoints(fingerprint, (checkpoint,))
        return Made(checkpoint=checkpoint, step=fingerprint)

    def speaker(self, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What a step is told of a model that speaks beside the agent, and the step that makes it, if one does."""
        entry = self.study.entry(name)
        told: dict[str, Any] = {"model": name, "entry": entry.model_dump(mode="json")}
        if entry.kind == "remote":
            return told, ()
        made = self.base(name, self.study.model.base_seeds[0])
        return {**told, "checkpoint": made.checkpoint.id}, (made.step,)

    def rollout(self, base: str, made: Made, part: str, split_seed: int, seed: int) -> str:
        """Episodes of one checkpoint of a base on one part of a split."""
        if part == "probe" and made.checkpoint.id in self._probed:
            return self._probed[made.checkpoint.id]
        tested = self._tested.setdefault(made.checkpoint.id, {})
        first = part == "test" and seed != _ONCE_MORE
        if first and split_seed in tested:
            return tested[split_seed]
        shared = self.suite.shared
        seed = self.reseed(seed)
        if shared and part != "test":
            # A case is for training in one split and held out in another: its episodes are others in each.
            seed = int(content_id(part, split_seed, seed)[:12], 16)
        count, per_case = self._amount(part, split_seed)
        extra: dict[str, Any] = self.kept_out() if part == "train" else {}
        if self.suite.version is not None and part != "probe":
            extra["cases"] = self.suite.version
        if part in PARTS:
            section: PartSection = getattr(self.study, PARTS[part])
            extra["condition"] = section.model_dump(mode="json", exclude={"lineages", "every_dose", "per_case"})
        found = self.episodes(
            base,
            made,
            part,
            split_seed,
            seed,
            suite={"name": probes.SUITE} if part == "probe" else self.suite_settings(),
            count=count,
            per_case=per_case,
            extra=extra,
            # One after the other: a case that is held out in two splits is met once.
            after=list(tested.values())[-1:] if shared and part == "test" else (),
        )
        if first:
            tested[split_seed] = found
        if part == "probe":
            self._probed[made.checkpoint.id] = found
        return found

    def episodes(
        self,
        base: str,
        made: Made,
        part: str,
        split_seed: int,
        seed: int,
        *,
        suite: JSON,
        count: int,
        per_case: int,
        extra: JSON,
        after: Sequence[str] = (),
    ) -> str:
        """The rollout step of a checkpoint with ``count`` cases of a part, after some other steps."""
        settings: dict[str, Any] = {
            "checkpoint": made.checkpoint.id,
            "suite": suite,
            "split_seed": split_seed,
            "part": part,
            "per_case": per_case,
            "rollout_seed": seed,
            "limits": self.limits(),
            **extra,
        }
        inputs, speakers = [made.step, *after], []
        entry = self.study.entry(base)
        if entry.kind != "tiny":
            settings["agent"] = {"model": base, "entry": entry.model_dump(mode="json")}
            speakers.append(base)
        emulator = self.study.suite.world.model
        # What has a world of its own has no emulator.
        if emulator is not None and suite.get("world"):
            settings["emulator"], needed = self.speaker(emulator)
            inputs += needed
            speakers.append(emulator)
        name = f"roll out {made.checkpoint.name} on {part} cases"
        return self.add("rollout", name, inputs, settings, size=count * per_case, unit="episodes", speakers=speakers)

    def reseed(self, seed: int) -> int:
        """The seed of some episodes under the study's own ``rollouts.seed``."""
        own = self.study.rollouts.seed
        return int(content_id("rollouts", own, seed)[:12], 16) if own else seed

    def fresh_rollout(self, base: str, made: Made, split_seed: int) -> str:
        """Episodes on cases that no choice was made by, or other episodes of the same cases where there are no more."""
        if count_fresh(self.study):
            return self.rollout(base, made, FRESH, split_seed, 0)
        return self.rollout(base, made, "test", split_seed, _ONCE_MORE)

    def suite_settings(self) -> dict[str, Any]:
        """What of the suite decides an episode."""
        return self.suite.episode_settings(self.study.suite)

    def limits(self) -> dict[str, Any]:
        """What ends an episode, and how many are run together."""
        limits = self.study.rollouts
        optional = {name for name in ("max_episode_tokens", "max_seconds") if getattr(limits, name) is None}
        return limits.model_dump(mode="json", exclude={"per_train_case", "per_test_case", "seed", *optional})

    def kept_out(self) -> dict[str, int]:
        """How many cases of a split's train half are kept for balances, where that takes them out of it."""
        count = count_tuning(self.study) if self.suite.reserve is None else 0
        return {"kept_out": count} if count else {}

    def _amount(self, part: str, split_seed: int) -> tuple[int, int]:
        """How many cases a part has, and episodes a case."""
        study = self.study
        if part == "train":
            return study.suite.train_cases, study.rollouts.per_train_case
        if part in ("test", FRESH):
            return study.suite.test_cases, study.rollouts.per_test_case
        section: PartSection = getattr(study, PARTS[part])
        return count_cases(study, part, split_seed), section.per_case

    def bring(self, source: str) -> str:
        """The trajectories and scores of another run."""
        settings = {"source": source, "digest": self.study.pairs.digest}
        return self.add("bring", f"bring trajectories of {source}", (), settings, size=1, unit="run")

    def judge(self, rollout: str, judge: str | None) -> str:
        """Scores of one rollout step by one judge; None is the rules that read probes."""
        source = self.steps[rollout]
        if judge is None:
            settings: dict[str, Any] = {"judge": "probes", "kind": "probes"}
            name = f"judge {source.name.removeprefix('roll out ')} by rules"
            return self.add("judge", name, (rollout,), settings, size=source.size, unit="episodes")
        section = self.study.judges[judge]
        # Probes stand beside the cases of any suite; what was brought from another run has none.
        name = source.settings.get("suite", {}).get("name")
        if (suite := self.suite if name == self.study.suite.name else SUITES.get(name)) is not None:
            section = suite.fit_judge(section)
        kind = kind_of(section)
        settings = {"judge": judge, "kind": section.kind}
        inputs: tuple[str, ...] = (rollout,)
        if not kind.plain:
            settings["section"] = section.model_dump(mode="json")
        if kind.version is not None:
            settings["version"] = kind.version
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
            settings |= {"split_seed": split_seed, **self.kept_out()}
        inputs = (rollout,) if brought else (rollout, self.judge(rollout, judge))
        return self.add("pair", name, inputs, settings, size=self.steps[rollout].size, unit="episodes")

    def reference(self, base: str, made: Made, rollout: str, stage: StageSection, split_seed: int) -> str:
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
            settings |= {"split_seed": split_seed, **self.kept_out()}
        name = f"reference {made.checkpoint.name} for {source.name.removeprefix('roll out ')}"
        return self.add("reference", name, (made.step, rollout), settings, size=source.size, unit="trajectories")

    def format_of(self, base: str) -> dict[str, Any]:
        """How a base's conversations are written where its tokenizer leaves a choice."""
        entry = self.study.entry(base)
        return {} if entry.kind == "tiny" else {"calls": entry.calls}
