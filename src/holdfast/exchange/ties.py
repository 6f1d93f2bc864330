"""What belongs together because it shares an id."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


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
    groups: dict[int, list[int]] = {}
    for place in range(len(ties)):
        groups.setdefault(find(place), []).append(place)
    return list(groups.values())
