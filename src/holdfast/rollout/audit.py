"""What makes a trajectory unfit to be judged, with the reason.

An agent whose stop sequences are not enforced writes tool results itself, and a judge who reads them takes
them for real. The audit looks at what the agent wrote and at what was executed, never at a score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from holdfast.models.calls.spelled import find_unread
from holdfast.records import CUT_OFF, Ending, Flag, Message, ToolSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOOP_REPEATS = 3  # the same call with the same result, so many times in a row

REASONS: Mapping[Flag, str] = {
    Flag.INVENTED_RESULT: "the agent wrote a tool's result itself and went on from it",
    Flag.INVENTED_MIDWAY: "the agent wrote a tool's result itself in an earlier message",
    Flag.CLAIMED_WITHOUT_CALL: "no tool was executed although the agent wrote calls",
    Flag.TRUNCATED: "the episode was cut off at a limit, so its outcome is not known",
    Flag.OUT_OF_MEMORY: "the episode was cut off for want of memory",
    Flag.LOOP: f"the agent made one call with one result {LOOP_REPEATS} or more times in a row",
    Flag.NOTHING_DONE: "the agent neither called a tool nor said anything",
    Flag.INCOHERENT: "the agent's reply could not be read",
}
"""Why each unfit trajectory is unfit."""

UNFIT: frozenset[Flag] = frozenset(REASONS)
"""The flags that make a trajectory unfit to be judged. A single refused call, or none at all, does not."""

TRIED: frozenset[Flag] = frozenset({Flag.TRUNCATED, Flag.OUT_OF_MEMORY, Flag.INCOHERENT, Flag.CLAIMED_WITHOUT_CALL})
"""No call was executed, but not because the agent would not: cut off, unreadable, or its calls were refused."""

_HEADING = re.compile(r"(Action|Observation)[\s*_`]*:")
_BEFORE_HEADING = re.compile(r"[\s*#>`_\-]*")


def refused_by(flags: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which episodes are refusals, by their flags' bits (``codec.FLAG_BITS``): no tool executed, and none ``TRIED``."""
    from holdfast.store.codec import FLAG_BITS

    tried = sum(FLAG_BITS[flag] for flag in TRIED)
    found: NDArray[np.bool_] = ((flags & FLAG_BITS[Flag.NO_CALL]) > 0) & ((flags & tried) == 0)
    return found


def _headings(text: str) -> Iterator[tuple[str, int, int]]:
    """Word, start of its line and end of each heading that stands at the start of a line."""
    line = seen = 0
    for match in _HEADING.finditer(text):
        # No part of the text is looked through twice, however long its lines are.
        line = text.rfind("\n", seen, match.start()) + 1 or line
        seen = match.start()
        if _BEFORE_HEADING.fullmatch(text, line, match.start()):
            yield match[1], line, match.end()


def writes_call(text: str) -> bool:
    """Whether the text has a line that begins a call (``Action:``), with any Markdown around the word."""
    return "Action" in text and any(word == "Action" for word, _, _ in _headings(text))


def writes_result(text: str) -> bool:
    """Whether the text has an ``Action:`` line and, on a later line, ``Observation:``.

    Equal to a search for ``(?:^|\\n)[\\s*#>`_\\-]*Action[\\s*_`]*:.*?(?:^|\\n)[\\s*#>`_\\-]*Observation[\\s*_`]*:``
    with a dot that matches newlines, but linear in the length of the text.
    """
    if "Observation" not in text or "Action" not in text:
        return False
    headings = list(_headings(text))
    call_end = next((end for word, _, end in headings if word == "Action"), len(text))
    return any(word == "Observation" and line > call_end for word, line, _ in headings)


def audit(
    messages: Sequence[Message], ending: Ending, calls: int, invalid_calls: int = 0, tools: Sequence[ToolSpec] = ()
) -> tuple[Flag, ...]:
    """The flags of a trajectory, in the order of their definition.

    ``messages`` are those after the case's own, ``calls`` the executed calls, ``invalid_calls`` the refused ones,
    ``tools`` those that were offered, where they are known. A text that spells a call which nobody read makes an
    episode without calls one that claims them, and any other incoherent; ``Action:`` lines beside executed calls are
    left to the flags of invented results.
    """
    spoken = [message for message in messages if message.role == "assistant"]
    texts = [message.content for message in spoken]
    tried = invalid_calls > 0 or any(message.tool_calls for message in spoken)
    unread = find_unread(spoken, tools, headings=calls == 0) is not None
    claimed = calls == 0 and (tried or unread or any(map(writes_call, texts)))
    called = [call for message in messages for call in message.tool_calls]
    results = [message.content for message in messages if message.role == "tool"]
    answered = [(call.name, call.arguments, result) for call, result in zip(called, results, strict=False)]
    is_flagged = {
        Flag.INVENTED_RESULT: bool(texts) and writes_result(texts[-1]),
        Flag.INVENTED_MIDWAY: any(map(writes_result, texts[:-1])),
        Flag.NO_CALL: calls == 0,
        Flag.CLAIMED_WITHOUT_CALL: claimed,
        Flag.TRUNCATED: ending in CUT_OFF,
        Flag.OUT_OF_MEMORY: ending is Ending.OUT_OF_MEMORY,
        Flag.LOOP: any(len(list(group)) >= LOOP_REPEATS for _, group in groupby(answered)),
        Flag.NOTHING_DONE: calls == 0 and not claimed and not any(text.strip() for text in texts),
        Flag.INVALID_CALL: invalid_calls > 0,
        Flag.INCOHERENT: ending is Ending.INCOHERENT or (unread and calls > 0),
    }
    return tuple(flag for flag in Flag if is_flagged[flag])
