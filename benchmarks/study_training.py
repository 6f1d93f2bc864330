"""The quick study's training on trees against a plain loop with padded rows: CPU seconds, same data in the same order.

    python benchmarks/study_training.py [--json] [--cache DIRECTORY] [--repeats N] [--sft-steps N]

Two phases: teaching a tiny base (8 demonstrations a step) and a preference stage from a taught one (20 steps of 32
pairs). The plain loop is the same hand-written Llama on one thread: every demonstration, and each side of every pair,
is a row of a batch padded on the right; log-probabilities at picked tokens only; the same losses, clipping and fused
AdamW; references given to both. Pairs come in two batches of like lengths. ``pairwise`` takes the pairs in random
order instead of by case. Both sides take turns step by step; figures are medians over repeats of a phase's sum.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import office_pairs
import torch
from machine import document, show
from office_pairs import OfficePairs

from holdfast.models.tiny import model as tiny
from holdfast.models.tiny.llama import TinyLlama, logprobs_after, pad_rows, places_before
from holdfast.records import PreferencePair
from holdfast.study.sections import SFTSection
from holdfast.study.stages import StageSection, TrainingSection
from holdfast.suites.office import cases as office_cases
from holdfast.suites.office import demonstrations as office_demonstrations
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.dpo.stage import reference_logprobs
from holdfast.training.encoding import Encoded, encode_episode
from holdfast.training.loop.loop import Loop, rate_at
from holdfast.training.objectives import dpo, sft
from holdfast.training.policy.adapters import WholeTiny
from holdfast.training.sft.orders import demonstration_steps
from holdfast.training.trees.parts import TrainStep, demonstration_step, pair_step

PACKAGES = ("torch", "numpy")
TEACHING = SFTSection()
STAGE = StageSection(objective="safety")
WARMUP = 2  # steps of every phase that are not counted
PlainStep = Callable[[TinyLlama], torch.Tensor]


class PlainLoop:
    """A tiny Llama, AdamW and clipping by hand; a step is a function that gives the loss."""

    def __init__(self, directory: Path, settings: TrainingSection) -> None:
        self.model, self._settings, self._taken = TinyLlama.load(directory).train(), settings, 0
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def take(self, loss_of: PlainStep) -> float:
        """One step; its loss from before the update."""
        self._optimizer.param_groups[0]["lr"] = rate_at(self._settings, self._taken)
        self._optimizer.zero_grad()
        loss = loss_of(self.model)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.max_grad_norm)
        self._optimizer.step()
        self._taken += 1
        return loss.item()


def rows_of(items: Sequence[Encoded], picked: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and picks of some sequences, padded on the right."""
    tokens = pad_rows([item.ids.tolist() for item in items])
    return tokens, pad_rows([row.tolist() for row in picked]).bool()


