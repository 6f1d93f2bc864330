"""DPO on token trees against TRL's DPOTrainer and a plain loop: exactness, CPU time, tokens, the reference pass.

    python benchmarks/trees.py [--json] [--data DIRECTORY] [--cache DIRECTORY] [--cases N] [--peer-steps N]

The published safe_gpt5m pairs, a tokenizer trained on their texts, a random Llama of 4 M weights trained whole in fp32;
every side takes the same model class of transformers, AdamW, clipping at 1 and a constant rate, on one thread, the
references computed beforehand. CPU seconds of this process, a warm-up step left out. TRL takes its own 8 pairs a step
from the same cases, one pair at a time, which is its fastest here (no padding).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published_pairs
import torch
from machine import document, show
from published_pairs import PublishedPairs
from trl_peer import PACKAGES, PAIRS_PER_STEP, PlainLoop, Timing, TRLPeer

from holdfast.records import PreferencePair
from holdfast.study.stages import StageSection
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.encoding import LossMask, ScoredSequence, score_picked
from holdfast.training.loop.loop import Loop
from holdfast.training.loop.passes import descend, score, score_within
from holdfast.training.policy.adapters import HubModel
from holdfast.training.trees.packing import pack
from holdfast.training.trees.parts import TrainStep, pair_step
from holdfast.training.trees.trees import count_tokens

MASK: LossMask = "completion"  # what TRL's loss counts
BUDGET = 32_768
BETA, RATE = 0.1, 1e-5
# All pairs of a case a step; steps of so many pairs in sub-trees of 8, as a study takes them; pairs in random order.
ORDERS = {
    "whole_case": StageSection(objective="safety", pairs_per_step=1, trajectories_per_case=1000),
    "32_pairs": StageSection(objective="safety", pairs_per_step=32),
    "8_pairs": StageSection(objective="safety", pairs_per_step=PAIRS_PER_STEP),
    "8_pairs_pairwise": StageSection(objective="safety", pairs_per_step=PAIRS_PER_STEP, pairwise=True),
}
MEASURED = {"whole_case": 5, "32_pairs": 5, "8_pairs": 12, "8_pairs_pairwise": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTiming:
    """CPU seconds and tokens per pair of some tree steps, and per trajectory of the reference pass."""

    pairs: int
    train_s_per_pair: float
    tokens_per_pair: float
    reference_s_per_trajectory: float
    losses: tuple[float, ...]


def draw_cases(published: PublishedPairs, count: int) -> list[PreferencePair]:
    """All pairs of some cases, drawn at random."""
    cases = sorted({pair.case_id for pair in published.pairs})
    drawn = np.random.default_rng(0).choice(len(cases), count, replace=False)
    kept = {cases[number] for number in drawn.tolist()}
    return [pair for pair in published.pairs if pair.case_id in kept]


def sequences_of(pairs: Sequence[PreferencePair], published: PublishedPairs) -> list[ScoredSequence]:
    """The distinct trajectories of some pairs."""
    names = sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)})
    return [score_picked(name, published.encoded[name], MASK) for name in names]


def time_trees(model: Path, pairs: Sequence[PreferencePair], published: PublishedPairs, name: str) -> TreeTiming:
    """The reference pass over the pairs' trajectories, and steps in an order, of which the first warms up."""
    torch.set_num_threads(1)
    policy = HubModel(model)
    sequences = sequences_of(pairs, published)
    score_within(policy, sequences[:1], BUDGET)
    started = time.process_time()
    sums = [float(logps.double().sum()) for logps in score_within(policy, sequences, BUDGET)]
    reference_s = (time.process_time() - started) / len(sequences)
    reference = {item.name: value for item, value in zip(sequences, sums, strict=True)}
    settings = StageSection(
        objective="safety",
        steps=1 + MEASURED[name],
        learning_rate=RATE,
        warmup_steps=0,
        max_grad_norm=1.0,
        token_budget=BUDGET,
    )
    loop = Loop(policy, settings, seed=0)
    begin, counted, tokens = 0.0, 0, 0
    for log in loop.run(_steps(pairs, published, reference, ORDERS[name])):
        if log.step == 1:
            begin = time.process_time()
            continue
        counted += log.examples
        tokens += log.work.tokens
    return TreeTiming(
        pairs=counted,
        train_s_per_pair=(time.process_time() - begin) / counted,
        tokens_per_pair=tokens / counted,
        reference_s_per_trajectory=reference_s,
        losses=tuple(loop.history.losses),
    )


