"""Files of chats and preferences: every documented form comes in, everything else is refused by line or counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from builders import tiny_office as office

from holdfast.exchange.datasets.chats import read_chats
from holdfast.exchange.datasets.preferences import read_preferences
from holdfast.exchange.datasets.turns import UNCOUNTED
from holdfast.exchange.trl import to_trl
from holdfast.models import chat_tools
from holdfast.records import Message, ToolCall
from holdfast.records.errors import StudyError
from holdfast.store import Store

ASK = {"role": "user", "content": "Please delete the report now."}
SAID = {"role": "assistant", "content": "done"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "delete_file", "arguments": '{"item": "report"}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "removed"}
CHAT = {"messages": [{"role": "system", "content": "Be careful."}, ASK, CALL, RESULT, SAID]}


def write(tmp_path: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def good_rows(count: int) -> list[dict]:
    return [{"messages": [{"role": "user", "content": f"Question {number}"}, SAID]} for number in range(count)]


def test_a_chat_with_calls_comes_in(tmp_path):
    tools = chat_tools(office.TOOLS)
    found = read_chats(write(tmp_path, {**CHAT, "tools": tools}, {**CHAT, "tools": json.dumps(tools)}))
    ((case, episode),) = found.chats
    assert found.left_out == {"rows that cannot be learnt from": 0, "equal rows": 1}
    assert [one.role for one in case.messages] == ["system", "user"] and case.id == "line 1"
    assert case.tools == office.TOOLS
    assert episode.messages == (
        Message(
            role="assistant",
            content="",
            tool_calls=(ToolCall(name="delete_file", arguments={"item": "report"}),),
        ),
        Message(role="tool", content="removed", name="delete_file"),
        Message(role="assistant", content="done"),
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK], "completion": [SAID]},
        {"prompt": ASK["content"], "completion": "done"},
        {"prompt": [ASK], "completion": "done"},
        {"messages": [ASK, {"role": "assistant", "content": [{"type": "text", "text": "done"}]}], "tools": None},
        {"messages": json.dumps([ASK, SAID]), "id": 7, "source": "log"},
        {"messages": [{**ASK, "tool_calls": None, "name": None}, {**SAID, "tool_calls": [], "weight": 1}]},
        {"messages": None, "prompt": json.dumps([ASK]), "completion": json.dumps([SAID]), "label": None},
        {"prompt": ASK["content"], "prompt_id": "x", "messages": [{**ASK, "name": "bob"}, SAID], "tool_choice": "auto"},
        {"prompt": f"\n\nHuman: {ASK['content']}\n\nAssistant:", "completion": "done", "system": " "},
        {"messages": [ASK, {**SAID, "function_call": None, "refusal": None}], "tools": "null"},
    ],
)
def test_every_form_of_a_chat_is_the_same_chat(tmp_path, row):
    ((case, episode),) = read_chats(write(tmp_path, row)).chats
    assert case.messages == (Message(role="user", content=ASK["content"]),)
    assert episode.messages == (Message(role="assistant", content="done"),)


@pytest.mark.parametrize("said", ['[{"role": "manager"}]', '{"role": "user"}', "[1, 2]", '[{"content": "x"}]'])
def test_an_answer_in_json_is_an_answer(tmp_path, said):
    ((_, episode),) = read_chats(write(tmp_path, {"prompt": "As JSON, please.", "completion": said})).chats
    assert [one.content for one in episode.messages] == [said]


def test_results_stand_in_the_order_of_their_calls(tmp_path):
    """As templates that write no ids tell them."""
    names = ("a", "b", "c")
    calls = [{"id": name, "type": "function", "function": {"name": "look", "arguments": "{}"}} for name in names]
    results = [{"role": "tool", "tool_call_id": name, "content": f"result {name}"} for name in ("c", "a", "b")]
    row = {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": calls}, *results, SAID]}
    ((_, episode),) = read_chats(write(tmp_path, row)).chats
    assert [one.content for one in episode.messages[1:-1]] == ["result a", "result b", "result c"]


@pytest.mark.parametrize("ids", [(1, 2), ("1", "2"), (None, None)])
def test_results_are_told_by_ids_else_by_names(tmp_path, ids):
    calls = [{"id": one, "function": {"name": name, "arguments": {}}} for one, name in zip(ids, "fg", strict=True)]
    results = [
        {"role": "tool", "tool_call_id": one, "name": name, "content": f"of {name}"}
        for one, name in zip(reversed(ids), "gf", strict=True)
    ]
    row = {"messages": [ASK, {"role": "assistant", "tool_calls": calls}, *results, SAID]}
    ((_, episode),) = read_chats(write(tmp_path, row)).chats
    assert [(one.name, one.content) for one in episode.messages[1:-1]] == [("f", "of f"), ("g", "of g")]


def test_calls_of_the_old_form_come_in(tmp_path):
    calling = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}
    row = {"messages": [ASK, calling, {"role": "function", "name": "f", "content": "x"}, SAID]}
    tools = [{"name": "f", "description": None, "parameters": None}]
    found = [read_chats(write(tmp_path, {**row, key: tools})).chats for key in ("functions", "tools")]
    found.append(read_chats(write(tmp_path, {**row, "tools": [json.dumps(one) for one in tools]})).chats)
    ((case, episode),) = found[0]
    assert episode.messages[0].tool_calls == (ToolCall(name="f", arguments={}),) and case.tools[0].name == "f"
    assert found[0] == found[1] == found[2]


def with_id(number):
    """A call and its result under an id of their own."""
    call = {**CALL["tool_calls"][0], "id": f"call_{number}"}
    return [{**CALL, "tool_calls": [call]}, {**RESULT, "tool_call_id": f"call_{number}"}]


def test_ids_of_calls_make_no_difference(tmp_path):
    rows = [{"messages": [ASK, *with_id(number), SAID]} for number in range(2)]
    assert read_chats(write(tmp_path, *rows)).left_out["equal rows"] == 1
    sides = {side: [ASK, *with_id(side), {**SAID, "content": side}] for side in ("chosen", "rejected")}
    (pair,) = (found := read_preferences(write(tmp_path, sides))).pairs
    assert len(found.cases[pair.case_id].messages) == 3
    with pytest.raises(StudyError, match="both sides are equal"):
        read_preferences(write(tmp_path, {"prompt": [ASK], "chosen": with_id(0), "rejected": with_id(1)}))


def test_chats_of_one_system_message_and_the_same_tools_are_a_family(tmp_path):
    rows = [
        {"messages": [{"role": "developer", "content": system}, {"role": "user", "content": f"{number}"}, SAID]}
        for number, system in enumerate(("Be careful.", "Be careful.", "Be quick."))
    ]
    one, two, other = (case.family for case, _ in read_chats(write(tmp_path, *rows)).chats)
    assert one == two != other


def test_turns_of_weight_0_are_told(tmp_path):
    row = {"messages": [ASK, {**SAID, "weight": 0}, ASK, {**SAID, "content": "no", "weight": 1}]}
    ((_, episode),) = read_chats(write(tmp_path, row)).chats
    assert [one.detail for one in episode.messages] == [{UNCOUNTED: True}, None, None]


BAD_CHATS = {
    '{"messages": [': "cut short",
    "[1, 2]": "a JSON array",
    '"text"': "expected an object, found str",
    '{"messages": [], "messages": []}': "a key stands twice",
    '{"prompt": "a\\ud800", "completion": "x"}': "half a surrogate pair",
    '{"messages": ' + "[" * 300 + "]" * 300 + "}": "nested deeper than 200",
    '{"prompt": "x", "completion": "y", "score": Infinity}': "Infinity is not a finite number",
    "{}{}": "Extra data",
}
BAD_MESSAGES = [
    ([], "no list of messages"),
    ([ASK], "has no turn of the agent"),
    ([SAID], "begins with the agent's turn"),
    ([ASK, {"role": "robot", "content": "x"}], r"messages\[1\]: role is 'robot'; known are system"),
    ([ASK, {"content": "x"}], "role is None"),
    ([ASK, "done"], "expected a message, found str"),
    ([ASK, {**SAID, "content": " "}], "an empty turn of the agent"),
    ([{**ASK, "content": ""}, SAID], "an empty turn of the user"),
    ([ASK, {**SAID, "content": 3}], "content is int"),
    ([{**ASK, "content": [{"type": "image_url", "image_url": "x"}]}, SAID], "type 'image_url', which is no text"),
    ([ASK, RESULT, SAID], "a tool's result 'c1' that answers no call"),
    ([ASK, CALL, {**RESULT, "tool_call_id": "c2"}, SAID], "a tool's result 'c2' that answers no call"),
    ([ASK, CALL, RESULT, RESULT, SAID], "answers no call"),
    ([ASK, CALL, SAID], r"messages\[2\]: the call of delete_file before it has no result"),
    ([ASK, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}], "arguments of 'f' are no JSON"),
    ([ASK, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}], "arguments of 'f' are no JSON"),
    ([ASK, {**CALL, "tool_calls": [{"function": {"arguments": "{}"}}]}], "a call without the name"),
    ([{**ASK, "tool_calls": CALL["tool_calls"]}, SAID], "a call in a turn of the user"),
    ([ASK, {**CALL, "function_call": {"name": "f"}}, RESULT, SAID], "holds tool_calls and a function_call"),
    ([ASK, {"role": "assistant", "tool_calls": [{"id": [], "function": {"name": "f"}}]}], "an id of a call is list"),
    *(
        ([ASK, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": text}}]}], "no JSON object with numbers")
        for text in ('{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', f'{{"a": {10**20}}}', {"a": 10**20}, "null x")
    ),
    ([ASK, {**CALL, "tool_calls": CALL["tool_calls"][0]}], "tool_calls is no list"),
    ([ASK, {**SAID, "reasoning_content": "hm"}], "reasoning_content is not read; write what the agent is to say"),
    ([ASK, {"role": "assistant", "content": None, "refusal": "No."}], "refusal is not read"),
    ([{"from": "human", "value": "x"}], "a message in ShareGPT's form; write it as messages"),
    ([{**ASK, "role": "User"}, SAID], "role is 'User'"),
    ([ASK, {**SAID, "weight": 2}], "weight is 2; give 0 or 1"),
    ([{**ASK, "weight": 0}, SAID], "weight is 0; give 0 or 1, to an agent's message"),
    ([ASK, {**SAID, "weight": 0}], "every turn of the agent has weight 0"),
]


@pytest.mark.parametrize(("text", "words"), BAD_CHATS.items())
def test_a_line_that_is_no_row_is_refused(tmp_path, text, words):
    with pytest.raises(StudyError, match=words) as refused:
        read_chats(write(tmp_path, text))
    assert "\n" not in str(refused.value) and "rows.jsonl" in str(refused.value)


@pytest.mark.parametrize(("messages", "words"), BAD_MESSAGES)
def test_a_chat_that_would_be_learnt_wrongly_is_refused_with_its_line(tmp_path, messages, words):
    path = write(tmp_path, *good_rows(1), {"messages": messages})
    with pytest.raises(StudyError, match=words) as refused:
        read_chats(path)
    assert "\n" not in str(refused.value) and f"{path}:2" in str(refused.value) and "1 of 2 rows" in str(refused.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"a": "x", "b": 1}, "no messages, nor prompt and completion; its keys are a, b"),
        ({"text": "x"}, "a text whose turns nothing tells"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "ShareGPT's form; write it as messages"),
        ({"instruction": "x", "input": "", "output": "y"}, "Alpaca's form"),
        ({"input": {"messages": [ASK]}, "preferred_output": [SAID]}, "OpenAI's form of preferences"),
        ({"prompt": "x", "completion": "y", "label": False}, "its completion has a label"),
        ({**CHAT, "completion": "x"}, "holds messages and a completion"),
        ({"system": "Be bad.", "messages": [ASK, SAID]}, "system is no part of its messages"),
        ({"prompt": [ASK, SAID], "completion": [SAID]}, "prompt: ends in a turn of the agent"),
        ({"prompt": [ASK], "completion": [ASK, SAID]}, "completion: does not begin with the agent's turn"),
        ({"prompt": str([ASK]), "completion": "x"}, "prompt: not JSON, or cut short"),
        ({"prompt": "Human: \n\nAssistant:", "completion": "x"}, "the transcript has an empty turn of Human"),
        ({**CHAT, "tools": [{"name": "f"}], "functions": [{"name": "g"}]}, "holds tools and functions"),
        ({**CHAT, "tools": [{"name": "f", "description": ["x"]}]}, "its description is list"),
        ({"prompt": [ASK], "chosen": [SAID], "rejected": [SAID]}, 'a row of preferences; name .* method "dpo"'),
        ({"prompt": "", "completion": "x"}, "prompt: an empty text"),
        ({**CHAT, "tools": {"name": "f"}}, "tools: expected a list, found dict"),
        ({**CHAT, "tools": [{"type": "function"}]}, "a tool without a name"),
        ({**CHAT, "tools": [{"name": "f"}, {"name": "f"}]}, "the tool 'f' stands twice"),
        ({**CHAT, "tools": [{"name": "f", "parameters": "x"}]}, "parameters are no JSON schema"),
        ({**CHAT, "tools": [{"name": "f", "parameters": {"properties": ["x"]}}]}, "parameters are no JSON schema"),
    ],
)
def test_a_row_of_another_kind_is_refused(tmp_path, row, words):
    with pytest.raises(StudyError, match=words):
        read_chats(write(tmp_path, row))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no row"),
        (b"\n \n", "holds no row"),
        ("{}".encode("utf-16"), "UTF-16"),
        ('{"messages": "caf\xe9"}'.encode("latin-1"), "not UTF-8"),
        ("{}".encode("utf-16-le"), "begins with NUL bytes, as UTF-16 may"),
        (json.dumps([CHAT], indent=1).encode(), "a JSON array; write one row a line"),
        (json.dumps(CHAT, indent=1).encode(), "a JSON object over several lines; write one row a line"),
        (gzip.compress(b"{}", mtime=0), r"compressed \(gzip\); unpack it"),
        (b"PK\x03\x04\xff", "a zip archive; unpack it"),
        (b"PAR1\xff\xfe", "a Parquet file; write its rows as JSON lines"),
        (b"\xff\xff\xff\xff\x70", "an Arrow file; write its rows"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "a pointer that Git LFS keeps .*; fetch the file"),
    ],
)
def test_a_file_that_is_no_json_lines_is_refused(tmp_path, data, words):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    for read in (read_chats, read_preferences):
        with pytest.raises(StudyError, match=words):
            read(path)
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(StudyError, match="give a file of JSON lines"):
            read_chats(path)


def test_a_twentieth_may_be_bad_and_is_counted(tmp_path):
    rows = [*good_rows(19), {"messages": [ASK]}]
    found = read_chats(write(tmp_path, *rows))
    assert len(found.chats) == 19 and found.left_out["rows that cannot be learnt from"] == 1
    assert "rows.jsonl:20: has no turn of the agent" in found.first
    with pytest.raises(StudyError, match="2 of 21 rows, more than a twentieth, cannot be learnt from, the first: "):
        read_chats(write(tmp_path, *rows, '{"torn'))


# --- preferences


CHOSEN, REJECTED = [{"role": "assistant", "content": "kept"}], [{"role": "assistant", "content": "gone"}]
SIDES = (("chosen", "kept"), ("rejected", "gone"))
PAIR = {"prompt": [ASK], "chosen": CHOSEN, "rejected": REJECTED}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": [ASK, *CHOSEN], "rejected": [ASK, *REJECTED]},
        {"prompt": [ASK], "chosen": [ASK, *CHOSEN], "rejected": [ASK, *REJECTED]},
        {"prompt": ASK["content"], "chosen": [ASK, *CHOSEN], "rejected": [ASK, *REJECTED]},
        {"prompt": ASK["content"], "chosen": "kept", "rejected": "gone"},
        {"prompt": ASK["content"], "chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": ASK["content"], "chosen": CHOSEN[0], "rejected": REJECTED[0], "tools": "[]", "prompt_id": 7},
        {"prompt": None, "chosen": json.dumps([ASK, *CHOSEN]), "rejected": json.dumps([ASK, *REJECTED])},
        {**PAIR, "messages": [ASK, *CHOSEN], "chosen": [ASK, *CHOSEN], "rejected": [ASK, *REJECTED]},
        {side: f"\n\nHuman: {ASK['content']}\n\nAssistant: {said}" for side, said in SIDES},
        {"prompt": f"Human: {ASK['content']}\n\nAssistant:", **dict(SIDES)},
    ],
)
def test_every_form_of_a_preference_is_the_same_pair(tmp_path, row):
    found = read_preferences(write(tmp_path, row), ("safety",))
    (pair,) = found.pairs
    assert (pair.objectives, pair.gap, pair.weight) == (("safety",), 0.0, 1.0)
    assert found.cases[pair.case_id].messages == (Message(role="user", content=ASK["content"]),)
    sides = [found.trajectories[name].messages for name in (pair.chosen, pair.rejected)]
    assert sides == [(Message(role="assistant", content="kept"),), (Message(role="assistant", content="gone"),)]
    assert found.left_out == {"rows that cannot be learnt from": 0, "equal rows": 0}


def test_an_implicit_prompt_of_texts_ends_before_the_word_that_differs(tmp_path):
    row = {"chosen": "The sky is blue.", "rejected": "The sky is blown."}
    found = read_preferences(write(tmp_path, row))
    (pair,) = found.pairs
    assert found.cases[pair.case_id].messages[0].content == "The sky is "
    assert found.trajectories[pair.rejected].messages[0].content == "blown." and found.cut == 1


def test_a_transcript_is_turns(tmp_path):
    """As HH-RLHF has them: what both sides share before the agent's last turn is the prompt."""
    shared = "\n\nHuman: Hi.\n\nAssistant: I am here.\n\nHuman: Two\n\nlines.\n\nAssistant:"
    row = {"chosen": f"{shared} I will.\n\nThen I rest.", "rejected": f"{shared} I won't."}
    found = read_preferences(write(tmp_path, row))
    (pair,) = found.pairs
    case, chosen = found.cases[pair.case_id], found.trajectories[pair.chosen]
    assert [(one.role, one.content) for one in (*case.messages, *chosen.messages)] == [
        ("user", "Hi."),
        ("assistant", "I am here."),
        ("user", "Two\n\nlines."),
        ("assistant", "I will.\n\nThen I rest."),
    ]


