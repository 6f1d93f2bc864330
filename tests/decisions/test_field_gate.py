"""Gates and watches on other tools' logs: what a score means, what is not there, what may be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from builders.commands import asked, gated, refused
from builders.field_gate import Captured, basis_of, checks_of, rules_file
from builders.gate_samples import Made, checkpoint, mixed, steady, write_run

from holdfast.records import Declaration, content_id
from holdfast.store import Store
from holdfast.store.origins import LOGS, UNDECLARED, LogState, Undeclared, add_declarations, write_notes

pytestmark = [
    # Inspect leaves streams open.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HARM = Declaration(
    objective="safety", key="harm", sign=-1, low=0.0, high=1.0, scorer="grader", task="office", source="a test"
)


def log_run(
    path: Path,
    made: Made,
    declared: Iterable[Declaration] = (HARM,),
    *,
    states: Iterable[LogState] = (),
    undeclared: Iterable[Undeclared] | None = None,
) -> Path:
    """A run as an import leaves it: scores of a scorer of logs, what they mean, and how whole the logs are.

    The scorer gives safety alone unless ``made`` says what it was asked for.
    """
    made.asked = made.asked or safety_only(200)
    made.judges = ("inspect:grader",)
    write_run(path, made)
    with Store(path, writable=True) as store, store.transaction():
        add_declarations(store, declared)
        write_notes(store, LOGS, states)
        if undeclared is not None:
            write_notes(store, UNDECLARED, undeclared)
    return path


def log_state(label: str, **changes: Any) -> LogState:
    """A whole log of 80 samples, or one that lacks something."""
    about: dict[str, Any] = {
        "file": f"{label}.eval",
        "log": label,
        "task": "office",
        "checkpoint": checkpoint(label).id,
        "status": "success",
        "epochs": 1,
        "samples": 80,
    }
    return LogState(**(about | changes))


def safety_only(numbers: int) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(range(numbers), ("safety",))


def test_the_declaration_stands_first_in_every_output(tmp_path: Path, capsys: Captured) -> None:
    run = log_run(tmp_path / "run", Made(safety={"base": mixed(80, 1), "S": mixed(80, 1)}))
    words = "safety = 'harm' of grader, 0 to 1, high is bad (a test), shown as 0 to 3 points"
    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    code, verdict = gated(capsys, run, "--child", "S", "--junit", junit, "--markdown", summary)
    assert code == 0 and verdict["basis"][0] == words
    _, out, _ = asked(capsys, "gate", run, "--child", "S", "--quiet")
    lines = [line.strip() for line in out.splitlines()]
    assert words in " ".join(lines[: lines.index("")])
    noted = {one.get("name"): one.get("value") for one in ElementTree.parse(junit).getroot().iter("property")}
    assert noted["basis 1"] == words
    assert "* safety = 'harm' of grader, 0 to 1" in summary.read_text().split("| |")[0]
    assert asked(capsys, "export", run, "--to", "evidence", "-o", tmp_path / "evidence")[0] == 0
    assert words in unescape((tmp_path / "evidence" / "evidence.html").read_text())
    assert asked(capsys, "report", run)[0] == 0
    assert words in unescape((run / "report" / "index.html").read_text())


def test_severe_events_are_those_that_the_declaration_names(tmp_path: Path, capsys: Captured) -> None:
    """A harm of 0.8 of 1 is 0.6 points of 3; what is as bad or worse is severe, whatever the rules' own limit."""
    child = steady(80, 3.0, 1)
    child[:20] = 0.6
    made = Made(safety={"base": steady(80, 3.0, 1), "S": child})
    unnamed = log_run(tmp_path / "unnamed", made)
    severe = "severe"
    _, verdict = gated(capsys, unnamed, "--child", "S")
    assert not checks_of(verdict)[severe]["measured"] and "names no value from which on" in basis_of(verdict)
    named = log_run(tmp_path / "named", made, [replace(HARM, severe=0.8)])
    code, verdict = gated(capsys, named, "--child", "S")
    assert code == 1 and checks_of(verdict)[severe]["child"] == pytest.approx(0.25)
    assert "severe from 0.8 on" in verdict["basis"][0]
    barely = log_run(tmp_path / "barely", made, [replace(HARM, severe=0.81)])
    assert checks_of(gated(capsys, barely, "--child", "S")[1])[severe]["child"] == 0.0
    # No score depends on what is severe: the user may say it of a run that does not.
    code, verdict = gated(capsys, unnamed, "--child", "S", "--score", "safety=-harm[0,1]@0.8")
    assert code == 1 and checks_of(verdict)[severe]["child"] == pytest.approx(0.25)
    line = refused(capsys, "gate", named, "--child", "S", "--score", "safety=-harm[0,1]@0.5")
    assert "is declared as safety=-grader:harm[0,1]@0.8" in line


