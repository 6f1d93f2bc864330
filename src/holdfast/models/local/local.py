"""Any causal language model of transformers, in this process.

    directory ─ checks of ``hub`` ─▶ weights (a stack's merged) ─ ``decoding`` ─▶ replies in batches

Code of a model's own is never run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch

from holdfast.models import Ask, Conversation, Reply
from holdfast.models.directories.files import weight_files
from holdfast.models.directories.libraries import short_rotations
from holdfast.models.directories.opening import attach, check_finite, merge, open_network
from holdfast.models.directories.stacks import base_of
from holdfast.models.hub.chat import Calls, HubChat
from holdfast.models.hub.hub import check_model, check_vocabulary
from holdfast.models.local.decoding import OWN_ATTENTION, Decoder, Grammars, Row
from holdfast.models.local.speed import ROWS, computes_wide
from holdfast.records import Message
from holdfast.records.errors import MissingExtra, StepError, StudyError

Quantization = Literal["none", "int8", "int4"]
Precision = Literal["fp32", "bf16"]
# A message that ends at a text, such as a call's end, is followed by the end of its turn where it is read again.
_SPARE = 2
_CACHED_TOKENS = 1 << 15
# What a user may say first: texts that begin otherwise, so that what their prompts share comes before them.
_FIRST_WORDS = ("probe", "1 probe")
_MOST_OPENINGS = 1024  # whose ids are known
# Shorter openings are read with each conversation.
_SHORT = 16
# Replies that are sampled at once where they have more own tokens than that together; else at most ROWS.
_FEW_ROWS, _ROW_TOKENS, _ROW_TOKENS_HERE = 16, 1 << 15, 3 << 12  # on an accelerator, and in a processor's memory


class LocalModel:
    """A ``Model`` over a directory of whole weights, or of an adapter on a base: a stack of ours, or PEFT's.

    At most ``rows`` replies are sampled at once, fewer where they are long and after memory has run out. States are
    kept of at most ``cache_tokens`` tokens: of what conversations open with, their system message and tools, and of the
    last conversations, so that a further turn computes only what is new; 0 keeps none. Errors:
    StudyError for a directory that is refused or cannot be loaded, weights that are not finite, a tokenizer with more
    tokens than the model, and quantization without an NVIDIA GPU.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        calls: Calls = "auto",
        quantization: Quantization = "none",
        precision: Precision = "bf16",
        rows: int = ROWS,
        cache_tokens: int = _CACHED_TOKENS,
    ) -> None:
        place = Path(directory)
        tokens = check_model(place, attention=OWN_ATTENTION)
        chat = HubChat(place, calls=calls)
        check_vocabulary(place, chat.tokenizer, tokens)
        network = _load(place, quantization, precision)
        check_vocabulary(place, chat.tokenizer, network.get_input_embeddings().weight.shape[0])
        self._take(network, chat, rows, cache_tokens)

    @classmethod
    def around(cls, network: Any, chat: HubChat, *, rows: int = ROWS, cache_tokens: int = _CACHED_TOKENS) -> LocalModel:
        """The same over a network that someone else holds, in eval mode and with an attention that takes masks.

        What it keeps of conversations is of the network's present weights, so it is used until they change.
        """
        model = cls.__new__(cls)
        model._take(network, chat, rows, cache_tokens)
        return model

    def _take(self, network: Any, chat: HubChat, rows: int, cache_tokens: int) -> None:
        self.directory, self.chat, self.model, self.rows = chat.directory, chat, network, rows
        self.decoder = Decoder(self.model, self.chat, cache_tokens=cache_tokens)
        text = self.model.config.get_text_config()
        self.max_positions: int = text.max_position_embeddings
        self._turned = short_rotations(text) or self.max_positions
        self._vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        self._grammars: Grammars | None = None
        self._known_openings: dict[str, list[int]] = {}

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``.

        A token takes one uniform draw from the request's own generator unless the temperature is 0. Errors: StudyError
        for a conversation that the chat template refuses, StepError where memory does not suffice for one reply.
        """
        rows = [self._row(ask) for ask in asks]
        waiting = [row for row in rows if row.limit > 0]
        # Equal openings become neighbours, and so do equal prompts, which are read once.
        waiting.sort(key=lambda row: (row.prompt[: row.opening], len(row.prompt), row.prompt))
        if self.decoder.unshared:
            waiting.sort(key=lambda row: (len(row.prompt), row.prompt))
        # Long texts have other rotations, so they share no states with shorter ones, nor a pass with each other.
        waiting.sort(key=self._is_long)
        while waiting:
            if alone := self._is_long(waiting[0]):
                self.decoder.turns.clear()
            count = 1 if alone else self._count_fitting(waiting)
            if self._sample(waiting[:count]):
                del waiting[:count]
            if alone:
                self.decoder.turns.clear()
        return [self._finish(row, ask) for row, ask in zip(rows, asks, strict=True)]

    def forget(self) -> None:
        """Give up the states of conversations; those of openings do not depend on what was asked before."""
        self.decoder.turns.clear()

    def _is_long(self, row: Row) -> bool:
        """Whether a row's prompt is read with the rotations of long texts."""
        return len(row.prompt) >= self._turned

    def _count_fitting(self, waiting: Sequence[Row]) -> int:
        """How many of the first rows are sampled together."""
        tokens, most = 0, _ROW_TOKENS_HERE if self.model.device.type == "cpu" else _ROW_TOKENS
        for count, row in enumerate(waiting[: self.rows]):
            tokens += len(row.prompt) - row.opening + row.limit
            apart = bool(self.decoder.unshared) and len(row.prompt) != len(waiting[0].prompt)
            if apart or self._is_long(row) or (count >= _FEW_ROWS and tokens > most):
                return count
        return min(len(waiting), self.rows)

    def _row(self, ask: Ask) -> Row:
        prompt = self.chat.prompt_ids(ask.conversation)
        long = len(prompt) >= self._turned
        room = self.max_positions if long else min(self._turned, self.max_positions)
        limit = min(ask.max_tokens, room - _SPARE - len(prompt))
        constraint = None
        if ask.schema is not None:
            if self._grammars is None:
                self._grammars = Grammars(self.chat.tokenizer, vocabulary=self._vocabulary, ends=self.chat.ends)
            constraint = self._grammars.start(ask.schema, limit)
        return Row(
            prompt=prompt,
            opening=0 if long else self._find_opening(prompt, ask.conversation),
            rng=ask.rng,
            limit=limit,
            temperature=ask.temperature,
            stops=() if constraint else self.chat.stops(ask.conversation.tools),
            constraint=constraint,
            wants_logprobs=ask.logprobs,
        )

    def _find_opening(self, prompt: list[int], conversation: Conversation) -> int:
        """How many of a prompt's first tokens are an opening whose states are worth keeping; never the last one."""
        opening = self._opening_ids(conversation)
        pairs = zip(prompt[:-1], opening, strict=False)
        shared = next(
            (place for place, (one, two) in enumerate(pairs) if one != two), min(len(prompt) - 1, len(opening))
        )
        return shared if _SHORT <= shared <= self.decoder.openings.tokens else 0

    def _opening_ids(self, conversation: Conversation) -> list[int]:
        """The token ids that system messages and tools put before whatever a user says first; none without them."""
        leading = tuple(takewhile(lambda message: message.role == "system", conversation.messages))
        if not leading and not conversation.tools:
            return []
        key = repr((leading, conversation.tools))
        if key not in self._known_openings:
            said = [Message(role="user", content=text) for text in _FIRST_WORDS]
            talks = [Conversation(messages=(*leading, one), tools=conversation.tools) for one in said]
            try:
                both = zip(*map(self.chat.prompt_ids, talks), strict=False)
            except StudyError:  # a template that refuses so short a conversation
                both = zip((), (), strict=True)
            if len(self._known_openings) >= _MOST_OPENINGS:
                self._known_openings.clear()
            self._known_openings[key] = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
        return self._known_openings[key]

    def _sample(self, batch: list[Row]) -> bool:
        """Whether the rows were sampled; if not, they are as before, and fewer will be at once."""
        luck = [row.rng.bit_generator.state for row in batch]
        constraints = [row.constraint.copy() if row.constraint else None for row in batch]
        try:
            self.decoder.sample(batch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            for row, state, constraint in zip(batch, luck, constraints, strict=True):
                row.rng.bit_generator.state, row.constraint = state, constraint
                row.ids, row.sampled, row.logprob, row.complete = [], [], 0.0, False
            self.decoder.clear()
            reason = str(error).partition("\n")[0]
        else:
            return True
        if len(batch) == 1:
            raise StepError(
                f"{self.directory}: memory does not suffice for one conversation of {len(batch[0].prompt)} tokens"
                f" ({reason}); shorten it, quantise the model or use a larger device"
            )
        self.rows = len(batch) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False

    def _finish(self, row: Row, ask: Ask) -> Reply:
        reply = self.chat.finish(row.ids, ask, complete=row.complete, logprob=row.logprob, sampled=row.sampled)
        return replace(reply, stopped="context") if row.limit <= 0 else reply


def _load(directory: Path, quantization: Quantization, precision: Precision) -> Any:
    settings = quantization_settings(quantization, directory)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings:
        settings["device_map"] = {"": device}
    narrow = precision == "bf16" and not _is_wide_faster(directory, device)
    dtype = torch.bfloat16 if narrow else torch.float32
    opened = open_network(directory, dtype=dtype, attention=OWN_ATTENTION, settings=settings)
    model = opened.network
    if opened.stack and narrow:
        # 16 bits would take most of a small change away, and which share depends on the change.
        attach(model, None, opened.stack, directory)
    elif opened.stack:
        merge(model, opened.stack)
    model = model if settings else model.to(device)
    check_finite(model.named_parameters(), f"{directory}: refused")
    return model.eval()


def _is_wide_faster(directory: Path, device: torch.device) -> bool:
    size = sum(path.stat().st_size for path in weight_files(base_of(directory)))
    return device.type == "cpu" and computes_wide(size)


def quantization_settings(quantization: Quantization, directory: Path) -> dict[str, Any]:
    """What transformers is told to quantise weights as it loads them; nothing for "none".

    Errors: StudyError without an NVIDIA GPU and for an adapter, MissingExtra.
    """
    if quantization == "none":
        return {}
    if base_of(directory) != directory:
        raise StudyError(f"{directory}: an adapter cannot be merged into quantised weights; set quantization = 'none'")
    if not torch.cuda.is_available():
        raise StudyError(f"{directory}: quantization {quantization} needs an NVIDIA GPU; set quantization = 'none'")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(f"quantization {quantization}", "quantized")
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_use_double_quant": True}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **four)}
