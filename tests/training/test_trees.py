"""Token trees hold every shared prefix once, and every sequence is a path through its tree."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders.tree_samples import grown_trie, tries, visible
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.records.errors import StudyError
from holdfast.training.trees.trees import count_tokens, grow, partition

quick = settings(max_examples=80, deadline=None)


def prefixes(sequences):
    return {tuple(ids[:length].tolist()) for ids in sequences for length in range(1, len(ids) + 1)}


def assert_paths(tree, sequences):
    for ids, path in zip(sequences, tree.paths, strict=True):
        assert np.array_equal(tree.ids[path], ids)
        assert np.array_equal(tree.positions[path], np.arange(len(ids)))
        assert tree.before[path].tolist() == [-1, *path[:-1].tolist()]
    assert set(np.concatenate(tree.paths).tolist()) == set(range(len(tree)))


@quick
@given(tries(), st.booleans())
def test_every_path_spells_its_sequence(sequences, fold):
    tree = grow(sequences, fold=fold)
    assert_paths(tree, sequences)
    assert len(tree) == len(tree.positions) == len(tree.before) == len(tree.ids)


@quick
@given(tries(), st.booleans())
def test_a_subtree_is_one_range(sequences, fold):
    tree = grow(sequences, fold=fold)
    assert tree.starts.tolist() == [0, *tree.ends[:-1].tolist()] and tree.ends[-1] == len(tree)
    assert (tree.ends > tree.starts).all()
    for node in range(len(tree.starts)):
        line, other = set(), node
        while other >= 0:
            line.add(other)
            other = int(tree.parents[other])
        for above in range(len(tree.starts)):
            assert (above in line) == (tree.starts[above] <= tree.starts[node] < tree.subtrees[above])
        assert (
            max(tree.ends[below] for below in range(node, len(tree.starts)) if inside(tree, below, node))
            == (tree.subtrees[node])
        )


def inside(tree, below, node):
    while below > node:
        below = int(tree.parents[below])
    return below == node


@quick
@given(tries())
def test_no_prefix_stands_twice(sequences):
    tree = grow(sequences, fold=False)
    assert len(tree) == count_tokens(sequences) == len(prefixes(sequences))
    assert {tuple(tree.ids[seen].tolist()) for seen in visible(tree)} == prefixes(sequences)


@quick
@given(tries(), st.randoms())
def test_the_tree_is_that_of_the_set(sequences, random):
    """Order and repeats change nothing but which path is whose."""
    shuffled = random.sample(sequences, len(sequences)) + sequences[:2]
    one, other = grow(sequences), grow(shuffled)
    assert np.array_equal(one.ids, other.ids) and np.array_equal(one.before, other.before)
    for ids, path in zip(shuffled, other.paths, strict=True):
        number = next(n for n, candidate in enumerate(sequences) if np.array_equal(candidate, ids))
        assert np.array_equal(path, one.paths[number])


def test_short_shared_segments_are_repeated():
    first = np.array([7])
    tails = [np.arange(10, 210), np.arange(300, 500)]
    sequences = [np.concatenate([first, tail]) for tail in tails]
    assert len(grow(sequences)) == 402 and len(grow(sequences, fold=False)) == 401
    assert grow(sequences).parents.tolist() == [-1, -1]
    # A sequence that ends at the segment keeps it, and so does a segment that is long beside what follows.
    assert len(grow([*sequences, first])) == 401
    long = [np.concatenate([np.arange(7, 17), tail]) for tail in tails]
    assert len(grow(long)) == 410
    assert_paths(grow(sequences), sequences)


@pytest.mark.parametrize("seed", range(4))
def test_folding_costs_few_tokens(seed):
    rng = np.random.default_rng(seed)
    sequences = grown_trie(rng, sequences=60, segment=60, vocabulary=3 + 20 * (seed + 1))
    tree = grow(sequences)
    assert_paths(tree, sequences)
    assert count_tokens(sequences) <= len(tree) <= 1.06 * count_tokens(sequences)
    assert len(tree.starts) < len(grow(sequences, fold=False).starts)


@quick
@given(tries(), st.integers(1, 40))
def test_groups_fit_the_budget(sequences, budget):
    groups = partition(sequences, budget)
    assert sorted(number for group in groups for number in group) == list(range(len(sequences)))
    for group in groups:
        members = [sequences[number] for number in group]
        if count_tokens(members) > budget:
            assert len({tuple(ids.tolist()) for ids in members}) == 1 and len(members[0]) > budget
    # Greedy: no group has room for the sequence that opens the next one.
    for one, other in pairwise(groups):
        assert count_tokens([sequences[number] for number in (*one, other[0])]) > budget
    order = [sequences[number].tolist() for group in groups for number in group]
    assert order == sorted(order)


def test_a_budget_for_all_is_one_group():
    sequences = grown_trie(np.random.default_rng(0), sequences=20, segment=10, vocabulary=9)
    tokens = count_tokens(sequences)
    assert len(partition(sequences, tokens)) == 1 < len(partition(sequences, tokens - 1))


def test_an_empty_sequence_is_refused():
    rows = [np.array([1, 2]), np.array([], np.int64)]
    for refuse in (grow, count_tokens, lambda found: partition(found, 5)):
        with pytest.raises(StudyError, match="sequence 1 has no token"):
            refuse(rows)
