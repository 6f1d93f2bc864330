"""Two processes that train together, weights sharded between them, end where one process does."""

from __future__ import annotations

import os
import shutil

import pytest
from builders import tiny_office as office
from builders.places import TESTS
from builders.wide_training import abort_afterwards, refuse, train_wide
from rounding import EXACT, apart
from safetensors.torch import load_file

from holdfast.models.tiny.chat import TinyChat
from holdfast.records.errors import StepError, StudyError
from holdfast.training.dpo import stage as stages
from holdfast.training.dpo.stage import reference_logprobs, train_dpo
from holdfast.training.loop.launch import run_together
from holdfast.training.sft.stage import train_sft

pytestmark = pytest.mark.usefixtures("wide_processes")
full = pytest.mark.full  # processes that import torch take 5 s each: one stage of two is enough for every day


@pytest.fixture(scope="module")
def wide_processes(module_in_64_bits):
    """Every process that trains does so in 64 bits: Adam magnifies rounding where a gradient is almost nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train_dpo", train_wide)
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def start(wide_processes, tmp_path_factory):
    root = tmp_path_factory.mktemp("sharding")
    fresh = office.make_model(root / "fresh")
    demonstrations = office.demonstrations(TinyChat.load(fresh))
    return train_sft(fresh, demonstrations, office.TEACHING, steps=60, seed=0, out_dir=root / "base").path


@pytest.fixture(scope="module")
def reference(start):
    """Computed once: a stage's state is taken up only on the very numbers that it started with."""
    _, encoded = office.preferences(TinyChat.load(start))
    return reference_logprobs(start, list(encoded), encoded, office.STAGE.loss_mask)


@pytest.fixture(
    scope="module", params=[pytest.param({}, id="whole"), pytest.param({"lora_r": 4}, id="lora", marks=full)]
)
def both(request, start, reference, tmp_path_factory):
    """Results and folders of a stage in one process and in two."""
    root = tmp_path_factory.mktemp("both")
    pairs, encoded = office.preferences(TinyChat.load(start))
    # A budget that cuts every case, so that pairs reach across processes.
    settings = office.change(office.STAGE, steps=4, pairs_per_step=7, token_budget=60, **request.param)
    found = {}
    for devices in (1, 2):
        out, folder = root / f"out-{devices}", root / f"log-{devices}"
        stage = office.change(settings, devices=devices)
        told = {"seed": 3, "save_at": [2, 4], "out_dir": out, "folder": folder, "reference": reference}
        results = train_dpo(start, pairs, encoded, stage, **told)
        found[devices] = (results, folder)
    return found


def weights_of(path):
    return {name: tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_losses_are_those_of_one_process(both):
    (alone, _), (together, _) = both[1], both[2]
    assert [result.steps for result in together] == [2, 4]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=EXACT)
        assert ours.tokens == theirs.tokens and ours.examples == theirs.examples
        assert ours.chosen_drift == pytest.approx(theirs.chosen_drift, rel=EXACT)
    assert len(set(alone[-1].losses)) == 4


def test_weights_are_those_of_one_process(both):
    (alone, _), (together, _) = both[1], both[2]
    for ours, theirs in zip(together, alone, strict=True):
        found, expected = weights_of(ours.path), weights_of(theirs.path)
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert apart([found[name]], [weight]) < EXACT, name


def test_a_step_is_shared_and_its_log_written_once(both):
    lines = [(folder / "train.jsonl").read_text().splitlines() for _, folder in both.values()]
    assert len(lines[0]) == len(lines[1]) == 4
    assert (both[2][1] / "state" / "tensors.safetensors").exists()


@full
def test_a_sharded_stage_goes_on_where_it_was(both, start, reference, tmp_path):
    """From the state that two processes left, two go on; with an adapter, which one process holds alike, one does."""
    results, folder = both[2]
    pairs, encoded = office.preferences(TinyChat.load(start))
    lora = (results[-1].path / "stack.json").exists()
    settings = office.change(office.STAGE, steps=6, pairs_per_step=7, token_budget=60, lora_r=4 if lora else 0)
    copy = shutil.copytree(folder, tmp_path / "log")
    stage = office.change(settings, devices=1 if lora else 2)
    told = {"seed": 3, "save_at": [6], "reference": reference}
    resumed = train_dpo(start, pairs, encoded, stage, out_dir=tmp_path / "out", folder=copy, **told)[-1]
    unbroken = train_dpo(start, pairs, encoded, settings, out_dir=tmp_path / "whole", **told)[-1]
    assert resumed.losses[:4] == results[-1].losses
    assert resumed.losses == pytest.approx(unbroken.losses, rel=EXACT)


@full
def test_an_error_of_the_work_is_raised_as_it_is():
    with pytest.raises(StudyError, match="above token_budget 3"):
        run_together(2, refuse, {"message": "one: 9 tokens, above token_budget 3"})


@full
def test_a_process_that_dies_is_named():
    with pytest.raises(StepError, match=r"training process \d ended with"):
        run_together(2, divmod, {"a": 1})


@full
def test_what_is_done_is_done_however_the_process_would_end():
    assert run_together(2, abort_afterwards, {}) == "done"
