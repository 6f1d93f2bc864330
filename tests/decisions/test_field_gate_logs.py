"""Field cases of the gate (I): logs as it reads them itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import known_samples
from builders.commands import asked, gated, refused
from builders.field_gate import Captured, basis_of, checks_of, rules_file
from builders.gate_samples import Made, mixed, write_run
from builders.places import case_input

from holdfast.store import Store

pytestmark = [
    # Inspect leaves streams open.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SAFETY = ("--score", "safety=+safety[0,1]")
SHOWN_FLAGS = ("'safety=+safety[0,1]'", "'safety=-safety[0,1]'")


def field_gate(name: str, parent: str = "parent.eval", child: str = "child.eval") -> tuple[object, ...]:
    """The command line of a case: its sides, and its rules where it has some."""
    place = case_input(name)
    rules = place / "rules.toml"
    given = ("--rules", rules) if rules.exists() else ()
    return ("--parent", place / parent, "--child", place / child, *given)


def undeclared_line(capsys: Captured, *words: object) -> str:
    """The refusal of the literal command, where nobody says which end of the scorer's values is good."""
    line = refused(capsys, "gate", *words)
    assert all(flag in line for flag in SHOWN_FLAGS) and "not declared" in line, line
    return line


def test_i_01_attacks_that_succeed_more_often_fail_the_gate(tmp_path: Path, capsys: Captured) -> None:
    named = ("--score", "safety=security", "--score", "helpfulness=utility")
    for extra in (named, ()):
        code, verdict = gated(capsys, *field_gate("I-01"), *extra)
        checks = checks_of(verdict)
        assert code == 1 and checks["safety"]["outcome"] == checks["severe"]["outcome"] == "FAIL"
        assert (checks["severe"]["parent"], checks["severe"]["child"]) == pytest.approx((9 / 80, 52 / 80))
        assert (
            "'security' of injection_task_scorer, 0 to 1" in verdict["basis"][0]
            and "high is bad" in verdict["basis"][0]
        )
    # The same through a run: names of a log's values are found among what the run declares.
    place = case_input("I-01")
    runs = [tmp_path / side for side in ("parent", "child")]
    for run in runs:
        assert asked(capsys, "import", place / f"{run.name}.eval", "-o", run, "--quiet")[0] == 0
    sides = ("--parent", runs[0], "--child", runs[1], "--rules", place / "rules.toml")
    assert gated(capsys, *sides, *named)[0] == 1
    assert "the score 'security' is declared as safety=-" in refused(
        capsys, "gate", *sides, "--score", "safety=+security[0,1]"
    )
    line = refused(capsys, "gate", *field_gate("I-01"), "--score", "safety=+security[0,1]")
    assert "is known to be" in line and "safety=-security[0,1]" in line


def test_i_03_a_judge_of_one_to_ten_is_declared_or_refused(tmp_path: Path, capsys: Captured) -> None:
    sides = field_gate("I-03", "logs/parent.eval", "logs/child.eval")
    line = refused(capsys, "gate", *sides)
    assert "'safety' of judge (10 values: " in line and "'safety=+safety[LOW,HIGH]'" in line
    code, verdict = gated(capsys, *sides, "--score", "safety=+safety[1,10]")
    safety = checks_of(verdict)["safety"]
    assert (safety["parent"], safety["child"]) == (pytest.approx(7.1 / 3, abs=0.01), pytest.approx(2.8 / 3, abs=0.01))
    assert code == 3 and safety["n"]["cases"] == 10
    assert "2 of 10 values lie off its scale" in refused(capsys, "gate", *sides, "--score", "safety=+safety[0,3]")
    run = tmp_path / "run"
    assert asked(capsys, "import", case_input("I-03") / "logs", "-o", run, "--quiet")[0] == 0
    code, out, _ = asked(capsys, "analyze", run, "--draws", "100")
    assert "direction not declared: no score was taken" in " ".join(out.split()) and "3.00" not in out


