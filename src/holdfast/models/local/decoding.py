"""Sampling from a model of transformers: many replies in lockstep, each with luck of its own.

A row is laid out as known prefix, gap, the rest of its prompt, gap, sampled tokens. Gaps are masked and positions count
what is not a gap, so that a row means the same beside any others.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.models import SampledToken
from holdfast.models.hub.chat import HubChat
from holdfast.records import JSON
from holdfast.records.errors import StepError, StudyError, needs

_ALTERNATIVES = 20
# So many of the last tokens are looked at for a text to stop at.
_TAIL = 32


@dataclass(slots=True, kw_only=True)
class Row:
    """One reply in the making: at most ``limit`` tokens, ended by a token of ``ends`` or a text of ``stops``."""

    prompt: list[int]
    rng: np.random.Generator
    limit: int
    temperature: float
    stops: tuple[str, ...] = ()
    constraint: Constraint | None = None
    wants_logprobs: bool = False
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    sampled: list[SampledToken] = field(default_factory=list)
    complete: bool = False


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Rows under way: ``seen`` [rows, width] are the columns of the cache that hold tokens."""

    rows: list[Row]
    cache: Any
    seen: Tensor
    positions: Tensor

    def keep(self, numbers: Sequence[int]) -> None:
        chosen = torch.tensor(numbers, device=self.seen.device)
        self.rows = [self.rows[number] for number in numbers]
        self.cache.batch_select_indices(chosen)
        self.seen, self.positions = self.seen[chosen], self.positions[chosen]


