"""A loop that is broken off anywhere goes on bit by bit, and a state that is not its own is refused."""

from __future__ import annotations

import os
import shutil

import pytest
from builders import tiny_office as office
from builders.loop_samples import SETTINGS, logs_of, open_adapted, open_whole, play, same, timeless, weights_of

from holdfast.records.errors import StoreError
from holdfast.training.loop import loop as rooms
from holdfast.training.loop.loop import Loop, isolated
from holdfast.training.policy.adapters import open_policy

os.environ["HF_HUB_OFFLINE"] = "1"
# peft asks transformers by a name that transformers is about to drop.


@pytest.mark.parametrize("opened", [open_whole, open_adapted])
def test_a_broken_loop_goes_on_bit_by_bit(loop_base, loop_steps, tmp_path, opened, monkeypatch):
    with isolated(1):
        policy = opened(loop_base)
        whole, _ = play(policy, loop_steps, tmp_path / "whole", keep_at=(2, 6))
    monkeypatch.setattr(rooms, "SAVE_SECONDS", 0.0)
    with isolated(1):
        play(opened(loop_base), loop_steps, tmp_path / "broken", until=5, keep_at=(2,))
    # The state is of step 4: it is saved when the next step is asked for.
    monkeypatch.setattr(rooms, "SAVE_SECONDS", 1e9)
    assert len(logs_of(tmp_path / "broken")) == 5
    with isolated(2):  # another generator: the state brings its own
        again = opened(loop_base)
        loop, logs = play(again, loop_steps, tmp_path / "broken", keep_at=(2, 6))
    assert [log.step for log in logs] == [5, 6, 7, 8]
    assert same(weights_of(again), weights_of(policy))
    assert loop.history == whole.history
    assert [mark.position for mark in loop.history.marks] == [2, 6] and loop.history.marks[0].found == {"drift": 2.0}
    assert timeless(logs_of(tmp_path / "broken")) == timeless(logs_of(tmp_path / "whole"))


def test_dropout_matters_to_the_comparison(loop_base, loop_steps, tmp_path):
    """The unbroken runs of two generators differ, so the equal ones above show that the state is taken up."""
    found = []
    for seed in (1, 2):
        with isolated(1):
            policy = open_adapted(loop_base)
        with isolated(seed):
            play(policy, loop_steps)
        found.append(weights_of(policy))
    assert not same(*found)


def test_a_kept_position_survives_alone(loop_base, loop_steps, tmp_path):
    """Without a save by the clock, the state is that of the last keep."""
    play(open_policy(loop_base), loop_steps, tmp_path, until=6, keep_at=(3,))
    loop = Loop(open_policy(loop_base), SETTINGS, seed=7, folder=tmp_path)
    assert loop.history.position == 3 and len(logs_of(tmp_path)) == 3
    assert [log.step for log in loop.run(loop_steps)] == [4, 5, 6, 7, 8]


def test_saves_by_the_clock_come_after_the_caller(loop_base, loop_steps, tmp_path, monkeypatch):
    """A kill between a step and its keep takes the step back, so that nothing kept is missed."""
    monkeypatch.setattr(rooms, "SAVE_SECONDS", 0.0)
    play(open_policy(loop_base), loop_steps, tmp_path, until=3)
    loop, logs = play(open_policy(loop_base), loop_steps, tmp_path, keep_at=(3,))
    assert logs[0].step == 3 and [mark.position for mark in loop.history.marks] == [3]


def test_a_finished_loop_does_nothing(loop_base, loop_steps, tmp_path):
    first = open_policy(loop_base)
    play(first, loop_steps, tmp_path, keep_at=(8,))
    again = open_policy(loop_base)
    _, logs = play(again, loop_steps, tmp_path)
    assert logs == [] and same(weights_of(again), weights_of(first))


@pytest.fixture
def saved(loop_base, loop_steps, tmp_path):
    play(open_policy(loop_base), loop_steps, tmp_path, until=4, keep_at=(4,))
    return tmp_path


def test_a_crash_while_saving_leaves_a_state(loop_base, saved):
    """Between the two renames the state lies under its old name; half a new one beside it is no state."""
    (saved / "state").rename(saved / "state.old")
    (saved / "state.new").mkdir()
    (saved / "state.new" / "tensors.safetensors").write_bytes(b"half")
    loop = Loop(open_policy(loop_base), SETTINGS, seed=7, folder=saved)
    assert loop.history.position == 4
    loop.save_state()
    assert sorted(path.name for path in saved.iterdir()) == ["state", "train.jsonl"]
    assert Loop(open_policy(loop_base), SETTINGS, seed=7, folder=saved).history.position == 4


@pytest.mark.parametrize("name", ["loop.json", "tensors.safetensors"])
def test_a_torn_state_is_refused(loop_base, saved, name):
    path = saved / "state" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"state: cannot be resumed .*; remove it to start the stage again"):
        Loop(open_policy(loop_base), SETTINGS, seed=7, folder=saved)
    shutil.rmtree(saved / "state")
    assert Loop(open_policy(loop_base), SETTINGS, seed=7, folder=saved).history.position == 0
    assert logs_of(saved) == []


def test_a_state_of_another_run_is_refused(loop_base, saved, tmp_path):
    with pytest.raises(StoreError, match=r"state: cannot be resumed \(it is of seed 7, not 8\)"):
        Loop(open_policy(loop_base), SETTINGS, seed=8, folder=saved)
    wider = office.make_model(tmp_path / "wider", hidden=40)
    with pytest.raises(StoreError, match="cannot be resumed"):
        Loop(open_policy(wider), SETTINGS, seed=7, folder=saved)
    with pytest.raises(StoreError, match="no folder"):
        Loop(open_policy(loop_base), SETTINGS, seed=7).save_state()
