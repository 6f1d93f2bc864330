"""The action's parts: what is asked, what goes out of a job, and an API that fails."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import verdict_samples as samples
from builders.fake_github import BOT, REPOSITORY, Hub, github, read_outputs

from holdfast.cli.arguments import parser
from holdfast.cli.github import api as api_module
from holdfast.cli.github.api import Api, ApiError, keep_comment
from holdfast.cli.github.artifacts import fetch_baseline, unpack
from holdfast.cli.github.asked import read_asked, variable
from holdfast.cli.github.job import read_job
from holdfast.cli.github.telling import (
    MOST_COMMENT,
    Result,
    annotate,
    command,
    cut_markdown,
    make_comment,
    marker,
    output_lines,
)
from holdfast.decisions.gate.outputs.document import gate_document
from holdfast.decisions.gate.outputs.markdown import render_markdown
from holdfast.records import Outcome, Verdict
from holdfast.records.errors import StudyError

FAIL, INCONCLUSIVE, PASS = Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS


def words(**inputs: str) -> list[str]:
    asked = read_asked({variable(name.replace("_", "-")): value for name, value in inputs.items()})
    return asked.words("kept/a.csv" if asked.baseline else "")


# --- what is asked ------------------------------------------------------------------------------------------------

ASKED: dict[str, tuple[dict[str, str], list[str]]] = {
    "two logs": ({"before": "a.csv", "after": "b.csv"}, ["--parent=a.csv", "--child=b.csv"]),
    "a baseline": ({"baseline": "kept", "after": "b.csv"}, ["--parent=kept/a.csv", "--child=b.csv"]),
    "a run": ({"run": "runs/a"}, ["runs/a", "--all"]),
    "a checkpoint": ({"run": "runs/a", "child": "S,H", "where": "dose=1"}, ["runs/a", "--child=S,H"]),
    "two models": ({"suite": "office", "parent": "a", "child": "b"}, ["--parent=a", "--child=b", "--suite=office"]),
}


@pytest.mark.parametrize(("inputs", "begin"), ASKED.values(), ids=ASKED)
def test_inputs_are_words_of_the_gate(inputs: dict[str, str], begin: list[str]) -> None:
    score = {} if "suite" in inputs else {"score": "safety=a\n\nhelpfulness=b"}
    found = words(**inputs, **score, arguments="--accept-openings --margin '0.1'")
    assert found[1 : 1 + len(begin)] == begin
    options = parser().parse_args(found)
    assert options.accept_openings and options.rule_margin == "0.1"
    assert options.score == (["safety=a", "helpfulness=b"] if score else []) and str(options.output) == "holdfast-gate"


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "found nothing"),
    "two kinds": ({"after": "a", "run": "b"}, "found after and run"),
    "no before": ({"after": "a"}, "before: is missing"),
    "two befores": ({"before": "a", "baseline": "b", "after": "c"}, "before and baseline: each is the before-side"),
    "a model alone": ({"suite": "office", "child": "a"}, "give parent and child"),
    "a baseline of models": ({"suite": "office", "child": "a", "baseline": "b"}, "baseline: does not go with suite"),
    "a run's baseline": ({"run": "a", "baseline": "b"}, "say with child which one is meant"),
    "an option": ({"before": "--all", "after": "a"}, "before: '--all' begins with a hyphen"),
    "two lines": ({"before": "a\n::error::b", "after": "a"}, "before: is more than a line"),
    "a choice": ({"before": "a", "after": "b", "inconclusive": "pass"}, "'pass' is neither block nor warn"),
    "a switch": ({"before": "a", "after": "b", "comment": "yes"}, "'yes' is neither true nor false"),
    "days": ({"before": "a", "after": "b", "baseline_max_age_days": "nan"}, "'nan' is no number above 0"),
    "a name": ({"before": "a", "after": "b", "name": "a--b"}, "'a--b' is no name"),
    "quotes": ({"before": "a", "after": "b", "arguments": "'"}, "close its quotes"),
    "bless and more": ({"bless": "a", "after": "b"}, "leave after out"),
}


@pytest.mark.parametrize(("inputs", "told"), REFUSED.values(), ids=REFUSED)
def test_inputs_that_are_not_clear_are_refused(inputs: dict[str, str], told: str) -> None:
    with pytest.raises(StudyError, match=told.replace("(", r"\(")):
        words(**inputs)


# --- what goes out -------------------------------------------------------------------------------------------------


def result(*verdicts: Verdict) -> Result:
    document: dict[str, Any] = gate_document(verdicts)
    return Result(verdict=document["outcome"], document=document, markdown=render_markdown(verdicts))


def test_a_command_is_one_line_and_no_other() -> None:
    line = command("error", "50 %\n::set-output::x\r\n\u2028y", file=Path("a,b:c.toml"), title="FAIL: x,y")
    assert line == "::error file=a%2Cb%3Ac.toml,title=FAIL%3A x%2Cy::50 %25 ::set-output::x ⟦U+2028⟧y"


def test_no_output_ends_another() -> None:
    outputs = {"page": "a\nverdict=PASS\nend", "verdict": "FAIL\nghadelimiter\nverdict<<x"}
    text = output_lines(outputs)
    assert read_outputs(text) == outputs and output_lines(outputs) != text


@pytest.mark.parametrize(("blocks", "level", "status"), [(True, "error", 3), (False, "warning", 0)])
def test_inconclusive_is_what_the_job_says(blocks: bool, level: str, status: int) -> None:
    found = result(samples.make_verdict(INCONCLUSIVE))
    assert found.status(blocks=blocks) == status
    lines = annotate(found, rules=None, blocks=blocks)
    assert lines and all(line.startswith(f"::{level} title=INCONCLUSIVE%3A ") for line in lines)


def test_a_pass_is_silent_and_many_failures_are_counted() -> None:
    assert annotate(result(samples.make_verdict(PASS)), rules=None, blocks=True) == []
    many = [samples.make_verdict(FAIL, child=f"child {number}") for number in range(30)]
    lines = annotate(result(*many), rules=Path("gate.toml"), blocks=True)
    errors = [line for line in lines if line.startswith("::error")]
    failed = sum(check.outcome is FAIL and check.blocking for one in many for check in one.checks)
    assert len(errors) == 10 and f"{failed - 9} more checks are in the summary" in errors[-1]


def test_a_comment_fits_and_is_closed() -> None:
    many = [samples.make_verdict(FAIL, child="é" * 3000 + str(number)) for number in range(40)]
    body = make_comment(result(*many), ["note"], name="gate", footer="<sub>foot</sub>")
    assert len(render_markdown(many)) > 65_536 > MOST_COMMENT >= len(body) - 100
    assert body.startswith(marker("gate")) and body.count("<details>") == body.count("</details>")
    assert "What is more than fits here is in `gate.md`" in body and body.endswith("\nnote\n\n<sub>foot</sub>\n")
    assert cut_markdown("short", 10) == "short"


# --- the API -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(api_module, "_WAITS", (0.0, 0.0))
    with github() as served:
        yield served


def put(hub: Hub) -> str:
    api = Api(hub.url, REPOSITORY, "secret-token")
    return keep_comment(api, 5, f"{marker('a')}\nnew", mark=marker("a"), author=BOT)


def test_reading_is_tried_again_and_writing_anew_is_not(hub: Hub) -> None:
    hub.fails = {"GET": 2}
    assert put(hub) == "written" and hub.count("GET") == 3
    hub.fails = {"PATCH": 1}
    assert put(hub) == "updated" and hub.count("PATCH") == 2
    hub.comments.clear()
    hub.fails = {"POST": 1}
    with pytest.raises(ApiError, match="POST /issues/5/comments: 502 Bad gateway"):
        put(hub)
    assert hub.count("POST") == 2 and not hub.comments


def test_a_comment_that_was_removed_meanwhile_is_written_again(hub: Hub) -> None:
    hub.comment(f"{marker('a')}\nold")
    hub.refuses = {"PATCH": 404}
    assert put(hub) == "written" and hub.comments[-1]["body"].endswith("new")
    hub.refuses = {"PATCH": 401}
    with pytest.raises(ApiError, match="401 Resource not accessible by integration ::error::x") as told:
        put(hub)
    assert told.value.status == 401 and "\n" not in str(told.value)


@pytest.mark.parametrize("url", ["http://api.example.org", "ftp://127.0.0.1", "https://10.0.0.1", "https://u:p@x.org"])
def test_the_token_goes_nowhere_else(url: str) -> None:
    with pytest.raises(StudyError, match="GITHUB_API_URL: endpoint not allowed"):
        Api(url, REPOSITORY, "t")


def test_nobody_there_is_told_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_WAITS", ())
    with pytest.raises(ApiError, match="GET : no answer") as told:
        Api("http://127.0.0.1:9", REPOSITORY, "secret-token").ask("GET", "")
    assert "secret-token" not in str(told.value) and told.value.status == 0


def archive(*entries: tuple[str, int]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, kind in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (kind | 0o644) << 16
            file.writestr(entry, "x")
    return packed.getvalue()


@pytest.mark.parametrize("entry", [("../x", stat.S_IFREG), ("/x", stat.S_IFREG), ("x", stat.S_IFLNK), ("a\\..\\x", 0)])
def test_an_artifact_lays_down_files_inside_it_alone(entry: tuple[str, int], tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(archive(entry))
    with pytest.raises(StudyError, match="which is no file inside it"):
        unpack(tmp_path / "packed", tmp_path / "out", "artifact a")
    assert not [one for one in tmp_path.rglob("*") if one.name == "x"]


def test_an_artifact_that_is_not_what_was_kept_is_refused(hub: Hub, tmp_path: Path) -> None:
    api = Api(hub.url, REPOSITORY, "t")
    with pytest.raises(StudyError, match="baseline-from a: no run on main has kept such an artifact"):
        fetch_baseline(api, "a", tmp_path / "none")
    hub.keep_bytes("a", archive(("x", stat.S_IFREG)), digest="sha256:" + "0" * 64)
    with pytest.raises(StudyError, match="its bytes are not those that were kept"):
        fetch_baseline(api, "a", tmp_path / "changed")
    hub.keep_bytes("a", b"no archive")
    with pytest.raises(StudyError, match="is no archive that can be read"):
        fetch_baseline(api, "a", tmp_path / "torn")


def test_what_the_job_is_about(tmp_path: Path) -> None:
    def read(event: str) -> tuple[int | None, str]:
        (tmp_path / "event").write_text(event)
        environment = {"GITHUB_EVENT_PATH": str(tmp_path / "event"), "GITHUB_SHA": "b" * 40}
        return read_job(environment, "").read_event()

    assert read('{"pull_request": {"number": 5, "head": {"sha": "aaaaaaaa"}}}') == (5, "aaaaaaaa")
    assert read('{"pull_request": {"number": 5, "head": {"sha": "<b>"}}}') == (5, "b" * 40)
    assert read('{"issue": {"number": 6, "pull_request": {}}}') == (6, "")
    assert read('{"issue": {"number": 6}}') == read("[]") == (None, "b" * 40)
    assert read('{"pull_request": {"number": true}}')[0] is None
    with pytest.raises(StudyError, match="the event is no JSON"):
        read("{")
