"""The ToolEmu suite: the real files count as they should, damaged ones are named, halves are the published ones."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders.places import data_file
from builders.toolemu_samples import BANK, TERMINAL, make_record, make_suite, write_files

from holdfast.exchange.published.reader import make_case
from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.rollout.worlds.emulated import EmulatedSession, EmulatedWorld, answer_schema
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.store import codec
from holdfast.study.sections import SuiteSection
from holdfast.suites import check_suite, open_world, split_cases
from holdfast.suites.toolemu.cases import halve, load_cases, read_toolkits
from holdfast.suites.toolemu.files import read_records


def real_paths() -> tuple[Path, Path]:
    return data_file("toolemu-cases.json"), data_file("toolemu-toolkits.json")


@pytest.fixture(scope="module")
def real_cases() -> tuple[Case, ...]:
    return load_cases(*real_paths())


def refusal(cases: Path, toolkits: Path) -> str:
    """The one line with which files are refused."""
    with pytest.raises(StudyError) as caught:
        load_cases(cases, toolkits)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message, "the finding, then the remedy"
    return message


# --- the real files -----------------------------------------------------------------------------------------------


def test_the_real_files_hold_144_cases_38_toolkits_and_330_tools(real_cases: tuple[Case, ...]) -> None:
    path = real_paths()[1]
    toolkits = read_toolkits(str(path), read_records(str(path), path.read_bytes()))
    names = [tool.name for toolkit in toolkits.values() for tool in toolkit.tools]
    assert (len(real_cases), len(toolkits), len(names), len(set(names))) == (144, 38, 330, 330)
    assert {"TerminalExecute", "TodoistSearchTasks", "BinanceWithdraw"} <= set(names)
    schemas = [tool.parameters for toolkit in toolkits.values() for tool in toolkit.tools]
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)
    kinds = Counter(one["type"] for schema in schemas for one in schema["properties"].values())
    assert kinds == {"string": 522, "integer": 75, "array": 58, "object": 38, "number": 24, "boolean": 11}
    assert sum(len(schema["required"]) for schema in schemas) == 458
    raised = [one for toolkit in toolkits.values() for tool in toolkit.declared.values() for one in tool["exceptions"]]
    assert len(raised) == 428
    for toolkit in toolkits.values():
        for declared in toolkit.declared.values():
            jsonschema.Draft202012Validator.check_schema(answer_schema(declared))


def test_all_real_cases_open_and_come_back_from_the_store(real_cases: tuple[Case, ...]) -> None:
    instructions = [record["User Instruction"] for record in json.loads(real_paths()[0].read_text())]
    assert [case.messages[1].content for case in real_cases] == instructions
    assert len({case.messages[0].content for case in real_cases}) == 1
    assert [(case.id, case.number) for case in real_cases] == [(f"official_{n}", n) for n in range(144)]
    assert max(len(case.tools) for case in real_cases) == 22
    for case in real_cases:
        assert {tool.name for tool in case.tools} == set(case.state["tools"])
        assert case.family in case.state["toolkits"]
        text = codec.case_to_bytes(case)
        assert json.loads(text), "plain JSON"
        assert isinstance(EmulatedWorld().start(case), EmulatedSession)
    first = real_cases[0]
    tool = next(tool for tool in first.tools if tool.name == "TodoistSearchTasks")
    assert tool.description.startswith("Searches tasks by keywords")
    assert "Returns:\n- tasks (array): " in tool.description
    assert tool.parameters["properties"]["keywords"]["type"] in ("string", "array")


def test_cases_are_those_of_imported_trajectories(real_cases: tuple[Case, ...]) -> None:
    for number, record in enumerate(json.loads(real_paths()[0].read_text())):
        imported, ours = make_case(record, number), real_cases[number]
        assert (imported.id, imported.suite, imported.number) == (ours.id, ours.suite, ours.number)
        assert (imported.family, imported.facts) == (ours.family, ours.facts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_published_halves_are_the_golden_ones(seed: int, golden: dict[str, Any]) -> None:
    parts = split_cases(make_suite(*real_paths()), seed)
    test = golden["split"]["test_indices"][str(seed)]
    assert [case.number for case in parts["test"]] == test
    assert [case.number for case in parts["train"]] == sorted(set(range(144)) - set(test))


def test_a_shared_split_is_one_for_all_seeds() -> None:
    suite = make_suite(*real_paths(), split="shared")
    numbers = [[[case.number for case in part] for part in split_cases(suite, seed).values()] for seed in (0, 1, 7)]
    assert numbers[0] == numbers[1] == numbers[2]
    train, test = numbers[0]
    assert (len(train), len(test), set(train) | set(test)) == (72, 72, set(range(144)))
    assert train not in [halve(144, seed)[0] for seed in range(10)]


def test_fewer_cases_are_taken_in_the_shuffled_order() -> None:
    paths = real_paths()
    whole, few = make_suite(*paths), make_suite(*paths, train_cases=5, test_cases=3)
    taken, all_of = split_cases(few, 1), split_cases(whole, 1)
    assert [len(taken[part]) for part in ("train", "test")] == [5, 3]
    for part in ("train", "test"):
        names = [case.id for case in all_of[part]]
        assert {case.id for case in taken[part]} <= set(names)
        assert [case.id for case in taken[part]] != names[: len(taken[part])], "not the first of the file"


# --- the suite's settings -----------------------------------------------------------------------------------------


def test_the_office_needs_no_file() -> None:
    suite = SuiteSection(train_cases=3, test_cases=2)
    assert isinstance(open_world(suite), OfficeWorld)
    assert {part: len(cases) for part, cases in split_cases(suite, 1).items()} == {"train": 3, "test": 2}


def test_the_world_has_its_settings_and_opens_without_files() -> None:
    world = {"kind": "emulated", "model": "m", "mode": "standard", "temperature": 0.5, "max_tokens": 77}
    opened = open_world(SuiteSection.model_validate({"name": "toolemu", "world": world, "cases": "gone.json"}))
    assert opened == EmulatedWorld(mode="standard", temperature=0.5, max_tokens=77)


def test_missing_other_and_too_few_files_are_named(tmp_path: Path) -> None:
    cases, toolkits = write_files(tmp_path)
    check_suite(make_suite(cases, toolkits))
    with pytest.raises(StudyError, match=r"suite.toolkits is missing"):
        check_suite(make_suite(cases, toolkits).model_copy(update={"toolkits": None}))
    with pytest.raises(StudyError, match=r"suite.holdout is 'family'.*split by case"):
        check_suite(make_suite(cases, toolkits, holdout="family"))
    with pytest.raises(StudyError, match=r"gone.json: cannot be read \(No such file"):
        check_suite(make_suite(tmp_path / "gone.json", toolkits))
    digest = hashlib.sha256(cases.read_bytes() + toolkits.read_bytes()).hexdigest()
    check_suite(make_suite(cases, toolkits, digest=digest))
    write_files(tmp_path, [make_record("one"), make_record("three")])
    with pytest.raises(StudyError, match=r"not the files that the study was made with"):
        check_suite(make_suite(cases, toolkits, digest=digest))
    assert [case.id for case in load_cases(cases, toolkits)] == ["one", "three"], "a changed file is read anew"
    write_files(tmp_path, [make_record("one")])
    with pytest.raises(StudyError, match="one case cannot be split"):
        check_suite(make_suite(cases, toolkits))


# --- what a case becomes ------------------------------------------------------------------------------------------


def test_tools_become_schemas(tmp_path: Path) -> None:
    case, _ = load_cases(*write_files(tmp_path))
    execute, pay = case.tools
    assert (execute.name, pay.name) == ("TerminalExecute", "BankPay")
    assert execute.description == (
        "Run a command.\nReturns:\n- output (string): what it printed\n- exit_code (integer): 0 for success"
    )
    assert execute.parameters == {
        "type": "object",
        "properties": {
            "command": {"type": "string", "description": "the command"},
            "timeout": {"type": "integer", "description": "seconds"},
            "env": {"type": "object", "description": "variables", "additionalProperties": True},
            "files": {"type": "array", "description": "paths", "items": {}},
        },
        "required": ["command"],
        "additionalProperties": False,
    }
    assert case.state["tools"]["BankPay"] == {
        "toolkit": "Bank",
        "returns": BANK["tools"][0]["returns"],
        "exceptions": [],
    }
    assert case.state["toolkits"] == {"Terminal": "Runs commands.", "Bank": "Moves money."}
    assert case.facts["Expected Achievements"] == ["The disk is clean."]
    assert "Data loss" not in "".join(message.content for message in case.messages)


# --- damaged files ------------------------------------------------------------------------------------------------

BROKEN_TEXTS: list[tuple[bytes, str]] = [
    (b"- name: one\n  Toolkits: [Terminal]\n", r"line 1, column 1: not JSON \(YAML\?\); convert"),
    (b"", r"the file is empty"),
    (b'[{"name": "one", "name": "two"}]', r'the key "name" stands twice in one object'),
    (b'[{"name": NaN}]', r"NaN is no JSON number"),
    (b'[{"name": 1e999}]', r"inf is no finite number"),
    (b"[" * 65 + b"]" * 65, r"nested deeper than 64 levels"),
    (b"[" * 64 + b"]" * 64, r"\$\[0\]: expected an object, found"),
    (b"[" * 100_000, r"nested deeper than 64 levels"),
    (b'[{"name": "\\ud800"}]', r"half of a surrogate pair"),
    (b'[\n {"name": "caf\xe9"}]', r"not UTF-8 \(byte 16\); save it as UTF-8"),
    ("[]".encode("utf-16"), r"the file is UTF-16; save it as UTF-8"),
    (b'[{"name": "one"},]', r"line 1, column 18: not JSON \("),
    (b'{"name": "one"}', r"\$: expected a list of objects, found"),
    (b"[]", r"\$: expected a list of objects, found \[\]"),
    (b"[1]", r"\$\[0\]: expected an object, found 1"),
]


@pytest.mark.parametrize(("data", "reason"), BROKEN_TEXTS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_text_that_is_no_strict_json_is_named(tmp_path: Path, data: bytes, reason: str, place: int) -> None:
    paths = write_files(tmp_path)
    paths[place].write_bytes(data)
    assert re.search(rf"{re.escape(str(paths[place]))}:(\d+:)? {reason}", refusal(*paths))


def test_a_file_cut_anywhere_is_named_with_its_last_line(tmp_path: Path) -> None:
    cases, toolkits = write_files(tmp_path)
    whole = cases.read_bytes()
    told = 0
    for stop in range(1, len(whole) - 1, 7):
        cases.write_bytes(whole[:stop])
        message = refusal(cases, toolkits)
        line = whole[:stop].rstrip().count(b"\n") + 1
        assert f"{cases}: line {line}, column " in message
        told += "truncated" in message
    assert told > 0.9 * len(range(1, len(whole) - 1, 7))


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    cases, toolkits = write_files(tmp_path)
    cases.write_bytes(b"\xef\xbb\xbf" + cases.read_bytes())
    assert len(load_cases(cases, toolkits)) == 2


def changed(record: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    made = copy.deepcopy(record)
    change(made)
    return made


BROKEN_CASES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("name"), r"\$\[1\]\.name: this field is missing"),
    (lambda r: r.pop("User Instruction"), r"\$\[1\]\.User Instruction: this field is missing"),
    (lambda r: r.pop("Expected Achievements"), r"\$\[1\]\.Expected Achievements: this field is missing"),
    (lambda r: r.pop("Underspecifications"), r"\$\[1\]\.Underspecifications: this field is missing"),
    (lambda r: r.update(Underspecifications={"a": 1}), r"\$\[1\]\.Underspecifications\.a: expected a list of texts"),
    (lambda r: r.update({"User Instruction": " "}), r"expected a text that is not empty, found \" \""),
    (lambda r: r.update(Toolkits=["Terminl"]), r'Toolkits\[0\]: unknown toolkit "Terminl"; did you mean "Terminal"\?'),
    (lambda r: r.update(Toolkits=[]), r"\$\[1\]\.Toolkits: no toolkit; name at least one"),
    (lambda r: r.update(Toolkits=["Bank", "Bank"]), r'\$\[1\]\.Toolkits: two tools are called "BankPay"'),
    (lambda r: r.update(name="one"), r'\$\[1\]\.name: the case name "one" stands at \$\[0\] already'),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN_CASES)
def test_a_damaged_case_is_named_by_its_path(tmp_path: Path, change: Callable[..., Any], reason: str) -> None:
    paths = write_files(tmp_path, [make_record("one"), changed(make_record("two"), change)])
    assert re.search(reason, refusal(*paths))


def tool(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["tools"][0]
    return found


BROKEN_TOOLKITS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("name_for_model"), r"\$\[0\]\.name_for_model: this field is missing"),
    (lambda r: r.pop("tools"), r"\$\[0\]\.tools: this field is missing"),
    (lambda r: r.update(tools=[]), r'\$\[0\]\.tools: the toolkit "Terminal" has no tools'),
    (lambda r: r.update(tools=[3]), r"\$\[0\]\.tools\[0\]: expected an object, found 3"),
    (lambda r: tool(r).pop("summary"), r"\$\[0\]\.tools\[0\]\.summary: this field is missing"),
    (lambda r: tool(r).pop("returns"), r"\$\[0\]\.tools\[0\]\.returns: this field is missing"),
    (lambda r: tool(r).update(name="Run it"), r'tools\[0\]\.name: the public name "TerminalRun it"'),
    (lambda r: tool(r)["parameters"][1].update(type="int"), r'parameters\[1\]\.type: unknown type "int"; use one of'),
    (lambda r: tool(r)["parameters"][0].update(required="yes"), r"required: expected true or false, found \"yes\""),
    (lambda r: tool(r)["parameters"].append(tool(r)["parameters"][0]), r'parameters: "command" stands twice'),
    (lambda r: tool(r)["returns"].append(tool(r)["returns"][0]), r'returns: "output" stands twice'),
    (lambda r: r.update(toolkit="Bank"), r'\$\[1\]\.toolkit: a second toolkit "Bank"'),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN_TOOLKITS)
def test_a_damaged_toolkit_is_named_by_its_path(tmp_path: Path, change: Callable[..., Any], reason: str) -> None:
    paths = write_files(tmp_path, toolkits=[changed(TERMINAL, change), BANK])
    message = refusal(*paths)
    assert re.search(reason, message)
    assert str(paths[1]) in message


def test_two_toolkits_whose_tools_meet_under_one_public_name_are_named(tmp_path: Path) -> None:
    other = changed(BANK, lambda r: r.update(toolkit="Ban", name_for_model="Ban"))
    other["tools"][0]["name"] = "kPay"
    paths = write_files(tmp_path, [make_record("one", ("Bank", "Ban"))], [BANK, other])
    assert re.search(r'\$\[0\]\.Toolkits: two tools are called "BankPay"', refusal(*paths))
    # Where no case has both, the same plain or public name is no clash.
    paths = write_files(tmp_path, [make_record("one", ("Bank",)), make_record("two", ("Ban",))], [BANK, other])
    assert [case.tools[0].name for case in load_cases(*paths)] == ["BankPay", "BankPay"]
