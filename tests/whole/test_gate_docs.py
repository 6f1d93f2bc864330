"""What the page about the gate and its examples show is true: commands parse, rules load."""

from __future__ import annotations

import argparse
import re
import shlex

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


def commands(script: str, variables: dict[str, str]) -> list[argparse.Namespace]:
    """Every holdfast command line of a shell script, as the parser reads it."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "holdfast":
            filled = [re.sub(r"\$(\w+)", lambda one: variables[one.group(1)], word) for word in words[1:]]
            found.append(parser().parse_args(filled))
    return found


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
    shown = PAGE + (DOCS / "ci.md").read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.iterdir()} - of_clusters == set(re.findall(r"\(examples/([\w.-]+)\)", shown))
    assert "evidence" in EXPORT_FORMATS


def test_the_rules_of_the_example_are_rules() -> None:
    rules = read_rules(file=EXAMPLES / "gate.toml")
    assert rules.blocking == CHECKS
    written = set(re.findall(r"^(\w+) =", (EXAMPLES / "gate.toml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert written == set(GateSection.model_fields) - {"judge", "checks"}
