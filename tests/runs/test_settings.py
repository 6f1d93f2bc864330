"""Settings that no shipped study uses, each carried out in a whole tiny study: it works, or one line refuses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.smoke_study import smoke_settings

import holdfast as hf
from holdfast.records import Checkpoint, Trajectory
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store

# The smoke study's base, which the session's cache holds; two lineages and few episodes.
SMALL: dict[str, Any] = {
    "study": {"lineages": [["S"], ["S", "H"]], "draws": 100},
    "doses": {"S,H": [1]},
    "suite": {"train_cases": 16, "test_cases": 8},
    "rollouts": {"per_train_case": 5, "per_test_case": 2},
    "pairs": {"min_gap": 1, "min_chosen": 1},
    "stages": {"S": {"steps": 2, "pairs_per_step": 6}, "H": {"steps": 2, "pairs_per_step": 6}},
}


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes, table by table."""
    found = dict(settings)
    for key, change in changes.items():
        found[key] = merged(found.get(key, {}), change) if isinstance(change, Mapping) else change
    return found


def small(changes: Mapping[str, Any]) -> hf.Study:
    return hf.Study.model_validate(merged(merged(smoke_settings(), SMALL), changes))


def trained(store: Store, *lineage: str) -> list[Checkpoint]:
    return [checkpoint for checkpoint in store.checkpoints() if checkpoint.lineage == lineage]


def logged(store: Store) -> list[dict[str, Any]]:
    """Every step of every stage."""
    logs = sorted((store.path / "logs").iterdir())
    return [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]


def families(store: Store, part: str) -> set[str]:
    (parts,) = store.splits().values()
    return {store.case(name).family for name in parts[part]}


def turns(trajectory: Trajectory) -> int:
    return sum(message.role == "assistant" for message in trajectory.messages)


def both(**settings: Any) -> dict[str, Any]:
    return {"stages": {"S": settings, "H": settings}}


FALLING: dict[str, Any] = {"schedule": "cosine", "steps": 3, "warmup_steps": 0}
Check = Callable[[Store], object]
SETTINGS: dict[str, tuple[dict[str, Any], Check]] = {
    "a LoRA adapter": (
        both(lora_r=4),
        lambda store: len({checkpoint.digest for checkpoint in store.checkpoints()}) == 3,
    ),
    "pairs of the parent": (
        {"pairs": {"source": "parent"}},
        lambda store: (
            {t.checkpoint_id for p in every_pair(store) for t in store.trajectories([p.chosen, p.rejected])}
            == {c.id for c in (*trained(store), *trained(store, "S"))}
        ),
    ),
    "loss on all that follows the prompt": (
        both(loss_mask="completion"),
        lambda store: {c.stages[-1].settings["loss_mask"] for c in trained(store, "S", "H")} == {"completion"},
    ),
    "pair by pair, trained through the model's own library in few bits and little memory": (
        both(pairwise=True, precision="bf16", recompute=True, token_budget=400),
        lambda store: len({checkpoint.digest for checkpoint in store.checkpoints()}) == 3,
    ),
    "whole sub-trees in steps of few tokens": (
        both(trajectories_per_case=4, tokens_per_step=400, steps=4),
        lambda store: all(0 < line["work"]["tokens"] < 420 for line in logged(store)) and len(logged(store)) == 8,
    ),
    "every loss": (
        {"axes": {"loss": ["sigmoid", "ipo", "hinge"]}},
        lambda store: len({checkpoint.digest for checkpoint in trained(store, "S")}) == 3,
    ),
    "a loss of many parts under a falling rate": (
        both(label_smoothing=0.1, length_normalized=True, sft_weight=0.5, weight_decay=0.1, **FALLING),
        lambda store: [one["learning_rate"] for one in logged(store)] == pytest.approx(2 * [3e-4, 2.25e-4, 0.75e-4]),
    ),
    "families held out": (
        {"suite": {"holdout": "family"}},
        lambda store: families(store, "train").isdisjoint(families(store, "test")) and families(store, "test"),
    ),
    "beta by split": (
        {"axes": {"beta": [0.05, 1], "split_seed": [0, 3]}},
        lambda store: (
            sorted((c.axes["beta"], c.split_seed) for c in trained(store, "S", "H"))
            == [(0.05, 0), (0.05, 3), (1.0, 0), (1.0, 3)]
        ),
    ),
    "two judges who both make pairs": (
        {"judges": {"again": {"kind": "state"}}, "axes": {"pair_judge": ["state", "again"]}},
        lambda store: {p.judge for p in every_pair(store)} == {c.axes["pair_judge"] for c in trained(store, "S", "H")},
    ),
    "doses of both stages": (
        {"doses": {"S": [1, 3], "S,H": [1, 2]}},
        lambda store: [c.stages[-1].steps for c in (*trained(store, "S"), *trained(store, "S", "H"))] == [2, 6, 2, 4],
    ),
    "one turn": (
        {"rollouts": {"max_turns": 1, "per_train_case": 12}, **both(objective="safety")},
        lambda store: {turns(item) for item in store.trajectories()} == {1},
    ),
    "a batch larger than the episodes": (
        {"rollouts": {"batch_size": 10_000}},
        lambda store: all(len(store.log.batches(name)) <= 1 for name in store.log.steps()),
    ),
    "batches of one, one training case": (
        {"rollouts": {"batch_size": 1, "per_train_case": 12}, "suite": {"train_cases": 1}, **both(objective="safety")},
        lambda store: len({pair.case_id for pair in every_pair(store)}) == 1,
    ),
    "two bases": (
        {"model": {"base_seeds": [0, 1]}},
        lambda store: len({c.digest for c in trained(store)}) == 2 and len(trained(store, "S", "H")) == 2,
    ),
}


