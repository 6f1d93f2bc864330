"""One piece of work in several processes that train together: started, watched, ended.

python -m holdfast.training.launch FOLDER      is one of them, told by RANK and WORLD_SIZE which
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, StepError

_WORK, _MEETING = "work.pickle", "meeting"
_LOOK_SECONDS = 0.2
_SHOWN_LINES = 5


def run_together(processes: int, work: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What ``work(**arguments)`` returns in the first of several processes; all of them run it.

    Work and arguments are pickled. Errors: the work's own HoldfastError, else StepError with what the process that
    failed first said last; the others are ended.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-together-") as name:
        folder = Path(name)
        (folder / _WORK).write_bytes(pickle.dumps((work, dict(arguments))))
        started = [_start(folder, rank, processes) for rank in range(processes)]
        try:
            failed = _wait(started)
        finally:
            for process in started:
                process.kill()
                process.wait()
        if failed is not None:
            raise _failure(folder, failed, started[failed].returncode)
        return pickle.loads(_result(folder, 0).read_bytes())


def _result(folder: Path, rank: int) -> Path:
    return folder / f"result-{rank}.pickle"


def _log(folder: Path, rank: int) -> Path:
    return folder / f"log-{rank}.txt"


def _start(folder: Path, rank: int, world: int) -> subprocess.Popen[bytes]:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "OMP_NUM_THREADS": 1}
    with _log(folder, rank).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast.training.launch", str(folder)],
            env={**os.environ, **{key: str(value) for key, value in told.items()}},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait(started: list[subprocess.Popen[bytes]]) -> int | None:
    """The rank of the first process that failed, or None once all are done."""
    while True:
        codes = [process.poll() for process in started]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(_LOOK_SECONDS)


def _failure(folder: Path, rank: int, code: int) -> HoldfastError:
    result = _result(folder, rank)
    if result.exists():
        error = pickle.loads(result.read_bytes())
        if isinstance(error, HoldfastError):
            return error
    said = _log(folder, rank).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    return StepError(f"training process {rank} ended with {code}: {' / '.join(said) or 'it said nothing'}")


def _stop_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def main(folder: Path) -> int:
    """One of the processes."""
    threading.Thread(target=_stop_with_parent, args=(os.getppid(),), daemon=True).start()
    from holdfast.training.ranks import join_ranks

    rank = int(os.environ["RANK"])
    # Written by the parent into a directory that only its user can write to.
    work, arguments = pickle.loads((folder / _WORK).read_bytes())
    join_ranks(folder / _MEETING)
    try:
        found, code = work(**arguments), 0
    except HoldfastError as error:
        found, code = error, 1
    _result(folder, rank).write_bytes(pickle.dumps(found))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