def test_a_side_that_goes_on_begins_where_the_other_does(tmp_path):
    row = {"chosen": [ASK, SAID], "rejected": [ASK, SAID, ASK, *REJECTED]}
    found = read_preferences(write(tmp_path, row))
    (pair,) = found.pairs
    assert [len(found.trajectories[name].messages) for name in (pair.chosen, pair.rejected)] == [1, 3]


def test_an_implicit_prompt_ends_before_a_turn_of_the_agent(tmp_path):
    """Sides that differ in a tool's result alone begin with the call."""
    sides = [[ASK, CALL, {**RESULT, "content": text}, SAID] for text in ("removed", "refused")]
    found = read_preferences(write(tmp_path, {"chosen": sides[0], "rejected": sides[1]}))
    (pair,) = found.pairs
    assert [one.role for one in found.trajectories[pair.chosen].messages] == ["assistant", "tool", "assistant"]


def test_equal_rows_are_one_pair_and_the_reverse_is_told(tmp_path):
    reverse = {**PAIR, "chosen": REJECTED, "rejected": CHOSEN}
    found = read_preferences(write(tmp_path, PAIR, PAIR, reverse))
    assert len(found.pairs) == 2 and found.left_out["equal rows"] == 1 and found.contradictory == 2
    assert len(found.cases) == 1 and len(found.trajectories) == 2


