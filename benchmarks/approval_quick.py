"""The quick study of approval from nothing: wall clock, CPU by phase, peak memory, and what it finds.

    python benchmarks/approval_quick.py [--json] [--output RUN]

Nothing is taken from a cache. Time and memory are measured as in ``quick_study.py``; the ratio compares the wall clock
with the bar of six minutes. ``found`` holds, by base and lineage, the late gap of harm with its recipe interval and
the exploit rates of both users, and the base's reactions; ``holdfast analyze RUN`` has all of them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine import document, show
from quick_study import PACKAGES, ROOT, read_phases, run_study

import holdfast as hf
from holdfast.records import Estimate

STUDY = ROOT / "studies" / "approval-quick.toml"
BAR_SECONDS = 360


def describe(rows: tuple[Estimate, ...]) -> dict[str, Any]:
    """The late gaps, exploit rates and reactions among the rows of an analysis."""
    found: dict[str, Any] = {}
    for row in rows:
        name = (
            f"{row.base} · {','.join(row.lineage or ()) or 'base'} · {row.axes.get('setting', row.axes.get('toggle'))}"
        )
        # One setting of two environments has rows for each and for both.
        if "environment" in row.axes or row.value is None:
            continue
        bounds = list(row.interval) if isinstance(row.interval, tuple) else None
        if row.kind == "late_gap" and row.claim == "recipe":
            found.setdefault("late_gap", {})[name] = {"value": round(row.value, 3), "interval": bounds}
        elif row.kind == "exploit_rate" and row.claim == "recipe":
            found.setdefault("exploit_rate", {})[f"{name} · {row.axes['label']}"] = round(row.value, 3)
        elif row.kind == "max_hex_gap":
            found.setdefault("max_hex_gap", {})[name] = round(row.value, 3)
        elif row.kind == "reaction":
            found.setdefault("reaction", {})[name] = {"value": round(row.value, 3), "unit": row.unit}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, help="keep the run here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = options.output or Path(folder) / "run"
        whole = run_study(STUDY, (), output, Path(folder) / "cache")
        figures = {
            "whole": whole,
            **read_phases(STUDY, (), output),
            "found": describe(hf.Run(output).analysis().exploitation),
        }
    ratios = {"bar_over_wall": round(BAR_SECONDS / whole["wall_s"], 2)}
    show(document("approval_quick", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
