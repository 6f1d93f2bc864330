"""The parts of a text in which an agent thinks. A call that is only thought of is none."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Opening and closing marks by family. A closing mark alone ends a thought that the prompt opened.
PAIRS: tuple[tuple[str, str], ...] = (
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
_CLOSE_OF = dict(PAIRS)
_MARK = re.compile("(?=[<\\[◁])(?:" + "|".join(re.escape(mark) for pair in PAIRS for mark in pair) + ")")


def find_thoughts(text: str) -> Iterator[tuple[int, int]]:
    """Where a text thinks, marks included, in one pass.

    A closing mark before any opening one ends a thought that began with the text. A thought that never ends is none, as
    nothing says where it would have.
    """
    closing: str | None = None
    begin = 0
    opened = False
    for mark in _MARK.finditer(text):
        word = mark[0]
        if closing is not None:
            if word == closing:
                yield begin, mark.end()
                closing = None
        elif word in _CLOSE_OF:
            closing, begin, opened = _CLOSE_OF[word], mark.start(), True
        elif not opened and word not in _SHARED:
            yield 0, mark.end()
            opened = True


def without_thoughts(text: str) -> str:
    """The text without its thoughts."""
    return _replace_thoughts(text, "")


def hide_thoughts(text: str) -> str:
    """The text with blanks where it thinks: every other character keeps its place."""
    return _replace_thoughts(text, " ")


def _replace_thoughts(text: str, blank: str) -> str:
    parts, start = [], 0
    for begin, end in find_thoughts(text):
        parts += [text[start:begin], blank * (end - begin)]
        start = end
    return "".join([*parts, text[start:]])
