"""Replies that are several messages, each under a header that says to whom it speaks: gpt-oss, Muse Glimmer.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{…}
    to=self<|message|>…<|eom|><|start|>assistant to=NAME<|message|><atem:function_calls>…</atem:function_calls>

Source: OpenAI's harmony format, and the templates of both in TRL 1.16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MESSAGE = "<|message|>"
_END = re.compile(r"<\|(?:end|call|return|eom|eot)\|>")
_RECIPIENT = re.compile(r"(?<!\w)to=([\w.\-]{1,128})")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A reply by whom it speaks to: thoughts, what is said to the user, and (recipient, text) of each call."""

    thoughts: tuple[str, ...]
    said: tuple[str, ...]
    calls: tuple[tuple[str, str], ...]

    @property
    def detail(self) -> dict[str, str] | None:
        """The thoughts, as a message keeps what nobody is shown again."""
        return {"thinking": "\n".join(self.thoughts)} if self.thoughts else None


def read_turn(text: str) -> Turn | None:
    """The messages of a reply by their headers; None where a header cannot be read."""
    thoughts: list[str] = []
    said: list[str] = []
    calls: list[tuple[str, str]] = []
    for part in _END.split(text):
        header, message, body = part.partition(MESSAGE)
        if not message:
            if header.strip():
                return None
            continue
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient and recipient[1] not in ("self", "user"):
            calls.append((recipient[1].removeprefix("functions."), body))
        elif (recipient and recipient[1] == "self") or (channel and channel[1] == "analysis"):
            thoughts.append(body)
        elif recipient or (channel and channel[1] in ("final", "commentary")):
            said.append(body)
        else:
            return None
    return Turn(thoughts=tuple(thoughts), said=tuple(said), calls=tuple(calls))
