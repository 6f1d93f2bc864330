"""The command line on what nobody foresaw: errors of its own, input without bounds, addresses that a run brings."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builders.commands import refused
from builders.gate_samples import Made, steady, write_run
from builders.sample_studies import HUGE, SHORT
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.cli.main import COMMANDS, main
from holdfast.decisions.gate import running
from holdfast.decisions.gate.rules import read_rules
from holdfast.models.fakes import FakeProvider
from holdfast.records import Checkpoint
from holdfast.records.errors import StudyError
from holdfast.runs.rescoring import find_judge, read_judges
from holdfast.store import Store
from holdfast.store.places import ENDPOINTS_KEY, STUDY_KEY
from holdfast.study.study import Study, load

Captured = pytest.CaptureFixture[str]
SECRET = "sk-live-0123456789abcdef"

# Where something breaks in each command: a name of ours that it calls, and words that lead there.
INNER: dict[str, tuple[str, Sequence[str]]] = {
    "new": ("holdfast.study.template.write_study", ("place",)),
    "check": ("holdfast.study.study.load", ("x.toml",)),
    "plan": ("holdfast.study.study.load", ("x.toml",)),
    "run": ("holdfast.study.study.load", ("x.toml",)),
    "lineage": ("holdfast.cli.lineage.carry_out", ("base=x", "-o", "out")),
    "join": ("holdfast.runs.joining.join.join", ("one", "two", "-o", "out")),
    "carry": ("holdfast.runs.carrying.carry.carry_to_directory", ("slice", "-o", "out")),
    "import": ("holdfast.exchange.imports.import_run", ("logs", "-o", "out")),
    "judge": ("holdfast.runs.rescoring.rescore", ("run", "--with", "state")),
    "pairs": ("holdfast.store.Store", ("run", "--objective", "safety", "--judge", "state")),
    "analyze": ("holdfast.runs.run.Run", ("run",)),
    "gate": ("holdfast.cli.gate.carry_out", ("run", "--child", "S")),
    "verify": ("holdfast.cli.verify.carry_out", ("answer", "--key", "pub.pem")),
    "watch": ("holdfast.cli.watch.carry_out", ("run", "--baseline", "S")),
    "show": ("holdfast.store.Store", ("run",)),
    "report": ("holdfast.runs.run.Run", ("run",)),
    "export": ("holdfast.exchange.exports.export_run", ("run", "--to", "csv", "-o", "out")),
}


# A module that is first imported while one of these is broken would keep it so.
for module in (
    "exchange.exports",
    "exchange.imports",
    "runs.joining.join",
    "runs.run",
    "runs.readiness",
    "runs.forecast",
    "cli.gate",
    "cli.verify",
    "cli.watch",
    "cli.search",
):
    importlib.import_module(f"holdfast.{module}")


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


@pytest.mark.parametrize("error", [AssertionError(), RecursionError("x" * 10_000), ValueError("\x1b[31m\u2028")])
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

    monkeypatch.setattr("holdfast.cli.main.parser", fail)
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


# --- input without bounds (B3) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device without end", "device", "directory", "absent"])
def test_only_files_are_read_as_settings(kind: str, tmp_path: Path, capsys: Captured) -> None:
    """A pipe that nobody writes to would be waited for, a device without end would be read for ever."""
    place = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind != "absent":
        place = Path("/dev/zero" if kind == "device without end" else "/dev/null")
    run = write_run(tmp_path / "run", Made(safety={"base": steady(4), "S": steady(4)}))
    finding = {"directory": "Is a directory", "absent": "No such file"}.get(kind, "is a device or a pipe")
    baseline = ("--baseline", "S", "--checkpoints", "base", "--frozen", "2")
    for words in (
        ("check", place),
        ("plan", place),
        ("run", place),
        ("gate", run, "--child", "S", "--rules", place),
        ("gate", "--suite", place, "--parent", "tiny", "--child", "tiny", "-o", tmp_path / "new"),
        ("judge", run, "--with", "x", "--judges", place),
        ("judge", "--canaries", "--with", "x", "--judges", place),
        ("watch", run, *baseline, "--judges", place),
        *([] if kind == "absent" else [("watch", run, *baseline, "--state", place)]),
    ):
        told = refused(capsys, *words)
        if kind == "directory" and "--suite" in words:  # one may hold cases or tasks
            assert f"{place}: no task.toml and no cases.jsonl in it" in told
            continue
        assert f"{place}: {finding}" in told or (f"{place}: cannot be read" in told and finding in told), told


@pytest.mark.parametrize("key", ["suite.cases", "probes.items", "judges.state.rules", "judges.state.rubrics.safety"])
def test_files_that_a_study_names_are_files(key: str, tmp_path: Path, capsys: Captured) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    file = tmp_path / "x.toml"
    kind = {"rules": "rules", "safety": "rubric"}.get(key.rpartition(".")[2], "state")
    model = 'model = "openai/x"\n' if kind == "rubric" else ""
    file.write_text(SHORT.replace('"state"\n', f'"{kind}"\n{model}'), encoding="utf-8")
    settings = [f"{key}={tmp_path / 'pipe.md'}"]
    if key == "suite.cases":  # of a suite that reads files
        settings += ["suite.name=probes", "suite.split=none", "suite.source=xstest"]
    told = refused(capsys, "check", file, *(word for setting in settings for word in ("--set", setting)))
    assert f"{key}: {tmp_path / 'pipe.md'} is a device or a pipe" in told


def test_the_published_study_says_where_its_cases_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    study = (Path(__file__).parents[2] / "studies/published.toml").resolve()
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "plan", study)
    assert "suite.cases: data/toolemu-cases.json cannot be read" in told
    assert "assets/all_cases.json and assets/all_toolkits.json of https://github.com/ryoungj/ToolEmu" in told


@pytest.mark.parametrize(
    "words",
    [
        ("analyze", "run", "--draws", str(10**12)),
        ("analyze", "run", "--draws", HUGE),
        ("report", "run", "--draws", str(10**7)),
        ("run", "x.toml", "--workers", str(10**9)),
        ("gate", "run", "--child", "S", "--cases", HUGE),
        ("pairs", "run", "--objective", "safety", "--judge", "state", "--seed", "-1"),
        ("pairs", "run", "--objective", "safety", "--judge", "state", "--cap-per-case", HUGE),
        ("watch", "run", "--baseline", "S", "--sample", HUGE),
        ("judge", "run", "--with", "x", "--max-calls", "9" * 5000),
    ],
    ids=lambda words: " ".join((words[0], words[-2])),
)
def test_numbers_on_the_command_line_have_bounds(words: Sequence[str], capsys: Captured) -> None:
    told = refused(capsys, *words)
    assert "give a whole number from" in told and "--help`" in told and len(told) < 300


def test_a_file_of_judges_is_named_in_every_refusal(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": steady(4)}))
    file = tmp_path / "j.toml"
    for text in (
        '[judges.x]\nkind = "nobody"\n',
        "[judges.x]\n",
        '[judges.x]\nkind = "rules"\n',
        '[judges.x]\nkind = "state"\nmodel = "openai/x"\n',
        '[judges.x]\nkind = "state"\n"" = 3\n',
        f'[judges.x]\nkind = "rubric"\nmodel = "openai/x"\nrepeats = {10**15}\n',
        '[judges.x]\nkind = "state"\n[endpoints.gpt]\ntimeout = 1e300\n',
        '[judges.x]\nkind = "state"\n[models.gpt]\nkind = "remote"\n',
        "judges = 3\n",
        "[suite]\n",
    ):
        file.write_text(text, encoding="utf-8")
        assert f"holdfast: {file}: " in refused(capsys, "judge", run, "--with", "x", "--judges", file)


NAMES = st.sampled_from(["study", "judges", "stages", "axes", "gate", "name", "S", "steps", "kind", "", "a.b", "é"])
VALUES = st.recursive(
    st.none().map(lambda _: "inf")
    | st.integers().map(str)
    | st.integers(2**60, 2**70).map(hex)
    | st.floats().map(repr)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8).map(json.dumps)
    | st.sampled_from(["true", "2024-01-01", "10:00:00", "[[", "{", '"""', "1e400", "-0", "'x'", "S"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(NAMES.map(json.dumps), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        )
    ),
    max_leaves=6,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), VALUES), max_size=5), st.booleans())
