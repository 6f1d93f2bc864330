"""The published archives through import and analysis give the published numbers.

The archives and the measured numbers are looked for in ``$HOLDFAST_PUBLISHED_DATA``, else in ``shared/data`` beside
the checkout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.places import DATA

from holdfast.analysis import analyze, document
from holdfast.store import Store

JUDGES = {"gpt5m": "gpt-5-mini", "q32": "Qwen3-32B", "Qwen_Qwen3-32B": "Qwen3-32B", "gpt-5-mini": "gpt-5-mini"}
EXACT = 1e-9

pytestmark = pytest.mark.skipif(
    not (DATA / "golden-match.json").is_file(), reason=f"no published data in {DATA} (set HOLDFAST_PUBLISHED_DATA)"
)
Rows = dict[tuple[Any, ...], dict[str, Any]]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "golden-match.json").read_text())
    return found


@pytest.fixture(scope="module")
def stores(published_match: Path, published_raw: Path) -> dict[str, Store]:
    return {"match": Store(published_match), "raw": Store(published_raw)}


@pytest.fixture(scope="module")
def match(stores: dict[str, Store]) -> dict[str, Any]:
    return document(analyze(stores["match"]))


@pytest.fixture(scope="module")
def raw(stores: dict[str, Store]) -> dict[str, Any]:
    return document(analyze(stores["raw"], draws=100))


def index(rows: list[dict[str, Any]], *names: str, **wanted: Any) -> Rows:
    """Rows with the wanted fields by the values of ``names``; axes as sorted items, lineage as a tuple."""
    found: Rows = {}
    for row in rows:
        if any(row.get(name) != value for name, value in wanted.items()):
            continue
        axes, lineage = row.get("axes", {}), row.get("lineage")
        view = row | {"axes": tuple(sorted(axes.items())), "lineage": None if lineage is None else tuple(lineage)}
        key = tuple(view.get(name) for name in names)
        assert key not in found, key
        found[key] = row
    return found


def config(name: str) -> tuple[tuple[str, ...], tuple[tuple[str, float], ...]]:
    """``S,H-0.05`` as lineage and axes."""
    if name == "base":
        return (), ()
    lineage, beta = name.rsplit("-", 1)
    return tuple(lineage.split(",")), (("beta", float(beta)),)


def groups(golden: dict[str, Any]) -> Iterator[tuple[str | None, str | None, str, dict[str, float]]]:
    """(base, judge, configuration, numbers) of every group mean."""
    for name, found in golden["match"]["aggregated_by_config"].items():
        yield None, None, name, found
    for key, found in golden["match"]["by_source_config"].items():
        base, name = key.split("|")
        yield base, None, name, found
    for key, found in golden["match"]["by_source_evaluator_config"].items():
        base, judge, name = key.split("|")
        yield base, JUDGES[judge], name, found


def test_every_mean_and_deviation(golden: dict[str, Any], match: dict[str, Any]) -> None:
    names = ("base", "judge", "lineage", "axes", "objective")
    means = index(match["scores"], *names, kind="mean", estimator="published")
    deviations = index(match["scores"], *names, kind="std", estimator="published")
    seen = 0
    for base, judge, name, numbers in groups(golden):
        for objective in ("safety", "helpfulness"):
            key = (base, judge, *config(name), objective)
            assert means[key]["value"] == pytest.approx(numbers[objective], abs=EXACT)
            assert deviations[key]["value"] == pytest.approx(numbers[f"{objective}_std"], abs=EXACT)
            seen += 1
    assert seen == 2 * (11 + 33 + 66)
    for run in golden["match"]["per_model_dir"]:
        lineage, axes = config(run["config"])
        axes = (*axes, *((("pair_judge", JUDGES[run["train_eval"]]),) if run["train_eval"] else ()))
        axes = (*axes, ("split_seed", run["seed"]))
        for objective in ("safety", "helpfulness"):
            row = means[run["source"], JUDGES[run["evaluator"]], lineage, axes, objective]
            assert row["value"] == pytest.approx(run[objective], abs=EXACT)
            assert row["n"] == {"cases": 72, "runs": 1}


def test_every_difference_from_the_base(golden: dict[str, Any], match: dict[str, Any]) -> None:
    found = index(match["deltas"], "lineage", "axes", "objective", "base", "judge", estimator="published")
    numbers = {(base, judge, name): found for base, judge, name, found in groups(golden)}
    for (base, judge, name), own in numbers.items():
        if name != "base":
            for objective in ("safety", "helpfulness"):
                expected = own[objective] - numbers[base, judge, "base"][objective]
                row = found[*config(name), objective, base, judge]
                assert row["value"] == pytest.approx(expected, abs=EXACT)


FITS = {  # start of the golden name → (unit, base, judge)
    "delta_by_model (": ("base × configuration, difference from base", None, None),
    "delta_by_model_eval-gpt5m": ("base × configuration, difference from base", None, "gpt-5-mini"),
    "delta_by_model_eval-q32": ("base × configuration, difference from base", None, "Qwen3-32B"),
    "ours: delta per model Qwen2.5-7B": ("configuration, difference from base", "Qwen2.5-7B", None),
    "ours: delta per model Llama3.1-8B": ("configuration, difference from base", "Llama3.1-8B", None),
    "ours: delta per model Phi-4": ("configuration, difference from base", "Phi-4", None),
    "ours: delta aggregated": ("configuration averaged over bases, difference from base", None, None),
    "ours: absolute scores incl. base": ("base × configuration with bases, absolute", None, None),
    "ours: absolute scores, trained only": ("base × configuration without bases, absolute", None, None),
    "ours: absolute, every model dir": ("run, absolute", None, None),
    "ours: delta, every trained model": ("run, difference from base", None, None),
}


def test_every_regression(golden: dict[str, Any], match: dict[str, Any]) -> None:
    found = index(match["frontier"], "unit", "base", "judge", "kind", estimator="published")
    assert len(golden["match"]["fits"]) == len(FITS) == 11
    for name, fit in golden["match"]["fits"].items():
        (place,) = [place for start, place in FITS.items() if name.startswith(start)]
        for kind, key in (("slope", "slope"), ("intercept", "intercept"), ("r", "r"), ("r2", "R2"), ("p", "p")):
            row = found[*place, kind]
            assert row["value"] == pytest.approx(fit[key], rel=1e-6, abs=EXACT if kind != "p" else 1e-30)
            assert row["n"]["points"] == fit["n"]
    headline = [
        found["base × configuration, difference from base", None, None, kind]["value"] for kind in ("slope", "r2")
    ]
    assert [round(value, 4) for value in headline] == [-0.8567, 0.7655]


def persistence(golden: dict[str, Any]) -> Iterator[tuple[Any, str | None, str | None, dict[str, float]]]:
    """(axes, base, judge, numbers) of every published persistence."""
    for beta in ("0.05", "0.1"):
        found = golden["match"]["persistence"][beta]
        own, axes = found["peer_10000_bootstrap"], (("beta", float(beta)),)
        yield axes, None, None, own["average"]
        for base, numbers in own["by_model"].items():
            yield axes, base, None, numbers
        for judge, numbers in own["by_evaluator"].items():
            yield axes, None, JUDGES[judge], numbers
        for key, numbers in own["by_model_and_evaluator"].items():
            judge, base = key.split("|")
            yield axes, base, JUDGES[judge], numbers


def test_every_persistence_and_its_published_interval(golden: dict[str, Any], match: dict[str, Any]) -> None:
    names = ("axes", "base", "judge", "objective")
    found = index(match["persistence"], *names, kind="persistence", estimator="published")
    places = list(persistence(golden))
    assert len(places) == 24
    for axes, base, judge, numbers in places:
        for objective, letter in (("safety", "s"), ("helpfulness", "h")):
            row = found[axes, base, judge, objective]
            assert row["value"] == pytest.approx(numbers[f"persist_{letter}"], abs=EXACT)
            published = [numbers[f"persist_{letter}_ci_{end}"] for end in ("lower", "upper")]
            width = 0.04 * (published[1] - published[0]) if base and judge else 0.0
            assert row["interval"] == pytest.approx(published, abs=max(0.02, width)), (axes, base, judge, objective)


def test_what_the_audit_counted(golden: dict[str, Any], match: dict[str, Any]) -> None:
    kinds = {
        "invented_result": "fabricated_final",
        "no_call": "zero_real_calls",
        "no_call_and_invented": "zero_calls_and_fabricated",
        "invented_midway": "mid_step_fabricated",
        "truncated": "token_limit",
        "any_invention": "any_fabrication",
        "calls": "real_calls",
    }
    found = index(match["audit"], "base", "lineage", "axes", "kind", unit="all records")
    seen = 0
    for name, numbers in golden["fabrication"]["by_group"].items():
        head, _, rest = name.partition(" ")
        if head != "results":
            continue
        level, _, about = rest.partition(" ")
        base = about.split(" ")[0] if level.startswith("src") else None
        lineage, axes = config(about.split(" ")[-1]) if level.endswith("cfg") else (None, ())
        for kind, key in kinds.items():
            n = found[base, lineage, axes, kind]["n"]
            assert n == {"count": numbers[key], "trajectories": numbers["n"]}, (name, kind)
            seen += 1
    assert seen == 7 * (1 + 11 + 3 + 33)


def test_agreement_of_the_judges_on_the_raw_set(golden: dict[str, Any], raw: dict[str, Any]) -> None:
    found = index(raw["agreement"], "kind", "objective", "judge", "lineage")
    both = "Qwen3-32B × gpt-5-mini"
    same = {"exact": "exact_agreement", "within_1": "within1"}
    for objective, name in (("safety", "data_safe"), ("helpfulness", "data_help")):
        numbers = golden["agreement"][name]
        for kind in ("exact", "within_1", "pearson", "spearman", "quadratic_kappa"):
            row = found[kind, objective, both, None]
            assert row["value"] == pytest.approx(numbers[same.get(kind, kind)], abs=EXACT)
            assert row["n"] == {"trajectories": 3888, "cases": 144}
        bias = numbers["mean_gpt5m"] - numbers["mean_q32"]
        assert found["mean_bias", objective, both, None]["value"] == pytest.approx(bias, abs=EXACT)
    for judge, name in (("gpt-5-mini", "data_safe_vs_help_gpt5m"), ("Qwen3-32B", "data_safe_vs_help_q32")):
        row = found["objective_correlation", None, judge, None]
        assert row["value"] == pytest.approx(golden["agreement"][name]["pearson"], abs=EXACT)


def test_the_match_set_says_where_its_judges_overlap(match: dict[str, Any]) -> None:
    rows = [row for row in match["agreement"] if row["kind"] == "exact" and "lineage" not in row]
    assert all(row["n"] == {"trajectories": 432, "cases": 144} for row in rows)
    assert all(row["caveats"] == ["both judges scored the same trajectories only for: base"] for row in rows)


def test_both_claims_of_best_of_both(match: dict[str, Any]) -> None:
    rows = [row for row in match["frontier"] if row["kind"] == "best_of_both" and row["lineage"] == ["S&H"]]
    pooled = {row["claim"]: row for row in rows if "base" not in row and "judge" not in row}
    assert pooled["checkpoint"]["interval"][0] > 0 > pooled["recipe"]["interval"][0]
