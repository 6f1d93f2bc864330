"""Sampling from a model of transformers: many replies in lockstep, each with luck of its own.

A row is its opening, which others share; behind it, in columns of its own, what is known of its earlier turns, a gap,
the rest of its prompt, a gap, sampled tokens. Gaps are masked and positions count what is not a gap, so that a row
means the same beside any others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.models import SampledToken
from holdfast.models.directories.libraries import sampling_attention
from holdfast.models.hub.chat import HubChat
from holdfast.models.local.shared import (
    NOTHING,
    ROWS_ATTENTION,
    Openings,
    SharedRows,
    States,
    Turns,
    attention_of,
    count_states,
)
from holdfast.records import JSON
from holdfast.records.errors import StepError, StudyError, needs

_ALTERNATIVES = 20
OWN_ATTENTION = "sdpa"  # transformers' own, or its "eager" where the architecture has no other
# How far log-probabilities over shared states may be from the network's own, by their size; in 16 bits so many times.
_TOLERANCE, _HALF = 1e-4, 200
# So many of the last tokens are looked at for a text to stop at.
_TAIL = 32


@dataclass(slots=True, kw_only=True)
class Row:
    """One reply in the making: at most ``limit`` tokens, ended by a token of ``ends`` or a text of ``stops``.

    The first ``opening`` tokens of the prompt are those that other conversations open with too; others follow.
    """

    prompt: list[int]
    opening: int = 0
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
    """Rows under way; ``positions`` [rows] are those of their next tokens.

    ``states`` are shared ones, or a cache of transformers for rows of one length.
    """

    rows: list[Row]
    states: Any
    positions: Tensor

    def keep(self, numbers: Sequence[int]) -> None:
        if isinstance(self.states, SharedRows):
            self.states.keep(numbers)
        else:
            self.states.batch_select_indices(torch.tensor(numbers, device=self.positions.device))
        self.rows = [self.rows[number] for number in numbers]
        self.positions = self.positions[torch.tensor(numbers, device=self.positions.device)]


class Decoder:
    """Samples rows from a causal language model. ``prefilled`` counts the tokens of prompts that were computed."""

    def __init__(self, model: Any, chat: HubChat, *, cache_tokens: int) -> None:
        self._model, self._chat, self._device = model, chat, model.device
        self._ends = frozenset(chat.ends)
        self.openings, self.turns = Openings(cache_tokens // 2), Turns(cache_tokens - cache_tokens // 2)
        self.prefilled = 0

    def clear(self) -> None:
        """Forget all states."""
        self.openings.clear()
        self.turns.clear()

    @cached_property
    def unshared(self) -> str | None:
        """Why rows share no states, or None where they do.

        The rows of an architecture with another attention are sampled by its own cache, and all rows that are sampled
        together then have prompts of one length. What an architecture computes is held against its own forward pass.
        """
        from transformers.cache_utils import DynamicLayer

        kinds = {type(layer).__name__ for layer in _own_cache(self._model).layers}
        if other := sorted(kinds - {DynamicLayer.__name__}):
            return f"it keeps states of another kind ({', '.join(other)})"
        prefilled = self.prefilled
        try:
            gap = self._measure_gap()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, KeyError, AttributeError, RuntimeError) as error:  # another kind of decoder or of attention
            return f"it does not take them ({error})"
        finally:
            self.clear()
            self.prefilled = prefilled
        half = self._model.dtype.itemsize < 4 or torch.is_autocast_enabled(self._device.type)
        # Written so that a difference that is no number is refused too.
        if not gap <= _TOLERANCE * (_HALF if half else 1):
            return f"it computes otherwise over them (log-probabilities differ by {gap:.2g} of their size)"
        return None

    @torch.inference_mode()
    def _measure_gap(self) -> float:
        """How far the next token's log-probabilities after shared states are from the network's own, by their size."""
        text = self._model.config.get_text_config(decoder=True)
        rng = np.random.default_rng(0)
        opening, *ends = (rng.integers(text.vocab_size, size=size).tolist() for size in (4, 1, 2, 1))
        rows = [Row(prompt=[*opening, *end], opening=4, rng=rng, limit=1, temperature=0.0) for end in ends[:2]]
        with attention_of(self._model, ROWS_ATTENTION):
            lengths = torch.tensor([len(row.prompt) for row in rows], device=self._device)
            batch = _Batch(rows=rows, states=self._read(rows)[0], positions=lengths)
            ours = torch.log_softmax(self._step(batch, ends[2] * 2).float(), -1)
        with attention_of(self._model, self._own_attention()):
            whole = [torch.tensor([[*row.prompt, *ends[2]]], device=self._device) for row in rows]
            theirs = torch.cat([self._model(input_ids=ids, use_cache=False).logits[:, -1].float() for ids in whole])
        own = torch.log_softmax(theirs, -1)
        return float((ours - own).abs().mean() / own.abs().mean())

    @torch.inference_mode()
    def sample(self, rows: list[Row]) -> None:
        """Sample every row to its end, rows of one opening being neighbours.

        Errors: StepError where the model's logits are no numbers.
        """
        with attention_of(self._model, self._own_attention() if self.unshared else ROWS_ATTENTION):
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

    def _own_attention(self) -> str:
        return sampling_attention(self._model.config)

    def _prefill(self, rows: Sequence[Row]) -> tuple[_Batch, Tensor]:
        """The rows with their prompts read, each different prompt once, and the logits [rows, vocabulary] behind."""
        numbers: dict[tuple[int, ...], int] = {}
        owner = [numbers.setdefault(tuple(row.prompt), len(numbers)) for row in rows]
        first = {number: row for row, number in zip(reversed(rows), reversed(owner), strict=True)}
        firsts = [first[number] for number in range(len(numbers))]
        prompts = [row.prompt for row in firsts]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        if self.unshared:
            self.prefilled += sum(map(len, prompts))
            states = _own_cache(self._model)
            logits = self._compute(states, torch.tensor(prompts), None)
        else:
            states, logits = self._read(firsts)
        batch = _Batch(rows=list(firsts), states=states, positions=lengths)
        if owner != list(range(len(prompts))):
            batch.keep(owner)
            logits = logits[torch.tensor(owner, device=logits.device)]
        batch.rows = list(rows)
        return batch, logits

    def _read(self, rows: Sequence[Row]) -> tuple[SharedRows, Tensor]:
        """The states of rows with different prompts, and the logits behind; only what is not known is computed."""
        openings = [self._open(row) for row in rows]
        known = [self.turns.find(row.prompt, row.opening) for row in rows]
        counts = [row.opening + count_states(states) for row, states in zip(rows, known, strict=True)]
        rest = [row.prompt[count:] for row, count in zip(rows, counts, strict=True)]
        self.prefilled += sum(map(len, rest))
        width = max(map(len, rest))
        states = SharedRows(openings, known, self._device, room=width + max(row.limit for row in rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        held = torch.zeros(len(rows), width, dtype=torch.bool)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        for number, (part, count) in enumerate(zip(rest, counts, strict=True)):
            tokens[number, : len(part)] = torch.tensor(part)
            held[number, : len(part)] = True
            # Positions behind the last token are never looked at, but must be some of the model's.
            positions[number] = torch.arange(count, count + width).clamp_(max=count + len(part) - 1)
        states.extend(held.to(self._device))
        lasts = torch.tensor([len(part) - 1 for part in rest])
        return states, self._compute(states, tokens, positions, lasts)

    def _open(self, row: Row) -> States:
        """The states of a row's opening, computed alone where they are not kept."""
        if not row.opening:
            return NOTHING
        ids = tuple(row.prompt[: row.opening])
        found = self.openings.find(ids)
        if found is None:
            alone = SharedRows([NOTHING], [NOTHING], self._device)
            alone.extend(torch.ones(1, len(ids), dtype=torch.bool, device=self._device))
            self._compute(alone, torch.tensor([ids]), torch.arange(len(ids))[None])
            found = alone.own_states(0)
            self.openings.add(ids, found)
            self.prefilled += len(ids)
        return found

    def _compute(self, states: Any, tokens: Tensor, positions: Tensor | None, lasts: Tensor | None = None) -> Tensor:
        """The logits [rows, vocabulary] behind tokens [rows, length], or behind each row's token in ``lasts``."""
        shared = isinstance(states, SharedRows)
        rows = {"shared_rows": states, "use_cache": False} if shared else {"past_key_values": states, "use_cache": True}
        kept, column = None, None
        if lasts is not None:
            kept, column = torch.unique(lasts, return_inverse=True)
            kept = kept.to(self._device)
        out = self._model(
            input_ids=tokens.to(self._device),
            position_ids=None if positions is None else positions.to(self._device),
            logits_to_keep=1 if kept is None else kept,
            **rows,
        )
        logits: Tensor = out.logits[:, -1] if column is None else out.logits[torch.arange(len(tokens)), column]
        return logits

    def _step(self, batch: _Batch, tokens: Sequence[int]) -> Tensor:
        if isinstance(batch.states, SharedRows):
            batch.states.extend(torch.ones(len(tokens), 1, dtype=torch.bool, device=self._device))
        logits = self._compute(batch.states, torch.tensor(tokens)[:, None], batch.positions[:, None])
        batch.positions = batch.positions + 1
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
        if isinstance(batch.states, SharedRows) and len(ids) - row.opening <= self.turns.tokens:
            self.turns.add(ids, row.opening, batch.states.own_states(number, narrow=True))


def _own_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


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
