"""Which examples each optimiser step takes, and in which order: the sampling that a stage declares.

    tree order      each case's pairs in sub-trees of few chosen and few rejected trajectories; these in random order
    family order    the same, with the sub-trees of one family in the same steps
    pairwise order  all pairs in random order, as a pair-by-pair trainer takes them

Streams are endless and do not depend on how much of them is used, so a stage goes on at any step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from holdfast.records import PreferencePair
from holdfast.records.errors import StepError, StudyError
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded
from holdfast.training.trees.parts import tree_tokens

# Pairs of a sub-tree where nobody says: with 26 of a case in a row, as many pairs taught less (benchmarks/learning.py).
_SUBTREE_PAIRS = 8


def pair_steps(
    pairs: Sequence[PreferencePair],
    encoded: Mapping[str, Encoded],
    stage: StageSection,
    *,
    seed: int,
    families: Mapping[str, str] | None = None,
) -> Iterator[list[PreferencePair]]:
    """The pairs of each step, endlessly; every epoch takes every pair once.

    ``pairwise`` takes all pairs in one random order, ``pairs_per_step`` at a time, an epoch's last step with what is
    left: the order of ``RandomSampler`` under accelerate's seedable sampler. Otherwise an epoch takes the sub-trees of
    all cases in random order. Without ``trajectories_per_case`` a sub-tree has about 8 pairs, and steps are cut at
    exactly ``pairs_per_step``, across sub-trees and epochs; where a stage counts ``epochs``, an epoch's last step has
    what is left. With it, a sub-tree has at most that many trajectories and is never cut: a step takes as many as fit
    into ``pairs_per_step`` pairs and ``tokens_per_step`` tokens of their tree, and at least one. Smaller sub-trees mix
    more cases into a step, larger ones share more. The grouping "family" fills steps with pairs of one family of cases
    (``families`` by case id); what is left of every family makes mixed steps. Errors: StudyError for one pair that
    alone is above ``tokens_per_step``.
    """
    if stage.pairwise:
        return _pairwise(pairs, stage.pairs_per_step, seed)
    if stage.tokens_per_step is not None:
        for pair in pairs:
            list(_within([pair], encoded, stage.tokens_per_step))
    if stage.grouping == "family":
        return _by_family(pairs, families or {}, stage, np.random.default_rng(seed))
    if stage.trajectories_per_case is None:
        return _cut_exactly(pairs, stage, np.random.default_rng(seed))
    return _take_subtrees(pairs, encoded, stage, np.random.default_rng(seed))


def _pairwise(pairs: Sequence[PreferencePair], per_step: int, seed: int) -> Iterator[list[PreferencePair]]:
    import torch

    for epoch in count():
        places = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for start in range(0, len(places), per_step):
            yield [pairs[place] for place in places[start : start + per_step]]


def _cut_exactly(
    pairs: Sequence[PreferencePair], stage: StageSection, rng: np.random.Generator
) -> Iterator[list[PreferencePair]]:
    per_step, queue = stage.pairs_per_step, list[PreferencePair]()
    while True:
        for subtree in _small_subtrees(pairs, stage, rng):
            queue += subtree
        while len(queue) >= per_step or (queue and stage.epochs is not None):
            taken, queue = queue[:per_step], queue[per_step:]
            yield taken


def _small_subtrees(
    pairs: Sequence[PreferencePair], stage: StageSection, rng: np.random.Generator
) -> list[list[PreferencePair]]:
    """One epoch in sub-trees of about as many pairs as teach most."""
    count = min(stage.pairs_per_step, _SUBTREE_PAIRS)
    return shuffled_subtrees(pairs, lambda case: _side_for(case, count), rng)


def _by_family(
    pairs: Sequence[PreferencePair], families: Mapping[str, str], stage: StageSection, rng: np.random.Generator
) -> Iterator[list[PreferencePair]]:
    per_step, rest = stage.pairs_per_step, list[PreferencePair]()
    while True:
        queues: dict[str, list[PreferencePair]] = {}
        for subtree in _small_subtrees(pairs, stage, rng):
            queues.setdefault(families.get(subtree[0].case_id, ""), []).extend(subtree)
        steps: list[list[PreferencePair]] = []
        for queue in queues.values():
            full = len(queue) - len(queue) % per_step
            steps += [queue[start : start + per_step] for start in range(0, full, per_step)]
            rest += queue[full:]
        # What does not fill a step waits for the next epoch, unless epochs are counted.
        while len(rest) >= per_step or (rest and stage.epochs is not None):
            steps.append(rest[:per_step])
            rest = rest[per_step:]
        for number in rng.permutation(len(steps)).tolist():
            yield steps[number]


def _side_for(case: Sequence[PreferencePair], count: int) -> int:
    """Trajectories on a side of a sub-tree that holds about ``count`` of a case's pairs."""
    chosen, rejected = len({pair.chosen for pair in case}), len({pair.rejected for pair in case})
    if len(case) <= count:
        return max(chosen, rejected)
    # A square part of the case's table of chosen by rejected, as densely filled with pairs as the whole.
    return math.ceil(math.sqrt(count * chosen * rejected / len(case)))


