"""What chat formats are tried out on before anything is trained, and what of a format the trials need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from holdfast.models import Conversation
from holdfast.records import Message, ToolCall, ToolSpec

Calls = Literal["auto", "native", "text"]
PROBE_TOOL = ToolSpec(
    name="probe_tool",
    description="probe description",
    parameters={"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]},
)
PROBE_CALL = ToolCall(name="probe_tool", arguments={"probe_key": "probe value"})
PROBE_REQUEST = Message(role="user", content="probe request")
PROBE_RESULT = Message(role="tool", content="probe result", name="probe_tool")


class Unfaithful(Exception):
    """A conversation whose turns a template shows otherwise than they were sampled: how, without a remedy."""


class Format(Protocol):
    """A chat format as trials see it; see ``chat.HubChat``, which is one, for what each part means."""

    directory: Path
    native: bool
    channels: bool
    speaks_beside_calls: bool
    thinks_on_demand: bool
    thought: tuple[str, str] | None
    source: str

    def __init__(self, directory: Path | str, *, calls: Calls = "auto") -> None: ...

    def decode(self, ids: list[int]) -> str: ...

    def prompt_ids(self, conversation: Conversation) -> list[int]: ...

    def is_altered(self, message: Message) -> bool: ...

    def encode_as_sampled(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> tuple[list[int], list[bool]]: ...
