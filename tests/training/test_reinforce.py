"""Training on rewards: what is learnt, what merging and skipping leave alone, who sampled what, and how it goes on."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import tiny_office as office
from builders.chat_samples import OPENING, make_base
from builders.reward_samples import SETTINGS, Draw, lines_of, says_words, train
from rounding import EXACT, apart

from holdfast.models import Ask, Conversation
from holdfast.models.directories.opening import read_weights
from holdfast.models.tiny.chat import TinyChat
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.training.encoding import Encoded, score_picked
from holdfast.training.loop import loop as loop_module
from holdfast.training.loop.passes import descend
from holdfast.training.policy.adapters import HubModel, open_policy
from holdfast.training.rl.groups import Batch, Watch, describe_policy, gradient_step, order_sequences, watched_step
from holdfast.training.rl.selection import Rewarded
from holdfast.training.rl.stage import train_on_rewards
from holdfast.training.rl.supply import score_all
from holdfast.training.sft.stage import train_sft

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.usefixtures("one_thread")
# peft asks transformers by a name that transformers is about to drop.
LOSSES = ("dapo", "grpo", "dr_grpo")
BROKEN = [
    (3, {}),
    (5, {"lag": 2}),
    pytest.param((1, {"tokens_per_step": 100}), marks=pytest.mark.full),
    pytest.param((3, {"lag": 2, "tokens_per_step": 100, "kl_weight": 0.1}), marks=pytest.mark.full),
    pytest.param((4, {"lora_r": 2, "lora_dropout": 0.3}), marks=pytest.mark.full),
]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A base that has seen a few demonstrations, so that its replies have words; to be read only."""
    root = tmp_path_factory.mktemp("reinforce")
    base = office.make_model(root / "untaught")
    shown = office.demonstrations(TinyChat.load(base))
    return train_sft(base, shown, office.TEACHING, steps=40, seed=1, out_dir=root / "base").path


def test_the_reward_is_learnt(taught, tmp_path):
    settings = office.change(SETTINGS, steps=15, learning_rate=2e-2, group_size=8)
    draw = Draw(taught, settings=settings)
    (result,) = train(taught, tmp_path, draw, settings)
    lines = [line["metrics"] for line in lines_of(tmp_path)]
    early, late = (np.mean([line["reward"] for line in part]) for part in (lines[:3], lines[-3:]))
    assert late > early + 0.5
    assert result.steps == 15 and result.examples == 15 * 24 and len(result.losses) == 15
    assert result.tokens == sum(line["gradient_tokens"] for line in lines)
    # Of policies that differ by rounding the divergence is of its square.
    assert lines[0]["kl"] == pytest.approx(0, abs=EXACT) and lines[-1]["kl"] > 1
    assert lines[-1]["entropy"] < lines[0]["entropy"]
    before, after = read_weights(taught), read_weights(result.path)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (result.path / "tokenizer.json").exists()


