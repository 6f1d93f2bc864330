"""Steps as jobs of a queue: processes that submitit starts, and a queue that speaks as Slurm does."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders.fake_slurm import install, submitted
from builders.places import ROOT
from builders.smoke_study import SMOKE, one_stage, study_of, write_toml

import holdfast as hf
from holdfast.records.errors import StepError, StudyError
from holdfast.runs.carrying.job import Job, carry_job
from holdfast.runs.engines import jobs
from holdfast.runs.execution import StepProgress
from holdfast.runs.plan.step import Means

pytest.importorskip("submitit", reason="needs submitit (extra slurm)")


def counts(run: Path) -> dict[str, int]:
    with sqlite3.connect(f"file:{run / 'run.db'}?mode=ro", uri=True) as db:
        tables = ("trajectories", "scores", "pairs", "batches", "logprobs")
        return {table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in tables}


@pytest.fixture(scope="module")
def small_run(base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("small") / "run"
    hf.run(study_of(), run, workers=1)
    return run


def run_with(engine: str, run: Path, heard: list[StepProgress] | None = None, **changes: Any) -> Path:
    listener = heard.append if heard is not None else lambda _: None
    hf.run(study_of(**changes), run, engine=engine, workers=2, listener=listener)
    return run


@pytest.mark.full  # what the queue of Slurm shows, too
def test_jobs_make_what_one_worker_makes(small_run: Path, tmp_path: Path) -> None:
    heard: list[StepProgress] = []
    run = run_with("jobs", tmp_path / "run", heard)
    assert (run / "analysis.json").read_bytes() == (small_run / "analysis.json").read_bytes()
    assert counts(run) == counts(small_run)
    carried = {one.step.kind for one in heard if one.node is not None}
    assert carried == {"train", "rollout", "reference"}  # the rest is done beside the driver
    assert not list((run / "carried").iterdir()) and not list((run / "weights").glob(".part-*"))


@pytest.mark.full  # a process that is killed at four places of a stage
@pytest.mark.parametrize("kind", ["train", "rollout"])
def test_a_job_that_is_killed_is_done_again_from_where_it_was(kind: str, small_run: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def listener(told: StepProgress) -> None:
        if told.step.kind == kind and told.node is not None and told.done > 0 and len(killed) < 2:
            carried = str((tmp_path / "run" / "carried").absolute())
            for process in Path("/proc").glob("[0-9]*"):
                line = (process / "cmdline").read_bytes().decode(errors="replace") if process.exists() else ""
                if carried in line and "_submit" in line:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))

    hf.run(study_of(), tmp_path / "run", engine="jobs", workers=2, listener=listener)
    assert killed
    assert (tmp_path / "run" / "analysis.json").read_bytes() == (small_run / "analysis.json").read_bytes()
    assert counts(tmp_path / "run") == counts(small_run)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*fates: tuple[str, float]) -> Path:
        commands = install(tmp_path / "slurm", fates)
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
        monkeypatch.setitem(jobs.STATE_SECONDS, "slurm", 0.2)
        monkeypatch.setitem(jobs.LOOK_SECONDS, "slurm", 0.05)
        return tmp_path / "slurm"

    return make


def test_slurm_jobs_make_what_one_worker_makes(
    slurm: Any, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = slurm(("PREEMPTED", 0.3), ("TIMEOUT", 0.3), ("NODE_FAIL", 0.3))
    monkeypatch.setenv("HOLDFAST_SLURM", "partition=gpu account=safety time=720 signal=USR1@60")
    heard: list[StepProgress] = []
    needs = {"gpus": 2, "cpus": 3, "memory_gb": 4.5, "accelerator": "a100"}
    run = run_with("slurm", tmp_path / "run", heard, resources={"train": needs})
    assert (run / "analysis.json").read_bytes() == (small_run / "analysis.json").read_bytes()
    assert counts(run) == counts(small_run)
    lost = [one.message for one in heard if one.state == "lost"]
    assert len(lost) == 3 and [
        state in line for state, line in zip(("PREEMPTED", "TIMEOUT", "NODE_FAIL"), lost, strict=True)
    ]
    first = " ".join(submitted(root)[0])
    for word in ("no-requeue", "partition=gpu", "account=safety", "time=720", "signal=USR1@60", "gres=gpu:a100:2"):
        assert word in first
    assert "cpus-per-task=3" in first and "mem=4500M" in first


@pytest.mark.full  # a study of its own
def test_a_job_that_the_queue_does_not_take_is_sent_again(slurm: Any, small_run: Path, tmp_path: Path) -> None:
    slurm(("REFUSED", 0.0), ("TIMEOUT", 12.0))
    heard: list[StepProgress] = []
    run = run_with("slurm", tmp_path / "run", heard)
    lost = [one.message for one in heard if one.state == "lost"]
    assert "was not taken there" in lost[0] and "QOS policy" in lost[0]
    assert (run / "analysis.json").read_bytes() == (small_run / "analysis.json").read_bytes()


def test_a_queue_that_takes_nothing_fails_the_step(slurm: Any, tmp_path: Path) -> None:
    slurm(*[("REFUSED", 0.0)] * 10)
    with pytest.raises(StepError, match=r"was not taken there .*lost 4 times"):
        run_with("slurm", tmp_path / "run")
    assert not list((tmp_path / "run" / "carried").iterdir())


@pytest.mark.parametrize("engine", ["local", pytest.param("jobs", marks=pytest.mark.full)])
def test_a_run_that_goes_on_elsewhere_ends_what_was_left_in_a_queue(
    engine: str, slurm: Any, base_cache: Path, tmp_path: Path
) -> None:
    root = slurm()
    left = tmp_path / "run" / "carried" / "f~a-1"
    with pytest.raises(KeyboardInterrupt):
        hf.run(study_of(), tmp_path / "run", workers=1, listener=_interrupt)
    left.mkdir(parents=True)
    (left / "job").write_text("slurm 4711")
    hf.run(study_of(), tmp_path / "run", workers=1, engine=engine)
    assert (root / "state" / "4711").read_text().startswith("CANCELLED") and not left.exists()


def _interrupt(_: StepProgress) -> None:
    raise KeyboardInterrupt


def test_a_job_goes_on_when_it_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit would stop the step at Slurm's warning, or have it put back into the queue."""
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = Job(
        folder=tmp_path,
        attempt="f~1",
        digest="0",
        weights_root=tmp_path,
        scratch=tmp_path,
        means=Means(),
        clerk=None,
        permitted=(),
        variables={"CUDA_VISIBLE_DEVICES": None},
    )
    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        assert not carry_job(job)  # there is no slice
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(("state", "jobs_tried"), [("OUT_OF_MEMORY", 4), ("FAILED", 4)])
def test_a_job_that_always_fails_fails_its_step(state: str, jobs_tried: int, slurm: Any, tmp_path: Path) -> None:
    root = slurm(*[(state, 0.2)] * 10)
    with pytest.raises(StepError, match=f"{state}.*lost 4 times"):
        run_with("slurm", tmp_path / "run")
    assert len(submitted(root)) == jobs_tried


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StudyError, match="no sbatch on PATH"):
        run_with("slurm", tmp_path / "run")


@pytest.mark.parametrize("name", ["rays", "ray:", "slurm:there", "local:1", "Ray", ""])
def test_an_engine_that_there_is_not(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_ENGINE", name or "nonsense")
    with pytest.raises(StudyError, match="engines there are: local, ray, ray:ADDRESS, slurm, jobs"):
        hf.run(SMOKE, tmp_path / "run", engine=name or None)
    assert not (tmp_path / "run").exists()


@pytest.mark.full  # a driver that is killed twice
def test_a_driver_that_is_killed_is_resumed_and_its_jobs_end(small_run: Path, tmp_path: Path) -> None:
    study = write_toml(one_stage(), tmp_path / "study.toml")
    words = [sys.executable, "-m", "holdfast", "run", str(study), "-o", str(tmp_path / "run"), "--engine", "jobs"]
    words += ["--no-report", "--quiet"]
    for seconds in (4.0, 9.0):
        driver = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
        time.sleep(seconds)
        driver.kill()
        driver.wait()
    subprocess.run(words, cwd=ROOT, check=True)
    assert (tmp_path / "run" / "analysis.json").read_bytes() == (small_run / "analysis.json").read_bytes()
    assert counts(tmp_path / "run") == counts(small_run)
