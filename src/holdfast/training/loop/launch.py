"""One piece of work in several processes that train together: started, watched, ended.

python -m holdfast.training.loop.launch FOLDER      is one of them, told by RANK and WORLD_SIZE which
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.records.errors import HoldfastError, StepError
from holdfast.records.outputs import scratch_directory, write_file
from holdfast.records.processes import stop_with

_WORK, _MEETING, _PARENT = "work.pickle", "meeting", "HOLDFAST_PARENT"
_RESULT, _LOG = "result-{}.pickle", "log-{}.txt"  # by rank
_LOOK_SECONDS = 0.2
_SHOWN_LINES = 5


def run_together(processes: int, work: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What ``work(**arguments)`` returns in the first of several processes; all of them run it.

    Work and arguments are pickled. Errors: the work's own HoldfastError, else StepError with what the process that
    failed first said last; the others are ended.
    """
    with scratch_directory() as folder:
        (folder / _WORK).write_bytes(pickle.dumps((work, dict(arguments))))
        started: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(processes):
                started.append(_start(folder, rank, processes))
            failed = _wait(started)
        finally:
            for process in started:
                process.kill()
                process.wait()
        results = [folder / _RESULT.format(rank) for rank in range(processes)]
        if failed is None:
            return pickle.loads(results[0].read_bytes())
        # An error of the work in any process comes first, for the others' follow from it.
        for result in results:
            if result.exists() and isinstance(error := pickle.loads(result.read_bytes()), HoldfastError):
                raise error
        said = (folder / _LOG.format(failed)).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = " / ".join(said[-_SHOWN_LINES:]) or "it said nothing"
        raise StepError(f"training process {failed} ended with {started[failed].returncode}: {last}")


def _start(folder: Path, rank: int, world: int) -> subprocess.Popen[bytes]:
    settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "OMP_NUM_THREADS": 1}
    settings[_PARENT] = os.getpid()
    with (folder / _LOG.format(rank)).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast.training.loop.launch", str(folder)],
            env={**os.environ, **{key: str(value) for key, value in settings.items()}},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait(started: list[subprocess.Popen[bytes]]) -> int | None:
    """The rank of the first process that failed, or None once all are done."""
    while True:
        codes = [process.poll() for process in started]
        if any(codes) or all(code == 0 for code in codes):
            return next((rank for rank, code in enumerate(codes) if code), None)
        time.sleep(_LOOK_SECONDS)


def main(folder: Path) -> int:
    """One of the processes."""
    stop_with(int(os.environ[_PARENT]))
    from holdfast.training.ranks import join_ranks, leave_ranks

    # Written by the parent into a directory that only its user can write to.
    work, arguments = pickle.loads((folder / _WORK).read_bytes())
    join_ranks(folder / _MEETING)
    try:
        result, code = work(**arguments), 0
        leave_ranks()
    except HoldfastError as error:
        result, code = error, 1
    write_file(folder / _RESULT.format(os.environ["RANK"]), pickle.dumps(result))
    return code


if __name__ == "__main__":
    ended = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do, and what libraries do as an interpreter ends has aborted processes that were done.
    os._exit(ended)
