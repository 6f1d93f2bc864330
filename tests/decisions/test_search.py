"""A search: the optimiser asks, trials are done once, the winner is held to fresh cases, and a kill loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.sample_studies import four_lineages
from builders.smoke_study import smoke_settings, write_toml

from holdfast.cli import main as cli
from holdfast.decisions.gate.running import Means
from holdfast.decisions.search.outputs import render_search, search_document
from holdfast.decisions.search.running import Search, alpha_of, default_place, note_winner, search
from holdfast.decisions.search.trials import Found, Point, Trial, _violation, choose, look, trial_lineage, with_trials
from holdfast.records import Check, Outcome
from holdfast.records.errors import MissingExtra, StudyError
from holdfast.runs.run import Run
from holdfast.store import Store
from holdfast.study.rules import SearchSection
from holdfast.study.study import Study
from holdfast.suites.parts import FRESH

pytest.importorskip("optuna")

TABLE = {"lineage": ["S", "Hm"], "parent": ["S"], "share": [0.0, 0.6], "steps": [5, 40], "trials": 12}


def section(**change: Any) -> SearchSection:
    return SearchSection.model_validate(TABLE | change)


def found(share: float, steps: int, outcome: Outcome | None = None) -> Found:
    """More of the share keeps more safety; more steps help: best where the share just passes."""
    safety, value = 0.2 - 1.5 * max(0.0, 0.3 - share), 1.0 + steps / 40 - share
    passed = Outcome.PASS if safety > -0.1 else Outcome.FAIL
    return Found(outcome=outcome or passed, value=value, violations={"safety": -0.1 - safety})


def record(known: list[Point]) -> Callable[[Point], Found]:
    def evaluate(point: Point) -> Found:
        known.append(point)
        return found(point.share, point.steps)

    return evaluate


# --- the optimiser


def test_a_search_keeps_its_budget_and_tries_no_point_twice() -> None:
    known: list[Point] = []
    trials = list(look(section(trials=15), record(known)))
    assert [one.number for one in trials] == list(range(15)) and len(set(known)) == 15
    assert all(0 <= one.share <= 0.6 and 5 <= one.steps <= 40 for one in known)
    assert all(round(one.share * 100) == pytest.approx(one.share * 100) for one in known)


def test_the_same_seed_asks_for_the_same_points_and_a_larger_budget_for_more_of_them() -> None:
    runs: list[list[Point]] = [[], [], [], []]
    for known, change in zip(runs, ({}, {}, {"trials": 16}, {"seed": 1}), strict=True):
        list(look(section(**change), record(known)))
    assert runs[0] == runs[1] == runs[2][:12] != runs[3]


def test_a_small_space_is_searched_through_and_no_further() -> None:
    known: list[Point] = []
    list(look(section(share=(0.0, 0.02), steps=(5, 7), trials=9), record(known)))
    assert len(set(known)) == 9


def test_the_optimiser_does_better_than_its_random_start() -> None:
    """Over seeds: the best that passes among fifteen is mostly one of the modelled trials, and never one that fails."""
    later = 0
    for seed in range(4):
        trials = list(look(section(seed=seed, trials=15), record([])))
        best = choose(trials)
        assert best is not None and best.found.outcome is Outcome.PASS
        assert best.found.value == max(one.found.value or 0 for one in trials if one.found.outcome is Outcome.PASS)
        later += best.number >= 5
    assert later >= 3


def test_what_does_not_pass_is_never_chosen() -> None:
    def trial(number: int, value: float | None, outcome: Outcome, steps: int = 10) -> Trial:
        return Trial(number=number, point=Point(share=0.1, steps=steps), found=Found(outcome=outcome, value=value))

    assert choose([trial(0, 3.0, Outcome.FAIL), trial(1, 2.9, Outcome.INCONCLUSIVE)]) is None
    alike = [trial(0, 2.0, Outcome.PASS, 30), trial(1, 2.0, Outcome.PASS, 20), trial(2, None, Outcome.PASS)]
    assert choose(alike) is alike[1], "the shorter one of two alike"


def test_a_trial_without_a_score_does_not_stop_a_search() -> None:
    known: list[Point] = []

    def evaluate(point: Point) -> Found:
        known.append(point)
        lost = Found(outcome=Outcome.INCONCLUSIVE, value=None)
        return found(point.share, point.steps) if len(known) % 2 else lost

    assert len(list(look(section(), evaluate))) == len(known) == 12


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install '.\[search\]' in a checkout"):
        next(look(section(), record([])))


def check(**change: Any) -> Check:
    told: dict[str, Any] = {"metric": "safety", "outcome": Outcome.FAIL, "blocking": True, "unit": "points"}
    told |= {
        "worse": "lower",
        "margin": 0.25,
        "parent": 2.0,
        "child": 1.5,
        "change": -0.5,
        "lower": -0.7,
        "upper": -0.3,
    }
    return Check(**(told | change))


def test_a_violation_is_what_lacks_to_the_margin() -> None:
    assert _violation(check()) == pytest.approx(0.45)
    assert _violation(check(lower=-0.1, outcome=Outcome.PASS)) == pytest.approx(-0.15)
    assert _violation(check(worse="higher", upper=0.4, unit="share")) == pytest.approx(0.15)
    # Where Holm or a coverage bar decides, the bound alone may lie on the other side.
    assert _violation(check(lower=-0.1)) > 0 >= _violation(check(outcome=Outcome.PASS))
    assert _violation(check(lower=None)) == 1.0


# --- studies


def searched(**change: Any) -> dict[str, Any]:
    study = four_lineages()
    study["stages"]["Hm"] = {"objective": "helpfulness", "mix": {"share": 0.3}}
    return study | {"search": TABLE | change}


def test_a_search_of_a_study_without_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_toml(four_lineages(), tmp_path / "study.toml")
    assert cli.main(["run", str(path), "--search", "-o", str(tmp_path / "run")]) == 2
    assert "has no [search] table" in capsys.readouterr().err and not list(tmp_path.glob("run*"))


def test_trials_are_lineages_of_a_study_that_differ_in_share_and_steps_alone() -> None:
    study = Study.model_validate(searched())
    points = [Point(share=0.0, steps=7), Point(share=0.25, steps=9)]
    grown = Study.model_validate(with_trials(study, points).settings())
    assert grown.study.lineages == (("S",), ("S", "Hm@0.00x7"), ("S", "Hm@0.25x9"))
    plain, mixed = (grown.stages[trial_lineage(study, one)[-1]] for one in points)
    assert plain.mix is None and mixed.mix is not None and (mixed.mix.objective, mixed.mix.share) == ("safety", 0.25)
    assert (plain.steps, mixed.steps) == (7, 9)
    known = study.stages["Hm"].model_copy(update={"steps": 9, "mix": mixed.mix})
    assert mixed == known


# --- from beginning to end


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """A small study and a search of three trials under a gate that most can pass."""
    study = smoke_settings()
    study["study"]["lineages"] = [["S"]]
    study["doses"] = {}
    study["stages"]["Hm"] = {**study["stages"]["H"]}
    study["gate"] = {"margin": 3.0, "severe_margin": 1.0, "helpfulness_margin": 3.0, "refusal_margin": 1.0}
    study["gate"] |= {"validity_margin": 1.0, "min_coverage": 0.5}
    study["search"] = {"lineage": ["S", "Hm"], "parent": ["S"], "share": [0.0, 0.5], "steps": [2, 4], "trials": 3}
    return study


@pytest.fixture(scope="module")
def done(base_cache: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Search:
    path = tmp_path_factory.mktemp("search") / "run"
    return search(Study.model_validate(settings), path, Means(workers=1))


def test_a_search_ends_in_a_winner_on_fresh_cases(done: Search) -> None:
    assert len(done.trials) == 3 and done.winner is not None and done.fresh is not None and done.fresh_cases
    document = search_document(done)
    assert json.loads(json.dumps(document, allow_nan=False))["budget"] == 3
    assert document["winner"]["trial"] == done.winner.number and "winner's curse" in document["winner"]["note"]
    gap = document["winner"]["chosen_by"] - document["winner"]["fresh"]["value"]
    assert document["winner"]["optimism"] == gap and done.outcome is done.fresh.outcome
    assert (document["winner"]["conclusion"], document["winner"]["alpha"]) == (1, done.study.gate.alpha)
    text = render_search(done)
    assert "on fresh cases" in text and len(text.splitlines()) >= 3 + 3 and "winner's curse" in text
    with Store(done.path) as store:
        fresh = store.score_table(part=FRESH)
        lineages = {fresh.checkpoints[number].lineage for number in set(fresh.checkpoint.tolist())}
        assert lineages == {("S",), trial_lineage(done.study, done.winner.point)}
        trained = [one for one in store.log.steps().values() if one.kind == "train"]
        # The base, S and three trials: nothing that trials share was done again.
        assert len(trained) == 5
    # The run of a search is a run like any other.
    assert Run(done.path).analysis().scores


def test_a_finished_search_is_repeated_without_work(done: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was done again")

    monkeypatch.setattr("holdfast.runs.engines.opening.InProcess", refuse)
    again = search(done.study, done.path, Means(workers=1))
    assert search_document(again) == search_document(done)


def test_a_larger_budget_goes_on_and_another_question_does_not(done: Search, settings: dict[str, Any]) -> None:
    other = Study.model_validate(settings | {"search": settings["search"] | {"share": [0.0, 0.4]}})
    with pytest.raises(StudyError, match=r"is the search of a different study: search.share"):
        search(other, done.path, Means(workers=1))


def test_a_studys_own_run_is_no_place_for_a_search(smoke_run: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="a search has one of its own"):
        search(Study.model_validate(settings), smoke_run, Means(workers=1))


@pytest.mark.full
def test_a_killed_search_goes_on_to_the_same_end(done: Search, settings: dict[str, Any], tmp_path: Path) -> None:
    """Killed again and again at moments of its work; every step is done once, and the documents are equal."""
    path = write_toml(settings, tmp_path / "study.toml")
    command = [sys.executable, "-m", "holdfast", "run", str(path), "--search", "--workers", "1", "--quiet"]
    command += ["-o", str(tmp_path / "run"), "--json"]
    finished: dict[str, float] = {}
    for patience in (6.0, 9.0, 12.0, 600.0):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + patience
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        output, _ = child.communicate()
        place = default_place(tmp_path / "run")
        if (place / "run.db").is_file():
            with Store(place) as store:
                now = {n: s.finished for n, s in store.log.steps().items() if s.status == "done" and s.finished}
            analyses = {name for name in finished if name not in now}
            assert not analyses and all(now[name] == when for name, when in finished.items())
            finished = now
    assert child.returncode == 0
    document, known = json.loads(output), search_document(done)
    for key in ("trials", "winner", "outcome"):
        assert document[key] == known[key]


def test_every_further_winner_on_the_same_fresh_cases_is_held_to_half_the_level(tmp_path: Path) -> None:
    with Store.create(tmp_path / "run") as store:
        first, second = ("S", "Hm@0.10x5"), ("S", "Hm@0.20x9")
        assert [note_winner(store, one) for one in (first, first, second, first)] == [1, 1, 2, 1]
    with Store(tmp_path / "run", writable=True) as store:
        assert note_winner(store, second) == 2 and note_winner(store, ("S", "Hm@0.30x9")) == 3
    assert [alpha_of(0.05, one) for one in (0, 1, 2, 3)] == [0.05, 0.05, 0.025, 0.0125]
    # However many there are, the chance of a wrong PASS among them is below twice the level.
    assert sum(alpha_of(0.05, one) for one in range(1, 50)) <= 0.1
