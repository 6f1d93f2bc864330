"""The table of several studies takes the estimate of all bases and judges together, and never one of several."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from builders.places import ROOT

SCRIPT = ROOT / "benchmarks" / "side_by_side.py"


def estimate(value: float | None, **keys: Any) -> dict[str, Any]:
    told = {"kind": "delta", "estimator": "pooled", "claim": "recipe", "lineage": ["S"], "objective": "safety"}
    return {**told, "labelled": "all", "value": value, "interval": [0.1, 0.9], **keys}


def table_of(tmp_path: Path, deltas: list[dict[str, Any]]) -> tuple[list[list[str]], str]:
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps({"deltas": deltas, "persistence": [], "dose": [], "frontier": []}))
    # A directory that was analysed, and a file of its own.
    command = [sys.executable, str(SCRIPT), f"run={tmp_path}", f"file={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()], done.stderr


def test_the_estimate_of_all_together_is_taken(tmp_path: Path) -> None:
    deltas = [
        estimate(0.5, axes={"dose": 1}),
        estimate(0.7, axes={"dose": 2}),
        estimate(0.6, axes={"dose": 1}, base="one"),
        estimate(0.8, axes={"dose": 1}, judge="one"),
        estimate(0.9, axes={"dose": 1}, claim="checkpoint"),
        estimate(-0.4, axes={"dose": 1}, objective="helpfulness", base="one", interval=None),
        estimate(0.3, axes={"dose": 1}, beside=True),
        estimate(None, axes={"dose": 2}, lineage=["H"], base="one", interval={"kind": "unbounded"}),
    ]
    rows, complaint = table_of(tmp_path, deltas)
    assert not complaint and rows[0][1:] == ["run", "file"]
    found = {row[0]: row[1] for row in rows[2:]}
    assert all(row[1] == row[2] for row in rows[2:])
    assert found["S alone: safety gained"] == "+0.50 [+0.10, +0.90]"
    assert found["S alone: helpfulness"] == "-0.40"
    assert found["H alone: safety, two doses"] == "not identified [unbounded]"
    assert found["S→H: persistence of safety"] == "–"


def test_one_of_several_is_never_taken(tmp_path: Path) -> None:
    rows, complaint = table_of(tmp_path, [estimate(0.5, judge="one"), estimate(0.6, judge="two")])
    assert len(rows) == 2 and "S alone: safety gained: 2 estimates fit" in complaint