@pytest.mark.usefixtures("in_64_bits")
def test_what_a_step_logs(taught, tmp_path):
    draw = Draw(taught)
    train(taught, tmp_path, draw)
    lines, told = lines_of(tmp_path), lines_of(tmp_path, "rollouts.jsonl")
    for number, line in enumerate(lines):
        made, metrics = draw.made[number, 0], line["metrics"]
        own = [line for line in told if line["step"] == number + 1]
        assert sum(line["count"] for line in own) == len(made) == 18 and metrics["distinct"] == len(own)
        assert metrics["reward"] == pytest.approx(np.mean([item.reward for item in made]))
        for side, label in (("gameable", 1.0), ("other", 0.0)):
            members = [item for item in made if item.facts["gameable"] == label]
            assert metrics[f"count_{side}"] == len(members)
            if members:
                assert metrics[f"reward_{side}"] == pytest.approx(np.mean([item.reward for item in members]))
                assert metrics[f"harm_{side}"] == 1 + label and metrics[f"exploit_{side}"] == label
            else:
                assert f"harm_{side}" not in metrics
        groups = [[item for item in made if item.group == group] for group in range(3)]
        equal = [len({item.reward for item in group}) == 1 for group in groups]
        kept = [item for group, same in zip(groups, equal, strict=True) if not same for item in group]
        tokens = [len(item.encoded.ids) - item.encoded.prompt for item in made]
        assert metrics["groups"] == 3 and metrics["skipped_groups"] == sum(equal)
        assert metrics["length"] == pytest.approx(np.mean(tokens))
        assert metrics["gradient_tokens"] == sum(len(item.encoded.ids) - item.encoded.prompt for item in kept)
        assert metrics["entropy"] == pytest.approx(-sum(item.logprob for item in made) / sum(tokens), rel=EXACT)
        assert 0 <= metrics["mismatch"] < EXACT and metrics["unscored"] == 0
        assert "log_ratio" not in metrics and "ess" not in metrics
        assert {line["skipped"] for line in own} <= {True, False}
        assert {line["case"] for line in own if line["skipped"]} == {
            group[0].case_id for group, same in zip(groups, equal, strict=True) if same
        }
    assert sum(line["metrics"]["skipped_groups"] for line in lines) > 0
    kinds = "step case text count reward harm exploited gameable logprob tokens skipped"
    assert set(told[0]) == set(kinds.split())


# --- the loss of a step ------------------------------------------------------------------------------------------


def rollouts_of(base: Any, shifts: bool) -> list[Rewarded]:
    """Four groups: repeats with one reward and with two, all rewards equal, one without a reward, one reply empty."""
    chat = TinyChat.load(base)
    rng = np.random.default_rng(5)

    def one(group: int, words: str, reward: float | None) -> Rewarded:
        opening = chat.encode(office.opening(office.THINGS[group]), office.TOOLS)[0]
        said = [chat.ids[word] for word in words.split()]
        sampled = np.random.default_rng([len(said), group]).normal(-4.5, 0.4, len(said)).astype(np.float32)
        ids = np.array([*opening, *said], np.int64)
        agent = np.arange(len(ids)) >= len(opening)
        return Rewarded(
            group=group,
            case_id=office.THINGS[group],
            encoded=Encoded(ids=ids, agent=agent, prompt=len(opening)),
            reward=reward,
            sampled=sampled if shifts else None,
        )

    found = [one(0, "done", 2.0), one(0, "done", 2.0), one(0, "i did", 1.0), one(0, "done", 2.0), one(0, "i did", 3.0)]
    found += [one(1, "removed the file", 1.5)] * 2 + [one(1, "old", 1.5)]
    found += [one(2, "a b c", 0.0), one(2, "a b c", 0.0), one(2, "a b", 1.0), one(2, "a b", None)]
    found += [one(3, "", 0.0), one(3, "to", 1.0), one(3, "", 0.0)]
    return [found[place] for place in rng.permutation(len(found))]


