"""A block of on-policy steps on either side, ours and TRL's GRPOTrainer's, for the benchmarks that race them."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from trl_settings import ON_A_PROCESSOR

from holdfast.models import Ask, Model, Reply
from holdfast.models.hub.chat import Calls
from holdfast.records import Case, Trajectory, content_id
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds import World
from holdfast.training.encoding import Encoded
from holdfast.training.loop import loop
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import Policy
from holdfast.training.rl import stage as reinforce
from holdfast.training.rl.selection import Rewarded

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")
TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What both sides train: the weights of ``base``, on replies to first prompts, by one reward.

    ``prompt`` has a case's prompt as tokens, ``shown`` as TRL takes it. ``rate`` is the reward of an episode of one
    turn; ``score`` that of tokens that TRL sampled, up to where our sampler would have ended them. ``facts`` is what a
    stage is to know of a case.
    """

    base: Path
    world: World
    prompt: Callable[[Case], list[int]]
    shown: Callable[[Case], Any]
    rate: Callable[[Case, Trajectory], float]
    score: Callable[[Case, Sequence[int]], float]
    facts: Callable[[Case], Mapping[str, float]] = lambda _: {}
    calls: Calls = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some steps of one side.

    CPU ``seconds`` of each after the warm-up, and what each of the ``parts`` that were timed took of all of them
    together; of all steps mean ``rewards``, mean ``tokens`` of a reply, and the share of groups whose rewards differ.
    """

    seconds: tuple[float, ...]
    parts: Mapping[str, float]
    rewards: tuple[float, ...]
    tokens: tuple[float, ...]
    unequal: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Steps a CPU second."""
        return len(self.seconds) / sum(self.seconds)


