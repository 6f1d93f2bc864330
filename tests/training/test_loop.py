"""The loop does what its settings say, fits its steps into memory, and stops before it does harm."""

from __future__ import annotations

import math
import os

import pytest
import torch
from builders import tiny_office as office
from builders.loop_samples import SETTINGS, logs_of, open_adapted, play, same, weights_of
from rounding import EXACT, apart

from holdfast.models.tiny.chat import TinyChat
from holdfast.records.errors import StepError, StudyError
from holdfast.study.stages import StageSection
from holdfast.training.loop import loop as rooms
from holdfast.training.loop.loop import Loop, is_out_of_memory, isolated, rate_at
from holdfast.training.policy.adapters import open_policy
from holdfast.training.trees.parts import demonstration_step

os.environ["HF_HUB_OFFLINE"] = "1"
# peft asks transformers by a name that transformers is about to drop.


# --- what a step does


def test_rates_follow_the_schedule():
    def rates(schedule):
        settings = StageSection(
            objective="safety", steps=10, learning_rate=1.0, warmup_steps=4, max_grad_norm=1.0, schedule=schedule
        )
        return [rate_at(settings, step) for step in range(10)]

    assert rates("constant") == [0.25, 0.5, 0.75, *[1.0] * 7]
    assert rates("linear") == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    half = [0.5 * (1 + math.cos(math.pi * done / 6)) for done in range(6)]
    assert rates("cosine") == pytest.approx([0.25, 0.5, 0.75, 1.0, *half])
    no_warmup = StageSection(
        objective="safety", steps=4, learning_rate=2.0, warmup_steps=0, max_grad_norm=1.0, schedule="linear"
    )
    assert [rate_at(no_warmup, step) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]


@pytest.mark.usefixtures("in_64_bits")
def test_updates_are_those_of_adamw(loop_base, loop_steps):
    """Gradients of the step, clipped, into AdamW at the scheduled rate."""
    policy, plain = open_policy(loop_base), open_policy(loop_base)
    with isolated(0):
        _, logs = play(policy, loop_steps, until=3)
        optimizer = torch.optim.AdamW(plain.trainable(), lr=1.0, weight_decay=0.01)
        for number, step in enumerate(loop_steps[:3]):
            optimizer.zero_grad()
            loss = 0.0
            for part in step.parts(10_000):
                loss += rooms.descend(plain, part, 10_000).loss
            norm = torch.nn.utils.clip_grad_norm_(plain.trainable(), 0.5)
            assert float(norm) > 0.5  # so clipping does something
            optimizer.param_groups[0]["lr"] = rate_at(SETTINGS, number)
            optimizer.step()
            assert logs[number].metrics["loss"] == pytest.approx(loss, rel=EXACT)
            assert logs[number].gradient_norm == pytest.approx(float(norm), rel=EXACT)
            assert logs[number].learning_rate == rate_at(SETTINGS, number)
    assert apart(policy.trainable(), plain.trainable()) < EXACT


def test_every_step_is_logged(loop_base, loop_steps, tmp_path):
    loop, logs = play(open_policy(loop_base), loop_steps, tmp_path)
    assert [log.step for log in logs] == list(range(1, 9))
    lines = logs_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 9)) and {line["seed"] for line in lines} == {7}
    for line, log in zip(lines, logs, strict=True):
        assert line["metrics"] == log.metrics and set(line["metrics"]) == {"loss", "accuracy", "margin"}
        assert (line["examples"], line["token_budget"]) == (4, SETTINGS.token_budget)
        assert line["gradient_norm"] == log.gradient_norm and line["learning_rate"] == log.learning_rate
        assert 0 < line["work"]["scored"] < line["work"]["tokens"] < line["work"]["plain"]
        assert line["cpu_seconds"] > 0
    history = loop.history
    assert (history.position, history.examples) == (8, 32)
    assert history.scored == sum(log.work.scored for log in logs)
    assert history.losses == [log.metrics["loss"] for log in logs]
    assert history.accuracies == [log.metrics["accuracy"] for log in logs]


def test_a_loop_ends_with_its_settings(loop_base, loop_steps):
    _, logs = play(open_policy(loop_base), loop_steps, settings=office.change(SETTINGS, steps=2), until=99)
    assert len(logs) == 2


def test_isolation_puts_back_threads_and_generator():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with isolated(3):
        assert torch.get_num_threads() == 1
        first = torch.rand(3)
    with isolated(3):
        assert torch.equal(torch.rand(3), first)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


# --- stopping


def poison(policy, at):
    def on_step(log):
        if log.step == at:
            with torch.no_grad():
                policy.trainable()[-1].view(-1)[0] = float("inf")

    return on_step