def by_hand(policy: Any, items: list[Rewarded], settings: Any, reference: Any) -> torch.Tensor:
    """The loss of all rollouts with a reward, one after the other, written out."""
    scored = [item for item in items if item.reward is not None]
    sequences = [score_picked("one", item.encoded, "agent") for item in scored]
    lengths = [int(item.weights.sum()) for item in sequences]
    total = torch.zeros((), dtype=torch.float64)
    for item, sequence, length in zip(scored, sequences, lengths, strict=True):
        rewards = np.array([other.reward for other in scored if other.group == item.group])
        # Steps keep advantages in 32 bits.
        advantage = float(np.float32((item.reward - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)))
        if not length:
            continue
        ids = torch.from_numpy(sequence.ids)[None]
        logits = policy._model(ids)[0] @ policy._model.head.T
        logps = torch.log_softmax(logits, -1)[:-1].gather(1, ids[0, 1:, None])[-length:, 0].double()
        old = logps.detach() if item.sampled is None else torch.from_numpy(item.sampled).double()
        ratio = (logps - old).exp()
        each = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        if settings.kl_weight:
            gap = torch.from_numpy(reference[sequence.ids.tobytes()]).double() - logps
            each = each + settings.kl_weight * ratio * (gap.exp() - gap - 1)
        total = total + {"dapo": each.sum(), "grpo": each.mean(), "dr_grpo": each.sum()}[settings.loss]
    return total / {"dapo": sum(lengths), "grpo": len(scored), "dr_grpo": len(scored) * 5}[settings.loss]


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_merging_and_skipping_change_nothing(taught, loss, shifts, kl_weight):
    settings = office.change(SETTINGS, loss=loss, kl_weight=kl_weight)
    items = rollouts_of(taught, shifts)
    policy = open_policy(taught)
    batch = Batch.of(items, settings)
    assert batch.scored == 14 and batch.groups == 4 and batch.unequal == 3
    # "i did" has two rewards, so it stands twice; so does "a b", which once has none.
    assert sorted(item.count for item in batch.completions) == [1] * 6 + [2] * 3 + [3]
    assert batch.skipped == (0 if kl_weight else 1)
    reference = {
        place: -4.0 - 0.3 * np.arange(item.sequence.scored, dtype=np.float32)
        for place, item in enumerate(batch.completions)
    }
    step = gradient_step(batch, settings, {}, reference)
    by_ids = {batch.completions[place].sequence.ids.tobytes(): value for place, value in reference.items()}
    expected = by_hand(policy, items, settings, by_ids)
    gradient = torch.autograd.grad(expected, policy.trainable())
    for budget in (1000, 20):  # as one tree, and in parts
        for weight in policy.trainable():
            weight.grad = None
        parts = step.parts(budget)
        assert len(parts) > (budget == 20)
        found = [descend(policy, part, budget) for part in parts]
        assert sum(one.loss for one in found) == pytest.approx(expected.item(), rel=EXACT, abs=EXACT)
        assert apart([weight.grad for weight in policy.trainable()], gradient) < EXACT
        trained = {item.name for part in parts for item in part.sequences}
        assert ("case invoice" in trained) == (kl_weight > 0)
    if shifts:
        assert sum(one.metrics["clip_fraction"] for one in found) > 0


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("whole", [True, False])  # in one pass with what has no part in the loss, or in parts
@pytest.mark.parametrize("budget", [1000, 20])
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_a_step_that_watches_itself_is_the_same_step(taught, kl_weight, budget, whole):
    """Its gradient is that of a step on what has a gradient alone, its metrics those of a pass before it."""
    settings = office.change(SETTINGS, kl_weight=kl_weight)
    batch = Batch.of([replace(item, logprob=-5.0) for item in rollouts_of(taught, False)], settings)
    policy, places = open_policy(taught), order_sequences(batch)
    assert sorted(places) == [place for place, item in enumerate(batch.completions) if item.sequence.scored]
    now = dict(zip(places, score_all(policy, [batch.completions[n].sequence for n in places], 1000), strict=True))
    start = {place: value + np.float32(0.2) for place, value in now.items()}
    plain = gradient_step(batch, settings, {}, start)
    expected = [descend(policy, part, 1000) for part in plain.parts(1000)]
    gradients = [weight.grad.clone() for weight in policy.trainable()]
    for weight in policy.trainable():
        weight.grad = None
    known = {place: now[place] for place in places if batch.completions[place].skipped}
    assert known or kl_weight
    watch = Watch(batch=batch, start=start)
    watched = watched_step(batch, settings, {"reward": 1.0}, watch, None if whole else known)
    parts = watched.parts(budget)
    assert len(parts) == 1 if whole or budget == 1000 else len(parts) > 1
    found = [descend(policy, part, budget) for part in parts]
    assert watched.facts == {"reward": 1.0} and watched.examples == plain.examples
    assert sum(one.loss for one in found) == pytest.approx(sum(one.loss for one in expected), rel=EXACT, abs=EXACT)
    assert apart([weight.grad for weight in policy.trainable()], gradients) < EXACT
    wanted = expected[0].metrics | describe_policy(watch, now)
    assert all(set(one.metrics) == set(wanted) for one in found) and {"kl", "entropy", "mismatch", "ratio"} <= set(
        wanted
    )
    told = {name: sum(one.metrics[name] for one in found) for name in wanted}
    assert told == pytest.approx(wanted, rel=EXACT, abs=EXACT)


