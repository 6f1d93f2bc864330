"""Runs on disks that several machines share: the driver has the database alone, readers get a snapshot."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from builders.rewarded_study import paid_study, verdict
from builders.smoke_study import SMOKE

import holdfast as hf
from holdfast.models.fakes import FakeProvider
from holdfast.models.remote.ledger import read_spending
from holdfast.records import disks
from holdfast.records.errors import StepError, StoreError
from holdfast.runs import execution
from holdfast.runs.costs.outlook import Outlook
from holdfast.runs.execution import StepProgress
from holdfast.runs.plan.step import Plan
from holdfast.runs.waiting import Waiting
from holdfast.store import DATABASE, Store
from holdfast.store.database import SNAPSHOT
from holdfast.study.study import load

MOUNTS = """\
22 28 0:21 / /proc rw - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
40 28 0:40 / {root}/nfs rw - nfs4 server:/export rw
41 40 0:41 / {root}/nfs/scratch rw - ext4 /dev/sdb rw
42 28 0:42 / {root}/a\\040b rw - lustre mgs:/fs rw
43 28 0:43 / {root}/over rw - nfs server:/x rw
44 28 0:44 / {root}/over rw - tmpfs tmpfs rw
45 28 0:45 / {root}/fuse rw - fuse.sshfs host: rw
46 28 0:46 / {root}/mine rw - fuse.ext2 /dev/loop rw
torn line
"""


@pytest.mark.parametrize(
    ("place", "shared"),
    [
        ("nfs/runs/mine", True),
        ("nfs", True),
        ("nfs/scratch/runs", False),
        ("a b/run", True),
        ("over/run", False),
        ("fuse/run", True),
        ("mine/run", False),
        ("elsewhere", False),
        ("nfsx/run", False),
    ],
)
def test_network_disks_are_found(place: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nfs/scratch", "a b", "over", "fuse", "mine", "nfsx"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "mounts").write_text(MOUNTS.format(root=tmp_path))
    monkeypatch.setattr(disks, "_MOUNTS", tmp_path / "mounts")
    assert disks.is_shared(tmp_path / place) is shared
    monkeypatch.setenv("HOLDFAST_DISK", "local" if shared else "network")
    assert disks.is_shared(tmp_path / place) is not shared
    monkeypatch.setenv("HOLDFAST_DISK", "")
    monkeypatch.setattr(disks, "_MOUNTS", tmp_path / "none")
    assert not disks.is_shared(tmp_path / place)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_a_network_disk_is_the_same_run(
    workers: int, smoke_run: Path, base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DISK", "network")
    monkeypatch.setattr(execution, "SNAPSHOT_SECONDS", 0.5)
    run, seen, notes = tmp_path / "run", list[int](), list[str]()

    def look(told: StepProgress) -> None:
        assert not (run / f"{DATABASE}-shm").exists()  # no memory is shared
        if told.state == "done" and (run / SNAPSHOT).exists():
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                sqlite3.connect(run / DATABASE, timeout=0).execute("SELECT count(*) FROM meta").fetchall()
            with Store(run) as store:
                seen.append(store.counts()["trajectories"])
                notes.append(store.doubt or "")

    hf.run(load(SMOKE), run, workers=workers, listener=look)
    assert (run / "analysis.json").read_bytes() == (smoke_run / "analysis.json").read_bytes()
    assert seen == sorted(seen) and seen[-1] > 0 and all("a snapshot of" in one for one in notes)
    assert not (run / SNAPSHOT).exists()
    with Store(run) as store, Store(smoke_run) as other:
        assert store.counts() == other.counts() and store.doubt is None


def test_readers_wait_for_the_first_snapshot_and_writers_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DISK", "network")
    with Store.create(tmp_path / "run") as store:
        store.set_meta("a", "1")
        with pytest.raises(StoreError, match="no snapshot to read yet"):
            Store(tmp_path / "run")
        store.write_snapshot()
        store.set_meta("a", "2")
        with Store(tmp_path / "run") as reader:
            assert reader.meta("a") == "1"
        with pytest.raises(StoreError, match="another process writes to this run"):
            Store(tmp_path / "run", writable=True)
        words = [sys.executable, "-m", "holdfast", "show", str(tmp_path / "run")]
        shown = subprocess.run(words, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stderr
    with Store(tmp_path / "run") as reader:
        assert reader.meta("a") == "2"


def test_calls_of_a_run_on_a_network_disk_are_in_its_ledger(
    base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DISK", "network")
    with FakeProvider(answers=verdict) as provider:
        study = paid_study(provider.base_url)
        with pytest.raises(StepError, match="the budget of 3 calls is spent"):
            hf.run(study, tmp_path / "run", workers=2, max_calls=3)
        assert len(provider.bill) == 3
        (spent,) = read_spending(tmp_path / "run" / "calls.db")
        assert spent.calls == 3
        hf.run(study, tmp_path / "run", workers=2)
        assert len({one.digest for one in provider.bill}) == len(provider.bill) > 3


def test_people_are_told_once_where_no_snapshot_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "SNAPSHOT_SECONDS", 0.0)
    warnings: list[str] = []
    with Store.create(tmp_path / "run") as store:
        (store.path / f"{SNAPSHOT}.part").mkdir()  # where the copy would be made
        plan, queue = Plan(study=load(SMOKE), steps=()), Waiting([], set())
        outlook = Outlook(plan, [], {}, 1)
        state = execution._Execution(plan, store, lambda _: None, queue, {}, set(), outlook, warnings.append, True)
        for _ in range(3):
            state.next_snapshot = 0.0
            state.take_snapshot()
        assert len(warnings) == 1 and "no snapshot of the run can be written" in warnings[0]
        (store.path / f"{SNAPSHOT}.part").rmdir()
        state.next_snapshot = 0.0
        state.take_snapshot()
        assert (store.path / SNAPSHOT).is_file() and len(warnings) == 1