def shuffled_subtrees(
    pairs: Sequence[PreferencePair], side_for: Callable[[Sequence[PreferencePair]], int], rng: np.random.Generator
) -> list[list[PreferencePair]]:
    """One epoch: every case's pairs in sub-trees with ``side_for`` trajectories a side at most, all in random order.

    Sub-trees of one case are no neighbours: steps in a row on the same case learn less from as many pairs.
    """
    cases: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        cases.setdefault(pair.case_id, []).append(pair)
    subtrees = [subtree for case in cases.values() for subtree in _subtrees(case, side_for(case), rng)]
    return [subtrees[number] for number in rng.permutation(len(subtrees)).tolist()]


def _subtrees(case: Sequence[PreferencePair], side: int, rng: np.random.Generator) -> list[list[PreferencePair]]:
    """A case's pairs in sub-trees of at most ``side`` chosen and ``side`` rejected trajectories, each pair once.

    Both lists of trajectories are split at random into groups; a sub-tree is what is declared between two groups.
    """
    group: dict[tuple[str, str], int] = {}
    for role in ("chosen", "rejected"):
        names = sorted({getattr(pair, role) for pair in case})
        shuffled = [names[place] for place in rng.permutation(len(names))]
        for number, part in enumerate(np.array_split(np.arange(len(names)), math.ceil(len(names) / side))):
            group |= {(role, shuffled[place]): number for place in part.tolist()}
    blocks: dict[tuple[int, int], list[PreferencePair]] = {}
    for place in rng.permutation(len(case)).tolist():
        pair = case[place]
        blocks.setdefault((group["chosen", pair.chosen], group["rejected", pair.rejected]), []).append(pair)
    return list(blocks.values())


def _take_subtrees(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], stage: StageSection, rng: np.random.Generator
) -> Iterator[list[PreferencePair]]:
    side = max(1, (stage.trajectories_per_case or 2) // 2)
    limit = stage.tokens_per_step or math.inf
    taken: list[PreferencePair] = []
    tokens = 0
    while True:
        for subtree in shuffled_subtrees(pairs, lambda _: side, rng):
            for part in _within(subtree, encoded, limit):
                size = tree_tokens(part, encoded)
                if taken and (len(taken) + len(part) > stage.pairs_per_step or tokens + size > limit):
                    yield taken
                    taken, tokens = [], 0
                taken, tokens = taken + part, tokens + size


def _within(
    block: list[PreferencePair], encoded: Mapping[str, Encoded], limit: float
) -> Iterator[list[PreferencePair]]:
    """The block, or halves of it until each fits into the limit of tokens."""
    tokens = tree_tokens(block, encoded)
    if tokens <= limit:
        yield block
        return
    pair, *others = ordered = sorted(block, key=lambda pair: (pair.chosen, pair.rejected))
    if not others:
        raise StudyError(
            f"case {pair.case_id}: the pair of {pair.chosen} and {pair.rejected} takes {tokens} tokens, above"
            f" tokens_per_step {limit:g}; raise it or drop the pair"
        )
    for half in (ordered[: len(block) // 2], ordered[len(block) // 2 :]):
        yield from _within(half, encoded, limit)


def fit_stage(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], settings: StageSection
) -> tuple[list[PreferencePair], StageSection]:
    """The pairs that ``max_length`` leaves, and settings with the steps and the warm-up that they make.

    An epoch has as many steps as its pairs fill, the last one perhaps in part; a share of a warm-up step counts as one.
    What is given as steps stays. Errors: StepError where every pair is too long.
    """
    limit = math.inf if settings.max_length is None else settings.max_length
    # What is not encoded is another error, of whoever learns from it.
    long = {name for name, item in encoded.items() if len(item.ids) > limit}
    kept = [pair for pair in pairs if not {pair.chosen, pair.rejected} & long]
    if pairs and not kept:
        raise StepError(f"all {len(pairs)} pairs have a side of more than max_length {limit} tokens; raise it")
    steps, warmup = settings.steps, settings.warmup_steps
    if settings.epochs is not None:
        steps = math.ceil(len(kept) / settings.pairs_per_step) * settings.epochs
    if settings.warmup_ratio is not None:
        warmup = math.ceil(settings.warmup_ratio * steps)
    return kept, settings.model_copy(update={"steps": steps, "warmup_steps": warmup})
