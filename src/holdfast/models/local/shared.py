"""Rows of one network that grow in lockstep; what rows open alike is computed once and held once.

    opening [P tokens] ─ once for all rows that begin so ─┐
    a row's own tokens, in columns of its own ────────────┴▶ one softmax over both, for every new token

The states of an opening are those of the opening computed alone, so they do not depend on who asks for it, nor on when.
A row's own columns may have gaps, which nobody sees; positions count what is not a gap. The network calls attention by
a name that transformers is told here, and hands it the rows as an argument, so any architecture serves that looks its
attention up by name and attends to all tokens before one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Of every layer: keys and values [heads, tokens, size].
States = Sequence[tuple[Tensor, Tensor]]
NOTHING: States = ()
ROWS_ATTENTION = "holdfast_rows"
_GROWTH = 32  # columns that are reserved at a time
# What an architecture does to its logits besides, or leaves out, which rows here do not compute.
_FOREIGN = ("softcap", "s_aux", "position_bias", "sliding_window")


class SharedRows:
    """The states of R rows: ``openings`` gives each row its opening, () for none, equal ones as neighbours.

    ``seen`` [R, columns] says which of a row's own columns hold tokens. ``known`` are states that rows go on from, laid
    into the first columns; ``room`` is how many more columns there may be, which are then laid out once.
    """

    def __init__(
        self, openings: Sequence[States], known: Sequence[States], device: torch.device, *, room: int = 0
    ) -> None:
        self._openings = list(openings)
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        counts = [count_states(states) for states in known]
        self.seen = torch.arange(max(counts), device=device)[None] < torch.tensor(counts, device=device)[:, None]
        self._columns = max(counts) + room
        self._narrow = torch.float32  # until the network says how it computes
        for layer, states in enumerate(lay_side_by_side(known, max(counts))):
            self._own[layer] = states

    def extend(self, held: Tensor) -> None:
        """New columns, of which ``held`` [R, new] says where a token comes; the network computes them next."""
        self.seen = torch.cat([self.seen, held], 1)

    def keep(self, numbers: Sequence[int]) -> None:
        """Goes on with these rows, in this order; a row may be named more than once."""
        chosen = torch.tensor(numbers, device=self.seen.device)
        self._openings = [self._openings[number] for number in numbers]
        self.seen = self.seen[chosen]
        for layer, (keys, values) in self._own.items():  # one after the other: the states are never there twice
            self._own[layer] = keys[chosen], values[chosen]

    def own_states(self, number: int, *, narrow: bool = False) -> States:
        """The states of a row's own tokens, without gaps; ``narrow`` as the network computes, which loses nothing."""
        columns = self.seen[number].nonzero()[:, 0]
        kept = [[part[number].index_select(1, columns) for part in pair] for _, pair in sorted(self._own.items())]
        return [(keys.to(self._narrow), values.to(self._narrow)) if narrow else (keys, values) for keys, values in kept]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention [R, new, heads, size] of the newest columns; ``key`` and ``value`` may have fewer heads."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        self._narrow = query.dtype
        if query.device.type == "cpu":  # where widening at every step costs more than the memory
            query, key, value = query.float(), key.float(), value.float()
        keys, values = self._write(layer, key, value)
        if query.shape[2] == 1:
            return self._attend_one(layer, query, keys, values, scale)
        mixed = [
            self._attend_many(slice(first, last), opening[layer] if opening else None, query, (keys, values), scale)
            for first, last, opening in self._groups()
        ]
        return torch.cat(mixed).transpose(1, 2)

    def _groups(self) -> Iterator[tuple[int, int, States]]:
        """Rows ``first`` to ``last``, the last excluded, that share an opening."""
        first = 0
        for _, rows in groupby(self._openings, key=id):
            members = list(rows)
            yield first, first + len(members), members[0]
            first += len(members)

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's own keys and values [R, heads, columns, size], the new ones behind the others."""
        columns = self.seen.shape[1]
        start = columns - key.shape[2]
        found = self._own.get(layer)
        if found is None or found[0].shape[2] < columns:
            room = (*key.shape[:2], max(columns + _GROWTH, self._columns))
            grown = key.new_zeros(*room, key.shape[3]), value.new_zeros(*room, value.shape[3])
            for new, old in zip(grown, found or (), strict=False):
                new[:, :, :start] = old[:, :, :start]
            found = self._own[layer] = grown
        for held, new in zip(found, (key, value), strict=True):
            held[:, :, start:columns] = new
        return found[0][:, :, :columns], found[1][:, :, :columns]

    def _attend_one(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """One new token a row: heads that share keys are queries of one product, and so are rows of one opening."""
        rows, heads, _, size = query.shape
        kept, shared = keys.shape[1], heads // keys.shape[1]
        packed = query.reshape(rows, kept, shared, size).float() * scale
        logits = [packed @ keys.float().mT]
        logits[0].masked_fill_(~self.seen[:, None, None], -torch.inf)
        groups = [(first, last, opening[layer]) for first, last, opening in self._groups() if opening]
        own = longest = logits[0].shape[-1]
        if groups:
            longest += max(part[0].shape[1] for _, _, part in groups)
        weights = packed.new_full((kept, rows, shared, longest), -torch.inf)
        weights[..., :own] = logits[0].transpose(0, 1)
        spread = packed.transpose(0, 1).contiguous()
        for first, last, (known, _) in groups:
            found = spread[:, first:last].flatten(1, 2) @ known.float().mT
            weights[:, first:last, :, own : own + known.shape[1]] = found.view(kept, last - first, shared, -1)
        weights = torch.softmax(weights, -1)
        mixed = (weights[..., :own].transpose(0, 1) @ values.float()).transpose(0, 1).contiguous()
        for first, last, (_, known) in groups:
            part = weights[:, first:last, :, own : own + known.shape[1]].flatten(1, 2) @ known.float()
            mixed[:, first:last] += part.view(kept, last - first, shared, -1)
        return mixed.transpose(0, 1).reshape(rows, 1, heads, -1)

    def _attend_many(
        self,
        rows: slice,
        opening: tuple[Tensor, Tensor] | None,
        query: Tensor,
        own: tuple[Tensor, Tensor],
        scale: float,
    ) -> Tensor:
        """Several new tokens of rows that open alike [rows, heads, new, size]."""
        query, new = query[rows], query.shape[2]
        keys, values = own[0][rows], own[1][rows]
        before = keys.shape[2] - new
        mask = None
        # A gap behind a row's new tokens is seen by gaps alone.
        if before or opening is not None:
            sees = torch.ones(new, new, dtype=torch.bool, device=query.device).tril_()
            known = self.seen[rows, None, :before].expand(-1, new, -1)
            mask = torch.cat([known, sees.expand(len(keys), -1, -1)], 2)
        if opening is not None:
            keys, values = (
                torch.cat([part.expand(len(keys), -1, -1, -1), side], 2)
                for part, side in zip(opening, (keys, values), strict=True)
            )
            assert mask is not None
            mask = F.pad(mask, (opening[0].shape[1], 0), value=True)
        shared = query.shape[1] // keys.shape[1]
        if shared > 1:
            keys, values = (part.repeat_interleave(shared, 1) for part in (keys, values))
        mask = None if mask is None else mask[:, None]
        return F.scaled_dot_product_attention(query, keys, values, mask, is_causal=mask is None, scale=scale)


def count_states(states: States) -> int:
    """The tokens that states are of."""
    return states[0][0].shape[1] if states else 0


def lay_side_by_side(known: Sequence[States], width: int) -> list[tuple[Tensor, Tensor]]:
    """Of every layer, keys and values [rows, heads, width, size] of several sequences, with zeros behind them."""
    filled = next((states for states in known if states), NOTHING)

    def lay(layer: int, part: int) -> Tensor:
        example = filled[layer][part]
        rows = example.new_zeros(len(known), example.shape[0], width, example.shape[2])
        for row, states in zip(rows, known, strict=True):
            if states:
                row[:, : states[layer][part].shape[1]] = states[layer][part]
        return rows

    return [(lay(layer, 0), lay(layer, 1)) for layer in range(len(filled))]


@contextmanager
def attention_of(network: Any, name: str) -> Iterator[None]:
    """The network computes attention by the function of this name inside, and as before afterwards."""
    from transformers import AttentionInterface

    if name == ROWS_ATTENTION:
        AttentionInterface.register(name, _attend)
    before = network.config._attn_implementation
    if before == name:
        yield
        return
    network.set_attn_implementation(name)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **settings: Any) -> tuple[Tensor, None]:
    rows: SharedRows = settings["shared_rows"]
    if found := [name for name in _FOREIGN if settings.get(name) is not None]:
        raise TypeError(f"its attention has {found[0]}")
    with torch.autocast(query.device.type, enabled=False):
        mixed = rows.attend(module.layer_idx, query, key.to(query.dtype), value.to(query.dtype), settings["scaling"])
    return mixed.to(query.dtype).contiguous(), None


