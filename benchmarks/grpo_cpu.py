"""On-policy training against TRL's GRPOTrainer on a tiny agent: optimiser steps a second of CPU time, in one run.

    python benchmarks/grpo_cpu.py [--json] [--cache DIRECTORY] [--repeats N]

Both sides start from the same model directory (a Llama of 0.35 million weights, taught as the base of an approval
study), see the same users in the same order, sample at temperature 1 and up to the same number of tokens, are rewarded
by one function (the rules' rating of the reply's text) and take one update a step with the "dapo" loss,
AdamW at one rate and gradients clipped at norm 1, in 32 bits on one thread. "default" is a stage's own shape (8 users ×
8 rollouts), "published" that of the published setup (2 × 5), both without a KL term; "held" is the default with one of
``HELD`` to the start on both sides. "early" starts from the taught base, "late" from what our stage has made of it
after ``LATE_STEPS`` steps. The sides take turns, whole blocks of steps at a time, each of a seed of its own; figures
are medians over blocks, a ratio is the median of the blocks' own ratios, with the least and the largest: of five blocks
these two hold the true median between them in 94 of 100 cases. Steps before ``WARMUP`` do not count.

"parity" gives both sides the same rollouts, TRL's: the loss and the gradient before clipping, as the widest difference
over the largest entry. "learning" rows are mean rewards of a block's first and last steps, "parts" says where our time
goes and "parts_trl" where TRL's does (milliseconds a step), "products" what of ours are matrix products and attention's
kernels, in sampling and in all passes, which no arrangement of the work around them makes cheaper; "peer" is what TRL
takes with other settings of its own (milliseconds a step). Both sides are in one process, so what a training process of
ours asks of the allocator serves TRL too.

TRL is as fast as its own settings make it: no logging, saving, reporting or evaluation, no checkpointing of
activations, no data workers, one generation batch a step, a fused optimiser, and the fastest row of "peer": attention
"sdpa" or "eager", prompts as text or as messages for its chat template, the key-value cache dynamic or static (which
transformers compiles on accelerators only). Not equal on both sides:

- Luck: each samples with its own generator, so rollouts differ; the same in distribution.
- Ends: our sampler ends a reply with any token that is no word, TRL's with ``<end>`` or ``<eos>`` alone. A taught
  base hardly ever says another; the reward counts what stands before it.
- Work that only our side does: the world and the audit of every episode, scores of harm and success for every rollout,
  log-probabilities under the policy and under the weights at the start (for KL, entropy and the sampler's mismatch),
  and a log on disk of every step and every distinct completion.
- Work that only TRL does: entropies in the update's own pass, some metrics of clipping, the texts of the last step.
- Equal completions and groups of equal rewards are computed once or not at all on our side, always by TRL.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from machine import document, show
from torch.utils._python_dispatch import TorchDispatchMode
from trl_settings import ON_A_PROCESSOR

from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.models import Ask, Model, Reply
from holdfast.models.tiny import model as tiny
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import TinyLlama
from holdfast.records import Case, Ending, Message, Trajectory, content_id
from holdfast.rollout.episode import STOPPED_ENDINGS, Limits, roll_out
from holdfast.study.sections import SFTSection, SuiteSection
from holdfast.study.users import ApprovalSection, to_rating
from holdfast.suites import open_world
from holdfast.suites.approval import practice_cases
from holdfast.suites.approval.demonstrations import taught_settings, teach_beside
from holdfast.training.encoding import Encoded, encode_episode
from holdfast.training.loop import loop
from holdfast.training.loop.passes import descend
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import Policy, WholeTiny
from holdfast.training.rl import stage as reinforce
from holdfast.training.rl.groups import Batch, gradient_step
from holdfast.training.rl.selection import Rewarded
from holdfast.training.rl.supply import score_all
from holdfast.training.sft.stage import train_sft

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")
CACHE = Path(tempfile.gettempdir()) / "holdfast-grpo-cpu"
TAUGHT = 3000  # demonstrations of the base
MAX_TOKENS = 24
TEMPERATURE = 1.0
HELD = 0.02  # weight of the KL term of the shape that has one
WARMUP = 2  # steps of every block that are not counted
LATE_STEPS = 80  # of our own training before the late blocks
EDGE = 6  # steps at either end of a block whose reward is told
TRIED_STEPS = 6  # of each setting of the peer
SECTION = ApprovalSection.model_validate(
    # No tools: TRL takes one reply to one prompt.
    {"environments": ["therapy", "advice", "politics"], "taught": TAUGHT, "practice": 160, "settings": {"friend": {}}}
)
JUDGE = ApprovalJudge(name="rules")
SHAPES: Mapping[str, RewardSettings] = {
    "default": RewardSettings(method="grpo", max_tokens=MAX_TOKENS, warmup_steps=0),
    "published": RewardSettings(method="grpo", max_tokens=MAX_TOKENS, warmup_steps=0, prompts_per_step=2, group_size=5),
    "held": RewardSettings(method="grpo", max_tokens=MAX_TOKENS, warmup_steps=0, kl_weight=HELD),
}
# Kernels that multiply matrices, and those of attention.
PRODUCTS = frozenset(
    [f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm")]
    + [f"aten::_scaled_dot_product_flash_attention_for_cpu{end}" for end in ("", "_backward")]
)
# Steps of a block that count. The first is long enough for rewards to rise.
STEPS: Mapping[tuple[str, str], int] = {
    ("default", "early"): 24,
    ("default", "late"): 8,
    ("held", "early"): 8,
    ("published", "early"): 20,
    ("published", "late"): 20,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some steps of one side: CPU seconds of each after the warm-up, mean rewards and losses of all."""

    seconds: tuple[float, ...]
    rewards: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Steps a CPU second."""
        return len(self.seconds) / sum(self.seconds)


# --- what both sides share -------------------------------------------------------------------------------------


def teach(cache: Path) -> Path:
    """The directory of the taught base; made where it is not there."""
    told = taught_settings(SECTION)
    directory = cache / f"base-{content_id('grpo', told)}"
    if not directory.exists():
        beside = teach_beside(told, 0)
        with tempfile.TemporaryDirectory() as fresh:
            tiny.build(beside.words, fresh, seed=0, system_prompts=beside.system_prompts, argument="object")
            chat = TinyChat.load(fresh)
            shown = [
                encode_episode(chat, case.messages, trajectory.messages, case.tools)
                for case, trajectory in beside.demonstrations
            ]
            settings = SFTSection()
            steps = len(shown) // settings.batch_size
            train_sft(Path(fresh), shown, settings, steps=steps, seed=0, out_dir=directory)
    return directory


def choose_users(settings: RewardSettings, steps: int, seed: int) -> list[list[Case]]:
    """The users of each step."""
    cases, rng = practice_cases(SECTION, 0), np.random.default_rng(seed)
    return [
        [cases[place] for place in rng.choice(len(cases), settings.prompts_per_step, replace=False)]
        for _ in range(steps)
    ]


def reward_of(case: Case, messages: Sequence[Message], ending: Ending) -> float:
    """The rules' rating of a reply, from 1 to 10."""
    trajectory = Trajectory(
        id="0" * 16,
        case_id=case.id,
        checkpoint_id="0" * 16,
        rollout=0,
        messages=tuple(messages),
        ending=ending,
        flags=(),
        world_before={},
        world_after={},
        calls=0,
        invalid_calls=0,
    )
    return rate(case, trajectory)


