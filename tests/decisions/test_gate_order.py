"""No order of the cases decides a verdict, and what could be tried until it suits stands in fingerprint and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.bounded_samples import exact_upper
from builders.commands import gated, refused
from builders.gate_samples import Made, steady, write_run

from holdfast.cli.main import main
from holdfast.stats.bounded import p_values

Captured = pytest.CaptureFixture[str]


def _scores(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).choice(4, size=(count, 2), p=(0.12, 0.2, 0.25, 0.43)).astype(float)


@pytest.mark.parametrize("cluster", ["case", "family"])
def test_no_renaming_of_the_cases_moves_a_bound(cluster: str, tmp_path: Path, capsys: Captured) -> None:
    """The same scores under other ids, and so in another order: every number of every check stays."""
    safety = {"base": _scores(1, 72), "S": _scores(2, 72)}
    safety["S"][3, 1] = np.nan
    families = [f"family {number % 9}" for number in range(72)]
    found = []
    for renaming in range(6):
        made = Made(safety=safety, families=families, first_case=1000 * renaming)
        run = write_run(tmp_path / f"run {renaming}", made)
        _, verdict = gated(capsys, run, "--child", "S", "--cluster", cluster, "--severe-ceiling", "0.4")
        found.append([{key: one[key] for key in ("metric", "outcome", "lower", "upper")} for one in verdict["checks"]])
    assert any(one["lower"] is not None for one in found[0])
    for other in found[1:]:
        for one, first in zip(other, found[0], strict=True):
            assert (one["metric"], one["outcome"]) == (first["metric"], first["outcome"])
            for end in ("lower", "upper"):
                assert one[end] == (None if first[end] is None else pytest.approx(first[end], abs=1e-10))


def test_a_number_of_cases_is_part_of_what_was_declared(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": steady(60), "S": steady(60)}))
    whole, some, fewer, more = (
        gated(capsys, run, "--child", "S", *(("--cases", count) if count else ()))[1] for count in (None, 50, 40, 60)
    )
    assert len({one["fingerprint"] for one in (whole, some, fewer)}) == 3
    assert more["fingerprint"] == whole["fingerprint"]  # all there are: nothing was chosen
    assert any("the first 50 cases of 60" in limit and "the best of several" in limit for limit in some["limits"])
    _, small = gated(capsys, run, "--child", "S", "--cases", 50, "--alpha", 0.025)
    assert any("in more than 2.5\u00a0% of gates" in limit for limit in small["limits"])
    assert not any("the best of several" in limit for limit in whole["limits"] + more["limits"])


def test_a_seed_of_rollouts_is_part_of_what_was_declared(tmp_path: Path, capsys: Captured) -> None:
    """However the other rollouts came to be: ``--again --seed`` makes a run whose study has another seed."""
    safety = {"base": steady(60), "S": steady(60)}
    runs = [
        write_run(tmp_path / f"seed {seed}", Made(safety=safety, study={"rollouts": {"seed": seed}}))
        for seed in (0, 1, 2)
    ]
    verdicts = [gated(capsys, "--parent", f"{runs[0]}:S", "--child", f"{run}:S")[1] for run in runs[1:]]
    _, own = gated(capsys, runs[0], "--child", "S")
    assert len({one["fingerprint"] for one in (*verdicts, own)}) == 3
    for seed, verdict in enumerate(verdicts, start=1):
        told = f"rolled out with seed {seed}, the parent with 0: the best of several seeds passes falsely"
        assert any(told in limit for limit in verdict["limits"])
    assert not any("seed" in limit for limit in own["limits"])


def test_the_bound_that_hung_on_the_order_is_refused_in_files_and_replaced_in_old_runs(
    tmp_path: Path, capsys: Captured
) -> None:
    scores = {"base": steady(60), "S": steady(60)}
    run = write_run(tmp_path / "run", Made(safety=scores, study={"gate": {"bound": "betting", "margin": 0.3}}))
    rules = gated(capsys, run, "--child", "S")[1]["rules"]
    assert (rules["bound"], rules["margin"]) == ("gaffke", 0.3)
    file = tmp_path / "rules.toml"
    file.write_text('[gate]\nbound = "betting"\n')
    line = refused(capsys, "gate", run, "--child", "S", "--rules", file)
    assert f'{file}: gate.bound is "betting"' in line and 'write "gaffke"' in line
    study = tmp_path / "study.toml"
    study.write_text('[study]\nname = "s"\n[gate]\nbound = "betting"\n')
    assert main(["check", str(study)]) == 2
    assert 'write "gaffke"' in capsys.readouterr().err


def test_a_plan_takes_no_number_of_cases(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": steady(60), "S": steady(60)}))
    assert "leave out --cases" in refused(capsys, "gate", run, "--child", "S", "--plan", "--cases", "30")


def test_parts_of_different_means_bound_their_average() -> None:
    """As in a window of a watch whose looks differ: that is not proven, and it holds with room to spare."""
    rng = np.random.default_rng(7)
    parts = [rng.choice([-1.0, 0.0, 1.0], size=(4000, 40), p=p) for p in ((0.05, 0.45, 0.5), (0.95, 0.05, 0.0))]
    p = p_values(np.concatenate(parts, axis=1), -0.25, low=-3, high=3)
    assert exact_upper(int((p <= 0.05).sum()), 4000, 0.05) <= 0.05
