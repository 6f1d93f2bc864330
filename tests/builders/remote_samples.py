"""What tests of remote models share: requests, models at a fake provider, and rounds of many requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.models import Ask, Conversation, Reply, Speaker
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.models.remote.ledger import Budget, Ledger
from holdfast.models.remote.provider import ProviderModel
from holdfast.records import Message, ToolSpec
from holdfast.records.errors import ProviderError
from holdfast.rollout.dialogues import Dialogue, hold

NAME = "openai-api/fake/some-model"
SEARCH = ToolSpec(
    name="search",
    description="Finds things.",
    parameters={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)


async def no_pause(seconds: float) -> None:
    """Waits for nothing but the other tasks."""
    await asyncio.sleep(0)


def make_ask(text: str, speaker: Speaker = "agent", messages: Sequence[Message] = (), **settings: Any) -> Ask:
    """A request that says a text, after other messages where there are any."""
    tools = settings.pop("tools", ())
    conversation = Conversation(messages=(*messages, Message(role="user", content=text)), tools=tools)
    given = {"temperature": 0.0, "max_tokens": 64, "rng": np.random.default_rng(0), **settings}
    return Ask(speaker=speaker, conversation=conversation, **given)


@contextmanager
def opened(
    base_url: str | None,
    path: Path,
    *,
    name: str = NAME,
    calls: Any = "auto",
    budget: Budget | None = None,
    **endpoint: Any,
) -> Iterator[tuple[ProviderModel, Ledger]]:
    """A model at an address, and its ledger."""
    ledger = Ledger(path / "calls.db", budget)
    section = EndpointSection(base_url=base_url, **{"timeout": 20.0, "retries": 2, **endpoint})
    entry = ModelEntry(kind="remote", name=name, calls=calls)
    try:
        yield ProviderModel(name, entry=entry, endpoint=section, ledger=ledger, pause=no_pause), ledger
    finally:
        ledger.close()


def one_turn(ask: Ask) -> Dialogue[Reply]:
    """A dialogue of one request."""
    return (yield ask)


def hold_all(model: ProviderModel, asks: Sequence[Ask]) -> list[Reply | ProviderError]:
    """The reply to each request, or the error that it got."""
    return hold([one_turn(ask) for ask in asks], {"agent": model, "emulator": model, "judge": model})


def answer_one(model: ProviderModel, ask: Ask) -> Reply:
    """The reply to a request. Errors: what the request raises."""
    return asyncio.run(model.ask(ask))