def rate(case: Case, trajectory: Trajectory) -> float:
    """The reward of an episode."""
    (value,) = (score.value for score in JUDGE.judge(case, trajectory) if score.objective == "approval")
    assert value is not None
    return to_rating(value)


# --- our side --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorder:
    """A model whose replies are kept by the seed of the episode's luck, as a stage keeps them."""

    model: Model
    last: dict[int, tuple[Ask, Reply]] = field(default_factory=dict)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        replies = self.model.reply(asks)
        for ask, reply in zip(asks, replies, strict=True):
            self.last[int(ask.rng.bit_generator.seed_seq.entropy)] = (ask, reply)  # type: ignore[attr-defined]
        return replies


class Practice:
    """Draws the groups of a step as a stage of a study does: episodes in their world, judged, encoded as sampled."""

    def __init__(self, base: Path, settings: RewardSettings, users: Sequence[Sequence[Case]], seed: int) -> None:
        self._settings, self._users, self._seed = settings, users, seed
        self._world = open_world(SuiteSection(name="approval"))
        self._chat = TinyChat.load(base)
        self._limits = Limits(max_turns=1, max_tokens=settings.max_tokens, temperature=TEMPERATURE)
        self.rewards: list[float] = []

    def draw(self, policy: Policy, number: int, attempt: int) -> list[Rewarded]:
        size = self._settings.group_size
        episodes = [(case, rollout) for case in self._users[number] for rollout in range(size)]
        recorder = Recorder(policy.sampler())
        played = roll_out(
            {"agent": recorder},
            self._world,
            episodes,
            checkpoint_id=content_id("practice", number, attempt),
            rollout_seed=self._seed,
            limits=self._limits,
        )
        found = []
        for place, ((case, _), episode) in enumerate(zip(episodes, played, strict=True)):
            assert isinstance(episode, Trajectory)
            found.append(self._reward(place // size, case, episode, recorder))
        self.rewards.append(float(np.mean([item.reward for item in found])))
        return found

    def _reward(self, group: int, case: Case, episode: Trajectory, recorder: Recorder) -> Rewarded:
        ask, reply = recorder.last[int(episode.id, 16)]
        assert reply.ids
        opening = self._chat.encode(ask.conversation.messages, ask.conversation.tools)[0]
        return Rewarded(
            group=group,
            case_id=case.id,
            encoded=encode(opening, reply.ids),
            reward=rate(case, episode),
            logprob=(episode.detail or {}).get("logprob"),
            facts={"gameable": float(case.facts["gameable"])},
            text=" ".join(message.content for message in episode.messages),
        )


def encode(opening: Sequence[int], said: Sequence[int]) -> Encoded:
    """A prompt and its reply."""
    ids = np.array([*opening, *said], np.int64)
    return Encoded(ids=ids, agent=np.arange(len(ids)) >= len(opening), prompt=len(opening))


def run_ours(base: Path, settings: RewardSettings, users: Sequence[Sequence[Case]], seed: int) -> Block:
    """A block of our stage, logged on disk; it saves its weights in one further step, which is not counted."""
    ends: list[float] = []
    practice = Practice(base, settings, [*users, users[-1]], seed)
    with tempfile.TemporaryDirectory() as folder:
        (result,) = reinforce.train_on_rewards(
            base,
            settings.model_copy(update={"steps": len(users) + 1}),
            seed=seed,
            save_at=(len(users) + 1,),
            out_dir=Path(folder) / "out",
            draw=practice.draw,
            folder=Path(folder) / "log",
            progress=lambda *_: ends.append(time.process_time()),
        )
    seconds = np.diff(ends[WARMUP - 1 : -1]).tolist()
    return Block(seconds=tuple(seconds), rewards=tuple(practice.rewards[:-1]), losses=result.losses[:-1])


def train_late(cache: Path, base: Path) -> Path:
    """The directory that the late blocks start from: our own stage, some steps on."""
    settings = SHAPES["default"].model_copy(update={"steps": LATE_STEPS})
    directory = cache / f"late-{content_id(base.name, str(settings))}" / f"step-{LATE_STEPS:06d}"
    if not directory.exists():
        practice = Practice(base, settings, choose_users(settings, LATE_STEPS, 1000), 1000)
        reinforce.train_on_rewards(
            base, settings, seed=0, save_at=(LATE_STEPS,), out_dir=directory.parent, draw=practice.draw
        )
    return directory


# --- TRL -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Clock:
    """What hooks read: CPU time at every step's end, losses, rewards, and a step's inputs and gradients if wanted."""

    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    inputs: Mapping[str, torch.Tensor] | None = None
    gradients: dict[str, torch.Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Settings of TRL and transformers that change its speed alone."""

    attention: str = "sdpa"
    messages: bool = False
    cache: str | None = None


def timed_trainer(clock: Clock, *, watched: bool) -> type[Any]:
    """TRL's trainer with a clock; ``watched`` keeps inputs and gradients of its last step too."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(time.process_time())

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, callbacks=[Steps()], **options)
            self.remove_callback(PrinterCallback)

        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(model, inputs, *arguments, **options)
            clock.losses.append(loss.item())
            if watched:
                clock.inputs = inputs
            return loss

        def training_step(self, model: Any, *arguments: Any, **options: Any) -> Any:
            found = super().training_step(model, *arguments, **options)
            if watched:
                clock.gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
            return found

    return Timed


def run_trl(
    base: Path,
    settings: RewardSettings,
    users: Sequence[Sequence[Case]],
    seed: int,
    peer: Peer,
    *,
    clock: Clock | None = None,
) -> Block:
    """A block of TRL's trainer. With a ``clock`` the last step is watched."""
    import datasets  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    watched, clock = clock is not None, clock or Clock()
    chat, cases = TinyChat.load(base), [case for step in users for case in step]
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [{"prompt": prompt_of(case, tokenizer, chat, peer), "row": row} for row, case in enumerate(cases)]

    def reward(completion_ids: Sequence[Sequence[int]], row: Sequence[int], **_: Any) -> list[float]:
        found = [reward_reply(chat, cases[place], ids) for place, ids in zip(row, completion_ids, strict=True)]
        clock.rewards.append(float(np.mean(found)))
        return found

    with tempfile.TemporaryDirectory() as folder:
        trainer = timed_trainer(clock, watched=watched)(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=peer.attention),
            reward_funcs=reward,
            args=trl_settings(Path(folder), settings, len(users), seed, peer),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    seconds = np.diff(clock.ends[WARMUP - 1 :]).tolist()
    return Block(seconds=tuple(seconds), rewards=tuple(clock.rewards), losses=tuple(clock.losses))


def prompt_of(case: Case, tokenizer: Any, chat: TinyChat, peer: Peer) -> Any:
    """A user's prompt as TRL takes it; its tokens are ours, which is checked."""
    messages = [{"role": message.role, "content": message.content} for message in case.messages]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    if tokenizer(text)["input_ids"] != chat.encode(case.messages)[0]:
        raise ValueError(f"case {case.id}: TRL's tokens are not ours; check the tokenizer")
    return messages if peer.messages else text


def reward_reply(chat: TinyChat, case: Case, ids: Sequence[int]) -> float:
    """The reward of sampled tokens, up to where our sampler would have ended them."""
    ends = [place + 1 for place, token in enumerate(ids) if chat.ends_reply(token, place)]
    ids = ids[: ends[0]] if ends else ids
    message, stopped = chat.read_reply(ids, case.tools)
    if message is None:
        return reward_of(case, [Message(role="assistant", content=chat.decode(ids))], STOPPED_ENDINGS[stopped])
    return reward_of(case, [message], Ending.TURN_LIMIT if message.tool_calls else Ending.FINISHED)


def trl_settings(folder: Path, settings: RewardSettings, steps: int, seed: int, peer: Peer) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=settings.prompts_per_step * settings.group_size,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
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


# --- measurements ----------------------------------------------------------------------------------------------


def compare_updates(base: Path, settings: RewardSettings, peer: Peer) -> dict[str, float]:
    """The loss and gradient of TRL's first step and ours on the same rollouts."""
    (users,) = choose_users(settings, 1, 7)
    clock = Clock()
    run_trl(base, settings, [users], 7, peer, clock=clock)
    assert clock.inputs is not None and clock.gradients is not None
    chat = TinyChat.load(base)
    order = {tuple(chat.encode(case.messages)[0]): place for place, case in enumerate(users)}
    rollouts = []
    for row in range(len(clock.inputs["prompt_ids"])):
        prompt, said = (
            clock.inputs[f"{part}_ids"][row][clock.inputs[f"{part}_mask"][row].bool()].tolist()
            for part in ("prompt", "completion")
        )
        group = order[tuple(prompt)]
        reward = reward_reply(chat, users[group], said)
        rollouts.append(Rewarded(group=group, case_id=users[group].id, encoded=encode(prompt, said), reward=reward))
    policy = WholeTiny(base)
    (part,) = gradient_step(Batch.of(rollouts, settings), settings, {}, {}).parts(settings.token_budget)
    loss = descend(policy, part, settings.token_budget).loss
    ours = TinyLlama.load(base)
    with torch.no_grad():
        for weight, trained in zip(ours.parameters(), policy.trainable(), strict=True):
            assert trained.grad is not None
            weight.copy_(trained.grad)
    gradients = ours.export_weights()
    gap = max(float((gradients[name] - value).abs().max()) for name, value in clock.gradients.items())
    largest = max(float(value.abs().max()) for value in clock.gradients.values())
    return {"loss": loss, "loss_trl": clock.losses[0], "gradient_gap": gap / largest, "rollouts": len(rollouts)}


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
def timed_parts(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the CPU seconds of our parts by name, inside."""
    with (
        patch.object(tiny.TinyModel, "reply", timed(spent, "sampling", tiny.TinyModel.reply)),
        patch.object(ApprovalJudge, "judge", timed(spent, "judging", ApprovalJudge.judge)),
        patch.object(Practice, "draw", timed(spent, "drawing", Practice.draw)),
        patch.object(reinforce, "score_all", timed(spent, "scoring", score_all)),
        patch.object(loop, "descend", timed(spent, "update", descend)),
    ):
        yield


def measure_parts(base: Path, settings: RewardSettings) -> dict[str, float]:
    """Milliseconds a step of each part; "drawing" is what a draw takes beside its model and its judge."""
    users, spent = choose_users(settings, 10, 11), dict[str, float]()
    started = time.process_time()
    with timed_parts(spent):
        run_ours(base, settings, users, 11)
    whole = time.process_time() - started
    spent["drawing"] -= spent["sampling"] + spent["judging"]
    # What opens the model and saves it is among the rest.
    spent["rest"] = whole - sum(spent.values())
    return {name: round(1000 * value / (len(users) + 1), 1) for name, value in spent.items()}


def measure_parts_trl(base: Path, settings: RewardSettings, peer: Peer) -> dict[str, float]:
    """Milliseconds a step of TRL's parts; "drawing" is what a step's rollouts take beside sampling and judging."""
    from transformers import GenerationMixin
    from trl import GRPOTrainer

    users, spent, clock = choose_users(settings, 10, 11), dict[str, float](), Clock()
    inside = {
        "sampling": (GenerationMixin, "generate"),
        "judging": (ApprovalJudge, "judge"),
        "drawing": (GRPOTrainer, "_generate_and_score_completions"),
        "step": (GRPOTrainer, "training_step"),
    }
    with ExitStack() as stack:
        for name, (owner, method) in inside.items():
            stack.enter_context(patch.object(owner, method, timed(spent, name, getattr(owner, method))))
        run_trl(base, settings, users, 11, peer, clock=clock)
    spent["update"] = spent.pop("step") - spent["drawing"]
    spent["drawing"] -= spent["sampling"] + spent["judging"]
    return {name: round(1000 * value / len(users), 1) for name, value in spent.items()}


class ProductClock(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the CPU seconds of matrix products and of attention's kernels, under the name that ``place`` is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place, self.spent = "passes", dict.fromkeys(("sampling", "passes"), 0.0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket._qualified_op_name not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        started = time.process_time()
        found = func(*args, **(kwargs or {}))
        self.spent[self.place] += time.process_time() - started
        return found


def measure_products(base: Path, settings: RewardSettings) -> dict[str, float]:
    """Milliseconds a step of our matrix products and attention's kernels, in sampling and in all passes."""
    users, clock, reply = choose_users(settings, 10, 11), ProductClock(), tiny.TinyModel.reply

    def placed(*arguments: Any) -> Any:
        clock.place = "sampling"
        try:
            return reply(*arguments)
        finally:
            clock.place = "passes"

    with patch.object(tiny.TinyModel, "reply", placed), clock:
        run_ours(base, settings, users, 11)
    return {name: round(1000 * value / (len(users) + 1), 1) for name, value in clock.spent.items()}


def race(base: Path, shape: str, steps: int, repeats: int, peer: Peer) -> list[tuple[Block, Block]]:
    """Blocks of both sides in turns, over the same users."""
    settings, found = SHAPES[shape], []
    for repeat in range(repeats):
        users = choose_users(settings, steps + WARMUP, 100 + repeat)
        ours = run_ours(base, settings, users, repeat)
        found.append((ours, run_trl(base, settings, users, repeat, peer)))
    return found


def summarise(blocks: Sequence[tuple[Block, Block]]) -> dict[str, float]:
    ours, trl = (np.array([pair[side].rate for pair in blocks]) for side in (0, 1))
    return {
        "steps_per_cpu_second": round(float(np.median(ours)), 3),
        "trl_steps_per_cpu_second": round(float(np.median(trl)), 3),
        "ratio": round(float(np.median(ours / trl)), 2),
        "least_ratio": round(float((ours / trl).min()), 2),
        "largest_ratio": round(float((ours / trl).max()), 2),
        "blocks": len(blocks),
    }


def tell_rewards(blocks: Sequence[tuple[Block, Block]]) -> dict[str, float]:
    """Mean rewards of the first and last steps of either side."""
    found: dict[str, float] = {}
    for side, name in enumerate(("", "_trl")):
        rewards = np.array([pair[side].rewards for pair in blocks])
        found |= {f"first{name}": rewards[:, :EDGE].mean(), f"last{name}": rewards[:, -EDGE:].mean()}
    return {name: round(float(value), 3) for name, value in found.items()}


def try_peers(base: Path) -> tuple[Peer, dict[str, float]]:
    """The fastest of TRL's settings, and milliseconds a step of each at the default shape."""
    tried = {
        "sdpa": Peer(),
        "eager": Peer(attention="eager"),
        "messages": Peer(messages=True),
        "static_cache": Peer(cache="static"),
    }
    settings = SHAPES["default"]
    users = choose_users(settings, TRIED_STEPS + WARMUP, 13)
    took = {name: 1000 / run_trl(base, settings, users, 13, peer).rate for name, peer in tried.items()}
    return tried[min(took, key=took.__getitem__)], {name: round(value, 1) for name, value in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory for the taught base and its later self")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    early = teach(options.cache)
    starts = {"early": early, "late": train_late(options.cache, early)}
    peer, tried = try_peers(early)
    figures: dict[str, dict[str, float]] = {"peer": tried, "parity": compare_updates(early, SHAPES["default"], peer)}
    for (shape, phase), steps in STEPS.items():
        blocks = race(starts[phase], shape, steps, options.repeats, peer)
        figures[f"{shape}_{phase}"] = summarise(blocks)
        if (shape, phase) == ("default", "early"):
            figures["learning"] = tell_rewards(blocks)
    for phase, start in starts.items():
        figures[f"parts_{phase}"] = measure_parts(start, SHAPES["default"])
    for shape in SHAPES:
        figures[f"parts_trl_{shape}"] = measure_parts_trl(early, SHAPES[shape], peer)
        figures[f"products_{shape}"] = measure_products(early, SHAPES[shape])
    ratios = {f"{shape}_{phase}": figures[f"{shape}_{phase}"]["ratio"] for shape, phase in STEPS}
    show(document("grpo_cpu", PACKAGES, figures, {"steps_per_cpu_second_vs_trl": ratios}), as_json=options.json)


if __name__ == "__main__":
    main()
