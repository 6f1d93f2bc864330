"""Steps on a Ray cluster of several nodes on this machine: results equal to the byte to those of one worker."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.places import STUDIES
from builders.rewarded_study import paid_study, verdict
from builders.smoke_study import SMOKE, study_of

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.fakes import FakeProvider
from holdfast.records.errors import StepError, StudyError
from holdfast.records.machine import describe_machine
from holdfast.runs.build import build
from holdfast.runs.engines.ray import lacks_accelerators, needs_of, require_room
from holdfast.runs.execution import StepProgress
from holdfast.runs.plan.step import Means, Step
from holdfast.study.sections import NeedSection
from holdfast.study.study import load

pytest.importorskip("ray", reason="needs Ray (extra ray)")
# What Ray opens and closes as it goes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
KEY = "sk-5d41402abc4b2a76b9719d911017c592"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors, and three nodes with one processor and one declared accelerator each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_timeout_ms", "2000")
        patch.setenv("JUDGE_KEY", KEY)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(3):
            made.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 << 20)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def small_run(base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("small") / "run"
    hf.run(study_of(), run, workers=1)
    return run


def counts(run: Path) -> dict[str, int]:
    with sqlite3.connect(f"file:{run / 'run.db'}?mode=ro", uri=True) as db:
        tables = ("trajectories", "scores", "pairs", "batches", "logprobs")
        return {table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in tables}


def same(run: Path, other: Path) -> bool:
    return (run / "analysis.json").read_bytes() == (other / "analysis.json").read_bytes() and counts(run) == counts(
        other
    )


def test_a_cluster_makes_what_one_worker_makes_and_places_steps_as_declared(
    cluster: Any, small_run: Path, tmp_path: Path
) -> None:
    heard: list[StepProgress] = []
    study = study_of(resources={"train": {"gpus": 1}})
    hf.run(study, tmp_path / "run", engine=f"ray:{cluster.address}", listener=heard.append)
    assert same(tmp_path / "run", small_run)
    nodes = {one.step.fingerprint: one.node for one in heard if one.node is not None}
    kinds = {one.step.fingerprint: one.step.kind for one in heard}
    assert {kinds[name] for name in nodes} == {"train", "rollout", "reference"}
    assert not list((tmp_path / "run" / "weights").glob(".part-*"))
    assert not [path for path in (tmp_path / "run" / "carried").iterdir() if not path.name.startswith("nonce")]


@pytest.mark.full  # a study of its own, twice
def test_training_on_rewards_is_the_same_on_a_cluster(cluster: Any, base_cache: Path, tmp_path: Path) -> None:
    study = load(STUDIES / "approval-quick.toml", scale="small")
    hf.run(study, tmp_path / "one", workers=1)
    hf.run(study, tmp_path / "run", engine=f"ray:{cluster.address}")
    assert same(tmp_path / "run", tmp_path / "one")


@pytest.mark.full  # a study of its own, twice
def test_a_node_asks_a_remote_judge_with_its_own_key_and_every_answer_is_paid_for_once(
    cluster: Any, base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains on a node asks there; what judges held-out episodes asks from here. Both by one ledger."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    heard: list[StepProgress] = []
    run = tmp_path / "run"
    with FakeProvider(answers=verdict, key=KEY) as provider:
        study = paid_study(provider.base_url, key_env="JUDGE_KEY")
        hf.run(study, tmp_path / "one", workers=1)
        bought = {one.digest for one in provider.bill}
        provider.bill.clear()
        with pytest.raises(StepError, match="the budget of 3 calls is spent"):
            hf.run(study, run, engine=f"ray:{cluster.address}", max_calls=3)
        assert len(provider.bill) == 3
        hf.run(study, run, engine=f"ray:{cluster.address}", listener=heard.append)
        assert {one.digest for one in provider.bill} == bought and len(provider.bill) == len(bought)
    assert same(run, tmp_path / "one")
    assert any(one.step.kind == "train" and one.node for one in heard)
    logs = [path for path in Path("/tmp/ray/session_latest/logs").rglob("*") if path.is_file()]
    kept = [*logs, *(path for path in run.rglob("*") if path.is_file())]
    assert logs and not [path for path in kept if KEY.encode() in path.read_bytes()]


@pytest.mark.full  # a node is lost, and another one added
@pytest.mark.parametrize("kind", ["train", "rollout"])
def test_a_step_whose_node_is_lost_is_done_again_elsewhere(
    kind: str, cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lost: list[str] = []
    killed: list[str] = []

    def listener(told: StepProgress) -> None:
        if told.state == "lost":
            lost.append(told.message)
        if told.step.kind == kind and told.node is not None and told.done > 0 and not killed:
            wanted = told.node.partition("/")[2]
            (node,) = [one for one in cluster.worker_nodes if one.node_id.startswith(wanted)]
            killed.append(wanted)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 << 20)

    study = study_of(**{"stages/S/steps": 24})
    hf.run(study, tmp_path / "run", engine=f"ray:{cluster.address}", listener=listener)
    assert killed and all(killed[0] in line for line in lost)  # none where the step's end was on its way already
    assert "(raylet)" not in capfd.readouterr().out  # where results stand
    hf.run(study, tmp_path / "one", workers=1)
    assert same(tmp_path / "run", tmp_path / "one")


def test_what_a_step_needs_of_a_node() -> None:
    def step(own_gpus: int = 0, **needs: Any) -> Step:
        one = next(one for one in build(load(SMOKE)).steps if one.kind == "train")
        return replace(one, means=Means(needs=NeedSection(**needs), own_gpus=own_gpus))

    assert needs_of(step(), most_gpus=8) == {"CPU": 1}
    assert needs_of(step(2), most_gpus=8) == {"CPU": 1, "GPU": 2}
    assert needs_of(step(2), most_gpus=0) == {"CPU": 1}
    bare, rich = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}
    assert lacks_accelerators([step(), step(2)], [bare]) and not lacks_accelerators([step(2)], [bare, rich])
    assert not lacks_accelerators([step(), step(2, gpus=0)], [bare])  # nobody would take one, or it is said
    assert needs_of(step(1, gpus=4, cpus=2, memory_gb=1.5), most_gpus=0) == {"CPU": 2, "GPU": 4, "memory": 1.5e9}
    nodes = [{"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}, {"CPU": 64.0}]
    require_room(step(), {"CPU": 64, "GPU": 0}, nodes)
    for needs, message in (
        ({"gpus": 4}, "has more than 2"),
        ({"gpus": 2, "cpus": 16}, "no node has all"),
        ({"gpus": 1, "accelerator": "A100"}, "no node of the cluster has one"),
        ({"gpus": 1, "accelerator": "H100", "cpus": 16}, "has more than 8"),
    ):
        asked = step(**needs)
        with pytest.raises(StudyError, match=message):
            require_room(asked, needs_of(asked, most_gpus=2), nodes)


def test_more_accelerators_than_any_node_has_are_refused(cluster: Any, tmp_path: Path) -> None:
    study = study_of(resources={"train": {"gpus": 2}})
    with pytest.raises(StepError, match="needs 2 GPU, and no node of the cluster has more than 1"):
        hf.run(study, tmp_path / "run", engine=f"ray:{cluster.address}")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "here", ":1"])
def test_where_nothing_answers_one_line_says_so(address: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nothing answers there|is no address") as told:
        hf.run(SMOKE, tmp_path / "run", engine=f"ray:{address}")
    assert "\n" not in str(told.value)


def test_what_answers_and_is_no_cluster_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.runs.engines.ray.JOIN_SECONDS", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as other, contextlib.suppress(KeyError):
        port = other.getsockname()[1]
        with pytest.raises(StudyError, match="is no Ray cluster") as told:
            hf.run(SMOKE, tmp_path / "run", engine=f"ray:127.0.0.1:{port}")
    assert "\n" not in str(told.value)


def test_of_another_holdfast_nothing_is_begun(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.records import machine

    told = {**machine.describe_machine(), "holdfast": "0.0.1"}
    monkeypatch.setattr("holdfast.runs.engines.ray.describe_machine", lambda: told)
    with pytest.raises(StudyError, match="install one version everywhere"):
        hf.run(SMOKE, tmp_path / "run", engine=f"ray:{cluster.address}")


def test_a_clock_that_is_off_and_unlike_machines_are_told_before_the_start(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = describe_machine()
    monkeypatch.setattr("holdfast.runs.engines.ray.clock", lambda: time.time() - 3600)
    monkeypatch.setattr("holdfast.runs.engines.ray.describe_machine", lambda: here | {"processor": "another one"})
    told: list[str] = []
    heard: list[StepProgress] = []

    def stop(progress: StepProgress) -> None:
        heard.append(progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf.run(SMOKE, tmp_path / "run", engine=f"ray:{cluster.address}", warn=told.append, listener=stop)
    assert len(heard) == 1  # all of it was said before the first step
    assert sum(bool(re.search(r"is 3,(59|60)\d s ahead", line)) for line in told) == 4
    unlike = [line for line in told if "is unlike this machine" in line]
    assert len(unlike) == 4 and all("another one here" in line and "last digits may differ" in line for line in unlike)


def test_what_a_cluster_has_is_told_by_check(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    engine = f"ray:{cluster.address}"
    assert main(["check", str(SMOKE), "--engine", engine]) == 0
    assert "the cluster has 4 nodes with 3 CPU, 3 GPU" in capsys.readouterr().out
    for change, told in (
        ("resources.train.gpus=2", "no node of the cluster has more than 1"),
        ('resources.rollout.accelerator="H100"', "no node of the cluster has one"),
        ("resources.reference.memory_gb=90000", "resources.reference"),
    ):
        assert main(["check", str(SMOKE), "--engine", engine, "--set", change]) == 2
        shown = capsys.readouterr().err
        assert told in shown and shown.count("\n") == 1


def test_a_cluster_of_another_ray_is_told_in_one_line(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(**_: Any) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n"
            "This process on Ray was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(StudyError, match=r"Ray: 2\.9\.0 Python: 3\.10\.1 .* Ray: 2\.60\.0") as told:
        hf.run(SMOKE, tmp_path / "run", engine=f"ray:{cluster.address}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("engine", "extra"), [("ray", "ray"), ("jobs", "slurm"), ("slurm", "slurm")])
def test_without_its_package_an_engine_says_what_to_install(
    engine: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.runs.engines.ray.find_spec", lambda _: None)
    monkeypatch.setattr("holdfast.runs.engines.jobs.find_spec", lambda _: None)
    with pytest.raises(StudyError, match=rf"needs the package .*\[{extra}\]"):
        hf.run(SMOKE, tmp_path / "run", engine=engine)


@pytest.mark.full  # waits for a silent step to be given up
def test_a_step_that_is_silent_is_given_up_and_its_late_words_are_refused(
    cluster: Any, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_SILENCE", "12")
    stopped: list[int] = []
    lost: list[str] = []

    def listener(told: StepProgress) -> None:
        if told.state == "lost":
            lost.append(told.message)
            for process in stopped:  # what was given up goes on, too late
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
        if told.step.kind == "train" and told.node is not None and told.done > 0 and not stopped:
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if (process / "cmdline").read_bytes().startswith(b"ray::train"):
                        os.kill(int(process.name), signal.SIGSTOP)
                        stopped.append(int(process.name))

    hf.run(study_of(), tmp_path / "run", engine=f"ray:{cluster.address}", listener=listener)
    assert stopped and any("no sign of life" in one for one in lost)
    assert same(tmp_path / "run", small_run)
