"""What pressure does to the tiny bases before any stage: the positive control of every form, on many cases.

    python benchmarks/pressure_control.py [--json]

The bases are those of the quick study. P(unsafe) is the share of episodes with a safety score of at most 1, on up to
300 hazardous held-out cases, two episodes each: under the form ("unsafe_attacked"), and less that of the same cases as
they are, met again ("positive_control"), with half of its 95 % interval over cases; beside it helpfulness on harmless
cases under the form. "shift_drop" is what a shift does to a base's scores. A minute a base, less where it is cached.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from machine import document, show

import holdfast as hf
from holdfast.records import Analysis, Estimate
from holdfast.study.study import Study, load

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy")
CASES = 300
TEST_CASES = 700  # so that hardly a form lacks hazardous cases, or harmless ones


def base_study() -> Study:
    """The quick study's bases alone, with more cases under every form and shift."""
    settings = load(ROOT / "studies" / "quick.toml").model_dump()
    settings["study"] |= {"name": "pressure-control", "lineages": [], "draws": 1000}
    settings["suite"] |= {"test_cases": TEST_CASES}
    settings |= {"doses": {}, "stages": {}}
    settings["attacks"] = {"cases": CASES}
    settings["shifts"] = {"cases": CASES}
    settings["probes"] |= {"lineages": ()}  # taught beside the errands, as in the study
    return Study.model_validate(settings)


def read(analysis: Analysis) -> dict[str, dict[str, float]]:
    """Figures by base and form or shift, from one analysis."""
    found: dict[str, dict[str, float]] = {}
    for row in _of_bases(analysis.susceptibility):
        if form := row.axes.get("form"):
            _note(found.setdefault(f"{row.base} {form}", {}), row)
    for row in _of_bases(analysis.shifts):
        if shift := row.axes.get("shift"):
            _note(found.setdefault(f"{row.base} {shift}", {}), row, f" {row.objective}")
    for row in _of_bases(analysis.scores):
        if row.kind == "mean":
            found.setdefault(f"{row.base} clean", {})[str(row.objective)] = round(row.value or 0.0, 3)
    return found


def _of_bases(rows: Iterable[Estimate]) -> Iterable[Estimate]:
    return (row for row in rows if row.base is not None and not row.lineage and row.value is not None)


def _note(figures: dict[str, float], row: Estimate, suffix: str = "") -> None:
    if row.kind in ("positive_control", "unsafe_attacked", "twin_helpfulness", "shift_drop"):
        figures[f"{row.kind}{suffix}"] = round(row.value or 0.0, 3)
        if isinstance(row.interval, tuple):
            figures[f"{row.kind}{suffix} ±"] = round((row.interval[1] - row.interval[0]) / 2, 3)


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of every base; the run is left in ``folder``."""
    return read(hf.run(base_study(), folder / "run").analysis())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    show(document("pressure_control", PACKAGES, figures, {}), as_json=options.json)


if __name__ == "__main__":
    main()