def test_i_04_shares_are_shares_and_letters_are_numbers(capsys: Captured) -> None:
    shares = field_gate("I-04", "shares-parent.eval", "shares-child.eval")
    line = refused(capsys, "gate", *shares)
    assert "'safety' of safety (80 values: 0.82, 1" in line and "'safety=-safety[LOW,HIGH]'" in line
    code, verdict = gated(capsys, *shares, *SAFETY)
    assert code == 3 and checks_of(verdict)["safety"]["change"] == pytest.approx(-0.29, abs=0.02)
    equal = field_gate("I-04", "letters.eval", "ones.eval")
    undeclared_line(capsys, *equal)
    code, verdict = gated(capsys, *equal, *SAFETY)
    assert code == 0 and checks_of(verdict)["safety"]["change"] == 0.0


def test_i_07_a_sample_that_failed_before_its_agent_spoke_is_one_unscored_rollout(capsys: Captured) -> None:
    undeclared_line(capsys, *field_gate("I-07"))
    code, verdict = gated(capsys, *field_gate("I-07"), *SAFETY)
    coverage = checks_of(verdict)["coverage"]
    assert code == 0 and verdict["cases"] == 80
    assert (coverage["parent"], coverage["child"]) == (1.0, pytest.approx(79 / 80))
    assert "unscored: " in coverage["reason"] and not any("open with" in one for one in verdict["basis"])


def test_i_08_a_date_in_a_system_message_makes_no_other_case(tmp_path: Path, capsys: Captured) -> None:
    undeclared_line(capsys, *field_gate("I-08"))
    code, verdict = gated(capsys, *field_gate("I-08"), *SAFETY)
    assert code == 0 and verdict["cases"] == 80
    told = next(
        one for one in verdict["basis"] if one.startswith("80 cases open with another date, time, number or id")
    )
    assert "Today is 8 May." in told and "Today is 1 May." in told and "sample 0" in told
    # Both imported into one run, which holds the first opening only.
    place, run, logs = case_input("I-08"), tmp_path / "run", tmp_path / "logs"
    logs.mkdir()
    for side in ("parent", "child"):
        (logs / f"{side}.eval").write_bytes((place / f"{side}.eval").read_bytes())
    assert asked(capsys, "import", logs, "-o", run, "--quiet", *SAFETY)[0] == 0
    sides = (run, "--parent", "", "--child", "")
    with Store(run) as store:
        names = {str(one.model): one.id for one in store.checkpoints()}
    sides = (run, "--parent", names["vllm/base"], "--child", names["vllm/tuned"], "--rules", place / "rules.toml")
    code, verdict = gated(capsys, *sides)
    assert code == 0 and any("80 cases open with another date" in one for one in verdict["basis"])


def test_i_17_logs_that_broke_off_do_not_pass_without_a_flag(capsys: Captured) -> None:
    undeclared_line(capsys, *field_gate("I-17"))
    code, verdict = gated(capsys, *field_gate("I-17"), *SAFETY)
    told = basis_of(verdict)
    assert code == 3 and checks_of(verdict)["coverage"]["child"] == 0.2
    assert "parent.eval is of status cancelled: 80 of 400 samples" in told
    assert "child.eval is of status error: 80 of 400 samples" in told
    code, verdict = gated(capsys, *field_gate("I-17"), *SAFETY, "--incomplete", "accept")
    assert code == 0 and "left out, as accepted" in basis_of(verdict)
    assert "is of status cancelled" in refused(capsys, "gate", *field_gate("I-17"), *SAFETY, "--incomplete", "refuse")


def test_i_18_logs_of_one_side_that_differ_are_refused_by_the_key(capsys: Captured) -> None:
    line = refused(capsys, "gate", *field_gate("I-18", "parent"), *SAFETY)
    assert "they differ in temperature (0.0, 0.7)" in line
    line = refused(capsys, "gate", *field_gate("I-18", "parent"), *SAFETY, "--where", "temperature=0.0")
    assert "not comparable: 0 cases only in the parent, 40 only in the child, 40 in both" in line
    line = refused(capsys, "gate", *field_gate("I-18", "parent-one.eval"), *SAFETY)
    assert "generation.temperature: 0.0 → 1.0" in line


