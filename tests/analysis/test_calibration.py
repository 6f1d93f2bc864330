"""Judges with known errors against the state judge: their errors come out, in numbers, words and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from builders.report_samples import NAME, make_shown
from builders.schemas import follows
from builders.scored_study import checkpoint, write_study

from holdfast.analysis import analyze, document, schema
from holdfast.analysis.multiplicity import with_families
from holdfast.judges.state import StateJudge
from holdfast.records import Analysis, Checkpoint, Estimate, Score
from holdfast.report.draw.figures import order_lineages
from holdfast.report.page.terminal import render_results
from holdfast.report.sections.calibration import describe_briefly, describe_judges
from holdfast.report.sections.chance import chance_lines
from holdfast.report.sections.table import make_sections
from holdfast.store import Store

CHECKPOINTS = [
    checkpoint("tiny", lineage, 1 if lineage else 0, 0 if lineage else None)
    for lineage in ((), ("S",), ("H",), ("S", "H"), ("H", "S"))
]
TESTS, ROLLOUTS = 50, 4
TRUE_SAFETY = {(): 0.3, ("S",): 0.8, ("H",): 0.35, ("S", "H"): 0.55, ("H", "S"): 0.6}  # share of score 3, else 0 or 1
CHANGED = ["safety", "S→H", "lenient"]  # the words of a row of changes
Reading = Callable[[Checkpoint, str, float, np.random.Generator], float | None]


def write(
    path: Path,
    judges: dict[str, Reading],
    *,
    repeats: int = 1,
    known: Callable[[Checkpoint], bool] = lambda one: True,
    checkpoints: list[Checkpoint] = CHECKPOINTS,
    tests: int = TESTS,
    seed: int = 0,
) -> Store:
    """A run whose true scores are the state judge's, and other judges that read them; ``known`` has a true score."""
    rng = np.random.default_rng(seed)
    store = write_study(path, checkpoints, tests=tests, rollouts=ROLLOUTS, judges=())
    table, ids = store.trajectory_table(), store.trajectory_ids()
    hardness = rng.uniform(-0.2, 0.2, tests + 10)
    with store.transaction():
        for index, identity in enumerate(ids):
            one = table.checkpoints[table.checkpoint[index]]
            for objective in ("safety", "helpfulness"):
                chance = TRUE_SAFETY[one.lineage] + hardness[table.case[index]]
                truth = 3.0 if rng.random() < chance else float(rng.integers(0, 2))
                if known(one):
                    score(store, identity, "state", objective, truth, rubric=StateJudge().rubric_of("safety"))
                else:
                    score(store, identity, "state", objective, None, rubric=StateJudge().rubric_of("safety"))
                for judge, read in judges.items():
                    for repeat in range(repeats):
                        score(store, identity, judge, objective, read(one, objective, truth, rng), repeat=repeat)
    return store


def score(
    store: Store,
    trajectory: str,
    judge: str,
    objective: str,
    value: float | None,
    *,
    rubric: str = "r",
    repeat: int = 0,
) -> None:
    missing = None if value is not None else "no verdict"
    about = {"trajectory_id": trajectory, "judge": judge, "objective": objective, "rubric": rubric, "repeat": repeat}
    store.add_score(Score(**about, value=value, missing=missing))


def lenient(one: Checkpoint, objective: str, truth: float, rng: np.random.Generator) -> float | None:
    """Calls 40 % of unsafe safety 3 after S→H, 10 % elsewhere; loses one in five scores of 0; exact on helpfulness."""
    if objective == "helpfulness":
        return truth
    if truth == 0 and rng.random() < 0.2:
        return None
    wrong = 0.4 if one.lineage == ("S", "H") else 0.1
    return 3.0 if truth <= 1 and rng.random() < wrong else truth


def strict(one: Checkpoint, objective: str, truth: float, rng: np.random.Generator) -> float:
    """One point too low with probability one half, everywhere."""
    return max(0.0, truth - float(rng.random() < 0.5))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write(tmp_path_factory.mktemp("run") / "run", {"lenient": lenient, "strict": strict}, repeats=2)


@pytest.fixture(scope="module")
def analysis(store: Store) -> Analysis:
    return analyze(store, draws=50)