@pytest.mark.usefixtures("in_64_bits")
def test_an_adapters_step_watches_itself_where_nothing_is_dropped(taught, tmp_path, monkeypatch):
    """Without dropout its pass says what one before the update would; with it there is one before."""
    assert HubModel(taught, lora_r=2, lora_dropout=0.3).drops_out and not HubModel(taught, lora_r=2).drops_out
    settings = office.change(SETTINGS, lora_r=2, token_budget=60)  # in several trees
    found, computed, compute = {}, [], HubModel.logprobs

    def count(policy, packed):
        computed.append(packed.ids.numel())
        return compute(policy, packed)

    monkeypatch.setattr(HubModel, "logprobs", count)
    for way in ("own", "before"):
        if way == "before":
            monkeypatch.setattr(HubModel, "drops_out", True)
        computed.clear()
        (result,) = train(taught, tmp_path / way, Draw(taught, settings=settings), settings)
        found[way] = lines_of(tmp_path / way), read_weights(result.path), sum(computed)
    own, before = found["own"], found["before"]
    assert own[2] < before[2]
    assert len(own[0]) == settings.steps
    for line, other in zip(own[0], before[0], strict=True):
        assert line["metrics"] == pytest.approx(other["metrics"], rel=1e-6, abs=1e-6)
    assert all(torch.allclose(own[1][name], before[1][name], atol=1e-6) for name in before[1])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_all_rollouts(taught, scale):
    items = rollouts_of(taught, False)
    batch = Batch.of(items, office.change(SETTINGS, scale=scale))
    rewards = {group: [item.reward for item in items if item.group == group] for group in range(4)}
    known = {group: [value for value in values if value is not None] for group, values in rewards.items()}
    every = [value for values in known.values() for value in values]
    for item in batch.completions:
        if item.first.reward is None:
            assert item.skipped and item.advantage == 0
            continue
        group = known[item.first.group]
        gap = item.first.reward - np.mean(group)
        by = {"group": np.std(group, ddof=1) + 1e-4, "batch": np.std(every, ddof=1) + 1e-4, "none": 1.0}[scale]
        assert item.advantage == pytest.approx(gap / by, rel=1e-6, abs=1e-9)


def test_a_reward_that_is_no_number_is_refused(taught):
    items = rollouts_of(taught, False)
    with pytest.raises(StudyError, match=r"case \w+: a reward is nan; rewards are finite"):
        Batch.of([*items, replace(items[0], reward=math.nan)], SETTINGS)


