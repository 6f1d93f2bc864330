"""Inspect logs from the field: each fault that was found in one, and others of its kind."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import inspect_samples as made
from builders.commands import refused
from builders.inspect_samples import (
    SAFE,
    asked,
    bring,
    carried_out,
    failure,
    gives,
    log,
    sample,
    says,
    system,
    user,
    values,
)
from builders.places import case_input
from inspect_ai.log import EvalConfig, EvalDataset, read_eval_log, write_eval_log
from inspect_ai.model import ChatMessageTool, ContentData, ContentImage, ContentText, ContentToolUse
from inspect_ai.scorer import Score as InspectScore

import holdfast as hf
from holdfast.cli.main import main
from holdfast.exchange.inspect.files import find_logs, is_inspect
from holdfast.exchange.scales import parse_score
from holdfast.exchange.traces.importing import import_traces
from holdfast.records import Ending, Flag, Score, Trajectory
from holdfast.store import Store, origins
from holdfast.store.origins import LogState

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def episodes(run: Path) -> list[Trajectory]:
    with Store(run) as store:
        return list(store.trajectories())


def scores(run: Path) -> list[Score]:
    with Store(run) as store:
        return [score for one in store.trajectories() for score in store.scores(one.id)]


def states(run: Path) -> dict[str, LogState]:
    with Store(run) as store:
        return {Path(one.file).name: one for one in origins.read_log_states(store)}


def calls_of(one: Trajectory) -> list[str]:
    return [call.name for message in one.messages for call in message.tool_calls]


def told(notes: tuple[str, ...], *words: str) -> bool:
    return any(all(word in note for word in words) for note in notes)


# --- what a score means --------------------------------------------------------------------------------------------


def test_i_03_a_judge_of_one_to_ten_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    logs = case_input("I-03") / "logs"
    plain = bring(logs, tmp_path / "plain")
    assert (plain.trajectories, plain.scores) == (20, 0)
    assert told(plain.notes, "'safety' of judge: 20 values from 2 to 10", "'safety=-judge:safety[LOW,HIGH]'")
    with Store(tmp_path / "plain") as store:
        (one,) = origins.read_undeclared(store)
        assert (one.task, one.scorer, one.key, one.count) == ("audit", "judge", "safety", 20)
        assert origins.read_declarations(store) == ()
    bring(logs, tmp_path / "run", "safety=+judge:safety[1,10]")
    found = values(tmp_path / "run")
    means = {
        name: sum(value for (who, _, _), value in found.items() if name in who) / 10 for name in ("vllm/base", "tuned")
    }
    assert means == {"vllm/base": pytest.approx((8.1 - 1) / 3), "tuned": pytest.approx((3.8 - 1) / 3)}
    with Store(tmp_path / "run") as store:
        (declared,) = origins.read_declarations(store) or ()
    assert (declared.sign, declared.low, declared.high, declared.scorer) == (1, 1.0, 10.0, "judge")
    with pytest.raises(hf.StudyError, match=r"'safety' of judge: \d+ of 10 values lie off its scale .*\[0,3\]"):
        bring(logs, tmp_path / "wrong", "safety=+safety[0,3]")
    assert not (tmp_path / "wrong").exists()


def test_scores_are_added_to_the_episodes_that_are_there(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"judge": 20 * n}) for n in range(5)])
    assert bring(path, tmp_path / "run").new_trajectories == 5
    again = bring(path, tmp_path / "run", "safety=-judge[0,100]@60")
    assert (again.new_trajectories, again.new_scores) == (0, 5)
    assert sorted(values(tmp_path / "run").values()) == pytest.approx([0.6, 1.2, 1.8, 2.4, 3.0])
    with Store(tmp_path / "run") as store:
        assert origins.read_undeclared(store) == ()
    assert bring(path, tmp_path / "run").new_scores == 0, "what was declared once holds on"
    with pytest.raises(hf.StudyError, match="declared before"):
        bring(path, tmp_path / "run", "safety=+judge[0,100]")


def test_i_04_all_notations_of_a_grade_are_one_score(tmp_path: Path) -> None:
    inputs = case_input("I-04")
    found = {}
    for name in ("letters", "ones", "shares-parent", "shares-child"):
        bring(inputs / f"{name}.eval", tmp_path / name, SAFE)
        found[name] = scores(tmp_path / name)
    assert {one.value for one in (*found["letters"], *found["ones"])} == {3.0}
    assert len({one.rubric for every in found.values() for one in every}) == 1
    means = {name: sum(one.value or 0.0 for one in every) / len(every) for name, every in found.items()}
    assert means["shares-parent"] - means["shares-child"] == pytest.approx(0.2887, abs=1e-3)


@pytest.mark.parametrize("kinds", [(1, 1.0, True, "1", "C", "yes"), (0, 0.0, False, "0", "I", "no"), (0.5, "0.5", "P")])
def test_the_same_grade_in_any_notation_has_one_value(kinds: tuple[Any, ...], tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"safety": value}) for n, value in enumerate(kinds)])
    bring(path, tmp_path / "run", "safety=-safety")
    assert len(set(values(tmp_path / "run").values())) == 1


def test_a1_what_is_off_the_scale_is_missing_and_too_much_of_it_refuses_the_scorer(tmp_path: Path) -> None:
    def written(bad: Any, count: int) -> Path:
        given = [{"safety": bad if n < count else 3, "helpfulness": 2} for n in range(100)]
        return log(tmp_path / "a.eval", [sample(n, None, {"both": one}) for n, one in enumerate(given)])

    options = ("safety=+safety[0,3]", "helpfulness=+helpfulness[0,3]")
    for bad in ("cannot rate", -1, "[1]", 7.5, float("inf")):
        with pytest.raises(hf.StudyError, match=r"'safety' of both: 12 of 100 values lie off its scale"):
            bring(written(bad, 12), tmp_path / "run", *options)
        summary = bring(written(bad, 2), tmp_path / "run", *options)
        assert (summary.scores, summary.missing) == (200, 2)
        missing = [one for one in scores(tmp_path / "run") if one.value is None]
        assert {one.objective for one in missing} == {"safety"} and all("off_scale" in str(m.missing) for m in missing)
        assert told(summary.notes, "2 of 100 values lie off its scale and are missing")
        shutil.rmtree(tmp_path / "run")
    for bad in (None, float("nan"), "N"):
        summary = bring(written(bad, 40), tmp_path / "run", *options)
        assert (summary.scores, summary.missing) == (200, 40), "unscored is missing, and no fault of the scorer"
        shutil.rmtree(tmp_path / "run")


def test_a_sample_without_a_value_that_others_have_is_a_missing_score(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"both": {"safety": 1, "other": 2}},
        {"both": {"other": 2}},
        {},
        {"both": InspectScore.unscored(reason="grader_failed")},
    ]
    rows = [sample(n, None, one) for n, one in enumerate(given)]
    failed = failure("no sandbox")
    bring(log(tmp_path / "a.eval", [*rows, sample(4, [user("x")], error=failed)]), tmp_path / "run", SAFE)
    assert sorted(values(tmp_path / "run").items()) == [
        (("vllm/base (desk) · base", "0", 0), 3.0),
        (("vllm/base (desk) · base", "1", 0), "absent: the sample holds no such value"),
        (("vllm/base (desk) · base", "2", 0), "absent: the sample holds no such value"),
        (("vllm/base (desk) · base", "3", 0), "absent: the sample holds no such value"),
        (("vllm/base (desk) · base", "4", 0), "absent: the episode failed before it was scored"),
    ]


def test_a_known_score_needs_no_declaration_and_allows_no_other(tmp_path: Path) -> None:
    given = [{"combined_scorer": {"score": value, "refusal": 0.0}} for value in (0.0, 0.5, 1.0)]
    path = log(
        tmp_path / "a.eval", [sample(n, None, one) for n, one in enumerate(given)], task="inspect_evals/agentharm"
    )
    summary = bring(path, tmp_path / "run")
    found = [(one.value, one.label) for one in scores(tmp_path / "run") if one.objective == "safety"]
    assert sorted(found) == [(0.0, "1.0"), (1.5, "0.5"), (3.0, "0.0")]
    assert told(summary.notes, "safety is 'score' of combined_scorer: from 0 to 1, high is bad (inspect_evals")
    with pytest.raises(hf.StudyError, match="'score' of combined_scorer is known to be safety=-score"):
        bring(path, tmp_path / "other", "safety=+score[0,1]")
    bring(path, tmp_path / "same", "harm=score")
    assert {one.objective for one in scores(tmp_path / "same")} >= {"harm"}


def test_options_that_mean_nothing_or_two_things_are_refused(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"x": {"a": n, "b": n}}) for n in range(3)])
    for words, finding in {
        ("safety=+c[0,2]",): r"safety=c: no such value in these logs; there are \(scorer:key\) x:a, x:b",
        ("safety=a",): r"safety=a: 'a' of x: 3 values from 0 to 2 cannot be taken.*'safety=-x:a\[LOW,HIGH\]'",
        ("safety=+a[0,2]", "safety=+b[0,2]"): r"both 'a' and 'b' are 'safety'",
        ("safety=+a[0,2]", "other=-a[0,2]"): r"'a' of x is declared twice",
    }.items():
        with pytest.raises(hf.StudyError, match=finding):
            bring(path, tmp_path / "run", *words)
        assert not (tmp_path / "run").exists()


def test_i_20_what_is_not_taken_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = case_input("I-20") / "log.eval"
    assert main(["import", str(source), "-o", str(tmp_path / "run"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "3 trajectories, 0 scores" in shown
    for line in (
        "note: five: 3 values of 4 were not taken: which end is good and the range are not declared",
        "note: list: 3 values were not taken: no numbers (3 lists: [1, 0])",
        "note: word: 3 values were not taken: no numbers (3 words: refused)",
        "note: minus: 3 values of -1 were not taken",
    ):
        assert line in shown
    (first, *_) = episodes(tmp_path / "run")
    assert (first.detail or {})["scores"] == {"five": "4", "list": [1, 0], "word": "refused", "minus": -1}


def test_i_22_several_judges_of_one_objective_are_told(tmp_path: Path) -> None:
    summary = bring(case_input("I-22") / "log.eval", tmp_path / "run", SAFE)
    assert told(summary.notes, "safety of desk is given by 2 scorers", "strict, lenient")
    found = Counter((one.judge, one.value) for one in scores(tmp_path / "run"))
    assert found == {("inspect:strict", 0.0): 6, ("inspect:lenient", 3.0): 6}
    one = bring(case_input("I-22") / "log.eval", tmp_path / "one", "safety=+strict:safety[0,1]")
    assert one.scores == 6 and told(one.notes, "'safety' of lenient: 6 values", "not taken")


def test_p_03_letters_are_grades_and_no_answer_is_missing(tmp_path: Path) -> None:
    given = ["C", "I", "P", "N", float("nan"), True, False]
    path = log(tmp_path / "a.eval", [sample(n, None, {"safety": value}) for n, value in enumerate(given)])
    bring(path, tmp_path / "run", SAFE)
    assert list(values(tmp_path / "run").values()) == [3.0, 0.0, 1.5, "no_answer", "unscored", 3.0, 0.0]


def test_p_04_epochs_are_rollouts(tmp_path: Path) -> None:
    rows = [sample(n, None, {"safety": int(epoch != 2)}, epoch=epoch) for n in range(3) for epoch in (1, 2, 3)]
    bring(log(tmp_path / "a.eval", rows), tmp_path / "run", SAFE)
    found = values(tmp_path / "run")
    assert Counter(rollout for _, _, rollout in found) == {0: 3, 1: 3, 2: 3}
    assert {value for (_, _, rollout), value in found.items() if rollout == 1} == {0.0}


# --- who acted -----------------------------------------------------------------------------------------------------


def test_i_05_checkpoints_behind_one_name_stay_apart(tmp_path: Path) -> None:
    bring(case_input("I-05") / "logs", tmp_path / "run", SAFE)
    found = values(tmp_path / "run")
    by_name: dict[str, set[float]] = {}
    for (name, _, _), value in found.items():
        by_name.setdefault(name, set()).add(value)
    assert by_name == {
        "hf/local (desk) · base · model_path=/out/checkpoint-100": {3.0},
        "hf/local (desk) · base · model_path=/out/checkpoint-200": {0.0},
    }
    means = [one for one in hf.Run(tmp_path / "run").analysis(draws=100).scores if one.kind == "mean" and one.base]
    assert {(one.axes["model_path"], one.value) for one in means} == {
        ("/out/checkpoint-100", 3.0),
        ("/out/checkpoint-200", 0.0),
    }


@pytest.mark.parametrize(
    ("one", "two", "axis"),
    [
        ({"model_base_url": "http://a:8000/v1"}, {"model_base_url": "http://b:8000/v1"}, "base_url"),
        ({"model_args": {"revision": "a"}}, {"model_args": {}}, "revision"),
        ({"task_args": {"mode": "x"}}, {"task_args": {"mode": "y"}}, "task mode"),
        ({"solver": "react"}, {"solver": "plain"}, "solver"),
        ({"solver": "react", "solver_args": {"n": 1}}, {"solver": "react", "solver_args": {"n": 2}}, "solver n"),
        ({"generation": {"temperature": 0.0}}, {"generation": {"temperature": 1.0}}, "temperature"),
        ({"model_roles": {"target": made.role("a")}}, {"model_roles": {"target": made.role("b")}}, "role target"),
    ],
)
def test_what_decides_replies_tells_checkpoints_apart(one: Any, two: Any, axis: str, tmp_path: Path) -> None:
    for name, spec in (("a", one), ("b", two)):
        log(tmp_path / "logs" / f"{name}.eval", [sample(1, uuid=name)], **spec)
    summary = bring(tmp_path / "logs", tmp_path / "run")
    assert summary.checkpoints == 2 and not told(summary.notes, "read as one checkpoint")
    with Store(tmp_path / "run") as store:
        found = store.checkpoints()
    assert [list(item.axes) for item in found] == [[axis], [axis]] and len({item.name for item in found}) == 2
    # A third, imported later, differs in its name from those that are there.
    log(tmp_path / "c.eval", [sample(1, uuid="c")], model_args={"revision": "later"})
    bring(tmp_path / "c.eval", tmp_path / "run")
    with Store(tmp_path / "run") as store:
        assert len({item.name for item in store.checkpoints()}) == 3


def test_how_requests_are_sent_makes_no_other_checkpoint_and_secrets_stay_out(tmp_path: Path) -> None:
    secret = "sk-very-secret"
    for name, key in (("a", secret), ("b", secret + "2")):
        log(
            tmp_path / "logs" / f"{name}.eval",
            [sample(1, uuid=name)],
            model_args={"api_key": key, "nested": {"hf_token": key}, "proxy": f"https://u:{key}@h/p?sig={key}"},
            model_base_url=f"https://me:{key}@host/v1?api-key={key}",
            generation={"max_connections": 4 if name == "a" else 8, "timeout": 3, "seed": len(key)},
        )
    log(tmp_path / "logs" / "c.eval", [sample(1, uuid="c")], model_args={"api_key": secret, "tokenizer": "x"})
    summary = bring(tmp_path / "logs", tmp_path / "run")
    assert summary.checkpoints == 2
    assert told(summary.notes, "2 logs were read as one checkpoint", "a.eval, b.eval")
    with Store(tmp_path / "run") as store:
        assert secret not in repr([store.checkpoints(), origins.read_actors(store)])
        assert len({one.name for one in store.checkpoints()}) == 2


# --- which episodes count ------------------------------------------------------------------------------------------


def test_i_13_a_retry_counts_each_episode_once(tmp_path: Path) -> None:
    summary = bring(case_input("I-13") / "logs", tmp_path / "run", SAFE)
    assert (summary.trajectories, summary.scores) == (8, 8)
    found = values(tmp_path / "run")
    assert sum(found.values()) / 8 == 1.5 and told(summary.notes, "2-retry.eval is a later state of 1-broke-off.eval")
    found_states = states(tmp_path / "run")
    assert found_states["1-broke-off.eval"].superseded and found_states["1-broke-off.eval"].complete
    assert not found_states["2-retry.eval"].superseded and found_states["2-retry.eval"].complete


def test_what_a_retry_redid_does_not_count(tmp_path: Path) -> None:
    error = failure("gone")
    first = [sample(1, uuid="done"), sample(2, uuid="failed", error=error), sample(3, uuid="kept")]
    second = [sample(1, uuid="done"), sample(2, uuid="redone")]
    # The earlier attempt has the later name, and one of its episodes was not carried over.
    log(tmp_path / "logs" / "z.eval", first, status="error", task_id="t")
    log(tmp_path / "logs" / "a.eval", second, task_id="t", created="2026-01-02T00:00:00+00:00")
    summary = bring(tmp_path / "logs", tmp_path / "run")
    assert {(one.detail or {})["sample"] for one in episodes(tmp_path / "run")} == {"done", "redone", "kept"}
    assert all(one.ending is Ending.FINISHED for one in episodes(tmp_path / "run"))
    assert told(summary.notes, "a.eval is a later state of z.eval", "1 episodes", "1 attempts that it replaced")


def test_logs_among_traces_are_read_together_and_what_they_lack_is_told(tmp_path: Path) -> None:
    first = [sample(1, None, {"safety": 1}, uuid="done"), sample(2, uuid="failed", error=failure("gone"))]
    second = [sample(1, None, {"safety": 1}, uuid="done"), sample(2, None, {"safety": 1}, uuid="redone")]
    log(tmp_path / "logs" / "a.eval", first, status="error", task_id="t")
    log(tmp_path / "logs" / "b.eval", second, task_id="t", created="2026-01-02T00:00:00+00:00")
    # Another task without the value that --score names, broken off after one of three epochs.
    log(tmp_path / "logs" / "c.eval", [sample(1, uuid="else")], task="other", status="cancelled", epochs=3)
    with Store.create(tmp_path / "run") as store:
        found = import_traces(store, [tmp_path / "logs"], "week", scores=[parse_score(SAFE)])
    assert len(found.trajectories) == 3
    assert told(found.notes, "b.eval is a later state of a.eval")
    assert told(found.notes, "c.eval is not whole: its status is 'cancelled'; 2 rollouts")
    assert found.absent == 2


def test_what_logs_among_traces_lack_enters_the_coverage_of_a_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline's log is whole; of the look's four epochs one never ended, in every sample of a fifth of them."""
    whole = [sample(n, None, {"safety": 1}, uuid=f"p{n}-{e}", epoch=e) for n in range(20) for e in range(1, 5)]
    kept = [sample(n, None, {"safety": 1}, uuid=f"c{n}-{e}", epoch=e) for n in range(20) for e in range(1, 5)]
    broken = [one for one in kept if one.epoch < 4 or int(str(one.id)) >= 8]
    log(tmp_path / "parent.eval", whole, epochs=4)
    for name, rows, coverage in (("good", kept, 1.0), ("bad", broken, 72 / 80)):
        place = log(tmp_path / f"{name}.eval", rows, epochs=4, status="success" if rows is kept else "started")
        base = tmp_path / f"{name}-base"
        bring(tmp_path / "parent.eval", base, SAFE)
        with Store(base) as store:
            (judge,) = store.score_table().judges
        words = ["watch", str(base), "--baseline", "base", "--judge", judge, "--traces", str(place), "--score", SAFE]
        code = main([*words, "-o", str(tmp_path / f"{name}-out"), "--json", "--quiet"])
        (look,) = json.loads(capsys.readouterr().out)["looks"]
        assert look["coverage"] == pytest.approx(coverage) and code == (0 if name == "good" else 3), look


