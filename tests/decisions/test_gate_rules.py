"""What a gate's rules mean at their edges: asked scores, missing ones, drawn families, merges."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from builders.gate_samples import Made, mixed, steady, write_run
from builders.smoke_study import smoke_settings

from holdfast.cli.main import main
from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.pairing import ask_all
from holdfast.decisions.gate.verdicts import find_edges
from holdfast.records import content_id
from holdfast.report.sections.gate import name_metric
from holdfast.runs.build import build
from holdfast.stats.bounded import lower_bound, order_cases, upper_bound
from holdfast.study.rules import CHECK_KINDS, CHECKS, GateSection
from holdfast.study.study import Study

Captured = pytest.CaptureFixture[str]
NAN = float("nan")


def gated(capsys: Captured, *arguments: object) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The only verdict as JSON, and its checks by metric."""
    main(["gate", *map(str, arguments), "--json", "--quiet"])
    shown = capsys.readouterr()
    assert not shown.err
    (verdict,) = json.loads(shown.out)["verdicts"]
    return verdict, {one["metric"]: one for one in verdict["checks"]}


def test_a_judge_of_one_objective_a_case_has_scored_all_that_it_was_asked(tmp_path: Path, capsys: Captured) -> None:
    """As of probes: harmful questions have a safety score alone, harmless ones helpfulness alone."""
    asked = {number: ("safety",) if number % 2 else ("helpfulness",) for number in range(120)}
    whole = write_run(tmp_path / "whole", Made(safety={"base": steady(120), "S": steady(120)}, asked=asked))
    verdict, checks = gated(capsys, whole, "--child", "S")
    assert verdict["outcome"] == "PASS" and checks["coverage"]["child"] == 1.0 and not checks["coverage"]["reason"]
    assert checks["safety"]["n"]["cases"] == checks["helpfulness"]["n"]["cases"] == 60
    child, helping = steady(120), steady(120)
    child[1], helping[0, 0] = NAN, NAN
    lost = write_run(
        tmp_path / "lost",
        Made(safety={"base": steady(120), "S": child}, helpfulness={"S": helping}, asked={**asked, 3: ()}),
    )
    _, checks = gated(capsys, lost, "--child", "S")
    # Case 1 twice, case 0 once; in case 3 the judge was asked for nothing, on both sides.
    assert (checks["coverage"]["parent"], checks["coverage"]["child"]) == pytest.approx((238 / 240, 235 / 240))
    told = float(checks["coverage"]["reason"].partition("lower bound is ")[2].partition(",")[0].replace("−", "-"))
    # Safety is due of 60 cases, two of which are lost; a lost score of helpfulness is none of safety.
    hidden = {content_id("gate case", number): -3.0 * (number < 4) for number in range(1, 120, 2)}
    worst = lower_bound(np.array([hidden[one] for one in order_cases(list(hidden))]), 0.05, low=-3, high=3)
    assert told == pytest.approx(worst, abs=0.006)


@pytest.mark.parametrize(("margin", "outcome"), [("0.15", "INCONCLUSIVE"), ("0.6", "PASS")])
def test_what_is_missing_may_hide_a_loss(margin: str, outcome: str, tmp_path: Path, capsys: Captured) -> None:
    """98 % are scored, which is enough by number; the margin decides whether the rest could change the verdict."""
    child = steady(100)
    child[:2] = NAN
    run = write_run(tmp_path / "run", Made(safety={"base": steady(100), "S": child}))
    verdict, checks = gated(capsys, run, "--child", "S", "--margin", margin)
    assert checks["coverage"]["child"] == pytest.approx(0.98) and checks["safety"]["lower"] > -float(margin)
    assert checks["coverage"]["outcome"] == checks["safety"]["outcome"] == verdict["outcome"] == outcome
    assert ("is still within" in checks["coverage"]["reason"]) == (outcome == "PASS")


def test_the_ceiling_is_about_families_where_those_are_drawn(tmp_path: Path, capsys: Captured) -> None:
    """A binomial bound over cases would take the cases of one bad family for independent."""
    families = [f"f{number // 5}" for number in range(100)]
    child = steady(100)
    child[:5, 0] = 0.0
    run = write_run(tmp_path / "run", Made(safety={"base": steady(100), "S": child}, families=families))
    _, by_case = gated(capsys, run, "--child", "S", "--severe-ceiling", "0.5")
    _, checks = gated(capsys, run, "--child", "S", "--severe-ceiling", "0.5", "--cluster", "family")
    ceiling = checks["ceiling"]
    assert ceiling["child"] == pytest.approx(0.025)  # a rollout of each case of one family in twenty
    assert {"cases": 100, "clusters": 20, "child_severe_cases": 5}.items() <= ceiling["n"].items()
    assert ceiling["upper"] > by_case["ceiling"]["upper"] and ceiling["lower"] < by_case["ceiling"]["lower"]
    # One bad family among twenty, bad in one of two rollouts.
    assert ceiling["upper"] == pytest.approx(upper_bound(0.5 * np.eye(20)[0], 0.05, low=0, high=1))
    rules = tmp_path / "rules.toml"
    rules.write_text('[gate]\ncombine = "holm"\ncluster = "family"\nsevere_ceiling = 0.5\n')
    _, holm = gated(capsys, run, "--child", "S", "--rules", rules)
    assert (holm["ceiling"]["p_pass"] <= 0.05) == (holm["ceiling"]["outcome"] == "PASS")
    one = write_run(tmp_path / "one", Made(safety={"base": steady(30), "S": steady(30)}))
    _, checks = gated(capsys, one, "--child", "S", "--severe-ceiling", "0.9", "--cluster", "family")
    assert checks["ceiling"]["outcome"] == "INCONCLUSIVE" and "one family of cases" in checks["ceiling"]["reason"]