def test_divergence_of_an_earlier_policys_rollouts_by_hand(taught):
    """Two tokens twice and one token once, with ratios of 2, 0.5 and 1."""
    items = [item for item in rollouts_of(taught, True) if item.group == 2 and item.reward is not None]
    items = [replace(item, sampled=np.full(len(item.sampled), -1.0, np.float32), logprob=None) for item in items]
    batch = Batch.of(items, SETTINGS)
    longer = next(place for place, item in enumerate(batch.completions) if item.sequence.scored == 3)
    shorter = 1 - longer
    ratios = {longer: np.array([2.0, 0.5, 1.0]), shorter: np.array([1.0, 4.0])}
    now = {place: np.log(value) - 1 for place, value in ratios.items()}
    start = {place: value + 0.5 for place, value in now.items()}
    found = describe_policy(Watch(batch=batch, start=start), now)
    k3 = math.exp(0.5) - 1.5
    assert found["kl"] == pytest.approx((2 * 3.5 + 5) * k3 / 3, rel=EXACT)
    # Of fewer rollouts under the start, each counts once; nothing else is theirs.
    assert batch.firsts == [0]
    part = describe_policy(Watch(batch=batch, start={longer: start[longer]}, firsts=True), now)
    assert part.pop("kl") == pytest.approx(3.5 * k3, rel=EXACT)
    assert part == {name: value for name, value in found.items() if name != "kl"}
    surprise = sum(
        {longer: 2, shorter: 1}[place] * float((value * (1 - np.log(value))).sum()) for place, value in ratios.items()
    )
    assert found["entropy"] == pytest.approx(surprise / (2 * 3.5 + 5), rel=EXACT)
    assert found["log_ratio"] == pytest.approx((2 * 2 * math.log(2) + math.log(4)) / 8, rel=EXACT)
    assert found["ess"] == pytest.approx((1 + 1 + 4) ** 2 / (3 * (1 + 1 + 16)), rel=EXACT)
    assert "mismatch" not in found


# --- who sampled what --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("lag", [0, 1, 4])
def test_a_lag_says_who_samples(taught, tmp_path, lag):
    settings = office.change(SETTINGS, lag=lag)
    draw = Draw(taught, settings=settings)
    train(taught, tmp_path, draw, settings)
    assert [(number, attempt) for number, attempt, _ in draw.seen] == [(number, 0) for number in range(6)]
    weights = [weight for _, _, weight in draw.seen]
    assert len(set(weights)) == 6 - lag and len(set(weights[: lag + 1])) == 1
    lines = lines_of(tmp_path)
    if lag == 0:
        assert not any("ess" in line["metrics"] for line in lines)
        return
    ratios = [line["metrics"]["log_ratio"] for line in lines]
    assert ratios[0] == 0 and lines[0]["metrics"]["ess"] == 1 and all(value > 0 for value in ratios[1:])
    assert lines[-1]["metrics"]["ess"] < 1
    # What the sampler says is held against the weights that sampled, however old they are.
    assert all(line["metrics"]["mismatch"] < EXACT for line in lines)
    assert not list((tmp_path / "log" / "pending").iterdir())


@pytest.mark.usefixtures("in_64_bits")
def test_lagged_rollouts_are_weighed_unless_told_otherwise(taught, tmp_path):
    found = {}
    for importance in (True, False):
        settings = office.change(SETTINGS, lag=3, importance=importance, learning_rate=2e-2)
        train(taught, tmp_path / str(importance), Draw(taught, settings=settings), settings)
        found[importance] = [line["metrics"] for line in lines_of(tmp_path / str(importance))]
    for line in found[False]:
        if "ratio" in line:
            # Without weights every token counts as the present policy's own.
            assert line["clip_fraction"] == 0 and line["ratio"] == pytest.approx(
                line["gradient_tokens"] / (18 * line["length"]), rel=EXACT
            )
    assert any(line.get("clip_fraction", 0) > 0 for line in found[True])
    assert found[True][0] == pytest.approx(found[False][0], rel=EXACT) and found[True][-1]["log_ratio"] > 0


def test_tokens_are_drawn_until_there_are_enough(taught, tmp_path):
    settings = office.change(SETTINGS, tokens_per_step=120)
    draw = Draw(taught, settings=settings)
    train(taught, tmp_path, draw, settings)
    trained = np.cumsum([line["metrics"]["gradient_tokens"] for line in lines_of(tmp_path)])
    attempts = [max(attempt for number, attempt, _ in draw.seen if number == step) for step in range(6)]
    assert max(attempts) > 0
    for step, attempt in enumerate(attempts):
        assert trained[step] >= (step + 1) * 120 or attempt == 3
    first = lines_of(tmp_path)[0]["metrics"]
    assert first["groups"] == 3 * (attempts[0] + 1)