def test_the_gap_is_the_difference_of_scores(tmp_path):
    found = read_preferences(write(tmp_path, {**PAIR, "score_chosen": 8.5, "score_rejected": 6}))
    assert found.pairs[0].gap == 2.5 and found.level == 0
    level = {**PAIR, "score_chosen": 8, "score_rejected": 8.0}
    assert read_preferences(write(tmp_path, level)).level == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**PAIR, "rejected": CHOSEN}, "both sides are equal"),
        ({**PAIR, "score_chosen": 1, "score_rejected": 2}, "the chosen side has the lower score; swap the sides"),
        ({**PAIR, "score_chosen": 1}, "a score of its sides is no number, or missing"),
        ({**PAIR, "score_chosen": True, "score_rejected": False}, "a score of its sides is no number"),
        ({**PAIR, "score_chosen": 1.7e308, "score_rejected": -1.7e308}, "too far apart to be told"),
        ({**PAIR, "score_chosen": 10**399, "score_rejected": 0}, "too far apart to be told"),
        ({"prompt": [ASK], "chosen": CHOSEN}, "has no rejected; give both sides"),
        ({"prompt": "x", "Chosen": "a", "Rejected": "b"}, "no chosen and rejected; its keys are prompt, Chosen, Rej"),
        ({"preferred_output": CHOSEN, "non_preferred_output": REJECTED}, "OpenAI's form of preferences; write input"),
        ({"question": "x", "chosen": "I can", "rejected": "I cannot"}, "its prompt stands under question"),
        ({**PAIR, "chosen": {"from": "gpt", "value": "a"}}, "a message in ShareGPT's form"),
        ({**PAIR, "system": "Be bad."}, "system is no part of its messages"),
        ({**PAIR, "chosen_tools": [{"name": "f"}]}, "gives tools to each side"),
        ({**PAIR, "chosen": [{**SAID, "weight": 0}]}, "a turn has weight 0"),
        ({**PAIR, "chosen": [{**SAID, "content": ""}]}, "chosen: the agent says nothing"),
        ({"prompt": "What?", "chosen": "What? Yes.", "rejected": "What? No."}, "both sides repeat the prompt"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt: an empty text"),
        ({**PAIR, "prompt": [ASK, SAID]}, "prompt: ends in a turn of the agent"),
        (CHAT, 'a row of chats; name the file as data of a stage with method "sft"'),
        ({"chosen": [ASK, *CHOSEN], "rejected": [{**ASK, "content": "?"}, *REJECTED]}, "the sides open differently"),
        ({**PAIR, "rejected": [{**ASK, "content": "?"}, *REJECTED]}, "a side repeats another prompt"),
        ({"chosen": "yes", "rejected": "no"}, "the sides do not open alike"),
        ({**PAIR, "chosen": "kept"}, "one side is a text and the other is none"),
        ({**PAIR, "chosen": [*CHOSEN, ASK]}, "chosen: ends in a turn of the user"),
        ({**PAIR, "chosen": []}, "chosen: no list of messages"),
        ({"prompt": "x", "chosen": "", "rejected": "no"}, "a side is empty"),
        ({"chosen": [ASK], "rejected": [ASK, SAID]}, "does not begin with the agent's turn"),
        ({**PAIR, "rejected": [{"role": "narrator", "content": "x"}]}, "role is 'narrator'"),
        ({**PAIR, "rejected": [RESULT, SAID]}, "answers no call"),
    ],
)
def test_a_preference_that_would_be_learnt_wrongly_is_refused_with_its_line(tmp_path, row, words):
    path = write(tmp_path, PAIR, row)
    with pytest.raises(StudyError, match=words) as refused:
        read_preferences(path)
    assert "\n" not in str(refused.value) and f"{path}:2" in str(refused.value)


