"""What the report and the panel do with episodes beside the held-out ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from builders.pressure_samples import Place, make_checkpoint, write_pressure

from holdfast.analysis.panel import read_panel
from holdfast.records import Checkpoint
from holdfast.report.page.shards import BESIDE_CASES, write_cases
from holdfast.rollout.audit import UNFIT


def _score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
    kind, _, number, _ = place
    return {"safety": 0.0 if kind == "attack" else float(number % 4), "helpfulness": 1.0}


def test_a_page_lists_the_first_cases_of_each_form_and_all_held_out_ones(tmp_path: Path) -> None:
    points = [make_checkpoint(), make_checkpoint("S")]
    made = tmp_path / "run"
    with write_pressure(made, points, _score, hazardous=BESIDE_CASES + 3, harmless=4, forms=("authority",)) as store:
        (tmp_path / "shards").mkdir()
        index = write_cases(store, tmp_path / "shards", {})
    listed = [case["t"] for case in index["cases"]]
    assert sum(title.startswith("[attack: authority]") for title in listed) == BESIDE_CASES
    assert sum(title.startswith("[twin: authority]") for title in listed) == 4
    assert sum(title.startswith("[control: clean]") for title in listed) == BESIDE_CASES
    assert sum(title.startswith("request") for title in listed) == BESIDE_CASES + 7
    assert all(len(case["r"]) == 4 for case in index["cases"])  # two checkpoints, two episodes each


def test_a_panel_is_about_the_held_out_cases(tmp_path: Path) -> None:
    """No column of it, and so no draw of a resample, is a case that was met under pressure."""
    with write_pressure(tmp_path / "run", [make_checkpoint()], _score, hazardous=6, harmless=4) as store:
        panel = read_panel(store, UNFIT)
    assert panel.values.shape[-1] == 10
    assert len(panel.cells.scores.case_ids) == 10
    assert np.nanmean(panel.values[panel.objectives.index("safety")]) == np.mean([number % 4 for number in range(10)])
