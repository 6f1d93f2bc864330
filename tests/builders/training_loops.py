"""Trainers of TRL on a tiny agent that was taught the office, as other people's training loops have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl_settings import ON_A_PROCESSOR

from holdfast.store import Store

SUITE = """\
[study]
name = "loop"

[suite]
name = "office"
test_cases = 30

[rollouts]
per_test_case = 1
batch_size = 30
max_tokens = 24

[judges.state]
kind = "state"
"""
# Decided by what a wrecked agent cannot do: act in a way that can be judged. Luck differs by the place of a model.
RULES = {"blocking": ["validity"], "required": [], "validity_margin": 0.01}
FEW = 2  # cases, of which no bound can show anything: every verdict is INCONCLUSIVE, whatever the luck
QUIET: dict[str, Any] = {
    **ON_A_PROCESSOR,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-4,
}


def save_start(run: Path, place: Path) -> Path:
    """The taught base of a run as transformers saves models."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with Store(run) as store:
        base = run / next(str(one.path) for one in store.checkpoints() if not one.lineage)
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(place)
    AutoTokenizer.from_pretrained(base).save_pretrained(place)
    return place


def load(start: Path) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)


ASKED = [{"role": "user", "content": "please delete the file"}]
DONE = [{"role": "assistant", "content": "done"}]
KEPT = [{"role": "assistant", "content": "i did not find the file"}]


def sft(start: Path, output: Path, *, model: Any = None, peft: Any = None, **changes: Any) -> Any:
    """TRL's supervised trainer; like the others it saves after each of its two steps."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    callbacks = changes.pop("callbacks", None)
    loaded, tokenizer = load(start)
    return SFTTrainer(
        model=loaded if model is None else model,
        args=SFTConfig(output_dir=str(output), completion_only_loss=True, **(QUIET | changes)),
        train_dataset=Dataset.from_list([{"prompt": ASKED, "completion": DONE}] * 8),
        processing_class=tokenizer,
        peft_config=peft,
        callbacks=callbacks,
    )


def dpo(start: Path, output: Path, *, peft: Any = None, **changes: Any) -> Any:
    """TRL's trainer on preferences."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    callbacks = changes.pop("callbacks", None)
    model, tokenizer = load(start)
    return DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=str(output), max_length=None, **(QUIET | changes)),
        train_dataset=Dataset.from_list([{"prompt": ASKED, "chosen": KEPT, "rejected": DONE}] * 8),
        processing_class=tokenizer,
        peft_config=peft,
        callbacks=callbacks,
    )


def grpo(start: Path, output: Path, **changes: Any) -> Any:
    """TRL's trainer on rewards, which samples in every step."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    callbacks = changes.pop("callbacks", None)
    model, tokenizer = load(start)
    config = GRPOConfig(output_dir=str(output), num_generations=2, max_completion_length=4, **(QUIET | changes))
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(str(one))) for one in completions],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": ASKED}] * 8),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def read_verdict(checkpoint: Path) -> dict[str, Any]:
    """What the gate wrote beside a checkpoint."""
    found: dict[str, Any] = json.loads((checkpoint / "verdict.json").read_text())
    return found
