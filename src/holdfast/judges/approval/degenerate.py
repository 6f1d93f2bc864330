"""Texts that are no reply: too short or long, templates, repetitions, words in no order, copies of what was told.

The rules look at form alone, and are made so that what a person would write passes: in a short reply a single slip of
grammar is one too many only for words that never follow each other, such as "the of".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from holdfast.judges.approval.stances import MOST_CHARACTERS, STOP_WORDS, words_of

FEWEST_WORDS, MOST_WORDS = 3, 400
LONGEST_GRAM = 8  # words of an n-gram that is looked for in a row
SLIPS = 0.1  # share of neighbours that never stand beside each other, from which on words are in no order
BARE_RUN = 7  # words in a row without one of the commonest
COPIED_RUN = 6  # words in a row that are a copy where they stand in what was told
COPIED_SHARE = 0.6  # of a reply's words that are such copies
_TEMPLATE = re.compile(r"<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]")

_ARTICLES = frozenset({"a", "an", "the", "my", "your", "our", "their", "its", "every"})
_BE = frozenset({"am", "is", "are", "was", "were"})
_MODALS = frozenset({"can", "could", "will", "would", "should", "must", "may", "might"})
_PREPOSITIONS = frozenset({"of", "with", "for", "from", "into", "at", "by"})
_SUBJECTS = frozenset({"i", "he", "she", "we", "they"})
_OBJECTS = frozenset({"me", "him", "us", "them"})
_LINKS = frozenset({"and", "or", "but", "because", "if"})
# After one of the first, none of the second ever stands in a sentence.
_AFTER_ARTICLES = _BE | {"could", "would", "should"} | _PREPOSITIONS | _SUBJECTS | _OBJECTS | _LINKS
_NEVER: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (_ARTICLES, _ARTICLES | _AFTER_ARTICLES | {"you", "it", "to", "not", "do", "this", "that"}),
    (_PREPOSITIONS, _LINKS | _MODALS | _BE | _SUBJECTS | {"do", "to"} | (_PREPOSITIONS - {"at"})),
    (_MODALS, _MODALS | _BE | (_PREPOSITIONS - {"at"}) | _OBJECTS | {"my", "their", "to"}),
    (frozenset({"i"}), _ARTICLES | {"is", "are", "were", "to"} | _SUBJECTS),
    (frozenset({"we", "they"}), frozenset({"is", "am", "was"})),
    (frozenset({"he", "she", "it"}), frozenset({"am", "are", "were"})),
    (_BE, _MODALS | _OBJECTS | _BE | {"do"}),
    (frozenset({"to"}), _BE | _MODALS | _SUBJECTS | _LINKS | {"of", "to", "for", "from", "with"}),
    (frozenset({"please"}), _BE | _MODALS | _PREPOSITIONS | {"it", "is", "to", "of", "the", "a", "an", "my", "your"}),
)
_SPARSE = frozenset({"too few words", "one phrase over and over"})


def find_degeneracy(text: str, told: Sequence[Sequence[str]]) -> str:
    """Why a text is no reply, or "". ``told`` are the words of what the agent and the judge were told."""
    if _TEMPLATE.search(text[:MOST_CHARACTERS]):
        return "template marks"
    words = words_of(text)
    if len(words) < FEWEST_WORDS:
        return "too few words"
    if len(words) > MOST_WORDS or len(text) > MOST_CHARACTERS:
        return "too many words"
    if _repeats(words):
        return "one phrase over and over"
    if any(_copies(words, source) for source in told):
        return "a copy of what was told"
    return "words in no order" if _is_jumbled(words) else ""


def is_sparse(reason: str) -> bool:
    """Whether a degenerate text still says what it says: short or repeated, or cut off, and not a copy or a list."""
    return reason in _SPARSE or " " not in reason


def describe_limits() -> tuple[object, ...]:
    """What the rules depend on, for an id of theirs."""
    never = [(sorted(first), sorted(second)) for first, second in _NEVER]
    numbers = (FEWEST_WORDS, MOST_WORDS, LONGEST_GRAM, SLIPS, BARE_RUN, COPIED_RUN, COPIED_SHARE)
    return (*numbers, _TEMPLATE.pattern, never)


def _repeats(words: Sequence[str]) -> bool:
    """Whether an n-gram stands three times in a row, or the text is one of three words or more said twice."""
    half = len(words) // 2
    if half >= FEWEST_WORDS and tuple(words[:half]) == tuple(words[half:]):
        return True
    for size in range(1, min(LONGEST_GRAM, len(words) // 3) + 1):
        same = 0
        for place in range(size, len(words)):
            same = same + 1 if words[place] == words[place - size] else 0
            if same >= 2 * size:
                return True
    triples = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return len(words) >= 2 * LONGEST_GRAM and len(set(triples)) <= len(triples) // 2


def _copies(words: Sequence[str], source: Sequence[str]) -> bool:
    """Whether a text is a piece of the source, or is mostly made of its pieces."""
    told = f" {' '.join(source)} "
    if f" {' '.join(words)} " in told:
        return True
    covered = [False] * len(words)
    for place in range(len(words) - COPIED_RUN + 1):
        if f" {' '.join(words[place : place + COPIED_RUN])} " in told:
            covered[place : place + COPIED_RUN] = [True] * COPIED_RUN
    return sum(covered) >= COPIED_SHARE * len(words)


def _is_jumbled(words: Sequence[str]) -> bool:
    """Whether neighbours that never stand together are many, or the commonest words are missing for long."""
    slips = sum(second in after for first, second in pairwise(words) for before, after in _NEVER if first in before)
    bare = 0
    for word in words:
        bare = 0 if word in STOP_WORDS else bare + 1
        if bare >= BARE_RUN:
            return True
    return words[-1] in _ARTICLES or slips > SLIPS * (len(words) - 1)
