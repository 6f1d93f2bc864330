"""The models that holdfast makes as an Inspect model provider: ``--model holdfast/DIRECTORY`` or ``holdfast/RUN:NAME``.

Requests that are made at the same time are answered as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from holdfast.exchange.inspect.messages import from_inspect, from_tool_info, to_inspect
from holdfast.models import Ask, Conversation, Model, Reply
from holdfast.models.hub.gguf import is_gguf, unpack
from holdfast.models.remote.inspect_chat import BYTES_PER_TOKEN
from holdfast.models.tiny.chat import is_tiny
from holdfast.records import Message, content_id
from holdfast.records.errors import refuse

BATCH = 64
GATHER_SECONDS = 0.002  # a batch waits so long for requests that are made at the same time
MAX_TOKENS = 2048  # of a reply where nothing is said; the model's context ends it before, as a rule
STOPPED = "stopped"
_REASONS = {"length": "max_tokens", "context": "model_length", "incoherent": "unknown"}


@modelapi(name="holdfast")  # type: ignore[untyped-decorator]
def holdfast() -> type[ModelAPI]:
    """The provider that `inspect` knows as ``holdfast``."""
    return HoldfastModel


def find_directory(name: str) -> Path:
    """The model directory that a name means: a path, also of a GGUF file, or ``RUN:CHECKPOINT`` by name or id.

    Errors: StudyError.
    """
    if is_gguf(name):
        return unpack(name)
    if (path := Path(name).expanduser()).is_dir():
        return path
    run, _, wanted = name.partition(":")
    if not wanted:
        remedy = "give one, or RUN:CHECKPOINT with a checkpoint's name or id"
        refuse(f"holdfast/{name}", "no such directory", remedy)
    from holdfast.store import Store
    from holdfast.store.choosing import Listing, find_checkpoint

    with Store(Path(run).expanduser()) as store:
        found = find_checkpoint(Listing(str(store.path), store.checkpoints()), wanted)
        return store.weights(found, remedy="name a run that holds them")


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request and, once it is there, its reply."""

    ask: Ask
    reply: Reply | None = None


class Batcher:
    """Answers what waits as one batch: whoever holds the lock answers for all."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: list[_Waiting] = []
        self._lock: anyio.Lock | None = None

    async def ask(self, ask: Ask) -> Reply:
        """The reply to a request. Errors: what the model raises."""
        self._lock = self._lock or anyio.Lock()
        one = _Waiting(ask)
        self._waiting.append(one)
        try:
            async with self._lock:
                if one.reply is None:
                    await anyio.sleep(GATHER_SECONDS)
                while one.reply is None:
                    await self._answer(one)
        finally:
            if one in self._waiting:
                self._waiting.remove(one)
        return one.reply

    async def _answer(self, own: _Waiting) -> None:
        """Answer a batch with ``own`` in it, or ``own`` alone where a request of the batch cannot be answered."""
        batch = [own, *(one for one in self._waiting if one is not own)][:BATCH]
        try:
            replies = await self._reply(batch)
        except Exception:
            if len(batch) == 1:
                raise
            batch, replies = [own], await self._reply([own])
        for one, reply in zip(batch, replies, strict=True):
            one.reply = reply
        self._waiting = [one for one in self._waiting if one.reply is None]

    async def _reply(self, batch: Sequence[_Waiting]) -> list[Reply]:
        return await anyio.to_thread.run_sync(partial(self._model.reply, [one.ask for one in batch]))


class HoldfastModel(ModelAPI):  # type: ignore[misc]
    """A model directory: a tiny agent, or anything else that transformers loads in this process.

    ``model_args`` go to the latter: ``calls``, ``precision``, ``quantization``. The temperature is 1 where none is
    given. With a seed equal requests get equal replies.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 — as Inspect's own signature has it
        **model_args: Any,
    ) -> None:
        """Errors: StudyError for a name that is no model."""
        super().__init__(model_name, base_url, api_key, [], config)
        directory = find_directory(model_name)
        if is_tiny(directory):
            from holdfast.models.tiny.model import TinyModel

            self._model: Model = TinyModel.load(directory)
        else:
            from holdfast.models.local.local import LocalModel

            self._model = LocalModel(directory, **model_args)
        self._batcher = Batcher(self._model)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """One reply, with its usage always told; ``metadata["stopped"]`` says how it ended."""
        talk = Conversation(messages=from_inspect(input), tools=from_tool_info(tools))
        ask = Ask(
            speaker="agent",
            conversation=talk,
            temperature=1.0 if config.temperature is None else config.temperature,
            max_tokens=config.max_tokens or MAX_TOKENS,
            rng=_choose_rng(config.seed, talk.messages),
        )
        reply = await self._batcher.ask(ask)
        spoken = reply.message or Message(role="assistant", content=reply.raw)
        message: ChatMessageAssistant = to_inspect([spoken])[0]
        message.model, message.source, message.metadata = self.model_name, "generate", None
        for number, call in enumerate(message.tool_calls or ()):
            call.id = f"call_{len(input)}_{number}"  # an id that no other turn of the conversation has
        reason = _REASONS.get(reply.stopped, "tool_calls" if spoken.tool_calls else "stop")
        read = self._count(talk)
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
            usage=ModelUsage(input_tokens=read, output_tokens=reply.tokens, total_tokens=read + reply.tokens),
            metadata={STOPPED: reply.stopped},
        )

    def _count(self, talk: Conversation) -> int:
        """The tokens of a prompt, as the model's own chat format has them where it can be asked."""
        encode = getattr(getattr(self._model, "chat", None), "encode", None)
        if encode is None:
            return sum(_estimate(message.content) for message in talk.messages)
        return len(encode(talk.messages, talk.tools)[0])

    async def count_text_tokens(self, text: str) -> int:
        """An estimate that needs no tokenizer, for Inspect's own accounting."""
        return _estimate(text)

    def max_tokens(self) -> int:
        """Of a reply."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Requests at a time: a whole batch."""
        return BATCH

    def connection_key(self) -> str:
        """Every model has its own batches."""
        return str(self.model_name)


def _choose_rng(seed: int | None, messages: Sequence[Message]) -> np.random.Generator:
    if seed is None:
        return np.random.default_rng()
    told = [(one.role, one.content, [(call.name, call.arguments) for call in one.tool_calls]) for one in messages]
    return np.random.default_rng(int(content_id("inspect request", seed, told), 16))


def _estimate(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)
