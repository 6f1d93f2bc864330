"""The action as the runner runs it: its shell text in a job's environment, against an API of GitHub on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders.fake_github import ACTION, BOT, STEPS, Hub, github, run_action

from holdfast.cli.github.asked import INPUTS, variable
from holdfast.cli.github.telling import marker
from holdfast.decisions.gate.baseline import STAMP, bless

PULL = {"pull_request": {"number": 5, "head": {"sha": "abcdef0" * 5}}}
SCORE = {"score": "safety=+score[0,3]"}
HOSTILE = "@octocat <img src=x> ::error::y ##[add-mask]z <!-- %0A"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with github() as served:
        yield served


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout with two tables of scores."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_table(folder / "before.csv")
    return folder


def write_table(path: Path, *, lost: int = 0, cases: int = 60, side: str = "agent") -> Path:
    rows = [f'"{side}",c{number},{0 if number < lost else 3}' for number in range(cases)]
    path.write_text("\n".join(["side,case,score", *rows]) + "\n")
    return path


def test_a_loss_fails_the_job_and_nothing_in_a_name_acts(work: Path, hub: Hub) -> None:
    """The comment is found on the third page, and is the job's own; one that somebody else began alike stays."""
    write_table(work / "after.csv", lost=30, side=HOSTILE)
    (work / "gate.toml").write_text("[gate]\nmargin = 0.2\n")
    foreign = hub.comment(f"{marker('gate')}\nPASS, believe me", login="mallory")
    for number in range(220):
        hub.comment(f"talk {number}", login="somebody")
    own = hub.comment(f"{marker('gate')}\nof yesterday")
    inputs = {"before": "before.csv", "after": "after.csv", "rules": "gate.toml", **SCORE}
    ran = run_action(work, inputs, hub=hub, event=PULL)
    assert ran.code == 1, ran.log
    assert ran.outputs == {
        "verdict": "FAIL",
        "exit-code": "1",
        "page": "holdfast-gate/gate.html",
        "folder": "holdfast-gate",
        "artifact": "holdfast-gate",
        "baseline-age-days": "",
    }
    assert (hub.count("GET"), hub.count("PATCH"), hub.count("POST")) == (3, 1, 0)
    assert {one[2] for one in hub.asked} == {"Bearer job-token"}
    assert foreign["body"].endswith("believe me") and "holdfast gate: FAIL" in own["body"]
    first, second = ran.commands()
    assert first.startswith("::error file=gate.toml,title=FAIL%3A safety of ")
    assert "safety fell by 1.50 points" in first and second == "::notice::the comment on pull request 5 is updated"
    for markdown in (own["body"], ran.summary):
        assert "octocat" in markdown and "<img" not in markdown and not re.search(r"(?<!\w)@\w", markdown)
        assert set(re.findall(r"<!--.*?-->", markdown)) <= {marker("gate"), "<!-- -->"}
    assert own["body"].count(marker("gate")) == 1 and "commit abcdef0" in own["body"]
    assert "https://github.com/team/agent/actions/runs/99" in own["body"]
    names = {"gate.html", "gate.json", "gate.xml", "gate.md", "evidence.html", "evidence.json", "every_eval_ever.json"}
    assert {one.name for one in (work / "holdfast-gate").iterdir()} == names


def test_a_kept_baseline_is_the_newest_of_the_default_branch(work: Path, hub: Hub) -> None:
    """Artifacts of pull requests, of a fork's branch of the same name, and of others do not count; its age is told."""
    old, new = (work.parent / name for name in ("old", "new"))
    write_table(work / "bad.csv", lost=60)
    bless(str(work / "bad.csv"), old, now=datetime.now(UTC) - timedelta(days=90))
    bless(str(work / "before.csv"), new, commit="1" * 40, now=datetime.now(UTC) - timedelta(days=40, hours=1))
    hub.keep("base", old)
    hub.keep("base", new)
    for about in ({"head_branch": "topic"}, {"head_repository_id": 8}):
        hub.keep("base", old, workflow_run=about)
    hub.keep("base", old, expired=True)
    write_table(work / "after.csv", side="child")
    inputs = {"baseline-from": "base", "after": "after.csv", **SCORE}
    ran = run_action(work, inputs, hub=hub, event={"schedule": "0 4 * * 1"})
    assert (ran.code, ran.outputs["verdict"], ran.outputs["baseline-age-days"]) == (0, "PASS", "40.0"), ran.log
    (warning,) = ran.commands()
    assert warning.startswith("::warning file=") and "was blessed 40 days ago" in warning
    assert "(commit 1111111): more than 30 days; bless a new one" in warning
    assert "was blessed 40 days ago" in ran.summary and not hub.comments  # no pull request
    assert [one[2] for one in hub.asked if one[0] == "STORAGE"] == [""]  # the token stays with the API