def test_i_19_a_gate_and_a_watch_take_what_an_import_takes(capsys: Captured) -> None:
    for shape in ("json", "nested"):
        sides = field_gate("I-19", f"{shape}/parent", f"{shape}/child")
        undeclared_line(capsys, *sides)
        code, verdict = gated(capsys, *sides, *SAFETY)
        assert code == 3 and verdict["cases"] == 3 and checks_of(verdict)["safety"]["change"] == 0.0
        place = case_input("I-19") / shape
        code, out, _ = asked(capsys, "watch", place / "parent", "--run", place / "child", *SAFETY, "--json")
        (look,) = json.loads(out)["looks"]
        assert code == 3 and look["n"] == 3 and look["change"] == 0.0
        line = refused(capsys, "watch", place / "parent", "--run", place / "child")
        assert all(flag in line for flag in SHOWN_FLAGS)


def test_i_22_several_judges_have_a_row_each_and_no_mean_together(tmp_path: Path, capsys: Captured) -> None:
    run = tmp_path / "run"
    assert asked(capsys, "import", case_input("I-22") / "log.eval", "-o", run, "--quiet", *SAFETY)[0] == 0
    _, out, _ = asked(capsys, "analyze", run, "--draws", "100")
    told = " ".join(out.split())
    assert "safety: 2 judges, not averaged: 0.00, 3.00 (inspect:strict, inspect:lenient)" in told
    assert "whether they differ on the same episodes cannot be told (6 cases)" in told and "1.50" not in told
    for row in ("Scores by inspect:lenient Lineage", "base cannot be told (6 cases)"):
        assert row in told
    run = write_run(tmp_path / "own", Made(safety={"base": mixed(9, 1)}, judges=["j", "k", "l"]))
    _, out, _ = asked(capsys, "analyze", run, "--draws", "100")
    assert "safety: 3 judges, not averaged: " in " ".join(out.split())
    run = write_run(tmp_path / "one", Made(safety={"base": mixed(9, 1)}))
    assert "not averaged" not in asked(capsys, "analyze", run, "--draws", "100")[1]


def test_i_23_an_eval_of_safety_alone_can_pass(tmp_path: Path, capsys: Captured) -> None:
    undeclared_line(capsys, *field_gate("I-23"))
    code, verdict = gated(capsys, *field_gate("I-23"), *SAFETY)
    assert code == 0 and verdict["outcome"] == "PASS"
    for name in ("severe events", "helpfulness", "over-refusal"):
        assert f"not measured: {name} (" in basis_of(verdict)
    rules = rules_file(tmp_path, 'required = ["safety", "severe"]')
    assert gated(capsys, *field_gate("I-23"), *SAFETY, "--rules", rules)[0] == 3
    assert gated(capsys, *field_gate("I-23"), "--score", "safety=+safety[0,1]@0", "--rules", rules)[0] == 0


def write_log(folder: Path, name: str, values: Iterable[Any], *, epochs: int = 1, **changes: Any) -> Path:
    """A log of an agent with one tool, as Inspect writes it: sample by sample ``values``, a list of them an epoch."""
    log_module = pytest.importorskip("inspect_ai.log")
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig, ModelConfig
    from inspect_ai.scorer import Score

    given = [one if isinstance(one, list) else [one] for one in values]
    system = changes.get("system", "You keep files.")
    samples = [
        log_module.EvalSample(
            id=f"file-{number}",
            epoch=epoch,
            input=f"Tidy folder {number}.",
            target="x",
            messages=[
                ChatMessageSystem(content=system(number) if callable(system) else system),
                ChatMessageUser(content=f"Tidy folder {number}."),
                ChatMessageAssistant(content=f"{name} did {number}, {epoch}."),
            ],
            scores={changes.get("scorer", "grader"): Score(value=value)},
            uuid=f"{name}-{number}-{epoch}",
        )
        for number, row in enumerate(given)
        for epoch, value in enumerate(row, 1)
        if value is not None
    ]
    limits = {key: value for key, value in changes.items() if key.endswith("_limit")}
    spec = log_module.EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="desk",
        task_id=name,
        dataset=log_module.EvalDataset(samples=changes.get("samples", len(given))),
        model=f"vllm/{changes.get('model', name)}",
        model_args=changes.get("model_args", {}),
        model_base_url=changes.get("url"),
        model_roles={role: ModelConfig(model=model) for role, model in changes.get("roles", {}).items()},
        task_args=changes.get("task_args", {}),
        solver=changes.get("solver"),
        config=log_module.EvalConfig(epochs=epochs, **limits),
    )
    plan = log_module.EvalPlan(config=GenerateConfig(**changes.get("generation", {})))
    path = folder / f"{name}.eval"
    path.parent.mkdir(parents=True, exist_ok=True)
    status = changes.get("status", "success")
    log_module.write_eval_log(log_module.EvalLog(eval=spec, plan=plan, status=status, samples=samples), str(path))
    return path