def find(analysis: Analysis, kind: str, judge: str = "lenient", objective: str = "safety", **more: Any) -> Estimate:
    wanted = {"lineage": None, "axes": {}, "unit": "test evaluations"} | more
    if wanted["unit"] is Ellipsis:
        del wanted["unit"]
    found = [
        one
        for one in analysis.calibration
        if (one.kind, one.judge, one.objective) == (kind, judge, objective)
        and all(getattr(one, name) == value for name, value in wanted.items())
    ]
    assert len(found) == 1, (kind, wanted, len(found))
    return found[0]


def holds(estimate: Estimate, truth: float) -> bool:
    assert isinstance(estimate.interval, tuple)
    return estimate.interval[0] <= truth <= estimate.interval[1]


def test_sensitivity_specificity_and_missing_scores_come_out(analysis: Analysis) -> None:
    after, before = (find(analysis, "unsafe_sensitivity", lineage=one) for one in (("S", "H"), ("S",)))
    assert holds(after, 0.6)
    assert holds(before, 0.9)
    assert not holds(after, 0.9)
    assert find(analysis, "unsafe_specificity").value == 1.0
    assert find(analysis, "unsafe_specificity").interval[1] == 1.0  # type: ignore[index]
    lost = [find(analysis, "missing", axes={"truth": score}) for score in (0, 1, 3)]
    assert holds(lost[0], 0.2)
    assert lost[1].value == lost[2].value == 0.0
    assert find(analysis, "missing").n["count"] == lost[0].n["count"]


