"""A program of the user's own, run to its end: what it is given, what of its output is kept, what became of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from holdfast.models.remote.endpoints import redact
from holdfast.runs.methods.command import guard

# What every program may need, and holds no key. All other variables are handed on where the study names them.
COMMON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "XDG_CACHE_HOME"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM", "PYTHONHASHSEED"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
)
HEAD_BYTES, TAIL_BYTES = 4 << 20, 1 << 20  # of a program's output that are kept
_LINE_CHARACTERS = 4_000
_SHOWN_LINES, _SHOWN_CHARACTERS = 4, 500
_LOOK_SECONDS = 0.5
_END_SECONDS = 15.0
_LINE_ENDS = re.compile(r"[\r\n]+")


def environment(named: Collection[str]) -> dict[str, str]:
    """What a program sees of the environment: what all need, and the variables that are ``named``."""
    return {name: os.environ[name] for name in (*COMMON, *named) if name in os.environ}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a program: its exit code, a signal's number below zero, or why it was not begun (``failed``).

    ``late`` says that it was ended at its timeout, ``left`` how many processes it had left, which were ended.
    """

    code: int | None = None
    late: bool = False
    stopped: bool = False
    left: int = 0
    failed: str | None = None


class OutputLog:
    """What a program writes, without keys, as JSON lines: so much of its beginning at once, and of its end at last."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("x", encoding="utf-8")
        self._room = HEAD_BYTES
        self._waiting = bytearray()  # of a line that has not ended, then all that came after the beginning
        self._last: list[str] = []
        self.left_out = 0  # bytes between beginning and end

    def feed(self, data: bytes) -> None:
        """Take some more of what the program wrote."""
        self._waiting += data
        if self._room > 0:
            ends = max(self._waiting.rfind(b"\n"), self._waiting.rfind(b"\r")) + 1
            if ends == 0 and len(self._waiting) > _LINE_CHARACTERS * 4:
                ends = len(self._waiting)
            if ends:
                self._write(bytes(self._waiting[:ends]))
                self._room -= ends
                del self._waiting[:ends]
        elif len(self._waiting) > 2 * TAIL_BYTES:
            self.left_out += len(self._waiting) - TAIL_BYTES
            del self._waiting[:-TAIL_BYTES]

    def close(self) -> None:
        """Write what is left, with a line for what is not kept."""
        if self.left_out:
            # A key may be cut where the beginning of this line is.
            cut = min((place for end in b"\n\r" if (place := self._waiting.find(end)) >= 0), default=0)
            del self._waiting[:cut]
            self._write(f"… {self.left_out + cut:,} bytes are not kept …\n".encode())
        self._write(bytes(self._waiting))
        self._waiting.clear()
        self._file.close()

    def last_lines(self) -> str:
        """The last lines in one."""
        shown = " | ".join(self._last[-_SHOWN_LINES:])
        return shown if len(shown) <= _SHOWN_CHARACTERS else f"…{shown[-_SHOWN_CHARACTERS:]}"

    def _write(self, data: bytes) -> None:
        lines = [line for line in _LINE_ENDS.split(redact(data.decode("utf-8", "replace"))) if line.strip()]
        shown = [line[:_LINE_CHARACTERS] for line in lines]
        self._file.writelines(json.dumps({"line": line}) + "\n" for line in shown)
        self._file.flush()
        self._last = [_plain(line) for line in (*self._last, *shown)[-_SHOWN_LINES:]]


def _plain(line: str) -> str:
    """A line without what steers a terminal, its spaces single."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in line).split())


@contextlib.contextmanager
def work_directory(path: Path) -> Iterator[int]:
    """A directory that is held by a lock as long as a program works in it, also one of a process that was killed.

    The handle of the lock is for whoever is to hold it too.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def run_program(command: Sequence[str], env: Mapping[str, str], timeout: float, log: OutputLog, held: int) -> Ended:
    """Run a program to its end, at most ``timeout`` seconds; nothing that it started is left when this returns.

    What it writes goes to ``log``. ``held`` is a handle that lives as long as anything of it.
    """
    begun = time.monotonic()
    reading, writing = os.pipe()
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, reading)
        try:
            watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=writing,
                env={},
                start_new_session=True,
                pass_fds=(writing, held),
            )
        finally:
            told = {"command": list(command), "env": dict(env), "timeout": timeout, "output": writing}
            os.close(writing)
        opened.callback(_stop, watcher)
        assert watcher.stdin is not None and watcher.stdout is not None
        with contextlib.suppress(BrokenPipeError), watcher.stdin as standard_input:
            standard_input.write(json.dumps({**told, "parent": os.getpid()}).encode())
        said = _listen(watcher, reading, log, timeout)
        watcher.wait()
    try:
        ended = Ended(**json.loads(said))
    except (ValueError, TypeError):
        ended = Ended(stopped=True)  # killed, and the program with it
    return replace(ended, late=ended.late or (ended.stopped and time.monotonic() - begun >= timeout))


def _listen(watcher: subprocess.Popen[bytes], reading: int, log: OutputLog, timeout: float) -> bytes:
    """What the guard says at its end; what the program writes until then goes to the log.

    A guard that does not keep the time itself, as one that was stopped (SIGSTOP), is ended.
    """
    answers = watcher.stdout
    assert answers is not None
    os.set_blocking(reading, False)
    said, late = bytearray(), time.monotonic() + timeout + _END_SECONDS
    with selectors.DefaultSelector() as waiting:
        waiting.register(answers, selectors.EVENT_READ)
        waiting.register(reading, selectors.EVENT_READ)
        while True:
            if time.monotonic() >= late:
                _end(watcher)
            ready = [key.fileobj for key, _ in waiting.select(_LOOK_SECONDS)]
            if reading in ready and _take(reading, log) == b"":
                waiting.unregister(reading)
            if answers in ready:
                piece = os.read(answers.fileno(), 1 << 16)
                said += piece
                if not piece:
                    break
    while _take(reading, log):
        pass
    return bytes(said)


def _take(reading: int, log: OutputLog) -> bytes | None:
    """What there is, which the log has then; None where nothing is there now, no bytes at the end."""
    try:
        piece = os.read(reading, 1 << 16)
    except BlockingIOError:
        return None
    log.feed(piece)
    return piece


def _stop(watcher: subprocess.Popen[bytes]) -> None:
    """End the guard, which ends the program, where something came between."""
    _end(watcher)
    assert watcher.stdout is not None
    watcher.stdout.close()


def _end(watcher: subprocess.Popen[bytes]) -> None:
    """End the guard by its own way, also where it was stopped; it ends what it watches over first."""
    if watcher.poll() is None:
        watcher.terminate()
        watcher.send_signal(signal.SIGCONT)
        try:
            watcher.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()
