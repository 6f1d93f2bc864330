"""Cost of training on trees against trajectories a case and prompt length; which attention is fastest where.

    python benchmarks/scaling.py [--json] [--repeats N]

Synthetic cases: a random prompt and k continuations of which neighbours share a first part; a random Llama of 4 M
weights (as in ``published_pairs``), trained whole in fp32. Times are CPU seconds on one thread of one forward and
backward pass, the least of the repeats, which are interleaved. The plain loop takes single sequences through the same
weights with sdpa; it is measured on ``plain_measured`` of a cell's k sequences, so ``plain_s`` is of those alone and
``over_plain`` compares seconds a sequence. The fit is time ~ trunk tokens, scored tokens, attended pairs and blocks,
non-negative least squares of relative errors; ``predicted`` quantities come from the tree before anything is run.
The last part holds three attentions against each other on the same sequences: blocks with masks as the plan's rule
chooses, blocks without masks, and the distinct sequences in two batches of like lengths, padded on the right.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import published_pairs
import torch
from machine import document, show
from numpy.typing import NDArray
from scipy.optimize import nnls

from holdfast.training.encoding import ScoredSequence
from holdfast.training.loop.passes import score
from holdfast.training.policy.adapters import HubModel
from holdfast.training.trees.packing import Packed, pack_tree
from holdfast.training.trees.tree_attention import Block
from holdfast.training.trees.trees import TokenTree, grow

PACKAGES = ("torch", "numpy", "transformers")
VOCABULARY = 4096
COUNTS = (1, 2, 4, 8, 16, 32)
PROMPTS = (0, 256, 1024, 2600)
SUFFIX, SHARED = (64, 192), 32  # tokens of a continuation; of its first part, shared by two neighbours
PLAIN_TOKENS = 3_000  # a cell's plain loop takes sequences up to so many tokens, and two at least
SHAPE_TOKENS = 10_000  # a shape's passes are repeated until its sequences come to so many tokens
# Prompt, shortest and longest continuation, continuations.
SHAPES: Mapping[str, tuple[int, int, int, int]] = {
    "no_prompt_8": (0, 10, 40, 8),
    "prompt_16_8": (16, 10, 40, 8),
    "prompt_64_8": (64, 10, 40, 8),
    "prompt_64_32": (64, 10, 40, 32),
    "prompt_256_16": (256, 64, 192, 16),
    "prompt_1024_8": (1024, 64, 192, 8),
}
TERMS = ("token_us", "scored_us", "pair_ns", "block_us")
UNITS = (1e6, 1e6, 1e9, 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Some sequences, their tree, and the least CPU seconds of a pass over them."""

    sequences: tuple[ScoredSequence, ...]
    tree: TokenTree
    packed: Packed
    seconds: float = float("inf")
    plain_seconds: float = float("inf")
    plain_measured: int = 0

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The calls that attention takes."""
        return self.packed.plan.blocks if self.packed.plan else ()

    def predictors(self) -> tuple[int, int, int, int]:
        """Trunk tokens, scored tokens, pairs that attention must compute, blocks that it takes."""
        return (
            len(self.tree),
            len(self.packed.targets),
            int(self.tree.positions.sum()) + len(self.tree),
            len(self.blocks),
        )


def draw_sequences(
    prompt: int, shortest: int, longest: int, count: int, rng: np.random.Generator, *, shared: int
) -> tuple[ScoredSequence, ...]:
    """``count`` continuations of one prompt; each two neighbours share their first ``shared`` tokens."""
    opening = rng.integers(2, VOCABULARY, prompt)
    found = []
    for number in range(count):
        if number % 2 == 0:
            first = rng.integers(2, VOCABULARY, shared)
        rest = rng.integers(2, VOCABULARY, rng.integers(shortest, longest + 1) - shared)
        ids = np.concatenate([opening, first, rest])
        weights = (np.arange(len(ids)) >= max(prompt, 1)).astype(np.float32)
        found.append(ScoredSequence(name=f"sequence {number}", ids=ids, weights=weights))
    return tuple(found)


def cell_of(sequences: tuple[ScoredSequence, ...], *, masks: bool = True) -> Cell:
    tree = grow([item.ids for item in sequences])
    return Cell(sequences=sequences, tree=tree, packed=pack_tree(sequences, tree, torch.device("cpu"), masks=masks))


def save_model(directory: Path) -> Path:
    """The random Llama of ``published_pairs`` with a tokenizer of numbered words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w0", pad_token="w1")
    return published_pairs.save_model(directory, tokenizer, seed=0, max_positions=4096)


