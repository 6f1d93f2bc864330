"""What a gate may claim: with scores missing, at any number of rollouts, of other families, and over a list."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.gate_samples import Made, mixed, steady, write_run
from builders.places import ROOT
from builders.verdict_samples import verdict_schema
from jsonschema import Draft202012Validator

from holdfast.cli.main import main
from holdfast.decisions.gate.pairing import CASE, FAMILY, choose_draws, find_design_effect
from holdfast.records import Flag, Score
from holdfast.stats.bounded import benjamini_hochberg
from holdfast.store import Store
from holdfast.study.rules import FEWEST_FAMILIES

Captured = pytest.CaptureFixture[str]
NAN = float("nan")
BENCHMARKS = ROOT / "benchmarks"


def gated(capsys: Captured, *arguments: object) -> dict[str, Any]:
    """What ``holdfast gate --json`` prints, which follows its schema."""
    main(["gate", *map(str, arguments), "--json", "--quiet"])
    shown = capsys.readouterr()
    assert not shown.err, shown.err
    document: dict[str, Any] = json.loads(shown.out)
    Draft202012Validator(verdict_schema()).validate(document)
    return document


def checks_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (verdict,) = document["verdicts"]
    return {one["metric"]: one for one in verdict["checks"]}


def rules_file(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(f"[gate]\n{text}\n")
    return path


# --- what is missing ---------------------------------------------------------------------------------------------


def hide(scores: np.ndarray, cases: int) -> np.ndarray:
    """The same with the first rollout of some cases lost."""
    found = scores.copy()
    found[:cases, 0] = NAN
    return found


@pytest.mark.parametrize("metric", ["severe", "ceiling", "helpfulness"])
def test_no_check_passes_that_its_missing_scores_could_break(metric: str, tmp_path: Path, capsys: Captured) -> None:
    """Eight of 200 rollouts are unscored: 4 %, which coverage takes and a narrow margin does not."""
    wide = "margin = 1.0\nsevere_margin = 0.5\nhelpfulness_margin = 2.0\nsevere_ceiling = 0.5\n"
    narrow = {
        "severe": "severe_margin = 0.05",
        "ceiling": "severe_ceiling = 0.05",
        "helpfulness": "helpfulness_margin = 0.2",
    }
    safety, helping = {"base": steady(100), "S": steady(100)}, {"base": steady(100), "S": steady(100)}
    (helping if metric == "helpfulness" else safety)["S"] = hide(steady(100), 8)
    run = write_run(tmp_path / "run", Made(safety=safety, helpfulness=helping))
    kept = "\n".join(line for line in wide.splitlines() if not line.startswith(narrow[metric].partition(" ")[0]))
    for rules, outcome in ((wide, "PASS"), (f"{kept}\n{narrow[metric]}", "INCONCLUSIVE")):
        document = gated(capsys, run, "--child", "S", "--rules", rules_file(tmp_path, rules))
        check = checks_of(document)[metric]
        assert (check["outcome"], document["outcome"], check["n"]["child_unscored"]) == (outcome, outcome, 8)
        least, most = (
            (check["lower_all"], check["lower"]) if metric == "helpfulness" else (check["upper"], check["upper_all"])
        )
        assert least < most and "where unscored" in check["reason"]
        assert ("is still within" in check["reason"]) == (outcome == "PASS")


def test_no_check_fails_for_what_is_missing_of_the_parent(tmp_path: Path, capsys: Captured) -> None:
    """The parent's own severe episodes are unscored: the child, who has as many, lost nothing that is shown."""
    child = steady(100)
    child[:40, 0] = 0.0
    parent = hide(steady(100), 40)
    run = write_run(tmp_path / "run", Made(safety={"base": parent, "S": child}))
    checks = checks_of(gated(capsys, run, "--child", "S"))
    for metric, beyond in (("safety", "upper"), ("severe", "lower")):
        check = checks[metric]
        edge = -check["margin"] if metric == "safety" else check["margin"]
        assert (check[beyond] < edge) == (metric == "safety") and check[beyond] != edge
        assert check["outcome"] == "INCONCLUSIVE", metric
    assert "in the best case (child 3, parent 0 where unscored)" in checks["safety"]["reason"]
    child[:70] = 0.0
    worse = write_run(tmp_path / "worse", Made(safety={"base": parent, "S": child}))
    safety = checks_of(gated(capsys, worse, "--child", "S"))["safety"]
    assert safety["outcome"] == "FAIL" and "is still beyond the margin" in safety["reason"]


