"""Who speaks. A model turns conversations into replies; one reply is one turn of an agent, an emulator or a judge.

    Ask ─ Model.reply (in batches) or RemoteModel.ask (many at a time) ─▶ Reply

``tiny`` is made here and runs anywhere. This page needs NumPy only, so worlds and rollouts can import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from holdfast.records import JSON, Message, ToolCall, ToolSpec

Stopped = Literal["stop", "length", "incoherent", "context"]
Speaker = Literal["agent", "emulator", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a model is shown: the messages so far and the tools that it may call."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that were made so far, in their order."""
        return tuple(call for message in self.messages for call in message.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for one reply.

    ``temperature`` 0 is greedy; ``max_tokens`` bounds the reply. A model that samples in this process takes all
    randomness of the reply from ``rng``, so a reply does not depend on what else is in its batch. ``replicate`` tells
    apart requests that are equal otherwise and must not share a reply: rollout number, repeat, attempt. ``schema`` is a
    JSON schema that the reply's text is to follow, by constraint where the model can. ``logprobs`` asks for the
    alternatives of every sampled token.
    """

    speaker: Speaker
    conversation: Conversation
    temperature: float
    max_tokens: int
    rng: np.random.Generator
    replicate: tuple[int, ...] = (0,)
    schema: JSON | None = None
    logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """A sampled token: its text, and the log-probabilities in nats of the likeliest tokens at its place, by text."""

    text: str
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One turn: tool calls, or a final text message.

    ``message`` is None unless ``stopped`` is "stop"; "context" says that the conversation is longer than the model
    reads. ``tokens`` counts the sampled tokens, ``logprob`` is the sum of their log-probabilities in nats at
    temperature 1 where they are known, ``raw`` is the text as it was sampled, ``sampled`` its tokens where they were
    asked for and are known. ``ids`` are the sampled token ids, the one that ends the reply included, where the model
    samples in this process.
    """

    message: Message | None
    stopped: Stopped
    tokens: int
    logprob: float | None
    raw: str
    sampled: tuple[SampledToken, ...] | None = None
    ids: tuple[int, ...] | None = None


class Model(Protocol):
    """Anything that answers in batches, in this process."""

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A model that keeps what it computed of conversations."""

    def forget(self) -> None:
        """Give that up, so that no reply depends on conversations before: not even how it is rounded."""
        ...


class RemoteModel(Protocol):
    """Anything that answers requests one by one, many at a time, such as a provider's API."""

    async def ask(self, ask: Ask) -> Reply:
        """The reply to a request. Errors: ProviderError where there is none."""
        ...


def chat_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The messages as the plain dictionaries that chat templates and most providers take."""
    rendered: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in message.tool_calls
            ]
        if message.name is not None:
            entry["name"] = message.name
        rendered.append(entry)
    return rendered


def find_answered(waiting: Sequence[str], name: str | None) -> int:
    """The place of the call that an answer of the tool ``name`` belongs to, among the tools that calls wait for.

    Answers stand in the order of their calls, of which some may have none: the first of its own name, else the first.
    """
    return waiting.index(name) if name in waiting else 0


def chat_tools(tools: Iterable[ToolSpec]) -> list[dict[str, Any]]:
    """The tools as the plain dictionaries that chat templates and most providers take."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]
