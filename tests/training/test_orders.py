"""Every epoch takes every pair once, in steps that are what their order declares."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.records import PreferencePair
from holdfast.records.errors import StudyError
from holdfast.study.stages import StageSection
from holdfast.training.dpo.orders import pair_steps, shuffled_subtrees
from holdfast.training.encoding import Encoded
from holdfast.training.sft.orders import demonstration_steps
from holdfast.training.trees.trees import count_tokens, grow

PROMPT = 20


def make_case(case, chosen, rejected):
    """Every chosen against every rejected trajectory; a name tells its side."""
    return [
        PreferencePair(
            case_id=case, chosen=f"{case}/c{c}", rejected=f"{case}/r{r}", objectives=("safety",), judge="test", gap=1.0
        )
        for c in range(chosen)
        for r in range(rejected)
    ]


def encode(pairs, seed=0):
    """Trajectories of 5 to 24 tokens after the case's prompt."""
    rng = np.random.default_rng(seed)
    cases = sorted({pair.case_id for pair in pairs})
    encoded = {}
    for name in sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)}):
        opening = np.full(PROMPT, 3 + cases.index(name.split("/")[0]))
        ids = np.concatenate([opening, rng.integers(50, 1000, rng.integers(5, 25))])
        encoded[name] = Encoded(ids=ids, agent=np.arange(len(ids)) >= PROMPT, prompt=PROMPT)
    return encoded


PAIRS = [pair for case in (("a", 3, 4), ("b", 1, 5), ("c", 8, 6), ("d", 1, 1)) for pair in make_case(*case)]
ENCODED = encode(PAIRS)
ORDERS = {
    "exact": StageSection(objective="safety", pairs_per_step=7),
    "one": StageSection(objective="safety", pairs_per_step=1),
    "above an epoch": StageSection(objective="safety", pairs_per_step=100),
    "pairwise": StageSection(objective="safety", pairs_per_step=7, pairwise=True),
    "epochs": StageSection(objective="safety", pairs_per_step=7, epochs=2),
    "families": StageSection(objective="safety", pairs_per_step=7, grouping="family", epochs=2),
    "sub-trees": StageSection(objective="safety", pairs_per_step=9, trajectories_per_case=5),
    "narrow sub-trees": StageSection(objective="safety", pairs_per_step=9, trajectories_per_case=2),
    "tokens": StageSection(objective="safety", pairs_per_step=30, trajectories_per_case=8, tokens_per_step=150),
}


FAMILIES = {"a": "one", "b": "two", "c": "one", "d": "two"}


def take(order, count, seed=0, pairs=PAIRS):
    encoded = ENCODED if pairs is PAIRS else encode(pairs)
    return list(islice(pair_steps(pairs, encoded, order, seed=seed, families=FAMILIES), count))


def names(pairs):
    return [(pair.chosen, pair.rejected) for pair in pairs]


def tokens_of(pairs):
    used = sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)})
    rows = [ENCODED[name].ids for name in used]
    assert len(grow(rows, fold=False)) == count_tokens(rows)
    return count_tokens(rows)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_every_epoch_takes_every_pair_once(order):
    taken = [pair for step in take(order, 2 * len(PAIRS)) for pair in step]
    assert len(taken) >= 2 * len(PAIRS)
    for start in range(0, len(taken) - len(PAIRS) + 1, len(PAIRS)):
        assert sorted(names(taken[start : start + len(PAIRS)])) == sorted(names(PAIRS))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_stream_depends_on_its_seed_alone(order):
    long = [names(step) for step in take(order, 30, seed=5)]
    assert [names(step) for step in take(order, 11, seed=5)] == long[:11]
    assert [names(step) for step in take(order, 30, seed=6)] != long


@pytest.mark.parametrize("per_step", [1, 5, 12, 200])
def test_cuts_are_exact(per_step):
    assert {len(step) for step in take(StageSection(objective="safety", pairs_per_step=per_step), 40)} == {per_step}


def test_a_cut_step_is_of_few_trajectories():
    """A case of 8 pairs or fewer is one sub-tree; a larger one comes in sub-trees of about 8."""
    small = [pair for case in (("a", 2, 4), ("b", 1, 5), ("d", 1, 1)) for pair in make_case(*case)]
    (big,) = [[pair for pair in PAIRS if pair.case_id == "c"]]
    order = StageSection(objective="safety", pairs_per_step=8)
    for seed in range(5):
        cases = [pair.case_id for step in take(order, 6, seed, pairs=small) for pair in step][: len(small)]
        assert sum(one != other for one, other in pairwise(cases)) == 2
        alone = take(order, 6, seed, pairs=big)
        used = [len({name for pair in step for name in (pair.chosen, pair.rejected)}) for step in alone]
        # A step of 8 among 8 by 6 would meet about 10 of the 14 trajectories in random order.
        assert np.mean(used) <= 8.5