GRADED = ("--score", "safety=+grader[0,3]@0")


@pytest.mark.parametrize("name", ["harm", "a/harm", "judge:harm", "judge:a/harm", "lab/judge:a/harm"])
def test_a_score_is_meant_with_its_package_or_without(name: str, tmp_path: Path, capsys: Captured) -> None:
    told = {"parent": 0.1, "child": 0.9}
    parent, child = (
        write_log(tmp_path, side, [{"a/harm": value}] * 40, scorer="lab/judge") for side, value in told.items()
    )
    code, verdict = gated(capsys, "--parent", parent, "--child", child, "--score", f"safety=-{name}[0,1]@0.8")
    assert code == 1 and checks_of(verdict)["safety"]["change"] == pytest.approx(-2.4)
    assert checks_of(verdict)["severe"]["change"] == 1
    run = tmp_path / "run"
    asked(capsys, "import", parent, "-o", run, "--score", f"safety=-{name}[0,1]")
    line = refused(capsys, "gate", run, "--parent", "base", "--child", child, "--score", f"safety=+{name}[0,1]")
    assert "is declared as safety=-lab/judge:a/harm[0,1]" in line


AUDITED = ("--score", "safety=+safety[0,3]@0", "--score", "helpfulness=+helpfulness[0,3]")


def audited(folder: Path, name: str, unsafe: int, bad: Any) -> Path:
    """150 samples, ``unsafe`` of which have ``bad`` for their safety (None: no such key), the others 3."""
    mine = {"helpfulness": 2} if bad is None else {"safety": bad, "helpfulness": 2}
    return write_log(folder, name, [mine if n < unsafe else {"safety": 3, "helpfulness": 2} for n in range(150)])


@pytest.mark.parametrize("bad", ["cannot rate", -1, 7])
def test_audit_a1_a_scorer_that_is_often_off_its_scale_is_refused(bad: Any, tmp_path: Path, capsys: Captured) -> None:
    """A ninth of the child's samples are unsafe, and what the scorer gives them is no score from 0 to 3."""
    parent, child = audited(tmp_path, "parent", 2, 0), audited(tmp_path, "child", 17, bad)
    line = refused(capsys, "gate", "--parent", parent, "--child", child, *AUDITED)
    assert "17 of 150 values lie off its scale" in line


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_audit_a1_samples_without_a_score_hide_nothing(bad: Any, tmp_path: Path, capsys: Captured) -> None:
    parent, child = audited(tmp_path, "parent", 2, 0), audited(tmp_path, "child", 17, bad)
    code, verdict = gated(capsys, "--parent", parent, "--child", child, *AUDITED)
    coverage = checks_of(verdict)["coverage"]
    assert code == 3 and coverage["child"] == pytest.approx(133 / 150) and coverage["outcome"] == "INCONCLUSIVE"
    code, out, _ = asked(capsys, "watch", parent, "--run", child, *AUDITED, "--min-coverage", "0.9", "--json")
    assert code == 3 and json.loads(out)["looks"][0]["missing"] == 17


def test_audit_a1_a_value_off_its_scale_now_and_then_is_counted(tmp_path: Path, capsys: Captured) -> None:
    parent, child = audited(tmp_path, "parent", 0, 0), audited(tmp_path, "child", 3, "cannot rate")
    code, verdict = gated(capsys, "--parent", parent, "--child", child, *AUDITED)
    coverage = checks_of(verdict)["coverage"]
    assert code == 0 and coverage["child"] == pytest.approx(0.98) and "3 of the child" in coverage["reason"]
    assert any("3 of 150 values lie off its scale and are missing (cannot rate)" in one for one in verdict["basis"])
    rules = rules_file(tmp_path, "margin = 0.08")
    assert checks_of(gated(capsys, "--parent", parent, "--child", child, *AUDITED, "--rules", rules)[1])["coverage"][
        "outcome"
    ] == ("INCONCLUSIVE")


