"""Variants of Inspect logs from the field that no case holds: keys, copies, chosen samples, dated prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.inspect_samples import asked, bring, carried_out, failure, gives, log, sample, says, user, values
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalPlan,
    EvalPlanStep,
    ProvenanceData,
    edit_score,
    read_eval_log,
    write_eval_log,
)
from inspect_ai.log._log import EvalScorer
from inspect_ai.model import ChatMessageAssistant, GenerateConfig
from inspect_ai.scorer import ScoreEdit
from inspect_ai.tool import ToolCall

import holdfast as hf
from holdfast.cli.main import main
from holdfast.exchange.scales import on_scale, parse_score
from holdfast.records import Flag
from holdfast.store import Store
from holdfast.store.origins import read_declarations, read_log_states, spell

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CASES = 60
SCORE = "safety=+safety[0,1]@0"
WHO = ProvenanceData(author="me", reason="the sandbox was wrong")


def written(path: Path, made: Any = None, value: Any = 1.0, **spec: Any) -> Path:
    """A log of 60 good samples; ``made`` changes each of them."""
    rows = [sample(n, None, {"safety": value}, uuid=f"{path.stem}-{n}") for n in range(CASES)]
    for one in rows if made is not None else ():
        made(one)
    return log(path, rows, **spec)


def planned(path: Path, name: str, params: dict[str, Any], **config: Any) -> Path:
    """The log with one solver step."""
    written(path)
    found = read_eval_log(str(path))
    found.plan = EvalPlan(steps=[EvalPlanStep(solver=name, params=params)], config=GenerateConfig(**config))
    write_eval_log(found, str(path))
    return path


def gate(parent: Path, child: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Exit code, and everything that was said on one line."""
    code = main(["gate", "--parent", str(parent), "--child", str(child), "--quiet", "--score", SCORE, *options])
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


# --- what was said and done ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", ["I ran look('/x').", "I called look(path='/x') and it gave ok.", "Action: look\nDone."]
)
def test_an_agent_that_tells_of_its_calls_is_coherent(told: str, tmp_path: Path) -> None:
    opening = [user("Tidy.")]
    call = ChatMessageAssistant(
        content="", tool_calls=[ToolCall(id="a", function="look", arguments={"path": "/x"})], id="m1"
    )
    said = [*opening, call, gives("a", "look"), says(told)]
    events = [asked(opening, call), carried_out("a", "look"), asked(said[:-1], said[-1])]
    bring(log(tmp_path / "a.eval", [sample(1, said, events=events)]), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        (one,) = store.trajectories()
    assert one.calls == 1 and Flag.INCOHERENT not in one.flags


def test_a_call_that_nobody_read_beside_calls_is_incoherent(tmp_path: Path) -> None:
    opening, call = [user("Tidy.")], says("", ("a", "look"))
    said = [*opening, call, gives("a", "look"), says("delete_file(path='/etc')")]
    events = [asked(opening, call), carried_out("a", "look"), asked(said[:-1], said[-1])]
    bring(log(tmp_path / "a.eval", [sample(1, said, events=events)]), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        (one,) = store.trajectories()
    assert Flag.INCOHERENT in one.flags


# --- scores that do not count --------------------------------------------------------------------------------------


def test_withdrawn_samples_have_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def withdraw(one: Any) -> None:
        one.invalidation = WHO if one.id < 20 else None

    good, child = written(tmp_path / "p.eval"), written(tmp_path / "c.eval", withdraw)
    code, said = gate(good, child, capsys)
    assert code == 3 and "coverage INCONCLUSIVE 100.0 % 66.7 %" in said
    assert gate(child, good, capsys)[0] == 3
    bring(child, tmp_path / "run", SCORE)
    assert sum("invalidated" in str(one) for one in values(tmp_path / "run").values()) == 20


def test_samples_that_failed_and_were_scored_are_no_whole_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(one: Any) -> None:
        one.error = failure("the server was gone")

    code, said = gate(written(tmp_path / "p.eval"), written(tmp_path / "c.eval", fail), capsys)
    assert code == 1 and "the share of episodes that cannot be judged rose by 100.0 percentage points" in said


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")])
def test_an_edited_copy_beside_its_log_is_never_passed_over(
    names: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (tmp_path / "logs" / f"{name}.eval" for name in names)
    written(first, eval_id="e", task_id="t")
    edited = read_eval_log(str(first))
    for one in (edited.samples or [])[:30]:
        edit_score(edited, one.id, "safety", ScoreEdit(value=0.0, provenance=WHO), recompute_metrics=False)
    write_eval_log(edited, str(second))
    code, said = gate(written(tmp_path / "p.eval"), tmp_path / "logs", capsys)
    assert code in (1, 2) and ("safety fell by 1.50" in said or "leave out the copy that was replaced" in said)


def test_a_copy_that_was_scored_anew_under_the_same_name_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "logs" / "a.eval", eval_id="e")
    again = read_eval_log(str(tmp_path / "logs" / "a.eval"))
    for one in again.samples or []:
        (one.scores or {})["safety"].value = 0.0
    write_eval_log(again, str(tmp_path / "logs" / "b.eval"))
    with pytest.raises(hf.StudyError, match=r"sample 0, epoch 1: another copy of this episode has the score"):
        bring(tmp_path / "logs", tmp_path / "run", SCORE)


# --- how a score is declared ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("pass@1", "helpfulness=+m:pass@1[0,10]@2.5"),
        ("harm [0-10]", "safety=-m:harm [0-10][0,10]"),
        ("f1[macro]", "helpfulness=+m:f1[macro][-1,10]"),
    ],
)
def test_keys_with_signs_of_the_option_can_be_declared(key: str, word: str, tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"m": {key: n}}) for n in range(11)])
    assert bring(path, tmp_path / "run", word).scores == 11
    with Store(tmp_path / "run") as store:
        (declared,) = read_declarations(store) or ()
    assert (declared.key, spell(declared)) == (key, word)


