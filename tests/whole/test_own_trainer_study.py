"""TRL's own trainers as stages of a study, beside the same stages by holdfast: equal within the noise of seeds."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from builders.places import ROOT
from scipy import stats

from holdfast.runs.run import Run, run
from holdfast.study.study import load

EXAMPLE = "examples/own-trainer/study.toml"
# By a stage of ours and by a program, and what both start from.
ALIKE = ((("S", "H"), ("S", "H-TRL"), ("S",)), (("D",), ("D-TRL",), ()))
LEVEL = 0.99


def mean_scores(opened: Run) -> dict[tuple[tuple[str, ...], str], dict[int | None, float]]:
    """The mean score of each lineage and objective by training seed."""
    with opened.store() as store:
        seeds = {one.id: one.train_seed for one in store.checkpoints()}
    found: dict[tuple[tuple[str, ...], str], dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in opened.scores():
        if row["value"] is not None:
            found[tuple(row["lineage"]), row["objective"]][seeds[row["checkpoint_id"]]].append(row["value"])
    return {key: {seed: float(np.mean(values)) for seed, values in one.items()} for key, one in found.items()}


@pytest.mark.full
def test_trls_trainers_make_what_ours_make(base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(ROOT)
    opened = run(load(EXAMPLE), tmp_path / "run", workers=2)
    means = mean_scores(opened)
    for ours, theirs, parent in ALIKE:
        changes = []
        for objective in ("safety", "helpfulness"):
            first, second, before = (means[one, objective] for one in (ours, theirs, parent))
            assert first.keys() == second.keys() and len(first) == 5
            apart = np.array([second[seed] - first[seed] for seed in first])
            noise = float(stats.t.ppf((1 + LEVEL) / 2, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart)))
            assert abs(apart.mean()) <= noise, (theirs, objective, apart)
            changes.append((abs(np.mean(list(first.values())) - np.mean(list(before.values()))), noise))
        # What the stage changes most is far beyond the noise, so that another stage would be told from it.
        change, noise = max(changes)
        assert change > 2 * noise, (ours, changes)
    page = opened.report()
    assert all(name in page.read_text(encoding="utf-8") for name in ("H-TRL", "D-TRL"))
