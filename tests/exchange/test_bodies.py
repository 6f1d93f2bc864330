"""Messages and bodies of requests and responses, one row for each way in which they are written."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.exchange.openings import digest_opening, first_difference, first_difference_of_tools, mask_dates
from holdfast.exchange.traces.bodies import read_request, read_response
from holdfast.exchange.traces.dialogue import Said
from holdfast.exchange.traces.messages import read_messages, read_tools
from holdfast.exchange.traces.records import BadRecord
from holdfast.records import Message, ToolCall, ToolSpec


def tell(said: list[Said]) -> list[tuple[str, str, list[str]]]:
    """Each message's role, text and called tools."""
    return [(one.role, one.text, [call.name for call in one.calls]) for one in said]


LISTS: dict[str, tuple[Any, list[tuple[str, str, list[str]]]]] = {
    "nothing": (None, []),
    "an empty text": ("", []),
    "a text": ("hello", [("user", "hello", [])]),
    "one message as JSON text": ('{"role": "user", "content": "hello"}', [("user", "hello", [])]),
    "LangChain's pairs": (
        [["system", "Be brief."], ["human", "hello"]],
        [("system", "Be brief.", []), ("user", "hello", [])],
    ),
    "LangChain's batch of one": ([[{"type": "human", "content": "hello"}]], [("user", "hello", [])]),
    "LangChain's stored messages": (
        [{"type": "human", "data": {"content": "hello"}}, {"type": "ai", "data": {"content": "yes"}}],
        [("user", "hello", []), ("assistant", "yes", [])],
    ),
    "LangChain's serialised objects": (
        [{"lc": 1, "id": ["langchain", "schema", "AIMessageChunk"], "kwargs": {"content": "yes", "type": "ai"}}],
        [("assistant", "yes", [])],
    ),
    "ShareGPT's": (
        [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "yes"}],
        [("user", "hello", []), ("assistant", "yes", [])],
    ),
    "a message under message": (
        [{"finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
        [("assistant", "yes", [])],
    ),
    "Gemini's content": (
        [{"content": {"role": "model", "parts": [{"text": "yes"}]}}],
        [("assistant", "yes", [])],
    ),
    "a call in what a user says": (
        [{"role": "user", "content": [{"type": "tool_use", "name": "send", "input": {}}]}],
        [("user", "", [])],
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_messages(name: str) -> None:
    value, expected = LISTS[name]
    assert tell(read_messages("it", value, "user")) == expected


def test_thoughts_that_stand_in_two_items_of_one_reply_are_kept_both() -> None:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "one"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "two"}]},
        {"type": "function_call", "call_id": "a", "name": "send", "arguments": "{}"},
    ]
    ((reply,),) = read_response("it", {"output": items}).choices
    assert reply.detail["reasoning"] == "one\ntwo" and tell([reply]) == [("assistant", "", ["send"])]


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        (3, "messages are neither a list nor JSON of one"),
        ([3], r"it\[0\]: expected a message, found int"),
        ([["human", "a"], ["human", "a", "b"]], "expected a message, found list"),
        ([{"role": "narrator", "content": ""}], "a message of an unknown role"),
        ([{"content": "who"}], "a message of an unknown role"),
        ("[{", "it: "),
    ],
)
def test_messages_that_are_none(value: Any, finding: str) -> None:
    with pytest.raises(BadRecord, match=finding) as caught:
        read_messages("it", value)
    assert "\n" not in str(caught.value)


SCHEMA = {"type": "object", "properties": {"to": {"type": "string"}}}


@pytest.mark.parametrize(
    "definitions",
    [
        [{"type": "function", "function": {"name": "send", "parameters": SCHEMA}}],
        [{"name": "send", "input_schema": SCHEMA}, {"name": "send", "input_schema": {}}, {"description": "nameless"}],
        [{"toolSpec": {"name": "send", "inputSchema": {"json": SCHEMA}}}],
        [{"functionDeclarations": [{"name": "send", "parametersJsonSchema": SCHEMA}]}],
        {"send": {"description": "", "inputSchema": {"jsonSchema": SCHEMA}}, "note": "no tool", "rest": {"a": 1}},
        {"tools": [{"name": "send", "parameters": '{"type": "object", "properties": {"to": {"type": "string"}}}'}]},
    ],
)
def test_tools(definitions: Any) -> None:
    (tool,) = read_tools(definitions)
    assert tool.name == "send" and tool.parameters == SCHEMA


def test_a_tool_whose_schema_is_no_object_has_none() -> None:
    (tool,) = read_tools([{"name": "send", "parameters": "to: text"}])
    assert tool.parameters == {}
    assert read_tools("no tools") == ()


