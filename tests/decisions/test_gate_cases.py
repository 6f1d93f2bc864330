"""``gate --suite … --cases N`` meets N cases, and compares others of a run that holds more without meeting any anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.commands import asked
from builders.smoke_study import write_toml

from holdfast.store import Store

SMALL = {"kind": "random", "hidden": 32, "layers": 1, "heads": 2, "vocabulary": 400}


def test_cases_bound_what_is_rolled_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "study": {"name": "bounded"},
        "model": {"bases": ["one"]},
        "models": {"one": SMALL, "two": {**SMALL, "architecture": "llama"}},
        "suite": {"test_cases": 12},
        "rollouts": {"per_test_case": 1, "max_tokens": 2},
        "judges": {"state": {"kind": "state"}},
    }
    study, output = write_toml(settings, tmp_path / "study.toml"), tmp_path / "out"

    def gate(cases: int) -> tuple[int, str]:
        words = ("gate", "--suite", study, "--parent", "one", "--child", "two", "-o", output, "--quiet", "--json")
        code, out, err = asked(capsys, *words, "--workers", 1, "--cases", cases)
        assert code == 3, err
        with Store(output) as store:
            return store.counts()["trajectories"], json.dumps(json.loads(out)["verdicts"][0])

    assert gate(5)[0] == 10
    assert gate(3)[0] == 10  # of those that are there
    code, _, err = asked(
        capsys, "gate", "--suite", study, "--parent", "one", "--child", "two", "-o", output, "--quiet", "--cases", 9
    )
    assert code == 2 and "suite.test_cases: 5 → 9" in err
