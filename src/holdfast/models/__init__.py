"""Who speaks. A model turns conversations into replies; one reply is one turn of the agent.

    Conversation ─ Model.reply ─▶ Reply

``tiny`` is made here and runs anywhere. This page needs NumPy only, so worlds and rollouts can import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from holdfast.records import Message, ToolSpec

Stopped = Literal["stop", "length", "incoherent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a model is shown: the messages so far and the tools that it may call."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One turn of the agent: exactly one tool call, or a final text message.

    ``message`` is None unless ``stopped`` is "stop". ``tokens`` counts the sampled tokens, ``logprob`` is
    the sum of their log-probabilities in nats at temperature 1, ``raw`` is the text as it was sampled.
    """

    message: Message | None
    stopped: Stopped
    tokens: int
    logprob: float
    raw: str


class Model(Protocol):
    """Anything that answers conversations in batches."""

    def reply(
        self,
        conversations: Sequence[Conversation],
        *,
        rngs: Sequence[np.random.Generator],
        temperature: float,
        max_tokens: int,
    ) -> list[Reply]:
        """One reply per conversation, in order.

        All randomness of a reply comes from its own generator in ``rngs``, so a reply does not depend on
        what else is in the batch. ``temperature`` 0 is greedy. ``max_tokens`` bounds each reply.
        """
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


def chat_tools(tools: Iterable[ToolSpec]) -> list[dict[str, Any]]:
    """The tools as the plain dictionaries that chat templates and most providers take."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]
