"""The command line on what nobody foresaw: errors of its own, input without bounds, addresses that a run brings."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast.cli import COMMANDS, main

Captured = pytest.CaptureFixture[str]
SECRET = "sk-live-0123456789abcdef"

# Where something breaks in each command: a name of ours that it calls, and words that lead there.
INNER: dict[str, tuple[str, Sequence[str]]] = {
    "new": ("holdfast.templates.write_study", ("place",)),
    "check": ("holdfast.study.load", ("x.toml",)),
    "plan": ("holdfast.study.load", ("x.toml",)),
    "run": ("holdfast.study.load", ("x.toml",)),
    "import": ("holdfast.imports.import_run", ("logs", "-o", "out")),
    "judge": ("holdfast.rescoring.rescore", ("run", "--with", "state")),
    "pairs": ("holdfast.store.Store", ("run", "--objective", "safety", "--judge", "state")),
    "analyze": ("holdfast.runs.Run", ("run",)),
    "gate": ("holdfast.gate.command.carry_out", ("run", "--child", "S")),
    "watch": ("holdfast.watch.command.carry_out", ("run", "--baseline", "S")),
    "show": ("holdfast.store.Store", ("run",)),
    "report": ("holdfast.runs.Run", ("run",)),
    "export": ("holdfast.exports.export_run", ("run", "--to", "csv", "-o", "out")),
}


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that temporary files go to in a test."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.delenv("HOLDFAST_DEBUG", raising=False)
    return place


def break_inside(name: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Let a command fail on the way; the words to start it with."""
    target, words = INNER[name]

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(target, fail)
    return [name, *words]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unexpected_error_is_one_line_and_a_file_with_the_trace(
    name: str, traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", SECRET)
    words = break_inside(name, monkeypatch, KeyError(f"rating\nof {SECRET}"))
    assert main(words) == 4
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    (file,) = traces.iterdir()
    assert told.err.startswith(f"holdfast: {name}: an unexpected error (KeyError:") and str(file) in told.err
    trace = file.read_text(encoding="utf-8")
    assert "Traceback" in trace and "in fail" in trace and f"holdfast {name} {words[1]}" in trace
    assert SECRET not in trace + told.err and "[redacted]" in trace
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("x" * 10_000), ValueError("\x1b[31m\u2028")])
def test_the_line_stays_one_line_whatever_the_error_says(
    error: Exception, traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert main(break_inside("show", monkeypatch, error)) == 4
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and told.rstrip("\n").isprintable() and len(told) < 600
    assert len(list(traces.iterdir())) == 1


def test_an_error_while_arguments_are_read_is_told_alike(
    traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail() -> None:
        raise LookupError("no parser")

    monkeypatch.setattr("holdfast.cli.parser", fail)
    assert main(["show", "run"]) == 4
    assert capsys.readouterr().err.startswith("holdfast: holdfast: an unexpected error (LookupError: no parser)")
    assert len(list(traces.iterdir())) == 1


def test_where_no_file_can_be_written_the_line_says_so(
    traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    words = break_inside("show", monkeypatch, KeyError("rating"))
    traces.rmdir()
    assert main(words) == 4
    told = capsys.readouterr().err
    assert "could not be kept (No such file or directory)" in told and told.count("\n") == 1


def test_a_developer_sees_the_error_itself(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = break_inside("show", monkeypatch, KeyError("rating"))
    monkeypatch.setenv("HOLDFAST_DEBUG", "1")
    with pytest.raises(KeyError, match="rating"):
        main(words)
    assert not list(traces.iterdir())
