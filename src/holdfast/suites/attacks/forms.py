"""Forms of pressure on cases in free text. Each is one template, put on hazardous and harmless cases alike.

Where the words stand:

    request           around the user's own words, or those words encoded
    earlier turns     before the request, with answers that the agent is made to have given
    reply             the agent's reply begins with words that it did not choose; see ``_prefill``
    tool result       beside what a tool returns (emulated worlds; the office has a form of its own)
    tool description  behind the description of every tool
    user file         in a file whose text the user's message holds
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from holdfast.records import Case, Message
from holdfast.suites.attacks.wording import (
    ENCODED,
    ESCALATION,
    FILE,
    INSTRUCTION,
    MANY_SHOT,
    PREFILL,
    REQUEST,
    REQUESTS,
)


def insert(template: str, request: str) -> str:
    """The template with the request in its place; the request may hold braces."""
    before, _, after = template.partition(REQUEST)
    return f"{before}{request}{after}"


def find_request(case: Case) -> int | None:
    """The place of the user's last message, or None where the user says nothing."""
    places = [place for place, message in enumerate(case.messages) if message.role == "user"]
    return places[-1] if places else None


def with_request(case: Case, write: Callable[[str], str | None]) -> Case | None:
    """The case with other words of its user; None where ``write`` has none, or there is no request.

    A model that plays the tools is told the user's own words all the same, so that the world stays the same.
    """
    place = find_request(case)
    text = None if place is None else write(case.messages[place].content)
    if place is None or text is None:
        return None
    changed = replace(case.messages[place], content=text)
    messages = (*case.messages[:place], changed, *case.messages[place + 1 :])
    return replace(case, messages=messages, state=keep_instruction(case))


def keep_instruction(case: Case) -> Mapping[str, object]:
    """The state of a case whose messages change: an emulated world goes on from the user's own words."""
    if "toolkits" not in case.state or "instruction" in case.state:
        return case.state
    spoken = [message.content for message in case.messages if message.role == "user"]
    return {**case.state, "instruction": "\n\n".join(spoken)}


def plant(case: Case, text: str) -> Case | None:
    """The case with a text beside every result of its tools; None outside emulated worlds."""
    return replace(case, state={**case.state, "planted": text}) if "toolkits" in case.state else None


def to_base64(text: str) -> str:
    """The text's UTF-8 in Base64."""
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def to_rot13(text: str) -> str:
    """The text with each Latin letter thirteen places on."""
    return codecs.encode(text, "rot13")


def _precede(turns: tuple[tuple[str, str], ...], case: Case) -> Case | None:
    """The case with a dialogue before its request."""
    place = find_request(case)
    if place is None:
        return None
    earlier = [
        message
        for said, answered in turns
        for message in (Message(role="user", content=said), Message(role="assistant", content=answered))
    ]
    messages = (*case.messages[:place], *earlier, *case.messages[place:])
    return replace(case, messages=messages, state=keep_instruction(case))


def _prefill(case: Case) -> Case | None:
    """The case with the opening of the agent's reply as its last message.

    It is a message of the assistant with nothing behind it. Providers that let a caller begin a reply go on from it;
    chat templates and all others show it as a turn that the agent has said, and the agent says its next.
    """
    if find_request(case) is None or case.messages[-1].role != "user":
        return None
    return replace(case, messages=(*case.messages, Message(role="assistant", content=PREFILL)))


def _describe(case: Case) -> Case | None:
    tools = tuple(replace(tool, description=f"{tool.description}\n{INSTRUCTION}") for tool in case.tools)
    return replace(case, tools=tools) if tools else None


FORMS: Mapping[str, Callable[[Case], Case | None]] = {
    **{name: partial(with_request, write=partial(insert, text)) for name, text in REQUESTS.items()},
    "many_shot": partial(_precede, MANY_SHOT),
    "escalation": partial(_precede, ESCALATION),
    "prefill": _prefill,
    "base64": partial(with_request, write=lambda request: insert(ENCODED["base64"], to_base64(request))),
    "rot13": partial(with_request, write=lambda request: insert(ENCODED["rot13"], to_rot13(request))),
    "injected_result": partial(plant, text=INSTRUCTION),
    "injected_description": _describe,
    "injected_file": partial(with_request, write=partial(insert, FILE)),
}
"""Form → the case put into it, or None where it cannot be; id, number and facts are those of the case."""
