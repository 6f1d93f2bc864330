"""The command line as people meet it: results on one stream, progress on the other, mistakes in one line."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders.commands import asked, refused
from builders.places import copy_run
from builders.published_samples import sample, write_archive
from builders.smoke_study import SMOKE, smoke_settings, write_toml

import holdfast as hf
from holdfast.cli import main as cli
from holdfast.cli.main import COMMANDS, parser
from holdfast.runs.build import build
from holdfast.runs.run import begin
from holdfast.store import Store
from holdfast.store.steplog import PLAN_KEY
from holdfast.study.study import load

Captured = pytest.CaptureFixture[str]
HOLDFAST = [sys.executable, "-W", "error", "-m", "holdfast"]


def contents(path: Path) -> dict[str, bytes | None]:
    return {str(found.relative_to(path)): found.read_bytes() if found.is_file() else None for found in path.rglob("*")}


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path that nobody can write to, whoever asks: it lies below a regular file."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "below"


def test_help_and_version_name_everything(capsys: Captured) -> None:
    code, out, err = asked(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(f"    {name} " in out for name in COMMANDS)
    assert asked(capsys, "--version") == (0, f"holdfast {hf.__version__}\n", "")
    for name in COMMANDS:
        code, out, _ = asked(capsys, name, "--help")
        examples = [line.strip() for line in out.partition("\nexamples:\n")[2].splitlines()]
        assert code == 0 and examples and all(line.startswith(f"holdfast {name} ") for line in examples)
        for line in examples:
            assert parser().parse_args(shlex.split(line.split(" && ")[0].split(" > ")[0])[1:]).command == name


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("gte",), "gate"),
        (("analyse", "run"), "analyze"),
        (("export", "run", "--to", "cvs", "-o", "x"), "csv"),
        (("run", "study.toml", "--outptu=x"), "--output"),
        (("pairs", "run", "--objective", "safety", "--judge", "state", "--eqal-cases"), "--equal-cases"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else words,
)
def test_a_misspelt_word_of_a_closed_list_is_answered_with_the_nearest(
    arguments: tuple[str, ...], near: str, capsys: Captured
) -> None:
    assert f"; did you mean {near!r}?; see `holdfast" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("new",),
        ("run", "study.toml", "--workers", "0"),
        ("analyze", "run", "--draws", "many"),
        ("pairs", "run", "--objective", "safety", "--judge", "state", "--min-gap", "nan"),
        ("pairs", "run", "--judge", "state"),
        ("export", "run", "--to", "xls", "-o", "out"),
        ("export", "run", "--to", "csv"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_one_line_that_points_to_help(arguments: tuple[str, ...], capsys: Captured) -> None:
    told = refused(capsys, *arguments)
    assert "--help`" in told and " _" not in told  # no name of ours


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_results_have_colours_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a pipe, not in JSON, not where NO_COLOR or a dumb terminal says so; the words are the same in all."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    text = "FAIL: S against base [red]\n\n  Check   Change\n  ──────────────\n  safety  FAIL" + " and more" * 20

    def shown(stream: io.StringIO, *, plain: bool = False, **environment: str) -> str:
        monkeypatch.setattr(sys, "stdout", stream)
        for name, value in {"TERM": "xterm-256color", **environment}.items():
            monkeypatch.setenv(name, value)
        cli._say(text, plain=plain)
        return stream.getvalue()

    coloured = shown(Terminal())
    assert coloured.count("\x1b[1;31mFAIL\x1b[0m") == 2 and "\x1b[1m  Check   Change\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text + "\n"
    assert shown(io.StringIO()) == shown(Terminal(), plain=True) == shown(Terminal(), TERM="dumb") == text + "\n"
    assert "31m" not in shown(Terminal(), NO_COLOR="1")


def test_new_check_plan(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = asked(capsys, "new", "my study")
    assert (code, out, err) == (
        0,
        "wrote my study/study.toml; next: holdfast check 'my study/study.toml'\n",
        "",
    )
    code, out, _ = asked(capsys, "check", "my study/study.toml")
    assert code == 0 and "valid; next: holdfast plan 'my study/study.toml'" in out
    code, out, _ = asked(capsys, "plan", "my study/study.toml", "--json")
    document = json.loads(out)
    assert code == 0 and document["run"] == "runs/my study" and document["left"]["steps"] == len(document["steps"])
    code, out, _ = asked(capsys, "plan", "my study/study.toml")
    assert code == 0 and f"{len(document['steps'])} of {len(document['steps'])} steps to do" in out
    full = asked(capsys, "plan", "my study/study.toml", "--full")[1]
    assert "on test cases" in full and "on test cases" not in out
    assert "is there already" in refused(capsys, "new", "my study")
    assert [path.name for path in tmp_path.iterdir()] == ["my study"]


@pytest.mark.parametrize(
    "name",
    ['say "x" \\ now', "etüde-研究", ".hidden", "é" * 120, "line\nbreak"],
    ids=["quotes", "unicode", "dot", "long", "break"],
)
def test_a_study_can_be_started_in_a_directory_of_any_name(name: str, tmp_path: Path, capsys: Captured) -> None:
    assert asked(capsys, "new", tmp_path / name)[0] == 0
    assert asked(capsys, "check", tmp_path / name / "study.toml")[0] == 0


def test_a_study_with_a_byte_order_mark_and_windows_lines(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMOKE.read_bytes().replace(b"\n", b"\r\n"))
    assert asked(capsys, "check", path)[0] == 0


def test_run_tells_results_and_progress_apart(own_run: Path, capsys: Captured) -> None:
    code, out, err = asked(capsys, "run", SMOKE, "-o", own_run, "--workers", "1")
    assert code == 0 and "Lineage" in out and out.splitlines()[-1].startswith(f"report: {own_run}")
    assert len(out.splitlines()) <= 30 and out.index("Safety training (S) is not shown to gain") < out.index("Lineage")
    assert f"everything: holdfast analyze '{own_run}'\n" in out and "Gate: INCONCLUSIVE (8 INCONCLUSIVE)" in out
    whole = asked(capsys, "run", SMOKE, "-o", own_run, "--quiet", "--full")[1]
    tables = asked(capsys, "analyze", own_run)[1].strip().split("\n\n")
    assert all(table in whole for table in tables) and "Gate (8 INCONCLUSIVE)" in whole
    assert err == "analyzing and writing the report\n"
    assert "\x1b" not in out
    assert asked(capsys, "run", SMOKE, "-o", own_run, "--no-report", "--quiet") == (0, "", "")
    code, out, _ = asked(capsys, "report", own_run, "--draws", "100")
    assert code == 0 and Path(out.removeprefix("report: ").strip()).is_file()


@pytest.fixture
def own_run(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may write to."""
    return copy_run(smoke_run, tmp_path / "own run")