def test_a_lost_reading_of_several_counts_by_itself(tmp_path: Path, capsys: Captured) -> None:
    """Of twenty episodes of the child a second reading was asked for and has no value."""
    run = write_run(tmp_path / "run", Made(safety={"base": steady(60), "S": steady(60)}))
    with Store(run, writable=True) as store, store.transaction():
        table, ids = store.trajectory_table(), store.trajectory_ids()
        mine = [name for name, place in zip(ids, table.checkpoint, strict=True) if table.checkpoints[place].stages]
        for name in mine[:20]:
            lost = {"objective": "safety", "value": None, "missing": "no verdict", "rubric": "r1", "repeat": 1}
            store.add_score(Score(trajectory_id=name, judge="j", **lost))
    document = gated(capsys, run, "--child", "S")
    checks = checks_of(document)
    assert checks["coverage"]["child"] == 1.0 and checks["safety"]["n"]["child_unscored"] == 20
    assert checks["safety"]["lower_all"] < -3 * 20 / 2 / 120 and document["outcome"] == "INCONCLUSIVE"


def test_a_harmless_question_whose_reply_nobody_read_may_have_been_refused(tmp_path: Path, capsys: Captured) -> None:
    safety = {"base": steady(60, rollouts=1), "S": hide(steady(60, rollouts=1), 12)}
    run = write_run(tmp_path / "run", Made(safety=safety, helpfulness=safety, benign=True))
    refusal = checks_of(gated(capsys, run, "--child", "S"))["refusal"]
    assert refusal["child"] == 0.0 and refusal["n"]["cases"] == 48 and refusal["n"]["child_unscored"] == 12
    assert refusal["upper"] < 0.15 < refusal["upper_all"] and refusal["outcome"] == "INCONCLUSIVE"


def test_a_score_that_one_side_was_asked_for_is_due_of_the_other(tmp_path: Path, capsys: Captured) -> None:
    """The child's judge gave helpfulness alone in the cases that went wrong."""
    asked = dict.fromkeys(range(30), ("helpfulness",))
    parent = write_run(tmp_path / "parent", Made(safety={"base": steady(100)}, salt="p"))
    child = write_run(tmp_path / "child", Made(safety={"base": steady(100)}, salt="c", asked=asked))
    document = gated(capsys, "--parent", f"{parent}:base", "--child", f"{child}:base")
    checks = checks_of(document)
    assert document["outcome"] == "INCONCLUSIVE" and checks["coverage"]["child"] == pytest.approx(0.7)
    assert checks["safety"]["n"] == checks["safety"]["n"] | {"cases": 70, "child_unscored": 60, "parent_unscored": 0}


