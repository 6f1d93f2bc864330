"""One further token for many rows of a tiny Llama: what sampling does most, in few operations.

At these sizes an operation's overhead is most of its cost. So norms, the attention's scale and the rotation of queries
and keys are folded into the matrices once per batch, and all rows write their keys and values to one common slot:
attention does not ask in which order keys stand, only at which positions they were rotated.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.models.tiny.llama import NORM_EPSILON, Cache, TinyLlama


class Steps:
    """Rows that grow by a token at a time, after prompts [rows, length] padded on the right to true ``lengths``.

    ``hidden`` [rows, width] are the last states of the rows. ``room`` is how many tokens may follow.
    """

    def __init__(self, llama: TinyLlama, prompts: Tensor, lengths: Tensor, room: int) -> None:
        shape = llama.shape
        rows, self._used = prompts.shape
        size = shape.hidden // shape.heads
        self._llama, self._heads, self._size, self._width = llama, shape.heads, size, shape.hidden
        # Keys and values of every layer: [layers, 2, rows, heads, slots, size].
        self._kept = torch.zeros(shape.layers, 2, rows, shape.heads, self._used + room, size)
        cache = Cache(keys=[layer[0] for layer in self._kept], values=[layer[1] for layer in self._kept])
        self.hidden = llama(prompts, cache)[torch.arange(rows), lengths - 1]
        self._positions = lengths
        # Slots that hold padding: -inf [rows, 1, slots].
        padding = torch.arange(self._used + room)[None] >= lengths[:, None]
        padding[:, self._used :] = False
        self._bias = torch.zeros(padding.shape).masked_fill_(padding, -math.inf)[:, None]
        self._floor = torch.tensor(math.sqrt(NORM_EPSILON * shape.hidden))
        self._layers = [self._fold(layer) for layer in range(shape.layers)]
        self._last_norm = llama.final_norm * math.sqrt(shape.hidden)

    def _fold(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A layer's matrices, transposed: into attention, out of it, into the feed-forward and out of it."""
        llama, width = self._llama, self._width
        into = llama.qkv[layer] * (llama.input_norm[layer] * math.sqrt(width))
        into[:width] *= 1 / math.sqrt(self._size)
        turned = into[: 2 * width].view(2 * self._heads, self._size, width).roll(self._size // 2, 1)
        into = torch.cat((into, turned.reshape(2 * width, width)))
        gate_up = llama.gate_up[layer] * (llama.ffn_norm[layer] * math.sqrt(width))
        return into.T.contiguous(), llama.out[layer].T, gate_up.T.contiguous(), llama.down[layer].T

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows, in the given order; a row may be named more than once."""
        self._kept = self._kept.index_select(2, rows)
        self._positions, self._bias = self._positions[rows], self._bias[rows]

    def push(self, tokens: Tensor) -> None:
        """Takes a further token [rows] for every row; ``hidden`` is that of the tokens then."""
        rows, slot, width = len(tokens), self._used, self._width
        shape = (rows, 2, self._heads, self._size)
        cos, sin = (table[self._positions][:, None, None] for table in (self._llama.cos, self._llama.sin))
        bias = self._bias[:, :, : slot + 1].repeat_interleave(self._heads, 0)
        x = self._llama.head[tokens]
        for (into, out, gate_up, down), (keys, values) in zip(self._layers, self._kept, strict=True):
            found = self._scale(x) @ into
            turned = torch.addcmul(found[:, : 2 * width].view(shape) * cos, found[:, 3 * width :].view(shape), sin)
            keys[:, :, slot] = turned[:, 1]
            values[:, :, slot] = found[:, 2 * width : 3 * width].view(rows, self._heads, self._size)
            query = turned[:, 0].reshape(rows * self._heads, 1, self._size)
            seen_keys, seen_values = (part.flatten(0, 1)[:, : slot + 1] for part in (keys, values))
            weights = torch.softmax(torch.baddbmm(bias, query, seen_keys.transpose(1, 2)), -1)
            x = torch.addmm(x, torch.bmm(weights, seen_values).view(rows, width), out)
            gate, up = (self._scale(x) @ gate_up).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate) * up, down)
        self.hidden = self._scale(x) * self._last_norm
        self._used += 1
        self._positions = self._positions + 1

    def _scale(self, x: Tensor) -> Tensor:
        """Root-mean-square norm [rows, width] but for the factor that is folded into the matrix behind it."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
