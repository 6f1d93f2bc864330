"""TRL's DPOTrainer with a LoRA adapter on a random model: wall-clock seconds and peak memory of its steps."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gpu_models import ALPHA, BETA, PAIRS_PER_STEP, RANK, RATE, WARMUP, make_network, peak_gb, reset_memory, synchronise
from gpu_sample import Sample
from trl_peer import Clock, row_of, timed_trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTiming:
    """Seconds of TRL's measured steps; ``tokens`` with padding."""

    micro_batch: int
    pairs: int
    seconds: float
    tokens: int
    first_loss: float
    memory_gb: float | None
    reference_s_per_pair: float


def _peer_settings(folder: str, device: torch.device, micro_batch: int, steps: int) -> Any:
    from trl import DPOConfig

    return DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=PAIRS_PER_STEP // micro_batch,
        max_steps=steps,
        train_sampling_strategy="sequential",
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=micro_batch,
        beta=BETA,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_length=None,
        bf16=True,
        use_cpu=device.type == "cpu",
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": False},
        dataloader_pin_memory=device.type != "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def time_peer(
    shape: Mapping[str, int], device: torch.device, sample: Sample, micro_batch: int, steps: int
) -> PeerTiming | None:
    """What TRL's steps took after the warm-up on the sample's pairs in their order; None where memory ran out.

    Its digest of all weights, which names a cache that is off here and takes minutes at this size, is left out.
    """
    import datasets  # type: ignore[import-untyped]
    from peft import LoraConfig
    from trl.trainer import dpo_trainer

    def now() -> float:
        synchronise(device)
        return time.perf_counter()

    datasets.disable_progress_bars()
    datasets.disable_caching()
    dpo_trainer.hash_module = lambda _: "random"
    reset_memory(device)
    clock = Clock(now=now)
    attention = "flash_attention_2" if device.type == "cuda" and importlib.util.find_spec("flash_attn") else "sdpa"
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    starts = range(0, (WARMUP + steps) * PAIRS_PER_STEP, PAIRS_PER_STEP)
    pairs = [pair for start in starts for pair in _by_length(sample, start)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = timed_trainer(clock)(
                model=make_network(shape, device, attention),
                args=_peer_settings(folder, device, micro_batch, WARMUP + steps),
                train_dataset=datasets.Dataset.from_list(
                    [row_of(pair, sample.encoded, sample.tokenizer) for pair in pairs]
                ),
                processing_class=sample.tokenizer,
                peft_config=lora,
            )
            trainer.train()
    except torch.OutOfMemoryError:
        return None
    batches = PAIRS_PER_STEP // micro_batch
    return PeerTiming(
        micro_batch=micro_batch,
        pairs=steps * PAIRS_PER_STEP,
        seconds=clock.ends[-1] - clock.ends[WARMUP - 1],
        tokens=sum(padded for _, padded in clock.tokens[WARMUP * batches :]),
        first_loss=clock.losses[0],
        memory_gb=peak_gb(device),
        reference_s_per_pair=clock.reference_s / len(pairs),
    )


def _by_length(sample: Sample, start: int) -> list[Any]:
    """A step's pairs by the length of their longer side, so that micro-batches hold little padding."""
    length = {name: len(item.ids) for name, item in sample.encoded.items()}
    taken = sample.pairs[start : start + PAIRS_PER_STEP]
    return sorted(taken, key=lambda pair: max(length[pair.chosen], length[pair.rejected]))
