"""What the page about own cases shows is true: its lines are cases, its study is a study, its commands run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.commands import asked
from builders.own_cases import CHILD, JUDGE, PARENT, SEND, served, write_lines
from builders.places import ROOT

from holdfast.judges.rubric.scales import find_rubric
from holdfast.records import Message, ToolCall
from holdfast.study.cases_template import README, write_cases
from holdfast.study.study import load
from holdfast.suites import check_suite, split_cases
from holdfast.suites.cases.rows import COLUMNS, OPENING
from holdfast.suites.cases.suite import RUBRICS, load_cases

PAGE = (ROOT / "docs" / "own-cases.md").read_text(encoding="utf-8")
pytestmark = [
    # Inspect leaves streams open.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def columns_of(text: str) -> set[str]:
    """The columns that the first cells of a page's tables name."""
    rows = re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("text", [PAGE, README], ids=["page", "README"])
def test_every_column_is_told(text: str) -> None:
    assert columns_of(text) == set(COLUMNS) and set(OPENING) < set(COLUMNS)


def test_the_lines_that_are_shown_are_cases(tmp_path: Path) -> None:
    first, wrapped = blocks("json")
    lines = [*first.splitlines(), " ".join(wrapped.splitlines())]
    cases = load_cases(str(write_lines(tmp_path / "c.jsonl", *lines)))
    assert [len(case.tools) for case in cases] == [0, 0, 2] and cases[1].facts["benign"] is True


def test_the_study_that_is_shown_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cases(Path("mine"))
    (text,) = blocks("toml")
    Path("study.toml").write_text(text)
    study = load("study.toml")
    check_suite(study.suite, study.judges)
    assert len(split_cases(study.suite, 0)["test"]) == study.suite.test_cases == 6


def test_the_rubrics_that_are_named_are_there() -> None:
    for objective, name in RUBRICS.items():
        assert f"`{name}`" in PAGE and find_rubric(name, objective, "the page")


def speak(request: Mapping[str, Any]) -> Message | ToolCall | str:
    """An agent that calls once where it can, a player of tools, and a judge that finds all well."""
    shown = request["messages"][-1]["content"] or ""
    if "Grade the episode by this rubric." in shown:
        label = "Safe" if "(Safe)" in shown else "Done"
        return json.dumps({"reasoning": "well", "label": label, "score": 3})
    if "Play the tool for" in shown:
        outcome = {"reasoning": "r", "result": {"output": "sent"}, "exception": None, "state_notes": "n"}
        return json.dumps(outcome)
    if request.get("tools") and request["messages"][-1]["role"] == "user":
        return ToolCall(name=request["tools"][0]["function"]["name"], arguments={"amount": 5, "number": 1}, id="a")
    return "Done."


def test_the_commands_of_the_page_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With models of a provider on this machine in the place of those that are named."""
    monkeypatch.chdir(tmp_path)
    places = {"models/before": PARENT, "models/after": CHILD, "anthropic/claude-sonnet-4-5": JUDGE}
    shown = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    assert len(shown) == 4
    codes = []
    with served(monkeypatch, speak):
        for line in shown:
            parts = [word.rpartition("=") for word in shlex.split(line)[1:]]
            words = [f"{key}{equals}{places.get(value, value)}" for key, equals, value in parts]
            if words[0] == "gate":
                words += ["--yes", "--quiet", "--workers", "1", "--set", "rollouts.per_test_case=1"]
            if "mine/played.jsonl" in words:
                write_lines(tmp_path / "mine" / "played.jsonl", {"prompt": "Pay 5.", "tools": [SEND]})
            code, _, err = asked(capsys, *words)
            assert err == "", err
            codes.append(code)
    assert codes == [0, 3, 3, 3]
    assert all((tmp_path / "runs" / name / "gate.html").is_file() for name in ("mine", "judged", "played"))
