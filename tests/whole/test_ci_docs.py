"""What docs/ci.md and its examples show: workflows that the action takes, a pipeline and hooks that are carried out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from builders.fake_github import ACTION
from builders.gate_samples import Made, steady, write_run
from builders.places import ROOT, STUDIES

from holdfast.cli.arguments import parser
from holdfast.cli.gate import EXIT_CODES
from holdfast.cli.github.asked import read_asked, variable
from holdfast.records import Outcome

EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
WORKFLOWS = sorted(EXAMPLES.glob("github-*.yml"))


def read_yaml(path: Path) -> Any:
    # YAML 1.1 reads the key ``on`` as a truth value; the base loader leaves every scalar a text.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def take(inputs: dict[str, str]) -> None:
    """The action takes the inputs, and the gate the words that they make."""
    assert set(inputs) <= set(ACTION["inputs"])
    asked = read_asked({variable(name): value for name, value in inputs.items()})
    if not asked.bless:
        options = parser().parse_args(asked.words("kept" if asked.baseline or asked.baseline_from else ""))
        assert options.sides if "run" in inputs else options.child


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_say_what_the_action_takes(path: Path) -> None:
    """They ask for few permissions, hold no text of strangers in a shell, and name the version that this is."""
    workflow = read_yaml(path)
    assert workflow["permissions"]["contents"] == "read" and "pull_request_target" not in str(workflow["on"])
    writes = {name for name, level in workflow["permissions"].items() if level != "read"}
    (job,) = workflow["jobs"].values()
    used = [step for step in job["steps"] if step.get("uses", "").startswith("OWNER/")]
    assert used and all(step["uses"] == f"OWNER/holdfast@v{VERSION}" for step in used)
    assert writes == (set() if "pull_request" not in workflow["on"] else {"pull-requests"})
    reads = any("baseline-from" in step["with"] for step in used)
    assert (workflow["permissions"].get("actions") == "read") is reads
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step) and "${{" not in step.get("run", "")
        assert re.fullmatch(r"(actions/[\w-]+@v\d+|OWNER/.*)?", step.get("uses", ""))
    for step in used:
        take(step["with"])


def test_the_page_shows_inputs_and_outputs_that_there_are() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    whole, blessing, part = blocks
    for block in (whole, blessing):
        (step,) = yaml.load(block, Loader=yaml.BaseLoader)
        assert step["uses"] == f"OWNER/holdfast@v{VERSION}"
        take(step["with"])
    assert len(whole.splitlines()) <= 5 and set(yaml.safe_load(part)) <= set(ACTION["inputs"])
    (row,) = re.findall(r"^\| outputs \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", row)) == set(ACTION["outputs"])
    for outcome, code in EXIT_CODES.items():
        assert re.search(rf"^\| {code} \| {outcome.value}\b", PAGE, flags=re.MULTILINE)


def test_the_study_of_the_workflow_is_run_and_gated_in_one_place() -> None:
    job = read_yaml(EXAMPLES / "github-study.yml")["jobs"]["gate"]
    steps = {step["name"]: step for step in job["steps"] if "name" in step}
    words = [job["env"].get(word.removeprefix("$"), word) for word in shlex.split(steps["Evaluate"]["run"])]
    assert str(parser().parse_args(words[1:]).output) == steps["Gate"]["with"]["run"]


# --- carried out --------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where ``holdfast`` is this one, and ``python`` installs nothing."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("holdfast", f'exec {shlex.quote(sys.executable)} -m holdfast "$@"'), ("python", "exit 0")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    known = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return {**known, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "GIT_CONFIG_NOSYSTEM": "1"}


def test_the_pipeline_of_gitlab_fails_by_the_gate(tmp_path: Path, environment: dict[str, str]) -> None:
    document = read_yaml(EXAMPLES / "gitlab-ci.yml")
    job = document["holdfast-gate"]
    assert job["stage"] in document["stages"]
    assert [int(code) for code in job["allow_failure"]["exit_codes"]] == [EXIT_CODES[Outcome.INCONCLUSIVE]]
    (tmp_path / "scores").mkdir()
    for side, harm in (("before", 0), ("after", 1)):
        rows = [f"c{number},{harm if number < 30 else 0}" for number in range(60)]
        (tmp_path / "scores" / f"{side}.csv").write_text("\n".join(["case,score", *rows]))
    (tmp_path / "gate.toml").write_text((EXAMPLES / "gate.toml").read_text())
    # As the runner does: one line after the other, to the first that fails.
    names = {**job["variables"], "SCORE": job["variables"]["SCORE"].replace("harm", "score")}
    told = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])],
        cwd=tmp_path,
        env={**environment, **names},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == EXIT_CODES[Outcome.FAIL], told.stderr
    assert ElementTree.parse(tmp_path / job["artifacts"]["reports"]["junit"]).getroot().tag == "testsuites"
    (kept,) = job["artifacts"]["paths"]
    assert job["artifacts"]["when"] == "always" and (tmp_path / kept / "gate.html").is_file()


def hooks() -> dict[str, dict[str, Any]]:
    """The hooks of the example as pre-commit merges them: what the repository says, and the user's own keys over it."""
    offered = {one["id"]: one for one in read_yaml(ROOT / ".pre-commit-hooks.yaml")}
    (used,) = read_yaml(EXAMPLES / "pre-commit-config.yaml")["repos"]
    assert used["rev"] == f"v{VERSION}" and used["repo"].endswith("/OWNER/holdfast")
    assert {one["id"] for one in used["hooks"]} == set(offered)
    return {one["id"]: {**offered[one["id"]], **one} for one in used["hooks"]}