# --- passes ----------------------------------------------------------------------------------------------------


def least_seconds(passes: Mapping[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, float]:
    """The least CPU seconds of each forward and backward pass; all take turns."""
    least = dict.fromkeys(passes, float("inf"))
    for _ in range(repeats):
        for name, run in passes.items():
            started = time.process_time()
            (-run().mean()).backward()  # type: ignore[no-untyped-call]
            least[name] = min(least[name], time.process_time() - started)
    return least


class Plain:
    """The same weights with sdpa, on single sequences or padded batches."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="sdpa"
        )

    def scores(self, sequences: Sequence[ScoredSequence]) -> torch.Tensor:
        """Log-probabilities of all scored tokens, the sequences as one batch padded on the right."""
        longest = max(len(item.ids) for item in sequences)
        ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
        picked = torch.zeros(ids.shape, dtype=torch.bool)
        for row, item in enumerate(sequences):
            ids[row, : len(item.ids)] = torch.from_numpy(item.ids)
            picked[row, : len(item.ids)] = torch.from_numpy(item.weights > 0)
        # Pads stand after every token that counts, so a causal mask hides them.
        states = self._model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = self._model.lm_head(states[:, :-1][picked[:, 1:]])
        return -torch.nn.functional.cross_entropy(logits, ids[picked], reduction="none")

    def loop(self, sequences: Sequence[ScoredSequence]) -> torch.Tensor:
        """Forward and backward one by one; the last is left to the caller."""
        for item in sequences[:-1]:
            (-self.scores([item]).mean()).backward()  # type: ignore[no-untyped-call]
        return self.scores(sequences[-1:])

    def buckets(self, sequences: Sequence[ScoredSequence], count: int = 2) -> torch.Tensor:
        """As padded batches of like lengths; the last one's backward is left to the caller."""
        ordered = sorted(sequences, key=lambda item: len(item.ids))
        parts = [part for part in np.array_split(np.arange(len(ordered)), count) if len(part)]
        for part in parts[:-1]:
            (-self.scores([ordered[n] for n in part]).mean()).backward()  # type: ignore[no-untyped-call]
        return self.scores([ordered[n] for n in parts[-1]])


# --- cost against k and prompt length --------------------------------------------------------------------------


def measure_grid(policy: HubModel, plain: Plain, repeats: int) -> dict[tuple[int, int], Cell]:
    """Cells by prompt length and number of continuations."""
    rng = np.random.default_rng(0)
    found = {}
    for prompt in PROMPTS:
        sequences = draw_sequences(prompt, *SUFFIX, max(COUNTS), rng, shared=SHARED)
        for count in COUNTS:
            cell = cell_of(sequences[:count])
            taken = sequences[: _plain_count(sequences[:count])]
            times = least_seconds(
                {"tree": partial(score, policy, cell.packed), "plain": partial(plain.loop, taken)},
                repeats,
            )
            found[prompt, count] = Cell(
                sequences=cell.sequences,
                tree=cell.tree,
                packed=cell.packed,
                seconds=times["tree"],
                plain_seconds=times["plain"],
                plain_measured=len(taken),
            )
    return found


def _plain_count(sequences: Sequence[ScoredSequence]) -> int:
    """How many of the sequences, from the first, hold ``PLAIN_TOKENS`` tokens or less; two at least."""
    inside = np.cumsum([len(item.ids) for item in sequences]) <= PLAIN_TOKENS
    return min(len(sequences), max(2, int(inside.sum())))


def fit(cells: Sequence[Cell]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds per unit of each predictor, and the predicted seconds of each cell."""
    inputs = np.array([cell.predictors() for cell in cells], np.float64)
    seconds = np.array([cell.seconds for cell in cells])
    costs, _ = nnls(inputs / seconds[:, None], np.ones(len(cells)))
    return costs, inputs @ costs


def describe_fit(cells: Sequence[Cell], *, left_out: Sequence[Cell] = ()) -> dict[str, float]:
    """The fit's costs and how far it is off, in shares of the measured time."""
    costs, predicted = fit(cells)
    measured = np.array([cell.seconds for cell in cells])
    off = np.abs(predicted - measured) / measured
    row = {name: round(float(cost) * unit, 3) for name, cost, unit in zip(TERMS, costs, UNITS, strict=True)}
    row |= {
        "r2": round(1 - float(((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()), 4),
        "median_relative_error": round(float(np.median(off)), 3),
        "max_relative_error": round(float(off.max()), 3),
    }
    if left_out:
        inputs = np.array([cell.predictors() for cell in left_out], np.float64)
        wanted = np.array([cell.seconds for cell in left_out])
        row["max_relative_error_left_out"] = round(float(np.abs(inputs @ costs / wanted - 1).max()), 3)
    return row


def describe_cell(cell: Cell, predicted: float) -> dict[str, float]:
    tokens, scored, attended, blocks = cell.predictors()
    plain_each = cell.plain_seconds / cell.plain_measured
    return {
        "tokens": tokens,
        "plain_tokens": sum(len(item.ids) for item in cell.sequences),
        "scored": scored,
        "attended": attended,
        "blocks": blocks,
        "tree_s": round(cell.seconds, 4),
        "predicted_s": round(predicted, 4),
        "plain_s": round(cell.plain_seconds, 4),
        "plain_measured": cell.plain_measured,
        "over_plain": round(plain_each / (cell.seconds / len(cell.sequences)), 2),
    }


# --- which attention -------------------------------------------------------------------------------------------


def compare_attentions(policy: HubModel, plain: Plain, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a pass by shape of tree under three attentions, and what the rule chose."""
    rng = np.random.default_rng(1)
    rows = {}
    for name, (prompt, shortest, longest, count) in SHAPES.items():
        sequences = draw_sequences(prompt, shortest, longest, count, rng, shared=shortest // 2)
        rule, split = cell_of(sequences), cell_of(sequences, masks=False)
        seconds = least_seconds(
            {
                "rule": partial(score, policy, rule.packed),
                "split": partial(score, policy, split.packed),
                "padded": partial(plain.buckets, sequences),
            },
            max(repeats, min(20, SHAPE_TOKENS // (count * (prompt + longest)))),
        )
        kinds = [block.kind for block in rule.blocks]
        rows[name] = {
            "tokens": len(rule.tree),
            "plain_tokens": sum(len(item.ids) for item in sequences),
            "masked_blocks": kinds.count("mask"),
            "other_blocks": len(kinds) - kinds.count("mask"),
            "blocks_without_masks": len(split.blocks),
            **{f"{way}_ms": round(1000 * value, 2) for way, value in seconds.items()},
            "rule_over_best": round(seconds["rule"] / min(seconds.values()), 3),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=2, help="passes of the grid that count")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder))
        policy, plain = HubModel(model), Plain(model)
        attentions = compare_attentions(policy, plain, options.repeats)
        grid = measure_grid(policy, plain, options.repeats)
    cells = list(grid.values())
    _, predicted = fit(cells)
    figures: dict[str, dict[str, float]] = {
        f"prompt_{prompt}_k_{count}": describe_cell(cell, seconds)
        for ((prompt, count), cell), seconds in zip(grid.items(), predicted, strict=True)
    }
    # A fit that has not seen the largest trees says whether the terms carry over to them.
    small = [cell for (_, count), cell in grid.items() if count < max(COUNTS)]
    large = [cell for (_, count), cell in grid.items() if count == max(COUNTS)]
    figures |= {"fit": describe_fit(cells), f"fit_below_k_{max(COUNTS)}": describe_fit(small, left_out=large)}
    figures |= {f"attention_{name}": row for name, row in attentions.items()}
    ratios = {
        "plain_over_tree": {name: row["over_plain"] for name, row in figures.items() if "over_plain" in row},
        "rule_over_best_attention": {name: row["rule_over_best"] for name, row in attentions.items()},
    }
    show(document("scaling", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
