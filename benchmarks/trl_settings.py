"""What TRL's trainers are told wherever they are to do the same as ours on a processor."""

from __future__ import annotations

from typing import Any

# In 32 bits (or those of the default), nothing computed twice, and nothing written, shown or reported.
ON_A_PROCESSOR: dict[str, Any] = {
    "bf16": False,
    "use_cpu": True,
    "activation_checkpointing": False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
}
# As our stages train: at a constant rate, without decay, on sequences of any length, every step's loss told.
AS_OURS: dict[str, Any] = {
    **ON_A_PROCESSOR,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": None,
    "logging_steps": 1,
}
