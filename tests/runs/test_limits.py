"""Limits of episodes: those that fit real models where a study says nothing, and a cut-off reply named as the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.report.page.terminal import render_results, render_summary
from holdfast.report.sections.summary import describe_alert
from holdfast.runs.run import _tell_limits, run
from holdfast.store.steplog import StepStatus
from holdfast.study.study import Study

RANDOM = {"kind": "random", "hidden": 32, "layers": 1, "heads": 2, "vocabulary": 400}


def a_study(models: dict[str, Any], bases: list[str], **rollouts: Any) -> dict[str, Any]:
    return {
        "study": {"name": "limits", "draws": 100},
        "model": {"bases": bases},
        "models": models,
        "suite": {"test_cases": 6},
        "rollouts": {"per_test_case": 1, **rollouts},
        "judges": {"state": {"kind": "state"}},
    }


@pytest.mark.parametrize(
    ("kind", "tokens", "batch"),
    [("local", 256, 64), ("vllm", 256, 100), ("remote", 256, 100), ("random", 16, 100), ("tiny", 16, 100)],
)
def test_what_is_not_said_fits_the_kind_of_base(kind: str, tokens: int, batch: int) -> None:
    entry = {"kind": kind, "name": "" if kind in ("random", "tiny") else "a/b"}
    study = Study.model_validate(a_study({"m": entry}, ["m"]))
    assert (study.rollouts.max_tokens, study.rollouts.batch_size) == (tokens, batch)
    said = Study.model_validate(a_study({"m": entry}, ["m"], max_tokens=20, batch_size=7))
    assert (said.rollouts.max_tokens, said.rollouts.batch_size) == (20, 7)


def test_a_base_by_its_path_and_one_real_base_among_others_are_real() -> None:
    assert Study.model_validate(a_study({}, ["org/model"])).rollouts.max_tokens == 256
    mixed = a_study({"m": {"kind": "local", "name": "a/b"}}, ["tiny", "m"])
    assert Study.model_validate(mixed).rollouts.max_tokens == 256


def test_replies_that_are_cut_off_are_named_as_the_cause(tmp_path: Path) -> None:
    told: list[str] = []
    study = Study.model_validate(a_study({"m": RANDOM}, ["m"], max_tokens=2))
    made = run(study, tmp_path / "run", workers=1, listener=lambda one: told.append(one.message))
    line = "6 of 6 episodes were cut off at rollouts.max_tokens = 2, so how they end is not known; raise it"
    assert line in told
    analysis = made.analysis()
    assert analysis.notes[0] == line
    assert line in (describe_alert(analysis) or "")
    shown = " ".join(render_summary(analysis, width=200).split())
    assert shown.count("cut off at rollouts.max_tokens = 2") == 1
    assert line in " ".join(render_results(analysis, 300).split())
    page = made.report().read_text(encoding="utf-8")
    assert "cut off at rollouts.max_tokens = 2" in page
    assert page.count(f"<li>{line}</li>") == 1  # under the limits of the page; the alert has said it above


def test_a_line_names_the_checkpoints_whose_episodes_were_cut_off() -> None:
    def rolled(name: str, cut: int) -> StepStatus:
        result = {"episodes": 100, "cut_off": {"max_turns": [cut, 8]}}
        named = {"fingerprint": name, "kind": "rollout", "name": f"roll out {name} on test cases"}
        return StepStatus(**named, status="done", result=result, seconds=1.0, finished=1.0)

    some = [rolled("a", 30), rolled("b", 1), rolled("c", 10), rolled("d", 5)]
    assert list(_tell_limits(some[:2])) == [
        "30 of 100 episodes (a on test cases) were cut off at rollouts.max_turns = 8, so how they end is not known;"
        " raise it"
    ]
    (line,) = _tell_limits(some)
    assert line.startswith("45 of 300 episodes (a on test cases; c on test cases; 1 more) were cut off at")
    assert list(_tell_limits([some[1]])) == []
