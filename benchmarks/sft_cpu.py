"""Supervised fine-tuning in trees over cases against TRL's SFTTrainer: CPU seconds an episode, and what is learnt.

    python benchmarks/sft_cpu.py [--json] [--steps N]

Office demonstrations in the text format of calls. "llama" is a random Llama of SmolLM2-135M's shape (576 wide, 30
layers, 9 heads of which 3 for keys and values, 49,152 tokens, tied head) whose tokenizer makes prompts of SmolLM2's
length; "small" has the shape of a study's tiny base (96 wide, 3 layers) and the same tokenizer. "tiny" is an untaught
base of a study in its own format, which writes no tools and so shares little. Both sides train all weights in 32 bits
on one thread, AdamW at one rate, gradients clipped at 1, on the same demonstrations in the same steps of ``BATCH``, the
agent's own tokens as labels. "family" steps hold demonstrations of one family, "mixed" ones any.

CPU seconds are those of a step's passes and update, without encoding, on either side; the first step of a side does not
count. TRL takes as much of a step at once as 24 GiB of memory allow (``MICRO``), all of nearly one length, so next to
no padding; attention sdpa, without logging, saving, evaluation or checkpointing of activations. Sides take turns.

"curves" are losses on ``HELD_OUT`` other demonstrations, in nats a token of the agent, after steps of our own training
of "small" in family and in mixed steps, means over seeds: what a saving is worth.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import document, show
from trl_settings import AS_OURS

from holdfast.models.entries import ModelEntry
from holdfast.models.hub.chat import HubChat
from holdfast.models.hub.random_base import build_random
from holdfast.models.tiny import model as tiny
from holdfast.models.tiny.chat import TinyChat
from holdfast.study.stages import DemonstrationSection
from holdfast.suites.office.cases import lexicon, system_prompts
from holdfast.suites.office.demonstrations import demonstrations
from holdfast.training.encoding import Encoded, encode_episode, score_picked
from holdfast.training.loop.loop import Loop, isolated
from holdfast.training.loop.passes import score_within
from holdfast.training.policy.adapters import open_policy
from holdfast.training.sft.orders import family_steps
from holdfast.training.trees.parts import demonstration_step
from holdfast.training.trees.trees import count_tokens

os.environ["HF_HUB_OFFLINE"] = "1"
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")
BATCH = 24
COUNT, HELD_OUT = 600, 120
RATES = {"llama": 3e-4, "small": 1.5e-3, "tiny": 1.5e-3}
MICRO = {"llama": 4, "small": BATCH, "tiny": BATCH}  # of a step that TRL takes at once
CURVE_AT = (5, 10, 20, 40, 80)
SEEDS = (0, 1, 2)
# So many tokens make office prompts of SmolLM2's length, some 500 (asserted below).
VOCABULARY = 1600
SHAPES: dict[str, dict[str, int]] = {
    "llama": {"hidden": 576, "layers": 30, "heads": 9, "key_value_heads": 3, "ffn": 1536, "max_positions": 8192},
    "small": {"hidden": 96, "layers": 3, "heads": 3, "key_value_heads": 3, "ffn": 256, "max_positions": 8192},
}
TOKENS = {"llama": 49_152, "small": VOCABULARY}
Data = tuple[list[Encoded], list[str]]


def make_model(kind: str, directory: Path) -> Path:
    """A model that was never trained."""
    if kind == "tiny":
        tiny.build(lexicon(), directory, seed=0, system_prompts=system_prompts(), argument="object")
        return directory
    shape = SHAPES[kind]
    entry = ModelEntry(kind="random", architecture="llama", vocabulary=VOCABULARY, **(shape | {"layers": 1}))
    # A tokenizer of whole renderings, which takes one to render them with.
    first = build_random(directory / "first", entry.model_copy(update={"vocabulary": 300}), lexicon(), seed=0)
    chat = HubChat(first, calls="text")
    texts = [chat.tokenizer.decode(item.ids) for item in encode(kind, first, 1, COUNT)[0]]
    build_random(directory, entry, texts, seed=0)
    from transformers import AutoConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(directory)
    config.update({"vocab_size": TOKENS[kind], "num_hidden_layers": shape["layers"], "tie_word_embeddings": True})
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def encode(kind: str, directory: Path, seed: int, count: int) -> Data:
    """Demonstrations as tokens, and the family of each."""
    chat = TinyChat.load(directory) if kind == "tiny" else HubChat(directory, calls="text")
    pairs = demonstrations(seed, count)
    items = [encode_episode(chat, case.messages, episode.messages, case.tools) for case, episode in pairs]
    return items, [case.family for case, _ in pairs]


def take_steps(data: Data, grouping: str, count: int, seed: int = 0) -> list[Sequence[int]]:
    """The numbers of each step's demonstrations; steps that are not full, which an epoch ends in, are left out."""
    items, families = data
    order = family_steps(
        families if grouping == "family" else [""] * len(items), batch_size=BATCH, rng=np.random.default_rng(seed)
    )
    found: list[Sequence[int]] = []
    while len(found) < count:
        numbers = next(order).tolist()
        alike = len({families[number] for number in numbers}) == 1 or grouping != "family"
        if len(numbers) == BATCH and alike:
            found.append(numbers)
    return found


def settings_of(kind: str, steps: int) -> DemonstrationSection:
    """What both sides train with."""
    return DemonstrationSection(
        steps=steps, examples_per_step=BATCH, learning_rate=RATES[kind], warmup_steps=0, max_grad_norm=1.0
    )