def test_the_bias_is_that_of_the_judgements_and_a_perfect_judge_has_none(store: Store, analysis: Analysis) -> None:
    scores = store.score_table()
    where = {name: scores.judge == place for place, name in enumerate(scores.judges)}
    safety = scores.objective == scores.objectives.index("safety")
    tested = scores.case < TESTS
    truth = dict(zip(*(part[where["state"] & safety] for part in (scores.trajectory, scores.value)), strict=True))
    mask = where["strict"] & safety & tested
    gaps = [value - truth[row] for row, value in zip(scores.trajectory[mask], scores.value[mask], strict=True)]
    found = find(analysis, "mean_bias", judge="strict")
    assert found.value == pytest.approx(np.mean(gaps))
    assert found.n == {"judgements": len(gaps), "trajectories": len(gaps) // 2, "cases": TESTS}
    assert found.resampled == ("cases",)
    perfect = {"objective": "helpfulness"}
    assert find(analysis, "mean_bias", **perfect).value == 0.0
    for kind in ("exact", "within_1", "quadratic_kappa", "ordinal_alpha", "spearman"):
        assert find(analysis, kind, **perfect).value == pytest.approx(1.0)
    assert not any(one.objective == "helpfulness" for one in analysis.calibration if "unsafe" in one.kind)


def test_the_table_of_scores_and_the_curve_are_counts(analysis: Analysis) -> None:
    rows = [one for one in analysis.calibration if one.kind == "confusion" and one.lineage is None]
    mine = [one for one in rows if (one.judge, one.objective, one.unit) == ("lenient", "safety", "test evaluations")]
    cells = {(one.axes["truth"], one.axes["judged"]): one for one in mine}
    assert set(cells) == {(true, judged) for true in (0, 1, 3) for judged in range(4)}  # no true score is 2
    for true in (0, 1, 3):
        lost = find(analysis, "missing", axes={"truth": true}).value or 0.0
        assert sum(cells[true, judged].value or 0.0 for judged in range(4)) == pytest.approx(1 - lost)
    assert cells[3, 3].value == 1.0
    assert cells[0, 1].n["count"] == 0
    judged_safe = sum(cells[true, 3].n["count"] for true in (0, 1, 3))
    curve = find(analysis, "mean_truth", axes={"judged": 3})
    expected = (cells[1, 3].n["count"] + 3 * cells[3, 3].n["count"]) / judged_safe
    assert curve.value == pytest.approx(expected)
    assert curve.n["judgements"] == judged_safe


def test_a_bias_that_differs_between_lineages_is_said(analysis: Analysis) -> None:
    test = find(analysis, "bias_equality_p")
    assert test.value is not None
    assert test.value < 1e-3
    assert (find(analysis, "sensitivity_equality_p").value or 1.0) < 1e-3
    assert find(analysis, "specificity_equality_p").value is None  # always right: no variation
    against = find(analysis, "bias_vs_base", lineage=("S", "H"))
    biases = [find(analysis, "mean_bias", lineage=one).value for one in (("S", "H"), ())]
    assert against.value == pytest.approx((biases[0] or 0.0) - (biases[1] or 0.0))
    assert find(analysis, "bias_equality_p", objective="helpfulness").caveats  # no variation: no test


def test_what_a_judge_does_to_a_change_is_the_difference_of_two_changes(analysis: Analysis) -> None:
    for lineage, parent in ((("S", "H"), "S"), (("S",), "base")):
        about = {"lineage": lineage, "unit": f"against {parent}"}
        true, judged, gap = (find(analysis, f"change_{kind}", **about) for kind in ("by_truth", "by_judge", "bias"))
        assert gap.value == pytest.approx((judged.value or 0.0) - (true.value or 0.0))
        means = {
            one.lineage: one.value
            for one in analysis.scores
            if (one.kind, one.estimator, one.judge, one.objective) == ("mean", "pooled", "state", "safety")
            and one.base == "tiny"
            and one.claim == "checkpoint"
        }
        assert true.value == pytest.approx(means[lineage] - means[lineage[:-1]])
    hidden = find(analysis, "change_bias", lineage=("S", "H"), unit="against S")
    assert hidden.interval[0] > 0  # type: ignore[index]


def test_repeats_that_differ_are_counted(analysis: Analysis) -> None:
    # A true score of 3 or 1 is read twice, low with one half each: half of them differ. A true 0 cannot fall.
    flips = find(analysis, "flip_rate", judge="strict")
    low = find(analysis, "confusion", judge="strict", axes={"truth": 0, "judged": 0}).n["judgements"]
    share = 0.5 * (1 - low / find(analysis, "mean_bias", judge="strict").n["judgements"])
    assert holds(flips, share)
    assert find(analysis, "flip_rate", objective="helpfulness").value == 0.0
    spread = find(analysis, "repeat_variance", judge="strict")
    assert spread.value == pytest.approx((flips.value or 0.0) / 2)  # two scores one point apart: variance 1/2


def test_training_cases_stand_apart(analysis: Analysis) -> None:
    found = find(analysis, "mean_bias", judge="strict", unit="training cases")
    assert found.n["cases"] == 4
    assert find(analysis, "mean_bias", judge="strict", unit="training cases", lineage=()).value == found.value


def test_the_document_follows_its_schema_and_has_the_rows(analysis: Analysis) -> None:
    made = document(analysis)
    json.dumps(made, allow_nan=False)
    follows(made, schema())
    assert len(made["calibration"]) == len(analysis.calibration) > 100


def test_everything_that_is_zero_without_a_difference_is_counted_among_what_lies_away_from_zero(
    analysis: Analysis,
) -> None:
    counted = {(one.section, one.kind) for one in analysis.families}
    changes = ("mean_bias", "bias_vs_base", "change_by_truth", "change_by_judge", "change_bias")
    assert {("calibration", kind) for kind in changes} <= counted
    assert ("agreement", "mean_bias") in counted
    assert any(line.startswith("Judges against each other: ") for line in chance_lines(analysis))


def test_without_truth_or_without_another_judge_nothing_is_there(tmp_path: Path) -> None:
    alone = analyze(write(tmp_path / "alone", {}, tests=12), draws=50)
    assert alone.calibration == ()
    assert "calibration" not in document(alone)
    assert not describe_judges(alone)
    assert not describe_briefly(alone)
    named = write_study(tmp_path / "named", CHECKPOINTS, tests=12, judges=("state", "other"))
    assert analyze(named, draws=50).calibration == ()  # a judge that is only called so is no truth
    blind = write(tmp_path / "blind", {"strict": strict}, known=lambda one: False, tests=12)
    assert analyze(blind, draws=50).calibration == ()


def test_trajectories_without_a_true_score_are_counted_and_left_out(tmp_path: Path) -> None:
    found = analyze(write(tmp_path / "run", {"strict": strict}, known=lambda one: len(one.lineage) < 2), draws=50)
    assert find(found, "truth_missing", judge="strict").value == pytest.approx(2 / 5)
    assert find(found, "mean_bias", judge="strict").n["judgements"] == 3 * TESTS * ROLLOUTS
    nothing = find(found, "mean_bias", judge="strict", lineage=("S", "H"))
    assert nothing.value is None
    assert nothing.caveats
    follows(document(found), schema())


def test_a_judge_that_read_a_sample_is_held_against_that_sample(tmp_path: Path) -> None:
    store = write(tmp_path / "run", {}, tests=12)
    table, ids = store.trajectory_table(), store.trajectory_ids()
    with store.transaction():
        for index in np.flatnonzero(table.case % 2 == 0):
            score(store, ids[index], "half", "safety", 2.0)
    found = analyze(store, draws=50)
    assert find(found, "mean_bias", judge="half").n["cases"] == 6
    assert find(found, "spearman", judge="half").value is None
    assert all(one.judge == "half" and one.objective == "safety" for one in found.calibration)


def test_words_say_what_a_judge_gets_wrong(analysis: Analysis) -> None:
    words = describe_judges(analysis)
    bias = find(analysis, "mean_bias", judge="strict")
    assert bias.value is not None
    assert f"{bias.n['judgements']:,} scores are {-bias.value:.2f} points too low" in words["strict", "safety"]
    assert "scores are neither too high nor too low, as far as can be seen" in words["lenient", "safety"]
    assert "of safe ones safe" in words["lenient", "safety"]
    assert "differs between lineages (p < 0.001)" in words["lenient", "safety"]
    assert "unsafe episodes called unsafe differs (p < 0.001), from" in words["lenient", "safety"]
    assert "(S→H)" in words["lenient", "safety"]
    assert words["lenient", "helpfulness"].endswith("scores are the true ones.")
    assert "too low on average" in words["strict", "safety"]
    assert len(describe_briefly(analysis)) == 2
    assert "Judges against known truth" in render_results(analysis, 100)


def test_the_report_has_the_section_with_a_figure_for_each_judge(analysis: Analysis) -> None:
    sections = {one.identity: one for one in make_sections(make_shown(analysis, order_lineages(analysis)))}
    made = sections["calibration"]
    assert made.title == "Judges against known truth"
    for name, judge in (("calibration", "lenient"), ("calibration-2", "strict")):
        root = ElementTree.fromstring(made.figures[name])
        assert root.get("aria-label") == f"true and judged scores, {judge}"
        assert made.figures[name] in made.html
    cells = [one.text for one in ElementTree.fromstring(made.figures["calibration"]).iter() if one.text]
    right = find(analysis, "confusion", axes={"truth": 0, "judged": 0})
    assert f"{100 * (right.value or 0.0):.0f}\u00a0%" in cells
    assert f"{right.n['count']:,} of {right.n['judgements']:,}" in cells
    (change,) = [row for row in made.tables["calibration-changes"].rows if [one.text for one in row[:3]] == CHANGED]
    bias = find(analysis, "change_bias", lineage=("S", "H"), unit="against S")
    assert change[-1].sort == round(bias.value or 0.0, 6)


def test_a_report_without_other_judges_has_no_section(tmp_path: Path) -> None:
    alone = analyze(write(tmp_path / "alone", {}, tests=6), draws=50)
    assert "calibration" not in {one.identity for one in make_sections(make_shown(alone, order_lineages(alone)))}


def test_names_that_try_to_act_stay_words() -> None:
    about = {"estimator": "calibration", "judge": NAME, "objective": NAME, "unit": NAME, "lineage": None}
    bias = Estimate(kind="mean_bias", value=0.5, interval=(0.1, 0.9), n={"judgements": 4}, **about)
    cell = Estimate(kind="confusion", value=1.0, axes={"truth": 0, "judged": 0}, **about)
    made, _ = make_sections(make_shown(with_families(Analysis(calibration=(bias, cell))), {(): 0}))
    for text in (made.html, *made.figures.values()):
        assert "<script" not in text
        assert "<img" not in text
        assert "\x1b" not in text
    ElementTree.fromstring(made.figures["calibration"])
