"""Keys and values of conversations that may go on: a later turn computes only what came after the earlier one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of every layer: keys and values [heads, tokens, dimensions].
States = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Entry:
    ids: NDArray[np.int64]
    states: States


class PrefixCache:
    """The states of recent token sequences, the least recently used left out first. ``tokens`` bounds them together."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._held = self._made = 0

    def find(self, ids: Sequence[int]) -> tuple[int, States]:
        """How many of the first tokens are known, the last one never, and the states of a sequence that has them."""
        wanted = np.array(ids[:-1], np.int64)
        best, key = 0, None
        for number, entry in self._entries.items():
            length = min(len(wanted), len(entry.ids))
            differs = np.flatnonzero(wanted[:length] != entry.ids[:length])
            shared = int(differs[0]) if len(differs) else length
            if shared > best:
                best, key = shared, number
        if key is None:
            return 0, ()
        self._entries.move_to_end(key)
        return best, self._entries[key].states

    def add(self, ids: Sequence[int], states: States) -> None:
        """Keep the states of a sequence, in the place of those that it goes on from."""
        if not 0 < len(ids) <= self.tokens:
            return
        kept = np.array(ids, np.int64)
        for number, entry in list(self._entries.items()):
            if len(entry.ids) <= len(kept) and np.array_equal(kept[: len(entry.ids)], entry.ids):
                self._drop(number)
        self._entries[self._made] = _Entry(ids=kept, states=states)
        self._made += 1
        self._held += len(kept)
        while self._held > self.tokens:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._held = 0

    def _drop(self, number: int) -> None:
        self._held -= len(self._entries.pop(number).ids)


def lay_side_by_side(found: Sequence[tuple[int, States]], width: int) -> list[tuple[Tensor, Tensor]]:
    """Of every layer, keys and values [rows, heads, width, dimensions] of known prefixes, with zeros behind them."""
    filled = next(states for known, states in found if known)
    layers = []
    for layer, (keys, values) in enumerate(filled):
        both = []
        for part, example in enumerate((keys, values)):
            rows = torch.zeros(
                len(found), example.shape[0], width, example.shape[2], dtype=example.dtype, device=example.device
            )
            for row, (known, states) in zip(rows, found, strict=True):
                if known:
                    row[:, :known] = states[layer][part][:, :known]
            both.append(rows)
        layers.append((both[0], both[1]))
    return layers
