"""Random Llamas made on a device, its clocks and its peaks: what both sides of a benchmark on accelerators share."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any, Final

import torch

_LLAMA = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPES: dict[str, dict[str, int]] = {
    "llama-3.1-8b": {**_LLAMA, "num_key_value_heads": 8, "vocab_size": 128256},
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
}
# What exactness is measured on: weights that also fit in 32 bits beside each other.
SMALL = {**_LLAMA, "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 4096}
# The adapter and the loss of both sides; the loss counts all that follows the prompt, as TRL's does.
RANK, ALPHA, BETA, RATE = 16, 32.0, 0.1, 1e-5
MASK: Final = "completion"
PAIRS_PER_STEP, WARMUP = 8, 2


def synchronise(device: torch.device) -> None:
    """Waits for all that the device was given; nothing waits on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_memory(device: torch.device) -> None:
    """Frees what nobody holds, and starts a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float | None:
    """The most memory that tensors took at once since the last reset, in 10⁹ bytes."""
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 2) if device.type == "cuda" else None


def measure_matmul(device: torch.device, size: int = 8192, repeats: int = 20) -> float | None:
    """FLOP/s of a square bf16 matrix product on normal numbers: the best of five blocks; None on a CPU."""
    if device.type != "cuda":
        return None
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(6):  # the first block warms up
        synchronise(device)
        started = time.perf_counter()
        for _ in range(repeats):
            torch.matmul(one, other)
        synchronise(device)
        rates.append(2 * size**3 * repeats / (time.perf_counter() - started))
    return max(rates[1:])


def make_network(shape: Mapping[str, int], device: torch.device, attention: str, *, seed: int = 0) -> Any:
    """A random Llama of a shape, in bf16, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rotation = {"rope_type": "default", "rope_theta": 500_000.0}
    config = LlamaConfig(**shape, max_position_embeddings=131_072, rope_parameters=rotation, tie_word_embeddings=False)
    config._attn_implementation = attention
    config.dtype = torch.bfloat16
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        return LlamaForCausalLM._from_config(config)