# --- what is kept -------------------------------------------------------------------------------------------------


class Openings:
    """The states of openings, each by all of its ids; ``tokens`` bounds them together, the least recently used go."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._entries: OrderedDict[tuple[int, ...], States] = OrderedDict()

    def find(self, ids: tuple[int, ...]) -> States | None:
        """The states of an opening, where they are kept."""
        if ids not in self._entries:
            return None
        self._entries.move_to_end(ids)
        return self._entries[ids]

    def add(self, ids: tuple[int, ...], states: States) -> None:
        """Keep the states of an opening."""
        self._entries[ids] = states
        while sum(map(len, self._entries)) > self.tokens:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


class Turns:
    """The own states of recent rows; ``tokens`` bounds them together, the least recently used are left out first."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._entries: OrderedDict[int, tuple[NDArray[np.int64], int, States]] = OrderedDict()
        self._held = self._made = 0

    def find(self, ids: Sequence[int], opening: int) -> States:
        """The states of the longest known beginning behind the opening of so many tokens; the last is never known."""
        wanted = np.array(ids[:-1], np.int64)
        best, key = opening, None
        for number, (known, offset, _) in self._entries.items():
            length = min(len(wanted), len(known))
            differs = np.flatnonzero(wanted[:length] != known[:length])
            shared = int(differs[0]) if len(differs) else length
            if offset == opening and shared > best:
                best, key = shared, number
        if key is None:
            return NOTHING
        self._entries.move_to_end(key)
        return [(keys[:, : best - opening], values[:, : best - opening]) for keys, values in self._entries[key][2]]

    def add(self, ids: Sequence[int], opening: int, states: States) -> None:
        """Keep the states of a row's tokens behind its opening, in the place of those that it goes on from."""
        if not 0 < len(ids) - opening <= self.tokens:
            return
        kept = np.array(ids, np.int64)
        for number, (known, _, _) in list(self._entries.items()):
            if len(known) <= len(kept) and np.array_equal(kept[: len(known)], known):
                self._drop(number)
        self._entries[self._made] = kept, opening, states
        self._made += 1
        self._held += len(kept) - opening
        while self._held > self.tokens:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._held = 0

    def _drop(self, number: int) -> None:
        ids, opening, _ = self._entries.pop(number)
        self._held -= len(ids) - opening