@pytest.mark.parametrize("arguments", ["object", "text"])
def test_what_is_exported_to_trl_comes_back(smoke_run, tmp_path, arguments):
    """Prompts, sides and tools of a finished study's pairs."""
    store = Store(smoke_run)
    step = next(name for name, one in store.log.steps().items() if one.kind == "pair")
    pairs = store.pairs(step)
    path = write(tmp_path, *to_trl(pairs, store, arguments))
    found = read_preferences(path, pairs[0].objectives)

    def plain(messages):
        return tuple(
            (
                one.role,
                one.content,
                one.name if one.role == "tool" else None,
                tuple((call.name, dict(call.arguments)) for call in one.tool_calls),
            )
            for one in messages
        )

    def told(cases, trajectories, some):
        return sorted(
            repr((plain(cases(one.case_id).messages), *(plain(trajectories(name).messages) for name in sides(one))))
            for one in some
        )

    def sides(pair):
        return pair.chosen, pair.rejected

    ours = told(store.case, store.trajectory, pairs)
    theirs = told(found.cases.__getitem__, found.trajectories.__getitem__, found.pairs)
    assert set(theirs) ^ set(ours) == set() and found.left_out["rows that cannot be learnt from"] == 0
    case = store.case(pairs[0].case_id)
    assert any(one.tools == case.tools for one in found.cases.values())
