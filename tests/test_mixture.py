"""The quick study's directions under three mixtures of demonstrations: what must not depend on who chose the shares."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
