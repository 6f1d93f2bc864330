"""Halves of numbered cases, as arXiv 2603.02229 makes them."""

from __future__ import annotations

import random

# Of the one split that every split seed shares; a word is no published seed.
SHARED_SEED = "shared"


def halve(
    count: int, seed: int | str, *, train: int | None = None, test: int | None = None
) -> tuple[list[int], list[int]]:
    """The train and test numbers below ``count``, sorted: the halves of a Mersenne Twister's shuffle by ``seed``.

    ``train`` and ``test`` are how many of a half are taken at most, in the shuffled order.
    """
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    return sorted(numbers[: count // 2][:train]), sorted(numbers[count // 2 :][:test])