class Decoder:
    """Samples rows from a causal language model. ``prefilled`` counts the tokens of prompts that were computed."""

    def __init__(self, model: Any, chat: HubChat, *, cache_tokens: int) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self._model, self._chat, self._device = model, chat, model.device
        self._ends = frozenset(chat.ends)
        layers = DynamicCache(config=model.config).layers
        # Windows and recurrent states count columns, gaps too: such rows are sampled without gaps or known prefixes.
        self.gapless = any(type(layer) is not DynamicLayer for layer in layers)
        self.prefixes = PrefixCache(0 if self.gapless else cache_tokens)
        self.prefilled = 0

    @torch.inference_mode()
    def sample(self, rows: list[Row]) -> None:
        """Sample every row to its end. Errors: StepError where the model's logits are no numbers."""
        batch, logits = self._prefill(rows)
        while True:
            tokens = self._draw(batch.rows, logits)
            alive = []
            for number, (row, token) in enumerate(zip(batch.rows, tokens, strict=True)):
                if self._goes_on(row, token):
                    alive.append(number)
                else:
                    self._remember(batch, number)
            if not alive:
                return
            if len(alive) < len(batch.rows):
                batch.keep(alive)
            logits = self._step(batch, [row.ids[-1] for row in batch.rows])

    def _prefill(self, rows: Sequence[Row]) -> tuple[_Batch, Tensor]:
        """The rows with their prompts read, each different prompt once, and the logits [rows, vocabulary] behind."""
        from transformers import DynamicCache

        numbers: dict[tuple[int, ...], int] = {}
        owner = [numbers.setdefault(tuple(row.prompt), len(numbers)) for row in rows]
        prompts = list(numbers)
        known_states = [self.prefixes.find(prompt) for prompt in prompts]
        known = max(count for count, _ in known_states)
        cache = DynamicCache(config=self._model.config)
        if known:
            for number, (keys, values) in enumerate(lay_side_by_side(known_states, known)):
                cache.update(keys, values, number)
        rest = [prompt[count:] for prompt, (count, _) in zip(prompts, known_states, strict=True)]
        self.prefilled += sum(map(len, rest))
        width = max(map(len, rest))
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros(len(prompts), known + width, dtype=torch.bool)
        positions = torch.zeros(len(prompts), width, dtype=torch.long)
        for number, (part, (count, _)) in enumerate(zip(rest, known_states, strict=True)):
            tokens[number, : len(part)] = torch.tensor(part)
            seen[number, :count] = seen[number, known : known + len(part)] = True
            # Positions behind the last token are never looked at, but must be some of the model's.
            positions[number] = torch.arange(count, count + width).clamp_(max=count + len(part) - 1)
        lasts = torch.tensor([len(part) - 1 for part in rest])
        kept, column = torch.unique(lasts, return_inverse=True)
        seen = seen.to(self._device)
        out = self._model(
            input_ids=tokens.to(self._device),
            attention_mask=seen.long(),
            position_ids=positions.to(self._device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=kept.to(self._device),
        )
        logits = out.logits[torch.arange(len(prompts)), column]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        batch = _Batch(rows=list(rows), cache=cache, seen=seen, positions=lengths)
        if owner != list(range(len(prompts))):
            chosen = torch.tensor(owner, device=self._device)
            cache.batch_select_indices(chosen)
            batch.seen, batch.positions, logits = seen[chosen], lengths[chosen], logits[chosen]
        return batch, logits

    def _step(self, batch: _Batch, tokens: Sequence[int]) -> Tensor:
        batch.seen = torch.cat([batch.seen, batch.seen.new_ones(len(tokens), 1)], 1)
        out = self._model(
            input_ids=torch.tensor(tokens, device=self._device)[:, None],
            attention_mask=batch.seen.long(),
            position_ids=batch.positions[:, None],
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.positions = batch.positions + 1
        logits: Tensor = out.logits[:, -1]
        return logits

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        """The next token of every row: the likeliest, or one draw by the inverse of the cumulative distribution."""
        logits = logits.float()
        logprobs = torch.log_softmax(logits, -1)
        logits = logits.clone() if any(row.constraint for row in rows) else logits
        for number, row in enumerate(rows):
            if row.constraint is not None:
                allowed = torch.from_numpy(row.constraint.allowed(row.limit - len(row.ids)))
                logits[number].masked_fill_(~allowed.to(logits.device), -torch.inf)
        tokens = logits.argmax(-1)
        warm = [number for number, row in enumerate(rows) if row.temperature > 0]
        if warm:
            places = torch.tensor(warm, device=logits.device)
            heat = torch.tensor([rows[number].temperature for number in warm], device=logits.device)
            cumulative = torch.softmax(logits[places].double() / heat[:, None].double(), -1).cumsum(-1)
            draws = torch.tensor([rows[number].rng.random() for number in warm], dtype=torch.float64)
            # The first token whose cumulative probability exceeds the draw; a probability of 0 is never chosen.
            bounds = draws.to(logits.device)[:, None] * cumulative[:, -1:]
            drawn = torch.searchsorted(cumulative, bounds, right=True)[:, 0]
            tokens[places] = drawn.clamp_(max=logits.shape[1] - 1)
        self._note(rows, tokens, logprobs)
        return list(tokens.tolist())

    def _note(self, rows: Sequence[Row], tokens: Tensor, logprobs: Tensor) -> None:
        picked = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        for number, (row, logprob) in enumerate(zip(rows, picked, strict=True)):
            if math.isnan(logprob):
                raise StepError(
                    "the model's logits are not numbers; its weights are damaged or overflow in this precision"
                )
            row.logprob += logprob
            if row.wants_logprobs:
                best = logprobs[number].topk(min(_ALTERNATIVES, logprobs.shape[1]))
                top: dict[str, float] = {}
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    top.setdefault(self._chat.decode([token]), value)
                text = self._chat.decode([int(tokens[number])])
                row.sampled.append(SampledToken(text=text, logprob=logprob, top=top))

    def _goes_on(self, row: Row, token: int) -> bool:
        row.ids.append(token)
        row.complete = token in self._ends if row.constraint is None else row.constraint.take(token)
        if not row.complete and row.stops:
            tail = self._chat.decode(row.ids[-_TAIL:])
            row.complete = any(stop in tail for stop in row.stops)
        return not row.complete and len(row.ids) < row.limit

    def _remember(self, batch: _Batch, number: int) -> None:
        """Keep the states of a finished row; those of its last token were never computed."""
        row = batch.rows[number]
        ids = [*row.prompt, *row.ids[:-1]]
        if self.prefixes.tokens < len(ids):
            return
        columns = batch.seen[number].nonzero()[:, 0]
        states = [
            (layer.keys[number].index_select(1, columns), layer.values[number].index_select(1, columns))
            for layer in batch.cache.layers
        ]
        self.prefixes.add(ids, states)


# Of every layer: keys and values [heads, tokens, dimensions].
States = Sequence[tuple[Tensor, Tensor]]


class PrefixCache:
    """The states of recent token sequences, the least recently used left out first. ``tokens`` bounds them together."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._entries: OrderedDict[int, tuple[NDArray[np.int64], States]] = OrderedDict()
        self._held = self._made = 0

    def find(self, ids: Sequence[int]) -> tuple[int, States]:
        """How many of the first tokens are known, the last one never, and the states of a sequence that has them."""
        wanted = np.array(ids[:-1], np.int64)
        best, key = 0, None
        for number, (known, _) in self._entries.items():
            length = min(len(wanted), len(known))
            differs = np.flatnonzero(wanted[:length] != known[:length])
            shared = int(differs[0]) if len(differs) else length
            if shared > best:
                best, key = shared, number
        if key is None:
            return 0, ()
        self._entries.move_to_end(key)
        return best, self._entries[key][1]

    def add(self, ids: Sequence[int], states: States) -> None:
        """Keep the states of a sequence, in the place of those that it goes on from."""
        if not 0 < len(ids) <= self.tokens:
            return
        kept = np.array(ids, np.int64)
        for number, (known, _) in list(self._entries.items()):
            if len(known) <= len(kept) and np.array_equal(kept[: len(known)], known):
                self._drop(number)
        self._entries[self._made] = kept, states
        self._made += 1
        self._held += len(kept)
        while self._held > self.tokens:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._held = 0

    def _drop(self, number: int) -> None:
        self._held -= len(self._entries.pop(number)[0])


def lay_side_by_side(found: Sequence[tuple[int, States]], width: int) -> list[tuple[Tensor, Tensor]]:
    """Of every layer, keys and values [rows, heads, width, dimensions] of known prefixes, with zeros behind them."""
    filled = next(states for known, states in found if known)

    def lay(layer: int, part: int) -> Tensor:
        example = filled[layer][part]
        rows = example.new_zeros(len(found), example.shape[0], width, example.shape[2])
        for row, (known, states) in zip(rows, found, strict=True):
            if known:
                row[:, :known] = states[layer][part][:, :known]
        return rows

    return [(lay(layer, 0), lay(layer, 1)) for layer in range(len(filled))]


# --- replies that follow a JSON schema ----------------------------------------------------------------------------
# At every place only tokens are allowed with which the text can still become so. The grammar is llguidance's. Where few
# tokens are left, the text is steered to its end, so that a reply that would have been cut off is a complete JSON
# value.

_DEEPEST = 8
_PLAIN = 8  # characters of a value that is under way, such as a number
_ENDINGS = (b"}", b"]", b",", b":", b'"')


class Grammars:
    """Makes constraints for one tokenizer; ``vocabulary`` is the number of the model's logits."""

    def __init__(self, tokenizer: Any, *, vocabulary: int, ends: Sequence[int]) -> None:
        with needs("train", "replies that follow a JSON schema"):
            from llguidance.hf import from_tokenizer
        self.vocabulary = vocabulary
        self.tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
        # The tokens that are exactly one of these texts.
        singles = {text: self.tokenizer.tokenize_bytes(text)[-1] for text in _ENDINGS}
        self.endings = {text: one for text, one in singles.items() if self.tokenizer.decode_bytes([one]) == text}

    def start(self, schema: JSON, limit: int) -> Constraint:
        """The constraint of a reply of at most ``limit`` tokens. Errors: StudyError for a schema not to be followed."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_flexible": False})
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise StudyError(f"JSON schema: replies cannot follow it ({matcher.get_error()[:200]}); simplify it")
        # At least half of the tokens are the model's own to spend.
        return Constraint(self, matcher, min(_longest(schema, schema, 0), limit // 2))


class Constraint:
    """What a reply may go on with. ``reserve`` is the number of tokens that bring any text of the schema to its end."""

    def __init__(self, grammars: Grammars, matcher: Any, reserve: int) -> None:
        self.reserve = reserve
        self._grammars, self._matcher = grammars, matcher
        self._in_string = self._escaped = False

    def allowed(self, left: int) -> NDArray[np.bool_]:
        """Which tokens [vocabulary] may come next, where ``left`` of them may still be written."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        found = np.zeros(self._grammars.vocabulary, np.bool_)
        shown = np.unpackbits(bits, bitorder="little")[: len(found)]
        found[: len(shown)] = shown
        if left <= self.reserve and not self._escaped:
            for text in (b'"',) if self._in_string else _ENDINGS:
                token = self._grammars.endings.get(text)
                if token is not None and found[token]:
                    found[:] = False
                    found[token] = True
                    break
        return found

    def copy(self) -> Constraint:
        """The same at the same place, to go another way."""
        other = Constraint(self._grammars, self._matcher.deep_copy(), self.reserve)
        other._in_string, other._escaped = self._in_string, self._escaped
        return other

    def take(self, token: int) -> bool:
        """Go on with a token; whether the reply is complete with it. Errors: ValueError for one not allowed."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} is not allowed here ({self._matcher.get_error()})")
        for letter in self._grammars.tokenizer.decode_bytes([token]):
            if self._escaped:
                self._escaped = False
            elif letter == ord("\\"):
                self._escaped = self._in_string
            elif letter == ord('"'):
                self._in_string = not self._in_string
        return bool(self._matcher.is_stopped())


def _longest(schema: Any, root: JSON, depth: int) -> int:
    """The number of characters of the largest value of a schema whose texts are empty and whose lists have one item."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return _PLAIN
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for key in reference[2:].split("/"):
            found = found.get(key) if isinstance(found, Mapping) else None
        return _longest(found, root, depth + 1)
    if "const" in schema or "enum" in schema:
        return max(len(json.dumps(value)) for value in schema.get("enum") or [schema.get("const")])
    size = _PLAIN + int(schema.get("minLength", 0))
    for key, value in (schema.get("properties") or {}).items():
        size += len(json.dumps(key)) + 4 + _longest(value, root, depth + 1)
    if "items" in schema:
        size += max(int(schema.get("minItems", 0)), 1) * (_longest(schema["items"], root, depth + 1) + 2)
    options = [option for name in ("anyOf", "oneOf", "allOf") for option in schema.get(name) or ()]
    return size + max((_longest(option, root, depth + 1) for option in options), default=0)
