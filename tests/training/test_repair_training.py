"""Stages that keep a second objective: which pairs a step takes, what its loss is, how a balance reacts, and merges."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest
import torch
from builders import tiny_office as office
from builders.loop_samples import same, weights_of
from rounding import EXACT, apart, rounding, within

from holdfast.models.directories.opening import read_weights
from holdfast.models.directories.stacks import is_stack, read_stack
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import TinyLlama
from holdfast.records.errors import StoreError, StudyError
from holdfast.store.weights import digest_directory
from holdfast.study.stages import StageSection
from holdfast.training.dpo.mixing import Balance, Measured, Second, mixed_steps, other_seed, second_step
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.dpo.stage import train_dpo
from holdfast.training.loop.passes import descend
from holdfast.training.policy.adapters import open_policy
from holdfast.training.policy.merging import merge_checkpoints
from holdfast.training.trees.parts import pair_step

ORDER = StageSection(objective="safety", pairs_per_step=8)
RULES = {"stage": StageSection(objective="safety", beta=0.1)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return office.make_model(tmp_path_factory.mktemp("repair") / "base")


@pytest.fixture(scope="module")
def data(base):
    """Pairs of one objective and of another, which turns the first side of some of them round."""
    pairs, encoded = office.preferences(TinyChat.load(base))
    others = [
        dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen, objectives=("helpfulness",), weight=2.0)
        for pair in pairs[::2]
    ]
    return pairs, others, encoded


@pytest.fixture(scope="module")
def reference(data):
    rng = np.random.default_rng(0)
    return {name: -40.0 + float(rng.normal()) for name in data[2]}


def keys(pairs):
    return [(pair.chosen, pair.rejected) for pair in pairs]


# --- which pairs a step takes


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.3, 0.99])
def test_a_share_is_kept_over_a_stage_and_each_order_is_its_own(data, share):
    own, others, encoded = data
    second = Second(pairs=others, way="mix", amount=share)
    steps = list(islice(mixed_steps(own, second, encoded, ORDER, seed=3), 25))
    assert all(len(first) + len(other) == 8 for first, other in steps)
    counts = np.cumsum([len(other) for _, other in steps])
    assert np.abs(counts - share * 8 * np.arange(1, 26)).max() <= 0.5 + 1e-9
    for taken, pairs, seed in ((0, own, 3), (1, others, other_seed(3))):
        mixed = [pair for step in steps for pair in step[taken]]
        alone = [pair for step in islice(pair_steps(pairs, encoded, ORDER, seed=seed), 26) for pair in step]
        assert keys(mixed) == keys(alone[: len(mixed)])
    again = list(islice(mixed_steps(own, second, encoded, ORDER, seed=3), 25))
    assert [keys(a + b) for a, b in again] == [keys(a + b) for a, b in steps]
    if 0 < share < 0.99:
        other_luck = list(islice(mixed_steps(own, second, encoded, ORDER, seed=4), 25))
        assert [keys(a + b) for a, b in other_luck] != [keys(a + b) for a, b in steps]


def test_a_term_takes_as_many_pairs_of_both(data):
    own, others, encoded = data
    steps = islice(mixed_steps(own, Second(pairs=others, way="term", amount=0.5), encoded, ORDER, seed=0), 6)
    assert [(len(first), len(other)) for first, other in steps] == [(8, 8)] * 6


def test_two_objectives_need_pairs_of_both(data):
    own, others, encoded = data
    second = Second(pairs=others, way="mix", amount=0.5)
    with pytest.raises(StudyError, match="no pairs of one of the two"):
        next(mixed_steps(own, dataclasses.replace(second, pairs=[]), encoded, ORDER, seed=0))


# --- the loss of a term


def gradients(base, steps_and_factors, budget):
    """The summed gradients of steps, each times a factor, and the losses."""
    policy = open_policy(base)
    total, losses = [torch.zeros_like(weight) for weight in policy.trainable()], []
    for step, factor in steps_and_factors:
        for weight in policy.trainable():
            weight.grad = None
        losses.append(sum(descend(policy, part, budget).loss for part in step.parts(budget)))
        for place, weight in enumerate(policy.trainable()):
            total[place] += factor * weight.grad
    return total, losses


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("budget", [10_000, 120])
@pytest.mark.parametrize(
    "objective",
    [
        StageSection(objective="safety", beta=0.1),
        StageSection(objective="safety", beta=0.5, loss="ipo"),
        StageSection(objective="safety", beta=0.1, sft_weight=0.7, label_smoothing=0.1),
    ],
)
def test_a_terms_gradient_is_that_of_both_losses_computed_alone(base, data, reference, objective, budget):
    own, others, encoded = data
    told = {"stage": objective}
    both = second_step(own[:7], others[:5], 0.6, encoded, reference, **told)
    assert both.examples == 12
    ours, (loss,) = gradients(base, [(both, 1.0)], budget)
    alone = [
        (pair_step(pairs, encoded, reference, **told), factor) for pairs, factor in ((own[:7], 1), (others[:5], 0.6))
    ]
    theirs, losses = gradients(base, alone, 10_000)
    assert loss == pytest.approx(losses[0] + 0.6 * losses[1], rel=EXACT)
    assert apart(ours, theirs) < EXACT


@pytest.mark.usefixtures("in_64_bits")
def test_a_terms_metrics_tell_both_objectives_apart(base, data, reference):
    own, others, encoded = data
    policy = open_policy(base)
    step = second_step(own[:6], others[:4], 0.5, encoded, reference, **RULES)
    (part,) = step.parts(10_000)
    found = descend(policy, part, 10_000)
    alone = [
        descend(policy, pair_step(pairs, encoded, reference, **RULES).parts(10_000)[0], 10_000)
        for pairs in (own[:6], others[:4])
    ]
    assert found.metrics["accuracy"] == pytest.approx(alone[0].metrics["accuracy"], rel=EXACT)
    assert found.metrics["other_margin"] == pytest.approx(alone[1].metrics["margin"], rel=EXACT)
    assert found.metrics["other_loss"] == pytest.approx(alone[1].loss, rel=EXACT)
    assert dict(step.facts) == {"other_weight": 0.5}


def test_a_term_that_weighs_nothing_is_the_plain_step(data, reference):
    own, others, encoded = data
    step = second_step(own[:6], others[:4], 0.0, encoded, reference, **RULES)
    plain = pair_step(own[:6], encoded, reference, **RULES)
    assert step.examples == plain.examples == 6
    (ours,), (theirs,) = step.parts(10_000), plain.parts(10_000)
    assert ours.pairs == theirs.pairs and ours.totals == theirs.totals


# --- stages


def play(base, data, folder, way, amount, *, balance=None, steps=12, save_at=(12,), measure=None, **change):
    own, others, encoded = data
    second = None if way is None else Second(pairs=others, way=way, amount=amount)
    settings = office.change(office.STAGE, steps=steps, **change)
    return train_dpo(
        base,
        own,
        encoded,
        settings,
        seed=5,
        save_at=list(save_at),
        out_dir=folder,
        folder=folder / "loop",
        second=second,
        balance=None if balance is None else (balance, measure),
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "loop" / "train.jsonl").read_text().splitlines()]


def test_a_share_of_nothing_trains_as_the_stage_alone(base, data, tmp_path):
    alone, mixed = (play(base, data, tmp_path / str(way), way, 0.0)[0] for way in (None, "mix"))
    assert digest_directory(alone.path) == digest_directory(mixed.path)


def test_each_way_keeps_more_of_the_second_objective(base, data, tmp_path):
    """The other's pairs are mostly turned round: the more they weigh, the less the own ones are learnt."""
    found = {
        (way, amount): play(base, data, tmp_path / f"{way}{amount}", way, amount)[0]
        for way, amount in ((None, 0.0), ("mix", 0.5), ("term", 0.3), ("term", 3.0))
    }
    gaps = {key: one.chosen_drift - one.rejected_drift for key, one in found.items()}
    assert gaps[None, 0.0] > gaps["mix", 0.5] and gaps[None, 0.0] > gaps["term", 0.3] > gaps["term", 3.0]
    assert found["term", 0.3].examples == 2 * found["mix", 0.5].examples == 2 * 60
    assert {line["metrics"]["other_weight"] for line in lines(tmp_path / "term0.3")} == {0.3}


