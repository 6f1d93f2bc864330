"""The tiny agent: a model directory built from a lexicon, and a batched sampler over it.

The directory is an ordinary ``LlamaForCausalLM`` with tokenizer and chat template, so transformers and any
server that reads such a directory can load it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from holdfast.models import Ask, Reply
from holdfast.models.tiny.chat import MOST_POSITIONS, RAW, TinyChat, write_tokenizer
from holdfast.models.tiny.llama import (
    NORM_EPSILON,
    LlamaShape,
    TinyLlama,
    logprobs_after,
    one_thread,
    pad_rows,
    places_before,
)
from holdfast.models.tiny.products import linear
from holdfast.records.errors import StudyError

# Rows that are sampled in lockstep; beyond this the caches no longer fit the processor's own.
_ROWS = 64


def build(
    lexicon: Sequence[str],
    directory: Path | str,
    *,
    seed: int,
    system_prompts: Mapping[str, str] | None = None,
    argument: str = RAW,
    hidden: int = 96,
    layers: int = 3,
    heads: int = 3,
    ffn: int = 256,
    max_positions: int = MOST_POSITIONS,
) -> Path:
    """Writes an untrained model directory and returns its path.

    ``lexicon`` holds every word that the model knows, tool names included. ``system_prompts`` maps a full
    system text to the one token, such as ``<role:office>``, that stands for it. ``argument`` is the one argument
    that all tools take, if they do: a server of the directory gives a call's value by this name. The default
    sizes make a model of about 0.36 million weights, in 32-bit floats.
    """
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(
        lexicon, path, system_prompts=system_prompts or {}, max_positions=max_positions, argument=argument
    )
    model = TinyLlama(
        LlamaShape(vocabulary=size, hidden=hidden, layers=layers, heads=heads, ffn=ffn, max_positions=max_positions)
    )
    model.initialize(torch.Generator().manual_seed(seed))
    model.save(path)
    return path


@dataclass(slots=True, kw_only=True)
class _Row:
    prompt: list[int]
    rng: np.random.Generator
    limit: int
    temperature: float
    ids: list[int]
    logprob: float = 0.0


class TinyModel:
    """A ``Model`` that samples a tiny agent in lockstep batches."""

    def __init__(self, llama: TinyLlama, chat: TinyChat) -> None:
        self.llama, self.chat, self._memory = llama, chat, Memory()

    @classmethod
    def load(cls, directory: Path | str) -> TinyModel:
        """The model of a directory; raises StudyError where it holds no tiny model, or one that cannot speak."""
        llama, chat = TinyLlama.load(directory), TinyChat.load(directory)
        if len(chat.tokens) > llama.shape.vocabulary:
            raise StudyError(
                f"{directory}: the tokenizer has {len(chat.tokens)} tokens, the model reads {llama.shape.vocabulary};"
                " build the model again"
            )
        if not all(bool(torch.isfinite(weight).all()) for weight in llama.parameters()):
            raise StudyError(f"{directory}: refused: its weights are not all finite; restore this directory")
        return cls(llama, chat)

    @torch.no_grad()
    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``.

        A token takes one uniform draw from the request's own generator, turned into a token by the inverse of
        the cumulative distribution. A prompt that leaves no room in the model's context gives an empty
        reply that stopped for want of context.
        """
        # A message that ends here is followed by <eos> where it is read again, and that takes a position too.
        room = self.llama.shape.max_positions - 1
        rows = []
        for ask in asks:
            prompt = self.chat.encode(ask.conversation.messages, ask.conversation.tools)[0]
            limit = min(ask.max_tokens, room - len(prompt))
            rows.append(_Row(prompt=prompt, rng=ask.rng, limit=limit, temperature=ask.temperature, ids=[]))
        # Rows of one length waste no padding, and equal prompts become neighbours that share their prefill.
        waiting = sorted((row for row in rows if row.limit > 0), key=lambda row: (len(row.prompt), row.prompt))
        with one_thread():
            for temperature in dict.fromkeys(row.temperature for row in waiting):
                alike = [row for row in waiting if row.temperature == temperature]
                for start in range(0, len(alike), _ROWS):
                    self._sample(alike[start : start + _ROWS], temperature)
        return [self._finish(row, ask) for row, ask in zip(rows, asks, strict=True)]

    def _finish(self, row: _Row, ask: Ask) -> Reply:
        message, stopped = self.chat.read_reply(row.ids, ask.conversation.tools)
        stopped = "context" if row.limit <= 0 else stopped
        raw, ids = self.chat.decode(row.ids), tuple(row.ids)
        return Reply(message=message, stopped=stopped, tokens=len(ids), logprob=row.logprob, raw=raw, ids=ids)

    def _sample(self, rows: Sequence[_Row], temperature: float) -> None:
        prompts: dict[tuple[int, ...], list[_Row]] = {}
        for row in rows:
            prompts.setdefault(tuple(row.prompt), []).append(row)
        nodes = list(prompts.values())
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        # The prompts, with room for what follows.
        steps = Steps(self.llama, pad_rows(list(prompts)), lengths, max(row.limit for row in rows), self._memory)
        while True:
            self._draw(nodes, steps.hidden, temperature)
            # Rows that have said the same so far are one node, computed once.
            parents: list[int] = []
            grown: list[list[_Row]] = []
            for number, node in enumerate(nodes):
                children: dict[int, list[_Row]] = {}
                for row in node:
                    if not self.chat.ends_reply(row.ids[-1], len(row.ids) - 1) and len(row.ids) < row.limit:
                        children.setdefault(row.ids[-1], []).append(row)
                parents += [number] * len(children)
                grown += children.values()
            if not grown:
                return
            if parents != list(range(len(nodes))):
                steps.keep(torch.tensor(parents))
            nodes = grown
            steps.push(torch.tensor([node[0].ids[-1] for node in nodes]))

    def _draw(self, nodes: Sequence[Sequence[_Row]], hidden: Tensor, temperature: float) -> None:
        """A further token for every row of every node, from the node's last hidden state."""
        rows = [row for node in nodes for row in node]
        owner = torch.tensor([number for number, node in enumerate(nodes) for _ in node])
        logits = linear(hidden, self.llama.head)
        logprobs = torch.log_softmax(logits, -1)
        if temperature == 0.0:
            tokens = logits.argmax(-1)[owner]
        else:
            weights = logprobs if temperature == 1.0 else torch.log_softmax(logits / temperature, -1)
            cumulative = weights.double().exp().cumsum(-1)
            if len(nodes) < len(rows):
                cumulative = cumulative[owner]
            draws = torch.tensor([row.rng.random() for row in rows], dtype=torch.float64)
            # The first token whose cumulative probability exceeds the draw; a probability of 0 is never chosen.
            tokens = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
            tokens = tokens.clamp_(max=logits.shape[1] - 1)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs[owner, tokens].tolist(), strict=True):
            row.ids.append(token)
            row.logprob += logprob

    @torch.no_grad()
    @one_thread()
    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> list[NDArray[np.float32]]:
        """Per sequence of (ids, mask), the log-probabilities in nats of its masked tokens, in order.

        Raises StudyError for a sequence longer than the model's context.
        """
        order = sorted(range(len(sequences)), key=lambda number: len(sequences[number][0]))
        results: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences)
        if order and len(sequences[order[-1]][0]) > self.llama.shape.max_positions:
            raise StudyError(f"sequence {order[-1]} is longer than {self.llama.shape.max_positions} tokens; shorten it")
        for start in range(0, len(order), _ROWS):
            chosen = order[start : start + _ROWS]
            tokens = pad_rows([sequences[number][0] for number in chosen])
            picked = pad_rows([sequences[number][1] for number in chosen]).bool()
            places = places_before(picked)
            flat = logprobs_after(self.llama(tokens, wanted=places), self.llama.head, tokens, places)
            for number, part in zip(chosen, torch.split(flat, picked.sum(1).tolist()), strict=True):
                results[number] = part.numpy()
        return results


