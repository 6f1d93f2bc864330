"""Scores aligned to cases: means over repeats, then over rollouts, the same for everyone who takes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders.scored_study import checkpoint, write_study

from holdfast.analysis.panel import read_panel
from holdfast.decisions.gate.books import read_book
from holdfast.decisions.gate.sides import Judging, take_side
from holdfast.decisions.watch.reading import read_view
from holdfast.decisions.watch.series import case_means
from holdfast.records import Case, Checkpoint, Ending, Score, Trajectory, content_id
from holdfast.rollout.audit import UNFIT
from holdfast.store import Store
from holdfast.store.cells import mean_by, own_cases, part_masks, read_cells

HALVES = {0: ("a", "b"), 1: ("b", "c")}  # split seed → test cases; the rest is trained on


def write_repeats(path: Path, given: dict[tuple[str, int], list[float | None]]) -> Store:
    """One base whose episodes (case, rollout) have these readings by one judge, a repeat each."""
    store = Store.create(path)
    cases = {
        name: Case(id=content_id(name), suite="s", number=n, family="f", messages=()) for n, name in enumerate("abc")
    }
    text = store.text_codec.pack(b'{"m":[]}')
    with store.transaction():
        store.add_cases(cases.values())
        for seed, tests in HALVES.items():
            parts = {
                "test": [cases[one].id for one in tests],
                "train": [cases[one].id for one in "abc" if one not in tests],
            }
            store.add_split(seed, parts)
        store.add_checkpoint(Checkpoint(id="base", base="b"))
        for (name, rollout), values in given.items():
            identity = content_id(name, rollout)
            store.add_trajectory(
                Trajectory(
                    id=identity,
                    case_id=cases[name].id,
                    checkpoint_id="base",
                    rollout=rollout,
                    messages=(),
                    ending=Ending.FINISHED,
                ),
                text,
            )
            for repeat, value in enumerate(values):
                missing = None if value is not None else "no verdict"
                store.add_score(
                    Score(
                        trajectory_id=identity,
                        judge="j",
                        objective="safety",
                        value=value,
                        missing=missing,
                        repeat=repeat,
                    )
                )
    return store


def test_repeats_are_averaged_first_and_what_is_missing_is_told(tmp_path: Path) -> None:
    given: dict[tuple[str, int], list[float | None]] = {
        ("a", 0): [3.0, 0.0, 0.0],
        ("a", 1): [3.0],
        ("b", 0): [2.0, None],
        ("b", 1): [None, None],
        ("c", 0): [],
    }
    with write_repeats(tmp_path / "run", given) as store:
        cells = read_cells(store)
    value, lost = cells.value[:, 0, 0], cells.lost[:, 0, 0]
    np.testing.assert_array_equal(value, [1.0, 3.0, 2.0, np.nan, np.nan])
    np.testing.assert_array_equal(cells.asked[:, 0, 0], [True, True, True, True, False])
    np.testing.assert_array_equal(lost, [0.0, 0.0, 0.5, 1.0, np.nan])
    rows, columns = np.zeros((1, 1), dtype=np.int64), np.arange(3)
    everything = np.ones(5, dtype=np.bool_)
    # A case's mean is over its rollouts, not over all its readings, which would be 1.5 for the first.
    means = cells.means(cells.value[:, :, 0], everything, rows, columns, (1, 3))
    np.testing.assert_array_equal(means, [[2.0, 2.0, np.nan]])
    np.testing.assert_array_equal(cells.over_repeats(cells.scores.value <= 0, (0, 0))[:3], [2 / 3, 0.0, 0.0])


def test_a_trained_checkpoint_counts_on_its_own_split_and_a_base_on_all() -> None:
    masks = part_masks({seed: {"test": tests} for seed, tests in HALVES.items()}, "abc", "test")
    stages = checkpoint("b", ("S",), 1, 0).stages
    points = [Checkpoint(id="base", base="b"), Checkpoint(id="s", base="b", stages=stages, split_seed=1)]
    np.testing.assert_array_equal(own_cases(points, masks), [[True, True, True], [False, True, True]])
    assert part_masks({}, "abc", "test").keys() == {None}
    assert own_cases(points, part_masks({}, "abc", "test")).all()
    assert np.isnan(mean_by(np.zeros(0), (), (2, 0))).size == 0


@pytest.mark.parametrize("objective", ["safety", "helpfulness"])
def test_gate_watch_and_report_have_the_same_means(tmp_path: Path, objective: str) -> None:
    def score(one: Checkpoint, _: str, rng: np.random.Generator) -> float | None:
        return None if rng.random() < 0.1 else float(rng.uniform(0, 3))

    points = [checkpoint("b", lineage, 1, 0) for lineage in ((), ("S",), ("S", "H"))]
    with write_study(tmp_path / "run", points, tests=12, rollouts=5, score=score) as store:
        panel = read_panel(store, UNFIT)
    book = read_book(tmp_path / "run")
    number = panel.objectives.index(objective)
    for index, row in enumerate(panel.rows):
        one = panel.trajectories.checkpoints[row.checkpoint]
        report = {
            panel.cells.scores.case_ids[k]: v for k, v in enumerate(panel.values[number, index]) if np.isfinite(v)
        }
        judging = Judging(labels={objective: "state"}, names={})
        side = take_side(book, one, judging, split_seed=0, severe_at_most=0.0)
        means = side.case_means(objective)
        gate = {name: value for name, value in zip(side.cases, means, strict=True) if np.isfinite(value)}
        assert gate == report and len(gate) >= 11
        assert case_means(read_view(book, one, "state", objective).values) == pytest.approx(report, rel=1e-15)