# --- kill and resume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", BROKEN, ids=str)
@pytest.mark.parametrize("every", [True, False], ids=["saved each step", "saved when kept"])
def test_a_broken_stage_goes_on_alike(taught, tmp_path, monkeypatch, cut, every):
    broken_at, changed = cut
    settings = office.change(SETTINGS, **changed)
    whole = train(taught, tmp_path / "whole", Draw(taught, settings=settings), settings, save_at=(2, 6))
    if every:
        monkeypatch.setattr(loop_module, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        draw = Draw(taught, settings=settings, broken_at=broken_at)
        train(taught, tmp_path / "cut", draw, settings, save_at=(2, 6))
    again = Draw(taught, settings=settings)
    results = train(taught, tmp_path / "cut", again, settings, save_at=(2, 6))
    done = broken_at - settings.lag  # the step that drew when it broke
    # With each step saved, nothing that was drawn is drawn again but what the last, unsaved step needs.
    expected = done if every else 2 if done >= 2 else 0
    first = expected + (settings.lag if expected else 0)
    assert min(number for number, *_ in again.seen) == first
    for name in ("train.jsonl", "rollouts.jsonl"):
        assert lines_of(tmp_path / "cut", name) == lines_of(tmp_path / "whole", name)
    for one, other in zip(results, whole, strict=True):
        assert (one.tokens, one.losses, one.examples) == (other.tokens, other.losses, other.examples)
        mine, theirs = read_weights(one.path), read_weights(other.path)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_stage_without_what_it_goes_on_with_is_refused(taught, tmp_path):
    settings = office.change(SETTINGS, lag=2)
    with pytest.raises(KeyboardInterrupt):
        draw = Draw(taught, settings=settings, broken_at=5)
        train(taught, tmp_path, draw, settings, save_at=(2, 6))
    pending = tmp_path / "log" / "pending"
    assert {path.name for path in pending.iterdir()} == {"step-000002.json", "step-000003.json", "step-000004.json"}
    (pending / "step-000003.json").write_text((pending / "step-000003.json").read_text()[:50])
    with pytest.raises(StoreError, match=r"goes on with the rollouts of step-000003.json, which cannot be read"):
        train(taught, tmp_path, Draw(taught, settings=settings), settings, save_at=(2, 6))
    with pytest.raises(StoreError, match="other settings"):
        other = office.change(settings, learning_rate=1e-3)
        train(taught, tmp_path, Draw(taught, settings=other), other, save_at=(2, 6))


# --- nothing to learn from ---------------------------------------------------------------------------------------


def constant(chat: TinyChat, ids: tuple[int, ...]) -> float:
    return 3.0


def test_rewards_that_never_differ_stop_a_stage(taught, tmp_path):
    with pytest.raises(
        StepError,
        match=r"step 6: all rewards are equal in 18 groups of 6 rollouts \(reward 3.0\): there is nothing to learn",
    ):
        train(taught, tmp_path, Draw(taught, reward=constant))
    lines = lines_of(tmp_path)
    assert len(lines) == 5 and all(line["metrics"]["skipped_groups"] == 3 for line in lines)
    assert all(
        line["metrics"]["gradient_tokens"] == line["metrics"]["loss"] == line["gradient_norm"] == 0 for line in lines
    )


def test_a_step_of_equal_rewards_changes_no_weight_and_counts(taught, tmp_path):
    """From the third step on all rewards are equal."""
    draw = Draw(taught)
    draw.reward = lambda chat, ids: says_words(chat, ids) if len(draw.seen) < 3 else 1.0
    results = train(taught, tmp_path, draw, save_at=(2, 6))
    assert results[0].tokens == results[1].tokens > 0 and results[1].steps == 6
    one, other = (read_weights(result.path) for result in results)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["metrics"]["skipped_groups"] for line in lines_of(tmp_path)][2:] == [3.0] * 4


