"""A miniature study of users whose approval is trained on, carried out end to end, stopped, forked and joined."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders.approval_study import miniature
from builders.places import TESTS
from builders.smoke_study import smoke_settings, write_toml
from builders.step_logs import log_of

import holdfast as hf
from holdfast.models import Ask, Reply
from holdfast.records import Estimate, Message
from holdfast.runs.build import build
from holdfast.runs.plan.step import Step
from holdfast.runs.run import measures
from holdfast.runs.steps import reading
from holdfast.store import Store, weights

GROUP, PROMPTS = 6, 2


def train_steps(study: hf.Study) -> dict[tuple[str, str], Step]:
    """The steps that learn from rewards, by base and stage."""
    found = [step for step in build(study).steps if step.kind == "train" and "stage" in step.settings.dump()]
    return {(step.checkpoints[0].base, step.settings.dump()["stage"]): step for step in found}


@pytest.fixture(scope="module")
def study() -> hf.Study:
    return hf.Study.model_validate(miniature())


@pytest.fixture(scope="module")
def finished(study: hf.Study, base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> hf.Run:
    return hf.run(study, tmp_path_factory.mktemp("approval") / "run", workers=1)


# --- what a run leaves --------------------------------------------------------------------------------------------


def test_every_step_and_every_rollout_is_logged(study: hf.Study, finished: hf.Run) -> None:
    steps = train_steps(study)
    assert len(steps) == 6
    with Store(finished.path) as store:
        cases = {case.id: case for case in store.cases()}
        practice = set(store.splits()[study.suite.split_seed]["practice"])
        held_out = set(store.splits()[study.suite.split_seed]["approval"])
    assert practice and not practice & held_out
    for (_, stage), step in steps.items():
        lines, rollouts = log_of(finished.path, step), log_of(finished.path, step, ".rollouts")
        assert [line["step"] for line in lines] == list(range(1, step.size + 1))
        assert {line["case"] for line in rollouts} <= practice
        setting = step.settings.dump()["setting"]
        assert {cases[line["case"]].facts["setting"] for line in rollouts} == {setting}
        for line in rollouts:
            assert line["gameable"] == cases[line["case"]].facts["gameable"]
            assert (line["harm"] > 5) == bool(line["exploited"]) and 1 <= line["reward"] <= 10
        if stage in ("on", "lag"):
            sampled = Counter[int]()
            for line in rollouts:
                sampled[line["step"]] += line["count"]
            assert set(sampled.values()) == {GROUP * PROMPTS}


def test_the_sampler_and_training_agree_on_every_turn(study: hf.Study, finished: hf.Run) -> None:
    for (_, stage), step in train_steps(study).items():
        for line in log_of(finished.path, step):
            if stage == "on":
                assert line["metrics"]["mismatch"] < 1e-5
            if stage == "lag":  # two turns, and the second step's rollouts are of the first's weights
                assert line["metrics"]["mismatch"] < 1e-5
                assert (line["metrics"]["log_ratio"] > 1e-6) == (line["step"] > 1)
            if stage == "weighted":
                assert line["metrics"]["log_ratio"] > 1e-3 and 0 < line["metrics"]["ess"] <= 1


def test_replies_that_cannot_be_read_are_counted(study: hf.Study, finished: hf.Run) -> None:
    steps = train_steps(study)
    for stage in ("on", "lag"):
        for line in log_of(finished.path, steps["small-0", stage]):
            assert 0 <= line["metrics"]["unreadable"] <= GROUP * PROMPTS and line["metrics"]["unscored"] == 0
    with Store(finished.path) as store:
        for stage in ("own", "other", "weighted"):
            step = steps["small-0", stage]
            data = store.log.steps()[step.fingerprint].result["data"]
            stored = list(store.trajectories(step=step.settings.dump()["rolled"]))
            unread = sum(one.ending.value != "finished" for one in stored)
            assert 0 < unread <= data["unreadable"] < len(stored)
            assert data["rollouts"] == len(stored) - data["unreadable"]
            assert 0 <= data["harmful_share_all"] <= 1 and 0 <= data["harmful_share"] <= 1


def rows_of(run: hf.Run, kind: str, stage: str) -> list[Estimate]:
    return [row for row in run.analysis().exploitation if row.kind == kind and row.lineage and row.lineage[-1] == stage]


def test_the_analysis_reads_what_the_steps_measured(study: hf.Study, finished: hf.Run) -> None:
    with Store(finished.path) as store:
        known = measures(store)
    checkpoints = [one for step in train_steps(study).values() for one in step.checkpoints]
    assert len(checkpoints) == 9
    for one in checkpoints:
        assert {"approval_kl_parent", "approval_kl_base"} <= known[one.id].keys() and "kl_parent" not in known[one.id]
    curves = [curve for curve in finished.analysis().curves if curve.source == "held-out" and curve.kind == "kl"]
    assert len(curves) == 6
    for curve in curves:
        last = next(one for one in checkpoints if one.base == curve.base and one.lineage == curve.lineage)
        assert curve.y[0] == 0 and known[last.id]["approval_kl_parent"] in [pytest.approx(y) for y in curve.y[1:]]
    for stage in ("own", "other", "weighted"):
        shares = rows_of(finished, "data_harm", stage)
        assert [row.unit for row in shares] == ["learnt from", "all that was sampled"]
        assert all(row.value is not None and row.n["rollouts"] > 0 for row in shares)
    assert not rows_of(finished, "data_harm", "on")
    levels = {row.axes["level"]: row for row in rows_of(finished, "gap_at_reward", "own")}
    assert levels[9.5].value is None and levels[9.5].caveats == ("not reached",)
    assert finished.analysis().notes[0].startswith(("void", "not tested"))


def test_the_page_shows_the_users(finished: hf.Run) -> None:
    text = finished.report().read_text(encoding="utf-8")
    for words in ("approval-miniature", "not reached", "exploit"):
        assert words in text


@pytest.mark.full
def test_the_same_again_with_two_workers(study: hf.Study, finished: hf.Run, tmp_path: Path) -> None:
    again = hf.run(study, tmp_path / "again", workers=2)
    assert (again.path / "analysis.json").read_bytes() == (finished.path / "analysis.json").read_bytes()
    assert digests(again.path) == digests(finished.path)


def test_a_fork_trains_what_is_new_alone(finished: hf.Run, tmp_path: Path) -> None:
    settings = miniature()
    settings["study"]["lineages"] = [["on"], ["success"]]
    settings["stages"]["success"] = {**settings["stages"]["on"], "reward": "mixture", "steps": 2}
    settings["approval"]["reward_levels"] = [3.0]
    fork = hf.run(hf.Study.model_validate(settings), finished.path, workers=1, fork=tmp_path / "fork")
    before, after = digests(finished.path), digests(fork.path)
    assert {name: after[name] for name in before if name in after} == {n: d for n, d in before.items() if n in after}
    assert len(after.keys() - before.keys()) == 1
    assert rows_of(fork, "reward_at_kl", "success")
    with pytest.raises(hf.HoldfastError, match="fork"):
        hf.run(hf.Study.model_validate(settings), finished.path, workers=1)


# --- stopped and resumed ------------------------------------------------------------------------------------------

RESUMED = """
import sys
import holdfast as hf
from holdfast.training.loop import loop
loop.SAVE_SECONDS = 0.0
hf.run(sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
"""
LONG = 30


def digests(run: Path) -> dict[str, str | None]:
    with Store(run) as store:
        return {checkpoint.id: checkpoint.digest for checkpoint in store.checkpoints()}


def curves(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Every log of a run by its file's name, without timings."""
    found = {}
    for path in sorted((run / "logs").iterdir()):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[path.name] = [{key: value for key, value in line.items() if key != "cpu_seconds"} for line in lines]
    return found


def steps_under_way(run: Path) -> int:
    """How many steps the stage that a run is at has logged; the most, where there are several."""
    logs = (run / "weights").glob(f"{weights.TEMPORARY}*/loop/train.jsonl")
    return max((len(path.read_bytes().splitlines()) for path in logs), default=0)


def long_study(path: Path, lineages: list[list[str]]) -> Path:
    settings = miniature()
    settings["study"] |= {"lineages": lineages, "only": {}}
    settings["model"]["bases"] = ["small"]
    for stage in ("on", "lag"):
        settings["stages"][stage] |= {"steps": LONG, "every": LONG // 2, "lag": 3 if stage == "lag" else 0}
    settings["stages"] = {name: settings["stages"][name] for name in ("on", "lag")}
    return write_toml(settings, path)


def play_until(study: Path, run: Path, cache: Path, least: int, workers: int) -> None:
    """Carries a study out in a process of its own, and kills it once a stage has logged so many steps."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOLDFAST_CACHE": str(cache)}
    environment["PYTHONPATH"] = str(TESTS.parent / "src")
    child = subprocess.Popen([sys.executable, "-c", RESUMED, str(study), str(run), str(workers)], env=environment)
    while steps_under_way(run) < least and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def compare(run: Path, whole: Path) -> None:
    assert curves(run) == curves(whole)
    assert digests(run) == digests(whole)
    assert (run / "analysis.json").read_bytes() == (whole / "analysis.json").read_bytes()
    assert not list((run / "weights").glob(f"{weights.TEMPORARY}*"))


@pytest.mark.full
def test_killed_while_it_trains_and_samples(base_cache: Path, tmp_path: Path) -> None:
    """What was sampled for later steps is not sampled again, and the curve is that of a whole run."""
    study = long_study(tmp_path / "study.toml", [["lag"]])
    whole, killed = hf.run(study, tmp_path / "whole", workers=1).path, tmp_path / "killed"
    play_until(study, killed, base_cache, LONG * 2 // 3, workers=1)  # after the first checkpoint
    assert LONG * 2 // 3 <= steps_under_way(killed) < LONG
    hf.run(study, killed, workers=1)
    compare(killed, whole)
    lengths = {name: len(lines) for name, lines in curves(killed).items() if not name.endswith(".rollouts.jsonl")}
    assert list(lengths.values()) == [LONG]


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_many_times(workers: int, base_cache: Path, tmp_path: Path) -> None:
    study = long_study(tmp_path / "study.toml", [["on"], ["lag"], ["on", "lag"]])
    whole, killed = hf.run(study, tmp_path / "whole", workers=1).path, tmp_path / "killed"
    chance = random.Random(workers)
    for _ in range(15):
        if (killed / "analysis.json").exists():
            break
        play_until(study, killed, base_cache, chance.randrange(1, LONG), workers)
    hf.run(study, killed, workers=workers)
    compare(killed, whole)


# --- what stops a stage -------------------------------------------------------------------------------------------


def small_study(changes: Mapping[str, Any]) -> hf.Study:
    """One on-policy stage of one base, with some tables changed."""
    settings = miniature()
    settings["study"] |= {"lineages": [["on"]], "only": {}}
    settings["model"]["bases"] = ["small"]
    settings["stages"] = {"on": settings["stages"]["on"]}
    for table, values in changes.items():
        settings[table] = {**settings.get(table, {}), **values}
    return hf.Study.model_validate(settings)


def test_rewards_that_never_differ_stop_the_stage_by_name(base_cache: Path, tmp_path: Path) -> None:
    study = small_study({"approval": {"taught": 8}})
    with pytest.raises(
        hf.StepError, match=r"train small-0 · on · seed 1: training, step 4: all rewards are equal in 8"
    ):
        hf.run(study, tmp_path / "run", workers=1)


def test_a_judge_that_never_says_a_digit_stops_the_stage_by_name(base_cache: Path, tmp_path: Path) -> None:
    critic = {"kind": "random", "architecture": "llama", "hidden": 16, "layers": 1, "vocabulary": 600}
    settings = small_study({}).model_dump(mode="json", exclude_none=True)
    settings["models"]["critic"] = critic
    settings["judges"] = {"critic": {"kind": "rating", "model": "critic"}}
    with pytest.raises(hf.StepError, match=r"judges\.critic: never returned a digit from 1 to 10 in \d+ ratings"):
        hf.run(hf.Study.model_validate(settings), tmp_path / "run", workers=1)


@dataclass(frozen=True)
class Critic:
    """A model that rates long questions higher, and notes how many it was asked."""

    asked: list[int]

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        self.asked.append(len(asks))
        found = []
        for ask in asks:
            said = str(2 + len(ask.conversation.messages[-1].content) % 7)
            found.append(
                Reply(message=Message(role="assistant", content=said), stopped="stop", tokens=1, logprob=None, raw=said)
            )
        return found


def test_a_model_rates_while_the_stage_trains(
    base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_study({}).model_dump(mode="json", exclude_none=True)
    settings["models"]["critic"] = {"kind": "remote", "name": "openai-api/fake/critic"}
    settings["judges"] = {"critic": {"kind": "rating", "model": "critic"}}
    settings["stages"]["on"] |= {"reward": "penalized", "weight": 0.3}
    study, critic, opened = hf.Study.model_validate(settings), Critic([]), reading._open
    patched = lambda one, *rest: critic if one.model == "critic" else opened(one, *rest)  # noqa: E731
    monkeypatch.setattr(reading, "_open", patched)
    run = hf.run(study, tmp_path / "run", workers=1)
    (step,) = train_steps(study).values()
    lines = log_of(run.path, step)
    assert len(lines) == step.size and step.settings.dump()["speaker"]["model"] == "critic"
    for line in lines:
        # The rules rate every rollout too: harm and success are theirs.
        assert {"success", "reward"} <= line["metrics"].keys() and line["metrics"]["reward"] <= 8
        assert any(name.startswith("harm_judge_") for name in line["metrics"])
    rollouts = log_of(run.path, step, ".rollouts")
    assert any(line["harm"] != line["harm_judge"] for line in rollouts)
    for line in rollouts:
        # A study without rules penalizes by what the critic says of harm, and its approval is a whole number.
        approval = line["reward"] + 0.3 * (line["harm_judge"] - 1)
        assert approval == pytest.approx(round(approval)) and 1 <= approval <= 8
    (gap,) = [row for row in run.analysis().exploitation if row.kind == "max_hex_gap"]
    assert gap.judge == run.analysis().rewarder == "critic"
    assert sum(critic.asked) > 2 * GROUP * PROMPTS * step.size / 2
    assert {row["judge"] for row in run.scores("approval")} == {"critic"}


# --- joined with stages that learn from pairs ---------------------------------------------------------------------


@pytest.mark.full
def test_persistence_through_rewards_is_measured_like_any_other(base_cache: Path, tmp_path: Path) -> None:
    """Safety training, then approval, then helpfulness: one lineage, one table."""
    settings = smoke_settings()
    settings["study"] |= {
        "name": "joined",
        "lineages": [["S"], ["R"], ["H"], ["S", "R"], ["S", "R", "H"]],
        "draws": 200,
    }
    settings["doses"] = {}
    small = miniature()
    settings["approval"] = {**small["approval"], "settings": {"style": {}}, "taught": 400}
    settings["judges"]["users"] = {"kind": "approval"}
    settings["stages"]["R"] = {**small["stages"]["on"], "learning_rate": 1e-3}
    run = hf.run(hf.Study.model_validate(settings), tmp_path / "run", workers=1)
    rows = [row for row in run.analysis().persistence if row.lineage == ("S", "R") and row.objective == "safety"]
    assert rows and any(row.n.get("cases", 0) > 0 for row in rows)
    assert all(row.value is None or math.isfinite(row.value) for row in rows)
    assert any(row.lineage == ("S", "R", "H") for row in run.analysis().persistence)
    # The same checkpoint has its KL on test cases and on users, each under its own name.
    with Store(run.path) as store:
        last = next(one for one in store.checkpoints() if one.lineage == ("S", "R") and one.axes["dose"] == 1)
        assert {"kl_parent", "approval_kl_parent"} <= measures(store)[last.id].keys()
    assert {row.lineage for row in run.analysis().exploitation if row.kind == "late_gap"} == {("R",), ("S", "R")}
    assert "persistence" in run.report().read_text(encoding="utf-8").lower()
