"""DPO on token trees against TRL's DPOTrainer on one accelerator: pairs a second, share of the matmul peak, memory.

    python benchmarks/trees_gpu.py [--json] [--pairs FILE | --data DIRECTORY] [--cases N] [--budget TOKENS]
    python benchmarks/trees_gpu.py --prepare FILE     writes the sample as one small file, on any machine with the data
    python benchmarks/trees_gpu.py --shape tiny --device cpu --pairs FILE     the whole path without an accelerator

Random weights in the shape of Llama-3.1-8B (rotations without its long-context scaling, which costs the same), bf16;
LoRA of rank 16 on all linear layers, activation checkpointing and precomputed references on both sides; AdamW, clipping
at 1, a constant rate. The pairs are the published safe_gpt5m ones of some random cases, in the tokenizer of
``published_pairs``: its 4,096 ids are valid, if not typical, in the big vocabulary, and no cost depends on them. TRL
takes 8 pairs a step of the same cases, in the micro-batch that is its fastest, pairs of a step sorted by length.
Seconds are wall-clock with the device synchronised, warm-up steps left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import published_pairs
import torch
from gpu_exactness import measure_exactness
from gpu_flops import StepFlops, count_flops
from gpu_models import (
    ALPHA,
    BETA,
    MASK,
    PAIRS_PER_STEP,
    RANK,
    RATE,
    SHAPES,
    SMALL,
    WARMUP,
    make_network,
    measure_matmul,
    peak_gb,
    reset_memory,
    synchronise,
)
from gpu_peer import PeerTiming, time_peer
from gpu_sample import Sample, read_sample, take_sample, write_sample
from machine import document, show

from holdfast.study.stages import StageSection
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.encoding import ScoredSequence, score_picked
from holdfast.training.loop.loop import Loop
from holdfast.training.loop.passes import score_within
from holdfast.training.policy.adapters import HubModel
from holdfast.training.trees.parts import TrainStep, pair_step

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")
MICRO_BATCHES = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTiming:
    """Seconds and work of some measured steps; ``flops`` are the sum over them."""

    pairs: int
    steps: int
    seconds: float
    tokens: int
    flops: StepFlops
    first_loss: float
    memory_gb: float | None
    reference_s_per_trajectory: float


def sequences_of(sample: Sample) -> list[ScoredSequence]:
    """The distinct trajectories of the sample's pairs."""
    names = sorted({name for pair in sample.pairs for name in (pair.chosen, pair.rejected)})
    return [score_picked(name, sample.encoded[name], MASK) for name in names]


def _epoch(sample: Sample, reference: Mapping[str, float], order: StageSection) -> Iterator[TrainStep]:
    objective, left = StageSection(objective="safety", beta=BETA, loss_mask=MASK), len(sample.pairs)
    for taken in pair_steps(sample.pairs, sample.encoded, order, seed=0):
        yield pair_step(taken, sample.encoded, reference, objective)
        left -= len(taken)
        if left <= 0:
            return


def open_tree_policy(shape: Mapping[str, int], device: torch.device) -> HubModel:
    """A random model under a new adapter, as a stage in bf16 trains it."""
    network = make_network(shape, device, "sdpa")
    return HubModel(
        Path("random"),
        network=network,
        lora_r=RANK,
        lora_alpha=ALPHA,
        precision="bf16",
        recompute=True,
        device=device,
    )


def time_trees(
    policy: HubModel, shape: Mapping[str, int], sample: Sample, order: StageSection, *, budget: int, limit: int
) -> TreeTiming:
    """At most ``limit`` tree steps of an epoch over the sample, after the warm-up, with the policy's own references."""
    device = policy.device
    sequences = sequences_of(sample)
    policy.set_training(False)
    score_within(policy, sequences[:1], budget)
    reset_memory(device)
    synchronise(device)
    started = time.perf_counter()
    sums = [float(logps.double().sum()) for logps in score_within(policy, sequences, budget)]
    reference_s = (time.perf_counter() - started) / len(sequences)
    reference = {item.name: value for item, value in zip(sequences, sums, strict=True)}
    steps = list(islice(_epoch(sample, reference, order), WARMUP + limit))
    warmup = min(WARMUP, len(steps) - 1)
    settings = StageSection(
        objective="safety", steps=len(steps), learning_rate=RATE, warmup_steps=0, max_grad_norm=1.0, token_budget=budget
    )
    loop = Loop(policy, settings, seed=0)
    begin, pairs, tokens = 0.0, 0, 0
    for log in loop.run(steps):
        if log.step <= warmup:
            synchronise(device)
            begin = time.perf_counter()
            continue
        pairs += log.examples
        tokens += log.work.tokens
    synchronise(device)
    seconds = time.perf_counter() - begin
    measured = [count_flops(step, loop.history.token_budget, shape, RANK, policy.masks) for step in steps[warmup:]]
    return TreeTiming(
        pairs=pairs,
        steps=len(measured),
        seconds=seconds,
        tokens=tokens,
        flops=sum(measured[1:], measured[0]),
        first_loss=loop.history.losses[0],
        memory_gb=peak_gb(device),
        reference_s_per_trajectory=reference_s,
    )


