"""Stages are reproducible, go on where they were broken off, and refer to what they start from."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from builders import tiny_office as office
from rounding import EXACT

from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import TinyLlama
from holdfast.models.tiny.model import TinyModel
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.training.dpo.orders import fit_stage
from holdfast.training.dpo.stage import reference_logprobs, train_dpo
from holdfast.training.encoding import Encoded
from holdfast.training.sft.stage import train_sft

os.environ["HF_HUB_OFFLINE"] = "1"
# peft asks transformers by a name that transformers is about to drop.

STAGE = office.STAGE
ADAPTED = office.change(STAGE, lora_r=4, lora_dropout=0.1, learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that has seen a few demonstrations, so that preference stages move it."""
    root = tmp_path_factory.mktemp("training")
    start = office.make_model(root / "fresh")
    demonstrations = office.demonstrations(TinyChat.load(start))
    return train_sft(start, demonstrations, office.TEACHING, steps=60, seed=0, out_dir=root / "base").path


@pytest.fixture(scope="module")
def data(base):
    return office.preferences(TinyChat.load(base))


def weights_of(path):
    return TinyLlama.load(path).export_weights()


def same_weights(one, other):
    ours, theirs = weights_of(one), weights_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def timeless(results):
    return [dataclasses.replace(result, path="", cpu_seconds=0.0) for result in results]


# --- what stages do