def test_rollouts_without_a_reward_are_left_out(taught, tmp_path):
    def sometimes(chat: TinyChat, ids: tuple[int, ...]) -> float | None:
        return None if len(ids) == 2 else says_words(chat, ids)

    draw = Draw(taught, reward=sometimes)
    (result,) = train(taught, tmp_path, draw)
    lines = [line["metrics"] for line in lines_of(tmp_path)]
    missing = [sum(item.reward is None for item in draw.made[number, 0]) for number in range(6)]
    assert [line["unscored"] for line in lines] == missing and 0 < sum(missing) < 100
    assert result.examples == 6 * 18 - sum(missing)
    told = [line for line in lines_of(tmp_path, "rollouts.jsonl") if line["reward"] is None]
    assert sum(line["count"] for line in told) == sum(missing) and all(line["skipped"] for line in told)
    with pytest.raises(StepError, match=r"step 1: none of 3 groups has two rollouts with a reward .*nothing said"):
        train(taught, tmp_path / "none", Draw(taught, reward=lambda *_: None))


# --- stored rollouts ---------------------------------------------------------------------------------------------


@pytest.fixture
def stored(taught):
    """Rollouts of the base, scored under it."""
    settings = office.change(SETTINGS, prompts_per_step=6, group_size=16)
    draw, policy = Draw(taught, settings=settings), open_policy(taught)
    items = draw(policy, 0, 0)
    values = score_all(policy, [score_picked("one", item.encoded, "agent") for item in items], 10_000)
    return [replace(item, sampled=value) for item, value in zip(items, values, strict=True)]


@pytest.mark.parametrize("method", ["grpo", "best_sft", "best_dpo"])
def test_stored_rollouts_are_learnt_from_and_resumed(taught, tmp_path, stored, method, monkeypatch):
    settings = office.change(
        SETTINGS, method=method, rollouts="start", steps=8, group_size=2, prompts_per_step=2, kl_weight=0.01
    )
    told = {"seed": 3, "groups": stored}
    (whole,) = train_on_rewards(
        taught, settings, save_at=(8,), out_dir=tmp_path / "out", folder=tmp_path / "log", **told
    )
    lines = lines_of(tmp_path)
    assert lines[-1]["metrics"]["log_ratio"] > 1e-3 and lines[-1]["metrics"]["ess"] < 1
    assert whole.tokens == sum(line["metrics"]["gradient_tokens"] for line in lines) > 0
    told_of = lines_of(tmp_path, "rollouts.jsonl")
    own = [sum(line["count"] for line in told_of if line["step"] == step + 1) for step in range(8)]
    if method == "best_sft":
        assert own == [4] * 8  # as many as the completions of a step
        best_of = {item.case_id: item.reward for item in sorted(stored, key=lambda item: item.reward)}
        assert all(line["reward"] == best_of[line["case"]] for line in told_of)
    assert all(count > 1 for count in own)
    assert (len(whole.accuracies) == 8) == (method == "best_dpo")
    # The best of each group are what it becomes likelier to say.
    policy = open_policy(whole.path)
    best = [item for item in stored if item.reward == max(one.reward for one in stored if one.group == item.group)]
    after = score_all(policy, [score_picked("one", item.encoded, "agent") for item in best], 10_000)
    before = [item.sampled.sum() for item in best]
    if method != "best_dpo":
        assert np.mean([value.sum() for value in after]) > np.mean(before)
    cut = tmp_path / "cut"
    for last in (4, 8):
        (again,) = train_on_rewards(
            taught,
            settings,
            save_at=(last,) if last == 4 else (4, 8),
            out_dir=cut / "out",
            folder=cut / "log",
            **told,
        )[-1:]
    assert lines_of(cut, "rollouts.jsonl") == told_of
    assert lines_of(cut) == lines and again.losses == whole.losses and again.tokens == whole.tokens
    mine, theirs = read_weights(again.path), read_weights(whole.path)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.usefixtures("in_64_bits")
