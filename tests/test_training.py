"""Batches are what they claim, stages are reproducible, and a stage's reference is what the stage starts from."""

from __future__ import annotations

import dataclasses
import os
from itertools import islice

import numpy as np
import pytest
import tiny_office as office
import torch
from safetensors.torch import load_file

from holdfast.errors import StepError, StudyError
from holdfast.models.tiny import TinyModel
from holdfast.models.tiny_chat import OBS, TinyChat
from holdfast.models.tiny_llama import TinyLlama
from holdfast.training.adapters import HubModel, open_policy
from holdfast.training.batches import Encoded, bucket_lengths, demonstration_batches, pair_batches, trajectory_blocks
from holdfast.training.loop import _score_rows, reference_logprobs, train_dpo, train_sft

os.environ["HF_HUB_OFFLINE"] = "1"
# peft asks transformers by a name that transformers is about to drop.
third_party = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

STAGE = office.STAGE


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that has seen a few demonstrations, so that preference stages move it."""
    root = tmp_path_factory.mktemp("training")
    start = office.make_model(root / "fresh")
    demonstrations = office.demonstrations(TinyChat.load(start))
    return train_sft(start, demonstrations, office.TEACHING, seed=0, out_dir=root / "base").path


@pytest.fixture(scope="module")
def data(base):
    return office.preferences(TinyChat.load(base))


def weights_of(path):
    return load_file(path / "model.safetensors")


def same_weights(one, other):
    ours, theirs = weights_of(one), weights_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def stream(pairs, encoded, per_step, seed=0, loss_mask="agent"):
    return pair_batches(pairs, encoded, pairs_per_step=per_step, loss_mask=loss_mask, rng=np.random.default_rng(seed))


# --- batches


def test_masks_pick_what_they_say(data):
    _, encoded = data
    item = encoded["memo/careful"]
    agent, completion = item.picked("agent"), item.picked("completion")
    assert completion.tolist() == [False] * item.prompt + [True] * (len(item.ids) - item.prompt)
    assert np.array_equal(agent, item.agent) and agent.sum() < completion.sum()
    assert OBS in item.ids[completion] and OBS not in item.ids[agent]
    prompted = dataclasses.replace(item, prompt=len(item.ids) - 2)
    assert prompted.picked("agent").sum() == 2


@pytest.mark.parametrize("per_step", [1, 5, 12, 30])
def test_every_step_has_exactly_its_pairs_and_an_epoch_has_every_pair(data, per_step):
    pairs, encoded = data
    batches = list(islice(stream(pairs, encoded, per_step), 12))
    assert {len(batch.chosen) for batch in batches} == {per_step}
    seen = [
        (batch.rows[c], batch.rows[r]) for batch in batches for c, r in zip(batch.chosen, batch.rejected, strict=True)
    ]
    wanted = sorted((pair.chosen, pair.rejected) for pair in pairs)
    for start in range(0, len(seen) - len(pairs) + 1, len(pairs)):
        assert sorted(seen[start : start + len(pairs)]) == wanted


def test_each_distinct_trajectory_is_one_row(data):
    pairs, encoded = data
    for batch in islice(stream(pairs, encoded, 12), 3):
        assert len(set(batch.rows)) == len(batch.rows) == sum(len(block.tokens) for block in batch.blocks) == 18
        used = {batch.rows[number] for number in (*batch.chosen, *batch.rejected)}
        assert used == set(batch.rows)
        rows = [(t, w) for block in batch.blocks for t, w in zip(block.tokens, block.weights, strict=True)]
        for name, (tokens, weights) in zip(batch.rows, rows, strict=True):
            length = len(encoded[name].ids)
            assert np.array_equal(tokens[:length], encoded[name].ids) and not tokens[length:].any()
            assert np.array_equal(weights[:length], encoded[name].agent) and not weights[length:].any()


def test_cases_stay_together(data):
    pairs, encoded = data
    cases = [{name.split("/")[0] for name in batch.rows} for batch in islice(stream(pairs, encoded, 2), 6)]
    assert all(len(case) == 1 for case in cases) and len({*map(frozenset, cases)}) == 6
    first, second = ([batch.rows for batch in islice(stream(pairs, encoded, 2, seed), 6)] for seed in (0, 1))
    assert first != second


def test_pair_weights_travel(data):
    pairs, encoded = data
    weighted = [dataclasses.replace(pair, weight=0.5 + number) for number, pair in enumerate(pairs)]
    expected = {(pair.chosen, pair.rejected): pair.weight for pair in weighted}
    batch = next(stream(weighted, encoded, 7))
    for c, r, weight in zip(batch.chosen, batch.rejected, batch.weights, strict=True):
        assert weight == expected[batch.rows[c], batch.rows[r]]


def test_buckets_have_the_least_padding():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = np.sort(rng.integers(1, 40, rng.integers(1, 20)))
        parts = bucket_lengths(lengths)
        assert np.array_equal(np.concatenate([lengths[part] for part in parts]), lengths)
        area = sum(len(lengths[part]) * lengths[part][-1] for part in parts)
        cuts = range(1, len(lengths))
        areas = [cut * lengths[cut - 1] + (len(lengths) - cut) * lengths[-1] for cut in cuts]
        assert area == min([len(lengths) * lengths[-1], *areas])


def test_demonstration_epochs_hold_everything_once():
    rows = [Encoded(ids=np.full(3 + n % 9, n), agent=np.arange(3 + n % 9) > 1, prompt=1) for n in range(103)]
    batches = demonstration_batches(rows, batch_size=4, other_weight=0.25, rng=np.random.default_rng(0))
    epoch = list(islice(batches, 25))
    seen = [int(row[0]) for block in epoch for row in block.tokens]
    assert len(set(seen)) == 100 and seen != sorted(seen)
    padding = sum(block.tokens.size for block in epoch) / sum(len(rows[number].ids) for number in seen)
    assert padding < 1.1
    for block in epoch:
        assert (
            not block.weights[:, 0].any() and (block.weights[:, 1] == 0.25).all() and (block.weights[:, 2] == 1).all()
        )
    few = next(demonstration_batches(rows[:3], batch_size=8, other_weight=0.0, rng=np.random.default_rng(0)))
    assert few.tokens.shape[0] == 8


# --- the loop


def test_sft_teaches_and_is_reproducible(base, tmp_path):
    chat = TinyChat.load(base)
    wanted, ticks = dataclasses.replace(office.TEACHING, steps=30), []
    runs = [
        train_sft(
            base,
            office.demonstrations(chat),
            wanted,
            seed=seed,
            out_dir=tmp_path / name,
            progress=lambda done, total: ticks.append((done, total)),
        )
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    ]
    assert runs[0].losses == runs[1].losses and same_weights(runs[0].path, runs[1].path)
    assert not same_weights(runs[0].path, runs[2].path)
    assert np.mean(runs[0].losses[-5:]) < 0.8 * np.mean(runs[0].losses[:5])
    assert (runs[0].steps, runs[0].examples) == (30, 180) and runs[0].tokens > 180 * 15 and runs[0].cpu_seconds > 0
    assert ticks[:30] == [(step, 30) for step in range(1, 31)]


def test_dpo_separates_the_sides(base, data, tmp_path):
    pairs, encoded = data
    ticks = []
    result = train_dpo(
        base,
        pairs,
        encoded,
        STAGE,
        seed=0,
        save_at=[12],
        out_dir=tmp_path,
        progress=lambda done, total: ticks.append((done, total)),
    )[0]
    assert result.losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert result.losses[-1] < 0.6 and result.accuracies[-1] > 0.7
    assert result.chosen_drift > result.rejected_drift + 1 and len(result.losses) == result.steps == 12
    assert result.examples == 60 and ticks == [(step, 12) for step in range(1, 13)]
    before, after = (reference_logprobs(path, list(encoded), encoded) for path in (base, result.path))
    drift = np.mean([after[pair.chosen] - before[pair.chosen] for pair in pairs])
    assert result.chosen_drift == pytest.approx(drift, abs=1e-4)
    assert TinyModel.load(result.path).chat.tokens == TinyModel.load(base).chat.tokens


def test_doses_are_points_of_one_run(base, data, tmp_path):
    pairs, encoded = data
    long = train_dpo(base, pairs, encoded, STAGE, seed=5, save_at=[3, 12, 6], out_dir=tmp_path / "long")
    brief = dataclasses.replace(STAGE, steps=3)
    short = train_dpo(base, pairs, encoded, brief, seed=5, save_at=[3], out_dir=tmp_path / "short")
    assert [result.steps for result in long] == [3, 6, 12]
    assert same_weights(long[0].path, short[0].path) and long[0].losses == short[0].losses == long[2].losses[:3]
    assert long[0].chosen_drift == short[0].chosen_drift and long[0].tokens == short[0].tokens
    assert not same_weights(long[0].path, long[1].path)


def test_a_later_stage_refers_to_the_checkpoint_it_starts_from(base, data, tmp_path):
    pairs, encoded = data
    first = train_dpo(base, pairs, encoded, STAGE, seed=0, save_at=[12], out_dir=tmp_path / "first")[0].path
    flipped = [dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    second = train_dpo(first, flipped, encoded, STAGE, seed=0, save_at=[12], out_dir=tmp_path / "second")[0]
    of_first, of_base = (reference_logprobs(path, list(encoded), encoded) for path in (first, base))
    moved = np.mean([abs(of_first[name] - of_base[name]) for name in of_first])
    assert moved > 0.5
    # At its first step the policy is its reference, whichever side the pairs favour; against the base it is not.
    assert second.losses[0] == pytest.approx(np.log(2), abs=1e-5)
    wrong = train_dpo(
        first, flipped, encoded, STAGE, seed=0, save_at=[1], out_dir=tmp_path / "wrong", reference=of_base
    )[0]
    assert abs(wrong.losses[0] - np.log(2)) > 0.01
    given = train_dpo(
        first, flipped, encoded, STAGE, seed=0, save_at=[12], out_dir=tmp_path / "given", reference=of_first
    )[0]
    assert given.losses == second.losses and same_weights(given.path, second.path)


def test_equal_rows_scored_once_equal_pairs_scored_one_by_one(base, data):
    pairs, encoded = data
    scores = reference_logprobs(base, [pair.chosen for pair in pairs], encoded, "completion")
    model = TinyModel.load(base)
    for name, score in scores.items():
        alone = model.logprobs([(encoded[name].ids.tolist(), encoded[name].picked("completion").tolist())])[0]
        assert score == pytest.approx(float(alone.sum()), abs=1e-4)


def test_hub_forward_equals_our_own(base, data):
    _, encoded = data
    hub = HubModel(base, lora_r=0, lora_alpha=1.0, lora_dropout=0.0)
    tiny = open_policy(base)
    blocks = trajectory_blocks(list(encoded), encoded, "agent")[1]
    losses, gradients = [], []
    for policy in (hub, tiny):
        losses.append(_score_rows(policy, blocks).square().mean())
        losses[-1].backward()
        gradients.append(policy.head().grad)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * float(gradients[0].abs().max()))


@third_party
def test_lora_trains_merges_and_loads(base, data, tmp_path):
    pairs, encoded = data
    adapted = dataclasses.replace(STAGE, lora_r=4, lora_dropout=0.1, learning_rate=1e-2)
    runs = [
        train_dpo(base, pairs, encoded, adapted, seed=seed, save_at=doses, out_dir=tmp_path / name)
        for seed, name, doses in ((0, "a", [6, 12]), (0, "b", [12]), (1, "c", [12]))
    ]
    firm = dataclasses.replace(adapted, lora_dropout=0.0)
    without = train_dpo(base, pairs, encoded, firm, seed=0, save_at=[12], out_dir=tmp_path / "firm")[0]
    assert runs[1][0].losses[0] == without.losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert runs[1][0].losses[-1] != without.losses[-1]  # dropout is on while training
    assert runs[0][1].losses == runs[1][0].losses and same_weights(runs[0][1].path, runs[1][0].path)
    assert not same_weights(runs[1][0].path, runs[2][0].path)
    merged = TinyLlama.load(runs[1][0].path)  # a plain Llama directory again
    before = TinyLlama.load(base)
    assert torch.equal(merged.head, before.head) and not torch.equal(merged.qkv[0], before.qkv[0])
    after, start = (reference_logprobs(path, list(encoded), encoded) for path in (runs[1][0].path, base))
    drift = np.mean([after[pair.rejected] - start[pair.rejected] for pair in pairs])
    assert runs[1][0].rejected_drift == pytest.approx(drift, abs=1e-4)
    assert runs[1][0].losses[-1] < 0.65


def test_loss_that_is_not_finite_stops(base, data, tmp_path):
    pairs, encoded = data
    wild = dataclasses.replace(STAGE, learning_rate=float("1e38"), warmup_steps=0)
    with pytest.raises(StepError, match="step"):
        train_dpo(base, pairs, encoded, wild, seed=0, save_at=[12], out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model = TinyLlama.load(base)
    with torch.no_grad():
        model.down[0][0, 0] = float("nan")
    model.save(tmp_path / "damaged")
    with pytest.raises(StepError, match="damaged"):
        train_dpo(tmp_path / "damaged", pairs, encoded, STAGE, seed=0, save_at=[1], out_dir=tmp_path / "out")


def test_data_that_cannot_be_learnt_from_is_refused(base, data, tmp_path):
    pairs, encoded = data

    def train(pairs=pairs, encoded=encoded, save_at=(1,)):
        return train_dpo(base, pairs, encoded, STAGE, seed=0, save_at=save_at, out_dir=tmp_path)

    with pytest.raises(StudyError, match="no preference pairs"):
        train(pairs=[])
    with pytest.raises(StudyError, match="case report: trajectory lost"):
        train(pairs=[dataclasses.replace(pairs[0], chosen="lost")])
    with pytest.raises(StudyError, match="weight nan"):
        train(pairs=[dataclasses.replace(pairs[0], weight=float("nan"))])
    silent = dataclasses.replace(encoded[pairs[0].chosen], prompt=100)
    with pytest.raises(StudyError, match="no token to learn from"):
        train(encoded={**encoded, pairs[0].chosen: silent})
    long = Encoded(ids=np.ones(65, np.int64), agent=np.ones(65, np.bool_), prompt=1)
    with pytest.raises(StudyError, match="65 tokens, but the model reads 64"):
        train(encoded={**encoded, pairs[0].chosen: long})
    for save_at in ((), (0,), (13,)):
        with pytest.raises(StudyError, match="between 1 and 12"):
            train(save_at=save_at)
    with pytest.raises(StudyError, match="no demonstrations"):
        train_sft(base, [], office.TEACHING, seed=0, out_dir=tmp_path)
    idle = Encoded(ids=np.ones(5, np.int64), agent=np.zeros(5, np.bool_), prompt=1)
    with pytest.raises(StudyError, match="agent does nothing"):
        train_sft(base, [idle], office.TEACHING, seed=0, out_dir=tmp_path)


def test_threads_and_generator_are_put_back(base, data, tmp_path):
    pairs, encoded = data
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_dpo(base, pairs, encoded, STAGE, seed=9, save_at=[1], out_dir=tmp_path)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
