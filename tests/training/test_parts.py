"""A step's parts add up: any budget of tokens gives the same loss, metrics and gradients."""

from __future__ import annotations

import dataclasses
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from builders.tree_samples import SEQUENCES, draw_adapter, load_plain, plain_logps, towards, tree_logps
from rounding import EXACT, apart

from holdfast.records import PreferencePair
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded
from holdfast.training.loop.passes import descend
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import HubModel, open_policy
from holdfast.training.trees.parts import TokenPart, demonstration_step, group_step, pair_step
from holdfast.training.trees.trees import partition

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.usefixtures("one_thread", "in_64_bits")
# peft asks transformers by a name that transformers is about to drop.


def make_pairs(seed=0):
    """Three cases of pairs among trajectories that share a prompt and more, with weights."""
    rng = np.random.default_rng(seed)
    pairs, encoded = [], {}
    for case in "abc":
        opening = rng.integers(3, 61, 14)
        stems = [np.concatenate([opening, rng.integers(3, 61, 6)]) for _ in range(2)]
        for number in range(5):
            ids = np.concatenate([stems[number % 2], rng.integers(3, 61, rng.integers(4, 12))])
            encoded[f"{case}{number}"] = Encoded(ids=ids, agent=rng.random(len(ids)) < 0.8, prompt=14)
        for one, other in pairwise(range(5)):
            pairs.append(
                PreferencePair(
                    case_id=case,
                    chosen=f"{case}{one}",
                    rejected=f"{case}{other}",
                    objectives=("safety",),
                    judge="test",
                    gap=1.0,
                    weight=float(rng.uniform(0.5, 2)),
                )
            )
    return pairs, encoded


PAIRS, ENCODED = make_pairs()
OBJECTIVES = [
    StageSection(objective="safety", beta=0.2, sft_weight=0.3, label_smoothing=0.1),
    StageSection(objective="safety", beta=0.2, loss="ipo"),
    StageSection(objective="safety", beta=0.2, loss="hinge", length_normalized=True),
]


def steps_to_take():
    reference = {name: -40.0 - number for number, name in enumerate(sorted(ENCODED))}
    found = {objective.loss: pair_step(PAIRS, ENCODED, reference, objective) for objective in OBJECTIVES}
    found["sft"] = demonstration_step(list(ENCODED.values()), 0.25)
    counts = [int((item.weights > 0).sum()) for item in SEQUENCES]
    found["group"] = group_step(
        SEQUENCES,
        towards(len(SEQUENCES)).numpy(),
        settings=RewardSettings(method="grpo", kl_weight=0.1, loss="grpo"),
        sampled=[np.full(count, -4.0, np.float32) for count in counts],
        reference=[np.full(count, -4.5, np.float32) for count in counts],
    )
    return found


STEPS = steps_to_take()


def take(policy, step, budget):
    """A step's loss, metrics, gradients and work."""
    for weight in policy.trainable():
        weight.grad = None
    found = [descend(policy, part, budget) for part in step.parts(budget)]
    metrics = {name: sum(descent.metrics[name] for descent in found) for name in found[0].metrics}
    work = found[0].work
    for descent in found[1:]:
        work += descent.work
    return sum(descent.loss for descent in found), metrics, [weight.grad for weight in policy.trainable()], work


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("budget", [41, 90, 150])
def test_a_budget_changes_only_rounding(tiny_dir, name, budget):
    """At 41 tokens a case is cut, at 90 cases part ways, at 150 some go together."""
    policy = open_policy(tiny_dir)
    loss, metrics, whole, work = take(policy, STEPS[name], 10_000)
    cut_loss, cut_metrics, cut, cut_work = take(policy, STEPS[name], budget)
    assert cut_loss == pytest.approx(loss, rel=EXACT)
    assert cut_metrics == pytest.approx(metrics, rel=EXACT, abs=EXACT)
    assert apart(cut, whole) < EXACT
    assert cut_work.plain == work.plain and cut_work.scored == work.scored
    if name != "sft":
        assert cut_work.tokens > work.tokens or budget > 41
    assert work.tokens < work.plain