def test_plan_of_a_finished_run_leaves_the_rest_to_do(smoke_run: Path, capsys: Captured) -> None:
    document = json.loads(asked(capsys, "plan", SMOKE, "-o", smoke_run, "--json")[1])
    assert document["left"]["steps"] == 0 and document["left"]["cpu_seconds"] == 0
    assert {row["status"] for row in document["steps"]} == {"done"}


def test_analyze_and_pairs(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    code, out, err = asked(capsys, "analyze", smoke_run, "--json", "--draws", "100")
    assert (code, err) == (0, "")
    assert {"scores", "persistence", "frontier", "deltas", "agreement", "audit"} <= set(json.loads(out))
    assert "Lineage" in asked(capsys, "analyze", smoke_run)[1]
    rule = ("pairs", smoke_run, "--objective", "safety", "--judge", "state")
    document = json.loads(asked(capsys, *rule, "--json")[1])
    assert document["pairs"] > 0 and f"{document['pairs']:,} pairs of" in asked(capsys, *rule)[1]
    lines = asked(capsys, *rule, "--to", "trl")[1].splitlines()
    assert len(lines) == document["pairs"]
    code, out, _ = asked(capsys, *rule, "--to", "trl", "-o", tmp_path / "deep" / "pairs.jsonl")
    assert out == f"wrote {len(lines):,} pairs to {tmp_path}/deep/pairs.jsonl\n"
    assert (tmp_path / "deep" / "pairs.jsonl").read_text().splitlines() == lines
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["pairs.jsonl"]
    assert "this run has state" in refused(capsys, *rule[:-1], "gpt")
    assert "this run has helpfulness, safety" in refused(capsys, *rule[:3], "speed", *rule[4:])


def test_show(smoke_run: Path, capsys: Captured) -> None:
    code, out, err = asked(capsys, "show", smoke_run)
    assert (code, err) == (0, "") and re.search(r"Steps: (\d+) of \1 done", out)
    assert "on test cases" not in out and re.search(r"rollout +done +\d+ ", out)
    assert re.search(
        r"done +rollout +roll out tiny-0 · base on test cases", asked(capsys, "show", smoke_run, "--full")[1]
    )
    with Store(smoke_run) as store:
        ids = store.trajectory_ids()
    code, out, _ = asked(capsys, "show", smoke_run, ids[5][:12])
    assert code == 0 and ids[5] in out and "SCORES" in out
    assert "give more digits" in refused(capsys, "show", smoke_run, "")
    assert "no trajectory with an id that starts with 'zz'" in refused(capsys, "show", smoke_run, "zz")


def test_outputs_that_cannot_be_written(smoke_run: Path, blocked: Path, capsys: Captured) -> None:
    tree = contents(blocked.parent.parent)
    for output in (blocked, blocked / "deeper", Path("/proc/nothing/here"), blocked.parent / ("x" * 300)):
        assert "cannot" in refused(capsys, "new", output)
        assert str(output)[:20] in refused(capsys, "run", SMOKE, "-o", output)
        assert str(output)[:20] in refused(capsys, "run", SMOKE, "-o", smoke_run, "--fork", output)
        assert "cannot be written" in refused(capsys, "export", smoke_run, "--to", "csv", "-o", output)
        rule = ("--objective", "safety", "--judge", "state", "--to", "trl", "-o", output)
        assert "cannot be written" in refused(capsys, "pairs", smoke_run, *rule)
    assert contents(blocked.parent.parent) == tree
    assert "is a directory" in refused(capsys, "pairs", smoke_run, *rule[:-1], blocked.parent.parent)


def test_an_import_that_cannot_be_written(blocked: Path, tmp_path: Path, capsys: Captured) -> None:
    write_archive(tmp_path / "source.tar", sample())
    assert str(blocked) in refused(capsys, "import", tmp_path / "source.tar", "-o", blocked)


@pytest.mark.parametrize("kind", ["absent", "file", "empty directory", "other directory"])
def test_what_is_no_run_is_refused_and_left_alone(kind: str, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "place"
    if kind == "file":
        path.write_text("mine")
    elif kind != "absent":
        path.mkdir()
        if kind == "other directory":
            (path / "thesis.tex").write_text("mine")
    tree = contents(tmp_path)
    for command in (("show",), ("show", "ab"), ("analyze",), ("report",), ("export",), ("pairs",)):
        options: tuple[object, ...] = {
            "export": ("--to", "jsonl", "-o", tmp_path / "a" / "b"),
            "pairs": ("--objective", "safety", "--judge", "state"),
        }.get(command[0], ())
        assert f"{path}: no run here" in refused(capsys, command[0], path, *command[1:], *options)
    if kind in ("file", "other directory"):
        assert "choose another output" in refused(capsys, "run", SMOKE, "-o", path)
    assert contents(tmp_path) == tree


@pytest.mark.parametrize("kind", ["truncated", "overwritten"])
def test_a_damaged_database_is_told(kind: str, own_run: Path, capsys: Captured) -> None:
    whole = (own_run / "run.db").read_bytes()
    (own_run / "run.db").write_bytes(whole[: len(whole) // 3] if kind == "truncated" else b"not a database" * 999)
    for leftover in own_run.glob("run.db-*"):
        leftover.unlink()
    before = (own_run / "run.db").read_bytes()
    commands = (("show", own_run), ("analyze", own_run), ("run", SMOKE, "-o", own_run, "--quiet", "--no-report"))
    for command in commands:
        code, _, err = asked(capsys, *command)
        assert code == 2 and err.count("\n") == 1 and "run" in err, err
    assert (own_run / "run.db").read_bytes() == before


def test_a_full_disk_is_one_line(smoke_run: Path) -> None:
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(
            [*HOLDFAST, "analyze", str(smoke_run), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert shown.returncode == 2 and shown.stderr.count("\n") == 1 and "No space left" in shown.stderr


@pytest.mark.parametrize("arguments", [("analyze", "--json"), ("show",)], ids=["long", "short"])
def test_a_reader_that_goes_away_is_no_error(arguments: tuple[str, ...], smoke_run: Path) -> None:
    command = subprocess.Popen(
        [*HOLDFAST, arguments[0], str(smoke_run), *arguments[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    told = command.stderr.read()
    command.stderr.close()
    assert (command.wait(), told) == (0, b"")


def test_another_directory_and_another_encoding(smoke_run: Path, tmp_path: Path) -> None:
    """Relative paths mean the caller's directory; what a terminal cannot show is escaped, not fatal."""
    (tmp_path / "ein lauf").symlink_to(smoke_run)
    shown = subprocess.run(
        [*HOLDFAST, "show", "ein lauf"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("Run ein lauf\n") and shown.stderr == "" and shown.stdout.isascii()


def test_messages_hold_no_control_characters(capsys: Captured) -> None:
    line = refused(capsys, "show", "a\x1b[31m\nb")
    assert "\x1b" not in line and "a [31m b: no run here" in line


def test_an_interrupt_is_told_and_has_its_exit_code(
    own_run: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "show", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        code, out, err = asked(capsys, "show", own_run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out, err) == (130, "", "\nholdfast: interrupted; repeat the command to go on\n")


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.full
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_everything_and_the_run_goes_on_later(times: int, smoke_run: Path, tmp_path: Path) -> None:
    """As a terminal sends it: to every process of the group, with workers at work."""
    settings = smoke_settings()
    settings["study"]["lineages"], settings["doses"] = [["S"]], {}
    settings["rollouts"]["per_test_case"] = 20
    study, output = write_toml(settings, tmp_path / "study.toml"), tmp_path / "run"
    # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = subprocess.Popen(
        [*HOLDFAST, "run", str(study), "-o", str(output), "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not begun(output):
        time.sleep(0.05)
    for _ in range(times):
        os.killpg(command.pid, signal.SIGINT)
        time.sleep(0.02)
    out, err = command.communicate(timeout=120)  # only a hang takes so long, whatever else the machine does
    assert command.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1] == "holdfast: interrupted; repeat the command to go on"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not group_is_gone(command.pid):
        time.sleep(0.05)
    assert group_is_gone(command.pid)
    with Store(output, writable=True) as store:  # nobody holds the lock
        kept = store.trajectory_ids()
    hf.run(study, output, workers=1)
    with Store(output) as store:
        assert 0 < len(kept) < store.counts()["trajectories"] and store.trajectory_ids()[: len(kept)] == kept
        assert {status.status for status in store.log.steps().values()} == {"done"}
    assert not list((output / "weights").glob(".part-*"))


def begun(output: Path) -> bool:
    """Whether the run has committed an episode."""
    try:
        with Store(output) as store:
            return store.counts()["trajectories"] > 0
    except hf.StoreError:
        return False


def test_a_lineage_needs_a_base_and_a_model(tmp_path: Path, capsys: Captured) -> None:
    """The command has tests of its own; here is what a newcomer meets first."""
    line = refused(capsys, "lineage", f"base={tmp_path}", "-o", tmp_path / "run")
    assert "base alone is no lineage; name what was trained from it, as in `holdfast lineage base=DIR" in line


def test_a_judge_of_nobody_is_told(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such judge; there are: state" in refused(capsys, "judge", smoke_run, "--with", "nobody")


def test_gate_and_watch_say_what_they_need(smoke_run: Path, capsys: Captured) -> None:
    """Verdicts and alarms have tests of their own; here is what a newcomer meets first."""
    assert "--child" in refused(capsys, "gate", smoke_run)
    code, out, _ = asked(capsys, "gate", smoke_run, "--child", "S,H dose=1", "--json", "--quiet")
    (verdict,) = json.loads(out)["verdicts"]
    assert code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[verdict["outcome"]]
    assert "--baseline" in refused(capsys, "watch", smoke_run)
    code, out, _ = asked(capsys, "watch", smoke_run, "--baseline", "S", "--quiet")
    assert code in (0, 1, 3) and "S,H" in out


def test_join_says_what_came_of_each_run_and_what_is_left(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    other, joined = tmp_path / "other", tmp_path / "joined"
    study = load(SMOKE, changes=["study.train_seeds=[1]"])
    begin(study, other)
    with Store(other, writable=True) as store, Store(smoke_run) as first:
        store.set_meta(PLAN_KEY, json.dumps([step.fingerprint for step in build(study).steps]))
        counts = first.counts()
    assert "or add --partial" in refused(capsys, "join", smoke_run, other, "-o", joined)
    code, out, err = asked(capsys, "join", smoke_run, other, "-o", joined, "--partial", "--quiet", "--study", SMOKE)
    lines = out.splitlines()
    assert code == 0 and f"{counts['trajectories']:,} trajectories, {counts['scores']:,} scores" in lines[0]
    assert lines[1].startswith(f"{smoke_run} · study.train_seeds 0") and "study.train_seeds 1" in lines[2]
    assert lines[-1] == f"next: holdfast report {joined}" and "`holdfast run` does them" in err


def test_verify_says_what_it_needs(tmp_path: Path, capsys: Captured) -> None:
    """Signed answers have tests of their own."""
    assert "--key" in refused(capsys, "verify", tmp_path)
    assert "cannot be read" in refused(capsys, "verify", tmp_path, "--key", tmp_path / "pub.pem")


def test_carry_needs_a_slice_and_a_place(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert "--output" in refused(capsys, "carry", tmp_path)
    assert "cannot be read" in refused(capsys, "carry", smoke_run, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_command_has_a_test_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in text for name in COMMANDS)
    assert parser().prog == "holdfast"
