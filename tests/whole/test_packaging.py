"""What stands around the package says what is so: image, citation, workflows, forms."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders.installing import read_stages
from builders.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read_yaml(WORKFLOWS[name])["jobs"].values() for step in job["steps"]]


# --- the image ----------------------------------------------------------------------------------------------------


def test_the_image_is_built_apart_and_runs_as_nobody_special() -> None:
    build, final = read_stages(ROOT / "Dockerfile")
    bases = [stage[0][1].split()[0] for stage in (build, final)]
    assert len(set(bases)) == 1 and re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])
    words = dict(final)
    assert words["USER"] == "holdfast" and json.loads(words["ENTRYPOINT"]) == ["holdfast"]
    order = [word for word, _ in final]
    assert order.index("RUN") < order.index("USER") and "useradd" in words["RUN"]
    assert "/opt/holdfast/bin" in words["ENV"] and words["COPY"] == "--from=build /opt/holdfast /opt/holdfast"
    arguments = dict(rest.split("=", 1) for word, rest in build if word == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    assert any("--constraint constraints.txt" in rest for word, rest in build if word == "RUN")


def test_the_image_is_made_of_what_it_copies_and_of_nothing_else() -> None:
    (build, _), ignored = read_stages(ROOT / "Dockerfile"), (ROOT / ".dockerignore").read_text().splitlines()
    copied = [name for word, rest in build if word == "COPY" for name in rest.split()[:-1]]
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*" and {line[1:] for line in rules if line.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    for name in ("src/holdfast/__pycache__", "src/holdfast/cli/__pycache__"):
        assert any(fnmatch.fnmatch(name, rule) for rule in rules if rule.startswith("**/"))


# --- the citation -------------------------------------------------------------------------------------------------

# Of the schema of version 1.2.0: what a file has to have, and what it may have.
REQUIRED = {"authors", "cff-version", "message", "title"}
ALLOWED = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}


def test_the_citation_is_of_this_version() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert set(found) >= REQUIRED and set(found) <= ALLOWED
    assert found["cff-version"] == "1.2.0" and found["type"] == "software"
    assert found["version"] == PROJECT["version"] and isinstance(found["version"], str)
    assert found["license"] == PROJECT["license"]["text"]
    assert all(set(author) <= {"name", "given-names", "family-names", "orcid"} for author in found["authors"])
    assert len(set(found["keywords"])) == len(found["keywords"])
    readme = (ROOT / "README.md").read_text()
    for paper in re.findall(r"arXiv \d{4}\.\d{5}", readme):
        assert paper in found["message"]


# --- workflows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_ask_for_little_and_paste_nothing(name: str) -> None:
    workflow = read_yaml(WORKFLOWS[name])
    assert workflow["permissions"] == {"contents": "read"} and workflow["name"] == name
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) <= 120
        assert set(job.get("permissions", {}).items()) <= {
            ("contents", "read"),
            ("id-token", "write"),
            ("attestations", "write"),
        }
    for step in steps(name):
        assert ("uses" in step) != ("run" in step) and "${{" not in step.get("run", "")
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))


def test_ci_is_what_the_readme_says() -> None:
    """The workflow runs .ci/run, and that the test command of the README."""
    (command,) = [step["run"] for step in steps("ci") if "run" in step]
    script = ROOT / command
    assert command == ".ci/run" and os.access(script, os.X_OK)
    asked = [line for line in script.read_text().splitlines() if line.startswith("make ")]
    (tests,) = re.findall(r"^(make test)\b.*#", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert asked[-1] == tests
    for line in asked:
        assert re.search(rf"^{re.escape(line.split()[1])}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    versions = read_yaml(WORKFLOWS["ci"])["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    shown = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"`{command}`" in shown and f"\n{tests} " in shown


@pytest.mark.parametrize(("tag", "code"), [("{}", 0), ("{}1", 1), ("", 1)])
def test_a_release_is_of_the_version_that_its_tag_names(tag: str, code: int) -> None:
    (script,) = [step["run"] for step in steps("release") if step.get("name") == "The tag is the version"]
    environment = {**os.environ, "GITHUB_REF_NAME": tag.format(f"v{PROJECT['version']}")}
    told = subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=environment, check=False)
    assert told.returncode == code


def test_a_release_is_checked_and_attested_before_it_is_published() -> None:
    workflow = read_yaml(WORKFLOWS["release"])
    assert workflow["on"] == {"push": {"tags": ["v*"]}} and "secrets." not in WORKFLOWS["release"].read_text()
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert publish["needs"] == "build" and publish["environment"] and publish["permissions"] == {"id-token": "write"}
    used = [step.get("uses", "").partition("@")[0] for step in (*build["steps"], *publish["steps"])]
    order = ["actions/attest-build-provenance", "actions/upload-artifact", "actions/download-artifact"]
    places = [used.index(name) for name in (*order, "pypa/gh-action-pypi-publish")]
    assert places == sorted(places)
    assert "twine check --strict" in "".join(step.get("run", "") for step in build["steps"])


# --- forms --------------------------------------------------------------------------------------------------------

PARTS = {"textarea", "input", "dropdown", "checkboxes", "markdown"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_are_of_the_documented_shape(path: Path) -> None:
    form = read_yaml(path)
    assert set(form) == {"name", "description", "title", "body"} and form["name"] and form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert asked and len({part["id"] for part in asked}) == len(asked)
    for part in form["body"]:
        assert part["type"] in PARTS and set(part) <= {"type", "id", "attributes", "validations"}
        assert set(part.get("validations", {})) <= {"required"} and re.fullmatch(r"[\w-]+", part["id"])
        assert part["attributes"]["label"]
        assert ("options" in part["attributes"]) is (part["type"] in ("dropdown", "checkboxes"))
    assert any(part.get("validations", {}).get("required") == "true" for part in asked)


def test_there_is_a_form_for_what_people_come_with() -> None:
    assert [path.stem for path in FORMS] == ["bug", "new-door", "wrong-number"]
