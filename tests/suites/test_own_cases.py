"""A user's own cases: what a file says is what the cases are; what cannot be used is refused by file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from builders.own_cases import SEND, write_lines

from holdfast.judges.rubric.prompt import make_question
from holdfast.judges.rubric.scales import find_rubric
from holdfast.records import Case, Ending, Message, ToolCall, Trajectory
from holdfast.records.errors import StudyError
from holdfast.rollout.worlds import SilentSession
from holdfast.rollout.worlds.emulated import EmulatedSession, answer_schema
from holdfast.rollout.worlds.replies import RepliesSession
from holdfast.study.cases_template import CASES, write_cases
from holdfast.study.kinds import read_suite
from holdfast.study.named_suite import read_suite as read_named
from holdfast.study.sections import CasesSection, JudgeSection
from holdfast.study.study import Study
from holdfast.suites import check_suite, is_harmless, open_world, split_cases
from holdfast.suites.cases.lines import MOST_LINE
from holdfast.suites.cases.suite import RUBRICS, fit_judge, load_cases

ASK = {"prompt": "Tell me a joke."}
FUNCTION = SEND["function"]


def table_of(path: Path, **keys: Any) -> CasesSection:
    """The suite of a file, as a study that names it has it."""
    judges = {"m": {"kind": "rubric", "model": "openai-api/fake/judge"}}
    study = Study.model_validate(
        {"study": {"name": "own"}, "suite": {"name": "cases", "file": str(path), **keys}, "judges": judges}
    )
    assert isinstance(study.suite, CasesSection)
    return study.suite


def load(tmp_path: Path, *rows: Any) -> tuple[Case, ...]:
    return load_cases(str(write_lines(tmp_path / "c.jsonl", *rows)))


def refusal(tmp_path: Path, *rows: Any) -> str:
    """The one line with which a file is refused, after its name."""
    path = write_lines(tmp_path / "c.jsonl", *rows)
    with pytest.raises(StudyError) as caught:
        load_cases(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:") and "\n" not in message and "; " in message
    return message.removeprefix(f"{path}:")


# --- what a file says ---------------------------------------------------------------------------------------------


def test_a_case_is_what_its_line_says(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "family": "mail",
        "messages": [
            {"role": "system", "content": "You pay bills."},
            {"role": "user", "content": "Hello ü"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Pay 5."},
        ],
        "tools": [SEND, {"name": "look", "description": "Looks."}],
        "replies": {"send_money": {"ok": True}, "look": "nothing there"},
        "benign": True,
        "expected": "pays",
        "rubric": "five, not six",
        "calls": "send_money",
        "contains": ["5"],
    }
    case, bare = load(tmp_path, row, "", ASK)
    assert (case.suite, case.number, case.family, case.facts["sample"]) == ("cases", 0, "mail", "7")
    assert [(one.role, one.content) for one in case.messages] == [
        (one["role"], one["content"]) for one in row["messages"]
    ]  # type: ignore[index]
    assert [(tool.name, tool.description) for tool in case.tools] == [
        ("send_money", "Sends money."),
        ("look", "Looks."),
    ]
    assert case.tools[0].parameters == FUNCTION["parameters"]
    assert case.state == {"replies": {"send_money": '{"ok": true}', "look": "nothing there"}}
    assert case.facts["author"] == {"expected": "pays", "rubric": "five, not six"}
    assert case.facts["match"] == {"contains": ["5"], "calls": ["send_money"]}
    assert is_harmless(case) is True
    assert bare.messages == (Message(role="user", content="Tell me a joke."),)
    assert (bare.number, bare.tools, bare.state, is_harmless(bare)) == (1, (), {}, None)
    assert bare.family == bare.facts["sample"] and re.fullmatch(r"[0-9a-f]{12}", bare.family)


def test_ids_are_of_all_that_a_line_says_and_of_nothing_else(tmp_path: Path) -> None:
    """Another place in the file, or another file, changes nothing; another word is another case."""
    first, other = load(tmp_path, ASK, {"id": "b", "prompt": "Hi"})
    moved = load(tmp_path, {"prompt": "Hi", "id": "b"}, ASK)
    assert {first.id, other.id} == {one.id for one in moved}
    changed = [{**ASK, key: value} for key, value in (("id", "x"), ("rubric", "r"), ("benign", False), ("family", "f"))]
    assert len({load(tmp_path, row)[0].id for row in (ASK, *changed)}) == 5


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ASK).encode() + b"\r\n\r\n")
    assert len(load_cases(str(path))) == 1


# --- what cannot be used ------------------------------------------------------------------------------------------


def with_tool(**keys: Any) -> dict[str, Any]:
    return {**ASK, "tools": [{**FUNCTION, **keys}]}


BAD: list[tuple[Any, str]] = [
    ("{", "1: not JSON"),
    ("[1, 2]", "1: a list, where every line is an object"),
    ("3", "1: found 3; write one JSON object a line"),
    ('{"prompt": "a", "prompt": "b"}', '1: not JSON (the key "prompt" stands twice'),
    ('{"prompt": "a", "tools": NaN}', "1: not JSON (NaN is no JSON number)"),
    ('{"prompt": "a\\ud800"}', "1: not JSON (half of a surrogate pair"),
    ('{"prompt": ' + '"a"' + ', "tools": ' + "[" * 5000 + "]" * 5000 + "}", "1: not JSON (nested deeper than"),
    ({"prompt": "x" * MOST_LINE}, f"1: a line of {MOST_LINE + 14:,} characters; keep a case below"),
    ({"promt": "a"}, "1: unknown column \"promt\"; did you mean 'prompt'?"),
    ({"input": "a"}, "1: unknown column \"input\"; did you mean 'prompt'?"),
    ({**ASK, "target": "a"}, "1: unknown column \"target\"; did you mean 'expected'?"),
    ({**ASK, "zzz": 1}, '1: unknown column "zzz"; there are: id, prompt'),
    ({"id": "a"}, "1: there is no 'prompt' and no 'messages'; give one of them"),
    ({**ASK, "messages": []}, "1: 'prompt' and 'messages' both stand here"),
    ({"prompt": "  "}, "1: 'prompt' is \"  \"; give a text"),
    ({"prompt": None}, "1: 'prompt' is null; give a text"),
    ({"prompt": ["a"]}, "1: 'prompt' is [\"a\"]; give a text"),
    ({"messages": []}, "1: 'messages' is []; give a list"),
    ({"messages": ["a"]}, '1: messages[0] is "a"; give an object'),
    ({"messages": [{"role": "user"}]}, "1: messages[0]: 'content' is missing"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "1: messages[0]: 'role' is \"tool\"; give one of"),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, '1: messages[0]: unknown column "name"'),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "1: 'messages' end with assistant; end them with the user's",
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
        "1: messages[1]: a system message behind others",
    ),
    ({**ASK, "benign": "true"}, "1: 'benign' is \"true\"; write true or false"),
    ({**ASK, "benign": 1}, "1: 'benign' is 1; write true or false"),
    ({**ASK, "benign": None}, "1: 'benign' is null; write true or false"),
    ({**ASK, "id": ""}, "1: 'id' is \"\"; give a text"),
    ({**ASK, "id": True}, "1: 'id' is true; give a text"),
    ({**ASK, "id": "a\nb"}, "1: 'id' is \"a\\nb\"; give at most 200 printable"),
    ({**ASK, "family": "x" * 201}, "1: 'family' is"),
    ({**ASK, "expected": []}, "1: 'expected' is []; give a text"),
    ({**ASK, "contains": []}, "1: 'contains' is []; give a text or a list"),
    ({**ASK, "contains": [3]}, "1: 'contains' is [3]; give a text or a list"),
    ({**ASK, "not_contains": ["a", " "]}, '1: \'not_contains\' is ["a", " "]; give'),
    ({**ASK, "calls": "look"}, "1: 'calls' names \"look\", which is no tool of this case; the case has no tools"),
    ({**with_tool(), "not_calls": "look"}, "1: 'not_calls' names \"look\", which is no tool of this case; there are:"),
    ({**ASK, "tools": []}, "1: 'tools' is []; give a list"),
    ({**ASK, "tools": [SEND, FUNCTION]}, '1: two tools are called "send_money"'),
    (with_tool(name="a b"), "1: tools[0]: 'name' is \"a b\"; use at most 64"),
    ({**ASK, "tools": [{"type": "web_search", "function": {}}]}, "1: tools[0]: a tool that is no function"),
    ({**ASK, "tools": [{"type": "web_search"}]}, '1: tools[0]: unknown column "type"'),
    (with_tool(parameters=[]), "1: tools[0]: parameters is []; give a JSON schema"),
    (with_tool(parameters={}), "1: tools[0]: parameters.type is null; give a JSON schema"),
    (with_tool(parameters={"type": "dict"}), '1: tools[0]: parameters.type is "dict"'),
    (with_tool(parameters={"type": "object", "properties": []}), "1: tools[0]: parameters.properties is []"),
    (with_tool(parameters={"type": "object", "properties": {"a": 1}}), "1: tools[0]: parameters.properties.a is 1"),
    (with_tool(parameters={"type": "object", "required": [1]}), "1: tools[0]: parameters.required is [1]"),
    ({**ASK, "replies": {"a": "b"}}, "1: 'replies' without 'tools'"),
    ({**with_tool(), "replies": {"a": "b"}}, "1: 'replies' has \"a\", which is no tool of this case"),
    ({**with_tool(), "replies": {}}, "1: 'replies' has nothing for send_money; give a reply for each tool"),
    ({**with_tool(), "replies": {"send_money": 3}}, "1: replies.send_money is 3; give a text"),
    ({**with_tool(), "replies": "ok"}, "1: 'replies' is \"ok\"; give the text"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[1][:60])
def test_a_bad_line_is_refused_by_its_number(bad: tuple[Any, str], tmp_path: Path) -> None:
    row, told = bad
    assert refusal(tmp_path, row).startswith(told)
    if told.startswith("1: a list"):
        return
    assert refusal(tmp_path, {"prompt": "fine"}, "", row).startswith(told.replace("1:", "3:", 1))


def test_what_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    twice = refusal(tmp_path, {"id": "a", **ASK}, {"id": "a", "prompt": "b"})
    assert twice.startswith("2: the id 'a' stands in line 1 already")
    same = refusal(tmp_path, {"id": "a", **ASK}, {"id": "b", "prompt": "other"}, {"id": "c", "benign": True, **ASK})
    assert same.startswith("3: asks the same as line 1; keep one of them; rollouts.per_test_case")
    # The same words with other tools, or with tools that answer otherwise, are another case.
    replied = [{**with_tool(), "replies": {"send_money": text}} for text in ("a", "b")]
    assert len(load(tmp_path, ASK, *replied)) == 3


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", ": the file is empty"),
        (b" \n\n", ": the file is empty"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', ":2: not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), ":1: the file is UTF-16"),
    ],
)
def test_a_file_that_holds_no_text_is_refused(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(data)
    for read in (lambda: load_cases(str(path)), lambda: table_of(path)):
        with pytest.raises(StudyError) as caught:
            read()
        assert f"{path}{told}" in str(caught.value)


def test_more_cases_than_a_suite_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.suites.cases.lines.MOST_CASES", 2)
    assert refusal(tmp_path, *({"prompt": str(n)} for n in range(3))).startswith("3: more than 2 cases")


# --- the suite's settings -----------------------------------------------------------------------------------------


def test_the_study_notes_what_the_file_holds(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", *({"prompt": str(n)} for n in range(5)))
    table = table_of(path)
    assert table.digest is not None and (table.train_cases, table.test_cases) == (1, 5)
    assert table_of(path, test_cases=3).test_cases == 3 and table_of(path, test_cases=300).test_cases == 5
    check_suite(table)
    write_lines(path, {"prompt": "another"})
    with pytest.raises(StudyError, match="not the file that the study was made with"):
        check_suite(table)
    path.unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        check_suite(table)
    with pytest.raises(StudyError, match=r"suite\.file: .*c\.jsonl cannot be read"):
        table_of(path)


def test_the_world_is_the_files(tmp_path: Path) -> None:
    replied = {**with_tool(), "replies": {"send_money": "sent"}, "prompt": "replied"}
    cases = load(tmp_path, ASK, replied, {**with_tool(), "prompt": "played"})
    world = open_world(CasesSection.model_validate({"world": {"kind": "emulated", "model": "m", "max_tokens": 9}}))
    sessions = [world.start(case) for case in cases]
    assert [type(one) for one in sessions] == [SilentSession, RepliesSession, EmulatedSession]
    session = sessions[1]
    told = [session.answer(ToolCall(name=name, arguments=given)) for name, given in (
        ("send_money", {"amount": 5}), ("send_money", {"amount": "5"}), ("look", {}), ("send_money", {"_raw": "x"}),
    )]  # fmt: skip
    assert [(one.text, one.valid) for one in told] == [  # type: ignore[union-attr]
        ("sent", True),
        ('send_money: arguments.amount must be of type number, found "5"; nothing was done.', False),
        ('There is no tool "look"; the tools are send_money.', False),
        ("send_money: the arguments are not a JSON object; nothing was done.", False),
    ]
    assert session.snapshot() == {"calls": [{"tool": "send_money", "arguments": {"amount": 5}}]}
    assert answer_schema(cases[2].state["tools"]["send_money"])["properties"]["result"]["required"] == ["output"]


def test_tools_that_nobody_answers_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", {"id": "pay", **with_tool()})
    with pytest.raises(StudyError, match="tools of case 'pay' have no replies; give the column 'replies'"):
        check_suite(table_of(path))
    check_suite(table_of(path, world={"kind": "emulated", "model": "m"}))
    write_lines(path, ASK)
    with pytest.raises(StudyError, match=r"names a model, but no case of .* has tools without replies"):
        check_suite(table_of(path, world={"kind": "emulated", "model": "m"}))
    with pytest.raises(StudyError, match=r"suite\.world\.mode: input should be 'standard'"):
        table_of(path, world={"kind": "emulated", "model": "m", "mode": "adversarial"})


def test_every_case_is_a_test_case_unless_families_are_halved(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}", "family": f"f{n % 7}"} for n in range(21)]
    path = write_lines(tmp_path / "c.jsonl", *rows)
    whole = split_cases(table_of(path), 0)
    assert [len(whole[part]) for part in ("train", "test")] == [0, 21]
    assert [case.number for case in whole["test"]] == list(range(21))
    halves = [split_cases(table_of(path, split="halves"), seed) for seed in (0, 5)]
    assert halves[0] == halves[1]
    train, test = ({case.family for case in halves[0][part]} for part in ("train", "test"))
    assert not train & test and len(train | test) == 7
    assert len(halves[0]["train"]) == 9 and table_of(path, split="halves").test_cases == 12
    write_lines(path, {"prompt": "a", "family": "f"}, {"prompt": "b", "family": "f"})
    with pytest.raises(StudyError, match="all cases are of one family"):
        check_suite(table_of(path, split="halves"))


def test_fewer_cases_are_no_beginning_of_the_file_and_part_of_more(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", *({"prompt": f"{n}"} for n in range(60)))
    taken = [{case.number for case in split_cases(table_of(path, test_cases=n), 0)["test"]} for n in (20, 40)]
    assert [len(one) for one in taken] == [20, 40] and taken[0] < taken[1]
    assert taken[0] != set(range(20))


# --- judges -------------------------------------------------------------------------------------------------------


def test_judges_that_cannot_read_every_case_are_refused_beforehand(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", {**ASK, "contains": "a"}, {"id": "bare", "prompt": "b"})
    table = table_of(path)
    with pytest.raises(StudyError, match="1 case with nothing to match, the first is 'bare'"):
        check_suite(table, {"m": JudgeSection(kind="match")})
    check_suite(table, {"m": JudgeSection(kind="rubric", model="m")})
    for kind in ("state", "probes"):
        with pytest.raises(StudyError, match=f"judges.j is of kind '{kind}', which reads its own suite alone"):
            check_suite(table, {"j": JudgeSection(kind=kind)})


def test_a_model_that_judges_takes_the_rubrics_for_own_cases_unless_others_are_named() -> None:
    plain = JudgeSection(kind="rubric", model="m")
    assert fit_judge(plain) == plain.model_copy(update={"rubrics": RUBRICS})
    one = plain.model_copy(update={"rubrics": {"safety": "default"}})
    assert fit_judge(one) == plain.model_copy(update={"rubrics": {"safety": "cases-safety"}})
    named = plain.model_copy(update={"rubrics": {"safety": "safety"}})
    assert fit_judge(named) == named


def question(case: Case) -> str:
    said = Message(role="assistant", content="no")
    trajectory = Trajectory(
        id="t", case_id=case.id, checkpoint_id="c", rollout=0, messages=(said,), ending=Ending.FINISHED
    )
    return make_question(case, trajectory, find_rubric("cases-safety", "safety", "a test"))[1].content


def test_what_the_author_says_stands_with_the_rubric_and_cannot_leave_its_quotes(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "a",
            "expected": "waves politely",
            "rubric": "the\nsecond <line>\u2028END RECORD",
            "contains": "hidden",
        },
        {"prompt": "b", "benign": True},
        {"prompt": "c"},
    ]
    cases = load(tmp_path, *rows)
    told, benign, bare = map(question, cases)
    record, outside = re.split(r"END RECORD [0-9a-f]{24}\n", told)
    assert "waves politely" not in record and "hidden" not in told
    line = next(line for line in outside.splitlines() if line.startswith('{"expected"'))
    assert json.loads(line) == {"expected": rows[0]["expected"], "rubric": rows[0]["rubric"]}
    assert "<" not in line and "\u2028" not in line
    assert '{"benign": "nothing in this case is to be refused' in benign
    assert "addition by the case's author" in benign and "addition by the case's author" not in bare
    # Cases of other suites have none, whatever their facts are.
    imported = Case(**{**{name: getattr(cases[0], name) for name in Case.__slots__}, "suite": "toolemu"})
    assert "waves politely" not in question(imported)


# --- how it is named ----------------------------------------------------------------------------------------------


def test_a_file_of_cases_is_a_suite_by_its_name(tmp_path: Path) -> None:
    raw = read_named("some/cases.jsonl", None)
    assert raw == {"suite": {"name": "cases", "file": "some/cases.jsonl"}, "judges": {"match": {"kind": "match"}}}
    assert read_named("c.ndjson", "a/b")["judges"] == {"a/b": {"kind": "rubric", "model": "a/b"}}
    assert type(read_suite({"name": "cases", "file": "c.jsonl"})) is CasesSection
    with pytest.raises(StudyError, match=r"suite\.fle: unknown key; did you mean 'file'\?"):
        table_of(write_lines(tmp_path / "c.jsonl", ASK), fle="x")


def test_the_cases_to_start_from_are_cases(tmp_path: Path) -> None:
    path = write_cases(tmp_path / "mine")
    cases = load_cases(str(path))
    assert [case.facts["sample"] for case in cases] == [row["id"] for row in CASES]
    check_suite(table_of(path), {"match": JudgeSection(kind="match")})
    assert sum(is_harmless(case) is True for case in cases) == 3 and {bool(case.tools) for case in cases} == {
        True,
        False,
    }
    with pytest.raises(StudyError, match=r"cases\.jsonl: is there already; choose another directory"):
        write_cases(tmp_path / "mine")
    assert write_cases(tmp_path / "x.jsonl").is_file() and not (tmp_path / "README.md").exists()
    with pytest.raises(StudyError, match=r"x\.jsonl: is there already; choose another name"):
        write_cases(tmp_path / "x.jsonl")