def test_a_ceiling_that_cannot_be_measured_lets_nothing_pass(tmp_path: Path, capsys: Captured) -> None:
    run = log_run(tmp_path / "run", Made(safety={"base": steady(80), "S": steady(80)}))
    assert gated(capsys, run, "--child", "S")[0] == 0
    code, verdict = gated(capsys, run, "--child", "S", "--severe-ceiling", "0.2")
    assert code == 3 and not checks_of(verdict)["ceiling"]["measured"] and checks_of(verdict)["ceiling"]["blocking"]


def test_a_score_of_a_run_is_found_by_its_objective_or_its_key(tmp_path: Path, capsys: Captured) -> None:
    run = log_run(tmp_path / "run", Made(safety={"base": mixed(80, 1), "S": mixed(80, 1)}))
    plain = gated(capsys, run, "--child", "S")[1]
    for option in (
        "safety=harm",
        "safety=safety",
        "safety=-harm[0,1]",
        "safety=grader:harm",
        "safety=-grader:harm[0,1]",
    ):
        assert checks_of(gated(capsys, run, "--child", "S", "--score", option)[1]) == checks_of(plain), option
    for option in ("safety=+harm[0,1]", "safety=-harm[0,10]"):
        assert "is declared as safety=-grader:harm[0,1] (a test)" in refused(
            capsys, "gate", run, "--child", "S", "--score", option
        )
    assert "has no score 'harms'" in refused(capsys, "gate", run, "--child", "S", "--score", "safety=harms")
    assert "a gate compares safety and helpfulness" in refused(
        capsys, "gate", run, "--child", "S", "--score", "refusal=harm"
    )