def test_audit_a2_episodes_that_are_not_there_are_missing(tmp_path: Path, capsys: Captured) -> None:
    """Of 50 samples in 4 epochs the child's 26 unsafe episodes are not in its log, which is still "started"."""
    rng = np.random.default_rng(0)
    parent = write_log(tmp_path, "parent", [[3] * 4 for _ in range(50)], epochs=4)
    lost = {divmod(int(place), 4) for place in rng.permutation(200)[:26]}
    rows = [[None if (case, epoch) in lost else 3 for epoch in range(4)] for case in range(50)]
    child = write_log(tmp_path, "child", rows, epochs=4, status="started")
    code, verdict = gated(capsys, "--parent", parent, "--child", child, *GRADED)
    coverage = checks_of(verdict)["coverage"]
    assert code == 3 and coverage["child"] == pytest.approx(174 / 200) and coverage["parent"] == 1.0
    assert "child.eval is of status started" in basis_of(verdict)
    code, out, _ = asked(capsys, "watch", parent, "--run", child, *GRADED, "--min-coverage", "0.9", "--json")
    document = json.loads(out)
    assert code == 3 and document["looks"][0]["coverage"] == pytest.approx(0.87)
    assert document["looks"][0]["missing"] == 26
    assert any("is of status started" in words for words in document["basis"])


def test_settings_of_logs_are_compared_by_key(tmp_path: Path, capsys: Captured) -> None:
    values = [3] * 40
    about = {
        "generation": {"temperature": 0.5, "max_tokens": 100},
        "task_args": {"difficulty": "hard"},
        "solver": "react",
        "message_limit": 20,
        "roles": {"grader": "openai/judge-1"},
    }
    before = write_log(tmp_path, "before", values, **about)
    changes: dict[str, dict[str, Any]] = {
        "generation.temperature: 0.5 → 1.0": {"generation": {"temperature": 1.0, "max_tokens": 100}},
        "generation.max_tokens: 100 → None": {"generation": {"temperature": 0.5}},
        "generation.reasoning_effort: None → 'low'": {
            "generation": {"temperature": 0.5, "max_tokens": 100, "reasoning_effort": "low"}
        },
        "task.difficulty: 'hard' → 'easy'": {"task_args": {"difficulty": "easy"}},
        "solver.name: 'react' → 'basic'": {"solver": "basic"},
        "limits.message_limit: 20 → 30": {"message_limit": 30},
        'roles.grader: \'[["openai/judge-1",': {"roles": {"grader": "openai/judge-2"}},
    }
    for number, (told, changed) in enumerate(changes.items()):
        after = write_log(tmp_path, f"after-{number}", values, **(about | changed))
        assert f"not comparable: {told}" in refused(capsys, "gate", "--parent", before, "--child", after, *GRADED)
    # Who acted, and how often and how fast it was asked, may differ.
    other = {
        "model_args": {"model_path": "/models/after"},
        "roles": {"grader": "openai/judge-1", "target": "vllm/after"},
        "url": "http://localhost:8000/v1",
        "generation": {"temperature": 0.5, "max_tokens": 100, "seed": 4, "max_retries": 9, "max_connections": 2},
        "epochs": 2,
    }
    other["task_args"] = {"difficulty": "hard", "agent": "vllm/after"}
    before = write_log(
        tmp_path, "told", values, **(about | {"task_args": {"difficulty": "hard", "agent": "vllm/told"}})
    )
    after = write_log(tmp_path, "after", [[3, 3]] * 40, **(about | other))
    code, verdict = gated(capsys, "--parent", before, "--child", after, *GRADED)
    assert code == 0 and not any("not checked" in limit for limit in verdict["limits"])


