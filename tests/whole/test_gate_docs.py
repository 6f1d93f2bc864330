"""What the page about the gate and its examples show is true: commands parse, rules load, the workflow decides."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT

from holdfast.cli.arguments import EXPORT_FORMATS, parser
from holdfast.cli.gate import EXIT_CODES
from holdfast.decisions.gate.rules import read_rules
from holdfast.records import Outcome
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.store.choosing import Listing, find_checkpoint, parent_of, read_conditions
from holdfast.study.rules import CHECKS, GateSection
from holdfast.study.study import load

DOCS = ROOT / "docs"
PAGE = (DOCS / "gate.md").read_text(encoding="utf-8")
EXAMPLES = DOCS / "examples"


def read_yaml(name: str) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    # YAML 1.1 reads the key ``on`` as a truth value; the base loader leaves every scalar a text.
    return yaml.load((EXAMPLES / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def commands(script: str, variables: dict[str, str]) -> list[argparse.Namespace]:
    """Every holdfast command line of a shell script, as the parser reads it."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "holdfast":
            filled = [re.sub(r"\$(\w+)", lambda one: variables[one.group(1)], word) for word in words[1:]]
            found.append(parser().parse_args(filled))
    return found


def steps() -> dict[str, dict[str, Any]]:
    workflow = read_yaml("holdfast-gate.yml")
    return {step["name"]: step for step in workflow["jobs"]["gate"]["steps"] if "name" in step}


def test_every_command_of_the_page_parses() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    found = [one for block in blocks for one in commands(block, {})]
    assert {one.command for one in found} == {"gate", "export", "verify"}
    assert len(found) == len(re.findall(r"^holdfast ", "".join(blocks), flags=re.MULTILINE))


@pytest.fixture(scope="module")
def quick() -> Listing:
    return listing("quick")


def listing(name: str) -> Listing:
    """The checkpoints that a run of a shipped study has, by its plan."""
    plan = build(load(DOCS.parent / "studies" / f"{name}.toml"))
    made = [one for step in plan.steps for one in step.checkpoints]
    return Listing(f"runs/{name}", tuple(made))


@pytest.mark.parametrize("name", ["docs/quickstart.md", "docs/gate.md"])
def test_the_sides_that_are_shown_are_one_checkpoint_each(name: str, quick: Listing) -> None:
    text = (DOCS.parent / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    shown = [
        one for block in blocks for one in commands(block, {}) if one.command == "gate" and one.sides == ["runs/quick"]
    ]
    sided = [one for one in shown if not one.all]
    assert len(sided) >= 2
    for one in sided:
        where = read_conditions(one.where)
        child = None if one.child is None else find_checkpoint(quick, one.child, where)
        parent = find_checkpoint(quick, one.parent, where, child) if one.parent else None
        if child is not None:
            assert child.lineage == ("S", "H")
            assert (parent or parent_of(quick, child)).id == child.parent_id
        else:
            assert parent is not None and parent.lineage == ("S",)


def test_of_several_doses_the_parent_is_the_one_that_the_child_started_from() -> None:
    full = listing("office-full")
    where = {"base": "tiny-0", "train_seed": "0"}
    child = find_checkpoint(full, "S,H dose=4", where)
    parent = find_checkpoint(full, "S", where, child)
    assert parent.id == child.parent_id and parent.axes["dose"] == 1
    assert find_checkpoint(full, "S dose=4", where, child).axes["dose"] == 4
    assert find_checkpoint(full, "S,S", {}, child).train_seed == 0
    with pytest.raises(StudyError, match="is ambiguous, 3 checkpoints"):
        find_checkpoint(full, "H", where, child)


def test_the_page_names_every_check_code_and_example() -> None:
    for name in CHECKS:
        assert f"`{name}`" in PAGE
    for outcome, code in EXIT_CODES.items():
        assert f"| {outcome.value} | {code} |" in PAGE
    assert set(EXIT_CODES) == set(Outcome)
    of_clusters = {"kuberay.yaml", "skypilot.yaml"}  # of another page
    assert {path.name for path in EXAMPLES.iterdir()} - of_clusters == set(re.findall(r"\(examples/([\w.-]+)\)", PAGE))
    assert "evidence" in EXPORT_FORMATS


def test_the_rules_of_the_example_are_rules() -> None:
    rules = read_rules(file=EXAMPLES / "gate.toml")
    assert rules.blocking == CHECKS
    written = set(re.findall(r"^(\w+) =", (EXAMPLES / "gate.toml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert written == set(GateSection.model_fields) - {"judge", "checks"}


def test_every_command_of_the_workflow_parses() -> None:
    workflow = read_yaml("holdfast-gate.yml")
    variables = {**workflow["jobs"]["gate"]["env"], "GITHUB_STEP_SUMMARY": "summary.md"}
    run = [one for step in steps().values() for one in commands(step.get("run", ""), variables)]
    assert [one.command for one in run] == ["run", "gate", "export"]
    gate, export = run[1], run[2]
    kept = steps()["Keep JUnit XML and evidence"]["with"]["path"].split()
    assert kept == [str(gate.junit), str(export.output)]
    assert gate.markdown == Path("summary.md") and gate.all and export.to == "evidence"
    assert gate.rules == export.rules == Path("gate.toml")


def test_the_workflow_asks_for_little_and_runs_nothing_of_a_pull_request_text() -> None:
    workflow = read_yaml("holdfast-gate.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow["on"]) == {"pull_request", "workflow_dispatch"}
    for step in steps().values():
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(
    ("code", "choice", "expected", "words"),
    [
        ("0", "block", 0, "PASS"),
        ("1", "warn", 1, "::error::FAIL"),
        ("3", "block", 3, "::error::INCONCLUSIVE"),
        ("3", "warn", 0, "::warning::INCONCLUSIVE"),
        ("2", "warn", 2, "nothing was compared"),
        ("", "warn", 2, "nothing was compared"),
    ],
)
def test_the_workflow_decides_by_the_exit_code(code: str, choice: str, expected: int, words: str) -> None:
    script = steps()["Decide"]["run"]
    told = subprocess.run(
        ["bash", "-e", "-c", script],
        env={**os.environ, "CODE": code, "INCONCLUSIVE": choice},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == expected
    assert words in told.stdout


def test_the_gate_step_keeps_the_exit_code(tmp_path: Path) -> None:
    """The step itself succeeds whatever the verdict, so that the evidence is written before the job decides."""
    stub = tmp_path / "holdfast"
    stub.write_text("#!/bin/sh\nexit 3\n")
    stub.chmod(0o755)
    output = tmp_path / "output"
    variables = {"RUN": "r", "RULES": "g", "GITHUB_STEP_SUMMARY": "s", "GITHUB_OUTPUT": str(output)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    script = steps()["Gate"]["run"]
    subprocess.run(["bash", "-e", "-c", script], env={**os.environ, **variables, "PATH": path}, check=True)
    assert output.read_text() == "code=3\n"


def test_the_hooks_before_a_push_are_commands() -> None:
    hooks = [hook for repo in read_yaml("pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    found = [one for hook in hooks for one in commands(hook["entry"], {})]
    assert [one.command for one in found] == ["check", "gate"]
    assert all(hook["language"] == "system" and hook["pass_filenames"] == "false" for hook in hooks)
