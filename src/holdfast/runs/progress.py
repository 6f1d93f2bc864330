"""Lines that tell how a long piece of work is getting on: done, rate, time left.

On a terminal one line is rewritten; elsewhere a line appears every few seconds. Everything goes to the
stream that it is given, which is standard error.
"""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from holdfast.runs.execution import StepProgress

TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0
# What a rate is read from: the start of a step loads libraries and says nothing of its pace.
RATE_SECONDS = 2.0
RUN_SECONDS = 15.0


def span(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate_and_left(done: float, total: float, pace: float | None, unit: str) -> str:
    """``1,200 of 7,200 episodes, 610 episodes/s, 10 s left``; without a pace (units a second) only the first."""
    parts = [f"{done:,.0f} of {total:,.0f} {unit}"]
    if pace:
        parts += [
            f"{pace:,.0f} {unit}/s" if pace >= 10 else f"{pace:.2g} {unit}/s",
            f"{span((total - done) / pace)} left",
        ]
    return ", ".join(parts)


class ProgressLines:
    """Writes progress to a stream; ``quiet`` writes nothing but failures and warnings."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._terminal = stream.isatty()
        self._spoken = 0.0
        self._open_line = False
        self._started = time.monotonic()
        self._first: dict[str, tuple[int, float]] = {}  # a step's first sign of life: units done, seconds

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._write(text + "\n")

    def warn(self, text: str) -> None:
        """A line that stays, and is written however quiet."""
        self._write(f"note: {text}\n")

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
            shown = rate_and_left(progress.done, progress.step.size, self._pace(progress), progress.step.settings.unit)
            self.passing(f"{head} {self._whole(elapsed, progress.share)} · {progress.step.name}: {shown}")

    def _pace(self, progress: StepProgress) -> float | None:
        """Units a second since the step's first sign of life; None while that is too short ago to tell."""
        first_done, first_seconds = self._first.setdefault(progress.step.fingerprint, (progress.done, progress.seconds))
        seconds = progress.seconds - first_seconds
        return (progress.done - first_done) / seconds if seconds >= RATE_SECONDS else None

    @staticmethod
    def _whole(elapsed: float, share: float) -> str:
        """``1 min 40 s, 35 % done, about 3 min 05 s left`` of the whole run."""
        told = f"{span(elapsed)}, {share:.0%} done"
        if elapsed < RUN_SECONDS or share < 0.01:
            return told
        return f"{told}, about {span(elapsed / share * (1 - share))} left"
