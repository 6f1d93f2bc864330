"""Directories of weights: their digests, how a run adopts them, and the cache of bases."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from builders.smoke_study import smoke_settings

import holdfast as hf
from holdfast.runs.build import build
from holdfast.runs.run import fork_run
from holdfast.store import Store, weights


def directory(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in (files or {"config": "{}", "model": "numbers"}).items():
        (path / f"{name}.json").write_text(text)
    return path


def test_a_digest_covers_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    one = directory(tmp_path / "one", a="1", b="2")
    other = directory(tmp_path / "other", b="2", a="1")
    parts = b"".join(
        name.encode() + b"\0" + hashlib.sha256(text.encode()).digest()
        for name, text in (("a.json", "1"), ("b.json", "2"))
    )
    assert weights.digest_directory(one) == weights.digest_directory(other) == hashlib.sha256(parts).hexdigest()
    digests = {
        weights.digest_directory(directory(tmp_path / name, **files))
        for name, files in {
            "swapped": {"a": "2", "b": "1"},
            "joined": {"a": "12"},
            "renamed": {"a": "1", "c": "2"},
        }.items()
    }
    assert len(digests | {weights.digest_directory(one)}) == 4


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "state.pkl", "run.py", "folder.json", "link.json"])
def test_what_could_run_code_or_leave_the_directory_is_refused(name: str, tmp_path: Path) -> None:
    place = directory(tmp_path / "weights")
    if name.startswith("folder"):
        (place / name).mkdir()
    elif name.startswith("link"):
        (place / name).symlink_to("/etc/hostname")
    else:
        (place / name).write_bytes(b"\x80\x04.")
    with pytest.raises(hf.StoreError, match=f"{name}: not a file that a weights directory may hold; convert"):
        weights.digest_directory(place)
    (tmp_path / "root").mkdir()
    with pytest.raises(hf.StoreError):
        weights.adopt(place, tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_adoption_is_a_rename_to_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    first, second, third = (directory(tmp_path / name) for name in ("first", "second", "third"))
    digest = weights.digest_directory(first)

    def fail(path: Path) -> None:
        raise OSError("the machine stops before the rename")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="before the rename"):
        patch.setattr(weights, "sync_tree", fail)
        weights.adopt(first, root)
    assert not list(root.iterdir()) and first.is_dir()
    assert weights.adopt(second, root) == digest and not second.exists()
    assert weights.digest_directory(root / digest) == digest
    held = (root / digest / "model.json").stat().st_ino
    assert weights.adopt(third, root) == digest and not third.exists()  # equal weights are kept once
    assert (root / digest / "model.json").stat().st_ino == held
    assert [path.name for path in root.iterdir()] == [digest]


def test_leftovers_go_and_weights_stay(tmp_path: Path) -> None:
    for name in ("abc", "abc-7"):
        directory(tmp_path / f"{weights.TEMPORARY}{name}" / "taught")
    directory(tmp_path / "whole")
    weights.discard_leftovers(tmp_path, keep={"abc"})
    assert {path.name for path in tmp_path.iterdir()} == {"whole", f"{weights.TEMPORARY}abc"}
    weights.discard_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_unfinished_work_waits_for_the_next_process_and_serves_one_at_a_time(tmp_path: Path) -> None:
    with weights.open_scratch(weights.scratch_of(tmp_path / "weights", "abc")) as scratch:
        directory(scratch / "taught")
        (scratch / "note").write_text("half")
    script = (
        "import sys, time, pathlib\nfrom holdfast.store import weights\n"
        "with weights.open_scratch(weights.scratch_of(pathlib.Path(sys.argv[1]), 'abc')):\n"
        " print('held', flush=True)\n time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "weights")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        threading.Timer(0.3, holder.kill).start()
        started = time.monotonic()
        with weights.open_scratch(weights.scratch_of(tmp_path / "weights", "abc")) as scratch:
            assert time.monotonic() - started > 0.2
            assert {path.name for path in scratch.iterdir()} == {"taught", "note"}
            weights.clear_scratch(scratch)
            assert scratch.is_dir() and not list(scratch.iterdir())


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bases"


def test_what_is_cached_comes_back_whole(tmp_path: Path, own_cache: Path) -> None:
    taught = directory(tmp_path / "taught")
    assert not weights.fetch_cached("f1", tmp_path / "none")
    weights.keep_cached("f1", taught)
    weights.keep_cached("f1", taught)
    (entry,) = own_cache.iterdir()
    assert weights.fetch_cached("f1", tmp_path / "fetched")
    assert weights.digest_directory(tmp_path / "fetched") == weights.digest_directory(taught)
    assert not weights.fetch_cached("f2", tmp_path / "none") and not (tmp_path / "none").exists()
    assert entry.name == f"f1-{weights.digest_directory(taught)}"


@pytest.mark.parametrize("damage", ["changed", "missing", "pickle", "no directory"])
def test_a_damaged_entry_is_discarded(damage: str, tmp_path: Path, own_cache: Path) -> None:
    weights.keep_cached("f1", directory(tmp_path / "taught"))
    (entry,) = own_cache.iterdir()
    if damage == "changed":
        (entry / "model.json").write_text("other numbers")
    elif damage == "missing":
        (entry / "model.json").unlink()
    elif damage == "pickle":
        (entry / "model.bin").write_bytes(b"\x80\x04.")
    else:
        shutil.rmtree(entry)
        entry.write_text("a file")
    assert not weights.fetch_cached("f1", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists() and not entry.is_dir()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    taught = directory(tmp_path / "taught")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        monkeypatch.setenv("HOLDFAST_CACHE", str(place))
        weights.keep_cached("f1", taught)
        assert not weights.fetch_cached("f1", tmp_path / "fetched")


def test_a_copy_that_fails_leaves_nothing_in_the_cache(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path, **_: object) -> None:
        (target / "half").touch()
        raise OSError("no space left")

    monkeypatch.setattr(shutil, "copytree", fail)
    weights.keep_cached("f1", directory(tmp_path / "taught"))
    assert not list(own_cache.iterdir())


@pytest.mark.full
def test_a_base_of_a_damaged_cache_is_taught_anew(
    smoke_run: Path, base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged entry is replaced by the very weights that were taught at first."""
    shutil.copytree(base_cache, tmp_path / "cache")
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    with Store(smoke_run) as theirs:
        taught = next(c for c in theirs.checkpoints() if not c.stages).digest
    # Other tests of this process may have taught bases too.
    (entry,) = (tmp_path / "cache" / "bases").glob(f"*-{taught}")
    (entry / "model.safetensors").write_bytes(b"torn")
    settings = smoke_settings()
    settings["study"]["lineages"], settings["doses"] = [["S"]], {}
    study = hf.Study.model_validate(settings)
    hf.run(study, tmp_path / "run", workers=1)
    with Store(tmp_path / "run") as ours:
        base = next(c for c in ours.checkpoints() if not c.stages)
    assert base.digest == taught
    assert weights.digest_directory(entry) == entry.name.split("-")[1] == base.digest


def test_weights_that_are_gone_are_told(smoke_run: Path, tmp_path: Path) -> None:
    """A stage that starts from a checkpoint whose directory somebody removed."""
    settings = smoke_settings()
    settings["stages"]["H"]["steps"] = 5
    fork = tmp_path / "fork"
    fork_run(smoke_run, fork, build(hf.Study.model_validate(settings)))
    shutil.rmtree(fork / "weights")
    with pytest.raises(
        hf.StepError, match=r"tiny-0 · base: its weights are not at .*; run the study again in a new run"
    ):
        hf.run(hf.Study.model_validate(settings), fork, workers=1)