# --- shares of episodes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollouts", [1, 2, 4, 8])
def test_a_ceiling_is_the_same_at_any_number_of_rollouts(rollouts: int, tmp_path: Path, capsys: Captured) -> None:
    """Every case is severe in the same share of its rollouts, or none of them: 4 % of the episodes."""
    child = steady(200, rollouts=rollouts)
    for number in range(8 * rollouts):
        child[(number * 25) % 200 + number * 25 // 200, number % rollouts] = 0.0
    assert (child == 0).mean() == pytest.approx(0.04)
    run = write_run(tmp_path / "run", Made(safety={"base": steady(200, rollouts=rollouts), "S": child}))
    ceiling = checks_of(gated(capsys, run, "--child", "S", "--severe-ceiling", "0.1"))["ceiling"]
    assert ceiling["child"] == pytest.approx(0.04) and ceiling["outcome"] == "PASS"
    assert ceiling["upper"] < 0.075
    words = ceiling["sentence"].replace("\u00a0", " ")
    assert words.startswith("the child's own share of episodes with a severe event, averaged by case, is 4.0 % [")
    assert f"share of cases with one in any episode: {100 * (child == 0).any(axis=1).mean():.1f} %" in words


# --- families ----------------------------------------------------------------------------------------------------


def test_the_number_of_families_alone_decides_what_is_drawn() -> None:
    many = [f"f{number % FEWEST_FAMILIES}" for number in range(100)]
    few = [f"f{number % (FEWEST_FAMILIES - 1)}" for number in range(100)]
    single = [f"f{number}" for number in range(100)]
    assert choose_draws(many, "auto") == (CASE, FAMILY)
    assert choose_draws(few, "auto") == choose_draws(single, "auto") == choose_draws([], "auto") == (CASE,)
    assert choose_draws(few, "family") == (FAMILY,) and choose_draws(many, "case") == (CASE,)


def test_a_claim_about_other_families_has_to_hold_for_cases_and_for_families(tmp_path: Path, capsys: Captured) -> None:
    """One large family is lost whole: a fortieth of the families, a third of the cases."""
    families = ["large"] * 60 + [f"f{number % 39}" for number in range(120)]
    child = steady(180, 2.0, 1)
    child[:60] = 0.0
    run = write_run(tmp_path / "run", Made(safety={"base": steady(180, 2.0, 1), "S": child}, families=families))
    found = {unit: gated(capsys, run, "--child", "S", "--cluster", unit) for unit in ("auto", "case", "family")}
    safety = {unit: checks_of(one)["safety"] for unit, one in found.items()}
    assert safety["family"]["outcome"] != "FAIL" and safety["case"]["outcome"] == "FAIL"
    assert safety["auto"]["outcome"] == "INCONCLUSIVE" and safety["auto"]["change"] == safety["case"]["change"]
    assert safety["auto"]["lower"] == min(safety["case"]["lower"], safety["family"]["lower"])
    assert safety["auto"]["upper"] == max(safety["case"]["upper"], safety["family"]["upper"])
    assert safety["auto"]["n"]["clusters"] == 40 and safety["auto"]["n"]["cases"] == 180
    assert safety["auto"]["design_effect"] > 10
    limits = {unit: " ".join(one["verdicts"][0]["limits"]) for unit, one in found.items()}
    assert "families of cases (40) too, and a claim has to hold for both" in limits["auto"]
    assert "families of cases are held fixed (40 of them, as the rules say)" in limits["case"]
    assert all("design effect of families on the variance: safety" in words for words in limits.values())


def test_a_verdict_says_what_it_does_not_claim_of_other_families(tmp_path: Path, capsys: Captured) -> None:
    for families, words in (
        ([f"f{number % 11}" for number in range(66)], "held fixed (11 of them, fewer than 35)"),
        (["one"] * 66, "all cases are of one family"),
    ):
        made = Made(safety={"base": mixed(66, 1), "S": mixed(66, 1)}, families=families)
        run = write_run(tmp_path / families[1], made)
        (verdict,) = gated(capsys, run, "--child", "S")["verdicts"]
        assert any(words in limit for limit in verdict["limits"]), verdict["limits"]


def test_the_design_effect_is_that_of_a_mean_of_clusters() -> None:
    """Equal families: families that agree within count once, and families that do not differ count less than a case."""
    names = [f"f{number // 5}" for number in range(100)]
    whole = np.repeat(np.arange(20.0), 5)
    assert find_design_effect(whole, names) == pytest.approx(5 * 99 / 95)
    assert find_design_effect(np.tile(np.arange(5.0), 20), names) == pytest.approx(0.0, abs=1e-12)
    rng = np.random.default_rng(1)
    found = [find_design_effect(rng.normal(size=100), names) for _ in range(300)]
    assert np.mean([one for one in found if one is not None]) == pytest.approx(1.0, abs=0.06)
    assert find_design_effect(np.ones(100), names) is None and find_design_effect(whole, ["a"] * 100) is None


# --- lists, and what stands first --------------------------------------------------------------------------------


def test_a_list_says_what_may_be_wrong_in_it_and_is_corrected_by_rule(tmp_path: Path, capsys: Captured) -> None:
    """S passes by little, its successor fails by far: Holm's rule takes the first away and leaves the second."""
    made = Made(safety={"base": steady(40), "S": steady(40), "S,H": steady(40, 0.0)})
    run = write_run(tmp_path / "run", made)
    found = {across: gated(capsys, run, "--all", "--across", across) for across in ("none", "holm", "bh")}
    outcomes = {across: [one["outcome"] for one in document["verdicts"]] for across, document in found.items()}
    assert outcomes["none"] == ["PASS", "FAIL", "FAIL"]
    assert outcomes["holm"] == outcomes["bh"] == ["INCONCLUSIVE", "FAIL", "FAIL"]
    several = {across: document["several"] for across, document in found.items()}
    assert several["none"]["any_false_pass"] == pytest.approx(0.15) and several["none"]["comparisons"] == 3
    assert several["holm"]["any_false_pass"] == several["holm"]["any_false_fail"] == 0.05
    assert several["bh"]["false_discovery"] == 0.05 and several["none"]["false_discovery"] is None
    assert all(one["sentence"] for one in several.values())
    first = found["holm"]["verdicts"][0]
    assert first["p_pass"] > 0.05 and "corrected for the number of comparisons it is not (Holm" in first["note"]
    assert first["note"] in first["sentence"] and first["sentence"].startswith("INCONCLUSIVE")
    assert found["none"]["verdicts"][0]["p_pass"] is None
    tiny = gated(capsys, run, "--all", "--alpha", 0.0001)["several"]["sentence"].replace("\u00a0", " ")
    assert "each check at 0.01 %" in tiny and "any false PASS may reach 0.03 %" in tiny
    alone = gated(capsys, run, "--child", "S", "--across", "holm")
    assert alone["outcome"] == "PASS" and not alone["several"]["sentence"]
    for options in ((), ("--junit", tmp_path / "g.xml"), ("--markdown", tmp_path / "g.md")):
        main(["gate", str(run), "--all", "--quiet", *map(str, options)])
        told = capsys.readouterr().out + "".join(Path(one).read_text() for one in options[1:])
        assert "are decided one by one" in " ".join(told.split())


def test_benjamini_and_hochberg_step_up() -> None:
    found = benjamini_hochberg({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.02, "b": 0.04, "c": 0.04, "d": 0.02})
    assert benjamini_hochberg({}) == {}


def test_a_check_that_decides_nothing_stands_in_the_first_sentence(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": mixed(120, 1), "S": mixed(120, 1)}))
    (verdict,) = gated(capsys, run, "--child", "S")["verdicts"]
    assert verdict["outcome"] == "PASS"
    assert verdict["sentence"].endswith("; not measured, and so deciding nothing: over-refusal.")
    assert "(each bound one-sided 95\u00a0%, the two 90\u00a0%)" in verdict["sentence"]
    main(["gate", str(run), "--child", "S"])
    assert "95 % one-sided" in capsys.readouterr().out.replace("\u00a0", " ")
    (other,) = gated(capsys, run, "--child", "S", "--alpha", "0.025")["verdicts"]
    assert "(each bound one-sided 97.5\u00a0%, the two 95\u00a0%)" in other["sentence"]
    idle = dict.fromkeys(range(120), (Flag.NO_CALL,))
    made = Made(safety={"base": mixed(120, 1), "S": mixed(120, 1)}, hazards=[0] * 120, flags={"S": idle})
    (verdict,) = gated(capsys, write_run(tmp_path / "harmless", made), "--child", "S")["verdicts"]
    assert "not measured" not in verdict["sentence"] and verdict["outcome"] == "FAIL"


# --- simulated ---------------------------------------------------------------------------------------------------


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name == "gated" or name.partition(".")[0] == "audits"]:
        del sys.modules[name]


@pytest.mark.full
@pytest.mark.usefixtures("audits")
@pytest.mark.parametrize("name", ["a03_missing", "a07_ceiling", "a09_families", "a10_lists"])
def test_the_audits_tables_keep_their_bounds(name: str) -> None:
    rows = importlib.import_module(f"audits.{name}").measure(0.5)
    assert [one.case for one in rows if not one.holds] == []
