"""Progress: live in a terminal of any width, a line now and then elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders.smoke_study import SMOKE
from rich.cells import cell_len

from holdfast.runs import progress as module
from holdfast.runs.build import build
from holdfast.runs.execution import ProgressState, StepProgress
from holdfast.runs.progress import ProgressLines, rate_and_left, span
from holdfast.study.study import load

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
STEPS = build(load(SMOKE)).steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(number: int, state: ProgressState, done: int = 0, **changes: Any) -> StepProgress:
    about: dict[str, Any] = {"seconds": 0.0, "steps_done": number, "steps_total": len(STEPS), "share": number / 10}
    about["left"] = 270.0
    return StepProgress(step=STEPS[number], done=done, state=state, **{**about, **changes})


def show(*events: StepProgress) -> list[str]:
    """What a terminal is sent for events, in lines without its codes."""
    stream = Terminal()
    with ProgressLines(stream) as lines:
        lines.begin("reading study.toml")
        for event in events:
            lines.step(event)
    return [line.rstrip() for line in CODES.sub("\n", COLOURS.sub("", stream.getvalue())).splitlines() if line.strip()]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_live_lines_are_as_wide_as_the_terminal_and_cut_no_number(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is wider than the terminal would leave a stale one with every update."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = show(told(1, "started"), told(2, "running", 5, seconds=1.0), told(2, "running", 9, seconds=9.0))
    live = [line for line in lines if "━" in line]
    assert live and max(map(cell_len, live)) <= width
    assert "reading study.toml" in lines[0]
    assert any(line.endswith("10% done") for line in live)
    assert any(line.endswith(f"0 of {STEPS[1].size} {STEPS[1].settings.unit}") for line in live)
    assert any(re.search(r"9 of \d+ episodes,( 0\.5 episodes/s,)? \d+ s left$", line) for line in live)


@pytest.mark.parametrize("width", [40, 80])
def test_a_line_of_counts_is_not_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    counts = "1,200 of 7,200 MB, 610 MB/s, 10 s left · 120,000 trajectories, 240,000 scores"
    stream = Terminal()
    with ProgressLines(stream) as lines:
        lines.passing(counts, 1 / 6)
    sent = re.sub("[━╸╺⠋ ]+", " ", CODES.sub(" ", COLOURS.sub("", stream.getvalue())).replace("\n", " "))
    assert counts in sent


def test_finished_checkpoints_and_failures_stay_and_the_cursor_is_never_hidden() -> None:
    stream = Terminal()
    with ProgressLines(stream) as lines:
        lines.step(told(1, "started"))
        lines.step(told(1, "done", 48, message="S: safety 2.40 [red]"))
        lines.step(told(2, "failed", message="no memory"))
    sent = stream.getvalue()
    assert "S: safety 2.40 [red]" in sent and re.search(r"\x1b\[1;31m\[2/25\] failed: .*: no memory", sent)
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")


def test_a_step_elsewhere_is_shown_with_its_node_and_what_waits_for_a_place_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    queued = [told(number, "queued") for number in (1, 2, 3)]
    begun = [told(1, "started", node="a/12"), told(2, "started", node="b/34")]
    lines = show(*queued, *begun, told(1, "lost", message="the node was lost"), told(1, "queued"))
    live = [line for line in lines if "━" in line]
    assert any(f"{STEPS[2].name} on b/34" in line for line in live)
    assert not any(STEPS[3].name in line for line in live)  # it waits, and has no line of its own
    whole = [line for line in live if "% done" in line]
    assert whole[-1].endswith("10% done, 1 at work on 1 node, 2 queued")
    waiting = show(*queued, told(1, "lost", message="the node was lost"))  # a line that stays has the others drawn anew
    assert any(line.endswith("10% done, 2 queued") for line in waiting)
    assert f"[1/{len(STEPS)}] to be done again: {STEPS[1].name}: the node was lost" in lines


@pytest.mark.parametrize("where", ["pipe", "dumb"])
def test_elsewhere_a_line_comes_at_most_every_half_minute(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setenv("TERM", "dumb" if where == "dumb" else "xterm")
    stream = io.StringIO() if where == "pipe" else Terminal()
    with ProgressLines(stream) as lines:
        lines.begin("reading study.toml")
        for second in range(65):
            now[0] = 100.0 + second
            lines.step(told(1, "running", second, seconds=float(second)))
        lines.step(told(1, "done", 48, message="S: safety 2.40"))
    sent = stream.getvalue()
    assert [line[:6] for line in sent.splitlines()] == ["[1/25]"] * 4 and "\x1b" not in sent
    assert sent.splitlines()[1].startswith("[1/25] 30 s, 10% done, about 4 min 30 s left · roll out")
    assert sent.endswith("S: safety 2.40\n")


def test_quiet_is_quiet_but_for_failures_and_warnings() -> None:
    stream = Terminal()
    with ProgressLines(stream, quiet=True) as lines:
        lines.begin("reading")
        lines.line("done")
        lines.passing("half", 0.5)
        lines.step(told(1, "running", 5))
        lines.warn("look")
        lines.step(told(1, "failed", message="no memory"))
    assert stream.getvalue() == f"note: look\n[1/25] failed: {STEPS[1].name}: no memory\n"


def test_work_goes_on_where_nobody_reads_its_progress(tmp_path: Path) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with ProgressLines(Gone()) as lines:
        lines.line("done")
        lines.step(told(1, "running", 5))


def test_numbers_for_people() -> None:
    assert [span(seconds) for seconds in (42, 185, 7800)] == ["42 s", "3 min 05 s", "2 h 10 min"]
    assert rate_and_left(1200, 7200, 610.0, "episodes") == "1,200 of 7,200 episodes, 610 episodes/s, 10 s left"
    assert rate_and_left(1200, 7200, 610.0, "episodes", rate=False) == "1,200 of 7,200 episodes, 10 s left"
    assert rate_and_left(1, 4, None, "MB") == "1 of 4 MB"
