"""Lines that tell how a long piece of work is getting on: done, rate, time left.

On a terminal one line is rewritten; elsewhere a line appears every few seconds. Everything goes to the
stream that it is given, which is standard error.
"""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from holdfast.runs import StepProgress

TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0


def span(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate_and_left(done: float, total: float, seconds: float, unit: str) -> str:
    """``1,200 of 7,200 episodes, 610/s, 10 s left``; rate and time left only once they are known."""
    parts = [f"{done:,.0f} of {total:,.0f} {unit}"]
    if done > 0 and seconds > 0:
        rate = done / seconds
        parts += [f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s", f"{span((total - done) / rate)} left"]
    return ", ".join(parts)


class ProgressLines:
    """Writes progress to a stream; ``quiet`` writes nothing but failures."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._terminal = stream.isatty()
        self._spoken = 0.0
        self._open_line = False
        self._started = time.monotonic()

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._write(text + "\n")

    def passing(self, text: str) -> None:
        """A line that the next one may replace; dropped if the last was a moment ago."""
        now = time.monotonic()
        if self._quiet or now - self._spoken < (TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            return
        self._spoken = now
        self._write(text[:118] if self._terminal else text + "\n")
        self._open_line = self._terminal

    def _write(self, text: str) -> None:
        """Write over the open line. Work goes on where nobody reads its progress any more."""
        with contextlib.suppress(OSError):
            self._stream.write(("\r\x1b[2K" if self._open_line else "") + text)
            self._stream.flush()
        self._open_line = False

    def step(self, progress: StepProgress) -> None:
        """A listener for ``holdfast.run``."""
        head = f"[{progress.steps_done}/{progress.steps_total}]"
        if progress.state == "failed":
            self._write(f"{head} failed: {progress.step.name}: {progress.message}\n")
        elif progress.state == "done":
            if progress.message:
                self.line(f"{head} {progress.message}")
        else:
            elapsed = time.monotonic() - self._started
            shown = rate_and_left(progress.done, progress.step.size, progress.seconds, progress.step.unit)
            self.passing(f"{head} {span(elapsed)} · {progress.step.name}: {shown}")