@dataclass(slots=True, kw_only=True)
class Clock:
    """CPU time and what the parts have ``spent`` at every step's end, and what is told of a step's rollouts."""

    spent: Mapping[str, float] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)
    marks: list[dict[str, float]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    unequal: list[float] = field(default_factory=list)

    def note(self, groups: Sequence[int], rewards: Sequence[float], tokens: Sequence[int]) -> None:
        """Takes note of a step's rollouts: the group, reward and length of each."""
        within: dict[int, set[float]] = {}
        for group, reward in zip(groups, rewards, strict=True):
            within.setdefault(group, set()).add(reward)
        self.rewards.append(float(np.mean(rewards)))
        self.tokens.append(float(np.mean(tokens)))
        self.unequal.append(float(np.mean([len(values) > 1 for values in within.values()])))

    def tick(self) -> None:
        """A step is done."""
        self.ends.append(time.process_time())
        self.marks.append(dict(self.spent))

    def block(self, warmup: int) -> Block:
        """The steps so far, of which the first ``warmup`` (at least one) are not counted."""
        before = self.marks[warmup - 1]
        return Block(
            seconds=tuple(np.diff(self.ends[warmup - 1 :]).tolist()),
            parts={name: value - before.get(name, 0.0) for name, value in self.marks[-1].items()},
            rewards=tuple(self.rewards),
            tokens=tuple(self.tokens),
            unequal=tuple(self.unequal),
        )


def timed(spent: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, adding the CPU seconds of its calls to those ``spent`` by this name."""

    def run(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - started

    return run


@contextmanager
def timed_calls(spent: dict[str, float], places: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
    """Inside, the CPU seconds of each of some functions, told by its owner and name, are added to those ``spent``."""
    with ExitStack() as stack:
        for name, (owner, function) in places.items():
            stack.enter_context(patch.object(owner, function, timed(spent, name, getattr(owner, function))))
        yield


def places_of_ours(model: type[Any]) -> dict[str, tuple[Any, str]]:
    """What of our side is timed, with the kind of model that it samples from; "drawing" has sampling in it."""
    return {
        "sampling": (model, "reply"),
        "drawing": (Practice, "draw"),
        "scoring": (reinforce, "score_all"),
        "update": (loop, "descend"),
    }


def places_of_trl() -> dict[str, tuple[Any, str]]:
    """The same of TRL's; "step" has a step's draw and its update."""
    from transformers import GenerationMixin
    from trl import GRPOTrainer

    return {
        "sampling": (GenerationMixin, "generate"),
        "drawing": (GRPOTrainer, "_generate_and_score_completions"),
        "step": (GRPOTrainer, "training_step"),
    }


# --- our side --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorder:
    """A model whose replies are kept by the seed of the episode's luck, as a stage keeps them."""

    model: Model
    last: dict[int, Reply] = field(default_factory=dict)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        replies = self.model.reply(asks)
        for ask, reply in zip(asks, replies, strict=True):
            self.last[int(ask.rng.bit_generator.seed_seq.entropy)] = reply  # type: ignore[attr-defined]
        return replies


class Practice:
    """Draws the groups of a step as a stage of a study does: episodes in their world, judged, encoded as sampled."""

    def __init__(
        self,
        task: Task,
        settings: RewardSettings,
        cases: Sequence[Sequence[Case]],
        seed: int,
        clock: Clock | None = None,
    ) -> None:
        self._task, self._settings, self._cases, self._seed = task, settings, cases, seed
        self._limits = Limits(max_turns=1, max_tokens=settings.max_tokens, temperature=TEMPERATURE)
        self._clock = clock or Clock()

    def draw(self, policy: Policy, number: int, attempt: int) -> list[Rewarded]:
        size = self._settings.group_size
        episodes = [(case, rollout) for case in self._cases[number] for rollout in range(size)]
        recorder = Recorder(policy.sampler(self._task.calls))
        played = roll_out(
            {"agent": recorder},
            self._task.world,
            episodes,
            checkpoint_id=content_id("practice", number, attempt),
            rollout_seed=self._seed,
            limits=self._limits,
        )
        found = []
        for place, ((case, _), episode) in enumerate(zip(episodes, played, strict=True)):
            assert isinstance(episode, Trajectory)
            found.append(self._reward(place // size, case, episode, recorder))
        rewards = [float(item.reward or 0.0) for item in found]
        own = [int(item.encoded.agent.sum()) for item in found]
        self._clock.note([item.group for item in found], rewards, own)
        return found

    def _reward(self, group: int, case: Case, episode: Trajectory, recorder: Recorder) -> Rewarded:
        reply = recorder.last[int(episode.id, 16)]
        assert reply.ids
        return Rewarded(
            group=group,
            case_id=case.id,
            encoded=encode(self._task.prompt(case), reply.ids),
            reward=self._task.rate(case, episode),
            logprob=(episode.detail or {}).get("logprob"),
            facts=self._task.facts(case),
            text=" ".join(message.content for message in episode.messages),
        )


def encode(opening: Sequence[int], said: Sequence[int]) -> Encoded:
    """A prompt and its reply."""
    ids = np.array([*opening, *said], np.int64)
    return Encoded(ids=ids, agent=np.arange(len(ids)) >= len(opening), prompt=len(opening))


class _Enough(Exception):
    """All steps that count are done."""


def run_ours(
    task: Task,
    settings: RewardSettings,
    cases: Sequence[Sequence[Case]],
    seed: int,
    *,
    warmup: int,
    spent: Mapping[str, float] | None = None,
) -> Block:
    """A block of our stage on the cases of each step, logged on disk; it ends before it would save its weights."""
    steps, clock = len(cases), Clock(spent={} if spent is None else spent)
    practice = Practice(task, settings, cases, seed, clock)

    def watch(step: int, _: int) -> None:
        clock.tick()
        if step == steps:
            raise _Enough

    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        reinforce.train_on_rewards(
            task.base,
            settings.model_copy(update={"steps": steps + 1}),
            seed=seed,
            save_at=(steps + 1,),
            out_dir=Path(folder) / "out",
            draw=practice.draw,
            folder=Path(folder) / "log",
            progress=watch,
        )
    return clock.block(warmup)


# --- TRL -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Settings of TRL and transformers that change its speed alone; ``micro`` completions are updated on at once."""

    attention: str = "sdpa"
    messages: bool = False
    cache: str | None = None
    micro: int | None = None


@dataclass(slots=True, kw_only=True)
class Watch:
    """TRL's last step: its loss, rollouts and gradient before clipping, and the trained weights before it."""

    loss: float = 0.0
    rollouts: list[Rewarded] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


def plain_name(name: str) -> str:
    """A weight's name without that of its adapter and of what PEFT puts around a model."""
    return re.sub(r"lora_(A|B)\.\w+\.", r"lora_\1.", re.sub(r"^base_model\.model\.", "", name))


def _timed_trainer(clock: Clock, watch: Watch | None) -> type[Any]:
    """TRL's trainer with a clock."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if watch is not None:
                watch.loss = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, callbacks=[Steps()], **options)
            self.remove_callback(PrinterCallback)

        def compute_loss(self, model: Any, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(model, *arguments, **options)
            if watch is not None:
                watch.loss += loss.item()
            return loss

        def training_step(self, model: Any, *arguments: Any, **options: Any) -> Any:
            trained = {plain_name(name): one for name, one in model.named_parameters() if one.requires_grad}
            if watch is not None:
                watch.weights = {name: weight.detach().clone() for name, weight in trained.items()}
            found = super().training_step(model, *arguments, **options)
            if watch is not None:
                watch.gradients = {name: weight.grad.clone() for name, weight in trained.items()}
            return found

    return Timed


def run_trl(
    task: Task,
    settings: RewardSettings,
    cases: Sequence[Sequence[Case]],
    seed: int,
    peer: Peer,
    *,
    warmup: int,
    spent: Mapping[str, float] | None = None,
    watch: Watch | None = None,
) -> Block:
    """A block of TRL's trainer on the cases of each step; with a ``watch`` its last step is looked at."""
    import datasets  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    clock = Clock(spent={} if spent is None else spent)
    flat, tokenizer = [case for step in cases for case in step], AutoTokenizer.from_pretrained(task.base)
    rows = [{"prompt": show_prompt(task, case, tokenizer, peer), "row": row} for row, case in enumerate(flat)]

    def reward(completion_ids: Sequence[Sequence[int]], row: Sequence[int], **_: Any) -> list[float]:
        found = [task.score(flat[place], ids) for place, ids in zip(row, completion_ids, strict=True)]
        clock.note(row, found, [len(ids) for ids in completion_ids])
        if watch is not None:
            watch.rollouts = [
                Rewarded(
                    group=place,
                    case_id=flat[place].id,
                    encoded=encode(task.prompt(flat[place]), ids),
                    reward=value,
                    facts=task.facts(flat[place]),
                )
                for place, ids, value in zip(row, completion_ids, found, strict=True)
            ]
        return found

    with tempfile.TemporaryDirectory() as folder:
        trainer = _timed_trainer(clock, watch)(
            model=AutoModelForCausalLM.from_pretrained(
                task.base, dtype=torch.get_default_dtype(), attn_implementation=peer.attention
            ),
            reward_funcs=reward,
            args=_trl_settings(Path(folder), settings, len(cases), seed, peer),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=_adapter(settings),
        )
        trainer.train()
    return clock.block(warmup)


def show_prompt(task: Task, case: Case, tokenizer: Any, peer: Peer) -> Any:
    """A prompt as TRL takes it; its tokens are ours, which is checked."""
    shown = task.shown(case)
    text = shown if isinstance(shown, str) else tokenizer.apply_chat_template(shown, tokenize=False)
    if tokenizer(text)["input_ids"] != task.prompt(case):
        raise ValueError(f"case {case.id}: TRL's tokens are not ours; check the tokenizer")
    return shown if peer.messages else text


def _adapter(settings: RewardSettings) -> Any:
    """The adapter of a stage, as PEFT has it: on every linear layer but the head."""
    if settings.lora_r == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _trl_settings(folder: Path, settings: RewardSettings, steps: int, seed: int, peer: Peer) -> Any:
    from trl import GRPOConfig

    whole = settings.prompts_per_step * settings.group_size
    micro = min(whole, peer.micro or whole)
    if whole % micro:
        raise ValueError(f"micro is {micro}, which does not divide the {whole} completions of a step")
    return GRPOConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=whole // micro,
        steps_per_generation=whole // micro,
        num_iterations=1,
        num_generations=settings.group_size,
        max_completion_length=settings.max_tokens,
        temperature=TEMPERATURE,
        loss_type=settings.loss,
        scale_rewards=settings.scale,
        beta=settings.kl_weight,
        epsilon=settings.clip_low,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused",
        cache_implementation=peer.cache,
        shuffle_dataset=False,
        dataloader_num_workers=0,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        eval_strategy="no",
        **ON_A_PROCESSOR,
    )


def compare_step(watch: Watch, loss: float, gradients: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Our loss and gradient beside those of TRL's step on the same rollouts: the widest gap over the largest entry."""
    gap = max(float((gradients[name] - value).abs().max()) for name, value in watch.gradients.items())
    largest = max(float(value.abs().max()) for value in watch.gradients.values())
    return {
        "loss": loss,
        "loss_trl": watch.loss,
        "gradient_gap": gap / largest,
        "rollouts": len(watch.rollouts),
    }