def picked_logprobs(model: TinyLlama, tokens: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of the picked tokens, row after row."""
    places = places_before(picked)
    return logprobs_after(model(tokens).flatten(0, 1).index_select(0, places), model.head, tokens, places)


def plain_demonstrations(items: Sequence[Encoded], other_weight: float) -> PlainStep:
    """The loss of a step of demonstrations, as one batch: the order already brings like lengths together."""

    def loss(model: TinyLlama) -> torch.Tensor:
        every = [np.arange(len(item.ids)) > 0 for item in items]
        tokens, picked = rows_of(items, every)
        weights = np.concatenate([np.where(item.agent, 1.0, other_weight)[1:] for item in items]).astype(np.float32)
        logps = picked_logprobs(model, tokens, picked)
        return sft(logps, torch.from_numpy(weights))

    return loss


def plain_pairs(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], reference: Mapping[str, float], buckets: int = 2
) -> PlainStep:
    """The loss of a step of pairs: both sides of each as rows, in ``buckets`` batches of like lengths."""
    names = [name for pair in pairs for name in (pair.chosen, pair.rejected)]

    def loss(model: TinyLlama) -> torch.Tensor:
        order = np.argsort([len(encoded[name].ids) for name in names], kind="stable")
        sums: list[torch.Tensor] = []
        for part in np.array_split(order, buckets):
            items = [encoded[names[place]] for place in part]
            tokens, picked = rows_of(items, [item.picked(STAGE.loss_mask) for item in items])
            logps = picked_logprobs(model, tokens, picked)
            owner = torch.repeat_interleave(picked.sum(1))
            sums.append(torch.zeros(len(items)).index_add(0, owner, logps))
        policy = torch.cat(sums)[torch.from_numpy(np.argsort(order))]
        known = torch.tensor([reference[name] for name in names])
        return dpo(policy[0::2], policy[1::2], known[0::2], known[1::2], beta=STAGE.beta).loss

    return loss


def race(
    directory: Path, settings: TrainingSection, steps: Iterator[tuple[TrainStep, PlainStep]]
) -> tuple[float, float, float]:
    """CPU seconds of the tree loop and of the plain one over the same steps, and the widest gap of their losses."""
    tree, plain = Loop(WholeTiny(directory), settings, seed=0), PlainLoop(directory, settings)
    given: list[PlainStep] = []

    def trees() -> Iterator[TrainStep]:
        for step, plain_step in steps:
            given.append(plain_step)
            yield step

    spent, gap = [0.0, 0.0], 0.0
    running = tree.run(trees())
    while True:
        started = time.process_time()
        log = next(running, None)
        between = time.process_time()
        if log is None:
            return spent[0], spent[1], gap
        loss = plain.take(given[-1])
        ended = time.process_time()
        gap = max(gap, abs(loss - log.metrics["loss"]))
        if log.step > WARMUP:
            spent = [spent[0] + between - started, spent[1] + ended - between]


# --- the two phases --------------------------------------------------------------------------------------------


def teach(folder: Path, steps: int) -> tuple[float, float, float]:
    """The first steps of teaching a base."""
    directory = tiny.build(office_cases.lexicon(), folder, seed=0, system_prompts=office_cases.system_prompts())
    chat = tiny.TinyModel.load(directory).chat
    # As many as the loop draws from for a start: with fewer, batches would be of less alike lengths.
    demonstrations = [
        encode_episode(chat, case.messages, trajectory.messages, case.tools)
        for case, trajectory in office_demonstrations.demonstrations(
            0, max(400, steps * TEACHING.batch_size), office_demonstrations.MIXTURE
        )
    ]
    lengths = np.array([len(item.ids) for item in demonstrations], np.int64)
    order = demonstration_steps(lengths, batch_size=TEACHING.batch_size, rng=np.random.default_rng(0))

    def both() -> Iterator[tuple[TrainStep, PlainStep]]:
        for rows in order:
            items = [demonstrations[row] for row in rows]
            weight = TEACHING.other_weight
            yield demonstration_step(items, weight), plain_demonstrations(items, weight)

    settings = StageSection(
        objective="safety",
        steps=steps + WARMUP,
        learning_rate=TEACHING.learning_rate,
        warmup_steps=TEACHING.warmup_steps,
        max_grad_norm=TEACHING.max_grad_norm,
    )
    return race(directory, settings, both())


def train_stage(data: OfficePairs, order: StageSection, *, seed: int) -> tuple[float, float, float]:
    """A preference stage of the quick study."""
    names = sorted({name for pair in data.train for name in (pair.chosen, pair.rejected)})
    reference = reference_logprobs(data.base, names, data.encoded, STAGE.loss_mask)

    def both() -> Iterator[tuple[TrainStep, PlainStep]]:
        for pairs in islice(pair_steps(data.train, data.encoded, order, seed=seed), STAGE.steps + WARMUP):
            step = pair_step(pairs, data.encoded, reference, STAGE)
            yield step, plain_pairs(pairs, data.encoded, reference)

    settings = StageSection(
        objective="safety",
        steps=STAGE.steps + WARMUP,
        learning_rate=STAGE.learning_rate,
        warmup_steps=STAGE.warmup_steps,
        max_grad_norm=STAGE.max_grad_norm,
    )
    return race(data.base, settings, both())


def summarise(runs: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    tree, plain, gaps = (np.array(column) for column in zip(*runs, strict=True))
    return {
        "tree_s": round(float(np.median(tree)), 3),
        "plain_s": round(float(np.median(plain)), 3),
        "plain_over_tree": round(float(np.median(plain / tree)), 2),
        "least_plain_over_tree": round(float((plain / tree).min()), 2),
        "widest_loss_gap": float(f"{gaps.max():.2g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", type=Path, default=office_pairs.CACHE, help="directory for what takes long")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sft-steps", type=int, default=150, help="steps of teaching that are measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = office_pairs.study_of(bases=2, test_cases=600, per_case=8)
    run = office_pairs.run_study(study, options.cache)
    data = office_pairs.load_pairs(study, run, base=0, objective="safety", cap=8, held_out_cap=8)
    orders = {
        "dpo": StageSection(objective="safety", pairs_per_step=32),
        "dpo_pairwise": StageSection(objective="safety", pairs_per_step=32, pairwise=True),
    }
    found: dict[str, list[tuple[float, float, float]]] = {"sft": [], **{name: [] for name in orders}}
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            found["sft"].append(teach(Path(folder), options.sft_steps))
        for name, order in orders.items():
            found[name].append(train_stage(data, order, seed=repeat))
    figures = {name: summarise(runs) for name, runs in found.items()}
    ratios = {"plain_over_tree": {name: row["plain_over_tree"] for name, row in figures.items()}}
    show(document("study_training", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
