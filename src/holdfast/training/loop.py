"""One plain training loop: demonstrations or preference pairs in, model directories out.

A stage reads a model directory and writes others, so what a stage starts from is always on disk: its
reference is that directory's weights, never an earlier one's. AdamW without weight decay; 32-bit floats; one
thread, so equal seeds give equal weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import StepError, StudyError
from holdfast.models.tiny_llama import one_thread, picked_logprobs
from holdfast.records import PreferencePair
from holdfast.training.adapters import Policy, open_policy
from holdfast.training.batches import (
    Block,
    Encoded,
    LossMask,
    check_pairs,
    demonstration_batches,
    pair_batches,
    trajectory_blocks,
)
from holdfast.training.objectives import dpo, sft

# Called with steps done and steps in all.
Progress = Callable[[int, int], None]
# Rows that are scored at once outside training, and pairs on which drift is measured.
_SCORED_ROWS = 64
_DRIFT_PAIRS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTSettings:
    """How a base is taught, as ``[model.sft]`` of a study says.

    ``steps`` and ``warmup_steps`` are optimiser steps, ``batch_size`` counts demonstrations, ``max_grad_norm``
    bounds the gradient's L2 norm; ``other_weight`` is the loss weight of tokens that are not the agent's own.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    max_grad_norm: float
    other_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOSettings:
    """How a preference stage trains, as ``[stages.NAME]`` of a study says.

    ``beta`` is per nat; ``steps`` and ``warmup_steps`` are optimiser steps; ``lora_r`` 0 trains all weights.
    """

    beta: float
    steps: int
    pairs_per_step: int
    learning_rate: float
    warmup_steps: int
    max_grad_norm: float
    loss_mask: LossMask
    lora_r: int
    lora_alpha: float
    lora_dropout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A saved dose of a stage, with everything counted from the stage's start.

    ``examples`` are pairs or demonstrations with repeats, ``tokens`` those that carried loss, ``losses`` one
    value a step before its update. The drifts are the mean change in nats of a chosen and of a rejected
    trajectory's log-probability since the start, over up to 128 pairs; None for SFT.
    """

    path: Path
    steps: int
    examples: int
    tokens: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...] = ()
    chosen_drift: float | None = None
    rejected_drift: float | None = None
    cpu_seconds: float


def train_sft(
    model_dir: Path,
    demonstrations: Sequence[Encoded],
    settings: SFTSettings,
    *,
    seed: int,
    out_dir: Path,
    progress: Progress | None = None,
) -> TrainResult:
    """Teaches a model from demonstrations and saves it to ``out_dir``.

    Warm-up, then linear decay to zero. Raises StudyError for data that cannot be learnt from and StepError
    for a loss that is not finite.
    """
    with _isolated(seed):
        started = time.process_time()
        policy = open_policy(model_dir)
        _check_demonstrations(demonstrations, policy)
        batches = demonstration_batches(
            demonstrations,
            batch_size=settings.batch_size,
            other_weight=settings.other_weight,
            rng=np.random.default_rng(seed),
        )
        tokens, losses = 0, []

        def next_loss() -> Tensor:
            nonlocal tokens
            block = next(batches)
            tokens += int((block.weights > 0).sum())
            logps, weights, _ = _score_block(policy, block)
            return sft(logps, weights)

        steps = _descend(policy, next_loss, _decaying_rate(settings), settings.max_grad_norm)
        for loss in islice(steps, settings.steps):
            losses.append(loss)
            if progress is not None:
                progress(len(losses), settings.steps)
        policy.save(out_dir)
        return TrainResult(
            path=out_dir,
            steps=settings.steps,
            examples=settings.steps * settings.batch_size,
            tokens=tokens,
            losses=tuple(losses),
            cpu_seconds=time.process_time() - started,
        )


def _decaying_rate(settings: SFTSettings) -> Callable[[int], float]:
    """The learning rate of a step: linear warm-up, then linear decay that ends at zero."""
    warmup = max(1, settings.warmup_steps)

    def rate(step: int) -> float:
        left = (settings.steps - step) / max(1, settings.steps - settings.warmup_steps)
        return settings.learning_rate * min((step + 1) / warmup, left)

    return rate


def _check_demonstrations(demonstrations: Sequence[Encoded], policy: Policy) -> None:
    if not demonstrations or not all(item.agent.any() for item in demonstrations):
        raise StudyError("training data: there are no demonstrations, or one in which the agent does nothing")
    _check_lengths({f"demonstration {number}": item for number, item in enumerate(demonstrations)}, policy)


def reference_logprobs(
    model_dir: Path, names: Sequence[str], encoded: Mapping[str, Encoded], loss_mask: LossMask = "agent"
) -> dict[str, float]:
    """The log-probability in nats, by trajectory name, that a model directory gives each trajectory's picked tokens.

    Computed once for each distinct name; every stage that starts from this directory can share the result.
    """
    with _isolated(0):
        policy = open_policy(model_dir)
        _check_lengths({f"trajectory {name}": encoded[name] for name in names}, policy)
        return _score_names(policy, names, encoded, loss_mask)


def train_dpo(
    model_dir: Path,
    pairs: Sequence[PreferencePair],
    encoded: Mapping[str, Encoded],
    settings: DPOSettings,
    *,
    seed: int,
    save_at: Sequence[int],
    out_dir: Path,
    reference: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> list[TrainResult]:
    """Trains on preference pairs and saves ``out_dir/step-N`` after each number of steps in ``save_at``.

    Warm-up, then a constant rate, so the dose saved after N steps equals a run of N steps. The reference is
    ``model_dir``; ``reference`` holds its ``reference_logprobs`` where the caller has them. ``encoded`` is
    keyed by trajectory id. Raises StudyError for data that cannot be learnt from and StepError for a loss
    that is not finite; doses saved before stay.
    """
    doses = sorted(set(save_at))
    if not doses or doses[0] < 1 or doses[-1] > settings.steps:
        raise StudyError(f"doses {list(save_at)}: steps to save at are between 1 and {settings.steps}")
    check_pairs(pairs, encoded, settings.loss_mask)
    with _isolated(seed):
        stage = _PreferenceStage(
            model_dir=model_dir, pairs=pairs, encoded=encoded, settings=settings, seed=seed, reference=reference
        )
        results = []
        for step, _ in enumerate(islice(stage.descend(), doses[-1]), 1):
            if step in doses:
                results.append(stage.save(out_dir / f"step-{step:06d}"))
            if progress is not None:
                progress(step, doses[-1])
        return results


class _PreferenceStage:
    """The state of one DPO run: policy, reference, batch stream and counts."""

    def __init__(
        self,
        *,
        model_dir: Path,
        pairs: Sequence[PreferencePair],
        encoded: Mapping[str, Encoded],
        settings: DPOSettings,
        seed: int,
        reference: Mapping[str, float] | None,
    ) -> None:
        self.started = time.process_time()
        self.settings, self.pairs, self.encoded = settings, pairs, encoded
        self.policy = open_policy(
            model_dir, lora_r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout
        )
        names = list(dict.fromkeys(name for pair in pairs for name in (pair.chosen, pair.rejected)))
        _check_lengths({f"trajectory {name}": encoded[name] for name in names}, self.policy)
        known = {} if reference is None else {name: reference[name] for name in names if name in reference}
        missing = [name for name in names if name not in known]
        # A fresh adapter changes nothing, so before the first update the policy is its own reference.
        self.reference = known | _score_names(self.policy, missing, encoded, settings.loss_mask)
        self.batches = pair_batches(
            pairs,
            encoded,
            pairs_per_step=settings.pairs_per_step,
            loss_mask=settings.loss_mask,
            rng=np.random.default_rng(seed),
        )
        self.tokens = 0
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def descend(self) -> Iterator[None]:
        def rate(step: int) -> float:
            return self.settings.learning_rate * min(1.0, (step + 1) / max(1, self.settings.warmup_steps))

        for loss in _descend(self.policy, self._next_loss, rate, self.settings.max_grad_norm):
            self.losses.append(loss)
            yield

    def _next_loss(self) -> Tensor:
        batch = next(self.batches)
        self.tokens += sum(int((block.weights > 0).sum()) for block in batch.blocks)
        policy = _score_rows(self.policy, batch.blocks)
        reference = torch.tensor([self.reference[name] for name in batch.rows])
        chosen, rejected = torch.from_numpy(batch.chosen), torch.from_numpy(batch.rejected)
        result = dpo(
            policy[chosen],
            policy[rejected],
            reference[chosen],
            reference[rejected],
            beta=self.settings.beta,
            weights=torch.from_numpy(batch.weights),
        )
        self.accuracies.append(result.accuracy.item())
        return result.loss

    def save(self, path: Path) -> TrainResult:
        self.policy.save(path)
        chosen, rejected = self._drifts()
        return TrainResult(
            path=path,
            steps=len(self.losses),
            examples=len(self.losses) * self.settings.pairs_per_step,
            tokens=self.tokens,
            losses=tuple(self.losses),
            accuracies=tuple(self.accuracies),
            chosen_drift=chosen,
            rejected_drift=rejected,
            cpu_seconds=time.process_time() - self.started,
        )

    def _drifts(self) -> tuple[float, float]:
        count = min(len(self.pairs), _DRIFT_PAIRS)
        places = np.linspace(0, len(self.pairs) - 1, count).astype(int)
        sides = [[self.pairs[place].chosen for place in places], [self.pairs[place].rejected for place in places]]
        self.policy.set_training(False)
        now = _score_names(self.policy, sides[0] + sides[1], self.encoded, self.settings.loss_mask)
        self.policy.set_training(True)
        chosen, rejected = (float(np.mean([now[name] - self.reference[name] for name in side])) for side in sides)
        return chosen, rejected


def _descend(
    policy: Policy, next_loss: Callable[[], Tensor], rate: Callable[[int], float], max_grad_norm: float
) -> Iterator[float]:
    """Updates the policy once per value drawn, and yields the loss before that update."""
    weights = policy.trainable()
    optimizer = torch.optim.AdamW(weights, lr=rate(0), weight_decay=0.0, fused=True)
    policy.set_training(True)
    step = 0
    while True:
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        loss = next_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(weights, max_grad_norm))
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise StepError(f"training, step {step + 1}: loss {value}, gradient norm {norm}; lower learning_rate")
        optimizer.step()
        step += 1
        yield value


def _score_block(policy: Policy, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Of the tokens with weight: log-probabilities, weights, and the row that each stands in."""
    tokens, weights = torch.from_numpy(block.tokens), torch.from_numpy(block.weights)
    picked = weights > 0
    logps = picked_logprobs(policy.hidden(tokens), policy.head(), tokens, picked)
    return logps, weights[picked], picked.nonzero()[:, 0]


