"""LoRA adapters inside a Hugging Face model: put there, taken out, merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.models.directories.stacks import Factors, Lora, Stack, merged
from holdfast.records.errors import StudyError

_EARLIER, _NEWEST = "earlier", "newest"
_HOLDER = "network"


def attach(model: Any, lora: Lora, stack: Stack | None, source: Path) -> None:
    """Puts a new adapter into a model, beside a frozen one with all that a stack's stages changed.

    It changes every linear layer of the decoder, as PEFT's "all-linear" does; the head is none of them. Adapters are
    32-bit floats, and only the new one is trainable. Raises StudyError where nothing can be adapted.
    """
    from peft import LoraConfig, LoraModel

    targets = _linear_layers(model)
    if not targets:
        raise StudyError(f"{source}: none of its modules is one that adapters change; use lora_r = 0")
    configs = {
        _NEWEST: LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            target_modules=_held(targets),
        )
    }
    if stack:
        rank = sum(stack.ranks)  # The scale is in the factors, and dropout belongs to training.
        configs[_EARLIER] = LoraConfig(r=rank, lora_alpha=rank, target_modules=_held(stack.factors))
    # Shown the model itself, PEFT takes names that end as those of experts once did for experts, and adapts these too.
    holder = nn.ModuleDict({_HOLDER: model})
    tuner = LoraModel(holder, configs, _NEWEST)
    if stack:
        tuner.inject_adapter(holder, _EARLIER)
        tuner.set_adapter([_EARLIER, _NEWEST])
        for name, factors in stack.factors.items():
            module = model.get_submodule(name)
            for part, factor in zip((module.lora_A, module.lora_B), factors, strict=True):
                part[_EARLIER].weight.data.copy_(factor)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()
        weight.requires_grad_(f".{_NEWEST}." in name)


def _held(names: Iterable[str]) -> list[str]:
    """Names of a model's modules as they are in what holds it."""
    return [f"{_HOLDER}.{name}" for name in names]


def _linear_layers(model: Any) -> list[str]:
    """The linear layers of a model's decoder by name, without the head."""
    inner = set(model.get_decoder().modules()) - {model.get_output_embeddings()}
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module in inner]


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules that hold an adapter, by their names in the model."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def named_factors(stack: Stack) -> Iterator[tuple[str, Tensor]]:
    """A stack's factors one by one, as errors name them."""
    for module, factors in stack.factors.items():
        yield from ((f"{module}.lora_{side}", factor) for side, factor in zip("AB", factors, strict=True))


@torch.no_grad()
def merge(model: nn.Module, stack: Stack) -> None:
    """Adds what a stack's stages changed to a model's weights, in place."""
    for name, factors in stack.factors.items():
        weight = model.get_parameter(f"{name}.weight")
        weight.copy_(merged(weight, factors))


def newest_factors(model: nn.Module) -> Factors:
    """What the new adapter has learnt, by module."""
    return {
        name: (module.lora_A[_NEWEST].weight.detach(), module.lora_B[_NEWEST].weight.detach())
        for name, module in _adapted(model)
    }


@contextmanager
def newest_off(model: nn.Module) -> Iterator[None]:
    """A model as it is without its new adapter, inside."""
    scales = [(module.scaling, module.scaling[_NEWEST]) for _, module in _adapted(model)]
    for scaling, _ in scales:
        scaling[_NEWEST] = 0.0
    try:
        yield
    finally:
        for scaling, value in scales:
            scaling[_NEWEST] = value
