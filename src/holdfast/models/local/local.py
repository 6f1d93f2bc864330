"""Any causal language model of transformers, in this process.

    directory ─ checks of ``hub`` ─▶ weights (a stack's merged) ─ ``decoding`` ─▶ replies in batches

Code of a model's own is never run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from holdfast.models import Ask, Reply
from holdfast.models.directories.libraries import short_rotations
from holdfast.models.directories.opening import check_finite, merge, open_network
from holdfast.models.directories.stacks import base_of
from holdfast.models.hub.chat import Calls, HubChat
from holdfast.models.hub.hub import check_model, check_vocabulary
from holdfast.models.local.decoding import Decoder, Grammars, Row
from holdfast.records.errors import MissingExtra, StepError, StudyError

Quantization = Literal["none", "int8", "int4"]
Precision = Literal["fp32", "bf16"]
# A message that ends at a text, such as a call's end, is followed by the end of its turn where it is read again.
_SPARE = 2
_CACHED_TOKENS = 1 << 15
ATTENTION = "sdpa"


class LocalModel:
    """A ``Model`` over a directory of whole weights, or of an adapter on a base: a stack of ours, or PEFT's.

    ``rows`` replies are sampled at once, fewer after memory has run out. The states of the last conversations, at most
    ``cache_tokens`` tokens of them, are kept, so that their next turn computes only what is new; 0 keeps none. Errors:
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
        rows: int = 16,
        cache_tokens: int = _CACHED_TOKENS,
    ) -> None:
        place = Path(directory)
        tokens = check_model(place, attention=ATTENTION)
        chat = HubChat(place, calls=calls)
        check_vocabulary(place, chat.tokenizer, tokens)
        network = _load(place, quantization, precision)
        check_vocabulary(place, chat.tokenizer, network.get_input_embeddings().weight.shape[0])
        self._take(network, chat, rows, cache_tokens)

    @classmethod
    def around(cls, network: Any, chat: HubChat, *, rows: int = 16, cache_tokens: int = _CACHED_TOKENS) -> LocalModel:
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

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``.

        A token takes one uniform draw from the request's own generator unless the temperature is 0. Errors: StudyError
        for a conversation that the chat template refuses, StepError where memory does not suffice for one reply.
        """
        rows = [self._row(ask) for ask in asks]
        # Equal prompts become neighbours that share their reading, and rows of one length waste no padding.
        near = [row for row in rows if row.limit > 0 and len(row.prompt) < self._turned]
        waiting = sorted(near, key=lambda row: (len(row.prompt), row.prompt))
        start = 0
        while start < len(waiting):
            batch = waiting[start : start + self.rows]
            if self.decoder.gapless:
                batch = [row for row in batch if len(row.prompt) == len(batch[0].prompt)]
            if self._sample(batch):
                start += len(batch)
        # Longer texts have other rotations, so they share no states with shorter ones, nor a pass with each other.
        for row in rows:
            if row.limit > 0 and len(row.prompt) >= self._turned:
                self.decoder.prefixes.clear()
                self._sample([row])
                self.decoder.prefixes.clear()
        return [self._finish(row, ask) for row, ask in zip(rows, asks, strict=True)]

    def _row(self, ask: Ask) -> Row:
        prompt = self.chat.prompt_ids(ask.conversation)
        room = min(self._turned, self.max_positions) if len(prompt) < self._turned else self.max_positions
        limit = min(ask.max_tokens, room - _SPARE - len(prompt))
        constraint = None
        if ask.schema is not None:
            if self._grammars is None:
                self._grammars = Grammars(self.chat.tokenizer, vocabulary=self._vocabulary, ends=self.chat.ends)
            constraint = self._grammars.start(ask.schema, limit)
        return Row(
            prompt=prompt,
            rng=ask.rng,
            limit=limit,
            temperature=ask.temperature,
            stops=() if constraint else self.chat.stops(ask.conversation.tools),
            constraint=constraint,
            wants_logprobs=ask.logprobs,
        )

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
            self.decoder.prefixes.clear()
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
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    opened = open_network(directory, dtype=dtype, attention=ATTENTION, settings=settings)
    model = opened.network
    if opened.stack:
        merge(model, opened.stack)
    model = model if settings else model.to(device)
    check_finite(model.named_parameters(), f"{directory}: refused")
    return model.eval()


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