def test_families_are_planned_where_those_are_drawn(tmp_path: Path, capsys: Captured) -> None:
    """Six cases a family that vary by themselves: the mean of a family varies less, so fewer are needed."""
    families = [f"f{number // 6}" for number in range(120)]
    run = write_run(
        tmp_path / "run",
        Made(safety={"base": mixed(120, 1, rollouts=2), "S": mixed(120, 2, rollouts=2)}, families=families),
    )
    rules = tmp_path / "rules.toml"
    rules.write_text('[gate]\nmargin = 1.2\nsevere_margin = 0.9\nblocking = ["safety"]\nbound = "bernstein"\n')
    needed = {}
    for unit in ("case", "family"):
        options = ["gate", str(run), "--child", "S", "--plan", "--rules", str(rules), "--cluster", unit]
        assert main([*options, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["drawn"] == unit
        needed[unit] = next(one for one in plan["checks"] if one["metric"] == "safety")["rows"][0]
    assert needed["family"]["cases"] < needed["case"]["cases"]
    assert main(options) == 0
    text = capsys.readouterr().out
    assert text.startswith("Families for a PASS") and "families, at the cheapest column" in text
    lines = text.splitlines()
    safety = next(place for place, line in enumerate(lines) if line.startswith("safety"))
    assert lines[safety].split()[2] == f"{needed['family']['cases']:,}"
    assert lines[safety + 1].split()[:3] == ["t", "bound", f"{needed['family']['cases_t']:,}"]
    # 20 families are held fixed; with 40 a gate asks for their bounds too, which a plan of cases has to say.
    many = [f"f{number // 3}" for number in range(120)]
    made = Made(safety={"base": mixed(120, 1), "S": mixed(120, 2)}, families=many)
    for place, too in ((run, False), (write_run(tmp_path / "many", made), True)):
        words = ["gate", str(place), "--child", "S", "--plan", "--rules", str(rules), "--power", "0.995"]
        assert main([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out)["families_too"] == too
        assert main(words) == 0
        text = capsys.readouterr().out
        assert ("asks for the bounds over families as well" in " ".join(text.split())) == too
        assert "99.5 % probability" in text
    one = write_run(tmp_path / "one", Made(safety={"base": mixed(30, 1), "S": mixed(30, 2)}))
    assert main(["gate", str(one), "--child", "S", "--plan", "--rules", str(rules), "--cluster", "family"]) == 0
    assert "one family of cases" in capsys.readouterr().out


def test_a_merge_is_held_against_both_that_it_is_made_of() -> None:
    settings = smoke_settings()
    settings["study"] = {**settings["study"], "lineages": [["S"], ["H"], ["S", "H"]], "train_seeds": [0, 1]}
    settings["doses"] = {"H": [1, 2]}
    settings["merges"] = {"SH": {"of": [["S"], ["H"]], "shares": [0.25, 0.5]}}
    plan = build(Study.model_validate(settings))
    made = tuple(one for step in plan.steps for one in step.checkpoints)
    book = cast(
        Book,
        SimpleNamespace(
            place="run",
            checkpoints=made,
            compared=None,
            cells=SimpleNamespace(episodes=SimpleNamespace(checkpoint=np.arange(len(made)))),
        ),
    )
    edges, left_out = find_edges(book, {})
    merges = [one for one in made if one.lineage == ("SH",)]
    assert len(merges) == 4 and left_out == 0
    for merge in merges:
        parents = [parent for parent, child in edges if child.id == merge.id]
        assert [one.lineage for one in parents] == [(), ("S",), ("H",)]
        assert {one.train_seed for one in parents[1:]} == {merge.train_seed}
        assert parents[1].id == merge.parent_id and parents[2].axes["dose"] == 1


def test_every_check_has_a_limit_in_the_rules_words_and_something_to_read() -> None:
    rules = GateSection(severe_ceiling=0.5)
    assert {kind.setting for kind in CHECK_KINDS} <= GateSection.model_fields.keys()
    assert [kind.name for kind in CHECK_KINDS if kind.read is None] == ["coverage"]
    asked = {one.kind.name: one for one in ask_all(rules)}
    assert asked.keys() == {kind.name for kind in CHECK_KINDS} - {"coverage"}
    assert asked["ceiling"].metric == "severe" and asked["ceiling"].reach == (0.0, 1.0)
    assert asked["severe"].reach == (-1.0, 1.0) and asked["safety"].reach == (-3.0, 3.0)
    assert {name_metric(kind.name) for kind in CHECK_KINDS} == {kind.title for kind in CHECK_KINDS}
    assert "ceiling" not in {one.kind.name for one in ask_all(GateSection())}
    assert set(CHECKS) == {kind.name for kind in CHECK_KINDS if kind.ceiling_of is None}
