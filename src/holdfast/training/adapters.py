"""Weights under training: a tiny Llama whole, any Hugging Face causal model whole, or a LoRA adapter on either.

The loop sees a ``Policy`` only: hidden states, the matrix that turns them into logits, and a way to save.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from holdfast.models.tiny_llama import LlamaShape, TinyLlama

_LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# A stage changes weights only: whatever else the directory says about reading and writing text is copied.
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


class Policy(Protocol):
    """A model under training."""

    max_positions: int

    def hidden(self, tokens: Tensor) -> Tensor:
        """States [rows, length, width] before the head, of right-padded tokens [rows, length]."""
        ...

    def head(self) -> Tensor:
        """The matrix [vocabulary, width] from states to logits."""
        ...

    def trainable(self) -> list[nn.Parameter]:
        """The weights that the optimiser changes."""
        ...

    def set_training(self, training: bool) -> None:
        """Switches dropout on or off."""
        ...

    def save(self, directory: Path) -> None:
        """Writes a model directory that loads without this library: safetensors and the tokenizer's files."""
        ...


class WholeTiny:
    """All weights of a tiny Llama, in the forward pass that also samples from it."""

    def __init__(self, source: Path) -> None:
        self._source, self._model = source, TinyLlama.load(source)
        self.max_positions = self._model.shape.max_positions

    def hidden(self, tokens: Tensor) -> Tensor:
        states: Tensor = self._model(tokens)
        return states

    def head(self) -> Tensor:
        return self._model.head

    def trainable(self) -> list[nn.Parameter]:
        return list(self._model.parameters())

    def set_training(self, training: bool) -> None:
        self._model.train(training)

    def save(self, directory: Path) -> None:
        self._model.save(directory)
        _copy_text_files(self._source, directory)


class HubModel:
    """A Hugging Face causal model, whole or, with ``lora_r`` above 0, through a LoRA adapter that saving merges."""

    def __init__(self, source: Path, *, lora_r: int, lora_alpha: float, lora_dropout: float) -> None:
        from transformers import AutoModelForCausalLM

        self._source = source
        with _no_progress_bars():
            self._base: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        self.max_positions = int(self._base.config.max_position_embeddings)
        self._adapted: Any = None
        if lora_r > 0:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(
                r=lora_r,
                lora_alpha=lora_alpha,
                lora_dropout=lora_dropout,
                target_modules=_LORA_TARGETS,
                task_type="CAUSAL_LM",
            )
            self._adapted = get_peft_model(self._base, config)
        self.set_training(False)

    def hidden(self, tokens: Tensor) -> Tensor:
        # The adapter's layers sit inside the base model, so its decoder already computes with them.
        states: Tensor = self._base.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        return states

    def head(self) -> Tensor:
        weight: Tensor = self._base.get_output_embeddings().weight
        return weight

    def trainable(self) -> list[nn.Parameter]:
        return [weight for weight in (self._adapted or self._base).parameters() if weight.requires_grad]

    def set_training(self, training: bool) -> None:
        (self._adapted or self._base).train(training)

    def save(self, directory: Path) -> None:
        # Merging a copy: undoing a merge in place leaves rounding in the weights that go on training.
        whole = self._base if self._adapted is None else copy.deepcopy(self._adapted).merge_and_unload()
        with _no_progress_bars():
            whole.save_pretrained(directory)
        _copy_text_files(self._source, directory)


def open_policy(source: Path, *, lora_r: int = 0, lora_alpha: float = 16.0, lora_dropout: float = 0.0) -> Policy:
    """The policy of a model directory; a tiny Llama trained whole takes its own forward pass."""
    if lora_r == 0 and LlamaShape.read(source) is not None:
        return WholeTiny(source)
    return HubModel(source, lora_r=lora_r, lora_alpha=lora_alpha, lora_dropout=lora_dropout)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """The bars of transformers would break into ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _copy_text_files(source: Path, target: Path) -> None:
    for name in _TEXT_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
