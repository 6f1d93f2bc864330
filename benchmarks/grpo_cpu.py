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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from grpo_sides import (
    PACKAGES,
    Block,
    Peer,
    Practice,
    Task,
    Watch,
    compare_step,
    places_of_ours,
    places_of_trl,
    run_ours,
    run_trl,
    timed_calls,
)
from machine import document, show
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.models.tiny import model as tiny
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import TinyLlama
from holdfast.records import Case, Ending, Message, Trajectory, content_id
from holdfast.rollout.episode import STOPPED_ENDINGS
from holdfast.study.sections import SFTSection, SuiteSection
from holdfast.study.users import ApprovalSection, to_rating
from holdfast.suites import open_world
from holdfast.suites.approval import practice_cases
from holdfast.suites.approval.demonstrations import taught_settings, teach_beside
from holdfast.training.encoding import encode_episode
from holdfast.training.loop.passes import descend
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import WholeTiny
from holdfast.training.rl import stage as reinforce
from holdfast.training.rl.groups import Batch, gradient_step
from holdfast.training.sft.stage import train_sft

CACHE = Path(tempfile.gettempdir()) / "holdfast-grpo-cpu"
TAUGHT = 3000  # demonstrations of the base
MAX_TOKENS = 24
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
JUDGING = {"judging": (ApprovalJudge, "judge")}
SHAPES: Mapping[str, RewardSettings] = {
    "default": RewardSettings(method="grpo", max_tokens=MAX_TOKENS, warmup_steps=0),
    "published": RewardSettings(method="grpo", max_tokens=MAX_TOKENS, warmup_steps=0, prompts_per_step=2, group_size=5),
    "held": RewardSettings(method="grpo", max_tokens=MAX_TOKENS, warmup_steps=0, kl_weight=HELD),
}
# Kernels that multiply matrices, and those of attention.
PRODUCTS = frozenset(
    ["mkldnn::_linear_pointwise", *(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm"))]
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


def open_task(base: Path) -> Task:
    """The users' prompts and their reward, in the chat format of a base."""
    chat = TinyChat.load(base)
    return Task(
        base=base,
        world=open_world(SuiteSection(name="approval")),
        prompt=lambda case: chat.encode(case.messages, case.tools)[0],
        shown=lambda case: [{"role": message.role, "content": message.content} for message in case.messages],
        rate=rate,
        score=lambda case, ids: reward_reply(chat, case, ids),
        facts=lambda case: {"gameable": float(case.facts["gameable"])},
    )


def train_late(cache: Path, base: Path) -> Path:
    """The directory that the late blocks start from: our own stage, some steps on."""
    settings = SHAPES["default"].model_copy(update={"steps": LATE_STEPS})
    directory = cache / f"late-{content_id(base.name, str(settings))}" / f"step-{LATE_STEPS:06d}"
    if not directory.exists():
        practice = Practice(open_task(base), settings, choose_users(settings, LATE_STEPS, 1000), 1000)
        reinforce.train_on_rewards(
            base, settings, seed=0, save_at=(LATE_STEPS,), out_dir=directory.parent, draw=practice.draw
        )
    return directory


def reward_reply(chat: TinyChat, case: Case, ids: Sequence[int]) -> float:
    """The reward of sampled tokens, up to where our sampler would have ended them."""
    ends = [place + 1 for place, token in enumerate(ids) if chat.ends_reply(token, place)]
    ids = ids[: ends[0]] if ends else ids
    message, stopped = chat.read_reply(ids, case.tools)
    if message is None:
        return reward_of(case, [Message(role="assistant", content=chat.decode(ids))], STOPPED_ENDINGS[stopped])
    return reward_of(case, [message], Ending.TURN_LIMIT if message.tool_calls else Ending.FINISHED)


# --- measurements ----------------------------------------------------------------------------------------------


def compare_updates(base: Path, settings: RewardSettings, peer: Peer) -> dict[str, float]:
    """The loss and gradient of TRL's first step and ours on the same rollouts."""
    watch = Watch()
    run_trl(open_task(base), settings, choose_users(settings, 1, 7), 7, peer, warmup=1, watch=watch)
    policy = WholeTiny(base)
    (part,) = gradient_step(Batch.of(watch.rollouts, settings), settings, {}, {}).parts(settings.token_budget)
    loss = descend(policy, part, settings.token_budget).loss
    ours = TinyLlama.load(base)
    with torch.no_grad():
        for weight, trained in zip(ours.parameters(), policy.trainable(), strict=True):
            assert trained.grad is not None
            weight.copy_(trained.grad)
    return compare_step(watch, loss, ours.export_weights())


def measure_parts(base: Path, settings: RewardSettings) -> dict[str, float]:
    """Milliseconds a step of each part; "drawing" is what a draw takes beside its model and its judge."""
    users, spent = choose_users(settings, 10, 11), dict[str, float]()
    started = time.process_time()
    with timed_calls(spent, places_of_ours(tiny.TinyModel) | JUDGING):
        run_ours(open_task(base), settings, users, 11, warmup=WARMUP)
    whole = time.process_time() - started
    spent["drawing"] -= spent["sampling"] + spent["judging"]
    # What opens the model is among the rest.
    spent["rest"] = whole - sum(spent.values())
    return {name: round(1000 * value / len(users), 1) for name, value in spent.items()}


def measure_parts_trl(base: Path, settings: RewardSettings, peer: Peer) -> dict[str, float]:
    """Milliseconds a step of TRL's parts; "drawing" is what a step's rollouts take beside sampling and judging."""
    users, spent = choose_users(settings, 10, 11), dict[str, float]()
    with timed_calls(spent, places_of_trl() | JUDGING):
        run_trl(open_task(base), settings, users, 11, peer, warmup=WARMUP)
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
        run_ours(open_task(base), settings, users, 11, warmup=WARMUP)
    return {name: round(1000 * value / len(users), 1) for name, value in clock.spent.items()}


def race(base: Path, shape: str, steps: int, repeats: int, peer: Peer) -> list[tuple[Block, Block]]:
    """Blocks of both sides in turns, over the same users."""
    settings, task, found = SHAPES[shape], open_task(base), []
    for repeat in range(repeats):
        users = choose_users(settings, steps + WARMUP, 100 + repeat)
        ours = run_ours(task, settings, users, repeat, warmup=WARMUP)
        found.append((ours, run_trl(task, settings, users, repeat, peer, warmup=WARMUP)))
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
    settings, task = SHAPES["default"], open_task(base)
    users = choose_users(settings, TRIED_STEPS + WARMUP, 13)
    took = {name: 1000 / run_trl(task, settings, users, 13, peer, warmup=WARMUP).rate for name, peer in tried.items()}
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