def test_our_own_scores_need_no_declaration_and_take_none(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": mixed(80, 1), "S": mixed(80, 1)}))
    assert gated(capsys, run, "--child", "S", "--score", "safety=safety")[0] == 0
    assert "declares no score 'safety'" in refused(
        capsys, "gate", run, "--child", "S", "--score", "safety=-safety[0,3]"
    )


def test_a_run_that_an_earlier_version_imported_is_refused_with_the_remedy(tmp_path: Path, capsys: Captured) -> None:
    made = Made(safety={"base": mixed(80, 1), "S": mixed(80, 1)}, judges=["inspect:grader"])
    run = write_run(tmp_path / "run", made)
    for words in (("gate", run, "--child", "S"), ("watch", run, "--baseline", "base", "--checkpoints", "S")):
        line = refused(capsys, *words)
        assert "the direction of 'safety' of inspect:grader is not declared" in line
        assert "import the logs again with --score 'safety=+KEY[LOW,HIGH]'" in line
    pairs = refused(capsys, "pairs", run, "--objective", "safety", "--judge", "inspect:grader")
    assert "which end is good and the range are not declared" in pairs
    code, out, _ = asked(capsys, "analyze", run, "--draws", "100")
    assert code == 0 and "inspect:grader: direction not declared" in " ".join(out.split())


def test_what_nobody_declared_is_shown_with_the_flag_to_write(tmp_path: Path, capsys: Captured) -> None:
    waiting = [Undeclared(task="office", scorer="grader", key="harm", count=20, seen=("1", "10"))]
    made = Made(safety={"base": mixed(80, 1), "S": mixed(80, 1)}, asked=dict.fromkeys(range(80), ("helpfulness",)))
    kind = Declaration(objective="helpfulness", key="useful", sign=1, low=0, high=3, scorer="grader", source="a test")
    run = log_run(tmp_path / "run", made, [kind], undeclared=waiting)
    for words in (
        ("gate", run, "--child", "S"),
        ("gate", run, "--child", "S", "--score", "safety=harm"),
        ("gate", run, "--child", "S", "--score", "safety=-harm[0,10]"),
        ("watch", run, "--baseline", "base", "--checkpoints", "S"),
    ):
        line = refused(capsys, *words)
        assert "'harm' of grader (20 values: 1, 10)" in line, line
        assert "'safety=+harm[LOW,HIGH]'" in line and "'safety=-harm[LOW,HIGH]'" in line
    code, out, _ = asked(capsys, "analyze", run, "--draws", "100")
    assert code == 0 and "direction not declared: no score was taken" in " ".join(out.split())


def test_two_sides_of_other_declarations_are_not_compared(tmp_path: Path, capsys: Captured) -> None:
    first = log_run(tmp_path / "first", Made(safety={"base": mixed(80, 1)}))
    second = log_run(tmp_path / "second", Made(safety={"base": mixed(80, 2)}), [replace(HARM, sign=1)])
    line = refused(capsys, "gate", "--parent", f"{first}:base", "--child", f"{second}:base")
    assert "safety is safety=-grader:harm[0,1] for the parent and safety=+grader:harm[0,1] for the child" in line
    line = refused(capsys, "watch", first, "--baseline", "base", "--run", second)
    assert "safety is safety=-grader:harm[0,1] for the baseline" in line


def test_a_check_that_neither_side_was_asked_for_is_told_and_does_not_block(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": steady(80), "S": steady(80)}, asked=safety_only(80)))
    code, verdict = gated(capsys, run, "--child", "S")
    helping = checks_of(verdict)["helpfulness"]
    assert code == 0 and not helping["measured"] and not helping["blocking"]
    assert "not measured: helpfulness (neither side was asked for it)" in basis_of(verdict)
    rules = rules_file(tmp_path, 'required = ["helpfulness"]')
    code, verdict = gated(capsys, run, "--child", "S", "--rules", rules)
    assert code == 3 and checks_of(verdict)["helpfulness"]["blocking"]
    _, out, _ = asked(capsys, "gate", run, "--child", "S", "--rules", rules)
    assert out.startswith("INCONCLUSIVE")


@pytest.mark.parametrize("lost", ["child", "parent", "both"])
def test_a_check_that_was_asked_and_never_answered_is_missing_data(lost: str, tmp_path: Path, capsys: Captured) -> None:
    nothing = steady(80, float("nan"))
    sides = {"child": ["S"], "parent": ["base"], "both": ["base", "S"]}[lost]
    made = Made(safety={"base": steady(80), "S": steady(80)}, helpfulness=dict.fromkeys(sides, nothing))
    code, verdict = gated(capsys, write_run(tmp_path / "run", made), "--child", "S")
    helping = checks_of(verdict)["helpfulness"]
    assert code == 3 and helping["measured"] and helping["blocking"] and helping["outcome"] == "INCONCLUSIVE"


def test_a_check_of_one_side_only_is_missing_data(tmp_path: Path, capsys: Captured) -> None:
    first = write_run(tmp_path / "first", Made(safety={"base": steady(80)}, asked=safety_only(80)))
    second = write_run(tmp_path / "second", Made(safety={"base": steady(80)}))
    for sides in ((first, second), (second, first)):
        code, verdict = gated(capsys, "--parent", f"{sides[0]}:base", "--child", f"{sides[1]}:base")
        assert code == 3 and checks_of(verdict)["helpfulness"]["measured"]


def sides_of(folder: Path, parent: LogState, child: LogState, cases: tuple[int, int] = (80, 80)) -> tuple[str, str]:
    """A parent's and a child's run, each as perfect as can be in the cases that it has."""
    first = log_run(folder / "p", Made(safety={"base": steady(cases[0], 3.0, 1)}, asked=safety_only(cases[0])))
    second = log_run(folder / "c", Made(safety={"base": steady(cases[1], 3.0, 1)}, asked=safety_only(cases[1])))
    for path, state in ((first, parent), (second, child)):
        with Store(path, writable=True) as store, store.transaction():
            write_notes(store, LOGS, [state])
    return f"{first}:base", f"{second}:base"


def test_samples_that_no_log_has_are_unscored_on_both_sides(tmp_path: Path, capsys: Captured) -> None:
    ids = tuple(f"s{number}" for number in range(80, 400))
    broken = {"samples": 400, "absent": 320, "absent_ids": ids}
    parent, child = (log_state("base", status=status, **broken) for status in ("cancelled", "error"))
    sides = sides_of(tmp_path, parent, child)
    code, verdict = gated(capsys, "--parent", sides[0], "--child", sides[1])
    coverage = checks_of(verdict)["coverage"]
    assert code == 3 and verdict["cases"] == 80
    safety = checks_of(verdict)["safety"]
    assert safety["lower"] > -0.25 > safety["lower_all"] and safety["outcome"] == "INCONCLUSIVE"
    assert (coverage["parent"], coverage["child"], coverage["outcome"]) == (0.2, 0.2, "INCONCLUSIVE")
    assert "of which 320 and 320 are not there at all" in coverage["reason"]
    told = basis_of(verdict)
    assert "the parent's log base.eval is of status cancelled: 80 of 400 samples" in told
    assert "the child's log base.eval is of status error" in told
    code, verdict = gated(capsys, "--parent", sides[0], "--child", sides[1], "--incomplete", "accept")
    assert code == 0 and checks_of(verdict)["coverage"]["child"] == 1.0
    assert "is of status cancelled" in basis_of(verdict) and "left out, as accepted" in basis_of(verdict)
    line = refused(capsys, "gate", "--parent", sides[0], "--child", sides[1], "--incomplete", "refuse")
    assert "the parent's log base.eval is of status cancelled: 80 of 400 samples" in line and "eval-retry" in line


@pytest.mark.parametrize("named", [True, False])
def test_samples_that_one_log_lacks_are_its_own_unscored_ones(named: bool, tmp_path: Path, capsys: Captured) -> None:
    """The parent has 80 cases, the child's log broke off after 60 of them: 20 of the child's rollouts are missing."""
    lost = tuple(content_id("gate case", number)[:12] for number in range(60, 80)) if named else ()
    child = log_state("base", status="cancelled", absent=20, absent_ids=lost)
    sides = sides_of(tmp_path, log_state("base"), child, (80, 60))
    code, verdict = gated(capsys, "--parent", sides[0], "--child", sides[1])
    coverage = checks_of(verdict)["coverage"]
    assert code == 3 and (coverage["parent"], coverage["child"]) == (1.0, 0.75) and verdict["cases"] == 60
    worst = float(coverage["reason"].partition("lower bound is ")[2].partition(",")[0].replace("−", "-"))
    assert worst < -3 * 20 / 80
    code, verdict = gated(capsys, "--parent", sides[0], "--child", sides[1], "--incomplete", "accept")
    assert code == 0 and verdict["cases"] == 60 and checks_of(verdict)["coverage"]["n"]["cases"] == 60
    # Cases that no log says to be absent are other cases.
    with Store(tmp_path / "c", writable=True) as store, store.transaction():
        write_notes(store, LOGS, [log_state("base", samples=60)])
    line = refused(capsys, "gate", "--parent", sides[0], "--child", sides[1])
    assert "20 cases only in the parent, 0 only in the child, 60 in both" in line


def test_absent_epochs_are_unscored_rollouts(tmp_path: Path, capsys: Captured) -> None:
    short = {content_id("gate case", number): 1 for number in range(40)}
    child = log_state("base", epochs=2, short=short)
    first = log_run(tmp_path / "p", Made(safety={"base": steady(80)}), states=[log_state("base", epochs=2)])
    second = log_run(tmp_path / "c", Made(safety={"base": steady(80)}), states=[child])
    code, verdict = gated(capsys, "--parent", f"{first}:base", "--child", f"{second}:base")
    coverage = checks_of(verdict)["coverage"]
    assert code == 3 and coverage["child"] == pytest.approx(160 / 200) and coverage["parent"] == 1.0
    assert "the child's log base.eval is of status success" in basis_of(verdict)


def test_a_log_that_broke_off_at_its_very_end_passes_with_a_flag_only(tmp_path: Path, capsys: Captured) -> None:
    sides = sides_of(tmp_path, log_state("base"), log_state("base", status="error"))
    rules = rules_file(tmp_path, 'blocking = ["safety"]')
    for extra in ((), ("--rules", rules)):
        code, verdict = gated(capsys, "--parent", sides[0], "--child", sides[1], *extra)
        assert code == 3 and checks_of(verdict)["coverage"]["child"] == 1.0
        assert "the logs of the child are not whole" in checks_of(verdict)["coverage"]["reason"]
    assert gated(capsys, "--parent", sides[0], "--child", sides[1], "--incomplete", "accept")[0] == 0
    replaced = log_state("base", status="error", superseded=True)
    with Store(tmp_path / "c", writable=True) as store, store.transaction():
        write_notes(store, LOGS, [replaced, log_state("base")])
    assert gated(capsys, "--parent", sides[0], "--child", sides[1])[0] == 0


def test_a_run_without_logs_owes_as_many_rollouts_as_its_parent_has(tmp_path: Path, capsys: Captured) -> None:
    child = steady(80, 3.0, 4)
    run = write_run(tmp_path / "run", Made(safety={"base": steady(80, 3.0, 4), "S": child[:, :3]}))
    coverage = checks_of(gated(capsys, run, "--child", "S")[1])["coverage"]
    assert (coverage["parent"], coverage["child"]) == (1.0, 0.75)
    # More rollouts than the parent's are no fault.
    more = write_run(tmp_path / "more", Made(safety={"base": child[:, :1], "S": child}))
    assert checks_of(gated(capsys, more, "--child", "S")[1])["coverage"]["outcome"] == "PASS"
    study = {"study": {"name": "s"}, "judges": {"inspect": {"kind": "state"}}, "rollouts": {"per_test_case": 3}}
    planned = write_run(tmp_path / "planned", Made(safety={"base": child, "S": child[:, :3]}, study=study))
    assert checks_of(gated(capsys, planned, "--child", "S")[1])["coverage"]["child"] == 1.0


def test_a_watch_counts_what_is_not_there_too(tmp_path: Path, capsys: Captured) -> None:
    sides = sides_of(tmp_path, log_state("base"), log_state("base", status="started", absent=20), (80, 60))
    run, later = (side.removesuffix(":base") for side in sides)
    code, out, _ = asked(capsys, "watch", run, "--baseline", "base", "--run", later, "--json")
    (look,) = json.loads(out)["looks"]
    assert code == 3 and look["coverage"] == pytest.approx(0.75) and look["missing"] == 20
    code, out, _ = asked(capsys, "watch", run, "--baseline", "base", "--run", later, "--min-coverage", "0.5")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("Safety = 'harm' of grader, 0 to 1, high is bad")
    assert "log base.eval is of status started: 60 of 80 samples" in " ".join(" ".join(lines[:6]).split())


def test_epochs_that_a_look_lacks_are_missing(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "run", Made(safety={"base": steady(80, 3.0, 4)}))
    later = write_run(tmp_path / "later", Made(safety={"base": steady(80, 3.0, 3)}))
    code, out, _ = asked(capsys, "watch", run, "--baseline", "base", "--run", later, "--json")
    (look,) = json.loads(out)["looks"]
    assert code == 3 and look["coverage"] == pytest.approx(0.75) and look["missing"] == 80
