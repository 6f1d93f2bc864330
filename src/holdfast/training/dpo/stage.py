"""Stages: demonstrations or preference pairs in, model directories out.

A stage reads a model directory and writes others, so what a stage starts from is always on disk: its reference is that
directory's weights, never an earlier one's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.records import PreferencePair
from holdfast.records.errors import StudyError
from holdfast.training.dpo.balance import Balance, Measure
from holdfast.training.dpo.mixing import Second
from holdfast.training.dpo.orders import demonstration_steps
from holdfast.training.dpo.preference import PreferenceStage, TrainResult, score_names
from holdfast.training.encoding import Encoded, LossMask, check_demonstrations, check_pairs, check_sequences
from holdfast.training.loop.launch import run_together
from holdfast.training.loop.loop import TOKEN_BUDGET, Loop, LoopSettings, isolated
from holdfast.training.policy.adapters import Precision, open_policy
from holdfast.training.ranks import find_ranks
from holdfast.training.settings import DPOSettings, SFTSettings, fit_stage
from holdfast.training.trees.parts import demonstration_step

# Called with steps done and steps in all.
Progress = Callable[[int, int], None]


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
    with isolated(seed):
        started = time.process_time()
        policy = open_policy(model_dir)
        check_demonstrations(demonstrations, policy)
        lengths = np.array([len(item.ids) for item in demonstrations], np.int64)
        order = demonstration_steps(lengths, batch_size=settings.batch_size, rng=np.random.default_rng(seed))
        loop = Loop(
            policy,
            LoopSettings(
                steps=settings.steps,
                learning_rate=settings.learning_rate,
                warmup_steps=settings.warmup_steps,
                max_grad_norm=settings.max_grad_norm,
                schedule="linear",
                token_budget=max(TOKEN_BUDGET, int(lengths.max())),
            ),
            seed=seed,
        )
        steps = (demonstration_step([demonstrations[n] for n in rows], settings.other_weight) for rows in order)
        for log in loop.run(steps):
            if progress is not None:
                progress(log.step, settings.steps)
        policy.save(out_dir)
        return TrainResult(
            path=out_dir,
            steps=loop.history.position,
            examples=loop.history.examples,
            tokens=loop.history.scored,
            losses=tuple(loop.history.losses),
            cpu_seconds=time.process_time() - started,
        )


def reference_logprobs(
    model_dir: Path,
    names: Sequence[str],
    encoded: Mapping[str, Encoded],
    loss_mask: LossMask = "agent",
    *,
    token_budget: int = TOKEN_BUDGET,
    precision: Precision = "fp32",
    adapter: bool = False,
) -> dict[str, float]:
    """The log-probability in nats, by trajectory name, that a model directory gives each trajectory's picked tokens.

    Computed in trees, once for each distinct name; every stage that starts from this directory can share the result.
    ``adapter`` takes the weights as a stage with a LoRA adapter does, which matters to bf16 alone.
    """
    with isolated(0):
        # A fresh adapter changes nothing.
        policy = open_policy(model_dir, precision=precision, lora_r=int(adapter))
        check_sequences(((f"trajectory {name}", encoded[name]) for name in names), policy)
        return score_names(policy, names, encoded, loss_mask, token_budget)


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
    folder: Path | None = None,
    tracker: str | None = None,
    progress: Progress | None = None,
    second: Second | None = None,
    balance: tuple[Balance, Measure] | None = None,
) -> list[TrainResult]:
    """Trains on preference pairs and saves ``out_dir/step-N`` after each number of steps in ``save_at``.

    Warm-up, then a constant rate unless the settings say otherwise, so the dose saved after N steps equals a run of N
    steps. The reference is ``model_dir``; ``reference`` holds its ``reference_logprobs`` where the caller has them.
    ``encoded`` is keyed by trajectory id. With ``folder`` the stage is logged there and resumes from what it holds;
    ``tracker`` names one of accelerate's, which then gets the same numbers. ``progress`` is not called where several
    processes train. Pairs and steps are those that ``fit_stage`` finds. ``second`` are the pairs of an objective that
    the stage keeps beside its own; where its way is "balance", ``balance`` measures the policy as it is trained and
    sets their weight, on one device. Raises StudyError for data that cannot be learnt from and StepError for a loss
    that is not finite; doses saved before stay.
    """
    pairs, settings = fit_stage(pairs, encoded, settings)
    if second is not None:
        second = replace(second, pairs=fit_stage(second.pairs, encoded, settings)[0])
    doses = sorted(set(save_at))
    _check_stage(pairs, second, encoded, settings, doses)
    told: dict[str, Any] = {"seed": seed, "folder": folder, "tracker": tracker, "second": second}
    if settings.devices > 1 and find_ranks() is None:
        _check_devices(settings.devices, balance)
        told |= {"model_dir": model_dir, "pairs": pairs, "encoded": encoded, "settings": settings}
        told |= {"save_at": save_at, "out_dir": out_dir, "reference": reference}
        together: list[TrainResult] = run_together(settings.devices, train_dpo, told)
        return together
    with isolated(seed):
        stage = PreferenceStage(model_dir, pairs, encoded, settings, reference or {}, balance=balance, **told)
        for step in stage.run(doses, out_dir):
            if progress is not None:
                progress(step, doses[-1])
        return stage.results(doses, out_dir)


def _check_stage(
    pairs: Sequence[PreferencePair],
    second: Second | None,
    encoded: Mapping[str, Encoded],
    settings: DPOSettings,
    doses: Sequence[int],
) -> None:
    """Raises StudyError for pairs that cannot be learnt from, and for doses outside the stage."""
    check_pairs(pairs, encoded, settings.loss_mask)
    if second is not None:
        check_pairs(second.pairs, encoded, settings.loss_mask)
    if not doses or doses[0] < 1 or doses[-1] > settings.steps:
        raise StudyError(f"doses {list(doses)}: steps to save at are between 1 and {settings.steps}")


def _check_devices(devices: int, balance: tuple[Balance, Measure] | None) -> None:
    """Raises StudyError for more devices than there are, or than a balance can measure on."""
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise StudyError(f"devices is {devices}, but this machine has {torch.cuda.device_count()}")
    if balance is not None:
        raise StudyError(f"devices is {devices}, but a balance measures the policy of one process; set 1")
