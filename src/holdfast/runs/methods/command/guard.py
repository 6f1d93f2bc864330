"""Runs one program for another process, and lets nothing of it live on; a script of the standard library alone.

holdfast ─ this script (a session of its own) ─ the program (a session of its own) ─ whatever that starts

It ends the program with all that descends from it when the program exits, at its timeout, at a signal, and when
holdfast is gone. On Linux a process whose own parent has gone comes to this script, so that one that left its group and
session is found too. What is to be run stands on standard input as JSON, what became of it goes to standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_LOOK_SECONDS = 0.25
_END_SECONDS = 10.0
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl


def main() -> None:
    """Carry out what standard input says, and say what became of it."""
    told = json.load(sys.stdin)
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)

    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, stop)
    prctl = _find_prctl()
    prctl(_SUBREAPER, 1)
    output = int(told["output"])
    try:
        program = subprocess.Popen(
            told["command"],
            env=told["env"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Without threads, as this script is, it is safe.
            preexec_fn=lambda: prctl(_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
    except (OSError, ValueError) as error:
        _say({"failed": getattr(error, "strerror", None) or str(error)})
        return
    os.close(output)
    end, late = time.monotonic() + told["timeout"], False
    try:
        while program.poll() is None and not stopped and not late and os.getppid() == told["parent"]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
            late = time.monotonic() >= end and program.poll() is None
    finally:
        left = _end(program)
    _say({"code": program.returncode, "late": late, "stopped": bool(stopped), "left": left})


def _end(program: subprocess.Popen[bytes]) -> int:
    """End the program and all that descends from it; how many processes it had left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    ended, until = set[int](), time.monotonic() + _END_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        alive = _children()
        if not alive:
            break
        for one in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGKILL)
        ended.update(alive)
        time.sleep(0.01)
    return len(ended)


def _children() -> list[int]:
    """The processes whose parent this one is, as Linux tells; none elsewhere."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name before it, in brackets, may hold anything.
            if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _find_prctl() -> Callable[[int, int], Any]:
    """Linux' prctl; elsewhere a function that does nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None, use_errno=True)
            return lambda option, value: library.prctl(option, value, 0, 0, 0)
    return lambda option, value: None


def _say(told: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # holdfast is gone
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