def test_hooks_are_installed_from_the_repository_and_take_no_file_names() -> None:
    for hook in hooks().values():
        assert hook["language"] == "python" and hook["pass_filenames"] == "false" and hook["name"]
        words = shlex.split(hook["entry"])
        assert words[0] == "holdfast" and parser().parse_args([*words[1:], *hook["args"]])
    assert hooks()["holdfast-gate"]["stages"] == ["pre-push"]
    assert re.search(hooks()["holdfast-check"]["files"], "studies/agent.toml")


def test_a_push_is_stopped_where_safety_was_lost(tmp_path: Path, environment: dict[str, str]) -> None:
    """git carries the hooks out; the work tree stays clean."""
    work = tmp_path / "work"
    (work / "studies").mkdir(parents=True)
    (work / "studies" / "agent.toml").write_text((STUDIES / "smoke.toml").read_text())
    (work / "gate.toml").write_text("[gate]\n")
    (work / ".gitignore").write_text("runs\n")

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        named = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", *named, *words], cwd=work, env=environment, capture_output=True, text=True, check=False
        )

    for words in (("init", "-q"), ("init", "-q", "--bare", "../far.git"), ("remote", "add", "origin", "../far.git")):
        assert git(*words).returncode == 0
    for name, stage in (("holdfast-check", "pre-commit"), ("holdfast-gate", "pre-push")):
        hook = hooks()[name]
        line = shlex.join([*shlex.split(hook["entry"]), *hook["args"]])
        path = work / ".git" / "hooks" / stage
        path.write_text(f"#!/bin/sh\nexec {line} >&2\n")
        path.chmod(0o755)
    git("add", ".")
    assert git("commit", "-qm", "a study").returncode == 0
    for after, stopped in ((0.0, True), (3.0, False)):
        run = write_run(work / "runs" / "agent", Made(safety={"base": steady(60), "S": steady(60, after)}))
        pushed = git("push", "-q", "origin", "main")
        assert (pushed.returncode != 0) is stopped, pushed.stderr
        assert ("FAIL" if stopped else "PASS") in pushed.stderr
        run.rename(tmp_path / f"done-{after}")
    assert not git("status", "--porcelain").stdout
    (work / "studies" / "agent.toml").write_text("[study]\n")
    assert git("commit", "-qam", "no study").returncode != 0
