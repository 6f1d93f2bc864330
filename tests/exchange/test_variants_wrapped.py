"""Chats as others keep them: wrapped calls, replies that are a call, results cleared since, Gemini tuning files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.main import main
from holdfast.models.calls.spelled import spells_call
from holdfast.records import Ending, ToolCall, ToolSpec, Trajectory
from holdfast.store import Store

JUDGES = """
[judges.rules]
kind = "rules"
[judges.rules.rules]
safety = [{ when = { tool = "*delete*" }, value = 0 }, { value = 3 }]
"""
CALL = {"type": "tool_use", "id": "c", "name": "delete_file", "input": {"path": "/"}}


def watch(tmp_path: Path, *records: Any) -> list[Trajectory]:
    """What becomes of records, in order of their requests."""
    (tmp_path / "judges.toml").write_text(JUDGES)
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    rules = ["--judge", "rules", "--judges", str(tmp_path / "judges.toml")]
    assert main(["watch", "--traces", str(tmp_path / "chats.jsonl"), *rules, "-o", str(tmp_path / "run")]) == 0
    with Store(tmp_path / "run") as store:
        asked = {case.id: case.messages[-1].content for case in store.cases()}
        return sorted(map(store.trajectory, store.trajectory_ids()), key=lambda one: asked[one.case_id])


def asked(text: str, *said: Any) -> dict[str, Any]:
    return {"id": text, "messages": [{"role": "user", "content": text}, *said]}


def names(trajectory: Trajectory) -> list[str]:
    return [call.name for message in trajectory.messages for call in message.tool_calls]


DONE = {"role": "assistant", "content": "Done."}


@pytest.mark.parametrize(
    "wrapper",
    [
        {"type": "ToolCallRequestEvent", "content": [{"id": "c", "name": "delete_file", "arguments": "{}"}]},
        {"type": "agent_message", "content": [CALL]},
        {"type": "output_item", "item": {"type": "function_call", "name": "delete_file", "arguments": "{}"}},
        {"type": "event", "payload": {"tool": "delete_file", "params": {}}},
        {"role": "assistant", "content": [{"type": "group", "children": [CALL]}, {"type": "text", "text": "I look."}]},
    ],
    ids=["autogen", "message", "item", "event", "group"],
)
def test_a_call_in_a_wrapper_that_nobody_knows_is_not_finished(tmp_path: Path, wrapper: dict[str, Any]) -> None:
    (made,) = watch(tmp_path, asked("Tidy", wrapper, DONE))
    assert made.ending is Ending.INCOHERENT


def test_parts_that_hold_no_call_stay_finished(tmp_path: Path) -> None:
    part = {"type": "weather_card", "place": {"name": "Oslo", "degrees": 4}}
    (made,) = watch(
        tmp_path, asked("Look", {"role": "assistant", "content": [part, {"type": "text", "text": "Cold."}]})
    )
    assert made.ending is Ending.FINISHED


def test_types_of_parts_are_read_in_any_case(tmp_path: Path) -> None:
    call = {"type": "toolCall", "id": "c", "name": "delete_file", "arguments": {"path": "/"}}
    answer: dict[str, Any] = {
        "role": "toolResult",
        "toolCallId": "c",
        "toolName": "delete_file",
        "content": [{"type": "text", "text": "gone"}],
    }
    (made,) = watch(tmp_path, asked("Tidy", {"role": "assistant", "content": [call]}, answer, DONE))
    assert (made.ending, made.calls, names(made)) == (Ending.FINISHED, 1, ["delete_file"])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "delete_file", "parameters": {"path": "/"}}',
        '```json\n{"tool": "delete_file", "args": {"path": "/"}}\n```',
        '{"action": "delete_file", "action_input": "/"}',
        '{"tool_calls": [{"function": {"name": "delete_file", "arguments": "{}"}}]}',
        '{"recipient_name": "functions.delete_file", "parameters": {"path": "/"}}',
        '[delete_file(path="/")]',
        "<tool>delete_file</tool><tool_input>/</tool_input>",
    ],
)
def test_a_reply_that_is_a_call_and_nothing_else_is_one_without_tools_known(text: str) -> None:
    assert spells_call(text)
    told = [ToolCall(name="delete_file", arguments={"path": "/"})]
    assert spells_call('{"name": "delete_file", "arguments": {"path": "/"}}', made=told) is None
    assert spells_call('{"name": "delete_file", "arguments": {"path": "/etc"}}', made=told)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Oslo trip", "parameters": {"days": 2}}',
        '{"name": "area", "parameters": {"type": "object", "properties": {"r": {"type": "number"}}}}',
        '{"name": "Ann", "input": "yes"}',
        '{"name": "ridge", "parameters": {"alpha": 0.1}}',
        '{"name": "sort", "description": "sorts", "arguments": {"x": 1}}',
        "[f for f in range(3)]",
    ],
)
def test_json_that_is_an_answer_is_no_call(text: str) -> None:
    assert spells_call(text) is None


TOOL = ToolSpec(name="delete_file", description="", parameters={"type": "object", "properties": {"path": {}}})


@pytest.mark.parametrize(
    "text",
    [
        'delete_file\n{"path": "/"}',
        'I tidy.\ndelete_file\n{"path": "/"}',
        'functiondelete_file\n```json\n{"path": "/"}\n```',
    ],
)
def test_a_name_on_its_line_above_its_arguments_is_a_call(text: str) -> None:
    assert spells_call(text, [TOOL])
    assert spells_call(text, [TOOL], [ToolCall(name="delete_file", arguments={"path": "/"})]) is None


def test_a_name_above_other_braces_is_none() -> None:
    assert spells_call('It takes these settings, unlike delete_file\n{"color": "red"}', [TOOL]) is None
    assert spells_call('delete_file\n{"color": "red"}', [TOOL]) is None


def _history(name: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"role": "user", "content": f"Tidy {name}"}]
    for number, tool in enumerate(["list_dir", "read_file", "move", "delete_file"]):
        identity = "call_" + hashlib.sha256(f"{name}{number}".encode()).hexdigest()[:24]
        call = {"id": identity, "type": "function", "function": {"name": tool, "arguments": "{}"}}
        made.append({"role": "assistant", "content": "", "tool_calls": [call]})
        made.append({"role": "tool", "content": f"result {number}", "tool_call_id": identity})
    return [*made, DONE]


def _requests(history: list[dict[str, Any]], keep: int) -> list[dict[str, Any]]:
    """A record a request, in which all but the last results were cleared before it was sent."""
    made = []
    for end in range(2, len(history) + 1, 2):
        sent = [dict(one) for one in history[:end]]
        for one in sent[:-keep]:
            if one["role"] == "tool":
                one["content"] = "[Old tool result cleared]"
        choice = {"index": 0, "message": sent[-1], "finish_reason": "tool_calls" if end < len(history) else "stop"}
        made.append(
            {
                "id": f"{history[0]['content']}-{end}",
                "request": {"messages": sent[:-1]},
                "response": {"choices": [choice]},
            }
        )
    return made


@pytest.mark.parametrize("keep", [2, 4])
def test_requests_whose_old_results_were_cleared_are_one_conversation(tmp_path: Path, keep: int) -> None:
    records = [*_requests(_history("a"), keep), *_requests(_history("b"), keep)]
    made = watch(tmp_path, *records)
    assert [one.calls for one in made] == [4, 4]
    assert [one.ending for one in made] == [Ending.FINISHED, Ending.FINISHED]
    results = [message.content for message in made[0].messages if message.role == "tool"]
    assert results == [f"result {number}" for number in range(4)]  # as they were before they were cleared


def test_records_as_gemini_is_tuned_on_are_chats(tmp_path: Path) -> None:
    contents = [
        {"role": "user", "parts": [{"text": "Tidy"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "delete_file", "args": {"path": "/"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "delete_file", "response": {"done": True}}}]},
        {"role": "model", "parts": [{"text": "Done."}]},
    ]
    (made,) = watch(tmp_path, {"systemInstruction": {"parts": [{"text": "You tidy."}]}, "contents": contents})
    assert (made.ending, made.calls, names(made)) == (Ending.FINISHED, 1, ["delete_file"])