# --- one further token for many rows ------------------------------------------------------------------------------
# At these sizes an operation's overhead is most of its cost. So norms, the attention's scale and the rotation of
# queries and keys are folded into the matrices once per batch, and all rows write their keys and values to one common
# slot: attention does not ask in which order keys stand, only at which positions they were rotated.


class Memory:
    """What keys and values of sampled rows are written to, from one batch to the next.

    Memory that is asked for anew at every token comes page by page, which costs several times what is copied into it.
    """

    def __init__(self) -> None:
        self._places = [torch.empty(0), torch.empty(0)]

    def take(self, shape: Sequence[int]) -> Tensor:
        """A tensor of a shape with any numbers in it; it is void after the next but one."""
        size = math.prod(shape)
        place, other = self._places
        self._places = [other, place if len(place) >= size else torch.empty(size)]
        return self._places[1][:size].view(*shape)


class Steps:
    """Rows that grow by a token at a time, after prompts [rows, length] padded on the right to true ``lengths``.

    ``hidden`` [rows, width] are the last states of the rows. ``room`` is how many tokens may follow. ``memory`` serves
    one set of rows at a time.
    """

    def __init__(self, llama: TinyLlama, prompts: Tensor, lengths: Tensor, room: int, memory: Memory) -> None:
        shape = llama.shape
        rows, self._used = prompts.shape
        size = shape.hidden // shape.heads
        self._llama, self._heads, self._size, self._width = llama, shape.heads, size, shape.hidden
        # Keys and values of every layer: [layers, 2, rows, heads, slots, size].
        self._memory = memory
        self._kept = memory.take((shape.layers, 2, rows, shape.heads, self._used + room, size))
        self.hidden = llama(prompts, self._kept, wanted=torch.arange(rows) * self._used + lengths - 1)
        self._positions = lengths
        # Slots that hold padding: -inf [rows, 1, slots].
        padding = torch.arange(self._used + room)[None] >= lengths[:, None]
        padding[:, self._used :] = False
        self._bias = torch.zeros(padding.shape).masked_fill_(padding, -math.inf)[:, None]
        self._floor = torch.tensor(math.sqrt(NORM_EPSILON * shape.hidden))
        self._layers = [self._fold(layer) for layer in range(shape.layers)]
        self._last_norm = llama.final_norm * math.sqrt(shape.hidden)

    def _fold(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A layer's matrices: into attention, out of it, into the feed-forward and out of it."""
        llama, width = self._llama, self._width
        into = llama.qkv[layer] * (llama.input_norm[layer] * math.sqrt(width))
        into[:width] *= 1 / math.sqrt(self._size)
        turned = into[: 2 * width].view(2 * self._heads, self._size, width).roll(self._size // 2, 1)
        into = torch.cat((into, turned.reshape(2 * width, width)))
        gate_up = llama.gate_up[layer] * (llama.ffn_norm[layer] * math.sqrt(width))
        return into, llama.out[layer], gate_up, llama.down[layer]

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows, in the given order; a row may be named more than once."""
        kept = self._memory.take((*self._kept.shape[:2], len(rows), *self._kept.shape[3:]))
        self._kept = torch.index_select(self._kept, 2, rows, out=kept)
        self._positions, self._bias = self._positions[rows], self._bias[rows]

    def push(self, tokens: Tensor) -> None:
        """Takes a further token [rows] for every row; ``hidden`` is that of the tokens then."""
        rows, slot, width = len(tokens), self._used, self._width
        shape = (rows, 2, self._heads, self._size)
        cos, sin = (table[self._positions][:, None, None] for table in (self._llama.cos, self._llama.sin))
        bias = self._bias[:, :, : slot + 1].repeat_interleave(self._heads, 0)
        x = self._llama.head[tokens]
        for (into, out, gate_up, down), (keys, values) in zip(self._layers, self._kept, strict=True):
            found = linear(self._scale(x), into)
            turned = torch.addcmul(found[:, : 2 * width].view(shape) * cos, found[:, 3 * width :].view(shape), sin)
            keys[:, :, slot] = turned[:, 1]
            values[:, :, slot] = found[:, 2 * width : 3 * width].view(rows, self._heads, self._size)
            query = turned[:, 0].reshape(rows * self._heads, 1, self._size)
            seen_keys, seen_values = (part.flatten(0, 1)[:, : slot + 1] for part in (keys, values))
            weights = torch.softmax(torch.baddbmm(bias, query, seen_keys.transpose(1, 2)), -1)
            x = x + linear(torch.bmm(weights, seen_values).view(rows, width), out)
            gate, up = linear(self._scale(x), gate_up).chunk(2, -1)
            x = x + linear(F.silu(gate) * up, down)
        self.hidden = self._scale(x) * self._last_norm
        self._used += 1
        self._positions = self._positions + 1

    def _scale(self, x: Tensor) -> Tensor:
        """Root-mean-square norm [rows, width] but for the factor that is folded into the matrix behind it."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