def test_two_runs_of_one_evaluation_are_more_rollouts_and_copies_are_none(tmp_path: Path) -> None:
    log(tmp_path / "logs" / "a.eval", [sample(1, None, {"safety": 1}, uuid="x")])
    log(tmp_path / "logs" / "b.eval", [sample(1, None, {"safety": 0}, uuid="y")])
    shutil.copy(tmp_path / "logs" / "a.eval", tmp_path / "logs" / "copy.eval")
    write_eval_log(read_eval_log(str(tmp_path / "logs" / "b.eval")), str(tmp_path / "logs" / "deep.json"))
    summary = bring(tmp_path / "logs", tmp_path / "run", SAFE)
    assert (summary.files, summary.trajectories, summary.cases) == (4, 2, 1)
    assert told(summary.notes, "2 logs were read as one checkpoint")
    assert sorted(one.value or 0.0 for one in scores(tmp_path / "run")) == [0.0, 3.0]


def test_scores_that_were_added_to_a_copy_are_the_episodes(tmp_path: Path) -> None:
    log(tmp_path / "logs" / "x.eval", [sample(1, None, {"first": 1}, uuid="u")], eval_id="e")
    log(tmp_path / "logs" / "x-scored.eval", [sample(1, None, {"second": 0}, uuid="u")], eval_id="e")
    summary = bring(tmp_path / "logs", tmp_path / "run", "a=+first[0,1]", "b=+second[0,1]")
    assert summary.trajectories == 1
    assert {(one.objective, one.value) for one in scores(tmp_path / "run")} == {("a", 3.0), ("b", 0.0)}


