"""A stage's numbers in a tracker of accelerate, and what a state or a folder of another stage is told."""

from __future__ import annotations

import json

import pytest
from builders import tiny_office as office
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.models.tiny.chat import TinyChat
from holdfast.records.errors import StudyError
from holdfast.study.stages import StageSection
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.dpo.stage import train_dpo
from holdfast.training.states import UnusableState

STAGE = office.change(office.STAGE, steps=4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return office.make_model(tmp_path_factory.mktemp("tracking") / "fresh")


@pytest.fixture(scope="module")
def data(start):
    return office.preferences(TinyChat.load(start))


def test_a_tracker_gets_what_the_log_has(start, data, tmp_path):
    folder = tmp_path / "log"
    train_dpo(start, *data, STAGE, seed=0, save_at=[4], out_dir=tmp_path, folder=folder, tracker="tensorboard")
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(folder / "holdfast"))
    events.Reload()
    assert {"loss", "accuracy", "gradient_norm", "learning_rate"} <= set(events.Tags()["scalars"])
    points = events.Scalars("loss")
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert [point.value for point in points] == pytest.approx([line["metrics"]["loss"] for line in lines])


@pytest.mark.parametrize(
    ("name", "said"), [("tensorbored", "is not among"), ("wandb", "is not installed; pip install")]
)
def test_a_tracker_that_cannot_be_had_is_refused(start, data, tmp_path, name, said):
    with pytest.raises(StudyError, match=said):
        train_dpo(start, *data, STAGE, seed=0, save_at=[4], out_dir=tmp_path, tracker=name)


@pytest.mark.parametrize("changed", [{"beta": 0.2}, {"learning_rate": 1e-4}, {"loss": "hinge"}, {"pairs_per_step": 4}])
def test_a_state_of_another_stage_is_not_taken_up(start, data, tmp_path, changed):
    given = {"seed": 0, "out_dir": tmp_path, "folder": tmp_path / "log"}
    train_dpo(start, *data, STAGE, save_at=[2], **given)
    with pytest.raises(UnusableState, match="other settings or data"):
        train_dpo(start, *data, office.change(STAGE, **changed), save_at=[4], **given)
    pairs, encoded = data
    with pytest.raises(UnusableState, match="other settings or data"):
        train_dpo(start, pairs[1:], encoded, STAGE, save_at=[4], **given)
    # What changes no result but rounding, or only how far a stage goes, may change.
    longer = office.change(STAGE, steps=6, token_budget=500)
    assert [result.steps for result in train_dpo(start, *data, longer, save_at=[2, 6], **given)] == [2, 6]


def test_a_dose_that_was_not_kept_is_missed(start, data, tmp_path):
    given = {"seed": 0, "out_dir": tmp_path, "folder": tmp_path / "log"}
    train_dpo(start, *data, STAGE, save_at=[4], **given)
    with pytest.raises(UnusableState, match="past step 2"):
        train_dpo(start, *data, STAGE, save_at=[2, 4], **given)


def test_a_log_ends_with_the_state(start, data, tmp_path):
    """Lines of steps that a crash took back, and torn ones, are cut off."""
    folder = tmp_path / "log"
    given = {"seed": 0, "out_dir": tmp_path, "folder": folder}
    train_dpo(start, *data, STAGE, save_at=[2], **given)
    log = folder / "train.jsonl"
    kept = log.read_text()
    log.write_text(kept + kept.splitlines()[-1].replace('"step": 2', '"step": 3') + '\n{"step": 4, "exam')
    train_dpo(start, *data, STAGE, save_at=[2, 4], **given)
    lines = log.read_text()
    assert lines.startswith(kept) and [json.loads(line)["step"] for line in lines.splitlines()] == [1, 2, 3, 4]


def test_a_pair_above_the_tokens_of_a_step_is_refused_at_once(data):
    pairs, encoded = data
    order = StageSection(objective="safety", pairs_per_step=4, trajectories_per_case=4, tokens_per_step=20)
    with pytest.raises(StudyError, match=r"case \w+: the pair of .* above tokens_per_step 20"):
        pair_steps(pairs, encoded, order, seed=0)