def test_a_loss_that_is_not_finite_changes_nothing(loop_base, loop_steps, tmp_path):
    policy = open_policy(loop_base)
    with pytest.raises(StepError, match=r"step 4: loss nan, .*; the weights after step 3 are in .*state"):
        play(policy, loop_steps, tmp_path, on_step=poison(policy, 3))
    good = open_policy(loop_base)
    play(good, loop_steps, until=3)
    # All but the poisoned weight are those after step 3, in memory and in what was saved.
    again = open_policy(loop_base)
    loop = Loop(again, SETTINGS, seed=7, folder=tmp_path)
    assert loop.history.position == 3 and len(logs_of(tmp_path)) == 3
    for found in (weights_of(policy), weights_of(again)):
        unequal = [int((one != other).sum()) for one, other in zip(found, weights_of(good), strict=True)]
        assert unequal == [0] * (len(found) - 1) + [1]


def test_a_rate_that_is_too_high_stops(loop_base, loop_steps):
    wild = office.change(SETTINGS, learning_rate=float("1e38"), warmup_steps=0)
    with pytest.raises(StepError, match=r"training, step \d: loss .*lower learning_rate$"):
        play(open_policy(loop_base), loop_steps, settings=wild)


# --- memory


class Cramped:
    """A real policy on a device that has room for so many tokens."""

    def __init__(self, policy, room):
        self._policy, self.room, self.sizes = policy, room, []

    def __getattr__(self, name):
        return getattr(self._policy, name)

    def logprobs(self, packed):
        # Memory runs out late: random numbers have been drawn by then.
        found = self._policy.logprobs(packed)
        if packed.ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes.append(packed.ids.numel())
        return found


@pytest.mark.usefixtures("in_64_bits")
def test_a_step_that_does_not_fit_is_cut(loop_base, loop_steps):
    settings = office.change(SETTINGS, token_budget=160)
    roomy, cramped = open_policy(loop_base), Cramped(open_policy(loop_base), 45)
    _, whole = play(roomy, loop_steps, settings=settings)
    loop, logs = play(cramped, loop_steps, settings=settings)
    assert [log.token_budget for log in whole] == [160] * 8
    assert [log.token_budget for log in logs] == [40] * 8 and loop.history.token_budget == 40
    assert max(log.work.tokens for log in whole) > 45 >= max(cramped.sizes)
    assert apart(weights_of(cramped), weights_of(roomy)) < EXACT
    assert [log.metrics["loss"] for log in logs] == pytest.approx([log.metrics["loss"] for log in whole], rel=EXACT)


def test_a_step_done_again_drops_the_same(loop_base, loop_steps):
    """The numbers after running out of memory are those of the smaller budget from the start."""
    found = []
    for budget, room in ((80, 10_000), (160, 80)):
        with isolated(1):
            policy = Cramped(open_adapted(loop_base), room)
            play(policy, loop_steps, settings=office.change(SETTINGS, token_budget=budget))
            found.append(weights_of(policy))
    assert same(*found)


def test_a_halved_budget_is_resumed(loop_base, loop_steps, tmp_path):
    settings = office.change(SETTINGS, token_budget=160)
    play(Cramped(open_policy(loop_base), 45), loop_steps, tmp_path, settings=settings, until=3, keep_at=(3,))
    loop = Loop(open_policy(loop_base), settings, seed=7, folder=tmp_path)
    assert loop.history.token_budget == 40


def test_a_sequence_that_does_not_fit_stops(loop_base, loop_steps):
    with pytest.raises(StepError, match=r"step 1: out of memory with \d+ tokens at once, and a sequence of \d+ cannot"):
        play(Cramped(open_policy(loop_base), 20), loop_steps)


def test_a_later_sequence_may_be_longer_than_a_halved_budget(loop_base):
    """The budget that memory asked for is of trees; a sequence that fits by itself is still taken."""
    encoded = office.preferences(TinyChat.load(loop_base))[1]
    short = [encoded[f"{thing}/refusing"] for thing in office.THINGS]
    long = [encoded["memo/careful"]]
    size = len(long[0].ids)
    assert size > 1.2 * len(short[0].ids)
    settings = office.change(SETTINGS, token_budget=2 * size - 2)
    policy = Cramped(open_policy(loop_base), size)
    _, logs = play(policy, [demonstration_step(short, 0.1), demonstration_step(long, 0.1)], settings=settings)
    assert [log.token_budget for log in logs] == [size - 1] * 2 and policy.sizes[-1] == size


def test_a_sequence_above_the_budget_is_refused(loop_base, loop_steps):
    with pytest.raises(StudyError, match=r"trajectory .*/careful: .* above token_budget 30"):
        play(open_policy(loop_base), loop_steps, settings=office.change(SETTINGS, token_budget=30))


def test_other_errors_go_through(loop_base, loop_steps, monkeypatch):
    policy = open_policy(loop_base)
    monkeypatch.setattr(policy, "logprobs", lambda packed: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        play(policy, loop_steps)


def test_what_running_out_of_memory_looks_like():
    with pytest.raises(RuntimeError) as host:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(host.value) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError()) and not is_out_of_memory(RuntimeError("size mismatch"))