def test_no_table_in_toml_ends_in_anything_but_a_refusal(lines: list[tuple[list[str], str]], begun: bool) -> None:
    text = (SHORT if begun else "") + "".join(
        f"{'.'.join(json.dumps(name) for name in names)} = {value}\n" for names, value in lines
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.toml")
        file.write_text(text, encoding="utf-8")
        for read in (load, read_judges, lambda path: read_rules(file=path)):
            with contextlib.suppress(StudyError):
                read(file)


# --- addresses and keys come from the user (S1) ------------------------------------------------------------------


HOSTILE = "AWS_SECRET_ACCESS_KEY"
PROVIDER = {"kind": "remote", "name": "openai-api/fake/judge"}


def hostile_run(path: Path, url: str, **study: object) -> Path:
    """A run from a stranger: its study sends what is judged to an address and with a key of its own choice."""
    asked = {
        "judges": {
            "gpt": {"kind": "rubric", "model": "theirs"},
            "mine/judge": {"kind": "rubric", "model": "theirs"},
            "mine": {"kind": "rubric", "model": "openai-api/fake/judge"},
        },
        "models": {"theirs": PROVIDER, "openai-api/fake/judge": {**PROVIDER, "name": "openai-api/fake/other"}},
        "model": {"bases": ["tiny"]},
        **study,
    }
    run = write_run(path, Made(safety={"base": steady(4)}, study=asked))
    own = {"base_url": url, "key_env": HOSTILE}
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta(ENDPOINTS_KEY, json.dumps(dict.fromkeys(("theirs", "openai-api/fake/judge"), own)))
    return run


@pytest.fixture
def their_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    """A stranger's server, which notes what it is sent, and a secret of ours that it would like to have."""
    monkeypatch.setenv(HOSTILE, SECRET)
    for name in ("FAKE_API_KEY", "FAKE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with FakeProvider() as server:
        yield server
        assert SECRET not in repr(server.bill)


@pytest.mark.parametrize("command", ["judge", "canaries", "watch", "again"])
def test_a_runs_own_addresses_and_keys_are_not_taken(
    command: str, their_server: FakeProvider, tmp_path: Path, capsys: Captured
) -> None:
    run = hostile_run(tmp_path / "run", their_server.base_url)
    words: Sequence[object] = {
        "judge": ("judge", run, "--with", "gpt"),
        "canaries": ("judge", run, "--canaries", "--with", "gpt"),
        "watch": ("watch", "--traces", one_trace(tmp_path), "--judge", "gpt", "-o", run),
        "again": ("gate", remote_run(tmp_path / "old", their_server.base_url), "--child", "base", "--again"),
    }[command]
    told = refused(capsys, *words)
    assert "at 127.0.0.1" in told and f"with the key in {HOSTILE}" in told
    assert "--judges FILE" in told and "--trust-endpoints" in told
    assert not their_server.bill and SECRET not in told


def one_trace(folder: Path) -> Path:
    file = folder / "traces.jsonl"
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    file.write_text(json.dumps({"messages": said}) + "\n", encoding="utf-8")
    return file


def remote_run(path: Path, url: str) -> Path:
    """A stranger's run of a study whose agent is a provider's model."""
    base = Checkpoint(id="a" * 64, base="theirs", stages=(), model="openai-api/fake/agent")
    study = {
        "study": {"name": "x"},
        "model": {"bases": ["theirs"]},
        "models": {"theirs": {"kind": "remote", "name": "openai-api/fake/agent"}},
        "judges": {"state": {"kind": "state"}},
    }
    with Store.create(path) as store, store.transaction():
        store.add_checkpoint(base)
        store.set_meta(STUDY_KEY, json.dumps(study))
        store.set_meta(ENDPOINTS_KEY, json.dumps({"theirs": {"base_url": url, "key_env": HOSTILE}}))
    return path


def test_a_users_own_file_says_how_a_runs_model_is_reached(
    their_server: FakeProvider, tmp_path: Path, capsys: Captured
) -> None:
    run = hostile_run(tmp_path / "run", their_server.base_url)
    file = tmp_path / "mine.toml"
    with FakeProvider(answers=lambda _: "no verdict") as mine:
        file.write_text(f'[endpoints.theirs]\nbase_url = "{mine.base_url}"\n', encoding="utf-8")
        assert main(["judge", str(run), "--with", "gpt", "--judges", str(file), "--quiet"]) in (0, 1)
        assert mine.bill and not their_server.bill
        assert SECRET not in repr(mine.bill)


def test_a_run_of_ones_own_is_trusted_by_an_option(their_server: FakeProvider, tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", their_server.base_url)
    main(["judge", str(run), "--with", "gpt", "--quiet", "--max-calls", "3", "--trust-endpoints"])
    assert their_server.bill


def test_a_providers_model_is_not_what_a_run_calls_so(
    their_server: FakeProvider, tmp_path: Path, capsys: Captured
) -> None:
    """Who writes PROVIDER/NAME means the provider's: no judge, model or base of a run takes its place."""
    name = "openai-api/fake/judge"
    run = hostile_run(tmp_path / "run", their_server.base_url, model={"bases": [name]})
    with Store(run) as store:
        with pytest.raises(StudyError, match=r"reaches 'openai-api/fake/judge' at 127\.0\.0\.1"):
            find_judge(name, None, store)
        file = tmp_path / "mine.toml"
        file.write_text(f'[endpoints."{name}"]\nbase_url = "https://api.example.com"\n', encoding="utf-8")
        found = find_judge(name, file, store)
        assert found.speaker is not None
        assert (found.speaker.entry.kind, found.speaker.entry.name) == ("remote", name)
        assert found.means.endpoints[name].base_url == "https://api.example.com"
        # A judge with a slash in its name is the run's only where the user says nothing else by it.
        other = find_judge("mine/judge", None, store).speaker
        assert other is not None and other.model == "mine/judge"
    assert not their_server.bill


def test_without_an_address_of_its_own_a_runs_judge_goes_to_the_provider(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", "")
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta(ENDPOINTS_KEY, json.dumps({"theirs": {"input_price": 1.0, "connections": 2}}))
    with Store(run) as store:
        found = find_judge("gpt", None, store)
    assert found.speaker is not None and found.speaker.entry.name == "openai-api/fake/judge"
    endpoint = found.means.endpoints["theirs"]
    assert endpoint.base_url is None is endpoint.key_env


@pytest.mark.parametrize("noted", ["{torn", "[1]", '{"theirs": 3}', "[" * 50_000])
def test_damaged_endpoints_of_a_run_are_told(noted: str, tmp_path: Path, capsys: Captured) -> None:
    run = hostile_run(tmp_path / "run", "")
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta(ENDPOINTS_KEY, noted)
    assert "is damaged; restore the run" in refused(capsys, "judge", run, "--with", "gpt")


# --- what can be imported ----------------------------------------------------------------------------------------


PREFERENCES = {
    "openai.jsonl": '{"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}\n',
    "ultrafeedback.jsonl": '{"prompt": "a", "chosen": [], "rejected": [], "score_chosen": 7.5}\n',
    "hh-rlhf.jsonl.gz": "packed",
    "data.parquet": "PAR1",
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_p_24_preference_data_is_refused_with_what_can_be_imported(name: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / name).write_text(PREFERENCES[name], encoding="utf-8")
    told = refused(capsys, "import", tmp_path / name, "-o", tmp_path / "run")
    assert name in told and ".tar.zst" in told and "Inspect logs (.eval, .json)" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["pipe", "pipe.tar", "pipe.eval"])
def test_a_pipe_is_not_waited_for_by_an_import(name: str, tmp_path: Path, capsys: Captured) -> None:
    os.mkfifo(tmp_path / name)
    assert name in refused(capsys, "import", tmp_path / name, "-o", tmp_path / "run")
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_again_keeps_the_users_own_way_to_a_remote_base(
    their_server: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that is made anew is reached as the file says; with the option, as the run itself says."""
    run = remote_run(tmp_path / "old", their_server.base_url)
    file = tmp_path / "mine.toml"
    file.write_text('[endpoints.theirs]\nbase_url = "https://api.example.com"\n', encoding="utf-8")
    asked = []

    def note(study: Study, *_: object, **__: object) -> None:
        asked.append({name: one.base_url for name, one in study.endpoints.items()})
        raise StudyError("far enough")

    monkeypatch.setattr(running, "run", note)
    words = ["gate", str(run), "--child", "base", "--again", "-o", str(tmp_path / "new"), "--quiet", "--yes"]
    assert main([*words, "--judges", str(file)]) == main([*words, "--trust-endpoints"]) == 2
    mine, theirs = (set(one.values()) for one in asked)
    assert (mine, theirs) == ({"https://api.example.com"}, {their_server.base_url})
