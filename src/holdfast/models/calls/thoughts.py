"""The parts of a text in which an agent thinks. A call that is only thought of is none."""

from __future__ import annotations

import re

# Opening and closing marks by family. A closing mark alone ends a thought that the prompt opened.
_PAIRS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("◁think▷", "◁/think▷"),
)
# Marks that close more than thoughts end none that was not opened.
_SHARED = frozenset({"<|end|>"})
_CLOSE_OF = dict(_PAIRS)
_MARK = re.compile("(?=[<\\[◁])(?:" + "|".join(re.escape(mark) for pair in _PAIRS for mark in pair) + ")")


def without_thoughts(text: str) -> str:
    """The text without what stands between a family's marks of thinking, in one pass.

    A closing mark before any opening one ends a thought that began with the text. A thought that never ends stays, as
    nothing says where it would have.
    """
    spoken: list[str] = []
    start = 0  # of what is spoken
    closing: str | None = None
    opened_at = 0
    opened = False
    for mark in _MARK.finditer(text):
        word = mark[0]
        if closing is not None:
            if word == closing:
                spoken.append(text[start:opened_at])
                start, closing = mark.end(), None
        elif word in _CLOSE_OF:
            closing, opened_at, opened = _CLOSE_OF[word], mark.start(), True
        elif not opened and word not in _SHARED:
            spoken, start, opened = [], mark.end(), True
    return "".join([*spoken, text[start:]])