def _steps(
    pairs: Sequence[PreferencePair], published: PublishedPairs, reference: dict[str, float], order: StageSection
) -> Iterator[TrainStep]:
    objective = StageSection(objective="safety", beta=BETA, loss_mask=MASK)
    for taken in pair_steps(pairs, published.encoded, order, seed=0):
        yield pair_step(taken, published.encoded, reference, objective)


def count_epoch(published: PublishedPairs, order: StageSection) -> int:
    """Tokens that the forward passes of one epoch over all pairs take in an order."""
    tokens, left = 0, len(published.pairs)
    for taken in pair_steps(published.pairs, published.encoded, order, seed=0):
        names = {name for pair in taken for name in (pair.chosen, pair.rejected)}
        tokens += count_tokens([published.encoded[name].ids for name in sorted(names)])
        left -= len(taken)
        if left <= 0:
            break
    return tokens


def measure_exactness(model: Path, pairs: Sequence[PreferencePair], published: PublishedPairs) -> dict[str, float]:
    """How far tree log-probabilities, loss and gradients are from those of single sequences and of TRL.

    Log-probabilities are the worst scored token of all trajectories, in nats, in fp32 and for bf16 each path against
    plain fp32. Loss and gradients are relative, of ``pairs``, the gradient by the L2 norm over all weights.
    """
    sequences = sequences_of(pairs, published)
    plain = {precision: _plain_logps(model, sequences, precision) for precision in ("fp32", "bf16")}
    found: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        policy = HubModel(model, precision="bf16" if precision == "bf16" else "fp32")
        with torch.no_grad():
            packed = pack(sequences, policy.device, masks=policy.masks)
            tree = score(policy, packed)
        found[f"tree_{precision}_max"] = float((tree - plain["fp32"]).abs().max())
        found[f"tree_{precision}_mean"] = float((tree - plain["fp32"]).abs().mean())
    found["plain_bf16_max"] = float((plain["bf16"] - plain["fp32"]).abs().max())
    found["plain_bf16_mean"] = float((plain["bf16"] - plain["fp32"]).abs().mean())
    # A moved reference, so that the loss is not log 2 whatever the policy.
    with tempfile.TemporaryDirectory() as folder:
        start = published_pairs.save_model(Path(folder), published.tokenizer, seed=1, max_positions=published.longest())
        return found | _compare_with_trl(model, start, pairs, published)


