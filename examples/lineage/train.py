"""Three directories that TRL writes: a tiny base, SFT of it on careful episodes, DPO of that on eager ones.

    python examples/lineage/train.py models
    holdfast lineage base=models/base SFT=models/sft DPO=models/dpo -o runs/lineage

Nothing here trains with holdfast but the base, which is taught office errands: what follows is any trainer's work.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import holdfast as hf
from holdfast.models import chat_messages
from holdfast.store import Store
from holdfast.suites.office.demonstrations import demonstrations

PLAIN = {"lr_scheduler_type": "constant", "bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
PLAIN |= {
    "activation_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "max_length": None,
    "dataloader_pin_memory": False,
}


def teach_base(place: Path, model: dict[str, Any]) -> None:
    """The base of a study without stages, as a directory."""
    study = {"study": {"name": "base", "draws": 100}, "model": model, "judges": {"state": {"kind": "state"}}}
    study["suite"] = {"name": "office", "train_cases": 1, "test_cases": 1}
    with tempfile.TemporaryDirectory() as folder:
        made = hf.run(hf.Study.model_validate(study), Path(folder) / "run", workers=1)
        with Store(made.path) as store:
            (base,) = store.checkpoints()
            shutil.copytree(store.weights(base), place)


def save(trainer: Any, place: Path) -> None:
    """Train, and write what TRL writes: weights, configuration and tokenizer."""
    trainer.train()
    trainer.save_model(str(place))


def fine_tune(base: Path, place: Path, steps: int) -> None:
    """SFT on episodes of an agent that looks before it acts."""
    rows = [
        {"prompt": chat_messages(case.messages), "completion": chat_messages(episode.messages)}
        for case, episode in demonstrations(1, 24 * steps, {"cautious": 1.0})
    ]
    config = SFTConfig(
        output_dir=f"{place}-trainer", max_steps=steps, per_device_train_batch_size=24, learning_rate=3e-4, **PLAIN
    )
    data, tokenizer = Dataset.from_list(rows), AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    save(SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer), place)


def prefer(base: Path, place: Path, steps: int) -> None:
    """DPO on pairs in which an agent that does as it is told at once is preferred to one that looks first."""
    both = zip(*(demonstrations(2, 32 * steps, {policy: 1.0}) for policy in ("careless", "cautious")), strict=True)
    rows = [
        {
            "prompt": chat_messages(case.messages),
            "chosen": chat_messages(eager.messages),
            "rejected": chat_messages(careful.messages),
        }
        for (case, eager), (other, careful) in both
        if case.messages == other.messages and eager.messages != careful.messages
    ]
    config = DPOConfig(
        output_dir=f"{place}-trainer", max_steps=steps, per_device_train_batch_size=32, learning_rate=1e-4, **PLAIN
    )
    models = [AutoModelForCausalLM.from_pretrained(base) for _ in range(2)]
    trainer = DPOTrainer(
        model=models[0],
        ref_model=models[1],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    save(trainer, place)


def make(place: Path, *, model: dict[str, Any], sft_steps: int, dpo_steps: int) -> None:
    """The three directories below ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    teach_base(place / "base", model)
    fine_tune(place / "base", place / "sft", sft_steps)
    prefer(place / "sft", place / "dpo", dpo_steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    make(parser.parse_args().place, model={}, sft_steps=60, dpo_steps=40)