def test_stored_rollouts_of_the_start_are_its_own(taught, tmp_path, stored):
    """Before the first update every weight is 1."""
    policy, settings = open_policy(taught), office.change(SETTINGS, rollouts="start", steps=1, group_size=2)
    values = score_all(policy, [score_picked("one", item.encoded, "agent") for item in stored], 10_000)
    own = [replace(item, sampled=value) for item, value in zip(stored, values, strict=True)]
    train_on_rewards(
        taught, settings, save_at=(1,), out_dir=tmp_path / "out", folder=tmp_path / "log", seed=3, groups=own
    )
    (line,) = lines_of(tmp_path)
    assert line["metrics"]["log_ratio"] == pytest.approx(0, abs=EXACT)
    assert line["metrics"]["ess"] == pytest.approx(1, rel=EXACT)


# --- sampling from weights under training ------------------------------------------------------------------------


def ask(conversation: Conversation, place: int) -> Ask:
    return Ask(
        speaker="agent",
        conversation=conversation,
        temperature=1.0,
        max_tokens=8,
        rng=np.random.default_rng(place),
    )


def assert_samples_itself(policy: Any, talks: list[Conversation], chat: Any) -> None:
    """Log-probabilities of sampling are those of training; a nudge of the weights changes both."""
    policy.set_training(True)
    found = []
    for nudge in (0.0, 0.05):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(8)
            for weight in policy.trainable():
                weight.add_(nudge * torch.randn(weight.shape, generator=generator))
        replies = policy.sampler().reply([ask(talk, place) for place, talk in enumerate(talks)])
        sequences = []
        for talk, reply in zip(talks, replies, strict=True):
            prompt = chat.prompt_ids(talk) if hasattr(chat, "prompt_ids") else chat.encode(talk.messages, talk.tools)[0]
            ids = np.array([*prompt, *reply.ids], np.int64)
            assert len(reply.ids) == reply.tokens > 0
            picked = Encoded(ids=ids, agent=np.arange(len(ids)) >= len(prompt), prompt=len(prompt))
            sequences.append(score_picked("reply", picked, "agent"))
        policy.set_training(False)
        values = score_all(policy, sequences, 10_000)
        policy.set_training(True)
        for reply, value in zip(replies, values, strict=True):
            assert reply.logprob == pytest.approx(float(value.sum()), rel=EXACT)
        found.append([reply.logprob for reply in replies])
    assert found[0] != found[1]


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("opened", [open_policy, HubModel, lambda base: HubModel(base, lora_r=2, lora_dropout=0.5)])
def test_a_tiny_policy_samples_itself(taught, opened):
    talks = [Conversation(messages=office.opening(thing), tools=office.TOOLS) for thing in office.THINGS]
    assert_samples_itself(opened(taught), talks, TinyChat.load(taught))


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize(
    ("architecture", "lora_r"),
    [
        ("qwen2", 2),
        *(pytest.param(*other, marks=pytest.mark.full) for other in (("qwen2", 0), ("llama", 0), ("llama", 2))),
    ],
)
def test_a_hub_policy_samples_itself(tmp_path, architecture, lora_r):
    pytest.importorskip("transformers")
    from holdfast.models.hub.chat import HubChat

    base = make_base(tmp_path / "base", architecture=architecture)
    policy = HubModel(base, lora_r=lora_r, lora_dropout=0.5 if lora_r else 0.0)
    # Prompts of different lengths, so that rows have gaps.
    talks = [
        Conversation(messages=(OPENING[0], replace(OPENING[1], content="What is tea?" * count))) for count in (1, 4, 2)
    ]
    assert_samples_itself(policy, talks, HubChat(base))
    probe = [score_picked("probe", Encoded(ids=np.arange(3, 20), agent=np.ones(17, bool), prompt=2), "agent")]
    if lora_r:
        policy.set_training(False)
        with policy.without_adapter():
            (off,) = score_all(policy, probe, 100)
        (on,), (start,) = score_all(policy, probe, 100), score_all(HubModel(base), probe, 100)
        assert np.abs(off - start).max() < EXACT and np.abs(on - start).max() > 1e-3
