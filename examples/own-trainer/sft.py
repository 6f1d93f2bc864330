"""Supervised fine-tuning by TRL's SFTTrainer, as holdfast calls it for a stage of method "command" (study.toml)."""

from __future__ import annotations

from given import SETTINGS, open_rows, read_words
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train the model of ``--model`` on the chats of ``--data``, and save it to ``--output``."""
    given = read_words()
    # Rows of messages and tools; the chat template says which tokens are the agent's ({% generation %}).
    with open_rows(given.data) as chats:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(given.model),
            processing_class=AutoTokenizer.from_pretrained(given.model),
            train_dataset=chats,
            args=SFTConfig(
                output_dir=given.output,
                seed=given.seed,
                max_steps=given.steps,
                assistant_only_loss=True,
                per_device_train_batch_size=24,
                learning_rate=3e-4,
                **SETTINGS,
            ),
        )
        trainer.train()
    trainer.save_model(given.output)


if __name__ == "__main__":
    main()
