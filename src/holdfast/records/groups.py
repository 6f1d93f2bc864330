"""What belongs together: by a key, or because it shares an id."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def group_by_key(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The values of each key, in their order; keys in the order in which they come first."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def group_tied(ties: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Places in groups, by the order of their first: those that share a key, be it by way of others, stand together."""
    root = list(range(len(ties)))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = place = root[root[place]]
        return place

    first: dict[Hashable, int] = {}
    for place, keys in enumerate(ties):
        for key in keys:
            root[find(place)] = find(first.setdefault(key, place))
    return list(group_by_key((find(place), place) for place in range(len(ties))).values())
