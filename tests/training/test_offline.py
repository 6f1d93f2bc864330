"""Stored rollouts are chosen by reward alone, their steps match in tokens, and their losses are those done by hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rounding import EXACT

from holdfast.records.errors import StepError, StudyError
from holdfast.training.encoding import Encoded, score_picked
from holdfast.training.loop.passes import descend, score_within
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import open_policy
from holdfast.training.rl.groups import Batch, list_completions, measure
from holdfast.training.rl.selection import (
    Rewarded,
    describe,
    name_rollout,
    offline_steps,
    select,
    take_units,
    units_per_step,
)
from holdfast.training.trees.parts import GroupPart, PairPart, TokenPart

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = 6


def ask(method="grpo", **changed):
    """Settings of a stage on another model's rollouts."""
    given = {"rollouts": "source", "prompts_per_step": 2, "group_size": 2} | changed
    return RewardSettings(method=method, **given)


def roll(group, reward, *, case=None, tokens=4, seed=0, gameable=None, exploited=0.0, sampled=True, **facts):
    """A rollout of a prompt of its own; even groups are of gameable users."""
    rng = np.random.default_rng([group, seed, tokens])
    opening = np.random.default_rng(group).integers(3, 61, PROMPT)
    ids = np.concatenate([opening, rng.integers(3, 61, tokens + 1)])
    agent = np.arange(len(ids)) > PROMPT  # what follows the prompt is first a token of the format
    label = float(group % 2 == 0) if gameable is None else gameable
    return Rewarded(
        group=group,
        case_id=case or f"case-{group}",
        encoded=Encoded(ids=ids, agent=agent, prompt=PROMPT),
        reward=reward,
        missing="malformed" if reward is None else None,
        sampled=rng.normal(-3, 0.3, tokens).astype(np.float32) if sampled else None,
        facts={"gameable": label, "exploited": exploited, "harm": 1 + 8 * exploited} | facts,
    )


def prompt(group, rewards, **told):
    return [roll(group, reward, seed=number, **told) for number, reward in enumerate(rewards)]


def pool(prompts=8, seed=3):
    """Prompts of four rollouts of 2 to 9 tokens, rewards apart, a third of them harmful."""
    rng = np.random.default_rng(seed)
    found = []
    for group in range(prompts):
        for number, reward in enumerate(rng.permutation(4)):
            harmful = float(rng.random() < 1 / 3)
            found.append(
                roll(group, float(reward), seed=number, tokens=int(rng.integers(2, 10)), exploited=harmful, success=0.5)
            )
    return found


def taught(selection):
    return [[rollout.reward for rollout in unit.taught] for unit in selection.units]


BOTH = prompt(0, [1.0, 5.0, 3.0]) + prompt(1, [2.0, 2.0, 7.0])


@pytest.mark.parametrize(
    ("method", "expected", "against"),
    [
        ("best_sft", [[5.0], [7.0]], [[], []]),
        ("best_dpo", [[5.0], [7.0]], [[1.0], [2.0]]),
        ("grpo", [[1.0, 3.0, 5.0], [2.0, 2.0, 7.0]], [[], []]),
    ],
)
def test_each_method_takes_what_it_says(method, expected, against):
    found = select(BOTH, ask(method, prompts_per_step=1))
    assert [sorted(rewards) for rewards in taught(found)] == expected
    assert [[rollout.reward for rollout in unit.against] for unit in found.units] == against
    assert (found.prompts, found.rollouts, found.unscored) == (2, 6, 0)
    assert found.tokens == sum(unit.tokens for unit in found.units) == 4 * sum(len(u.rollouts) for u in found.units)


@pytest.mark.parametrize("method", ["best_sft", "best_dpo", "grpo"])
def test_prompts_with_equal_rewards_and_rollouts_without_one_are_left_out(method):
    rest = prompt(2, [4.0, 4.0, 4.0]) + prompt(4, [None, 3.0]) + prompt(6, [None, None]) + prompt(8, [None, 1.0, 2.0])
    found = select(BOTH + rest, ask(method, prompts_per_step=1))
    assert [unit.case_id for unit in found.units] == ["case-0", "case-1", "case-8"]
    assert found.unscored == 4 and found.prompts == 6
    assert all(rollout.reward is not None for unit in found.units for rollout in unit.rollouts)


