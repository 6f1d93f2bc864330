"""Adapters as PEFT saves them, on small random models, and what PEFT computes with them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

IDS = torch.arange(3, 40)[None]


def save_adapter(
    base: Path, place: Path, *, named: str | None = None, tokens: int | None = None, **settings: Any
) -> Any:
    """Writes an adapter of random numbers on a base, and returns its logits of ``IDS`` as PEFT computes them.

    ``named`` is the base as the adapter names it; ``tokens`` resizes the embeddings first; ``settings`` are those of
    ``peft.LoraConfig``.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(len(str(settings)))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tokens is not None:
        model.resize_token_embeddings(tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(
            **{"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]} | settings
        )
        wrapped = get_peft_model(model, config)
        with torch.no_grad():
            for weight in wrapped.parameters():
                if weight.requires_grad:
                    weight.add_(0.3 * torch.randn_like(weight))
        wrapped.save_pretrained(place)
        wrapped.eval()
        with torch.no_grad():
            logits = wrapped(input_ids=IDS).logits
    rewrite(place / "adapter_config.json", base_model_name_or_path=named or str(base))
    (place / "README.md").unlink(missing_ok=True)
    return logits


def rewrite(path: Path, **settings: Any) -> None:
    """Changes some settings of a file of JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rename(path: Path, change: Mapping[str, str | None] | Any) -> None:
    """Gives the tensors of a file other names: by a function, or a table in which None leaves one out."""
    names = change if callable(change) else lambda name: change.get(name, name)
    tensors = {names(name): tensor for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name is not None}, path, metadata={"format": "pt"})


def logits_of(network: Any) -> torch.Tensor:
    """A network's logits of ``IDS``."""
    with torch.no_grad():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found