def test_old_logs_without_uuids_are_retried_and_repeated(tmp_path: Path) -> None:
    rows = [sample(n, uuid=None) for n in (1, 2)]
    log(tmp_path / "logs" / "a.eval", rows[:1], status="error", task_id="t")
    log(tmp_path / "logs" / "b.eval", rows, task_id="t", created="2026-01-02T00:00:00+00:00")
    assert bring(tmp_path / "logs", tmp_path / "run").trajectories == 2
    assert bring(tmp_path / "logs", tmp_path / "run").new_trajectories == 0


def test_an_attempt_that_the_run_holds_is_not_replaced_in_silence(tmp_path: Path) -> None:
    first = [sample(1, uuid="done"), sample(2, uuid="failed", error=failure("gone"))]
    bring(log(tmp_path / "1.eval", first, status="error", task_id="t"), tmp_path / "run")
    again = [sample(1, uuid="done"), sample(2, uuid="redone")]
    later = log(tmp_path / "2.eval", again, task_id="t", created="2026-01-02T00:00:00+00:00")
    with pytest.raises(hf.StudyError, match="sample 2, epoch 1: the run holds an attempt that this one replaced"):
        bring(later, tmp_path / "run")
    assert len(episodes(tmp_path / "run")) == 2


def test_equal_uuids_of_other_samples_are_other_episodes(tmp_path: Path) -> None:
    path = log(tmp_path / "a.json", [sample(n, uuid="same") for n in (1, 2, 2)])
    summary = bring(path, tmp_path / "run")
    assert summary.trajectories == 2 and told(summary.notes, "1 samples stand twice in one log")


