"""Token trees: sequences that share prefixes, each shared prefix once. Pure NumPy.

    sequences ─ grow ─▶ TokenTree: nodes depth first, every token once, every sequence a path from a root

Prefixes are found on token ids of whole rendered sequences, never on text: chat templates may rewrite earlier turns and
tokenizers merge across boundaries, and then there is simply less to share. A tree is a forest: sequences without a
common first token have roots of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from holdfast.records.errors import StudyError

Ids = NDArray[np.int64]
# Sharing a segment saves its tokens in all branches but one, and costs every token below it one more merge of attention
# results, which is memory traffic only: about this part of what a token costs in matrix products.
_MERGE_COST = 1 / 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTree:
    """Sequences packed as one row of T tokens, depth first.

    ``ids``, ``positions`` and ``before`` are [T]: token, place in its sequence from 0, and the packed place of the
    token that precedes it (−1 at a root). Node n holds the packed tokens ``starts[n]:ends[n]``, its subtree
    ``starts[n]:subtrees[n]``; ``parents[n]`` is −1 for roots. ``paths[i]`` are the packed places of sequence i.
    """

    ids: Ids
    positions: Ids
    before: Ids
    starts: Ids
    ends: Ids
    subtrees: Ids
    parents: Ids
    paths: tuple[Ids, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True, kw_only=True)
class _Node:
    """A segment of ``source`` from ``start`` to ``end``; ``held`` are the sequences that end with it."""

    source: int
    start: int
    end: int
    held: list[int]
    children: list[_Node] = field(default_factory=list)
    below: int = 0  # tokens in the subtrees of its children
    repeated: int = 0  # how many of those stand there because segments above them were folded


def grow(sequences: Sequence[Ids], *, fold: bool = True) -> TokenTree:
    """The tree of some sequences of token ids; equal sequences share one path.

    With ``fold`` a shared segment so short that sharing costs more than it saves is repeated in its branches, which
    adds at most 1/64 to the tokens; without, no token stands twice. Errors: StudyError for an empty sequence.
    """
    order, common = _sorted_prefixes(sequences)
    roots = _nest(sequences, order, common)
    if fold:
        roots = [kept for root in roots for kept in _folded(root)]
    return _pack(sequences, roots)


def partition(sequences: Sequence[Ids], budget: int) -> list[list[int]]:
    """Groups of sequences whose trees hold at most ``budget`` tokens each, neighbours in the tree together.

    A prefix that several groups need stands in each of them. A sequence longer than the budget is a group of its own.
    """
    order, common = _sorted_prefixes(sequences)
    groups: list[list[int]] = []
    room = 0
    for place, number in enumerate(order):
        added = len(sequences[number]) - (common[place] if groups else 0)
        if not groups or added > room:
            groups.append([])
            room, added = budget, len(sequences[number])
        groups[-1].append(number)
        room -= added
    return groups


def count_tokens(sequences: Sequence[Ids]) -> int:
    """Tokens of the tree in which every shared prefix stands once."""
    order, common = _sorted_prefixes(sequences)
    return sum(len(sequences[number]) for number in order) - int(common.sum())


def _sorted_prefixes(sequences: Sequence[Ids]) -> tuple[list[int], Ids]:
    """Sequence numbers in lexicographic order, and how many tokens each shares with the one before it."""
    if any(len(ids) == 0 for ids in sequences):
        raise StudyError(f"sequence {[len(ids) for ids in sequences].index(0)} has no token; leave it out")
    # Big-endian bytes compare as the numbers do; ids are below 2^31.
    keys = [ids.astype(">u4").tobytes() for ids in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    common = np.zeros(len(order), np.int64)
    for place in range(1, len(order)):
        common[place] = _shared(keys[order[place - 1]], keys[order[place]])
    return order, common


def _shared(one: bytes, other: bytes) -> int:
    """The length of the longest common prefix, in tokens of four bytes."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length // 4
    # The first byte that differs is the highest that is set where the two are taken as numbers.
    different = int.from_bytes(one[:length], "big") ^ int.from_bytes(other[:length], "big")
    return (length - (different.bit_length() + 7) // 8) // 4


def _nest(sequences: Sequence[Ids], order: Sequence[int], common: Ids) -> list[_Node]:
    """The radix tree of sorted sequences."""
    roots: list[_Node] = []
    # Ranges of sorted sequences that agree on their first ``depth`` tokens, and where their nodes belong.
    waiting: list[tuple[int, int, int, list[_Node]]] = [(0, len(order), 0, roots)]
    while waiting:
        low, high, depth, siblings = waiting.pop()
        cuts = [low, *(place for place in range(low + 1, high) if common[place] == depth), high]
        for first, last in pairwise(cuts):
            if first == last:
                continue
            members = order[first:last]
            end = min([len(sequences[members[0]]), *common[first + 1 : last].tolist()])
            held = [number for number in members if len(sequences[number]) == end]
            node = _Node(source=members[0], start=depth, end=end, held=held)
            siblings.append(node)
            if len(held) < len(members):
                waiting.append((first + len(held), last, end, node.children))
    return roots


def _folded(node: _Node) -> list[_Node]:
    """The node, or in its place its children with its tokens before theirs."""
    below: list[tuple[_Node, bool]] = [(node, False)]
    replaced: dict[int, list[_Node]] = {}
    while below:
        current, ready = below.pop()
        if not ready:
            below.append((current, True))
            below += [(child, False) for child in current.children]
            continue
        current.children = [kept for child in current.children for kept in replaced.pop(id(child))]
        current.below = sum(child.end - child.start + child.below for child in current.children)
        current.repeated = sum(child.repeated for child in current.children)
        saved = (current.end - current.start) * (len(current.children) - 1)
        worth = current.below * _MERGE_COST - current.repeated
        if current.children and not current.held and saved < worth:
            for child in current.children:
                child.start = current.start
            current.children[-1].repeated += saved
            replaced[id(current)] = current.children
        else:
            replaced[id(current)] = [current]
    return replaced[id(node)]


def _pack(sequences: Sequence[Ids], roots: Sequence[_Node]) -> TokenTree:
    """The nodes laid out depth first, and every sequence's path through them."""
    nodes: list[tuple[_Node, int]] = []  # each with its parent's number among them
    waiting = [(root, -1) for root in reversed(roots)]
    while waiting:
        node, parent = waiting.pop()
        waiting += [(child, len(nodes)) for child in reversed(node.children)]
        nodes.append((node, parent))
    parents = np.array([parent for _, parent in nodes], np.int64)
    lengths = np.array([node.end - node.start for node, _ in nodes], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    subtrees = ends.copy()
    for number in range(len(nodes) - 1, -1, -1):
        if parents[number] >= 0:
            subtrees[parents[number]] = max(subtrees[parents[number]], subtrees[number])
    before = np.arange(-1, int(ends[-1]) - 1 if len(ends) else -1, dtype=np.int64)
    before[starts] = np.where(parents >= 0, ends[parents] - 1, -1)
    paths: list[Ids] = [np.zeros(0, np.int64)] * len(sequences)
    for number, (node, _) in enumerate(nodes):
        for sequence in node.held:
            line = [number]
            while parents[line[-1]] >= 0:
                line.append(int(parents[line[-1]]))
            paths[sequence] = np.concatenate([np.arange(starts[n], ends[n]) for n in reversed(line)])
    return TokenTree(
        ids=np.concatenate([sequences[node.source][node.start : node.end] for node, _ in nodes]),
        positions=np.concatenate([np.arange(node.start, node.end) for node, _ in nodes]),
        before=before,
        starts=starts,
        ends=ends,
        subtrees=subtrees,
        parents=parents,
        paths=tuple(paths),
    )