def test_a_case_is_one_part_however_small_the_budget():
    parts = STEPS["sigmoid"].parts(10)
    assert [sorted(item.name[len("trajectory ")] for item in part.sequences) for part in parts] == [
        ["a"] * 5,
        ["b"] * 5,
        ["c"] * 5,
    ]
    assert len(STEPS["sigmoid"].parts(10_000)) == 1 and len(STEPS["sigmoid"].parts(150)) == 2


def test_cut_passes_have_one_dropout(llama_dir):
    """Both passes over a group see the same weights dropped: the gradient is that of the loss that is reported."""
    (part,) = STEPS["sigmoid"].parts(10_000)
    policy = HubModel(llama_dir, lora_r=3, lora_dropout=0.4)
    draw_adapter(policy.trainable())
    policy.set_training(True)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        found = descend(policy, part, 45)
        gradient = [weight.grad.clone() for weight in policy.trainable()]
        after = torch.get_rng_state()
        # The same by hand, with the graphs of all groups kept until the loss.
        torch.manual_seed(4)
        logps = score_with_graph(policy, part.sequences, 45)
        assert torch.equal(torch.get_rng_state(), after)
        owner = torch.repeat_interleave(torch.tensor([len(piece) for piece in logps]))
        loss, _ = part.loss(torch.cat(logps), owner)
        torch.manual_seed(5)
        other = descend(policy, part, 45)
    assert found.loss == pytest.approx(loss.item(), rel=EXACT)
    assert other.loss != found.loss
    assert apart(gradient, torch.autograd.grad(loss, policy.trainable())) < EXACT


def score_with_graph(policy, sequences, budget):
    found = [None] * len(sequences)
    for group in partition([item.ids for item in sequences], budget):
        members = [sequences[number] for number in group]
        counts = [int((item.weights > 0).sum()) for item in members]
        for number, piece in zip(group, torch.split(tree_logps(policy, members), counts), strict=True):
            found[number] = piece
    return found


def test_demonstrations_weigh_by_token(tiny_dir):
    """Equal demonstrations count each time, and the first token never."""
    policy = open_policy(tiny_dir)
    items = [ENCODED["a0"], ENCODED["a0"], ENCODED["b1"]]
    step = demonstration_step(items, 0.25)
    loss, *_ = take(policy, step, 10_000)
    plain = load_plain(tiny_dir)
    spent = weighed = 0.0
    for item in items:
        weights = np.where(item.agent, 1.0, 0.25)[1:]
        whole = dataclasses.replace(SEQUENCES[0], ids=item.ids, weights=np.r_[0, weights].astype(np.float32))
        with torch.no_grad():
            spent -= float((plain_logps(plain, [whole]).numpy() * weights).sum())
        weighed += weights.sum()
    assert loss == pytest.approx(spent / weighed, rel=EXACT)
    # Equal ones are one path of a tree, so they need no room twice.
    assert isinstance(step.parts(10_000)[0], TokenPart) and len(step.parts(30)) == 2


def test_cases_that_open_alike_fit_together() -> None:
    """A budget counts what cases share once."""
    opening = np.random.default_rng(0).integers(3, 61, 50)
    pairs, encoded = [], {}
    for number, case in enumerate("abcd"):
        for side in "xy":
            ids = np.concatenate([opening, np.full(10, 3 + 2 * number + (side == "y"))])
            encoded[case + side] = Encoded(ids=ids, agent=np.arange(len(ids)) >= 50, prompt=50)
        pairs.append(dataclasses.replace(PAIRS[0], case_id=case, chosen=case + "x", rejected=case + "y"))
    stage, reference = OBJECTIVES[0], dict.fromkeys(encoded, 0.0)
    sizes = [len(pair_step(pairs, encoded, reference, stage).parts(budget)) for budget in (130, 129, 70, 60)]
    assert sizes == [1, 2, 4, 4]