def test_another_grader_is_another_rubric(tmp_path: Path) -> None:
    rubrics = set()
    for name, roles in (("a", {"grader": made.role("x")}), ("b", {"grader": made.role("y")}), ("c", None)):
        path = log(tmp_path / f"{name}.eval", [sample(1, None, {"safety": 1})], model_roles=roles)
        bring(path, tmp_path / name, SAFE)
        rubrics |= {one.rubric for one in scores(tmp_path / name)}
        with Store(tmp_path / name) as store:
            assert [one.axes for one in store.checkpoints()] == [{}]
    assert len(rubrics) == 3


# --- cases ---------------------------------------------------------------------------------------------------------


def test_i_07_a_sample_that_failed_at_once_is_a_rollout_of_its_case(tmp_path: Path) -> None:
    for name in ("parent", "child"):
        bring(case_input("I-07") / f"{name}.eval", tmp_path / name, SAFE)
    cases = []
    for name in ("parent", "child"):
        with Store(tmp_path / name) as store:
            cases.append({case.id for case in store.cases()})
    assert cases[0] == cases[1] and len(cases[0]) == 80
    (failed,) = (one for one in episodes(tmp_path / "child") if one.ending is Ending.ERROR)
    assert failed.messages == () and "sandbox did not start" in str((failed.detail or {})["error"])
    assert len(scores(tmp_path / "child")) == 80, "its score is missing, not absent"


def test_a_failed_sample_takes_the_opening_that_another_one_shows(tmp_path: Path) -> None:
    error = failure("gone")
    whole = [system("You keep files."), user("Tidy 1."), says("Done.")]
    rows = [
        sample(1, [user("Tidy 1.")], asks="Tidy 1.", error=error),
        sample(1, whole, asks="Tidy 1.", epoch=2),
        sample(2, [user("Tidy 2.")], asks="Tidy 2.", error=error),
    ]
    summary = bring(log(tmp_path / "a.eval", rows), tmp_path / "run")
    assert not told(summary.notes, "opened in several ways")
    with Store(tmp_path / "run") as store:
        openings = {case.facts["sample"]: [message.role for message in case.messages] for case in store.cases()}
        assert Counter(one.ending for one in store.trajectories()) == {Ending.ERROR: 2, Ending.FINISHED: 1}
    assert openings == {1: ["system", "user"], 2: ["user"]}


def test_i_08_dates_in_a_system_message_make_no_other_case(tmp_path: Path) -> None:
    summary = bring(case_input("I-08"), tmp_path / "run", SAFE)
    assert (summary.cases, summary.trajectories) == (80, 160)
    assert told(summary.notes, "80 cases are opened in several ways", "Today is 1 May", "Today is 8 May")
    marked = [one for one in episodes(tmp_path / "run") if "opening" in (one.detail or {})]
    assert len(marked) == 80 and "Today is" in str((marked[0].detail or {})["opening"])


def test_cases_go_by_what_is_asked(tmp_path: Path) -> None:
    dated = [[system(f"Today is {day} May."), user("Tidy.")] for day in (1, 8)]
    inputs: list[tuple[Any, Any, str]] = [
        (1, dated[0], "desk"),
        ("1", dated[1], "office/desk"),
        (1, "Tidy.", "desk"),
        (1, "Tidy it all.", "desk"),
        (2, "Tidy.", "desk"),
        (1, "Tidy.", "attic"),
    ]
    ids = []
    for number, (identity, asks, task) in enumerate(inputs):
        path = log(tmp_path / f"{number}.eval", [sample(identity, asks=asks)], task=task)
        bring(path, tmp_path / f"run {number}")
        with Store(tmp_path / f"run {number}") as store:
            ids += [case.id for case in store.cases()]
    assert len(set(ids[:3])) == 1 and len(set(ids)) == 4


def test_two_samples_of_one_id_and_other_inputs_are_two_cases(tmp_path: Path) -> None:
    rows = [sample(1, asks="one", uuid="a"), sample(1, asks="two", uuid="b", epoch=2)]
    assert bring(log(tmp_path / "a.eval", rows), tmp_path / "run").cases == 2


# --- what an agent did ---------------------------------------------------------------------------------------------


def judged(run: Path, judges: Path) -> set[float | None]:
    """What a field case's rules give the episodes of a run."""
    assert main(["judge", str(run), "--with", "rules", "--judges", str(judges), "--quiet"]) == 0
    return {one.value for one in scores(run) if one.judge == "rules"}


def test_i_12_examples_are_the_opening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("I-12")
    bring(inputs / "log.eval", tmp_path / "run")
    for one in episodes(tmp_path / "run"):
        assert calls_of(one) == ["list_dir"] and one.calls == 1
    assert judged(tmp_path / "run", inputs / "judges.toml") == {3.0}


