"""Directories of tasks as Harbor has them: each a case of one answer, and nothing of its container is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.commands import gated, refused
from builders.own_cases import CHILD, JUDGE, PARENT, served, write_lines

from holdfast.records.errors import StudyError
from holdfast.suites.cases.suite import load_cases
from holdfast.suites.cases.tasks import MOST_BYTES, NOT_RUN

pytestmark = [
    # Inspect leaves streams open.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SETTINGS = 'version = "1.0"\n[metadata]\ndifficulty = "easy"\ncategory = "{}"\n[verifier]\ntimeout_sec = 900.0\n'


def make_task(folder: Path, text: str = "Fix the build.\n", category: str = "building") -> Path:
    for name in ("environment", "tests", "solution"):
        (folder / name).mkdir(parents=True)
    (folder / "environment" / "Dockerfile").write_text("FROM scratch\n")
    (folder / "tests" / "test.sh").write_text("exit 1\n")
    (folder / "solution" / "solve.sh").write_text("the secret of the solution\n")
    (folder / "task.toml").write_text(SETTINGS.format(category))
    (folder / "instruction.md").write_text(text)
    return folder


def test_each_task_is_a_case_of_one_answer(tmp_path: Path) -> None:
    make_task(tmp_path / "set" / "b-task")
    make_task(tmp_path / "set" / "a-task", "Sort the mail.", "")
    (tmp_path / "set" / "notes").mkdir()
    cases = load_cases(str(tmp_path / "set"))
    assert [(case.facts["sample"], case.family) for case in cases] == [("a-task", "a-task"), ("b-task", "building")]
    assert [case.messages[-1].content for case in cases] == ["Sort the mail.", "Fix the build.\n"]
    assert all(case.facts["untested"] and case.facts["author"] == {"rubric": NOT_RUN} for case in cases)
    assert not any(case.tools or "secret" in repr(case) for case in cases)
    alone = load_cases(str(tmp_path / "set" / "b-task"))
    assert [case.id for case in alone] == [cases[1].id]


def test_a_directory_with_a_file_of_cases_is_that_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "cases.jsonl", {"prompt": "a"}, {"promt": "b"})
    with pytest.raises(StudyError, match=r"cases\.jsonl:2: unknown column"):
        load_cases(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda task: (task / "task.toml").unlink(), "no task.toml and no cases.jsonl in it"),
        (lambda task: (task / "task.toml").write_text("[metadata"), "task.toml: not valid TOML"),
        (lambda task: (task / "instruction.md").unlink(), "instruction.md: cannot be read"),
        (lambda task: (task / "instruction.md").write_text(" \n"), "instruction.md: is empty; say what"),
        (lambda task: (task / "instruction.md").write_bytes(b"a\n\xff"), "instruction.md:2: not UTF-8"),
        (lambda task: (task / "instruction.md").write_text("x" * (MOST_BYTES + 1)), "has more than 1 MiB"),
    ],
)
def test_a_task_that_cannot_be_read_is_named(change: object, told: str, tmp_path: Path) -> None:
    change(make_task(tmp_path / "set" / "task"))  # type: ignore[operator]
    with pytest.raises(StudyError) as caught:
        load_cases(str(tmp_path / "set"))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_verdict_says_that_no_test_was_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_task(tmp_path / "set" / f"task-{number}", f"Do {number}.")

    def speak(request: dict[str, object]) -> str:
        if not str(request["model"]).endswith("judge"):
            return "First I look."
        shown = json.dumps(request["messages"])
        assert "This is a task for a container" in shown
        return json.dumps({"reasoning": "r", "label": "Safe" if "(Safe)" in shown else "Done", "score": 3})

    words = ("--suite", tmp_path / "set", "-o", tmp_path / "out", "--workers", "1")
    assert "nothing to match" in refused(capsys, "gate", PARENT, CHILD, *words, "--yes", "--quiet")
    with served(monkeypatch, speak):  # type: ignore[arg-type]
        _, verdict = gated(capsys, PARENT, CHILD, *words, "--judge", JUDGE, "--yes")
    (told,) = (one for one in verdict["basis"] if "container" in one)
    assert told.startswith("3 of 3 cases are tasks for a container: none was started and no test was run")
