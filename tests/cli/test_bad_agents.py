"""What can be wrong with real agents, from the command line: one line says it, and nothing paid for is lost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders.toolemu_samples import make_record, write_files

from holdfast.cli import main as cli
from holdfast.models.fakes import FakeProvider
from holdfast.records import Ending, Score, ToolCall, Trajectory
from holdfast.runs.forecast import read_spending
from holdfast.store import Store

SPEAKERS = ("agent", "emulator", "judge")
CALLS = {"agent": 4, "emulator": 2, "judge": 4}  # of two cases: a call and an answer, one result, two objectives
PROSE = "Score out of 3: 1"
STUDY = """
[study]
name = "bad-agents"
draws = 100

[model]
bases = ["agent"]

[suite]
name = "toolemu"
cases = "{cases}"
toolkits = "{toolkits}"
split = "none"
test_cases = 2
world = {{ kind = "emulated", model = "emulator", max_tokens = 4000 }}

[rollouts]
per_test_case = 1
max_turns = 3
max_tokens = 400

[judges.grader]
kind = "rubric"
model = "judge"

[run]
workers = 1
"""
SPEAKER = """
[models.{name}]
kind = "remote"
name = "openai-api/fake/{name}"

[endpoints.{name}]
base_url = "{url}"
key_env = "BAD_AGENTS_KEY"
retries = {retries}
"""


def act(request: Mapping[str, Any]) -> ToolCall | str:
    """An agent that looks around once, with calls of the server or as text, and is done."""
    if any(one["role"] == "tool" or "<results>\n" in str(one["content"]) for one in request["messages"][1:]):
        return "The disk is clean."
    if request.get("tools"):
        return ToolCall(name="TerminalExecute", arguments={"command": "ls"}, id="call_0")
    return '<calls>\n{"name": "TerminalExecute", "arguments": {"command": "ls"}}\n</calls>'


def play(request: Mapping[str, Any], output: str = "a.txt") -> str:
    """An emulator of the terminal."""
    result = {"output": output, "exit_code": 0}
    return json.dumps({"reasoning": "it lists", "result": result, "exception": None, "state_notes": ""})


def grade(request: Mapping[str, Any]) -> str:
    """A judge that finds everything possible and good."""
    labels = request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
    label = next(one for one in labels if one in ("Possible Mild Risk", "Good"))
    return json.dumps({"reasoning": "seen", "label": label, "score": 2})


@dataclass(slots=True)
class Bench:
    """A study of two cases in a folder, and the three servers that it needs."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    servers: dict[str, FakeProvider]
    urls: dict[str, str]
    run: Path

    def write(self, **urls: str) -> Path:
        """The study, with other addresses for some speakers."""
        text = STUDY.format(cases=self.folder / "cases.json", toolkits=self.folder / "toolkits.json")
        text += "".join(SPEAKER.format(name=name, url={**self.urls, **urls}[name], retries=1) for name in SPEAKERS)
        path = self.folder / "study.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def command(self, *options: str, verb: str = "run", **urls: str) -> tuple[int, str]:
        """Exit code and standard error of `holdfast run`; an error that nobody turned into a line escapes."""
        more = ["-o", str(self.run), "--quiet", "--no-report"] if verb == "run" else []
        self.capsys.readouterr()
        code = cli.main([verb, str(self.write(**urls)), *more, *options])
        return code, self.capsys.readouterr().err

    def refuse(self, code: int, *options: str, verb: str = "run", **urls: str) -> str:
        """The one line with which the command ends, at an exit code, after the line of the step that failed, if any."""
        found, told = self.command(*options, verb=verb, **urls)
        assert found == code, told
        *steps, last = told.splitlines()
        assert last.startswith("holdfast: ") and "Traceback" not in told
        assert len(steps) <= (1 if code == 1 else 0) and all("failed: " in line for line in steps)
        return last

    def finish(self) -> tuple[list[Trajectory], list[Score]]:
        """What the same command makes, now that nothing is in its way."""
        assert self.command() == (0, "")
        with Store(self.run) as store:
            made = sorted(store.trajectories(), key=lambda one: one.case_id)
            return made, [score for one in made for score in store.scores(one.id)]

    def finish_whole(self) -> None:
        """The same command makes everything, and each call was answered and paid for once."""
        made, scores = self.finish()
        assert [one.ending for one in made] == [Ending.FINISHED] * 2
        assert [one.messages[-1].content for one in made] == ["The disk is clean."] * 2
        assert [one.value for one in scores] == [2.0] * 4
        self.check_bills(CALLS)
        before = [len(server.requests) for server in self.servers.values()]
        assert self.command() == (0, "")
        assert [len(server.requests) for server in self.servers.values()] == before

    def check_bills(self, calls: Mapping[str, int]) -> None:
        """The servers' bills are the ledger's, without a call in doubt or one that was paid for twice."""
        spent = {one.speaker: one for one in read_spending(self.run)}
        for name, server in self.servers.items():
            assert max(Counter(one.digest for one in server.bill).values(), default=1) == 1
            assert len(server.bill) == calls[name], name
            if calls[name]:
                assert (spent[name].calls, spent[name].in_doubt) == (calls[name], 0)


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Everything as it should be: each test breaks one thing."""
    monkeypatch.setenv("BAD_AGENTS_KEY", "the-right-key")
    records = [make_record(name) for name in ("one", "two")]
    for record in records:
        record["User Instruction"] = f"Clean up disk {record['name']}."
    write_files(tmp_path, records)
    servers = {
        name: FakeProvider(answers=answers, key="the-right-key")
        for name, answers in zip(SPEAKERS, (act, play, grade), strict=True)
    }
    with contextlib.ExitStack() as running:
        for server in servers.values():
            running.enter_context(server)
        urls = {name: server.base_url for name, server in servers.items()}
        yield Bench(tmp_path, capsys, servers, urls, tmp_path / "run")


# --- causes that can be removed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("speaker", ["agent", "judge"])
def test_nobody_at_the_address(bench: Bench, speaker: str) -> None:
    with FakeProvider() as gone:
        dead = gone.base_url
    told = bench.refuse(1, **{speaker: dead})
    assert "no connection" in told and "check base_url" in told and f"openai-api/fake/{speaker}" in told
    assert gone.requests == [] and bench.servers[speaker].requests == []
    bench.finish_whole()


@pytest.mark.parametrize("speaker", ["agent", "judge"])
def test_a_key_that_is_not_let_in(bench: Bench, speaker: str) -> None:
    bench.servers[speaker].key = "another-key-since-today"
    told = bench.refuse(1)
    assert "HTTP 401" in told and "key_env" in told and f"openai-api/fake/{speaker}" in told
    assert "the-right-key" not in told and bench.servers[speaker].bill == []
    bench.servers[speaker].key = "the-right-key"
    bench.finish_whole()


def test_an_address_that_sends_on(bench: Bench) -> None:
    bench.servers["emulator"].redirect = "http://169.254.169.254/v1"
    assert "redirects elsewhere" in bench.refuse(1)
    bench.servers["emulator"].redirect = None
    bench.finish_whole()


def test_an_address_without_that_path(bench: Bench) -> None:
    assert "HTTP 404" in bench.refuse(1, agent=bench.urls["agent"] + "/wrong")
    bench.finish_whole()


def test_a_ledger_that_is_none(bench: Bench) -> None:
    bench.refuse(1, "--max-calls", "3")
    before = [len(server.requests) for server in bench.servers.values()]
    path = bench.run / "calls.db"
    kept = path.read_bytes()
    path.write_bytes(b"no ledger " * 1000)
    assert f"{path}: calls cannot be recorded here" in bench.refuse(1)
    assert [len(server.requests) for server in bench.servers.values()] == before
    path.write_bytes(kept)
    bench.finish_whole()


def test_a_key_that_nobody_set(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BAD_AGENTS_KEY")
    for verb in ("run", "check"):
        assert "BAD_AGENTS_KEY" in bench.refuse(2, verb=verb)
    assert not bench.run.exists() and not any(server.requests for server in bench.servers.values())
    monkeypatch.setenv("BAD_AGENTS_KEY", "the-right-key")
    bench.finish_whole()
    # A finished run has nothing left to ask.
    monkeypatch.delenv("BAD_AGENTS_KEY")
    assert bench.command()[0] == 0


def test_a_key_that_is_gone_half_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.refuse(1, "--max-calls", "3")
    monkeypatch.delenv("BAD_AGENTS_KEY")
    assert "BAD_AGENTS_KEY" in bench.refuse(1)
    monkeypatch.setenv("BAD_AGENTS_KEY", "the-right-key")
    bench.finish_whole()


@pytest.mark.parametrize("most", [0, 5])
def test_a_budget_that_is_too_small(bench: Bench, most: int) -> None:
    told = bench.refuse(1, "--max-calls", str(most))
    assert f"budget of {most} calls is spent" in told
    assert sum(len(server.bill) for server in bench.servers.values()) == most
    bench.finish_whole()


@pytest.mark.parametrize("content", ["- name: one\n  Toolkits: [Terminal]\n", "", '{"name": "one"}', None])
@pytest.mark.parametrize("file", ["cases.json", "toolkits.json"])
def test_a_file_that_is_no_json(bench: Bench, file: str, content: str | None) -> None:
    path = bench.folder / file
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] if content is None else content)
    for verb in ("check", "run"):
        assert str(path) in bench.refuse(2, verb=verb)
    assert not bench.run.exists()
    path.unlink()
    assert str(path) in bench.refuse(2)
    assert not any(server.requests for server in bench.servers.values())
    path.write_text(whole)
    if content is None:
        bench.finish_whole()


@pytest.mark.parametrize("speaker", SPEAKERS)
@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254"])
def test_an_address_that_no_key_may_go_to(bench: Bench, speaker: str, host: str) -> None:
    for verb in ("check", "run"):
        told = bench.refuse(2, verb=verb, **{speaker: f"http://{host}/v1"})
        assert "endpoint not allowed" in told and host in told and f"endpoints.{speaker}" in told
    assert not bench.run.exists() and not any(server.requests for server in bench.servers.values())


def test_an_address_that_became_one_later(bench: Bench) -> None:
    bench.refuse(1, "--max-calls", "3")
    told = bench.refuse(1, emulator="http://169.254.169.254/v1")
    assert "endpoint not allowed" in told
    bench.finish_whole()


# --- what is data -------------------------------------------------------------------------------------------------


def test_a_server_without_tool_calls(bench: Bench) -> None:
    bench.servers["agent"].without = ("tools",)
    bench.finish_whole()
    asked = [request for request in bench.servers["agent"].requests if not request.get("tools")]
    assert len(asked) == 4 and all("TerminalExecute" in request["messages"][0]["content"] for request in asked)


def test_a_server_without_schemas(bench: Bench) -> None:
    bench.servers["emulator"].without = ("response_format",)
    bench.finish_whole()


def test_an_agent_whose_conversation_is_too_long(bench: Bench) -> None:
    bench.servers["emulator"].answers = lambda request: play(request, "x" * 6000)
    bench.servers["agent"].context = 6000
    made, scores = bench.finish()
    assert [one.ending for one in made] == [Ending.TRUNCATED] * 2
    assert all(one.messages[1].content.count("x") >= 6000 for one in made)
    assert [one.value for one in scores] == [2.0] * 4
    assert {name: len(server.bill) for name, server in bench.servers.items()} == {**CALLS, "agent": 2}


def test_an_episode_that_is_too_long_for_the_judge(bench: Bench) -> None:
    bench.servers["judge"].context = 100
    made, scores = bench.finish()
    assert [one.ending for one in made] == [Ending.FINISHED] * 2
    assert [(one.value, one.missing) for one in scores] == [(None, "context")] * 4
    assert bench.servers["judge"].bill == []


def test_an_emulator_that_speaks_no_json_in_one_episode(bench: Bench) -> None:
    bench.servers["emulator"].answers = lambda request: (
        "I would rather talk." if "disk one" in str(request["messages"]) else play(request)
    )
    made, scores = bench.finish()
    assert sorted(one.ending for one in made) == sorted([Ending.ERROR, Ending.FINISHED])
    (broken,) = [one for one in made if one.ending is Ending.ERROR]
    assert "no usable answer to TerminalExecute, asked twice" in (broken.detail or {})["error"]
    lost = [one for one in scores if one.trajectory_id == broken.id]
    assert [(one.value, one.missing) for one in lost] == [(None, "error")] * 2
    assert [one.value for one in scores if one.trajectory_id != broken.id] == [2.0] * 2
    bench.check_bills({"agent": 3, "emulator": 3, "judge": 2})


def test_an_emulator_that_never_speaks_json(bench: Bench) -> None:
    bench.servers["emulator"].answers = lambda request: "I would rather talk."
    told = bench.refuse(1)
    assert "all 2 episodes failed" in told and "no usable answer" in told
    bench.check_bills({"agent": 2, "emulator": 4, "judge": 0})
    # What was answered is not asked again, also where the answer was of no use: a mended model begins a new run.
    bench.servers["emulator"].answers = play
    assert "another -o" in bench.refuse(1) and len(bench.servers["emulator"].bill) == 4
    bench.run = bench.folder / "again"
    assert [one.value for one in bench.finish()[1]] == [2.0] * 4


@pytest.mark.parametrize(
    "call",
    [
        ToolCall(name="No\ud800pe\n", arguments={}, id="c\ud800"),
        ToolCall(name="TerminalExecute", arguments={"command": "a\ud800\x00"}, id="c"),
        ToolCall(
            name="TerminalExecute", arguments={"_raw": '{"command": ' + "[" * 20_000 + "]" * 20_000 + "}"}, id="c"
        ),
        ToolCall(name="TerminalExecute", arguments={"_raw": '{"command": NaN, "timeout": 1' + "0" * 40 + "}"}, id="c"),
    ],
    ids=["name", "text", "depth", "numbers"],
)
def test_an_agent_whose_calls_no_file_takes(bench: Bench, call: ToolCall) -> None:
    def act_oddly(request: Mapping[str, Any]) -> ToolCall | str:
        said = act(request)
        return said if isinstance(said, str) else call

    bench.servers["agent"].answers = act_oddly
    made, scores = bench.finish()
    assert [one.ending for one in made] == [Ending.FINISHED] * 2 and [one.value for one in scores] == [2.0] * 4
    assert [(one.calls, one.invalid_calls) for one in made] == [(0, 1)] * 2
    assert cli.main(["show", str(bench.run), made[0].id]) == 0
    bench.check_bills({"agent": 4, "emulator": 0, "judge": 4})


def test_a_judge_that_answers_in_prose(bench: Bench) -> None:
    bench.servers["judge"].answers = lambda request: PROSE
    _, scores = bench.finish()
    assert [one.value for one in scores] == [None] * 4 and all(one.missing for one in scores)
    for score in scores:
        kept = json.loads(score.reply or "")
        assert (kept["text"], kept["attempts"], kept["earlier"]) == (PROSE, 2, [PROSE])
    assert len(bench.servers["judge"].bill) == 8
    assert bench.command()[0] == 0 and len(bench.servers["judge"].bill) == 8


# --- the program itself -------------------------------------------------------------------------------------------


def spawn(bench: Bench, *options: str, **urls: str) -> subprocess.CompletedProcess[str]:
    """`holdfast run` as a program of its own."""
    command = [
        sys.executable,
        "-m",
        "holdfast.cli.main",
        "run",
        str(bench.write(**urls)),
        "-o",
        str(bench.run),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_refuses_in_one_line(bench: Bench) -> None:
    found = spawn(bench, judge="http://169.254.169.254/v1")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert found.stderr.startswith("holdfast: endpoints.judge.base_url: endpoint not allowed")


@pytest.mark.full
def test_no_traceback_from_workers(bench: Bench) -> None:
    with FakeProvider() as gone:
        dead = gone.base_url
    found = spawn(bench, "--workers", "2", judge=dead)
    assert (found.returncode, found.stdout) == (1, "")
    assert "no connection" in found.stderr.splitlines()[-1] and "Traceback" not in found.stderr
    bench.finish_whole()
    assert cli.main(["show", str(bench.run)]) == 0
    assert "agent" in bench.capsys.readouterr().out
