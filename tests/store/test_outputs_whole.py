"""What is written is whole or absent and told with its place; leftovers go; media that nothing writes to are read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders.inspect_samples import log, sample
from builders.places import ROOT, copy_run
from builders.smoke_study import SMOKE

import holdfast as hf
from holdfast.cli import main as cli
from holdfast.exchange.exports import export_run, write_lines
from holdfast.records import outputs
from holdfast.records.errors import StoreError, StudyError
from holdfast.records.outputs import append_file, new_directory, open_file, to_json, write_file
from holdfast.records.processes import began
from holdfast.runs.build import build
from holdfast.runs.plan.step import Step
from holdfast.runs.run import fork_run
from holdfast.runs.waiting import Waiting
from holdfast.store import Store, steplog
from holdfast.store.database import create
from holdfast.store.weights import cache_root, fetch_cached, keep_cached
from holdfast.study.study import load

Captured = pytest.CaptureFixture[str]
DISK = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def said(capsys: Captured, *words: object) -> tuple[int, str, str]:
    code = cli.main([str(one) for one in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def break_disk(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From here on nothing that is written reaches the disk."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(outputs.os, "fsync", fail)


# --- whole or not at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", DISK)
@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_file_is_whole_or_as_it_was(
    number: int, before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
        path.chmod(0o640)
    break_disk(monkeypatch, number)
    with pytest.raises(StudyError) as caught:
        write_file(path, "new")
    assert str(caught.value).startswith(f"{path}: cannot be written ({os.strerror(number)}")
    assert ("bytes are free there" in str(caught.value)) == (number != errno.EIO)
    assert [one.name for one in tmp_path.iterdir()] == (["file"] if before else [])
    assert before is None or path.read_text() == before
    monkeypatch.undo()
    write_file(path, "new")
    assert path.read_text() == "new" and (before is None or stat.S_IMODE(path.stat().st_mode) == 0o640)


def test_what_fails_while_it_is_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_file(tmp_path / "file") as file:
        file.write(b"half")
        raise RuntimeError
    with pytest.raises(RuntimeError), new_directory(tmp_path / "folder") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    with pytest.raises(ZeroDivisionError):
        write_lines(({"value": 1 // number} for number in (1, 0)), tmp_path / "lines")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_written_as_it_is(tmp_path: Path) -> None:
    """A device, and a pipe of the shell's; a link is replaced, and nothing is written where it leads."""
    write_file(Path(os.devnull), "gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    reading, writing = os.pipe()
    write_file(Path(f"/dev/fd/{writing}"), "through")
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "through"
    (tmp_path / "link").symlink_to(tmp_path / "meant")
    write_file(tmp_path / "link", "there")
    assert not (tmp_path / "link").is_symlink() and not (tmp_path / "meant").exists()
    (tmp_path / "meant").write_text("kept")
    (tmp_path / "other").symlink_to(tmp_path / "meant")
    write_file(tmp_path / "other", "there")
    assert (tmp_path / "meant").read_text() == "kept" and (tmp_path / "other").read_text() == "there"
    with pytest.raises(StudyError, match="is a directory"):
        write_file(tmp_path, "")


def test_a_shared_file_gets_all_of_a_part_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary"
    append_file(path, "one\n")
    append_file(path, "two\n")
    break_disk(monkeypatch, errno.ENOSPC)
    with pytest.raises(StudyError, match="bytes are free there"):
        append_file(path, "three\n" * 10_000)
    assert path.read_text() == "one\ntwo\n"


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_gate_writes_its_files_whole(
    option: str, smoke_run: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out"
    break_disk(monkeypatch, errno.ENOSPC)
    code, out, err = said(capsys, "gate", smoke_run, "--child", "H", option, file)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(file) in err and "bytes are free there" in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["jsonl", "csv", "evidence"])
def test_an_export_is_whole_or_not_there(
    kind: str, smoke_run: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, errno.EIO)
    code, _, err = said(capsys, "export", smoke_run, "--to", kind, "-o", tmp_path / "out")
    assert code == 2 and str(tmp_path) in err and list(tmp_path.iterdir()) == []


# --- leftovers -----------------------------------------------------------------------------------------------------


def test_what_killed_processes_left_goes_and_what_a_running_one_writes_stays(dead: int, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("kept")
    (tmp_path / f".file.part-{dead}-0a").write_text("half")
    (tmp_path / f".file.part-{dead}").mkdir()
    (tmp_path / f".file.part-{dead}" / "inside").write_text("half")
    (tmp_path / f".file.part-{dead}-0b").symlink_to(tmp_path / "far")
    stays = [tmp_path / f".file.part-{os.getpid()}-0a", tmp_path / f".other.part-{dead}-0a", tmp_path / ".file.part-x"]
    for one in stays:
        one.write_text("not ours")
    write_file(tmp_path / "file", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", tmp_path / "far", *stays])
    assert (tmp_path / "far" / "file").read_text() == "kept"


def test_a_number_that_came_round_again_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / f".file.part-{os.getpid()}-0a"
    part.write_text("half")
    outputs.discard_parts(tmp_path / "file")
    assert part.is_file()
    monkeypatch.setattr(outputs, "began", lambda process: part.lstat().st_ctime + 60)
    outputs.discard_parts(tmp_path / "file")
    assert not part.exists()


def test_when_a_process_began_is_told() -> None:
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as begun:
        told = began(begun.pid)
        assert told is not None and before - 1 <= told <= time.time() + 1
        begun.communicate(b"\n")
    assert began(begun.pid) is None


def test_a_part_that_its_process_holds_stays_wherever_that_runs(dead: int, tmp_path: Path) -> None:
    """The number of a process of another machine or container says nothing here; its lock does."""
    part = tmp_path / f".file.part-{dead}-0a"
    with part.open("w") as held:
        outputs._claim(held.fileno())
        write_file(tmp_path / "file", "whole")
        assert part.is_file()
    write_file(tmp_path / "file", "whole")
    assert not part.exists()


def test_a_report_and_an_export_take_leftovers_away(dead: int, smoke_run: Path, tmp_path: Path) -> None:
    (tmp_path / f".report.part-{dead}-00").mkdir()
    (tmp_path / f".rows.part-{dead}").mkdir()
    page = hf.Run(smoke_run).report(output=tmp_path / "report")
    export_run(smoke_run, "csv", tmp_path / "rows")
    assert page.is_file() and sorted(one.name for one in tmp_path.iterdir()) == ["report", "rows"]
    hf.Run(smoke_run).report(output=tmp_path / "report")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["report", "rows"]


KILLED = """
import os, signal, sys
from pathlib import Path
from unittest import mock
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_within(place: str, words: str, scratch: Path) -> None:
    """Carry out Python ``words`` in a process that is killed where it calls ``place``."""
    code = f"{KILLED}\nwith mock.patch({place!r}, die):\n    {words}"
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(scratch)}, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_what_a_killed_fork_left_goes_with_the_next(smoke_run: Path, tmp_path: Path) -> None:
    words = f"import holdfast; holdfast.run({str(SMOKE)!r}, {str(smoke_run)!r}, fork={str(tmp_path / 'fork')!r})"
    kill_within("holdfast.store.copying.read_logs", words, tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".fork.part-") and (left / "run.db").is_file()
    live = tmp_path / f".fork.part-{os.getpid()}-0a"
    live.mkdir()
    fork_run(smoke_run, tmp_path / "fork", build(load(SMOKE)))
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([live.name, "fork"])
    assert stat.S_IMODE((tmp_path / "fork").stat().st_mode) == 0o700


def test_what_was_killed_as_it_filled_the_cache_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    words = (
        f"import pathlib, holdfast.store.weights as w; w.keep_cached('abc', pathlib.Path({str(tmp_path / 'base')!r}))"
    )
    kill_within("holdfast.records.outputs.sync_tree", words, tmp_path)
    assert [one.name.partition(".part-")[0][:5] for one in cache_root().iterdir()] == [".abc-"]
    keep_cached("abc", tmp_path / "base")
    (kept,) = cache_root().iterdir()
    assert kept.name.startswith("abc-") and fetch_cached("abc", tmp_path / "again")


def test_what_a_killed_watch_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The run that it makes of Inspect logs for the while holds what their agents said."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    log(tmp_path / "a.eval", [sample(n, scores={"safety": n % 2}) for n in range(6)])
    words = ["watch", str(tmp_path / "a.eval"), "--baseline", "x", "--score", "safety=+safety[0,1]"]
    kill_within(
        "holdfast.exchange.inspect.importing.import_logs", f"import holdfast.cli.main as c; c.main({words!r})", scratch
    )
    (left,) = scratch.iterdir()
    assert (left / "run" / "run.db").is_file() and stat.S_IMODE(left.stat().st_mode) == 0o700
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    live = scratch / f".holdfast.part-{os.getpid()}-0a"
    live.mkdir()
    assert said(capsys, *words)[0] == 2  # no checkpoint is called so
    assert list(scratch.iterdir()) == [live]


def test_a_directory_that_another_process_put_there_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="out: cannot be written"), new_directory(tmp_path / "out") as part:
        (part / "file").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("theirs")
    assert [one.name for one in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "file").read_text() == "theirs"


# --- places --------------------------------------------------------------------------------------------------------


def test_a_report_goes_where_it_is_told(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "taken").write_text("a file")
    code, _, err = said(capsys, "report", smoke_run, "-o", tmp_path / "taken")
    assert code == 2 and "holdfast report RUN -o DIR" in err
    code, out, _ = said(capsys, "report", smoke_run, "-o", tmp_path / "page")
    assert code == 0 and str(tmp_path / "page" / "index.html") in out and (tmp_path / "page" / "index.html").is_file()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[judges.a]\nkind = "rules"\n[[judges.a.rules.safety]]\nwhen = {}\n', "write it"),
        ('[judges.a]\nkind = "rubric"\n', "model"),
        ('[judges.a]\nkind = "rubric"\nmodel = "x/y"\nparser = "loose"\n', "parser"),
        ('[judges.a]\nkind = "rules"\n[judges.a.rules]\n', "rules"),
        ("[judges.a]\n", "kind"),
    ],
)
def test_what_is_wrong_in_a_file_of_judges_names_the_file(
    text: str, told: str, smoke_run: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "judges.toml"
    file.write_text(text)
    for words in (("judge", smoke_run, "--with", "a"), ("judge", "--canaries", "--with", "a")):
        code, _, err = said(capsys, *words, "--judges", file)
        assert code == 2 and str(file) in err and told in err and err.count("\n") == 1


NO_MEMORY = (
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ImportError("libx.so: failed to map segment from shared object"),
    RuntimeError("can't start new thread"),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_too_little_memory_is_one_line(error: Exception, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> int:
        raise error

    for command in ("analyze", "show"):
        monkeypatch.setitem(cli.COMMANDS, command, fail)
        code, _, err = said(capsys, command, "run")
        assert code == 1 and err.count("\n") == 1 and f"{command}: the memory that this process may have" in err


@pytest.mark.parametrize("mebibytes", [60, 150])
def test_a_limit_under_which_nothing_loads_is_refused(mebibytes: int, tmp_path: Path) -> None:
    script = f"ulimit -v {mebibytes << 10}; exec '{sys.executable}' -m holdfast.cli.main analyze '{tmp_path}'"
    made = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 2 and made.stderr.count("\n") == 1 and f"{mebibytes} MiB of memory" in made.stderr


# --- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "letter", ["\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028", "\u2029", "\ufeff", "\U000e0041"]
)
def test_json_holds_nothing_that_steers_a_terminal(letter: str, capsys: Captured) -> None:
    document = {f"key{letter}": [f"a{letter}b", "naïve ☃ 漢字 😀"]}
    text = to_json(document)
    assert letter not in text and "naïve ☃ 漢字 😀" in text and json.loads(text) == document
    cli._say(text, plain=True)
    assert letter not in capsys.readouterr().out


# --- order, and media that cannot be written -------------------------------------------------------------------------


def test_the_log_of_steps_stands_in_the_plans_order_whatever_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000, 0, -1))
    monkeypatch.setattr(steplog.time, "time", lambda: float(next(clock)))
    create(tmp_path / "run")
    names = ["c", "a", "b"]
    with Store(tmp_path / "run", writable=True) as store, store.transaction():
        store.set_meta(steplog.PLAN_KEY, json.dumps(names))
        for name in ("b", "other", "a", "c", "b"):  # the last is repeated
            store.log.begin(name, "judge", name)
            store.log.finish(name, {}, status="failed" if name == "b" else "done")
    with Store(tmp_path / "run") as store:
        assert list(store.log.steps()) == [*names, "other"]


@pytest.mark.full
def test_what_is_made_first_changes_no_row(smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a study carried out from the back, with a clock that runs backwards."""

    def find_last(self: Any, takes: Callable[[Step], bool]) -> Step | None:
        return next((step for _, name in reversed(self._ready) if takes(step := self.waiting[name])), None)

    clock = iter(range(10**6, 0, -1))
    monkeypatch.setattr(Waiting, "find", find_last)
    monkeypatch.setattr(steplog.time, "time", lambda: float(next(clock)))
    other = hf.run(ROOT / "studies" / "smoke.toml", tmp_path / "run", workers=1).path
    assert (other / "analysis.json").read_bytes() == (smoke_run / "analysis.json").read_bytes()
    for kind in ("jsonl", "csv", "trl"):
        for path, name in ((smoke_run, "one"), (other, "two")):
            export_run(path, kind, tmp_path / f"{kind}-{name}")
        for file in (tmp_path / f"{kind}-one").iterdir():
            assert file.read_bytes() == (tmp_path / f"{kind}-two" / file.name).read_bytes(), (kind, file.name)


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """A directory in which this process can write nothing, root or not."""
    owner = os.geteuid()
    for one in (path, *path.rglob("*")):
        one.chmod(0o555 if one.is_dir() else 0o444)
    if owner == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(owner)
        for one in (path, *path.rglob("*")):
            one.chmod(0o755 if one.is_dir() else 0o644)


@pytest.fixture
def reachable(smoke_run: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run where everybody may look, without what readers and a writer share."""
    place = (
        Path(tempfile.gettempdir()) / f"holdfast-media-{os.getpid()}"
    )  # pytest's own directories are their owner's alone
    place.mkdir()
    copy_run(smoke_run, place / "run", "weights", "report")
    try:
        yield place / "run"
    finally:
        shutil.rmtree(place)


def test_a_finished_run_is_read_where_nothing_can_be_written(reachable: Path) -> None:
    with Store(reachable) as store:
        expected = (store.counts(), store.digest_scores())
    for name in ("run.db-shm", "run.db-wal"):
        (reachable / name).unlink(missing_ok=True)
    with unwritable(reachable):
        with Store(reachable) as store:
            assert (store.counts(), store.digest_scores()) == expected
        assert sorted(one.name for one in reachable.iterdir() if one.name.startswith("run.db")) == ["run.db"]


@pytest.mark.parametrize("log", [b"", b"the last writes"])
def test_last_writes_that_cannot_be_read_are_no_silence(log: bytes, reachable: Path) -> None:
    (reachable / "run.db-shm").unlink(missing_ok=True)
    (reachable / "run.db-wal").write_bytes(log)
    with unwritable(reachable):
        if log:
            with pytest.raises(StoreError, match=r"run\.db-wal: holds the last writes .*; copy the run"):
                Store(reachable)
        else:
            Store(reachable).close()