def test_sft_teaches_and_is_reproducible(base, tmp_path):
    chat = TinyChat.load(base)
    ticks = []
    runs = [
        train_sft(
            base,
            office.demonstrations(chat),
            office.TEACHING,
            steps=30,
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


@pytest.mark.usefixtures("in_64_bits")
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
    assert result.losses[0] == pytest.approx(np.log(2), rel=EXACT)
    assert result.losses[-1] < 0.6 and result.accuracies[-1] > 0.7
    assert result.chosen_drift > result.rejected_drift + 1 and len(result.losses) == result.steps == 12
    assert result.examples == 60 and ticks == [(step, 12) for step in range(1, 13)]
    before, after = (reference_logprobs(path, list(encoded), encoded) for path in (base, result.path))
    for side, drift in (("chosen", result.chosen_drift), ("rejected", result.rejected_drift)):
        names = [getattr(pair, side) for pair in pairs]
        assert drift == pytest.approx(np.mean([after[name] - before[name] for name in names]), rel=EXACT)
    assert TinyModel.load(result.path).chat.tokens == TinyModel.load(base).chat.tokens


@pytest.mark.parametrize(
    "changed",
    [
        {"pairwise": True},
        {"trajectories_per_case": 2, "tokens_per_step": 120},
        {"loss": "ipo", "beta": 0.5},
        {"loss": "hinge", "length_normalized": True, "beta": 1.0},
        {"label_smoothing": 0.1, "sft_weight": 0.1},
        {"schedule": "cosine", "weight_decay": 0.1},
    ],
)
def test_declared_settings_do_something(base, data, tmp_path, changed):
    pairs, encoded = data
    plain, other = (
        train_dpo(base, pairs, encoded, settings, seed=0, save_at=[12], out_dir=tmp_path / str(number))[0]
        for number, settings in enumerate((STAGE, office.change(STAGE, **changed)))
    )
    assert not same_weights(plain.path, other.path)
    assert other.chosen_drift > other.rejected_drift


@pytest.mark.usefixtures("in_64_bits")
def test_a_token_budget_changes_only_rounding(base, data, tmp_path):
    pairs, encoded = data
    longest = max(len(item.ids) for item in encoded.values())
    whole, cut = (
        train_dpo(base, pairs, encoded, settings, seed=0, save_at=[12], out_dir=tmp_path / str(number))[0]
        for number, settings in enumerate((STAGE, office.change(STAGE, token_budget=longest)))
    )
    assert cut.losses == pytest.approx(whole.losses, rel=EXACT) and cut.tokens == whole.tokens
    assert cut.chosen_drift == pytest.approx(whole.chosen_drift, rel=EXACT)


def test_doses_are_points_of_one_run(base, data, tmp_path):
    pairs, encoded = data
    long = train_dpo(base, pairs, encoded, STAGE, seed=5, save_at=[3, 12, 6], out_dir=tmp_path / "long")
    brief = office.change(STAGE, steps=3)
    short = train_dpo(base, pairs, encoded, brief, seed=5, save_at=[3], out_dir=tmp_path / "short")
    assert [result.steps for result in long] == [3, 6, 12]
    assert same_weights(long[0].path, short[0].path) and long[0].losses == short[0].losses == long[2].losses[:3]
    assert long[0].chosen_drift == short[0].chosen_drift and long[0].tokens == short[0].tokens
    assert not same_weights(long[0].path, long[1].path)


@pytest.mark.usefixtures("in_64_bits")
def test_a_later_stage_refers_to_the_checkpoint_it_starts_from(base, data, tmp_path):
    pairs, encoded = data
    first = train_dpo(base, pairs, encoded, STAGE, seed=0, save_at=[12], out_dir=tmp_path / "first")[0].path
    flipped = [dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    second = train_dpo(first, flipped, encoded, STAGE, seed=0, save_at=[12], out_dir=tmp_path / "second")[0]
    of_first, of_base = (reference_logprobs(path, list(encoded), encoded) for path in (first, base))
    moved = np.mean([abs(of_first[name] - of_base[name]) for name in of_first])
    assert moved > 0.5
    # At its first step the policy is its reference, whichever side the pairs favour; against the base it is not.
    assert second.losses[0] == pytest.approx(np.log(2), rel=EXACT)
    wrong = train_dpo(
        first, flipped, encoded, STAGE, seed=0, save_at=[1], out_dir=tmp_path / "wrong", reference=of_base
    )[0]
    assert abs(wrong.losses[0] - np.log(2)) > 0.01
    given = train_dpo(
        first, flipped, encoded, STAGE, seed=0, save_at=[12], out_dir=tmp_path / "given", reference=of_first
    )[0]
    assert given.losses == second.losses and same_weights(given.path, second.path)


@pytest.mark.usefixtures("in_64_bits")
def test_reference_equals_each_trajectory_by_itself(base, data):
    pairs, encoded = data
    scores = reference_logprobs(base, [pair.chosen for pair in pairs], encoded, "completion", token_budget=80)
    assert scores.keys() == {pair.chosen for pair in pairs}
    model = TinyModel.load(base)
    for name, score in scores.items():
        alone = model.logprobs([(encoded[name].ids.tolist(), encoded[name].picked("completion").tolist())])[0]
        assert score == pytest.approx(float(alone.sum()), rel=EXACT)


@pytest.mark.usefixtures("in_64_bits")
def test_lora_trains_and_loads(base, data, tmp_path):
    pairs, encoded = data
    runs = [
        train_dpo(base, pairs, encoded, ADAPTED, seed=seed, save_at=doses, out_dir=tmp_path / name)
        for seed, name, doses in ((0, "a", [6, 12]), (0, "b", [12]), (1, "c", [12]))
    ]
    firm = office.change(ADAPTED, lora_dropout=0.0)
    without = train_dpo(base, pairs, encoded, firm, seed=0, save_at=[12], out_dir=tmp_path / "firm")[0]
    assert without.losses[0] == pytest.approx(np.log(2), rel=EXACT)
    assert runs[1][0].losses[0] == without.losses[0]  # a fresh adapter adds nothing, dropped or not
    assert runs[1][0].losses[-1] != without.losses[-1]  # dropout is on while training
    assert runs[0][1].losses == runs[1][0].losses and same_weights(runs[0][1].path, runs[1][0].path)
    assert not same_weights(runs[1][0].path, runs[2][0].path)
    merged, before = (TinyLlama.load(path) for path in (runs[1][0].path, base))
    assert torch.equal(merged.head, before.head) and not torch.equal(merged.qkv[0], before.qkv[0])
    after, start = (reference_logprobs(path, list(encoded), encoded) for path in (runs[1][0].path, base))
    drift = np.mean([after[pair.rejected] - start[pair.rejected] for pair in pairs])
    assert runs[1][0].rejected_drift == pytest.approx(drift, rel=EXACT)
    assert runs[1][0].losses[-1] < 0.65


def test_steps_and_warm_up_are_counted_on_the_pairs_that_fit(data):
    pairs, encoded = data
    assert len(pairs) == 12
    sizes = {name: len(item.ids) for name, item in encoded.items()}
    longest = max(sizes.values())
    kept, fitted = fit_stage(pairs, encoded, office.change(STAGE, epochs=3, warmup_ratio=0.1, pairs_per_step=5))
    assert kept == pairs and (fitted.steps, fitted.warmup_steps) == (9, 1)
    assert fit_stage(kept, encoded, fitted) == (kept, fitted)
    assert fit_stage(pairs, encoded, STAGE) == (pairs, STAGE)
    short, fitted = fit_stage(pairs, encoded, office.change(STAGE, epochs=1, max_length=longest - 1))
    assert short == [pair for pair in pairs if longest not in (sizes[pair.chosen], sizes[pair.rejected])]
    assert 0 < len(short) < len(pairs) and fitted.steps == -(-len(short) // STAGE.pairs_per_step)
    assert fitted.warmup_steps == STAGE.warmup_steps
    with pytest.raises(StepError, match="all 12 pairs have a side of more than max_length 3 tokens; raise it"):
        fit_stage(pairs, encoded, office.change(STAGE, max_length=3))


def test_a_stage_takes_whole_epochs(base, data, tmp_path):
    pairs, encoded = data
    settings = office.change(STAGE, epochs=2, pairs_per_step=5, schedule="cosine", warmup_ratio=0.2)
    (result,) = train_dpo(
        base, pairs, encoded, settings, seed=1, save_at=[6], out_dir=tmp_path, folder=tmp_path / "loop"
    )
    lines = [json.loads(line) for line in (tmp_path / "loop" / "train.jsonl").read_text().splitlines()]
    assert [line["examples"] for line in lines] == [5, 5, 2] * 2 and result.examples == 24
    rates = [line["learning_rate"] / STAGE.learning_rate for line in lines]
    assert rates == pytest.approx([0.5, 1.0, *(0.5 * (1 + np.cos(np.pi * done / 4)) for done in range(4))])
    with pytest.raises(StudyError, match="between 1 and 6"):
        train_dpo(base, pairs, encoded, settings, seed=1, save_at=[7], out_dir=tmp_path)


# --- going on


class Killed(Exception):
    """Stands for a kill between two steps."""


def kill_at(step):
    def progress(done, total):
        if done == step:
            raise Killed

    return progress


@pytest.mark.parametrize("settings", [STAGE, ADAPTED], ids=["whole", "adapter"])
def test_a_killed_stage_ends_as_an_unbroken_one(base, data, tmp_path, settings):
    pairs, encoded = data

    def train(name, progress=None):
        return train_dpo(
            base,
            pairs,
            encoded,
            settings,
            seed=2,
            save_at=[3, 6, 12],
            out_dir=tmp_path / name,
            folder=tmp_path / name / "loop",
            progress=progress,
        )

    whole = train("whole")
    for step in (5, 9):
        with pytest.raises(Killed):
            train("broken", kill_at(step))
    ticks = []
    broken = train("broken", lambda done, total: ticks.append(done))
    assert ticks == list(range(7, 13))  # from the last dose kept on
    assert timeless(broken) == timeless(whole) and [result.steps for result in broken] == [3, 6, 12]
    assert all(same_weights(one.path, other.path) for one, other in zip(broken, whole, strict=True))
    lines = [json.loads(line) for line in (tmp_path / "broken" / "loop" / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["metrics"]["loss"] for line in lines] == list(whole[-1].losses)
    assert {line["seed"] for line in lines} == {2}
    # A finished stage has its results still.
    assert timeless(train("broken", kill_at(12))) == timeless(whole)
    with pytest.raises(StoreError, match="it is of seed 2, not 3"):
        train_dpo(
            base,
            pairs,
            encoded,
            settings,
            seed=3,
            save_at=[12],
            out_dir=tmp_path / "other",
            folder=tmp_path / "broken" / "loop",
        )


def test_threads_and_generator_are_put_back(base, data, tmp_path):
    pairs, encoded = data
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_dpo(base, pairs, encoded, STAGE, seed=9, save_at=[1], out_dir=tmp_path)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


# --- what is refused


def test_a_loss_that_is_not_finite_stops(base, data, tmp_path):
    pairs, encoded = data
    wild = office.change(STAGE, learning_rate=float("1e38"), warmup_steps=0)
    with pytest.raises(StepError, match=r"training, step \d: loss "):
        train_dpo(base, pairs, encoded, wild, seed=0, save_at=[12], out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [STAGE, ADAPTED], ids=["whole", "adapter"])
def test_damaged_weights_are_named(base, data, tmp_path, settings):
    pairs, encoded = data
    model = TinyLlama.load(base)
    with torch.no_grad():
        model.down[1][0, 0] = float("nan")
    model.save(tmp_path / "damaged")
    with pytest.raises(StudyError, match=r"damaged.*model\.layers\.1\.mlp\.down_proj\.weight.* not finite"):
        train_dpo(tmp_path / "damaged", pairs, encoded, settings, seed=0, save_at=[1], out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refused(base, tmp_path, words, pairs, encoded, *, settings=STAGE, save_at=(1,), reference=None):
    ticks = []
    with pytest.raises(StudyError, match=words):
        train_dpo(
            base,
            pairs,
            encoded,
            settings,
            seed=0,
            save_at=save_at,
            out_dir=tmp_path / "out",
            reference=reference,
            progress=lambda *done: ticks.append(done),
        )
    assert not ticks and not (tmp_path / "out").exists()


def test_data_that_cannot_be_learnt_from_is_refused(base, data, tmp_path):
    pairs, encoded = data
    name = pairs[-1].chosen
    item = encoded[name]
    where = f"case {pairs[-1].case_id}, trajectory {name}: "

    def changed(**fields):
        return {**encoded, name: dataclasses.replace(item, **fields)}

    def check(words, pairs=pairs, encoded=encoded, **options):
        refused(base, tmp_path, words, pairs, encoded, **options)

    check("no preference pairs", pairs=[])
    check("case letter: trajectory lost", pairs=[*pairs, dataclasses.replace(pairs[-1], chosen="lost")])
    check("case letter: .* do not share their prompt", encoded=changed(prompt=item.prompt - 1))
    check("case letter: .* has an empty completion", encoded=changed(prompt=len(item.ids)))
    foreign = np.where(np.arange(len(item.ids)) == len(item.ids) - 1, 5000, item.ids)
    check(where + "token id 5000 is outside the model's vocabulary", encoded=changed(ids=foreign))
    end = np.resize(item.ids, 65 - item.prompt)
    long = np.concatenate([item.ids[: item.prompt], end])
    check(where + "65 tokens, but the model reads 64", encoded=changed(ids=long, agent=np.ones(65, np.bool_)))
    # Of one case alone, the prompt of both sides can be too long.
    side = Encoded(ids=np.full(80, 9), agent=np.arange(80) > 64, prompt=64)
    both = {pairs[-1].chosen: side, pairs[-1].rejected: side}
    check(where + "its prompt has 64 tokens, but the model reads 64", pairs=pairs[-1:], encoded=both)
    size = max(len(encoded[n].ids) for pair in pairs for n in (pair.chosen, pair.rejected))
    tight = office.change(STAGE, token_budget=size - 1)
    known = reference_logprobs(base, list(encoded), encoded)
    for reference in (None, known):
        words = rf"case \w+, trajectory \w+/careful: {size} tokens, above token_budget {size - 1}; raise it"
        check(words, settings=tight, reference=reference)
    for save_at in ((), (0,), (13,)):
        check("between 1 and 12", save_at=save_at)


def test_demonstrations_that_cannot_be_learnt_from_are_refused(base, tmp_path):
    with pytest.raises(StudyError, match="no demonstrations"):
        train_sft(base, [], office.TEACHING, steps=60, seed=0, out_dir=tmp_path / "out")
    foreign = Encoded(ids=np.array([1, 5000]), agent=np.ones(2, np.bool_), prompt=1)
    with pytest.raises(StudyError, match="demonstration 0: token id 5000"):
        train_sft(base, [foreign], office.TEACHING, steps=60, seed=0, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
