"""Preference optimisation by TRL's DPOTrainer, as holdfast calls it for a stage of method "command" (study.toml)."""

from __future__ import annotations

from given import SETTINGS, open_rows, read_words
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    """Train the model of ``--model`` on the pairs of ``--data``, and save it to ``--output``."""
    given = read_words()
    # Rows of prompt, chosen, rejected and tools: TRL's conversational format, which needs no other reading.
    with open_rows(given.data) as pairs:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(given.model),
            ref_model=AutoModelForCausalLM.from_pretrained(given.model),
            processing_class=AutoTokenizer.from_pretrained(given.model),
            train_dataset=pairs,
            args=DPOConfig(
                output_dir=given.output,
                seed=given.seed,
                max_steps=given.steps,
                beta=0.1,
                per_device_train_batch_size=32,
                learning_rate=1.3e-4,
                **SETTINGS,
            ),
        )
        trainer.train()
    trainer.save_model(given.output)


if __name__ == "__main__":
    main()