def test_subtrees_of_a_case_are_spread_over_the_epoch():
    pairs = [pair for case in "abcdefgh" for pair in make_case(case, 4, 4)]
    order = StageSection(objective="safety", pairs_per_step=4, trajectories_per_case=4)
    cases = [step[0].case_id for step in take(order, 32, pairs=pairs)]
    assert Counter(cases) == dict.fromkeys("abcdefgh", 4)
    neighbours = sum(one == other for one, other in pairwise(cases))
    assert neighbours <= 10  # 24 if each case's four came one after another, 3 expected in random order


@pytest.mark.parametrize("name", ["pairwise", "epochs"])
def test_an_order_of_epochs_ends_each_with_what_is_left(name):
    steps = take(ORDERS[name], 24)
    per_epoch = -(-len(PAIRS) // 7)
    sizes = [7] * (per_epoch - 1) + [len(PAIRS) % 7]
    assert [len(step) for step in steps[: 2 * per_epoch]] == sizes * 2
    assert names(steps[0]) != names(steps[per_epoch])
    if name == "pairwise":
        assert len({pair.case_id for pair in steps[0]}) > 1  # pairs are taken whatever their case
    else:
        # Nothing else is different: the same sub-trees, cut at the same places.
        assert list(map(names, steps[: per_epoch - 1])) == list(map(names, take(ORDERS["exact"], per_epoch - 1)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99), st.floats(0.2, 1.0))
def test_subtrees_are_narrow_and_take_every_pair_once(chosen, rejected, side, seed, share):
    rng = np.random.default_rng(seed)
    case = make_case("x", chosen, rejected)
    case = [pair for pair in case if rng.random() < share] or case[:1]
    blocks = shuffled_subtrees(case, lambda _: side, np.random.default_rng(seed))
    assert sorted(names(pair for block in blocks for pair in block)) == sorted(names(case))
    for block in blocks:
        assert len({pair.chosen for pair in block}) <= side and len({pair.rejected for pair in block}) <= side


@pytest.mark.parametrize("most", [2, 3, 5, 8])
def test_a_step_has_few_trajectories_of_a_case(most):
    # One pair a step leaves each sub-tree a step of its own.
    for step in take(StageSection(objective="safety", pairs_per_step=1, trajectories_per_case=most), 60):
        used = {name for pair in step for name in (pair.chosen, pair.rejected)}
        assert len(used) <= most and len({pair.case_id for pair in step}) == 1


def test_steps_of_subtrees_are_filled():
    steps = take(ORDERS["sub-trees"], 20)
    blocks = take(StageSection(objective="safety", pairs_per_step=1, trajectories_per_case=5), 200)
    sizes, place = [len(block) for block in blocks], 0
    for step in steps:
        count = 0
        while count < len(step):
            count, place = count + sizes[place], place + 1
        # Sub-trees are whole, and the next one did not fit.
        assert count == len(step) <= 9 < count + sizes[place]


def test_tokens_bound_a_step():
    order = ORDERS["tokens"]
    steps = take(order, 60)
    sizes = [tokens_of(step) for step in steps]
    assert max(sizes) <= 150 and np.mean(sizes) > 75
    wide = StageSection(
        objective="safety", pairs_per_step=order.pairs_per_step, trajectories_per_case=order.trajectories_per_case
    )
    assert max(tokens_of(step) for step in take(wide, 60)) > 150  # so the bound does something


def test_a_pair_that_no_step_holds_is_refused():
    with pytest.raises(StudyError, match=r"case .: the pair of ./c\d and ./r\d takes \d+ tokens, above"):
        take(StageSection(objective="safety", pairs_per_step=4, trajectories_per_case=4, tokens_per_step=30), 40)


def test_demonstration_epochs_hold_everything_once():
    lengths = np.array([3 + number % 9 for number in range(103)])
    stream = demonstration_steps(lengths, batch_size=4, rng=np.random.default_rng(0))
    epoch = list(islice(stream, 25))
    seen = np.concatenate(epoch).tolist()
    assert len(set(seen)) == 100 and seen != sorted(seen)
    assert np.mean([np.ptp(lengths[batch]) for batch in epoch]) < 1  # batches are of similar lengths
    again = np.concatenate(list(islice(stream, 25))).tolist()
    assert len(set(again)) == 100 and again != seen
    few = next(demonstration_steps(lengths[:3], batch_size=8, rng=np.random.default_rng(0)))
    assert len(few) == 8 and set(few.tolist()) == {0, 1, 2}


def test_families_fill_steps_and_what_is_left_is_mixed():
    order = ORDERS["families"].model_copy(update={"epochs": None})
    taken = take(order, 60)
    families = [{FAMILIES[pair.case_id] for pair in step} for step in taken]
    assert all(len(step) == 7 for step in taken), "what does not fill a step waits for the next epoch"
    # 60 pairs of one family make 8 full steps an epoch, 6 of the other none, and 4 + 6 are left.
    assert sum(found == {"one"} for found in families) >= 0.8 * len(taken)
    assert any(len(found) == 2 for found in families)
    counts = Counter(name for step in taken for name in names(step))
    assert max(counts.values()) - min(counts.values()) <= 2
    assert names(taken[3]) == names(take(order, 4)[3]) != names(take(order, 4, seed=1)[3])
    few = take(order, 3, pairs=make_case("d", 1, 1))
    assert [len(step) for step in few] == [7, 7, 7]