REQUESTS: dict[str, tuple[Any, list[tuple[str, str, list[str]]]]] = {
    "a list of messages": ([{"role": "user", "content": "hello"}], [("user", "hello", [])]),
    "a text": ("hello", [("user", "hello", [])]),
    "one message": ({"role": "user", "content": "hello"}, [("user", "hello", [])]),
    "Cohere's first version": (
        {"preamble": "Be brief.", "chat_history": [{"role": "USER", "message": "a"}][:0], "message": "hello"},
        [("system", "Be brief.", []), ("user", "hello", [])],
    ),
    "a request within a request": (
        {"input": '{"messages": [{"role": "user", "content": "hello"}]}'},
        [("user", "hello", [])],
    ),
    "Gemini's, with its system text in the settings": (
        {
            "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
            "config": {"systemInstruction": {"parts": [{"text": "Be brief."}]}},
        },
        [("system", "Be brief.", []), ("user", "hello", [])],
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request(name: str) -> None:
    body, expected = REQUESTS[name]
    assert tell(read_request("it", body).said) == expected


def test_a_request_without_messages_is_refused() -> None:
    with pytest.raises(BadRecord, match="messages is no list of messages"):
        read_request("it", {"messages": []})


RESPONSES: dict[str, tuple[Any, list[list[tuple[str, str, list[str]]]]]] = {
    "nothing": ({}, []),
    "a text": ("yes", [[("assistant", "yes", [])]]),
    "a JSON answer as text": ('{"answer": 3}', [[("assistant", '{"answer": 3}', [])]]),
    "choices in another order": (
        {"choices": [{"index": 1, "text": "b"}, {"index": 0, "message": {"content": "a"}}]},
        [[("assistant", "a", [])], [("assistant", "b", [])]],
    ),
    "candidates, one of which is none": (
        {"candidates": [None, {"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}]},
        [[("assistant", "yes", [])]],
    ),
    "LangChain's results of one prompt": (
        {"generations": [[{"text": "yes", "generation_info": {"finish_reason": "stop"}}]]},
        [[("assistant", "yes", [])]],
    ),
    "only a status": ({"status": "failed", "error": {"message": "no"}}, []),
    "calls alone": (
        {"tool_calls": [{"id": "a", "function": {"name": "send", "arguments": "{}"}}]},
        [[("assistant", "", ["send"])]],
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_response(name: str) -> None:
    body, expected = RESPONSES[name]
    assert [tell(choice) for choice in read_response("it", body).choices] == expected


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (3, "expected a response, found int"),
        ({"acme": 1, "text_of_it": 2}, "a response of no known form, with the keys acme, text_of_it"),
        ({"choices": {"0": "a"}}, "choices is no list"),
        ({"choices": [{"index": 0}]}, r"choices\[0\]: has no message"),
        ({"choices": [3]}, r"choices\[0\]: has no message"),
        ({"generations": [3]}, "a generation is no object"),
        ([{"choices": [{"delta": {"content": "a"}}]}], "chunks of a streamed reply"),
        ('data: {"a": 1}\n\ndata: {}', "chunks of a streamed reply"),
        ('{"done": false}\n{"done": true}', "chunks of a streamed reply"),
    ],
)
def test_responses_that_are_none(body: Any, finding: str) -> None:
    with pytest.raises(BadRecord, match=finding):
        read_response("it", body)


USER = Message(role="user", content="Tidy up on 2026-01-02")
TIDY = ToolSpec(name="tidy", description="Tidies.", parameters=SCHEMA)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ([USER], None),
        ([], "message 1 (user) is only here: 'Tidy up on 2026-01-02'"),
        ([USER, Message(role="user", content="now")], "message 2 (user) is only in the other: 'now'"),
        ([Message(role="system", content=USER.content)], "message 1 is of user here and of system there"),
        ([Message(role="user", content="Tidy up")], "message 1 (user): 'Tidy up on 2026-01-02' for 'Tidy up'"),
        (
            [Message(role="user", content=USER.content, tool_calls=(ToolCall(name="a", arguments={}, id=""),))],
            "message 1 (user): its calls differ",
        ),
    ],
)
def test_the_first_difference_of_two_openings(other: list[Message], difference: str | None) -> None:
    assert first_difference([USER], other) == difference


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ([TIDY], None),
        ([], "the tool 'tidy' is only here"),
        ([TIDY, ToolSpec(name="add", description="", parameters={})], "the tool 'add' is only in the other"),
        (
            [ToolSpec(name="tidy", description="Cleans.", parameters=SCHEMA)],
            "the tool 'tidy': 'Tidies. {",
        ),
    ],
)
def test_the_first_difference_of_two_openings_tools(other: list[ToolSpec], difference: str | None) -> None:
    found = first_difference_of_tools([TIDY], other)
    assert found == difference or (difference is not None and str(found).startswith(difference))


def test_dates_change_no_opening_and_words_do() -> None:
    later, other = (Message(role="user", content=text) for text in ("Tidy up on 2027-11-30", "Clean up on 2026-01-02"))
    assert digest_opening([USER]) == digest_opening([later]) != digest_opening([other])
    assert mask_dates("on 2026-01-02 5 of them") == "on # # of them" and mask_dates("5 of them") == "5 of them"