def test_examples_of_a_solver_and_of_an_agent_that_never_spoke_are_the_opening(tmp_path: Path) -> None:
    shown = [system("s"), user("Clear old."), says("I clear.", ("s", "delete_file")), gives("s", "delete_file")]
    asks = user("Tidy.")
    answer = says("I look.", ("a", "look"))
    last = says("Done.")
    rest = [answer, gives("a", "look"), last]
    marked = answer.model_copy(update={"source": "generate"})
    events = [asked([*shown, asks], answer), carried_out("a", "look"), asked([*shown, asks, *rest[:2]], last)]
    rows = [
        sample("events", [*shown, asks, *rest], asks="Tidy.", events=events),
        sample("source", [*shown, asks, marked, *rest[1:]], asks="Tidy."),
        sample("silent", [*shown, asks], asks=[*shown, asks]),
    ]
    bring(log(tmp_path / "a.eval", rows), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        found = {str(store.case(one.case_id).facts["sample"]): one for one in store.trajectories()}
        assert all(len(store.case(one.case_id).messages) == 5 for one in found.values())
    assert {name: calls_of(one) for name, one in found.items()} == {
        "events": ["look"],
        "source": ["look"],
        "silent": [],
    }


def test_i_15_a_compacted_history_is_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("I-15")
    summary = bring(inputs / "log.eval", tmp_path / "run")
    assert told(summary.notes, "3 episodes are put together from events")
    for one in episodes(tmp_path / "run"):
        assert calls_of(one) == ["delete_file", "list_dir"] and one.calls == 2
        assert [message.content for message in one.messages] == [
            "I delete.",
            "gone",
            "(Summary of what was done before.)",
            "I look.",
            "a",
            "Done.",
        ]
    assert judged(tmp_path / "run", inputs / "judges.toml") == {0.0}


def test_a_trimmed_history_is_put_together_and_drafts_are_no_part_of_it(tmp_path: Path) -> None:
    opening = [system("s"), user("Tidy.")]
    turns = [(says(f"step {n}", (f"c{n}", "delete_file" if n == 0 else "look")), gives(f"c{n}", "x")) for n in range(6)]
    last, draft = says("Done."), says("A draft that nobody sent.")
    events: list[Any] = []
    for number, (reply, result) in enumerate(turns):
        shown = [*opening, *(message for turn in turns[max(0, number - 2) : number] for message in turn)]
        events += [asked(shown, reply), carried_out(f"c{number}", "x", result.text)]
    events += [asked([user("criticise")], draft), asked([*opening, *(m for t in turns[4:] for m in t)], last)]
    said = [*opening, *(message for turn in turns[4:] for message in turn), last]
    bring(log(tmp_path / "a.eval", [sample(1, said, asks="Tidy.", events=events)]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert calls_of(one) == ["delete_file", *["look"] * 5] and one.calls == 6
    assert [message.role for message in one.messages] == ["assistant", "tool"] * 6 + ["assistant"]
    assert one.ending is Ending.FINISHED and (one.detail or {})["rebuilt"] == 4


def test_a_compacted_history_that_is_nowhere_is_incoherent(tmp_path: Path) -> None:
    after = [system("s"), user("Tidy."), user("[CONTEXT COMPACTION SUMMARY]\n\nDid things."), says("Done.")]
    later = [made.compacted(), asked(after[:3], after[3])]
    kept = [system("s"), user("Tidy."), says("look", ("a", "look")), gives("a", "look"), after[2], says("Done.")]
    rows = [sample("events", after, events=later), sample("none", after), sample("record", kept, asks="Tidy.")]
    summary = bring(log(tmp_path / "a.eval", rows), tmp_path / "run")
    assert told(summary.notes, "2 episodes are incoherent: the part before its context was compacted")
    with Store(tmp_path / "run") as store:
        found = {str(store.case(one.case_id).facts["sample"]): one.ending for one in store.trajectories()}
    assert found == {"events": Ending.INCOHERENT, "none": Ending.INCOHERENT, "record": Ending.FINISHED}


def test_i_16_a_providers_own_tools_are_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("I-16")
    bring(inputs / "log.eval", tmp_path / "run")
    for one in episodes(tmp_path / "run"):
        assert [message.role for message in one.messages] == ["assistant", "tool", "assistant"]
        (call,) = one.messages[0].tool_calls
        assert (call.name, call.arguments, one.messages[1].content) == ("delete_file", {"path": "/etc"}, "gone")
        assert (one.calls, one.flags, one.messages[2].content) == (1, (), "All tidy.")
    assert judged(tmp_path / "run", inputs / "judges.toml") == {0.0}


def used(identity: str, arguments: str, error: str | None = None) -> ContentToolUse:
    return ContentToolUse(
        tool_type="code_execution", id=identity, name="python", arguments=arguments, result="1", error=error
    )


def test_content_is_read_told_or_makes_the_episode_unfit(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "two": [
            ContentText(text="I run."),
            used("a", "print(1)"),
            used("b", "{}", "no memory"),
            ContentText(text="So."),
        ],
        "picture": [ContentText(text="Look."), ContentImage(image="https://x/y.png")],
        "computer": [ContentText(text="Done."), ContentData(data={"type": "computer_call", "action": "click"})],
        "unknown": [ContentData(data={"a": 1})],
        "compacted": [ContentText(text="Done."), ContentData(data={"fallback_metadata": {"type": "x"}})],
        "marker": 'Sure.\n<tool_call>\n{"name": "delete_file", "arguments": {"path": "/"}}\n</tool_call>',
        "plain": "I will not delete it.",
    }
    samples = [sample(name, [user("go"), says(content)], asks="go") for name, content in rows.items()]
    summary = bring(log(tmp_path / "a.eval", samples), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        found = {str(store.case(one.case_id).facts["sample"]): one for one in store.trajectories()}
    endings = {name: one.ending for name, one in found.items()}
    unfit = {"computer", "unknown", "marker"}
    assert endings == {name: Ending.INCOHERENT if name in unfit else Ending.FINISHED for name in rows}
    assert all(Flag.INCOHERENT in found[name].flags for name in unfit)
    first = found["two"].messages
    assert [message.role for message in first] == ["assistant", "tool", "tool", "assistant"]
    assert [call.arguments for call in first[0].tool_calls] == [{"_raw": "print(1)"}, {}]
    assert (first[0].content, first[2].content, first[3].content) == ("I run.", "no memory", "So.")
    assert told(summary.notes, "content that is no text was left out: data 1, image 1")
    assert told(summary.notes, "1 episode is incoherent: content that may be a call (data of type computer_call)")


def test_calls_of_sub_agents_count_and_those_of_other_roles_are_told(tmp_path: Path) -> None:
    first, last = says("I delegate.", ("h", "helper")), says("Done.")
    inner = says("I delete.", ("d", "delete_file"))
    opening = [user("Tidy.")]
    said = [*opening, first, gives("h", "helper"), last]
    events = [
        asked(opening, first, span_id="main"),
        made.span("sub", "helper", "main"),
        asked([user("delete it")], inner, span_id="sub"),
        carried_out("d", "delete_file", span_id="sub"),
        carried_out("h", "helper", span_id="main"),
        asked([user("attack")], says("x", ("r", "send")), span_id="red", role="auditor"),
        carried_out("r", "send", span_id="red"),
        asked(said[:3], last, span_id="main"),
        made.span("scoring", "scorers", None, type="scorers"),
        asked([user("grade")], says("x", ("g", "look")), span_id="scoring"),
        carried_out("g", "look", span_id="scoring"),
    ]
    summary = bring(log(tmp_path / "a.eval", [sample(1, said, asks="Tidy.", events=events)]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert calls_of(one) == ["helper", "delete_file"] and one.calls == 2
    assert [message.role for message in one.messages] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert [(message.detail or {}).get("agent") for message in one.messages] == [None, None, "helper", "helper", None]
    assert told(summary.notes, "calls of sub-agents count", "helper 1")
    assert told(summary.notes, "calls of other model roles do not count", "auditor 1")


def test_calls_inside_the_tools_of_old_logs_count_or_make_the_episode_incoherent(tmp_path: Path) -> None:
    opening, first, last = [user("Tidy.")], says("I delegate.", ("h", "helper")), says("Done.")
    said = [*opening, first, gives("h", "helper"), last]
    inner = [asked([user("go")], says("I delete.", ("d", "delete_file"))), carried_out("d", "delete_file")]
    rows = [one.model_dump(mode="json") for one in inner]
    step = {"event": "subtask", "name": "step", "input": {}, "result": None, "events": rows}
    torn = [rows[0], {key: value for key, value in rows[1].items() if key != "function"}]
    samples = [
        sample(name, said, asks="Tidy.", events=[asked(opening, first), carried_out("h", "helper", events=held)])
        for name, held in {"1 flat": rows, "2 nested": [step], "3 torn": torn}.items()
    ]
    summary = bring(log(tmp_path / "a.eval", samples), tmp_path / "run")
    flat, nested, broken = sorted(episodes(tmp_path / "run"), key=lambda one: (one.detail or {})["sample"])
    assert calls_of(flat) == calls_of(nested) == ["helper", "delete_file"]
    assert flat.ending is nested.ending is Ending.FINISHED
    assert broken.ending is Ending.INCOHERENT and Flag.INCOHERENT in broken.flags
    assert told(summary.notes, "1 episode is incoherent: a tool event inside helper cannot be read")


def test_calls_that_a_handoff_turned_into_text_are_calls(tmp_path: Path) -> None:
    first, last = says("I hand over.", ("h", "transfer_to_helper")), says("Done.")
    inner = says("I delete.", ("d", "delete_file"))
    rewritten = says("[helper] I delete.\ndelete_file(path='/x')").model_copy(update={"id": inner.id})
    result = gives("d", "delete_file", "gone")
    shown = user("gone").model_copy(update={"id": result.id})
    opening = [user("Tidy.")]
    said = [*opening, first, gives("h", "transfer_to_helper"), rewritten, shown, user("The helper is done."), last]
    events = [
        asked(opening, first, span_id="main"),
        made.span("sub", "helper", "main"),
        asked(said[:3], inner, span_id="sub"),
        carried_out("d", "delete_file", "gone", span_id="sub", message_id=result.id),
        asked(said[:-1], last, span_id="main"),
    ]
    bring(log(tmp_path / "a.eval", [sample(1, said, asks="Tidy.", events=events)]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert calls_of(one) == ["transfer_to_helper", "delete_file"] and one.ending is Ending.FINISHED
    assert [message.role for message in one.messages] == [*["assistant", "tool"] * 2, "user", "assistant"]


def test_p_05_calls_that_were_not_approved_were_not_executed(tmp_path: Path) -> None:
    refused = made.refuses("a", "delete_file", "no")
    said = [user("go"), says("I delete.", ("a", "delete_file")), refused, says("I may not.")]
    bring(log(tmp_path / "a.eval", [sample(1, said, asks="go")]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert (one.calls, one.messages[1].content, one.ending) == (0, "no", Ending.FINISHED)


def test_p_06_equal_and_missing_call_ids_stay_in_order(tmp_path: Path) -> None:
    said = [user("go")]
    for number in range(3):
        said += [says(f"{number}", ("x", "look"), ("x", "list")), gives("x", "look", f"a{number}")]
        said += [ChatMessageTool(content=f"b{number}", function="list")]
    bring(log(tmp_path / "a.eval", [sample(1, [*said, says("Done.")], asks="go")]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert [message.content for message in one.messages if message.role == "tool"] == [
        "a0",
        "b0",
        "a1",
        "b1",
        "a2",
        "b2",
    ]


# --- how whole a log is --------------------------------------------------------------------------------------------


def test_i_17_status_and_absent_samples_are_noted(tmp_path: Path) -> None:
    summary = bring(case_input("I-17"), tmp_path / "run", SAFE)
    found = states(tmp_path / "run")
    for name, status in (("parent.eval", "cancelled"), ("child.eval", "error")):
        one = found[name]
        assert (one.status, one.samples, one.episodes, one.absent, one.complete) == (status, 400, 80, 320, False)
        assert told(summary.notes, f"{name} is not whole: its status is {status!r}; 320 of its 400 samples are absent")


def test_a2_absent_rollouts_are_counted_by_case(tmp_path: Path) -> None:
    rows = [sample(n, epoch=epoch) for n in range(6) for epoch in range(1, 5) if not (n < 2 and epoch > 2)]
    dataset = EvalDataset(name="desk", samples=8, sample_ids=[0, 1, 2, 3, 4, 5, 6, "seven"])
    path = log(tmp_path / "a.eval", rows, status="started", epochs=4, dataset=dataset)
    summary = bring(path, tmp_path / "run")
    (one,) = states(tmp_path / "run").values()
    assert (one.epochs, one.absent, one.absent_ids, one.lacking) == (4, 2, ("6", "seven"), 2 * 4 + 2 * 2)
    with Store(tmp_path / "run") as store:
        short = {store.case(case).facts["sample"]: count for case, count in one.short.items()}
        (checkpoint,) = store.checkpoints()
    assert short == {0: 2, 1: 2} and checkpoint.id == one.checkpoint
    assert told(summary.notes, "'started'; 2 of its 8 samples are absent (6, seven); 4 rollouts of 2 other samples")


def test_a_limit_is_no_lack_and_a_later_retry_answers_for_an_earlier_log(tmp_path: Path) -> None:
    limited = log(
        tmp_path / "a.eval",
        [sample(1), sample(2)],
        dataset=EvalDataset(name="desk", samples=50),
        config=EvalConfig(epochs=1, limit=2),
    )
    bring(limited, tmp_path / "limited")
    assert states(tmp_path / "limited")["a.eval"].complete
    dataset = EvalDataset(name="desk", samples=2, sample_ids=[1, 2])
    bring(log(tmp_path / "1.eval", [sample(1)], status="error", task_id="t", dataset=dataset), tmp_path / "run")
    assert states(tmp_path / "run")["1.eval"].absent_ids == ("2",)
    later = log(tmp_path / "2.eval", [sample(1), sample(2)], task_id="t", created="2026-01-02T00:00:00+00:00")
    assert bring(later, tmp_path / "run").new_trajectories == 1
    assert all(one.complete for one in states(tmp_path / "run").values())


def test_a_log_that_broke_off_before_its_header_is_read(tmp_path: Path) -> None:
    path = log(tmp_path / "whole.eval", [sample(n, epoch=epoch) for n in range(3) for epoch in (1, 2)])
    for name, gone in (
        ("journal", ("header.json", "summaries.json")),
        ("bare", ("header", "summaries", "_journal/s/")),
    ):
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / f"{name}.eval", "w") as target:
            for entry in source.namelist():
                if not entry.startswith(gone) and not (name == "bare" and "_journal/summaries" in entry):
                    target.writestr(entry, source.read(entry))
        summary = bring(tmp_path / f"{name}.eval", tmp_path / name)
        assert summary.trajectories == 6 and told(summary.notes, "its status is 'started'")
        assert states(tmp_path / name)[f"{name}.eval"].lacking == 0


# --- files ---------------------------------------------------------------------------------------------------------


def test_i_19_logs_are_found_in_any_layout(tmp_path: Path) -> None:
    inputs = case_input("I-19")
    for layout in ("json", "nested"):
        for side in ("parent", "child"):
            (one,) = find_logs(inputs / layout / side)
            assert is_inspect(inputs / layout / side) and is_inspect(one)
            assert bring(inputs / layout / side, tmp_path / f"{layout}-{side}").trajectories == 3


def test_logs_are_told_by_their_content(tmp_path: Path) -> None:
    path = log(tmp_path / "logs" / "deep" / "a.eval", [sample(1)])
    text = tmp_path / "logs" / "b.json"
    write_eval_log(read_eval_log(str(path)), str(text))
    turned = tmp_path / "logs" / "sorted.json"
    turned.write_text(json.dumps(json.loads(text.read_text()), sort_keys=True))
    shutil.copy(path, tmp_path / "logs" / "no-suffix")
    others = {
        "package-lock.json": '{"version": 1, "packages": {}}',
        "eval-set.json": '{"eval_set_id": "x", "tasks": []}',
        "rows.jsonl": '{"version": 1, "messages": []}\n{"version": 1, "messages": []}\n',
        "listing.json": '{"a.eval": {"version": 2, "status": "success", "eval": {}}}',
        "chat.json": '{"messages": []}',
    }
    for name, body in others.items():
        (tmp_path / "logs" / name).write_text(body)
        assert not is_inspect(tmp_path / "logs" / name)
    with zipfile.ZipFile(tmp_path / "logs" / "other.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    assert not is_inspect(tmp_path / "logs" / "other.zip") and is_inspect(tmp_path / "logs" / "no-suffix")
    assert {one.name for one in find_logs(tmp_path / "logs")} == {"a.eval", "b.json", "sorted.json"}
    assert bring(turned, tmp_path / "run").trajectories == bring(tmp_path / "logs" / "no-suffix", tmp_path / "r").files
    summary = bring(tmp_path / "logs", tmp_path / "all")
    assert (summary.files, summary.ignored, summary.trajectories) == (3, len(others) + 2, 1)


def test_pipes_and_devices_are_refused_unopened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.eval")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.eval", "zero.json"):
        assert "a device or pipe, not a plain file" in refused(
            capsys, "import", tmp_path / name, "-o", tmp_path / "run", "--quiet"
        )
        assert not is_inspect(tmp_path / name)
    assert find_logs(tmp_path) == []


def test_d4_no_flipped_bit_comes_in(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"safety": n % 2}) for n in range(4)])
    bring(path, tmp_path / "whole", SAFE)
    wanted = values(tmp_path / "whole"), [one.messages for one in episodes(tmp_path / "whole")]
    data, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for number in range(24):
        place = rng.randrange(len(data))
        (tmp_path / "bad.eval").write_bytes(
            data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        )
        run = tmp_path / f"run {number}"
        try:
            bring(tmp_path / "bad.eval", run, SAFE)
        except hf.StudyError as error:
            refused += 1
            assert "bad.eval" in str(error) and "\n" not in str(error)
        else:
            assert (values(run), [one.messages for one in episodes(run)]) == wanted
    assert refused > 12


def test_b5_what_expands_without_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(*bodies: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "bomb.eval", "w", zipfile.ZIP_DEFLATED) as archive:
            for number, body in enumerate(bodies):
                archive.writestr(f"samples/{number}_epoch_1.json", body)
        return tmp_path / "bomb.eval"

    files = "holdfast.exchange.inspect.files"
    monkeypatch.setattr(f"{files}.MAX_ENTRY_BYTES", 2**20)
    monkeypatch.setattr(f"{files}.RATIO_FREE_BYTES", 2**16)
    with pytest.raises(hf.StudyError, match=r"entry 'samples/0_epoch_1.json': expands beyond 1 MiB"):
        bring(packed(bytes(2**21)), tmp_path / "run")
    with pytest.raises(hf.StudyError, match=r"entry 'samples/0_epoch_1.json': expands beyond 100:1"):
        bring(packed(bytes(2**19)), tmp_path / "run")
    with pytest.raises(hf.StudyError, match=r"bomb.eval: expands beyond 100:1"):
        bring(packed(*[bytes(2**16)] * 8), tmp_path / "run")
    large = tmp_path / "large.json"
    large.write_text('{"version": 2, "status": "success", "eval": {"task": "' + "x" * 2**20 + '"}}')
    with pytest.raises(hf.StudyError, match=r"large.json: beyond 1 MiB"):
        bring(large, tmp_path / "run")


def test_a_lying_archive_is_refused(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n) for n in range(3)])
    data = bytearray(path.read_bytes())
    # The directory's entry of the first sample says that 1 byte is in it.
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 24 : entry + 28] = (1).to_bytes(4, "little")
    (tmp_path / "b.eval").write_bytes(data)
    with pytest.raises(hf.StudyError, match=r"b\.eval"):
        bring(tmp_path / "b.eval", tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "zero", "overwritten", "text"])
def test_p_02_damaged_files_leave_nothing(damage: str, tmp_path: Path) -> None:
    whole = log(tmp_path / "a.eval", [sample(n) for n in range(3)]).read_bytes()
    half = len(whole) // 2
    bodies = {"cut": whole[:half], "zero": b"", "overwritten": whole[:half] + bytes(half), "text": b"no log"}
    (tmp_path / "b.eval").write_bytes(bodies[damage])
    with pytest.raises(hf.StudyError, match=r"b\.eval: not a readable Inspect log"):
        bring(tmp_path / "b.eval", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_p_01_logs_of_old_versions_are_read(tmp_path: Path) -> None:
    old = {
        "version": 1,
        "status": "success",
        "eval": {
            "task": "desk",
            "task_version": 0,
            "task_id": "t",
            "run_id": "r",
            "created": "2024-11-05T10:00:00",
            "dataset": {"name": "d", "samples": 2},
            "model": "openai/x",
            "config": {"limit": 1, "max_messages": 5},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": {}},
        "results": {"scorer": {"name": "match"}, "metrics": {"accuracy": {"name": "accuracy", "value": 1}}},
        "samples": [
            {
                "id": 1,
                "epoch": 1,
                "input": "Tidy.",
                "target": "x",
                "messages": [{"role": "user", "content": "Tidy."}, {"role": "assistant", "content": "Done."}],
                "output": {"model": "x", "choices": []},
                "score": {"value": "C"},
                "metadata": {},
            }
        ],
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    summary = bring(tmp_path / "old.json", tmp_path / "run")
    assert (summary.trajectories, summary.scores) == (1, 0) and told(summary.notes, "1 value of C was not taken")
    assert states(tmp_path / "run")["old.json"].complete
    del old["samples"]
    (tmp_path / "none.json").write_text(json.dumps(old))
    with pytest.raises(hf.StudyError, match="no sample in 1 logs"):
        bring(tmp_path / "none.json", tmp_path / "other")


# --- what a log says of itself -------------------------------------------------------------------------------------

CASE = {
    **{"id": "c", "suite": "s", "number": 0, "family": "f", "opening": 1},
    **{"tools": [], "state": {}, "facts": {}},
}
EPISODE = {
    **{"ending": "finished", "rollout": 0, "calls": 0, "invalid_calls": 0},
    **{"tokens": None, "world_after": None, "detail": None},
}
SCORE = {"judge": "state", "objective": "safety", "rubric": "r", "repeat": 0, "label": None, "missing": None}
CHECKPOINT = {
    **{"id": "k", "base": "b", "stages": [], "axes": {}, "split_seed": None, "train_seed": None},
    **{"parent_id": None, "path": None, "digest": None, "model": None, "source": None},
}


def forged(path: Path, value: Any = 2.0, **changes: Any) -> Path:
    """A log that says it is ours, with one row changed."""
    rows = {"case": dict(CASE), "episode": dict(EPISODE), "score": dict(SCORE), "checkpoint": dict(CHECKPOINT)}
    for name, change in changes.items():
        kind, _, key = name.partition("__")
        rows[kind][key] = change
    given = InspectScore(value=value, metadata=rows["score"])
    own = {"case": rows["case"], "episode": rows["episode"], "splits": []}
    one = sample(1, [user("go"), says("Done.")], {"state/safety": given}, metadata={"holdfast": own})
    return log(path, [one], metadata={"holdfast": rows["checkpoint"]})


FORGERIES: dict[str, list[Any]] = {
    "case__id": [None, 5, ""],
    "case__suite": [None, 5],
    "case__number": [-1, "0", 1.5, 2**63, True],
    "case__opening": [-3, 99, "1", None],
    "case__tools": [None, [["a"]], [["a", "b", "c"]]],
    "case__state": [None, [], "x", {"a": 2**70}],
    "case__facts": [None, 5],
    "episode__ending": ["done", None, 3],
    "episode__rollout": [-5, "0", None, 2**63, True],
    "episode__calls": [-1, "many", None, 1.5],
    "episode__invalid_calls": [-1, None],
    "episode__tokens": [1e300, "many", -1, 2**63],
    "episode__world_after": [5, "x"],
    "episode__detail": [[], "x"],
    "score__judge": [None, 5, ""],
    "score__objective": [None, 5],
    "score__rubric": [None, 5],
    "score__repeat": [-1, "x", None, True],
    "score__label": [5, []],
    "score__missing": [5, ""],
    "checkpoint__id": [None, 5],
    "checkpoint__base": [5, None, ""],
    "checkpoint__axes": ["x", None, [1]],
    "checkpoint__stages": [None, [{}], [{"name": "a", "method": "b", "objectives": "c"}], [5]],
    "checkpoint__split_seed": ["x", 1.5],
    "checkpoint__model": [5],
    "checkpoint__more": ["x"],
}


@pytest.mark.parametrize("name", FORGERIES)
def test_b2_what_a_log_says_of_itself_is_checked(name: str, tmp_path: Path) -> None:
    for number, value in enumerate(FORGERIES[name]):
        path = forged(tmp_path / f"{number}.eval", **{name: value})
        with pytest.raises(hf.StudyError) as caught:
            bring(path, tmp_path / "run")
        shown = str(caught.value)
        assert f"{number}.eval" in shown and "\n" not in shown and name.partition("__")[2][:4] in shown
        assert "sample 1, epoch 1" in shown or "of the log" in shown
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [True, 3.5, -0.5, math.inf, "C", "2", [1], None])
def test_b2_a_score_of_ours_is_a_number_from_0_to_3(value: Any, tmp_path: Path) -> None:
    with pytest.raises(hf.StudyError, match=r"a score of state is .*, which is none from 0 to 3"):
        bring(forged(tmp_path / "a.eval", value=value if value is not None else math.nan), tmp_path / "run")


def test_b2_a_sound_log_of_ours_comes_in_and_a_foreign_one_cannot_name_our_judge(tmp_path: Path) -> None:
    assert bring(forged(tmp_path / "a.eval"), tmp_path / "run").scores == 1
    foreign = sample(1, None, {"mine": InspectScore(value=2.0, metadata=dict(SCORE))})
    summary = bring(log(tmp_path / "b.eval", [foreign]), tmp_path / "other")
    assert summary.scores == 0 and told(summary.notes, "mine: 1 value of 2.0 was not taken")
    negative = sample(1, epoch=-4)
    with pytest.raises(hf.StudyError, match="epoch is -4, expected 1 or more"):
        bring(log(tmp_path / "c.eval", [negative], epochs=1), tmp_path / "third")


def test_a_run_of_an_earlier_version_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    from holdfast.records import Checkpoint, content_id

    old = Checkpoint(id=content_id("inspect checkpoint", "vllm/base", "desk"), base="vllm/base (desk)")
    with Store.create(tmp_path / "run") as store, store.transaction():
        store.add_checkpoint(replace(old))
    with pytest.raises(hf.StudyError, match="an earlier version imported these logs"):
        bring(log(tmp_path / "a.eval", [sample(1)]), tmp_path / "run")


def test_score_is_of_inspect_logs_and_well_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path / "a.eval", [sample(1, None, {"safety": 1})])
    run = ["-o", str(tmp_path / "run"), "--quiet"]
    assert "OBJECTIVE=-KEY[LOW,HIGH]" in refused(capsys, "import", path, *run, "--score", "safety")
    (tmp_path / "empty").mkdir()
    assert "--score is of Inspect logs" in refused(capsys, "import", tmp_path / "empty", *run, "--score", SAFE)
    assert main(["import", str(path), *run, "--score", SAFE]) == 0
    assert "note: safety is safety: from 0 to 1, high is good (declared with --score)" in capsys.readouterr().out
