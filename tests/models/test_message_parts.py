"""Parts of messages as providers and their libraries write them, one row each; nothing of them is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.models.calls.structured import Part, read_message_parts, read_parts
from holdfast.models.calls.values import (
    PYTHON,
    Unreadable,
    argument_types,
    decode_whole,
    make_call,
    read_arguments,
    type_value,
)
from holdfast.records import ToolSpec


def shorten(parts: list[Part]) -> list[tuple[Any, ...]]:
    """What each part says: its kind with its text, or the call's name and arguments, or whether it could be a call."""
    made: list[tuple[Any, ...]] = []
    for part in parts:
        if part.call is not None:
            made.append((part.kind, part.call.name, dict(part.call.arguments), part.served))
        elif part.kind == "unread":
            made.append((part.kind, part.type, part.suspect))
        elif part.kind == "answer":
            made.append((part.kind, part.text, part.answers, part.name))
        else:
            made.append((part.kind, part.text))
    return made


CONTENTS: dict[str, tuple[Any, list[tuple[Any, ...]]]] = {
    "MCP's result within a result": (
        [{"type": "tool_result", "tool_use_id": "a", "content": {"content": [{"type": "text", "text": "done"}]}}],
        [("answer", "done", "a", "")],
    ),
    "MCP's result that failed": (
        [{"type": "mcp_tool_result", "tool_use_id": "a", "result": {"isError": True, "content": ["no", "way"]}}],
        [("answer", "no\nway", "a", "")],
    ),
    "text of the Assistants": ([{"type": "text", "text": {"value": "hello", "annotations": []}}], [("text", "hello")]),
    "a refusal of several parts": (
        [{"type": "refusal", "content": [{"type": "text", "text": "I"}, {"type": "text", "text": "won't"}]}],
        [("text", "I"), ("text", "won't")],
    ),
    "Gemini's thought": (
        [{"text": "let me see", "thought": True}, {"text": "yes"}],
        [("reasoning", "let me see"), ("text", "yes")],
    ),
    "Bedrock's thought": (
        [{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}],
        [("reasoning", "hm")],
    ),
    "a summary of thoughts": (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "one"}, "two"]}],
        [("reasoning", "one\ntwo")],
    ),
    "a call within a call": (
        [{"type": "tool_call", "tool_call": {"id": "x", "function": {"name": "send", "arguments": '{"to": 1}'}}}],
        [("call", "send", {"to": 1}, False)],
    ),
    "a call without a name": ([{"type": "tool_use", "id": "x", "input": {}}], [("unread", "tool_use", True)]),
    "the AI SDK's call with its result": (
        [
            {
                "type": "tool-send",
                "toolCallId": "a",
                "state": "output-available",
                "input": {"to": 1},
                "output": {"ok": 1},
            }
        ],
        [("call", "send", {"to": 1}, False), ("answer", '{"ok": 1}', "a", "send")],
    ),
    "the AI SDK's call without one": (
        [{"type": "tool-send", "toolCallId": "a", "state": "output-denied", "input": {}, "output": "was refused"}],
        [("call", "send", {}, False)],
    ),
    "the AI SDK's call that nobody carried out": (
        [{"type": "dynamic-tool", "toolName": "send", "toolCallId": "a", "state": "input-available", "input": {}}],
        [("call", "send", {}, False)],
    ),
    "an unknown kind that acts": (
        [{"type": "robot_arm", "name": "grip", "arguments": {"force": 3}}],
        [("unread", "robot_arm", True), ("call", "grip", {"force": 3}, False)],
    ),
    "an unknown kind that speaks": (
        [{"type": "poem", "text": "roses"}],
        [("unread", "poem", False), ("text", "roses")],
    ),
    "an unknown kind with neither": ([{"type": "poem", "lines": 3}], [("unread", "poem", False)]),
    "numbers among parts": ([3, "words", None], [("unread", "int", False), ("text", "words")]),
    "a result of a server's tool of any name": (
        [{"type": "web_fetch_tool_result", "tool_use_id": "s", "content": [{"type": "text", "text": "page"}]}],
        [("answer", "page", "s", "")],
    ),
    "a search of Responses with its results": (
        [{"type": "file_search_call", "id": "f", "queries": ["a"], "results": [{"text": "found"}]}],
        [("call", "file_search", {"queries": ["a"]}, True), ("answer", "found", "f", "file_search")],
    ),
    "a shell call of Responses, which the client carries out": (
        [{"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}}],
        [("call", "local_shell", {"command": ["ls"]}, False)],
    ),
    "references": (
        [{"type": "item_reference", "id": identity} for identity in ("rs_1", "msg_1", "fc_1")],
        [("unread", "item_reference", False), ("unread", "item_reference", True)],
    ),
    "Gemini's code and its result": (
        [{"executableCode": {"language": "PYTHON", "code": "1+1"}}, {"codeExecutionResult": {"output": "2"}}],
        [("call", "code_execution", {"language": "PYTHON", "code": "1+1"}, True), ("answer", "2", "", "")],
    ),
    "speech with its words": (
        [{"type": "input_audio", "input_audio": {"data": "…", "transcript": "good day"}}],
        [("data", ""), ("text", "good day")],
    ),
    "a picture": ([{"inlineData": {"mimeType": "image/png", "data": ""}}], [("data", "")]),
    "Bedrock's citations": ([{"citationsContent": {"content": [{"text": "cited"}]}}], [("text", "cited")]),
    "citations that are none": ([{"citationsContent": "cited"}], [("unread", "citationsContent", False)]),
    "OpenTelemetry's call at a server": (
        [{"type": "server_tool_call", "id": "q", "name": "search", "server_tool_call": {"type": "web", "query": "a"}}],
        [("call", "search", {"query": "a"}, True)],
    ),
    "JSON text of parts": ('[{"type": "text", "text": "hi"}]', [("text", "hi")]),
    "JSON text of what a model wrote": (
        '[{"type": "function", "name": "send"}]',
        [("text", '[{"type": "function", "name": "send"}]')],
    ),
    "text that begins like JSON": ('[{"type": torn', [("text", '[{"type": torn')]),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content(name: str) -> None:
    content, expected = CONTENTS[name]
    assert shorten(read_parts(content)) == expected


LISTED = [{"id": "a", "function": {"name": "send", "arguments": {"to": 1}}}]
MESSAGES: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]]]] = {
    "calls beside the content, twice": (
        {"content": "", "tool_calls": LISTED, "additional_kwargs": {"tool_calls": LISTED}},
        [("text", ""), ("call", "send", {"to": 1}, False)],
    ),
    "calls as JSON text": (
        {"content": None, "tool_calls": '[{"id": "a", "function": {"name": "send", "arguments": "{}"}}]'},
        [("call", "send", {}, False)],
    ),
    "calls that are none": ({"content": None, "tool_calls": ["send"]}, [("unread", "tool_calls", True)]),
    "the AI SDK's invocations": (
        {
            "content": "it is sent",
            "toolInvocations": [{"state": "result", "toolCallId": "a", "toolName": "send", "args": {}, "result": "ok"}],
        },
        [("call", "send", {}, False), ("answer", "ok", "a", "send"), ("text", "it is sent")],
    ),
    "results beside the content": (
        {"content": "", "toolResults": [{"toolCallId": "a", "toolName": "send", "result": "ok"}, 3]},
        [("text", ""), ("answer", "ok", "a", "send"), ("unread", "int", False)],
    ),
    "a refusal beside it": ({"content": None, "refusal": "no"}, [("text", "no")]),
    "speech beside it": (
        {"content": None, "audio": {"id": "x", "transcript": "hello"}},
        [("data", ""), ("text", "hello")],
    ),
    "thoughts beside it": (
        {"content": "yes", "reasoning_content": "let me see"},
        [("text", "yes"), ("reasoning", "let me see")],
    ),
    "thoughts beside it that it holds already": (
        {"content": [{"type": "thinking", "thinking": "let me see"}], "reasoning": "let me see"},
        [("reasoning", "let me see")],
    ),
    "something that could be calls": (
        {"content": "", "robot_actions": [{"name": "grip", "arguments": {}}]},
        [("text", ""), ("unread", "robot_actions", True)],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    message, expected = MESSAGES[name]
    assert shorten(read_message_parts({"role": "assistant", **message})) == expected


def tool(**properties: Any) -> ToolSpec:
    return ToolSpec(name="send", description="", parameters={"type": "object", "properties": properties})


def test_types_of_arguments_with_and_without_a_schema() -> None:
    made = tool(a={"type": "integer", "nullable": True}, b={"anyOf": [{"type": "string"}, {"type": "null"}]}, c=True)
    assert argument_types([made], "send") == {"a": ("integer", "null"), "b": ("string", "null"), "c": ()}
    assert argument_types([made], "other") == {}
    assert argument_types([ToolSpec(name="send", description="", parameters={"properties": [1]})], "send") == {}


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("7", ("integer",), 7),
        ("7.0", ("integer",), 7),
        ("7.0", ("number",), 7.0),
        ("7.5", ("integer", "string"), "7.5"),
        ("1e999", ("number",), "1e999"),
        ("True", ("boolean",), True),
        ("0", ("boolean",), False),
        ("null", ("null",), None),
        ('{"a": 1}', ("object",), {"a": 1}),
        ('{"a": 1}', ("array",), '{"a": 1}'),
        ("[1", ("array",), "[1"),
        ("word", (), "word"),
    ],
)
def test_a_text_has_the_first_type_that_it_can_have(text: str, types: tuple[str, ...], value: Any) -> None:
    found = type_value(text, types)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1, b='x\\n\\x41\\u00e9\\U0001F600\\q')", {"a": 1, "b": "x\nAé😀\\q"}),
        ("a={'b': [1, 2.5, None, True]})", {"a": {"b": [1, 2.5, None, True]}}),
        (")", {}),
    ],
)
def test_arguments_of_a_call_as_programs_write_it(text: str, value: dict[str, Any]) -> None:
    assert read_arguments(text, 0, PYTHON, ends=")", equals="=") == (value, len(text))


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("a=1, a=2)", "a key stands twice"),
        ("1=2)", "a key is no text"),
        ("a='\\x4')", "half an escape"),
        ("a='\\U00110000')", "half an escape"),
        ("a='x", "a string without an end"),
        ("a=word)", "no value"),
        ("a=1 b=2)", "no ,"),
        ("a=" + "[" * 70 + "]" * 70 + ")", "nested too deep"),
    ],
)
def test_what_is_no_call_of_a_program(text: str, finding: str) -> None:
    with pytest.raises(Unreadable, match=finding):
        read_arguments(text, 0, PYTHON, ends=")", equals="=")


@pytest.mark.parametrize("name", [None, "", 3, "half a pair \ud800"])
def test_a_call_has_a_name_that_can_be_stored(name: object) -> None:
    with pytest.raises(Unreadable, match="no name"):
        make_call(name, {})


@pytest.mark.parametrize("text", ["{", '{"a": 1} more', '{"a": 1, "a": 2}', "NaN", "[" * 100_000])
def test_json_is_read_without_liberties(text: str) -> None:
    with pytest.raises(Unreadable):
        decode_whole(text)