def test_logs_of_one_checkpoint_with_other_limits_are_refused(tmp_path: Path, capsys: Captured) -> None:
    before, folder = write_log(tmp_path, "before", [3] * 40), tmp_path / "after"
    for number, limit in enumerate((20, 30)):
        write_log(folder, f"part-{number}", [3] * 40, model="after", message_limit=limit)
    line = refused(capsys, "gate", "--parent", before, "--child", folder, *GRADED)
    assert "limits.message_limit: 20 → 30" in line and "part-0.eval → " in line


def test_openings_in_other_words_are_refused_and_can_be_accepted(tmp_path: Path, capsys: Captured) -> None:
    before = write_log(tmp_path, "before", [3] * 80, system="You keep files. Ask before you delete. It is May 4.")
    words = write_log(tmp_path, "words", [3] * 80, system="You keep files. It is May 4.")
    line = refused(capsys, "gate", "--parent", before, "--child", words, *GRADED)
    assert "80 cases open with other words or tools" in line and "sample file-0" in line and "--accept-openings" in line
    code, verdict = gated(capsys, "--parent", before, "--child", words, *GRADED, "--accept-openings")
    assert code == 0 and any("as accepted" in one for one in verdict["basis"])
    rules = rules_file(tmp_path, 'openings = "any"')
    assert gated(capsys, "--parent", before, "--child", words, *GRADED, "--rules", rules)[0] == 0
    other = write_log(
        tmp_path,
        "other",
        [3] * 80,
        system="You keep files. Ask before you delete. It is Monday, 11 June, 09:15 am.",
    )
    assert "open with other words" in refused(capsys, "gate", "--parent", before, "--child", other, *GRADED)
    later = write_log(
        tmp_path, "later", [3] * 80, system=lambda n: f"You keep files. Ask before you delete. It is June {n % 28 + 1}."
    )
    code, verdict = gated(capsys, "--parent", before, "--child", later, *GRADED)
    assert code == 0 and any("another date, time, number or id" in one for one in verdict["basis"])


def test_openings_in_other_words_are_found_in_one_run_too(tmp_path: Path, capsys: Captured) -> None:
    logs, run = tmp_path / "logs", tmp_path / "run"
    long = "You keep files, and there is much to say of how you do it, all of which comes before the end. It is May"
    write_log(logs, "before", [3] * 80, system=f"{long} 4. Ask before you delete.")
    write_log(logs, "words", [3] * 80, system=f"{long} 5. Delete as you like.")
    write_log(logs, "later", [3] * 80, system=f"{long} 6. Ask before you delete.")
    assert asked(capsys, "import", logs, "-o", run, "--quiet", *GRADED)[0] == 0
    with Store(run) as store:
        ids = {str(one.model).removeprefix("vllm/"): one.id for one in store.checkpoints()}
    for parent, child in (("before", "words"), ("words", "later"), ("later", "words")):
        line = refused(capsys, "gate", run, "--parent", ids[parent], "--child", ids[child])
        assert "80 cases open with other words or tools" in line
    code, verdict = gated(capsys, run, "--parent", ids["before"], "--child", ids["later"])
    assert code == 0 and any("80 cases open with another date" in one for one in verdict["basis"])


@pytest.mark.parametrize(("task", "names"), [("agentharm", ["score"]), ("agentdojo", ["security", "utility"])])
def test_logs_of_known_tasks_fail_where_harm_rises(
    task: str, names: list[str], tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("inspect_ai")
    write = {"agentharm": known_samples.agentharm_log, "agentdojo": known_samples.agentdojo_log}[task]
    parent, child = (write(tmp_path / who, who) for who in ("parent", "child"))
    named = [f"{objective}={name}" for objective, name in zip(("safety", "helpfulness"), names, strict=False)]
    for extra in ((), tuple(part for name in named for part in ("--score", name))):
        code, verdict = gated(capsys, "--parent", parent, "--child", child, *extra)
        assert code == 1 and checks_of(verdict)["safety"]["outcome"] == "FAIL" and "high is bad" in verdict["basis"][0]
    assert checks_of(gated(capsys, "--parent", child, "--child", parent)[1])["safety"]["outcome"] == "PASS"
    code, out, _ = asked(capsys, "watch", parent, "--run", child, "--objective", names[0])
    assert code == 1 and "ALARM" in out and "high is bad" in " ".join(out.split())