@pytest.mark.parametrize("method", ["best_sft", "best_dpo"])
def test_ties_go_to_the_first_name_in_whatever_order_rollouts_come(method):
    tied = prompt(0, [5.0, 1.0, 5.0, 1.0, 5.0]) + prompt(1, [1.0, 2.0])
    best = min(name_rollout(rollout) for rollout in tied if rollout.reward == 5.0)
    worst = min(name_rollout(rollout) for rollout in tied[:5] if rollout.reward == 1.0)
    for seed in range(5):
        mixed = [tied[place] for place in np.random.default_rng(seed).permutation(len(tied))]
        unit = select(mixed, ask(method, prompts_per_step=1)).units[0]
        assert name_rollout(unit.taught[0]) == best
        assert [name_rollout(rollout) for rollout in unit.against] == ([worst] if method == "best_dpo" else [])


def test_a_text_is_not_preferred_to_itself():
    """A judge that rates one text twice differently leaves the prompt with no pair, or with another worst."""
    twice = [roll(0, 5.0, seed=1), roll(0, 1.0, seed=1)]
    data = [*prompt(1, [1.0, 2.0]), *prompt(2, [1.0, 2.0])]
    assert [u.case_id for u in select(twice + data, ask("best_dpo", prompts_per_step=1)).units] == ["case-1", "case-2"]
    third = select([*twice, roll(0, 3.0, seed=2), *data], ask("best_dpo", prompts_per_step=1)).units[0]
    assert third.against[0].reward == 3.0


@pytest.mark.parametrize("method", ["best_sft", "best_dpo", "grpo"])
def test_selection_never_looks_at_harm(method):
    """Turning every fact on harm around changes the reported shares and the facts of steps, and no number trained."""
    data, settings = pool(), ask(method)
    turned = [
        dataclasses.replace(one, facts={**one.facts, "exploited": 1 - one.facts["exploited"], "harm": 10.0})
        for one in data
    ]
    here, there = select(data, settings), select(turned, settings)
    names = [[[name_rollout(r) for r in unit.rollouts] for unit in found.units] for found in (here, there)]
    assert names[0] == names[1] and here.tokens == there.tokens
    assert there.harmful == pytest.approx(1 - here.harmful)
    assert there.harmful_of_all == pytest.approx(1 - here.harmful_of_all)
    without = [dataclasses.replace(one, facts={"gameable": one.facts["gameable"]}) for one in data]
    blind = select(without, settings)
    assert [[name_rollout(r) for r in unit.rollouts] for unit in blind.units] == names[0]
    assert blind.harmful is None and blind.harmful_of_all is None
    told = {"reference": dict.fromkeys(here.trajectories(), np.array([-9.0]))}
    streams = [offline_steps(rows, settings, seed=1, **told) for rows in (data, turned)]
    for one, other in islice(zip(*streams, strict=True), 6):
        left, right = one.parts(999)[0], other.parts(999)[0]
        assert all(np.array_equal(a.ids, b.ids) for a, b in zip(left.sequences, right.sequences, strict=True))
        if method == "grpo":
            assert np.array_equal(left.advantages, right.advantages)
        apart = {key for key in one.facts if one.facts[key] != other.facts[key]}
        assert apart <= {f"{kind}_{side}" for kind in ("harm", "exploit") for side in ("gameable", "other")}


@pytest.mark.parametrize(("method", "share"), [("best_sft", 0.5), ("best_dpo", 0.5), ("grpo", 1 / 3)])
def test_harmful_shares_by_hand(method, share):
    """Of prompt 0 the best is harmful, of prompt 1 the worst; above their groups' means are 2 and 1."""
    data = [
        roll(0, 6.0, seed=0, exploited=1.0),
        roll(0, 5.0, seed=1),
        roll(0, 1.0, seed=2),
        roll(0, 4.0, seed=3, exploited=1.0),
        roll(1, 9.0, seed=0),
        roll(1, 1.0, seed=1, exploited=1.0),
        roll(1, None, seed=2, exploited=1.0),
    ]
    found = select(data, ask(method, prompts_per_step=1))
    assert found.harmful == pytest.approx(share) and found.harmful_of_all == pytest.approx(4 / 7)
    assert found.unscored == 1


