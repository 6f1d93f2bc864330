"""Sampling from a network of transformers while it trains, without writing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast.models import Ask, Reply
from holdfast.models.hub.chat import HubChat
from holdfast.models.local.local import LocalModel
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import LlamaShape, TinyLlama
from holdfast.models.tiny.model import TinyModel

# Rollouts of a step are sampled together; memory that does not suffice halves it.
_ROWS = 64


class LiveModel:
    """A ``Model`` around a network under training, for as long as its weights stay.

    It samples in eval mode with the network's own attention, which takes masks and a cache of states, and puts back
    what it found: the mode, and the attention ``trained_with``. ``autocast`` is what the passes of training run in.
    """

    def __init__(
        self, network: Any, chat: HubChat, autocast: Callable[[], torch.autocast], *, trained_with: str
    ) -> None:
        self._network, self._autocast, self._attention = network, autocast, trained_with
        # Made anew for each state of the weights, so that no state of other weights is in its cache.
        self._model = LocalModel.around(network, chat, rows=_ROWS)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``."""
        training = self._network.training
        self._network.eval()
        self._network.set_attn_implementation("sdpa")
        try:
            with self._autocast():
                return self._model.reply(asks)
        finally:
            self._network.set_attn_implementation(self._attention)
            self._network.train(training)


@torch.no_grad()
def copy_tiny(network: Any, source: Path) -> TinyModel:
    """The tiny model that a network of transformers is now, its adapters merged; ``source`` is where it came from."""
    shape = LlamaShape.read(source)
    assert shape is not None
    weights = {
        name.replace(".base_layer.", "."): weight.float()
        for name, weight in network.named_parameters()
        if ".lora_" not in name
    }
    for name, module in network.named_modules():
        for adapter in getattr(module, "active_adapters", ()) if hasattr(module, "lora_A") else ():
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(adapter)
    llama = TinyLlama(shape)
    llama.import_weights(weights)
    return TinyModel(llama.eval(), TinyChat.load(source))