def every_pair(store: Store) -> list[hf.PreferencePair]:
    return [pair for name, status in store.log.steps().items() if status.kind == "pair" for pair in store.pairs(name)]


@pytest.mark.parametrize(
    ("changes", "holds"),
    [pytest.param(*one, marks=[pytest.mark.full] * (name == "two bases"), id=name) for name, one in SETTINGS.items()],
)
def test_a_setting_works(changes: dict[str, Any], holds: Check, base_cache: Path, tmp_path: Path) -> None:
    run = hf.run(small(changes), tmp_path / "run", workers=1)
    with run.store() as store:
        assert holds(store)
        assert {trajectory.checkpoint_id for trajectory in store.trajectories()} == {c.id for c in store.checkpoints()}
    assert run.report().is_file()


def test_agents_who_may_not_finish_are_told_of(base_cache: Path, tmp_path: Path) -> None:
    """One token is no turn: all is cut off, nothing is scored, and the failure says so."""
    with pytest.raises(hf.StepError, match=r"no pairs to learn from; .*\(0 of 80 training episodes have a score"):
        hf.run(small({"rollouts": {"max_tokens": 1}}), tmp_path / "run", workers=1)
    with Store(tmp_path / "run") as store:
        assert {(t.ending.value, t.tokens) for t in store.trajectories()} <= {("truncated", 1), ("incoherent", 1)}


def test_another_study_may_take_a_removed_run_s_place(base_cache: Path, tmp_path: Path) -> None:
    """One process, one path, two runs: nothing of the first is remembered."""
    place = tmp_path / "run"
    first = {row["case"] for row in hf.run(small({}), place, workers=1).scores()}
    shutil.rmtree(place)
    second = {row["case"] for row in hf.run(small({"suite": {"split_seed": 5}}), place, workers=1).scores()}
    assert first and second and first.isdisjoint(second)


def spoil(weights: Path, *, removed: bool) -> None:
    for directory in weights.iterdir():
        if removed:
            shutil.rmtree(directory)
        else:
            (directory / "model.safetensors").write_bytes(b"torn")


@pytest.mark.parametrize(
    ("removed", "told"),
    [
        (True, "its weights are not at .*run the study again in a new run"),
        (False, "holds other weights than tiny-0 · base was made with"),
    ],
)
def test_a_base_that_cannot_be_read_fails_its_steps(
    removed: bool, told: str, base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out_after_loss(step: Step, path: Path, emit: Callable[[Any], None]) -> None:
        if step.kind == "rollout":
            spoil(path / "weights", removed=removed)
        carry_out(step, path, emit)

    monkeypatch.setattr("holdfast.runs.engines.opening.carry_out", carry_out_after_loss)
    with pytest.raises(hf.StepError, match=rf"roll out tiny-0 · base .*{told}.* failed, \d+ that depend"):
        hf.run(small({}), tmp_path / "run", workers=1)
