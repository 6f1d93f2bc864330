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
from smoke_study import SMOKE, smoke_settings

import holdfast as hf
from holdfast.records import Checkpoint
from holdfast.store import Store

TESTS = Path(__file__).parent
KILLS = 50


def final_table(path: Path) -> tuple[bytes, list[dict[str, object]]]:
    scores = hf.Run(path).scores()
    return (path / "analysis.json").read_bytes(), sorted(scores, key=lambda row: json.dumps(row, sort_keys=True))


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HOLDFAST_CACHE": str(cache), "PYTHONPATH": str(TESTS.parent / "src")}


def test_fifty_kills_change_nothing(tmp_path: Path) -> None:
    """The base comes from the cache after the first run, so that kills fall into the many short steps."""
    command = [sys.executable, str(TESTS / "kill_loop.py"), str(SMOKE), str(tmp_path / "runs"), str(KILLS), "7"]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path / "cache"), check=False)
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)
    assert result["wrong"] == []
    assert result["killed"] >= KILLS and result["finished"]
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
    with Store(tmp_path / "stopped") as store:
        assert len(store.checkpoints()) == 1 and len(left) == 3
    hf.run(study, tmp_path / "stopped", workers=1)
    assert {path.name for path in (tmp_path / "stopped" / "weights").iterdir()} == left
    assert final_table(tmp_path / "stopped") == final_table(tmp_path / "whole")


def test_killed_with_its_workers_at_work(tmp_path: Path) -> None:
    """The command itself, teaching included: workers end with their parent, and the table is that of one worker."""
    closed = tmp_path / "closed"
    closed.write_text("a cache that cannot be written")
    command = [sys.executable, "-m", "holdfast.cli", "run", str(SMOKE), "--quiet", "--no-report"]
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