def run_ours(kind: str, directory: Path, data: Data, steps: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
    """CPU seconds and losses of each step."""
    with isolated(0):
        loop = Loop(open_policy(directory), settings_of(kind, len(steps)), seed=0)
        taken = (demonstration_step([data[0][number] for number in numbers], 0.0) for numbers in steps)
        logs = list(loop.run(taken))
    return [log.cpu_seconds for log in logs], [log.metrics["loss"] for log in logs]


def run_theirs(
    kind: str, directory: Path, data: Data, steps: Sequence[Sequence[int]]
) -> tuple[list[float], list[float]]:
    """The same of TRL's trainer, which takes the demonstrations as tokens and labels."""
    from datasets import Dataset  # type: ignore[import-untyped]
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = []
    for number in (number for numbers in steps for number in numbers):
        item = data[0][number]
        labels = np.where(item.picked("agent"), item.ids, -100)
        rows.append({"input_ids": item.ids.tolist(), "labels": labels.tolist()})
    seconds: list[float] = []
    losses: list[float] = []
    started = [0.0]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            started[0] = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.process_time() - started[0])

        def on_log(self, *_: Any, logs: Mapping[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    with tempfile.TemporaryDirectory() as out, isolated(0):
        config = SFTConfig(
            output_dir=out,
            per_device_train_batch_size=MICRO[kind],
            gradient_accumulation_steps=BATCH // MICRO[kind],
            max_steps=len(steps),
            learning_rate=RATES[kind],
            **AS_OURS,
        )
        trainer = InOrder(
            model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa"),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(directory),
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return seconds, losses


def compare(kind: str, directory: Path, data: Data, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds an episode of the three sides, and what ours save."""
    figures: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {}
    for grouping in ("family", "mixed"):
        taken = take_steps(data, grouping, steps)
        ours, our_losses = run_ours(kind, directory, data, taken)
        theirs, their_losses = run_theirs(kind, directory, data, taken)
        apart = max(abs(one - other) / other for one, other in zip(our_losses, their_losses, strict=True))
        assert apart < 1e-3, f"{kind}, {grouping}: losses differ by {apart:.2g}; the sides do not do the same"
        seconds |= {grouping: ours[1:], f"trl_{grouping}": theirs[1:]}
        plain = sum(len(data[0][number].ids) for numbers in taken for number in numbers)
        tree = sum(count_tokens([data[0][number].ids for number in numbers]) for numbers in taken)
        figures[f"{kind}_{grouping}"] = {
            "ours_s_per_episode": float(np.median(ours[1:])) / BATCH,
            "trl_s_per_episode": float(np.median(theirs[1:])) / BATCH,
            "tokens_per_episode": plain / BATCH / steps,
            "tree_tokens_per_episode": tree / BATCH / steps,
            "losses_apart": apart,
        }
    ratios = {
        f"{kind}_{grouping}": {
            "cpu_seconds_saved": float(np.median(seconds[f"trl_{grouping}"]) / np.median(seconds[grouping])),
            "tokens_saved": figures[f"{kind}_{grouping}"]["tokens_per_episode"]
            / figures[f"{kind}_{grouping}"]["tree_tokens_per_episode"],
        }
        for grouping in ("family", "mixed")
    }
    return figures, ratios


def learn(directory: Path, data: Data, held_out: Sequence[Encoded]) -> dict[str, Any]:
    """The loss on other demonstrations after so many steps of the small model, in nats a token."""
    sequences = [score_picked(f"held-out {number}", item, "agent") for number, item in enumerate(held_out)]
    tokens = sum(item.scored for item in sequences)
    found: dict[str, Any] = {}
    for grouping in ("family", "mixed"):
        curves = []
        for seed in SEEDS:
            with isolated(seed):
                policy = open_policy(directory)
                loop = Loop(policy, settings_of("small", CURVE_AT[-1]), seed=seed)
                steps = take_steps(data, grouping, CURVE_AT[-1], seed)
                curve = []
                for log in loop.run(demonstration_step([data[0][n] for n in numbers], 0.0) for numbers in steps):
                    if log.step in CURVE_AT:
                        policy.set_training(False)
                        scores = score_within(policy, sequences, 32_768)
                        curve.append(-float(sum(part.double().sum() for part in scores)) / tokens)
                        policy.set_training(True)
                curves.append(curve)
        means = np.mean(curves, axis=0)
        found[f"curve_{grouping}"] = {f"step_{step}": float(mean) for step, mean in zip(CURVE_AT, means, strict=True)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="steps of a side, the first not counted (default 3)")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, more in (("tiny", 8), ("small", 3), ("llama", 1)):
            directory = make_model(kind, Path(scratch) / kind)
            data = encode(kind, directory, 0, COUNT)
            if kind != "tiny":
                length = float(np.mean([len(item.ids) for item in data[0]]))
                assert 500 < length < 630, f"episodes have {length:.0f} tokens, SmolLM2's about 565; set VOCABULARY"
            made = compare(kind, directory, data, more * arguments.steps)
            figures |= made[0]
            ratios |= made[1]
            if kind == "small":
                held_out, _ = encode(kind, directory, 99, HELD_OUT)
                figures |= learn(directory, data, held_out)
    show(document("sft_cpu", PACKAGES, figures, ratios), as_json=arguments.json)


if __name__ == "__main__":
    main()