# --- a balance

BALANCE = Balance(floor=2.0, every=3, rate=0.5, initial=0.25, most=1.0)


def test_the_weight_rises_below_the_floor_and_falls_back_above_it():
    readings = []
    for step, score in ((3, 1.0), (6, 0.5), (9, None), (12, 2.5), (15, 3.0), (18, 3.0), (21, 3.0)):
        readings.append(BALANCE.read(step, Measured(score=score, scored=4, episodes=4), readings))
    assert [one["weight"] for one in readings] == [0.75, 1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    assert readings[2]["score"] is None, "what has no score moves nothing"
    # A measurement after step 3 holds for the fourth step, which is number 3 from 0.
    assert [BALANCE.weight_at(step, readings) for step in (0, 2, 3, 5, 6, 30)] == [0.25, 0.25, 0.75, 0.75, 1.0, 0.0]


class Judge:
    """Scores a policy by what its weights are, and can be told to stop the stage in the middle."""

    def __init__(self, stop_at=None):
        self.stop_at, self.seen = stop_at, []

    def __call__(self, directory, done):
        assert TinyLlama.load(directory)  # whole weights, as they are now
        if done == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(done)
        torch.rand(3)  # a policy may draw from torch's generator too
        return Measured(score=1.0 + (int(digest_directory(directory)[:4], 16) % 1000) / 1000, scored=5, episodes=6)


def test_a_balanced_stage_that_is_killed_goes_on_bit_by_bit(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr("holdfast.training.loop.loop.SAVE_SECONDS", 0.0)
    (whole,) = play(base, data, tmp_path / "whole", "balance", 0.25, balance=BALANCE, measure=Judge())
    cut, judge = tmp_path / "cut", Judge(stop_at=9)
    with pytest.raises(KeyboardInterrupt):
        play(base, data, cut, "balance", 0.25, balance=BALANCE, measure=judge)
    assert judge.seen == [3, 6]
    again = Judge()
    (resumed,) = play(base, data, cut, "balance", 0.25, balance=BALANCE, measure=again)
    # The ninth step was not saved, so it is done and measured again; the earlier ones are not.
    assert again.seen == [9, 12]
    assert resumed.readings == whole.readings and [one["step"] for one in whole.readings] == [3, 6, 9, 12]
    assert digest_directory(resumed.path) == digest_directory(whole.path) and resumed.losses == whole.losses
    weights = [line["metrics"]["other_weight"] for line in lines(cut)]
    assert weights == [BALANCE.weight_at(step, whole.readings) for step in range(12)]
    assert len(set(weights)) > 2 and not list(cut.glob("measured-*"))


def test_a_dose_of_a_balanced_stage_equals_a_shorter_run(base, data, tmp_path):
    long = play(base, data, tmp_path / "long", "balance", 0.25, balance=BALANCE, measure=Judge(), save_at=(6, 12))
    (short,) = play(
        base, data, tmp_path / "short", "balance", 0.25, balance=BALANCE, measure=Judge(), steps=6, save_at=(6,)
    )
    assert digest_directory(long[0].path) == digest_directory(short.path)
    assert long[0].readings == short.readings == long[1].readings[:2]


# --- merges


@pytest.fixture(scope="module")
def trained(base, data, tmp_path_factory):
    """Two whole models of one base."""
    root = tmp_path_factory.mktemp("merged")
    own, others, encoded = data
    return [
        train_dpo(base, pairs, encoded, office.STAGE, seed=0, save_at=[12], out_dir=root / name)[0].path
        for name, pairs in (("own", own), ("other", others))
    ]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_whole_weights_are_interpolated(trained, tmp_path, share):
    target = merge_checkpoints(*trained, share, tmp_path / "merged")
    ours = read_weights(target)
    first, second = (read_weights(place) for place in trained)
    for name, weight in ours.items():
        expected = (1 - share) * first[name].double() + share * second[name].double()
        assert within(apart([weight.double()], [expected]), rounding(3))  # a difference, a product and a sum
    assert TinyChat.load(target).tokens == TinyChat.load(trained[0]).tokens
    again = merge_checkpoints(*trained, share, tmp_path / "again")
    assert digest_directory(target) == digest_directory(again)


def test_a_model_merged_with_itself_is_itself(trained, tmp_path):
    merged = merge_checkpoints(trained[0], trained[0], 0.3, tmp_path / "merged")
    ours, known = read_weights(merged), read_weights(trained[0])
    assert all(torch.equal(ours[name], known[name]) for name in known)


def test_adapters_are_merged_as_the_weights_that_they_make(base, data, tmp_path):
    """Of other ranks and scales: W + 0.3 ΔA + 0.7 ΔB, as one adapter of both ranks."""
    own, others, encoded = data
    made = []
    for pairs, rank, name in ((own, 2, "a"), (others, 3, "b")):
        settings = office.change(office.STAGE, lora_r=rank, lora_alpha=5, learning_rate=1e-2)
        made.append(train_dpo(base, pairs, encoded, settings, seed=0, save_at=[12], out_dir=tmp_path / name)[0].path)
    target = merge_checkpoints(*made, 0.7, tmp_path / "merged")
    assert is_stack(target) and read_stack(target).ranks == (5,)
    whole, first, second = (read_weights(place) for place in (target, *made))
    moved = 0.0
    for name, weight in whole.items():
        expected = 0.3 * first[name].double() + 0.7 * second[name].double()
        assert within(apart([weight.double()], [expected]), rounding(6))  # the base and five products
        moved = max(moved, float((first[name] - second[name]).abs().max()))
    assert moved > 1e-3
    # What an adapter makes and what was trained whole have one form only: whole.
    mixed = merge_checkpoints(target, base, 0.5, tmp_path / "mixed")
    assert not is_stack(mixed)
    plain, known = read_weights(mixed), read_weights(base)
    for name, weight in plain.items():
        assert within(apart([weight], [0.5 * whole[name] + 0.5 * known[name]]), rounding(3))


def test_checkpoints_that_do_not_belong_together_are_refused(trained, data, tmp_path):
    other = office.make_model(tmp_path / "wide", hidden=48)
    with pytest.raises(StudyError, match=r"different in .*hidden_size.*; take two of one base"):
        merge_checkpoints(trained[0], other, 0.5, tmp_path / "out")
    with pytest.raises(StudyError, match="holds no weights to merge; finish the training"):
        merge_checkpoints(trained[0], tmp_path / "none", 0.5, tmp_path / "out")
    for share in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(StudyError, match="give one between 0 and 1"):
            merge_checkpoints(*trained, share, tmp_path / "out")
    own, _, encoded = data
    settings = office.change(office.STAGE, lora_r=2, steps=1)
    stacks = []
    for seed, name in ((0, "one"), (1, "two")):
        home = office.make_model(tmp_path / name, seed=seed)
        stacks.append(train_dpo(home, own, encoded, settings, seed=0, save_at=[1], out_dir=tmp_path / f"on-{name}")[0])
    with pytest.raises((StudyError, StoreError), match="adapters on different bases"):
        merge_checkpoints(stacks[0].path, stacks[1].path, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_leaves_a_merge_as_a_start_like_any_other(trained, data, tmp_path):
    own, _, encoded = data
    target = merge_checkpoints(*trained, 0.5, tmp_path / "merged")
    (result,) = train_dpo(target, own, encoded, office.STAGE, seed=0, save_at=[12], out_dir=tmp_path / "on")
    assert not same(weights_of(open_policy(target)), weights_of(open_policy(result.path)))
