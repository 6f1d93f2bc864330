"""A task of Inspect as the suite of a gate: a task of a file, one that ships, a scorer of inspect_evals; refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.commands import asked, gated, refused
from builders.own_cases import CHILD, PARENT, served

from holdfast.records import Message, ToolCall
from holdfast.store import Store

Captured = pytest.CaptureFixture[str]
pytestmark = [
    # Inspect leaves streams open, and packages that it loads warn.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, solver
from inspect_evals.cyberseceval_4.mitre_frr.scorers import refusal_scorer


def asking(count, text="Question {}?"):
    return MemoryDataset([Sample(id=f"s{n:02}", input=text.format(n), target="kill") for n in range(count)])


@task
def words(count: int = 40):
    return Task(dataset=asking(count), solver=generate(), scorer=includes(), epochs=2)


@task
def refusals():
    return Task(dataset=asking(40), solver=generate(), scorer=refusal_scorer())


@solver
def break_down():
    async def solve(state, generate):
        raise RuntimeError("the sandbox is not there")

    return solve


@task
def broken():
    return Task(dataset=asking(2), solver=break_down(), scorer=includes())


@task
def unopened():
    raise FileNotFoundError("no data set here")
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.py"
    path.write_text(TASKS)
    return path


def speak(request: Mapping[str, Any]) -> Message | ToolCall | str:
    return "I cannot help with that." if request["model"].endswith("after") else "Use kill."


def test_a_task_of_a_file_is_run_on_both_models_and_paired_by_its_samples(
    tasks: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (PARENT, CHILD, "--suite", f"inspect:{tasks}@words", "--score", "safety=+includes[0,1]")
    with served(monkeypatch, speak):
        code, verdict = gated(capsys, *words, "-o", tmp_path / "out", "--set", "count=36")
        # Fewer samples are no beginning of the data set, and are the same ones of both sides.
        assert gated(capsys, *words, "-o", tmp_path / "few", "--cases", "5")[1]["cases"] == 5
        told = refused(capsys, "gate", *words, "-o", tmp_path / "out")
    assert (code, verdict["cases"]) == (1, 36)
    (safety,) = (one for one in verdict["checks"] if one["metric"] == "safety")
    assert (safety["parent"], safety["child"], safety["outcome"]) == (3.0, 0.0, "FAIL")
    assert "logs: is there already" in told
    for side in ("parent", "child"):
        assert len(list((tmp_path / "out" / "logs" / side).glob("*.eval"))) == 1
    assert asked(capsys, "import", tmp_path / "few" / "logs" / "child", "-o", tmp_path / "run", "--quiet")[0] == 0
    with Store(tmp_path / "run") as store:
        drawn = {case.facts["sample"] for case in store.cases()}
        assert len(drawn) == 5 and drawn != {f"s{n:02}" for n in range(5)}
        assert {one.rollout for one in store.trajectories()} == {0, 1}


def test_a_scorer_of_inspect_evals_scores(
    tasks: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads a refusal by rules of its own."""
    suite = ("--suite", f"inspect:{tasks}@refusals", "--score", "safety=+refusal_scorer[0,1]@0")
    with served(monkeypatch, speak):
        code, verdict = gated(capsys, PARENT, CHILD, *suite, "-o", tmp_path / "out")
    values = {one["metric"]: (one["parent"], one["child"]) for one in verdict["checks"]}
    assert (values["safety"], values["severe"], code) == ((3.0, 0.0), (0.0, 1.0), 1)


def test_our_own_task_runs_on_directories_of_weights(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    """With its own scorers, whose scores need no word; a checkpoint of a run goes by its name."""
    with Store(smoke_run) as store:
        base = next(smoke_run / str(one.path) for one in store.checkpoints() if not one.stages)
        child = next(one for one in store.checkpoints() if one.lineage == ("S",))
    words = (base, f"{smoke_run}:{child.id}", "--suite", "inspect:holdfast/office", "--set", "count=8")
    code, verdict = gated(capsys, *words, "-o", tmp_path / "out")
    assert code == 3 and verdict["cases"] == 8
    assert {one["metric"] for one in verdict["checks"] if one["parent"] is not None} >= {"safety", "helpfulness"}


def test_what_cannot_be_run_or_compared_is_told_before_any_sample(
    tasks: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = ("--score", "safety=+includes[0,1]")
    gate = ("gate", PARENT, CHILD, "-o", tmp_path / "out", "--suite")

    def tell(*words: object) -> str:
        told = refused(capsys, *gate, *words, "--quiet")
        assert not (tmp_path / "out").exists()
        return told

    with served(monkeypatch, speak):
        unknown = tell(f"inspect:{tasks}@words")
        assert "what its scores mean is not known; say it" in unknown and "its scorers are includes" in unknown
        assert "FileNotFoundError: no data set here" in tell(f"inspect:{tasks}@unopened", *score)
        assert "cannot be run" in tell(f"inspect:{tmp_path}/gone.py@words", *score)
        assert "cannot be run" in tell("inspect:inspect_evals/no_such_task", *score)
        typo = tell(f"inspect:{tasks}@words", *score, "--set", "cuont=3")
        assert "--set names the argument 'cuont'" in typo and "did you mean 'count'?" in typo
        assert "has no --again" in tell(f"inspect:{tasks}@words", *score, "--again")
        assert "has no --plan" in tell(f"inspect:{tasks}@words", *score, "--plan")
        assert "nothing bounds them; give --yes" in tell(f"inspect:{tasks}@words", *score, "--max-cost", "3")
    same = refused(capsys, "gate", PARENT, PARENT, "--suite", f"inspect:{tasks}@words", *score)
    assert "is both sides" in same
    assert "'nothing' is no directory" in refused(
        capsys, "gate", PARENT, "nothing", "-o", tmp_path / "out", "--suite", f"inspect:{tasks}@words", *score
    )


def test_calls_that_may_cost_are_asked_for(
    tasks: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BASE_URL", "https://models.example/v1")
    words = ("--suite", f"inspect:{tasks}@words", "--score", "safety=+includes[0,1]", "-o", tmp_path / "out")
    told = refused(capsys, "gate", PARENT, CHILD, *words, "--quiet")
    assert "40 samples" in told and "2 epochs each" in told and "may cost money; allow it with --yes" in told


def test_a_task_that_breaks_down_is_no_verdict(
    tasks: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(monkeypatch, speak):
        words = ("--suite", f"inspect:{tasks}@broken", "--score", "safety=+includes[0,1]", "-o", tmp_path / "out")
        code, out, err = asked(capsys, "gate", PARENT, CHILD, *words, "--quiet")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "ended with status error" in err and "the sandbox is not there" in err and ".eval" in err
