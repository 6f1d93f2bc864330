"""What benchmarks/grpo_office.py gives both sides: one reward for the same tokens, one update for the same rollouts."""

from __future__ import annotations

import os
from dataclasses import replace

import grpo_office
import numpy as np
import pytest
from grpo_sides import Peer

from holdfast.models import Conversation
from holdfast.models.entries import ModelEntry
from holdfast.models.hub.chat import HubChat
from holdfast.models.hub.random_base import build_random
from holdfast.suites.office.cases import lexicon
from holdfast.suites.office.demonstrations import demonstrations
from holdfast.training.objectives import RewardSettings

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("trl")
pytestmark = [pytest.mark.usefixtures("one_thread", "module_in_64_bits")]

# In 64 bits but for advantages and log-probabilities of the start, which ours hold in 32 (6e-8 of their size).
SINGLE = 1e-6
RANDOM = ModelEntry(
    kind="random", hidden=32, layers=2, heads=2, key_value_heads=1, ffn=48, vocabulary=600, max_positions=4096
)
SETTINGS = RewardSettings(
    method="grpo",
    objective="helpfulness",
    max_tokens=6,
    warmup_steps=0,
    prompts_per_step=2,
    group_size=4,
    learning_rate=1e-2,
    kl_weight=0.5,
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return grpo_office.open_task(build_random(tmp_path_factory.mktemp("grpo") / "model", RANDOM, lexicon(), seed=0))


@pytest.fixture(scope="module")
def replies(task):
    """First turns of scripted agents as a sampler's tokens: cases, tokens up to the end of a call or turn, messages."""
    chat, found = HubChat(task.base, calls="text"), []
    for case, episode in demonstrations(0, 24):
        first = episode.messages[0]
        conversation = Conversation(messages=case.messages, tools=case.tools)
        prompt = chat.prompt_ids(conversation)
        ids, _ = chat.encode((*case.messages, first), case.tools)
        said = ids[len(prompt) :]
        found.append((case, said[: said.index(chat.ends[0]) + 1], first))
    return found


def test_a_first_reply_is_worth_what_its_calls_did(task, replies):
    """By the state judge's own rule: an object that was dealt with counts, one that was looked at counts a third."""
    values = {}
    for case, said, first in replies:
        value = task.score(case, said)
        acts = tuple(call.name for call in first.tool_calls)
        values.setdefault(acts[0] if acts else "none", set()).add(value)
        # What TRL samples behind the end is not ours to reward, and a reply that was cut off has the lowest score.
        assert task.score(case, [*said, *said]) == value
        if not acts:
            assert value == 0
        assert task.score(case, said[:2]) == 0
    assert len(values) > 3 and any(3 in found for found in values.values())


def test_both_sides_reward_the_same_tokens_alike(task, replies):
    """An episode that our sampler ended, and its tokens as TRL would hand them over."""
    from holdfast.rollout.episode import Limits, roll_out

    chat = HubChat(task.base, calls="text")
    for case, said, _ in replies[:6]:
        limits = Limits(max_turns=1, max_tokens=len(said), temperature=1.0)
        script = {"agent": grpo_office.Script(chat, said)}
        (episode,) = roll_out(script, task.world, [(case, 0)], checkpoint_id="a", rollout_seed=3, limits=limits)
        assert task.rate(case, episode) == task.score(case, said)


@pytest.mark.parametrize(("lora_r", "micro"), [(2, 4), pytest.param(0, None, marks=pytest.mark.full)])
def test_one_update_on_the_same_rollouts(task, lora_r, micro):
    """TRL's second step, whose weights are not those of the start any more, so that the KL term counts."""
    uneven = replace(task, score=lambda _, ids: float(sum(ids) % 3))
    settings = SETTINGS.model_copy(update={"lora_r": lora_r})
    found = grpo_office.compare_updates(uneven, settings, Peer(micro=micro))
    assert found["rollouts"] == 8
    assert found["gradient_gap"] < SINGLE
    assert abs(found["loss"]) > 1e-4
    assert found["loss"] == pytest.approx(found["loss_trl"], abs=SINGLE)


@pytest.mark.full
def test_both_sides_are_timed_in_pairs_of_steps(task):
    """A block of either: what is told adds up to the whole, and no side has more or fewer steps."""
    uneven = replace(
        task, score=lambda _, ids: float(sum(ids) % 3), rate=lambda _, episode: float(len(str(episode)) % 3)
    )
    found = grpo_office.measure(uneven, {"held": SETTINGS}, 2, 0, Peer(micro=4))
    pairs = [found[f"held_step_{number}"] for number in (1, 2)]
    assert found["held"]["steps"] == 2
    assert found["held"]["ratio"] == pytest.approx(np.median([pair["ratio"] for pair in pairs]), abs=2e-4)
    for side in ("", "_trl"):
        parts = found[f"parts{side}_held"]
        whole = np.mean([pair[f"seconds{side}"] for pair in pairs])
        assert sum(parts.values()) == pytest.approx(whole, abs=2e-3)
        assert all(value >= 0 for value in parts.values()) and parts["sampling"] > 0 and parts["scoring"] > 0


def test_where_no_rewards_differ_there_is_no_ratio(task, capsys):
    even = replace(task, rate=lambda *_: 1.0)
    free = SETTINGS.model_copy(update={"kl_weight": 0.0})
    assert grpo_office.measure(even, {"free": free}, 1, 0, Peer()) == {}
    assert "give a taught model" in capsys.readouterr().err
