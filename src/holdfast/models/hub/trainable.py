"""Whether a chat format trains what it samples, found out on probe conversations before anything is rolled out.

A reply is sampled behind a prompt. It may be trained on only where the conversation as tokens begins with that very
prompt and goes on with what was sampled. Templates of thinking models differ from that in two ways: their prompt opens
a thought that no later turn shows, and earlier thoughts are left out once more is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from holdfast.models import Conversation
from holdfast.models.calls.thoughts import PAIRS
from holdfast.records import Message, ToolCall, ToolSpec
from holdfast.records.errors import StudyError

_CHANNELS = (
    "its replies stand under headers of channels, which messages do not keep, so that the agent would learn from tokens"
    " that it did not sample"
)


def check_trainable(chat: Format, *, several: bool = True, dialogue: bool = False) -> None:
    """Nothing for a chat format in which episodes can be trained on as they were sampled.

    Tried are an answer and a call, both with the thoughts that the format has; with ``several`` also three turns over
    results, with ``dialogue`` an answer after which the user goes on. Errors: StudyError with what helps.
    """
    tried = list(_conversations(chat, several, dialogue))
    if (fault := find_fault(chat, tried)) is not None:
        raise StudyError(f"{chat.directory}: {fault}; {advise(chat, tried)}")


def find_fault(chat: Format, conversations: Iterable[Conversation]) -> str | None:
    """Why one of these could not be trained on as it was sampled; None where all could."""
    if chat.channels:
        return _CHANNELS
    for conversation in conversations:
        try:
            _compare(chat, conversation)
        except Unfaithful as error:
            return str(error)
        except StudyError as error:
            return str(error).removeprefix(f"{chat.directory}: ").partition(";")[0]
    return None


def advise(chat: Format, conversations: Sequence[Conversation]) -> str:
    """What helps where these cannot be trained on; whatever it names was tried on them."""
    other: Calls = "text" if chat.native else "native"
    try:
        if find_fault(type(chat)(chat.directory, calls=other), conversations) is None:
            return f"set calls = {other!r}"
    except StudyError:
        pass  # it has no other way to write calls
    several = any(sum(message.role == "assistant" for message in one.messages) > 1 for one in conversations)
    if several and find_fault(chat, _conversations(chat, several=False, dialogue=False)) is None:
        return (
            "make each turn an episode of its own (rollouts.max_turns = 1), or use a template that keeps earlier turns"
            " as they were written, thoughts included"
        )
    return "use a template that shows turns as they were written, thoughts included"


def _conversations(chat: Format, several: bool, dialogue: bool) -> Iterator[Conversation]:
    said = _thought(chat)
    answer = Message(role="assistant", content=f"{said}probe answer")
    calling = Message(role="assistant", content=f"{said}probe words", tool_calls=(PROBE_CALL,))
    if not chat.speaks_beside_calls:
        calling = replace(calling, content="")
    yield Conversation(messages=(PROBE_REQUEST, answer), tools=(PROBE_TOOL,))
    yield Conversation(messages=(PROBE_REQUEST, calling), tools=(PROBE_TOOL,))
    if several:
        yield Conversation(
            messages=(PROBE_REQUEST, calling, PROBE_RESULT, calling, PROBE_RESULT, answer), tools=(PROBE_TOOL,)
        )
    if dialogue:
        yield Conversation(messages=(PROBE_REQUEST, answer, PROBE_REQUEST, answer), tools=(PROBE_TOOL,))


def _thought(chat: Format) -> str:
    """The thought that a reply of this format begins with; empty where its prompt says that there is none."""
    prompt = chat.decode(chat.prompt_ids(Conversation(messages=(PROBE_REQUEST,), tools=(PROBE_TOOL,))))
    opened = prompt.rpartition(PROBE_REQUEST.content)[2]
    begin, end = chat.thought or next((pair for pair in PAIRS if pair[1] in chat.source), PAIRS[0])
    if end in opened or (begin not in opened and chat.thinks_on_demand):
        return ""
    thought = f"probe thought\n{end}\n\n"
    return thought if begin in opened else f"{begin}\n{thought}"


def _compare(chat: Format, conversation: Conversation) -> None:
    """Raises Unfaithful where the tokens of a conversation are not those of its prompts and replies."""
    messages = conversation.messages
    ids, own = chat.encode_as_sampled(messages, conversation.tools)
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if chat.is_altered(message):
            raise Unfaithful("it thinks between control tokens, which no text can spell")
        prompt = chat.prompt_ids(replace(conversation, messages=messages[:place]))
        begins = len(prompt)
        if ids[:begins] != prompt or not own[begins] or own[begins - 1]:
            raise Unfaithful(f"the tokens of message {place + 1} do not begin where its prompt ends")


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
