"""The script that watches over a user's program: however that ends, its end is told and nothing of it lives on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.runs.methods.command import guard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="who descends from whom is told by /proc")
# A child that leaves its group and its session, notes its number and sleeps on.
LEAVES_ONE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.01)
"""


def begin(
    tmp_path: Path, command: list[str], timeout: float = 30.0, parent: int | None = None
) -> subprocess.Popen[str]:
    """The script with a program to run, whose output goes to a file."""
    with (tmp_path / "output").open("wb") as output:
        watching = subprocess.Popen(
            [sys.executable, "-m", guard.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=(output.fileno(),),
        )
        assert watching.stdin is not None
        told = {"command": command, "env": {}, "timeout": timeout, "output": output.fileno()}
        watching.stdin.write(json.dumps({**told, "parent": os.getpid() if parent is None else parent}))
        watching.stdin.close()
    return watching


def end(watching: subprocess.Popen[str]) -> dict[str, Any]:
    assert watching.stdout is not None
    with watching.stdout as stdout:
        said = stdout.read()
    watching.wait(30)
    return dict(json.loads(said))


def is_gone(number: int) -> bool:
    for _ in range(500):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_an_exit_code_is_told_and_a_child_that_left_its_session_is_ended(tmp_path: Path) -> None:
    note = tmp_path / "child"
    ending = f"{LEAVES_ONE}\nprint('said'); sys.exit(3)"
    told = end(begin(tmp_path, [sys.executable, "-I", "-S", "-c", ending, str(note)]))
    assert told == {"code": 3, "late": False, "stopped": False, "left": 1}
    assert is_gone(int(note.read_text())) and (tmp_path / "output").read_text() == "said\n"


def test_a_program_that_hangs_is_ended_at_its_time(tmp_path: Path) -> None:
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    told = end(begin(tmp_path, [sys.executable, "-I", "-S", "-c", ignoring], timeout=0.5))
    assert told == {"code": -signal.SIGKILL, "late": True, "stopped": False, "left": 0}


def test_a_signal_ends_the_program_too(tmp_path: Path) -> None:
    note = tmp_path / "child"
    watching = begin(tmp_path, [sys.executable, "-I", "-S", "-c", f"{LEAVES_ONE}\ntime.sleep(60)", str(note)])
    while not note.exists() or not note.read_text():
        time.sleep(0.01)
    watching.terminate()
    told = end(watching)
    assert told["stopped"] and told["code"] == -signal.SIGKILL and told["left"] == 1
    assert is_gone(int(note.read_text()))


def test_nothing_goes_on_for_a_process_that_is_gone(tmp_path: Path) -> None:
    told = end(begin(tmp_path, ["/bin/sleep", "60"], parent=1))
    assert told == {"code": -signal.SIGKILL, "late": False, "stopped": False, "left": 0}


@pytest.mark.parametrize("command", [["/no/such/program"], ["/etc"], ["a\0b"]])
def test_what_cannot_be_begun_is_said(command: list[str], tmp_path: Path) -> None:
    assert list(end(begin(tmp_path, command))) == ["failed"]
