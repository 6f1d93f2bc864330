"""Which demonstrations make a step. Pure NumPy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Batches are cut from so many batches' worth of demonstrations, sorted by length.
_CHUNK_BATCHES = 50


def demonstration_steps(
    lengths: NDArray[np.int64], *, batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """The numbers of each step's ``batch_size`` demonstrations, of similar ``lengths``, in random order, endlessly.

    An epoch leaves out the demonstrations that do not fill a last batch; fewer than a batch repeat within it.
    """
    total, chunk = len(lengths), batch_size * _CHUNK_BATCHES
    while True:
        order = np.resize(rng.permutation(total), max(batch_size, total - total % batch_size))
        chunks = [order[start : start + chunk] for start in range(0, len(order), chunk)]
        batches = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in chunks])
        batches = batches.reshape(-1, batch_size)
        for number in rng.permutation(len(batches)):
            yield batches[number]


def count_steps(families: Sequence[str], batch_size: int) -> int:
    """How many steps ``family_steps`` makes of an epoch."""
    sizes = Counter(families).values()
    return sum(size // batch_size for size in sizes) + math.ceil(sum(size % batch_size for size in sizes) / batch_size)


def family_steps(families: Sequence[str], *, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The numbers of each step's demonstrations, of one family wherever that fills a step, in random order, endlessly.

    What is left of every family once its steps are full makes mixed steps, the last of an epoch perhaps a smaller one:
    an epoch holds each demonstration once.
    """
    members = [np.flatnonzero(np.array(families) == name) for name in sorted(set(families))]
    while True:
        steps: list[NDArray[np.int64]] = []
        rest: list[NDArray[np.int64]] = []
        for family in members:
            shuffled = rng.permutation(family)
            full = len(shuffled) - len(shuffled) % batch_size
            steps += [shuffled[start : start + batch_size] for start in range(0, full, batch_size)]
            rest.append(shuffled[full:])
        mixed = rng.permutation(np.concatenate(rest))
        steps += [mixed[start : start + batch_size] for start in range(0, len(mixed), batch_size)]
        for number in rng.permutation(len(steps)):
            yield steps[number]