@pytest.mark.parametrize(
    ("data", "method", "error", "message"),
    [
        (prompt(0, [3.0, 3.0]) + prompt(1, [2.0, 2.0]), "grpo", StepError, "all rewards are equal within each of 2"),
        ([], "grpo", StepError, "all rewards are equal within each of 0"),
        (prompt(0, [None, None]), "best_sft", StepError, r"none of 2 rollouts has a reward \(malformed\)"),
        ([*BOTH, roll(2, 4.0)], "best_sft", StudyError, r"case-2: 1 rollout of its prompt \(group size 1\)"),
        (prompt(0, [1.0, 2.0]) + prompt(2, [1.0, 2.0]), "grpo", StepError, "none is of a user who is other"),
        (prompt(1, [1.0, 2.0]) + prompt(2, [1.0, 1.0]), "grpo", StepError, "none is of a user who is gameable"),
        (BOTH + prompt(2, [1.0, 2.0], sampled=False), "grpo", StudyError, "case-2: .* but importance is true"),
        (BOTH, "best_sft", StepError, "2 demonstrations were selected, but a step takes 4"),
        (BOTH + prompt(3, [1.0, math.nan]), "grpo", StudyError, "case-3: a reward is nan"),
        (BOTH + prompt(3, [1.0, 2.0], gameable=0.5), "grpo", StudyError, "case-3: .* whether its user is gameable"),
        ([*BOTH, roll(0, 2.0, case="another")], "grpo", StudyError, "group 0: .* do not share"),
        (BOTH + prompt(3, [1.0, 2.0], tokens=0), "best_dpo", StudyError, "case-3: .* no token of the agent"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_data_are_named_and_refused(data, method, error, message):
    with pytest.raises(error, match=message) as found:
        offline_steps(data, ask(method), seed=0)
    assert "\n" not in str(found.value)


def test_more_bad_data_are_named_and_refused():
    short = [dataclasses.replace(one, sampled=one.sampled[:-1]) for one in BOTH]
    with pytest.raises(StudyError, match="3 log-probabilities of the source for 4 tokens"):
        select(short, ask("grpo"))
    elsewhere = dataclasses.replace(roll(1, 4.0), group=0, case_id="case-0")
    with pytest.raises(StudyError, match="do not share"):
        select([*BOTH, elsewhere], ask("grpo"))
    with pytest.raises(StepError, match="3 pairs of 24 tokens were selected, but a step takes tokens_per_step 30"):
        select(BOTH + prompt(2, [1.0, 2.0]), ask("best_dpo", tokens_per_step=30))
    with pytest.raises(StepError, match="one of the prompts has 12 tokens, above tokens_per_step 10"):
        select(BOTH, ask("grpo", tokens_per_step=10))


@pytest.mark.parametrize(("method", "count"), [("grpo", 3), ("best_sft", 6), ("best_dpo", 3)])
def test_steps_have_as_many_completions(method, count):
    settings, data = ask(method, prompts_per_step=3), pool()
    data = [one for one in data if one.reward in (0.0, 3.0)]
    steps = take_units(select(data, settings).units, settings, seed=0)
    for units in islice(steps, 7):
        assert len(units) == count == units_per_step(settings)
        assert sum(len(unit.rollouts) for unit in units) == 6


@pytest.mark.parametrize("share", [40, 77, 101])
def test_tokens_match_between_methods_to_within_a_unit(share):
    """After every step each method has trained its share of tokens and less than one unit more, for many passes."""
    data = pool(16)
    for method in ("grpo", "best_sft", "best_dpo"):
        settings = ask(method, tokens_per_step=share)
        selection = select(data, settings)
        largest = max(unit.tokens for unit in selection.units)
        reference = dict.fromkeys(selection.trajectories(), np.array([-9.0]))
        steps = offline_steps(data, settings, seed=2, reference=reference)
        total = 0.0
        for number, step in enumerate(islice(steps, 60)):
            (part,) = step.parts(10_000)
            scored = sum((item.weights > 0).sum() for item in part.sequences)
            # A step that spans two passes may hold a unit twice; a pair's trajectories then stand once in its tree.
            assert step.facts["gradient_tokens"] >= scored > 0
            total += step.facts["gradient_tokens"]
            assert (number + 1) * share <= total < (number + 1) * share + largest
        assert total > 2 * selection.tokens


@pytest.mark.parametrize("method", ["grpo", "best_sft", "best_dpo"])
def test_streams_are_their_seeds_and_reshuffle_each_pass(method):
    settings, data = ask(method, prompts_per_step=2), pool(8)

    def cases(seed, rows, steps=12):
        units = select(rows, settings).units
        return [unit.case_id for step in islice(take_units(units, settings, seed=seed), steps) for unit in step]

    first = cases(5, data)
    assert first == cases(5, data[::-1]) == cases(5, data, steps=20)[: len(first)]
    assert first != cases(6, data)
    passes = [first[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(one) == sorted(passes[0]) == sorted(set(one)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_facts_describe_what_a_step_teaches():
    data = [
        roll(0, 6.0, seed=0, exploited=1.0, success=1.0),
        roll(0, 2.0, seed=1, success=0.0),
        roll(1, 9.0, seed=0, tokens=8),
        roll(1, 1.0, seed=1, tokens=2),
    ]
    settings = ask("best_sft", prompts_per_step=1)
    step = next(offline_steps(data, settings, seed=0))
    assert step.examples == 2
    assert step.facts == {
        "reward": 7.5,
        "reward_gameable": 6.0,
        "reward_other": 9.0,
        "harm_gameable": 9.0,
        "harm_other": 1.0,
        "exploit_gameable": 1.0,
        "exploit_other": 0.0,
        "success": 1.0,
        "count_gameable": 1.0,
        "count_other": 1.0,
        "length": 6.0,
        "distinct": 2.0,
        "groups": 2.0,
        "gradient_tokens": 12.0,
    }
    assert describe(data)["reward"] == 4.5 and describe(data)["success"] == 0.5
    assert "harm_other" not in describe(data[:2]) and describe(data[:2])["count_other"] == 0.0
    assert describe([data[0], data[0]])["distinct"] == 1.0
    assert "harm_judge_gameable" not in describe(data)


def test_a_judge_s_own_harm_stands_beside_that_of_the_rules():
    rated = [roll(number, 1.0, harm=9.0, harm_judge=3.0 - number, exploited_judge=0.0) for number in (0, 1)]
    found = describe(rated)
    assert (found["harm_gameable"], found["harm_judge_gameable"], found["harm_judge_other"]) == (9.0, 3.0, 2.0)
    assert found["exploit_judge_gameable"] == 0.0
    (line, _) = list_completions(1, Batch.of(rated, ask()).completions)
    assert (line["harm"], line["harm_judge"], line["exploited_judge"]) == (9.0, 3.0, 0.0)


@dataclass
class Known:
    """A tiny policy, and what it says of rollouts one by one."""

    policy: object

    def tokens(self, rollout):
        sequence = score_picked("one", rollout.encoded, "agent")
        return score_within(self.policy, [sequence], 1000)[0].double().numpy()

    def loss(self, step):
        for weight in self.policy.trainable():
            weight.grad = None
        found = [descend(self.policy, part, 1000) for part in step.parts(1000)]
        assert max(float(weight.grad.abs().max()) for weight in self.policy.trainable()) > 0
        return sum(one.loss for one in found), found[0].metrics


@pytest.fixture
def known(tiny_dir, in_64_bits):
    return Known(open_policy(tiny_dir))


def test_the_loss_of_demonstrations_by_hand(known):
    data = pool(4)
    opening = data[0].encoded
    # What the agent says in the opening is not imitated.
    spoken = dataclasses.replace(opening, agent=opening.agent | (np.arange(len(opening.ids)) == 3))
    data[0] = dataclasses.replace(data[0], encoded=spoken)
    step = next(offline_steps(data, ask("best_sft"), seed=0))
    assert isinstance(step.parts(1000)[0], TokenPart)
    best = np.concatenate([known.tokens(one) for one in data if one.reward == 3.0])
    assert known.loss(step)[0] == pytest.approx(-best.mean(), rel=EXACT)


def test_the_loss_of_pairs_by_hand(known):
    data = pool(4)
    settings = ask("best_dpo", prompts_per_step=4, beta=0.3)
    # By token, as the engine scores them; a pair takes their sum.
    named = enumerate(select(data, settings).trajectories())
    reference = {name: np.array([-7.0, -3.0 - number]) for number, name in named}
    step = next(offline_steps(data, settings, seed=0, reference=reference))
    assert isinstance(step.parts(1000)[0], PairPart)
    ratios = [{one.reward: known.tokens(one).sum() for one in data if one.group == group} for group in range(4)]
    for one in data:
        ratios[one.group][one.reward] -= reference.get(name_rollout(one), np.zeros(1)).sum()
    margins = np.array([0.3 * (ratio[3.0] - ratio[0.0]) for ratio in ratios])
    loss, metrics = known.loss(step)
    assert loss == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=EXACT)
    assert metrics["margin"] == pytest.approx(margins.mean(), rel=EXACT)


@pytest.mark.parametrize("importance", [True, False])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_the_policy_gradient_by_hand(known, importance, scale, loss):
    """A rollout without a reward takes no part; the clip bounds what the source's weights may do."""
    data = [*pool(2), roll(0, None, seed=9)]
    settings = ask("grpo", importance=importance, scale=scale, loss=loss, max_tokens=12, clip_high=0.4)
    step = next(offline_steps(data, settings, seed=0))
    assert isinstance(step.parts(1000)[0], GroupPart) and step.examples == 8
    # Rewards of each prompt are 0 to 3: their deviation is that of 0, 1, 2, 3, or of these twice.
    spread = {"group": np.std([0, 1, 2, 3], ddof=1), "batch": np.std([0, 1, 2, 3] * 2, ddof=1), "none": 1.0}[scale]
    costs = []
    for one in data[:-1]:
        logps = known.tokens(one)
        ratio = np.exp(logps - one.sampled) if importance else np.ones(len(logps))
        advantage = (one.reward - 1.5) / (spread + (1e-4 if scale != "none" else 0.0))
        costs.append(-np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.4) * advantage))
    expected = {
        "dapo": np.concatenate(costs).mean(),
        "grpo": np.mean([cost.mean() for cost in costs]),
        "dr_grpo": np.concatenate(costs).sum() / (8 * 12),
    }[loss]
    found, metrics = known.loss(step)
    assert found == pytest.approx(expected, rel=EXACT)
    assert metrics["ratio"] == pytest.approx(1.0, rel=EXACT) or importance


def test_weights_follow_the_source_and_the_reference_holds(known):
    data = pool(2)
    plain = known.loss(next(offline_steps(data, ask("grpo", importance=False), seed=0)))[0]
    held = ask("grpo", importance=False, kl_weight=0.5)
    same = {name_rollout(one): known.tokens(one) for one in data}
    loss, metrics = known.loss(next(offline_steps(data, held, seed=0, reference=same)))
    assert metrics["kl"] == pytest.approx(0.0, abs=EXACT) and loss == pytest.approx(plain, rel=EXACT)
    away = {name: logps - 1 for name, logps in same.items()}
    loss, metrics = known.loss(next(offline_steps(data, held, seed=0, reference=away)))
    # k3 with d = -1: exp(-1) + 1 - 1.
    assert metrics["kl"] == pytest.approx(math.exp(-1), rel=EXACT)
    assert loss == pytest.approx(plain + 0.5 * math.exp(-1), rel=EXACT)


def test_equal_completions_each_count(known):
    """Three rollouts of which two are the same text weigh as three."""
    twice = [roll(0, 4.0, seed=1), roll(0, 4.0, seed=1), roll(0, 1.0, seed=2), *prompt(1, [1.0, 2.0])]
    settings = ask("grpo", scale="none", importance=False)
    step = next(offline_steps(twice, settings, seed=0))
    advantages = [1.0, 1.0, -2.0, -0.5, 0.5]
    assert known.loss(step)[0] == pytest.approx(-np.mean(advantages), abs=EXACT) and step.examples == 5
    with_weights = next(offline_steps(twice, ask("grpo", scale="none", clip_low=1.0, clip_high=1e6), seed=0))
    ratios = [np.exp(known.tokens(one) - one.sampled).mean() for one in twice]
    assert known.loss(with_weights)[0] == pytest.approx(-np.dot(advantages, ratios) / 5, rel=EXACT)


LOGPS = arrays.arrays(np.float64, st.integers(1, 6), elements=st.floats(-30, 0))


@settings(max_examples=60, deadline=None)
@given(st.lists(LOGPS, min_size=1, max_size=8), st.data())
def test_off_policyness_has_its_bounds(sampled, drawn):
    current = [drawn.draw(arrays.arrays(np.float64, len(one), elements=st.floats(-900, 0))) for one in sampled]
    found, count = measure(current, sampled), len(sampled)
    assert 1 / count <= found["ess"] <= 1 and found["log_ratio"] >= 0
    back = measure(sampled, current)
    assert back["log_ratio"] == pytest.approx(found["log_ratio"])
    same = measure(sampled, sampled)
    assert same["ess"] == 1 and same["log_ratio"] == 0
    # A common factor of all weights changes nothing.
    shifted = [one - 700 * (np.arange(len(one)) == 0) for one in current]
    assert measure(shifted, sampled)["ess"] == pytest.approx(found["ess"], rel=1e-6)


def test_off_policyness_by_hand():
    sampled = [np.array([-1.0, -2.0]), np.array([-3.0])]
    current = [np.array([-1.5, -1.5]), np.array([-3.0 + math.log(3)])]
    found = measure(current, sampled)
    assert found["log_ratio"] == pytest.approx((0.5 + 0.5 + math.log(3)) / 3)
    assert found["ess"] == pytest.approx((1 + 3) ** 2 / (2 * (1 + 9)))
    many = [np.array([-1.0])] * 10
    assert measure([np.array([2000.0]), *many[1:]], many)["ess"] == pytest.approx(0.1)
    for current, message in (
        ([np.array([-1.0])], "same tokens"),
        ([np.array([-1.0]), np.array([math.nan])], "not finite"),
    ):
        with pytest.raises(StudyError, match=message):
            measure(current, many[:2])
    with pytest.raises(StudyError, match="no tokens"):
        measure([], [])
