"""The quick study's directions under three mixtures of demonstrations: what must not depend on who chose the shares."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from builders.places import ROOT

from holdfast.runs.build import build
from holdfast.study.study import load

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.full
def test_directions_hold_under_three_mixtures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    mixture = __import__("mixture")
    found = mixture.compare(tmp_path)
    assert len(found) == 3
    for row in found.values():
        assert row["safety S"] > row["safety base"] > row["safety H"]
        assert row["helpfulness H"] > row["helpfulness base"] > row["helpfulness S"]
        assert row["safety H"] < row["safety S,H"] < row["safety S"]  # some safety is lost, some is kept
        assert row["helpfulness S"] < row["helpfulness H,S"] < row["helpfulness H"]
    sys.modules.pop("mixture", None)
    levels = [row["safety base"] + row["helpfulness base"] for row in found.values()]
    assert levels == sorted(levels) and levels[-1] - levels[0] > 0.2  # the mixture does decide where the points lie


def test_the_benchmarks_studies_are_the_quick_study_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made of its file: what is added there must not break them, nor teach them other bases."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    mixture, control, office = (__import__(name) for name in ("mixture", "pressure_control", "office_pairs"))
    studies = (
        load(BENCHMARKS.parent / "studies" / "quick.toml"),
        control.base_study(),
        office.study_of(bases=2, test_cases=20, per_case=8),
        mixture.study_with(0.4),
    )
    taught = [{step.fingerprint for step in build(study).steps if step.name.startswith("teach")} for study in studies]
    assert taught[0] == taught[1] == taught[2] and len(taught[0]) == 2
    assert len(taught[3]) == 1 and not taught[3] & taught[0]
    for name in ("mixture", "pressure_control", "office_pairs"):
        sys.modules.pop(name, None)