def test_a_read_only_token_is_one_warning(work: Path, hub: Hub) -> None:
    """As of a pull request from a fork; INCONCLUSIVE may pass, and stays INCONCLUSIVE."""
    hub.refuses = {"POST": 403}
    write_table(work / "after.csv", cases=20, side="child")
    write_table(work / "before.csv", cases=20)
    inputs = {"baseline": "before.csv", "after": "after.csv", "inconclusive": "warn", **SCORE}
    ran = run_action(work, inputs, hub=hub, event=PULL)
    assert (ran.code, ran.outputs["verdict"], ran.outputs["exit-code"]) == (0, "INCONCLUSIVE", "0"), ran.log
    age, check, comment = ran.commands()
    assert age.startswith("::warning file=before.csv,") and "nobody noted how old it is" in age
    assert check.startswith("::warning title=INCONCLUSIVE%3A safety of ")
    assert comment.startswith("::warning title=holdfast comment::no comment: POST /issues/5/comments: 403 Resource not")
    assert "pull-requests: write" in comment
    assert not hub.comments and "INCONCLUSIVE" in ran.summary


def test_a_side_becomes_the_baseline(work: Path) -> None:
    ran = run_action(work, {"bless": "before.csv"})
    assert ran.code == 0, ran.log
    assert ran.outputs == {"exit-code": "0", "folder": "holdfast-baseline", "artifact": "holdfast-baseline"}
    stamp = json.loads((work / "holdfast-baseline" / STAMP).read_text())
    assert (stamp["side"], stamp["commit"][:7]) == ("before.csv", "0123456")
    assert "was blessed today" in ran.summary


def test_nothing_is_compared_without_the_baseline(work: Path, hub: Hub) -> None:
    """One line, exit status 2; and a comment of before does not stay as if it held."""
    own = hub.comment(f"{marker('gate')}\nPASS")
    write_table(work / "after.csv")
    ran = run_action(work, {"baseline": "gone", "after": "after.csv", **SCORE}, hub=hub, event=PULL)
    assert (ran.code, ran.outputs["verdict"], ran.outputs["folder"]) == (2, "NONE", "")
    words = "nothing was compared: baseline gone: is not there; bless one anew from the before-side of a gate"
    error, notice = ran.commands()
    assert error.startswith(f"::error title=holdfast gate::{words}") and notice.endswith("is updated")
    assert ran.log.splitlines() == [error, notice]
    assert "nothing was compared" in own["body"] and "PASS" not in own["body"]
    assert (own["user"]["login"], "nothing was compared" in ran.summary) == (BOT, True)


def test_no_shell_text_holds_an_expression_and_every_input_is_handed_on() -> None:
    """What an expression gives is text of strangers: it enters by variables of the environment alone."""
    for step in STEPS.values():
        assert "${{" not in step.get("run", "")
    handed = {name: value for name, value in STEPS["Gate"]["env"].items() if name.startswith("IN_")}
    assert handed == {variable(name): f"${{{{ inputs.{name} }}}}" for name in INPUTS}
    assert set(ACTION["inputs"]) == {*INPUTS, "install", "extras", "python-version"}
    assert all(about["description"] for about in (*ACTION["inputs"].values(), *ACTION["outputs"].values()))
    for name, about in ACTION["outputs"].items():
        assert about["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
