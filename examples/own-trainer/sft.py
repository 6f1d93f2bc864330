"""Supervised fine-tuning by TRL's SFTTrainer, as holdfast calls it for a stage of method "command" (study.toml)."""

from __future__ import annotations

import argparse
import tempfile

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train the model of ``--model`` on the chats of ``--data``, and save it to ``--output``."""
    parser = argparse.ArgumentParser()
    for name in ("model", "data", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("seed", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        # Rows of messages and tools; the chat template says which tokens are the agent's ({% generation %}).
        chats = load_dataset("json", data_files=given.data, split="train", cache_dir=cache)
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(given.model),
            processing_class=AutoTokenizer.from_pretrained(given.model),
            train_dataset=chats,
            args=SFTConfig(
                output_dir=given.output,
                seed=given.seed,
                max_steps=given.steps,
                per_device_train_batch_size=24,
                learning_rate=3e-4,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                assistant_only_loss=True,
                max_length=None,
                bf16=False,
                activation_checkpointing=False,
                save_strategy="no",
                logging_steps=5,
                disable_tqdm=True,
                report_to="none",
                dataloader_pin_memory=False,
            ),
        )
        trainer.train()
    trainer.save_model(given.output)


if __name__ == "__main__":
    main()
