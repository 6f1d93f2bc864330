"""Commands in forked children of a process that has loaded everything, with a fault placed at the k-th operation.

The shim (shim.c) must be preloaded; ``start`` compiles it and starts Python anew under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SHIM = "HOLDFAST_FAULTS_SHIM"
LOGGED, ENTRY, PREFIX = 40_000, 160, 1024
BEFORE, AFTER, HALF, FAIL, SHORT = 1, 2, 3, 4, 5
MODES = {"before": BEFORE, "after": AFTER, "half": HALF, "short": SHORT}
ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO, "edquot": errno.EDQUOT}
UNFORESEEN = 4  # the exit code of an error that nobody foresaw
LIBRARIES = (
    *("torch", "transformers.models.llama.modeling_llama", "pyarrow.parquet", "typst"),
    *("inspect_ai.log", "inspect_ai.model", "openai", "holdfast.cli.main", "holdfast.analysis", "holdfast.report"),
    *(
        "holdfast.exchange.inspect",
        "holdfast.models.local.local",
        "holdfast.models.tiny.model",
        "holdfast.runs.execution",
    ),
    "holdfast.training.dpo.stage",
)
MEMORY = 3 << 30  # more than the process has, for commands on bad input


class Plan(ctypes.Structure):
    """What the shim is told and what it counts; shim.c has the same."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("count", "fired", "target", "mode", "error", "lasting", "pid", "logging")),
        ("prefix", ctypes.c_char * PREFIX),
        ("log", ctypes.c_char * ENTRY * LOGGED),
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """At operation ``at`` (from 0): "before", "after", "half" (kills), or "short", "enospc", "eio", "edquot"."""

    at: int
    how: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (minus the signal for a kill, None for one that had to be stopped) and its words.

    ``operations`` are those that the shim counted, as (kind, path), where they were asked for.
    """

    code: int | None
    out: str
    err: str
    fired: int = 0
    operations: tuple[tuple[str, str], ...] = ()

    @property
    def torn(self) -> bool:
        """Whether it ended in a traceback, or in an error that nobody foresaw."""
        return "Traceback (most recent call last)" in self.err or self.code == UNFORESEEN

    @property
    def told(self) -> bool:
        """Whether it said what was wrong."""
        return any(line.startswith("holdfast: ") for line in self.err.splitlines())


def start(arguments: Sequence[str], scratch: Path) -> int:
    """Run this program again with the shim before its libraries; its exit code."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        sys.stderr.write("faults: no C compiler (cc) for the shim; install gcc, as by `apt-get install gcc`\n")
        return 2
    shim = scratch / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
    tests = HERE.parent
    surroundings = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")},
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        "LD_PRELOAD": str(shim),
        SHIM: str(shim),
        "HF_HUB_OFFLINE": "1",
        "HOLDFAST_CACHE": str(scratch / "cache"),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(str(one) for one in (tests.parent / "src", tests)),
    }
    return subprocess.run([sys.executable, "-m", "faults", *arguments], env=surroundings, check=False).returncode


def load_everything() -> None:
    """Import what commands import, so that a forked child has it."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


class Shop:
    """Runs commands, one at a time."""

    def __init__(self) -> None:
        """The shim's half of it. Errors: KeyError where this process was not started by ``start``."""
        self._shim = ctypes.CDLL(os.environ[SHIM])
        self._memory = mmap.mmap(-1, ctypes.sizeof(Plan))
        self.plan = Plan.from_buffer(self._memory)

    def carry_out(
        self,
        words: Sequence[str],
        work: Path,
        fault: Fault | None = None,
        *,
        seconds: float = 120.0,
        logging: bool = False,
        bounded: bool = False,
    ) -> Ended:
        """``holdfast WORDS`` in the directory ``work``; only what it does below it is counted."""
        plan = self.plan
        plan.count = plan.fired = plan.mode = plan.error = plan.lasting = 0
        plan.logging, plan.prefix = int(logging), str(work).encode()
        if fault is not None:
            plan.target, plan.lasting = fault.at, int(fault.lasting)
            plan.mode = MODES.get(fault.how, FAIL)
            plan.error = ERRORS.get(fault.how, 0)
        said, told = work.parent / f"{work.name}.out", work.parent / f"{work.name}.err"
        child = os.fork()
        if child == 0:
            self._live(words, work, said, told, bounded)
        code = _await(child, seconds)
        found = tuple(
            (entry[:1].decode(), entry[1:].decode(errors="replace"))
            for entry in (plan.log[number].value for number in range(min(plan.count, LOGGED) if logging else 0))
        )
        words_of = [one.read_text(errors="replace").replace(str(work), "WORK") for one in (said, told)]
        return Ended(code, *words_of, fired=plan.fired, operations=found)

    def _live(self, words: Sequence[str], work: Path, said: Path, told: Path, bounded: bool) -> None:
        """The child's life."""
        code = UNFORESEEN
        try:
            os.chdir(work)
            if (work / "tmp").is_dir():
                tempfile.tempdir = str(work / "tmp")
            for number, file in ((1, said), (2, told)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
            if bounded:
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            from holdfast.cli import main as cli

            self._shim.faults_arm(ctypes.byref(self.plan))
            try:
                code = cli.main(words)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            self._shim.faults_disarm()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        finally:
            os._exit(code)


def _await(child: int, seconds: float) -> int | None:
    """The end of a child, or None where it took longer in CPU time and in the clock's and was stopped."""
    began, pause = time.monotonic(), 0.002
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if (
            time.monotonic() - began > seconds and _spent(child) > seconds / 8
        ) or time.monotonic() - began > 10 * seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _spent(child: int) -> float:
    """CPU seconds of a process; without them a busy machine would look like a command that hangs."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
