"""The harness of `make faults` itself: a fault falls where it is placed, and every case follows from the seed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from faults import bad_inputs, flips, placed
from faults.classes import FAILING, Found, Kind, render
from faults.warm import HERE

SCRIPT = """
import ctypes, mmap, os, sys
from faults.warm import ERRORS, MODES, FAIL, Plan
shim, folder, how, at, lasting = sys.argv[1:]
plan = Plan.from_buffer(mmap.mmap(-1, ctypes.sizeof(Plan)))
plan.prefix, plan.target, plan.lasting, plan.logging = folder.encode(), int(at), int(lasting), 1
plan.mode, plan.error = MODES.get(how, FAIL), ERRORS.get(how, 0)
ctypes.CDLL(shim).faults_arm(ctypes.byref(plan))
os.chdir(folder)
handle, failed = os.open("file", os.O_RDWR | os.O_CREAT), []
for act in (
    lambda: os.write(handle, b"12345678"),
    lambda: os.fsync(handle),
    lambda: os.rename("file", "other"),
    lambda: os.pwrite(handle, b"abcd", 8),
    lambda: os.mkdir("more"),
    lambda: os.unlink("other"),
):
    try:
        act()
    except OSError as error:
        failed.append(error.errno)
open("/dev/null", "w").write("not counted")
print("".join(plan.log[n].value.decode()[0] for n in range(plan.count)), *failed)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs cc")
    made = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, HERE / "shim.c", "-ldl"], check=True)
    return made


def act(shim: Path, folder: Path, how: str, at: int, lasting: int = 0) -> tuple[int, str]:
    """Exit code and output of the script, with a fault."""
    surroundings = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parent)}
    words = [sys.executable, "-c", SCRIPT, shim, folder, how, str(at), str(lasting)]
    done = subprocess.run(words, capture_output=True, text=True, env=surroundings, check=False)
    return done.returncode, done.stdout.strip()


def test_operations_are_counted_and_fail_where_they_are_told_to(shim: Path, tmp_path: Path) -> None:
    assert act(shim, tmp_path, "enospc", 99) == (0, "wsrwmu")
    (tmp_path / "more").rmdir()
    assert act(shim, tmp_path, "eio", 2) == (0, "wsrwmu 5 2"), "the rename fails, so there is nothing to unlink"
    # A full disk refuses writes, syncs and directories; renames and removals go on.
    assert act(shim, tmp_path, "enospc", 1, 1) == (0, "wsrwmu 28 28 28")
    assert act(shim, tmp_path, "short", 0)[0] == 0


@pytest.mark.parametrize(("how", "at", "size"), [("before", 0, 0), ("half", 0, 4), ("after", 0, 8), ("half", 3, 10)])
def test_a_kill_falls_before_after_or_in_the_middle(shim: Path, tmp_path: Path, how: str, at: int, size: int) -> None:
    assert act(shim, tmp_path, how, at) == (-9, "")
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size == size and left.name == ("other" if at > 2 else "file")


def test_cases_follow_from_the_seed_and_meet_every_kind_of_operation() -> None:
    operations = tuple(("w", f"run/weights/{'0' * 15}{n:x}/{name}") for n in range(8) for name in ("a", "b"))
    operations += (("s", "run/run.db"), ("r", "run/analysis.json"))
    chosen = [placed.choose(operations, 7, "kill run", number) for number in range(12)]
    assert chosen == [placed.choose(operations, 7, "kill run", number) for number in range(12)]
    assert chosen != [placed.choose(operations, 8, "kill run", number) for number in range(12)]
    counts = Counter((operations[at][0], operations[at][1][-1]) for at, _ in chosen)
    assert set(counts.values()) == {3}, "four kinds take turns"
    ways = {(operations[at], way % 3) for at, way in chosen if operations[at][0] != "w"}
    assert len(ways) == 6, "and each is met in each way"


def test_there_are_as_many_faults_as_were_asked_for() -> None:
    names = [f"{name}/{n}" for name, n in placed.place(150)]
    assert len(names) >= 150 and len(set(names)) == len(names)
    assert Counter(kind for kind, _ in bad_inputs.share(250)).most_common()[-1][1] >= 41


def test_inputs_are_wrong_in_many_ways() -> None:
    most = max(number for _, number in bad_inputs.share(250)) + 1
    for made in (bad_inputs.studies(), bad_inputs.rules(), bad_inputs.judges(), bad_inputs.traces(random.Random(7))):
        assert len(made) >= most


def test_one_bit_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    flips.flip(path, random.Random(7))
    assert sum(byte.bit_count() for byte in path.read_bytes()) == 1


def test_the_table_counts_what_was_reached() -> None:
    found = [Found(f"kill/run/{n}", kind, "") for n, kind in enumerate((Kind.RIGHT, Kind.RIGHT, Kind.LOST))]
    table = render([*found, Found("kill/run/9", Kind.MISSED, "")])
    assert "| kill/run | 3 | 2 | – | – | – | – | 1 | – | – |" in table and "tried: 3 kill" in table
    assert Kind.LOST in FAILING and Kind.TOLD not in FAILING and Kind.LEFTOVER not in FAILING
