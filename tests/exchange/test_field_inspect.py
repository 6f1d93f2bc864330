"""Inspect logs from the field: each fault that was found in one, and others of its kind."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import inspect_samples as made
from builders.field_inspect import episodes, scores, states, told
from builders.inspect_samples import SAFE, bring, failure, log, sample, says, system, user, values
from builders.places import case_input
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.scorer import Score as InspectScore

import holdfast as hf
from holdfast.cli.main import main
from holdfast.exchange.scales import parse_score
from holdfast.exchange.traces.importing import import_traces
from holdfast.records import Ending
from holdfast.store import Store, origins

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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