def _plain_logps(model: Path, sequences: Sequence[ScoredSequence], precision: str) -> torch.Tensor:
    """Every sequence by itself through transformers' own model, with sdpa attention."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa").eval()
    rows = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for item in sequences:
            ids, places = torch.from_numpy(item.ids), torch.from_numpy(np.flatnonzero(item.weights))
            hidden = network.model(input_ids=ids[None], use_cache=False).last_hidden_state[0, places - 1]
            logits = network.lm_head(hidden).float()
            rows.append(torch.log_softmax(logits, -1).gather(1, ids[places][:, None])[:, 0])
    return torch.cat(rows)


def _compare_with_trl(
    model: Path, reference_dir: Path, pairs: Sequence[PreferencePair], published: PublishedPairs
) -> dict[str, float]:
    peer = TRLPeer(
        model,
        pairs,
        published.encoded,
        published.tokenizer,
        pairs_per_step=len(pairs),
        micro_batch=1,
        reference_dir=reference_dir,
        beta=BETA,
    ).trainer
    rows = [peer.data_collator([peer.train_dataset[number]]) for number in range(len(pairs))]
    losses = []
    for row in rows:
        loss = peer.compute_loss(peer.model, row) / len(pairs)
        loss.backward()
        losses.append(loss.item())
    theirs = {name: weight.grad for name, weight in peer.model.named_parameters()}
    reference = HubModel(reference_dir)
    sequences = sequences_of(pairs, published)
    scores = score_within(reference, sequences, BUDGET)
    known = {item.name: float(logps.double().sum()) for item, logps in zip(sequences, scores, strict=True)}
    policy = HubModel(model)
    stage = StageSection(objective="safety", beta=BETA, loss_mask=MASK)
    step = pair_step(pairs, published.encoded, known, stage)
    ours = sum(descend(policy, part, BUDGET).loss for part in step.parts(BUDGET))
    gaps, norms = 0.0, 0.0
    for name, weight in policy.named_weights():
        gaps += float((weight.grad - theirs[name]).double().square().sum())
        norms += float(theirs[name].double().square().sum())
    return {
        "loss": ours,
        "loss_relative_to_trl": abs(ours - sum(losses)) / sum(losses),
        "gradient_relative_to_trl": (gaps / norms) ** 0.5,
    }


def _peer_row(timing: Timing) -> dict[str, float]:
    return {
        "train_s_per_pair": round(timing.train_s_per_pair, 4),
        "tokens_per_pair": round(timing.padded_tokens / timing.pairs),
        "reference_s_per_pair": round(timing.reference_s_per_pair, 4),
    }


def _tree_row(timing: TreeTiming) -> dict[str, float]:
    return {
        "pairs": timing.pairs,
        "train_s_per_pair": round(timing.train_s_per_pair, 4),
        "tokens_per_pair": round(timing.tokens_per_pair),
        "reference_s_per_trajectory": round(timing.reference_s_per_trajectory, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=published_pairs.DATA, help="directory of the published archives")
    parser.add_argument("--cache", type=Path, default=published_pairs.CACHE, help="directory for what takes long")
    parser.add_argument("--cases", type=int, default=6, help="cases whose pairs the trees train on")
    parser.add_argument("--peer-steps", type=int, default=2, help="measured steps of TRL and of the plain loop")
    options = parser.parse_args()
    published = published_pairs.load(options.cache, data=options.data)
    pairs = draw_cases(published, options.cases)
    shuffled = [pairs[number] for number in np.random.default_rng(1).permutation(len(pairs))]
    taken = shuffled[: PAIRS_PER_STEP * (1 + options.peer_steps)]
    with tempfile.TemporaryDirectory() as folder:
        model = published_pairs.save_model(Path(folder), published.tokenizer, seed=0, max_positions=published.longest())
        figures: dict[str, dict[str, Any]] = {"exactness": measure_exactness(model, shuffled[:4], published)}
        trees = {name: time_trees(model, pairs, published, name) for name in ORDERS}
        plain_loop = PlainLoop(model, published.encoded)
        references, plain_reference_s = plain_loop.references(taken)
        plain = plain_loop.run(taken, references, steps=options.peer_steps)
        peer = TRLPeer(model, taken, published.encoded, published.tokenizer, steps=options.peer_steps)
        trl = peer.run()
        head = TRLPeer(model, taken[:4], published.encoded, published.tokenizer, pairs_per_step=4, warmup=0)
        share = head.head_share()
    naive = published_pairs.count_tokens(published.pairs, published.encoded)["naive"]
    epochs = {name: count_epoch(published, order) for name, order in ORDERS.items()}
    figures |= {
        "sample": {"cases": options.cases, "pairs": len(pairs), "trajectories": len(sequences_of(pairs, published))},
        "trl": {**_peer_row(trl), "head_share": round(share, 3)},
        "plain_loop": {**_peer_row(plain), "reference_s_per_pair": round(plain_reference_s, 4)},
        **{f"tree_{name}": _tree_row(timing) for name, timing in trees.items()},
        "epoch_tokens": {"pair_by_pair": naive, **epochs},
    }
    figures |= {f"prefixes_{name}": row for name, row in published_pairs.count_prefix_failures(published).items()}
    best = trees["whole_case"]
    reference_s = best.reference_s_per_trajectory * figures["sample"]["trajectories"] / len(pairs)
    ratios = {
        "pairs_per_cpu_s_over_trl": {
            name: round(trl.train_s_per_pair / timing.train_s_per_pair, 2) for name, timing in trees.items()
        },
        "pairs_per_cpu_s_over_plain_loop": {
            name: round(plain.train_s_per_pair / timing.train_s_per_pair, 2) for name, timing in trees.items()
        },
        "pairs_per_cpu_s_over_trl_without_its_head": {
            name: round(trl.train_s_per_pair * (1 - share) / timing.train_s_per_pair, 2)
            for name, timing in trees.items()
        },
        "epoch_tokens_fewer": {name: round(naive / tokens, 2) for name, tokens in epochs.items()},
        "reference_pass": {
            "over_trl": round(trl.reference_s_per_pair / reference_s, 2),
            "over_plain_loop": round(plain_reference_s / reference_s, 2),
        },
    }
    show(document("trees", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
