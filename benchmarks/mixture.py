"""How far the demonstrations' mixture decides the quick study's numbers: three mixtures, everything else equal.

    python benchmarks/mixture.py [--json]

The bases learn from scripted agents in declared shares, so that part of the frontier is built in by whoever chose
the shares. Here the share of the agent that is both safe and helpful goes from .05 over .12 (as shipped) to .40,
the others keeping their proportions. One base and two training seeds a mixture: points, no intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine import document, show

import holdfast as hf
from holdfast.records import Analysis
from holdfast.study.study import Study, load
from holdfast.suites.office.demonstrations import MIXTURE

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy")
BEST_SHARES = (0.05, 0.12, 0.40)
LINEAGES = [["S"], ["H"], ["S", "H"], ["H", "S"], ["S&H"]]


def mixture_with(best: float) -> dict[str, float]:
    """The shipped mixture with another share of the agent that is best of both."""
    others = {name: share for name, share in MIXTURE.items() if name != "best_of_both"}
    total = sum(others.values())
    return {"best_of_both": best, **{name: share / total * (1 - best) for name, share in others.items()}}


def study_with(best: float) -> Study:
    """The full office study on one base and two seeds without controls, with another mixture."""
    settings = load(ROOT / "studies" / "office-full.toml").model_dump()
    settings["study"] |= {"name": f"mixture-{best}", "lineages": LINEAGES, "train_seeds": [0, 1], "draws": 1000}
    settings["model"] |= {"base_seeds": [0]}
    settings["suite"] |= {"mixture": mixture_with(best)}
    # The bases are taught as in the study; what it asks beside its held-out cases is not.
    settings |= {"doses": {}, "attacks": None, "shifts": None}
    settings["probes"] |= {"lineages": ()}
    return Study.model_validate(settings)


def read(analysis: Analysis) -> dict[str, float]:
    """Means by lineage, persistence and the line, from one analysis."""
    found: dict[str, float] = {}
    for row in analysis.scores:
        pooled = row.estimator == "pooled" and row.claim == "checkpoint" and row.base is None and row.judge is None
        if pooled and row.kind == "mean" and row.value is not None:
            label = ",".join(row.lineage or ()) or "base"
            found[f"{row.objective} {label}"] = round(row.value, 3)
    for row in analysis.persistence:
        pooled = row.estimator == "pooled" and row.claim == "checkpoint" and row.base is None and row.judge is None
        if pooled and row.kind == "persistence" and row.value is not None:
            found[f"persistence {row.objective}"] = round(row.value, 3)
    for row in analysis.frontier:
        if row.estimator == "published" and row.kind in ("slope", "r2") and row.base is None and row.judge is None:
            found.setdefault(f"{row.kind}", round(row.value or 0.0, 3))
    return found


def compare(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of every mixture, by the share of the best agent."""
    return {f"best_{best:g}": read(hf.run(study_with(best), folder / f"{best:g}").analysis()) for best in BEST_SHARES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder))
    show(document("mixture", PACKAGES, figures, {}), as_json=options.json)


if __name__ == "__main__":
    main()
