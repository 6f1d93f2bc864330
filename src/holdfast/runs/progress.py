"""How a long piece of work is getting on: done, rate, time left.

In a terminal a live line for the whole and one for each worker are rewritten, and what stays is written above them.
Elsewhere a line appears at most every half minute, beside those that stay. Everything goes to the stream that it is
given, which is standard error.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    # It loads what carries steps out, and the first line shall stand before that.
    from holdfast.runs.execution import StepProgress

LOG_SECONDS = 30.0
REFRESHES = 4  # a second, of the live lines
BAR = 12  # columns
RATE_WIDTH = 100  # columns of a terminal in which a worker's line has room for its rate
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


def rate_and_left(done: float, total: float, pace: float | None, unit: str, *, rate: bool = True) -> str:
    """``1,200 of 7,200 episodes, 610 episodes/s, 10 s left``; without a pace (units a second) only the first."""
    parts = [f"{done:,.0f} of {total:,.0f} {unit}"]
    if pace and rate:
        parts.append(f"{pace:,.0f} {unit}/s" if pace >= 10 else f"{pace:.2g} {unit}/s")
    if pace:
        parts.append(f"{span((total - done) / pace)} left")
    return ", ".join(parts)


class _Lasting:
    """A stream to which writing never fails: work goes on where nobody reads its progress any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Words(ProgressColumn):
    """A column with a field of its task. A name beside numbers is cut where it has no room, numbers never are."""

    def __init__(self, field: str, column: Column) -> None:
        super().__init__(column)
        self._field = field

    def render(self, task: Task) -> Text:
        words = task.fields[self._field]
        is_name = self._field == "name" and bool(task.fields["numbers"])
        return Text(words() if callable(words) else words, no_wrap=is_name, overflow="ellipsis" if is_name else "fold")


class ProgressLines:
    """Writes progress to a stream until the context ends; ``quiet`` writes nothing but failures and warnings."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stream = _Lasting(stream)
        self._console = Console(file=self._stream, highlight=False)  # type: ignore[arg-type]
        self._live: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal and not quiet:
            self._live = Progress(
                SpinnerColumn(),
                BarColumn(BAR),
                _Words("name", Column(ratio=1)),
                _Words("numbers", Column(no_wrap=True, justify="right")),
                console=self._console,
                refresh_per_second=REFRESHES,
                transient=True,
                redirect_stdout=False,  # results go where standard output goes
                expand=True,
            )
        self._queued: set[str] = set()  # steps that wait for a place, by their fingerprints
        self._nodes: dict[str, str] = {}  # of steps on other machines, which
        self._tasks: dict[str, TaskID] = {}  # by a step's fingerprint its live line; the whole's under ""
        self._first: dict[str, tuple[int, float]] = {}  # a step's first sign of life: units done, seconds
        self._started = time.monotonic()
        self._spoken = -LOG_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._keep(text, "")

    def warn(self, text: str) -> None:
        """A line that stays, and is written however quiet."""
        self._keep(f"note: {text}", "yellow")

    def ask(self, question: str) -> bool:
        """Whether the person at the terminal says yes."""
        if self._live is not None:
            self._live.stop()
        self._stream.write(f"{question} [y/N] ")
        self._stream.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def begin(self, text: str) -> None:
        """What is being done before there is anything to count, in a terminal alone."""
        if self._live is not None:
            self._show("", text, "", None)

    def passing(self, text: str, share: float | None = None) -> None:
        """How all of the work is getting on, of which ``share`` is done: the next such line takes its place."""
        if self._live is None:
            self._log(text)
        else:
            self._show("", text, "", share)

    def _keep(self, text: str, style: str) -> None:
        if self._live is None:
            self._stream.write(text + "\n")
            self._stream.flush()
        else:
            self._console.print(Text(text, style))

    def _log(self, text: str) -> None:
        """A line of a log; left out if the last was not long ago."""
        now = time.monotonic()
        if not self._quiet and now - self._spoken >= LOG_SECONDS:
            self._spoken = now
            self._keep(text, "")

    def _show(self, key: str, name: Any, numbers: Any, share: float | None) -> None:
        """Write a live line, or write it anew; without a share its bar only moves."""
        assert self._live is not None
        about = {"name": name, "numbers": numbers, "completed": share or 0.0, "total": None if share is None else 1.0}
        if key in self._tasks:
            self._live.update(self._tasks[key], **about)
            return
        self._tasks[key] = self._live.add_task("", **about)
        self._live.start()
        self._console.show_cursor(True)  # a process that is killed leaves the terminal with a cursor

    def step(self, progress: StepProgress) -> None:
        """A listener for ``holdfast.run``."""
        head = f"[{progress.steps_done}/{progress.steps_total}]"
        step, share, working = progress.step, progress.share, progress.state in ("started", "running")
        ends = time.monotonic() + progress.left
        self._place(progress)
        if progress.state == "failed":
            self._keep(f"{head} failed: {step.name}: {progress.message}", "bold red")
        elif progress.state == "lost":
            self.line(f"{head} to be done again: {step.name}: {progress.message}")
        elif progress.state == "done" and progress.message:
            self.line(f"{head} {progress.message}")
        if self._live is not None:
            self._show("", head, lambda: self._whole(share, ends), share)
            if working:
                numbers = self._numbers(progress, rate=self._console.width >= RATE_WIDTH)
                self._show(step.fingerprint, self._name(progress), numbers, progress.done / step.size)
            elif step.fingerprint in self._tasks:
                self._live.remove_task(self._tasks.pop(step.fingerprint))
        elif working:
            numbers = self._numbers(progress, rate=True)
            self._log(f"{head} {self._whole(share, ends)} · {self._name(progress)}: {numbers}")

    def _place(self, progress: StepProgress) -> None:
        """Note whether a step waits for a place, and where it is carried out."""
        name = progress.step.fingerprint
        self._queued.discard(name)
        self._nodes.pop(name, None)
        if progress.state == "queued":
            self._queued.add(name)
        elif progress.state in ("started", "running") and progress.node is not None:
            self._nodes[name] = progress.node

    @staticmethod
    def _name(progress: StepProgress) -> str:
        return progress.step.name + (f" on {progress.node}" if progress.node is not None else "")

    def _numbers(self, progress: StepProgress, *, rate: bool) -> str:
        """What is done of a step, and its pace since its first sign of life where that is long enough ago to tell."""
        step, pace = progress.step, None
        if progress.state != "started":
            first_done, first_seconds = self._first.setdefault(step.fingerprint, (progress.done, progress.seconds))
            if (seconds := progress.seconds - first_seconds) >= RATE_SECONDS:
                pace = (progress.done - first_done) / seconds
        return rate_and_left(progress.done, step.size, pace, step.settings.unit, rate=rate)

    def _whole(self, share: float, ends: float) -> str:
        """``1 min 40 s, 35 % done, about 3 min 05 s left`` of the whole run, which is expected to end at ``ends``."""
        now = time.monotonic()
        elapsed = now - self._started
        told = f"{span(elapsed)}, {share:.0%} done"
        if nodes := len(set(self._nodes.values())):
            told += f", {len(self._nodes)} at work on {nodes} {'node' if nodes == 1 else 'nodes'}"
        if self._queued:
            told += f", {len(self._queued)} queued"
        if elapsed < RUN_SECONDS or share < 0.01:
            return told
        return f"{told}, about {span(max(0.0, ends - now))} left"
