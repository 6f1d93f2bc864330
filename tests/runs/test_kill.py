"""Kill −9 at any moment, run again: the same final table, and nothing repeated that was committed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders.places import TESTS
from builders.smoke_study import SMOKE, smoke_settings, write_toml

import holdfast as hf
from holdfast.records import Checkpoint
from holdfast.store import Store, weights


def final_table(path: Path) -> tuple[bytes, list[dict[str, object]]]:
    scores = hf.Run(path).scores()
    return (path / "analysis.json").read_bytes(), sorted(scores, key=lambda row: json.dumps(row, sort_keys=True))


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HOLDFAST_CACHE": str(cache), "PYTHONPATH": str(TESTS.parent / "src")}


@pytest.mark.full
def test_kills_change_nothing(base_cache: Path, tmp_path: Path) -> None:
    """The base comes from the cache after the first run, so that kills fall into the many short steps."""
    command = [
        sys.executable,
        str(TESTS / "builders/kill_loop.py"),
        str(SMOKE),
        str(tmp_path / "runs"),
        "50",
        "7",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment(base_cache), check=False)
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)
    assert result["wrong"] == []
    assert result["killed"] >= 50 and result["finished"]
    whole = final_table(Path(result["whole"]))
    for path in result["finished"]:
        assert final_table(Path(path)) == whole


def test_stopped_between_weights_and_their_note(
    base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that stand in their place before the run knows of them are made again, and are the same."""
    settings = smoke_settings()
    settings["study"]["lineages"], settings["doses"] = [["S"]], {"S": [1, 2]}
    study = hf.Study.model_validate(settings)
    hf.run(study, tmp_path / "whole", workers=1)
    add_checkpoint = Store.add_checkpoint

    def stop(store: Store, checkpoint: Checkpoint) -> None:
        if checkpoint.stages:
            raise KeyboardInterrupt
        add_checkpoint(store, checkpoint)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "add_checkpoint", stop)
        hf.run(study, tmp_path / "stopped", workers=1)
    left = {path.name for path in (tmp_path / "stopped" / "weights").iterdir()}
    made = {name for name in left if not name.startswith(weights.TEMPORARY)}
    with Store(tmp_path / "stopped") as store:
        assert len(store.checkpoints()) == 1 and len(made) == 3
    assert len(left) == 4, "what the stage needs to go on is kept"
    hf.run(study, tmp_path / "stopped", workers=1)
    assert {path.name for path in (tmp_path / "stopped" / "weights").iterdir()} == made
    assert final_table(tmp_path / "stopped") == final_table(tmp_path / "whole")


RESUMED = """
import sys
import holdfast as hf
from holdfast.training.loop import loop
loop.SAVE_SECONDS = 0.0
hf.run(sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
"""


def lines_under_way(run: Path) -> list[bytes]:
    """What the stage that a run is at has logged."""
    logs = [path.read_bytes() for path in (run / "weights").glob(f"{weights.TEMPORARY}*/loop/train.jsonl")]
    return logs[0].splitlines(keepends=True) if logs else []


def digests(run: Path) -> dict[str, str | None]:
    with Store(run) as store:
        return {checkpoint.id: checkpoint.digest for checkpoint in store.checkpoints()}


@pytest.mark.full
def test_a_stage_killed_midway_goes_on_from_its_saved_state(base_cache: Path, tmp_path: Path) -> None:
    settings = smoke_settings()
    settings["study"]["lineages"], settings["doses"] = [["S"]], {"S": [1, 2]}
    settings["stages"]["S"]["steps"] = 60
    study = write_toml(settings, tmp_path / "study.toml")
    whole, killed = hf.run(study, tmp_path / "whole", workers=1).path, tmp_path / "killed"
    (log,) = (whole / "logs").iterdir()
    assert len(log.read_bytes().splitlines()) == 120
    kept: list[bytes] = []
    for least in (8, 75):  # before the first dose, and after it
        command = [sys.executable, "-c", RESUMED, str(study), str(killed), "1"]
        child = subprocess.Popen(command, env=environment(base_cache))
        while len(found := lines_under_way(killed)) < least and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        found = lines_under_way(killed)
        # A line is written before the state: the last one may be taken back.
        assert least <= len(found) < 120 and found[: len(kept)] == kept
        kept = found[:-1]
    (killed / "weights" / f"{weights.TEMPORARY}of-no-step-of-the-plan").mkdir()
    hf.run(study, killed, workers=1)
    lines = (killed / "logs" / log.name).read_bytes().splitlines(keepends=True)
    assert len(lines) == 120 and lines[: len(kept)] == kept, "what was done was done once"
    assert digests(killed) == digests(whole)
    assert final_table(killed) == final_table(whole)
    assert not list((killed / "weights").glob(f"{weights.TEMPORARY}*"))


@pytest.mark.full
def test_killed_with_its_workers_at_work(tmp_path: Path) -> None:
    """The command itself, teaching included: workers end with their parent, and the table is that of one worker."""
    closed = tmp_path / "closed"
    closed.write_text("a cache that cannot be written")
    command = [sys.executable, "-m", "holdfast", "run", str(SMOKE), "--quiet", "--no-report"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    subprocess.run([*command, "-o", str(alone), "--workers", "1"], env=environment(closed), check=True)
    chance = random.Random(3)
    for _ in range(4):
        parent = subprocess.Popen([*command, "-o", str(killed), "--workers", "2"], env=environment(closed))
        time.sleep(chance.uniform(2, 12))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    subprocess.run([*command, "-o", str(killed), "--workers", "2"], env=environment(closed), check=True)
    assert final_table(killed) == final_table(alone)
    with Store(killed, writable=True):  # nobody holds the lock
        assert not list((killed / "weights").glob(".part-*"))
