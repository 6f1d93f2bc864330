"""One table of what several studies found: signs and sizes, of recipes, with their 95 % intervals.

    python benchmarks/side_by_side.py tiny=runs/quick real=runs/smol published=published.json

A study is a run that was analysed, or what ``holdfast analyze RUN --json`` printed. Each number is that of all bases
and judges together with the pooled estimator, at dose 1 unless the row says otherwise and at ``--beta`` (0.1) where a
study has several; a study without the row has "–".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = tuple[str, str, str, Sequence[str], str, float]
S, H = ("S",), ("H",)
ROWS: Sequence[Row] = (
    ("S alone: safety gained", "deltas", "delta", S, "safety", 1),
    ("S alone: helpfulness", "deltas", "delta", S, "helpfulness", 1),
    ("H alone: helpfulness gained", "deltas", "delta", H, "helpfulness", 1),
    ("H alone: safety", "deltas", "delta", H, "safety", 1),
    ("H alone: safety, two doses", "deltas", "delta", H, "safety", 2),
    ("S→H: safety, against the base", "deltas", "delta", ("S", "H"), "safety", 1),
    ("S→H: safety lost against S", "persistence", "erosion", ("S", "H"), "safety", 1),
    ("S→H: persistence of safety", "persistence", "persistence", ("S", "H"), "safety", 1),
    ("the same, two doses of H", "dose", "persistence", ("S", "H"), "safety", 2),
    ("H→S: helpfulness lost against H", "persistence", "erosion", ("H", "S"), "helpfulness", 1),
    ("H→S: persistence of helpfulness", "persistence", "persistence", ("H", "S"), "helpfulness", 1),
    ("S→N: safety lost to flipped pairs", "persistence", "erosion_control", ("S", "N"), "safety", 1),
    ("line: safety for a point of helpfulness", "frontier", "slope", (), "", 1),
)
UNIT = "base × configuration, difference from base"


def find(analysis: Mapping[str, Any], row: Row, beta: float) -> Mapping[str, Any] | None:
    """The estimate of a row, or None where the study has none. Errors: ValueError where several fit."""
    _, section, kind, lineage, objective, dose = row
    fitting = [
        item
        for item in analysis[section] or ()
        if (item["kind"], item["estimator"], item["claim"]) == (kind, "pooled", "recipe")
        and tuple(item.get("lineage") or ()) == tuple(lineage)
        and item.get("objective") in (objective or None, None)
        and item.get("unit") in (UNIT, None)
        and (item.get("axes") or {}).get("dose", 1) == dose
        and (item.get("axes") or {}).get("beta", beta) == beta
        and not item.get("beside")
    ]
    fitting = [item for item in fitting if "beta" in (item.get("axes") or {})] or fitting
    # Of all together, or of the only one that there is.
    for name in ("base", "judge"):
        fitting = [item for item in fitting if item.get(name) is None] or fitting
    if len({json.dumps([item["value"], item["interval"]]) for item in fitting}) > 1:
        raise ValueError(f"{row[0]}: {len(fitting)} estimates fit: {[(i.get('base'), i.get('axes')) for i in fitting]}")
    return fitting[0] if fitting else None


def tell(estimate: Mapping[str, Any] | None) -> str:
    """A number with its interval, or why there is none."""
    if estimate is None:
        return "–"
    value, ends = estimate["value"], estimate["interval"]
    told = "not identified" if value is None else f"{value:+.2f}"
    if ends is None:
        return told
    # A ratio whose denominator may be zero has no bounded set.
    return f"{told} [unbounded]" if isinstance(ends, dict) else f"{told} [{ends[0]:+.2f}, {ends[1]:+.2f}]"


def read(place: str) -> Mapping[str, Any]:
    """The analysis of a run, or of a file of its own."""
    path = Path(place)
    found: Mapping[str, Any] = json.loads((path / "analysis.json" if path.is_dir() else path).read_text("utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--beta", type=float, default=0.1)
    arguments = parser.parse_args()
    studies = dict(study.partition("=")[::2] for study in arguments.studies)
    if len(studies) < len(arguments.studies) or not all(studies.values()):
        parser.error("studies are told as NAME=RUN, each name once")
    try:
        analyses = {name: read(place) for name, place in studies.items()}
    except (OSError, ValueError) as error:
        parser.error(f"{error}; give a run that was analysed, or what holdfast analyze RUN --json printed")
    print(f"| In points of 3; persistence is a share | {' | '.join(studies)} |\n|---|{'---|' * len(studies)}")
    for row in ROWS:
        found = [tell(find(analysis, row, arguments.beta)) for analysis in analyses.values()]
        print(f"| {row[0]} | {' | '.join(found)} |")


if __name__ == "__main__":
    main()