def _score_rows(policy: Policy, blocks: Sequence[Block]) -> Tensor:
    """The weighted log-probability of every row of the blocks, in order."""
    sums = []
    for block in blocks:
        logps, weights, rows = _score_block(policy, block)
        sums.append(torch.zeros(len(block.tokens)).index_add(0, rows, logps * weights))
    return torch.cat(sums)


@torch.no_grad()
def _score_names(
    policy: Policy, names: Sequence[str], encoded: Mapping[str, Encoded], loss_mask: LossMask
) -> dict[str, float]:
    scores: dict[str, float] = {}
    ordered = sorted(set(names), key=lambda name: (len(encoded[name].ids), name))
    for start in range(0, len(ordered), _SCORED_ROWS):
        rows, blocks = trajectory_blocks(ordered[start : start + _SCORED_ROWS], encoded, loss_mask)
        scores.update(zip(rows, _score_rows(policy, blocks).tolist(), strict=True))
    for name, score in scores.items():
        if not math.isfinite(score):
            raise StepError(f"trajectory {name}: log-probability {score}; the model's weights are damaged")
    return scores


def _check_lengths(named: Mapping[str, Encoded], policy: Policy) -> None:
    for name, item in named.items():
        if len(item.ids) > policy.max_positions:
            raise StudyError(f"{name}: {len(item.ids)} tokens, but the model reads {policy.max_positions}; drop it")


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """One thread, and a seeded global generator (an adapter's first weights and dropout use it), both put back."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