def _tree_row(timing: TreeTiming, peak: float | None) -> dict[str, float | None]:
    rate = timing.flops.needed / timing.seconds
    done = (timing.flops.needed + timing.flops.again) / timing.seconds
    return {
        "pairs_per_s": round(timing.pairs / timing.seconds, 4),
        "pairs": timing.pairs,
        "steps": timing.steps,
        "tokens_per_pair": round(timing.tokens / timing.pairs),
        "tokens_per_s": round(timing.tokens / timing.seconds),
        "needed_tflops_per_s": round(rate / 1e12, 3),
        "share_of_matmul": None if peak is None else round(rate / peak, 3),
        "share_of_matmul_with_recompute": None if peak is None else round(done / peak, 3),
        "attention_share_of_flops": round(timing.flops.attention / timing.flops.needed, 3),
        "peak_memory_gb": timing.memory_gb,
        "reference_s_per_trajectory": round(timing.reference_s_per_trajectory, 4),
        "first_loss": timing.first_loss,
    }


def _peer_row(timing: PeerTiming) -> dict[str, float | None]:
    return {
        "pairs_per_s": round(timing.pairs / timing.seconds, 4),
        "micro_batch": timing.micro_batch,
        "pairs": timing.pairs,
        "tokens_per_pair": round(timing.tokens / timing.pairs),
        "tokens_per_s": round(timing.tokens / timing.seconds),
        "peak_memory_gb": timing.memory_gb,
        "reference_s_per_pair": round(timing.reference_s_per_pair, 4),
        "first_loss": timing.first_loss,
    }


def run(sample: Sample, shape: Mapping[str, int], device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """All figures and ratios, as ``machine.document`` prints them."""
    peak = measure_matmul(device)
    small = SMALL if device.type == "cuda" else shape
    figures: dict[str, Any] = {"exactness": measure_exactness(sample, device, small)}
    peers = {size: time_peer(shape, device, sample, size, options.peer_steps) for size in options.micro_batches}
    figures |= {f"trl_micro_{size}": _peer_row(found) if found else None for size, found in peers.items()}
    reset_memory(device)
    policy = open_tree_policy(shape, device)
    orders = {
        "whole_case": StageSection(
            objective="safety", pairs_per_step=1, trajectories_per_case=1000, tokens_per_step=options.budget
        ),
        "8_pairs": StageSection(objective="safety", pairs_per_step=PAIRS_PER_STEP),
    }
    trees = {
        name: time_trees(policy, shape, sample, order, budget=options.budget, limit=options.tree_steps)
        for name, order in orders.items()
    }
    figures |= {f"tree_{name}": _tree_row(timing, peak) for name, timing in trees.items()}
    figures["sample"] = {"cases": len({pair.case_id for pair in sample.pairs}), "pairs": len(sample.pairs)}
    figures["matmul_tflops_per_s"] = None if peak is None else round(peak / 1e12, 1)
    fitting = [found for found in peers.values() if found]
    ratios: dict[str, Any] = {}
    if fitting:
        best = max(found.pairs / found.seconds for found in fitting)
        ratios["pairs_per_s_over_trl"] = {
            name: round(timing.pairs / timing.seconds / best, 2) for name, timing in trees.items()
        }
    result = document("trees_gpu", PACKAGES, figures, ratios)
    result["machine"]["accelerator"] = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return result


def _without_gaps(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that there are: people do not read what could not be measured."""
    inner = {name: _without_gaps(row) if isinstance(row, dict) else row for name, row in rows.items()}
    return {name: row for name, row in inner.items() if row is not None}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prepare", type=Path, help="write the sample to this .npz file and stop")
    parser.add_argument("--pairs", type=Path, help="a file of --prepare, in place of the archives")
    parser.add_argument("--data", type=Path, default=published_pairs.DATA, help="directory of the published archives")
    parser.add_argument("--cache", type=Path, default=published_pairs.CACHE, help="directory for what takes long")
    parser.add_argument("--cases", type=int, default=6, help="cases whose pairs the sample holds")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--budget", type=int, default=32_768, help="tokens of a tree at once")
    parser.add_argument("--tree-steps", type=int, default=30, help="measured tree steps at most, in each order")
    parser.add_argument("--peer-steps", type=int, default=3, help="measured steps of 8 pairs of TRL")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=list(MICRO_BATCHES), help="pairs TRL tries")
    options = parser.parse_args(arguments)
    sample = read_sample(options.pairs) if options.pairs else take_sample(options.data, options.cache, options.cases)
    if options.prepare:
        write_sample(options.prepare, sample)
        return
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    if options.device == "cuda":
        # TRL would spread over several devices, and one is compared.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        if not torch.cuda.is_available():
            parser.error("no CUDA device here; try --shape tiny --device cpu")
    result = run(sample, SHAPES[options.shape], torch.device(options.device), options)
    if not options.json:
        result |= {section: _without_gaps(result[section]) for section in ("figures", "ratios")}
    show(result, as_json=options.json)


if __name__ == "__main__":
    main()