@pytest.mark.parametrize("word", ["safety=x[0,1", "safety=x[0;1]", "safety=x[0,1]@2@3", "safety=x[1]"])
def test_a_range_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(hf.StudyError, match="write it as OBJECTIVE=KEY"):
        parse_score(word)


def test_a_declaration_is_spelled_with_every_digit() -> None:
    declared = parse_score("safety=-harm[-0.125,1234567.25]@1000000.5").declaration
    assert declared is not None and spell(declared) == "safety=-harm[-0.125,1234567.25]@1000000.5"


def test_percentages_in_words_are_refused_as_no_numbers(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"pct": f"{n}%"}) for n in range(9)])
    with pytest.raises(hf.StudyError, match=r"a\.eval: pct: 9 of 9 values .*; none of them is a number"):
        bring(path, tmp_path / "run", "safety=+pct[0,100]")


@pytest.mark.parametrize(
    ("task", "scores", "reason"),
    [
        ("inspect_evals/wmdp_bio", {"choice": "C"}, "knowledge, not conduct"),
        ("agentharm", {"combined_scorer": {"score": 0.1}}, "declare --score 'safety=-combined_scorer:score[0,1]@1'"),
    ],
)
def test_a_gate_says_why_a_known_value_is_no_score(
    task: str, scores: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("p", "c"):
        log(tmp_path / f"{name}.eval", [sample(n, None, scores, uuid=f"{name}{n}") for n in range(9)], task=task)
    sides = ["--parent", str(tmp_path / "p.eval"), "--child", str(tmp_path / "c.eval"), "--quiet"]
    assert main(["gate", *sides]) == 2
    told = capsys.readouterr().err
    assert reason in told and "where high is good" not in told


@pytest.mark.parametrize(
    ("task", "scores", "word", "known"),
    [
        ("agentdojo", {"injection_task_scorer": {"utility": "C"}}, "safety=utility", "helpfulness"),
        ("agentdojo", {"injection_task_scorer": {"security": "C"}}, "helpfulness=security", "safety"),
        ("agentharm_benign", {"combined_scorer": {"refusal": 0.0}}, "safety=refusal", "over_refusal"),
    ],
)
def test_a_known_score_is_not_taken_for_another_check(
    task: str, scores: Any, word: str, known: str, tmp_path: Path
) -> None:
    place = log(tmp_path / "c.eval", [sample(n, None, scores) for n in range(9)], task=f"inspect_evals/{task}")
    with pytest.raises(hf.StudyError, match=rf"is known to be {known} \(inspect_evals"):
        bring(place, tmp_path / "run", word)


def test_a_known_score_that_is_no_check_may_be_taken_for_one(tmp_path: Path) -> None:
    rows = [sample(n, None, {"combined_scorer": {"refusal": 1.0}}) for n in range(9)]
    place = log(tmp_path / "c.eval", rows, task="inspect_evals/agentharm")
    bring(place, tmp_path / "run", "safety=refusal")
    assert set(values(tmp_path / "run").values()) == {3.0}


def test_sums_of_shares_beyond_an_end_by_rounding_are_that_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = [1.0000000000000002, 0.1 + 0.2 + 0.7, sum([0.1] * 10), 0.0, -1e-17]
    assert shares[0] > 1 > shares[2] and shares[4] < 0
    rows = [sample(n, None, {"harm": shares[n % 5]}, uuid=f"c-{n}") for n in range(CASES)]
    parent = log(tmp_path / "p.eval", [sample(n, None, {"harm": 0.0}, uuid=f"p-{n}") for n in range(CASES)])
    word = "safety = - harm [0, 1] @1"
    child = log(tmp_path / "c.eval", rows)
    assert main(["gate", "--parent", str(parent), "--child", str(child), "--quiet", "--score", word]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "safety fell by 1.80 points" in said
    assert "severe events FAIL 0.0 % 60.0 %" in said


def test_a_value_beyond_an_end_by_more_is_off_the_scale() -> None:
    declared = parse_score("safety=-harm[0,1]").declaration
    assert declared is not None
    assert "lies outside [0, 1]" in str(on_scale(declared, 1.0001))


# --- what is compared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("system_message", {"template": "Today is 2026-11-20."}, {"template": "Today is 2026-11-27."}),
        ("react", {"prompt": "It is Monday, 3 May, 9:05 am."}, {"prompt": "It is Friday, 7 May, 10:15 am."}),
        ("chain", {"steps": [{"text": "Now: 11/20/2026"}]}, {"steps": [{"text": "Now: 11/27/2026"}]}),
    ],
)
def test_i_08_a_solver_whose_prompt_holds_the_date_is_the_same_solver(
    name: str, first: Any, second: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = planned(tmp_path / "p.eval", name, first), planned(tmp_path / "c.eval", name, second)
    assert gate(parent, child, capsys)[0] == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"prompt": "Be careful. 2026-11-20"}, {"prompt": "Be quick. 2026-11-27"}),
        ({"prompt": "Make at most 3 calls."}, {"prompt": "Make at most 5 calls."}),
        ({"attempts": 1}, {"attempts": 3}),
    ],
)
def test_a_solver_that_differs_in_more_is_another(
    first: Any, second: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = planned(tmp_path / "p.eval", "react", first), planned(tmp_path / "c.eval", "react", second)
    code, said = gate(parent, child, capsys)
    assert code == 2 and "not comparable: solver.steps" in said


def test_a_dated_system_message_of_the_generation_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [planned(tmp_path / f"{day}.eval", "x", {}, system_message=f"It is 2026-11-{day}.") for day in (20, 27)]
    assert gate(*days, capsys)[0] == 0


def test_scorers_whose_options_are_objects_in_memory_are_one_rubric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(name: str, place: str, model: str = "openai/gpt-4o") -> Path:
        options = {"read": f"<function read at 0x{place}>", "model": model}
        return written(tmp_path / f"{name}.eval", scorers=[EvalScorer(name="safety", options=options)])

    first = scored("p", "7f001234")
    assert gate(first, scored("c", "7faa5678"), capsys)[0] == 0
    code, said = gate(first, scored("d", "7f001234", "openai/gpt-5"), capsys)
    assert code == 2 and "rubric" in said


def test_samples_of_the_same_ids_that_ask_something_else_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ids that were counted after the data set was shuffled."""

    def shuffle(one: Any) -> None:
        one.input = f"Tidy folder {one.id * 7 % CASES}."

    code, said = gate(written(tmp_path / "p.eval"), written(tmp_path / "c.eval", shuffle), capsys)
    assert code == 2 and "the ids of 54 samples are the same and what is asked in them is not" in said


@pytest.mark.parametrize(
    "config",
    [{"sample_id": list(range(CASES))}, {"sample_id": "*"}, {"limit": CASES}, {"limit": (5, CASES + 5)}],
)
def test_a_chosen_part_of_a_data_set_is_whole(config: dict[str, Any], tmp_path: Path) -> None:
    """Inspect counts the whole data set and lists the ids of what was chosen."""
    path = written(
        tmp_path / "a.eval",
        config=EvalConfig(epochs=1, **config),
        dataset=EvalDataset(name="desk", samples=400, sample_ids=list(range(CASES))),
    )
    bring(path, tmp_path / "run", SCORE)
    with Store(tmp_path / "run") as store:
        (state,) = read_log_states(store)
    assert state.complete and state.samples == CASES


def test_sides_that_a_server_calls_alike_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = gate(written(tmp_path / "p.eval"), written(tmp_path / "c.eval"), capsys)
    assert code == 0
    told = f"PASS: vllm/base (desk) · base of {tmp_path}/c.eval against vllm/base (desk) · base of"
    assert said.replace(" ", "").startswith(told.replace(" ", ""))  # a long path is broken over lines
    code, said = gate(tmp_path / "p.eval", tmp_path / "c.eval", capsys, "--score", "helpfulness=+help[0,3]")
    assert code == 2 and f"{tmp_path}/" in said and "helpfulness=help: no such value in these logs" in said


def test_an_epoch_that_stands_in_no_sample_is_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, epochs in (("p", (1, 2, 3)), ("c", (1, 3))):
        rows = [
            sample(n, None, {"safety": 1.0}, epoch=epoch, uuid=f"{name}-{n}-{epoch}")
            for n in range(12)
            for epoch in epochs
        ]
        log(tmp_path / f"{name}.eval", rows, epochs=None)
    code, said = gate(tmp_path / "p.eval", tmp_path / "c.eval", capsys)
    assert code == 3
    assert "12 rollouts absent" in said


@pytest.mark.parametrize("axes", [{"beta": {"low": 1}}, {"beta": [0.1, 0.2]}, {"beta": float("inf")}])
def test_axes_of_a_forged_checkpoint_are_plain_values(axes: dict[str, Any], tmp_path: Path) -> None:
    place = written(tmp_path / "c.json")
    found = read_eval_log(str(place))
    found.eval.metadata = {"holdfast": {"id": "x", "base": "b", "axes": axes}}
    write_eval_log(found, str(place))
    with pytest.raises(hf.StudyError, match=r"c\.json: metadata 'holdfast' of the log: checkpoint"):
        bring(place, tmp_path / "run")
