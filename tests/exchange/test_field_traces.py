"""Field cases of production traces (T, C, P): each with its own inputs, and close variants made here."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from builders.places import case_input
from builders.trace_samples import (
    DELETE,
    acts,
    answers,
    bare_span,
    calls,
    document,
    episode,
    look,
    printed,
    read,
    read_one,
    request,
    said,
    score,
    unfit,
    user,
    write,
)
from builders.watch_samples import any_value, attributes, chat_line

from holdfast.exchange.traces import read_traces
from holdfast.exchange.traces.files import sort_paths
from holdfast.records import Ending, Flag, Trajectory
from holdfast.records.errors import StudyError

Shown = tuple[int, dict[str, Any], str, list[Trajectory]]
Case = Callable[..., Shown]
USER = user("Tidy")
LISTS = calls("list_dir", "c1", path="/a")
DELETES_ALL = calls("delete_file", "c2", path="/b")
M = [{"role": "user", "content": "Tidy"}]


@pytest.fixture
def case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    """``holdfast watch --traces`` over the files of a field case with its own rules."""

    def run(name: str, *files: str) -> Shown:
        folder = case_input(name)
        paths = [folder / file for file in files or ("traces.jsonl",)]
        return look(tmp_path, *paths, judges=folder / "judges.toml", capsys=capsys)

    return run


def told(document_: dict[str, Any]) -> str:
    return " ".join(document_["sentences"])


def mean_of(shown: Shown) -> tuple[float, int]:
    code, document_, err, _ = shown
    assert code == 0, err
    return document_["baseline"]["mean"], document_["baseline"]["n"]


# --- conversations ------------------------------------------------------------------------------------------------


def test_t_01_sliding_windows_are_joined_by_their_overlap(case: Case) -> None:
    shown = case("T-01")
    assert mean_of(shown) == (0.0, 3) and "12 windows" in told(shown[1])
    for one in shown[3]:
        names = [call.name for message in one.messages for call in message.tool_calls]
        assert names == ["list_dir"] * 5 + ["delete_file"] and one.calls == 6
        assert one.ending is Ending.FINISHED and one.messages[-1].content == "Done."


def test_a_window_that_begins_with_the_answer_goes_on_from_the_call(tmp_path: Path) -> None:
    trace = read_one(
        tmp_path / "t",
        document(
            request([USER], LISTS, span=1, start=0),
            request([answers("c1", "r")], DELETES_ALL, span=2, start=1),
            request([answers("c2", "gone")], said("Done."), span=3, start=2),
        ),
    )
    assert acts(trace) == [("list_dir", "r"), ("delete_file", "gone")] and trace.broken is None


def test_a_summary_before_a_window_and_cleared_results_do_not_part_it(tmp_path: Path) -> None:
    third = calls("list_dir", "c3", path="/z")
    summarised = document(
        request([user("You tidy"), USER], LISTS, span=1, start=0),
        request([user("You tidy"), user("So far: /a"), LISTS, answers("c1", "r")], DELETES_ALL, span=2, start=1),
    )
    cleared = document(
        request([USER], LISTS, span=1, start=0),
        request([USER, LISTS, answers("c1", "long")], third, span=2, start=1),
        request([USER, LISTS, answers("c1", "[cleared]"), third, answers("c3", "z")], DELETES_ALL, span=3, start=2),
    )
    assert acts(read_one(tmp_path / "s", summarised)) == [("list_dir", "r"), ("delete_file", None)]
    trace = read_one(tmp_path / "c", cleared)
    assert acts(trace) == [("list_dir", "long"), ("list_dir", "z"), ("delete_file", None)] and trace.dialogues == 1


def test_a_window_that_joins_nothing_is_told_and_its_trace_is_unfit(tmp_path: Path) -> None:
    found = read(
        tmp_path / "t",
        document(
            request([USER], LISTS, span=1, start=0),
            request([calls("x", "c9"), answers("c9", "q")], DELETES_ALL, span=2, start=2),
        ),
    )
    (trace,) = found.traces
    assert unfit(trace) and {name for name, _ in acts(trace)} == {"list_dir", "x", "delete_file"}
    assert score(trace) == 0 and any("a window of it joins nothing" in one for one in found.notes)


def test_t_03_helpers_of_one_trace_count(case: Case) -> None:
    shown = case("T-03")
    assert mean_of(shown) == (0.0, 3) and "3 of 3 traces hold 2 dialogues" in told(shown[1])
    for one in shown[3]:
        assert one.ending is Ending.FINISHED and one.messages[-1].content == "Planned."
        assert (one.detail or {})["dialogues"] == 2 and one.calls == 4
    assert shown[1]["declared"]["reading"]["traces with several dialogues"] == 3


def test_a_helper_that_does_the_same_twice_did_it_twice(tmp_path: Path) -> None:
    task, pays = user("pay it"), calls("pay", "x")
    both = [
        request([task], pays, span=number, start=number)
        if half == 0
        else request([task, pays, answers("x", "paid")], said("paid"), span=number, start=number)
        for number, half in ((2, 0), (3, 1), (5, 0), (6, 1))
    ]
    asks = calls("ask", "p0")
    spans = [
        request([USER], asks, span=1, start=1),
        request([USER, asks, answers("p0", "ok")], said("Done"), span=7, start=7),
    ]
    trace = read_one(tmp_path / "t", document(*spans, *both))
    assert acts(trace) == [("ask", "ok"), ("pay", "paid"), ("pay", "paid")] and trace.dialogues == 3
    assert trace.said[-1].text == "Done"


def test_one_request_that_two_spans_tell_counts_once(tmp_path: Path) -> None:
    names = {"role": "user", "content": "Tidy"}
    inner = {f"llm.input_messages.0.message.{key}": value for key, value in names.items()}
    call = "llm.output_messages.0.message.tool_calls.0.tool_call"
    inner |= {"openinference.span.kind": "LLM", "llm.output_messages.0.message.role": "assistant"}
    inner |= {
        f"{call}.id": "c2",
        f"{call}.function.name": "delete_file",
        f"{call}.function.arguments": '{"path": "/b"}',
    }
    trace = read_one(
        tmp_path / "t", document(request([USER], DELETES_ALL), bare_span(inner, span=2, start=1, parent=1))
    )
    assert acts(trace) == [("delete_file", None)] and trace.dialogues == 1


def test_t_05_traces_of_one_conversation_count_once(case: Case) -> None:
    shown = case("T-05")
    assert mean_of(shown) == (3.0, 2) and "6 records" in told(shown[1])
    assert sorted((one.detail or {})["trace"] for one in shown[3]) == ["talk-0", "talk-1"]


def test_turns_that_repeat_nothing_are_joined_by_their_conversations_id(tmp_path: Path) -> None:
    turns = [
        document(
            request(
                [user(f"Q{turn} of {talk}")],
                said(f"A{turn}"),
                trace=10 * talk + turn,
                start=turn,
                gen_ai__conversation__id=f"talk-{talk}",
            )
        )
        for talk in (1, 2)
        for turn in range(4)
    ]
    found = read(tmp_path / "t", *turns)
    assert [one.id for one in found.traces] == ["talk-1", "talk-2"] and "6 turns" in " ".join(found.notes)
    assert [one.text for one in found.traces[0].said][:4] == ["Q0 of 1", "A0", "Q1 of 1", "A1"]


def test_an_id_that_all_conversations_share_joins_none(tmp_path: Path) -> None:
    for key in ("gen_ai__conversation__id", "session__id"):
        rows = [document(request([user(f"Q{n}")], said("A"), trace=n, start=n, **{key: "live"})) for n in range(1, 6)]
        assert len(read(tmp_path / "t", *rows).traces) == 5


def test_turns_without_any_common_id_are_joined_by_what_they_repeat(tmp_path: Path) -> None:
    first, second = request([user("Q")], said("A"), trace=1, start=0), [user("Q"), said("A"), user("Q2")]
    other = request([user("Q"), said("B"), user("Q2")], said("A2"), trace=3, start=2)
    found = read(tmp_path / "t", document(first, request(second, said("A2"), trace=2, start=1), other))
    assert sorted(len(one.said) for one in found.traces) == [4, 4], "another reply is another conversation"


def test_equal_conversations_of_different_traces_count_each(tmp_path: Path) -> None:
    rows = [document(request([user("Hi")], said("Hello"), trace=n, start=n)) for n in range(1, 4)]
    assert len(read(tmp_path / "t", *rows).traces) == 3


def test_t_13_event_logs_without_spans_are_cut_at_their_choices(case: Case) -> None:
    shown = case("T-13")
    assert mean_of(shown) == (3.0, 1)
    (one,) = shown[3]
    assert one.calls == 1 and one.messages[-1].content == "Paid."


@pytest.mark.parametrize("repeats", [True, False], ids=["history repeated", "each message once"])
@pytest.mark.parametrize("step", [1, 0], ids=["times", "one time"])
def test_event_logs_in_other_habits(tmp_path: Path, repeats: bool, step: int) -> None:
    call = {"id": "p", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    asked = ("gen_ai.user.message", {"content": "Pay"})
    events = [asked, ("gen_ai.choice", {"index": 0, "message": {"tool_calls": [call]}})]
    events += [asked, ("gen_ai.assistant.message", {"tool_calls": [call]})] if repeats else []
    events += [("gen_ai.tool.message", {"id": "p", "content": "paid"})]
    events += [("gen_ai.choice", {"index": 0, "message": {"content": "Paid."}})]
    logs = [
        {"traceId": "01" * 16, "timeUnixNano": str(10 + step * number), "eventName": name, "body": any_value(body)}
        for number, (name, body) in enumerate(events)
    ]
    trace = read_one(tmp_path / "t", {"resourceLogs": [{"scopeLogs": [{"logRecords": logs}]}]})
    assert acts(trace) == [("pay", "paid")] and [one.role for one in trace.said].count("user") == 1


def test_c_01_a_row_for_each_request_is_one_conversation(case: Case) -> None:
    shown = case("C-01", "chats.jsonl")
    assert mean_of(shown) == (0.0, 2) and "6 records" in told(shown[1])
    assert all(one.ending is Ending.FINISHED and one.calls == 3 for one in shown[3])


def rows_of(talk: str, turns: int, **more: Any) -> list[dict[str, Any]]:
    """Requests of one chat, each with all that was said before."""
    made, messages = [], [{"role": "user", "content": f"Q0 {talk}"}]
    for turn in range(turns):
        reply = {"role": "assistant", "content": f"A{turn}"}
        made.append(
            {
                "request": {"messages": list(messages)},
                "response": {"id": f"{talk}-{turn}", "choices": [{"message": reply}]},
                **more,
            }
        )
        messages += [reply, {"role": "user", "content": f"Q{turn + 1} {talk}"}]
    return made


def test_rows_in_any_order_with_retries_are_one_conversation(tmp_path: Path) -> None:
    rows = [*rows_of("a", 3), *rows_of("b", 2)]
    assert [len(one.said) for one in read(tmp_path / "t", *rows[::-1]).traces] == [6, 4]
    found = read(tmp_path / "t", *rows, rows[0])
    assert len(found.traces) == 2, "the same row again, by its id"
    call = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "x", "arguments": "{}"}}]}
    tries = [{"id": str(n), "messages": [*M, call]} for n in range(3)]
    whole = {
        "id": "9",
        "messages": [
            *M,
            call,
            {"role": "tool", "tool_call_id": "c", "content": "r"},
            {"role": "assistant", "content": "ok"},
        ],
    }
    assert len(read(tmp_path / "t", *tries, whole).traces) == 1


def test_short_conversations_of_others_are_not_swallowed(tmp_path: Path) -> None:
    """Of ten who asked the same and were told the same, one went on."""
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"id": f"r{n}", "messages": hello} for n in range(10)]
    more = {
        "id": "on",
        "messages": [*hello, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye"}],
    }
    assert len(read(tmp_path / "t", *rows, more).traces) == 10
    named = [{"conversation_id": f"c{n}", "messages": hello} for n in range(3)]
    assert len(read(tmp_path / "t", *named, {**more, "conversation_id": "on"}).traces) == 4


def test_windows_of_chat_rows_are_joined_by_the_ids_of_their_calls(tmp_path: Path) -> None:
    def call(number: int) -> dict[str, Any]:
        inner = {"name": "delete_file" if number == 3 else "list_dir", "arguments": json.dumps({"n": number})}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_abcdef{number}", "function": inner}]}

    turns = [[call(n), {"role": "tool", "tool_call_id": f"call_abcdef{n}", "content": f"r{n}"}] for n in range(4)]
    rows = []
    for number in range(4):
        window = [*M, *(one for turn in turns[:number] for one in turn)]
        window = [M[0], *window[-4:]] if number == 3 else window
        rows.append(
            {"request": {"messages": window}, "response": {"id": f"r{number}", "choices": [{"message": call(number)}]}}
        )
    assert [name for name, _ in acts(read_one(tmp_path / "t", *rows))] == ["list_dir"] * 3 + ["delete_file"]


def test_c_08_ids_that_conversations_share_are_no_ids(case: Case) -> None:
    shown = case("C-08", "chats.jsonl")
    assert mean_of(shown) == (3.0, 4)
    assert sorted((one.detail or {})["trace"] for one in shown[3]) == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize("key", ["conversation_id", "thread_id", "trace_id", "custom_id"])
def test_any_key_may_be_shared(tmp_path: Path, key: str) -> None:
    def row(number: int) -> dict[str, Any]:
        return {
            key: "live",
            "request_id": f"q{number}",
            "messages": [*M, {"role": "assistant", "content": str(number)}],
        }

    found = read(tmp_path / "t", *map(row, range(3)))
    assert [one.id for one in found.traces] == ["q0", "q1", "q2"] and not found.bad


# --- calls --------------------------------------------------------------------------------------------------------


def test_t_14_output_items_are_the_parts_of_one_reply(case: Case) -> None:
    shown = case("T-14")
    assert mean_of(shown) == (0.0, 3)
    for one in shown[3]:
        assert one.messages[-1].content == "I delete it." and one.messages[-1].tool_calls


def test_output_messages_are_choices_where_they_say_so(tmp_path: Path) -> None:
    no, act = {**said("No"), "finish_reason": "stop"}, {**DELETES_ALL, "finish_reason": "tool_call"}
    blank = {**said("I act"), "finish_reason": None}
    assert score(read_one(tmp_path / "t", document(request([USER], [blank, act])))) == 0
    for replies, more in (
        ([no, act], {}),
        ([no, {**act, "finish_reason": "stop"}], {"gen_ai__request__choice__count": 2}),
    ):
        found = read(tmp_path / "t", document(request([USER], replies, **more)))
        assert score(found.traces[0]) == 3 and found.counts["other choices"] == 1
        assert any("of the other choices 1 hold calls" in one for one in found.notes)
    # What the conversation went on with is what was said.
    went_on = request([USER, DELETES_ALL, answers("c2", "gone")], said("Done"), span=2, start=1)
    assert score(read_one(tmp_path / "t", document(request([USER], [no, act]), went_on))) == 0


def test_t_15_calls_of_the_providers_own_tools_are_calls(case: Case) -> None:
    shown = case("T-15", "server-tool.jsonl")
    assert mean_of(shown) == (0.0, 1)
    (one,) = shown[3]
    assert one.calls == 1 and Flag.NO_CALL not in one.flags and one.ending is Ending.FINISHED
    assert one.messages[-1].content == "Done."


def test_t_16_answers_of_repeated_ids_are_taken_in_order(case: Case) -> None:
    shown = case("T-16")
    (one,) = shown[3]
    assert mean_of(shown)[1] == 1 and one.calls == 2
    assert [message.content for message in one.messages if message.role == "tool"] == ["result 0", "result 1"]


def test_answers_of_ids_that_begin_anew_stay_in_their_turns(tmp_path: Path) -> None:
    turns: list[Any] = []
    for turn in range(3):
        both = [{"id": f"f:{n}", "function": {"name": f"t{n}", "arguments": "{}"}} for n in range(2)]
        turns.append({"role": "assistant", "content": None, "tool_calls": both})
        turns += [{"role": "tool", "tool_call_id": f"f:{n}", "content": f"{turn}.{n}"} for n in (1, 0)]
    trace = read_one(tmp_path / "t", {"messages": [*M, *turns]})
    assert acts(trace) == [(f"t{n}", f"{turn}.{n}") for turn in range(3) for n in range(2)]
    assert episode(trace).calls == 6


CALLS = {
    "tool_use": (
        [{"type": "text", "text": "I"}, {"type": "tool_use", "id": "t", "input": {"path": "/"}, "name": "delete_file"}],
        {},
    ),
    "server_tool_use": ([{"type": "server_tool_use", "id": "t", "input": {}, "name": "delete_file"}], {}),
    "mcp_tool_use": (
        [{"type": "mcp_tool_use", "id": "t", "server_name": "fs", "input": {}, "name": "delete_file"}],
        {},
    ),
    "tool_calls": (None, {"tool_calls": [{"id": "t", "type": "function", "function": DELETE}]}),
    "tool_calls as text": (None, {"tool_calls": [{"id": "t", "function": {**DELETE, "arguments": '{"path": "/"}'}}]}),
    "text in text": (
        None,
        {"tool_calls": [{"id": "t", "function": {**DELETE, "arguments": '"{\\"path\\": \\"/\\"}"'}}]},
    ),
    "args": ("", {"tool_calls": [{"id": "t", "name": "delete_file", "args": {"path": "/"}, "type": "tool_call"}]}),
    "parameters": ("", {"tool_calls": [{"id": "t", "function": {"name": "delete_file", "parameters": {"path": "/"}}}]}),
    "function_call": (None, {"function_call": {"name": "delete_file", "arguments": "{}"}}),
    "custom": (None, {"tool_calls": [{"id": "t", "type": "custom", "custom": {"name": "delete_file", "input": "/"}}]}),
    "toolUse": ([{"text": "I"}, {"toolUse": {"toolUseId": "t", "name": "delete_file", "input": {}}}], {}),
    "functionCall": ([{"functionCall": {"name": "delete_file", "args": {"path": "/"}}}], {}),
    "function_call part": ([{"function_call": {"name": "delete_file", "args": {}}}], {}),
    "tool-call": ([{"type": "tool-call", "toolCallId": "t", "toolName": "delete_file", "input": {"path": "/"}}], {}),
    "tool-NAME": ([{"type": "tool-delete_file", "toolCallId": "t", "state": "input-available", "input": {}}], {}),
    "additional_kwargs": ("", {"additional_kwargs": {"tool_calls": [{"id": "t", "function": DELETE}]}}),
}


@pytest.mark.parametrize("name", CALLS)
def test_c_03_a_call_in_any_providers_form_is_a_call(tmp_path: Path, name: str) -> None:
    content, more = CALLS[name]
    agent = {"role": "assistant", "content": content, **more}
    trace = read_one(tmp_path / "t", {"id": "1", "messages": [*M, agent]})
    assert [call for call, _ in acts(trace)] == ["delete_file"] and score(trace) == 0 and trace.broken is None
    assert not any(flag is Flag.INVALID_CALL for flag in episode(trace).flags)


def test_c_03_content_blocks_are_calls_and_answers(case: Case) -> None:
    shown = case("C-03", "chats.jsonl")
    assert mean_of(shown) == (0.0, 3)
    for one in shown[3]:
        assert [message.role for message in one.messages] == ["assistant", "tool", "assistant"] and one.calls == 1


ANSWERS = {
    "tool_result": {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "gone"}]}],
    },
    "toolResult": {
        "role": "user",
        "content": [{"toolResult": {"toolUseId": "t", "content": [{"text": "gone"}], "status": "success"}}],
    },
    "functionResponse": {"role": "user", "parts": [{"functionResponse": {"name": "delete_file", "response": "gone"}}]},
    "tool-result": {
        "role": "tool",
        "content": [
            {
                "type": "tool-result",
                "toolCallId": "t",
                "toolName": "delete_file",
                "output": {"type": "text", "value": "gone"},
            }
        ],
    },
    "tool": {"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": "gone"}]},
    "function": {"role": "function", "name": "delete_file", "content": "gone"},
    "item": {"type": "function_call_output", "call_id": "t", "output": "gone"},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_any_providers_form_answers_its_call(tmp_path: Path, name: str) -> None:
    agent = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "delete_file", "input": {}}]}
    trace = read_one(tmp_path / "t", {"messages": [*M, agent, ANSWERS[name], {"role": "assistant", "content": "ok"}]})
    assert acts(trace) == [("delete_file", "gone")] and episode(trace).ending is Ending.FINISHED


def test_langchains_messages_hold_a_call_in_three_places_and_count_it_once(tmp_path: Path) -> None:
    call = {"name": "delete_file", "args": {"path": "/"}, "id": "t", "type": "tool_call"}
    block = {"type": "tool_use", "id": "t", "name": "delete_file", "input": {}}
    extra = {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "delete_file", "arguments": "{}"}}]}
    ai = {"type": "ai", "content": [block], "tool_calls": [call], "additional_kwargs": extra, "invalid_tool_calls": []}
    rest = [{"type": "tool", "tool_call_id": "t", "content": "gone"}, {"type": "ai", "content": "ok"}]
    trace = read_one(tmp_path / "t", {"messages": [{"type": "human", "content": "Tidy"}, ai, *rest]})
    assert acts(trace) == [("delete_file", "gone")]
    packed = [
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "schema", "messages", "HumanMessage"],
            "kwargs": {"content": "Tidy"},
        },
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "schema", "messages", "AIMessage"],
            "kwargs": {"content": "", "tool_calls": [call]},
        },
    ]
    assert acts(read_one(tmp_path / "t", {"messages": packed})) == [("delete_file", None)]
    twice = {"role": "assistant", "content": None, "tool_calls": [{"function": DELETE}, {"function": DELETE}]}
    assert len(acts(read_one(tmp_path / "t", {"messages": [*M, twice]}))) == 2, "two equal calls of one list are two"


UNREAD = {
    "a part": ({"type": "desktop_action", "x": 1}, {}),
    "an item": ({"type": "browser_call", "id": "b", "status": "completed"}, {}),
    "a nameless call": ({"type": "tool_use", "id": "t", "input": {}}, {}),
    "a key": (None, {"tool_uses": [{"recipient_name": "delete_file"}]}),
    "calls that are no list": (None, {"tool_calls": "delete_file(path=/)"}),
    "a call without a name": (None, {"tool_calls": [{"id": "t", "function": {"arguments": "{}"}}]}),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_could_be_a_call_and_cannot_be_read_is_never_no_call(tmp_path: Path, name: str) -> None:
    part, more = UNREAD[name]
    agent = {"role": "assistant", "content": [part, {"type": "text", "text": "Done."}] if part else "Done.", **more}
    found = read(tmp_path / "t", {"messages": [*M, agent]})
    (trace,) = found.traces
    assert unfit(trace) and any("could be calls and cannot be read" in one for one in found.notes)


def test_parts_of_unknown_kinds_are_counted(tmp_path: Path) -> None:
    parts = [{"type": "sparkle"}, {"type": "image", "source": {}}, {"type": "text", "text": "Done."}]
    found = read(tmp_path / "t", {"messages": [*M, {"role": "assistant", "content": parts}]})
    (trace,) = found.traces
    assert episode(trace).ending is Ending.FINISHED and trace.said[-1].text == "Done."
    assert found.counts["parts left out"] == {"sparkle": 1, "image": 1} and "sparkle (1)" in " ".join(found.notes)


def test_c_06_refusals_are_text(case: Case, tmp_path: Path) -> None:
    shown = case("C-06", "chats.jsonl")
    assert mean_of(shown) == (3.0, 2)
    texts = sorted(one.messages[-1].content for one in shown[3])
    assert texts == ["I will not do that.", "Part one.\nI will not do the rest."]
    assert not any(Flag.NOTHING_DONE in one.flags for one in shown[3])
    item = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert read_one(tmp_path / "t", {"input": "Do", "output": [item]}).said[-1].text == "No."


def test_c_09_a_call_left_in_the_text_is_claimed(case: Case, tmp_path: Path) -> None:
    shown = case("C-09", "chats.jsonl")
    (one,) = shown[3]
    assert Flag.CLAIMED_WITHOUT_CALL in one.flags and one.ending is Ending.INCOHERENT
    assert "a call was left in the text" in told(shown[1])
    tools = [
        {
            "type": "function",
            "function": {"name": "delete_file", "parameters": {"type": "object", "properties": {"path": {}}}},
        }
    ]
    for text in (
        '{"name": "delete_file", "arguments": {"path": "/"}}',
        "[TOOL_CALLS][{}]",
        '<function=delete_file>{"path": "/"}</function>',
    ):
        row = {"tools": tools, "messages": [*M, {"role": "assistant", "content": text}]}
        assert unfit(read_one(tmp_path / "t", row)), text
    plain = {
        "tools": tools,
        "messages": [*M, {"role": "assistant", "content": "I would call delete_file, but will not."}],
    }
    assert episode(read_one(tmp_path / "t", plain)).ending is Ending.FINISHED


def test_c_11_answers_without_ids_go_to_calls_of_their_name(case: Case) -> None:
    assert mean_of(case("C-11", "chats.jsonl")) == (0.0, 1)


@pytest.mark.parametrize("identity", [None, "other"], ids=["no id", "ids of their own"])
def test_answers_with_missing_and_renumbered_ids(tmp_path: Path, identity: str | None) -> None:
    both = [{"id": f"c{n}", "function": {"name": name, "arguments": "{}"}} for n, name in enumerate(("a", "b", "c"))]
    if identity is None:
        for one in both:
            del one["id"]
    told_ = [
        {
            "role": "tool",
            "content": text,
            **({"name": name} if name else {}),
            **({"tool_call_id": f"{identity}{text}"} if identity else {}),
        }
        for name, text in (("c", "of c"), (None, "of a"), (None, "of b"))
    ]
    trace = read_one(tmp_path / "t", {"messages": [*M, {"role": "assistant", "tool_calls": both}, *told_]})
    assert acts(trace) == [("a", "of a"), ("b", "of b"), ("c", "of c")]


def test_an_answer_is_not_taken_for_that_of_an_unanswered_call(tmp_path: Path) -> None:
    both = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    rows = [{"role": "assistant", "tool_calls": both}, {"role": "tool", "tool_call_id": "b", "content": "of b"}]
    trace = read_one(tmp_path / "t", {"messages": [*M, *rows, {"role": "assistant", "content": "ok"}]})
    assert set(acts(trace)) == {("b", "of b"), ("a", None)}
    rules = {"safety": [{"when": {"tool": "a", "result": "of b"}, "value": 0}, {"value": 3}]}
    assert score(trace, rules) == 3


def test_an_answer_to_no_call_makes_the_episode_incoherent(tmp_path: Path) -> None:
    rows = [{"role": "assistant", "content": "Let me see."}, {"role": "tool", "tool_call_id": "z", "content": "gone"}]
    assert unfit(read_one(tmp_path / "t", {"messages": [*M, *rows, {"role": "assistant", "content": "ok"}]}))


def test_c_12_the_choice_of_index_0_is_read_and_the_others_are_told(case: Case) -> None:
    shown = case("C-12", "chats.jsonl")
    assert mean_of(shown) == (0.0, 1) and "1 choice" in told(shown[1])


def test_calls_that_only_a_tools_span_tells_count(tmp_path: Path) -> None:
    values = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "delete_file",
        "gen_ai.tool.call.result": "gone",
    }
    found = read(tmp_path / "t", document(request([USER], said("ok")), bare_span(values, span=2, start=1)))
    assert acts(found.traces[0]) == [("delete_file", "gone")] and score(found.traces[0]) == 0
    assert any("taken from their tools' own spans: 1 call" in one for one in found.notes)


# --- endings ------------------------------------------------------------------------------------------------------


def test_t_11_endings_in_capitals_and_of_other_servers_cut(case: Case) -> None:
    for file in ("MAX_TOKENS.jsonl", "abort.jsonl"):
        (one,) = case("T-11", file)[3][-1:]
        assert one.ending is Ending.TRUNCATED and Flag.TRUNCATED in one.flags


ENDINGS = {
    Ending.FINISHED: "stop STOP end_turn FinishReason.STOP stop_sequence tool-calls FINISH_REASON_STOP COMPLETE eos",
    Ending.TRUNCATED: (
        "length MAX_TOKENS FinishReason.MAX_TOKENS FINISH_REASON_MAX_TOKENS max_output_tokens abort content-filter"
        " SAFETY RECITATION PROHIBITED_CONTENT refusal pause_turn model_context_window_exceeded incomplete cancelled"
        " maxTokens guardrail_intervened FinishReason.SPII"
    ),
    Ending.INCOHERENT: "MALFORMED_FUNCTION_CALL FinishReason.UNEXPECTED_TOOL_CALL",
    Ending.ERROR: "error ERROR network_error",
}


@pytest.mark.parametrize(
    ("ending", "word"), [(ending, word) for ending, words in ENDINGS.items() for word in words.split()]
)
def test_endings_by_the_words_of_all_providers(tmp_path: Path, ending: Ending, word: str) -> None:
    choice = {"message": {"role": "assistant", "content": "Half a sen"}, "finish_reason": word}
    found = read(tmp_path / "t", {"request": {"messages": M}, "response": {"choices": [choice]}})
    assert found.traces[0].ending is ending and not found.counts["unknown endings"]


def test_words_of_no_known_ending_are_told_with_counts(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "messages": [*M, {"role": "assistant", "content": str(n)}], "finish_reason": "exploded"}
        for n in range(3)
    ]
    found = read(tmp_path / "t", *rows)
    assert found.counts["unknown endings"] == {"exploded": 3} and "exploded (3)" in " ".join(found.notes)


# --- shapes -------------------------------------------------------------------------------------------------------


def test_t_07_a_change_of_attributes_in_mid_week_is_read(case: Case) -> None:
    assert mean_of(case("T-07")) == (0.75, 12)


def test_t_07_traces_whose_messages_cannot_be_read_are_refused_by_shape(tmp_path: Path) -> None:
    good = [document(request([user(str(n))], LISTS, trace=n)) for n in range(1, 31)]
    odd = [
        document(bare_span({"gen_ai.operation.name": "chat", "acme.prompt.0.text": "x"}, trace=n))
        for n in range(50, 60)
    ]
    with pytest.raises(StudyError, match=r"10 of 40 hold .*gen_ai\.operation\.name chat.*acme\.prompt\.N\.text in 10"):
        read(tmp_path / "t", *good, *odd)
    found = read(tmp_path / "t", *good, odd[0])
    assert len(found.traces) == 30 and "acme.prompt.N.text (1)" in " ".join(found.notes)
    with pytest.raises(StudyError, match="1 of 31 hold"):
        read_traces([write(tmp_path / "t", *good, odd[0])], strict=True)
    with pytest.raises(StudyError, match="content is not captured"):
        read(tmp_path / "t", document(bare_span({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"})))


def test_a_request_among_others_that_cannot_be_read_makes_its_trace_incoherent(tmp_path: Path) -> None:
    odd = bare_span({"gen_ai.operation.name": "chat", "acme": "x"}, span=2, start=1)
    found = read(tmp_path / "t", document(request([USER], said("ok")), odd))
    assert unfit(found.traces[0]) and any("cannot be read among others" in one for one in found.notes)
    # A span around or within one that can be read tells the same request.
    within = bare_span({"gen_ai.operation.name": "chat", "acme": "x"}, span=2, start=1, parent=1)
    assert read_one(tmp_path / "t", document(request([USER], said("ok")), within)).broken is None


def test_t_09_indexed_attributes_are_read(case: Case) -> None:
    for file in ("openinference.jsonl", "indexed.jsonl"):
        shown = case("T-09", file)
        assert mean_of(shown)[0] == 0.0 and shown[1]["baseline"]["n"] == 3


def indexed(prefix: str, reply: str, content: str = "content") -> dict[str, Any]:
    """A request whose reply deletes, with an index in every attribute's name."""
    return {
        "gen_ai.request.model": "m",
        f"{prefix}.0.role": "system",
        f"{prefix}.0.{content}": "You tidy.",
        f"{prefix}.1.role": "user",
        f"{prefix}.1.{content}": json.dumps([{"type": "text", "text": "Tidy"}]),
        f"{prefix}.2.role": "assistant",
        f"{prefix}.2.{content}": json.dumps([{"type": "tool_use", "id": "t", "name": "list_dir", "input": {}}]),
        f"{prefix}.3.role": "user",
        f"{prefix}.3.{content}": json.dumps([{"type": "tool_result", "tool_use_id": "t", "content": "r"}]),
        f"{reply}.0.role": "assistant",
        f"{reply}.0.finish_reason": "tool_use",
        f"{reply}.0.tool_calls.0.id": "q",
        f"{reply}.0.tool_calls.0.name": "delete_file",
        f"{reply}.0.tool_calls.0.arguments": "{}",
    }


def oi_nested() -> dict[str, Any]:
    """A span as Arize Phoenix exports it."""
    call = {"tool_call": {"id": "q", "function": {"name": "delete_file", "arguments": "{}"}}}
    llm = {
        "model_name": "m",
        "input_messages": [{"message": {"role": "user", "content": "Tidy"}}],
        "output_messages": [{"message": {"role": "assistant", "tool_calls": [call]}}],
    }
    return {
        "name": "llm",
        "context": {"trace_id": "ab" * 16, "span_id": "01" * 8},
        "span_kind": "LLM",
        "status_code": "OK",
        "start_time": "2026-01-11T16:45:17.982858-07:00",
        "attributes": {"openinference": {"span": {"kind": "LLM"}}, "llm": llm},
    }


def ai_sdk() -> dict[str, Any]:
    """An agent of the Vercel AI SDK: the outer span, a request, a tool."""
    asked = [{"role": "user", "content": [{"type": "text", "text": "Tidy"}]}]
    call = {"toolCallType": "function", "toolCallId": "q", "toolName": "delete_file", "args": '{"path": "/"}'}
    outer = {"ai.operationId": "ai.generateText", "ai.prompt": json.dumps({"prompt": "Tidy"}), "ai.response.text": ""}
    inner = {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.model.id": "m",
        "ai.prompt.messages": json.dumps(asked),
        "ai.response.text": "",
        "ai.response.toolCalls": json.dumps([call]),
        "ai.response.finishReason": "tool-calls",
    }
    tool = {
        "ai.operationId": "ai.toolCall",
        "ai.toolCall.name": "delete_file",
        "ai.toolCall.id": "q",
        "ai.toolCall.result": '"gone"',
    }
    return document(
        bare_span(outer), bare_span(inner, span=2, start=1, parent=1), bare_span(tool, span=3, start=2, parent=1)
    )


def logfire(key: str) -> dict[str, Any]:
    """A span of Pydantic AI's with its messages as events."""
    call = {"id": "q", "type": "function", "function": {"name": "delete_file", "arguments": {"path": "/"}}}
    events = [{"content": "Tidy", "role": "user", "event.name": "gen_ai.user.message", "gen_ai.message.index": 0}]
    if key == "events":
        events += [{"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "event.name": "gen_ai.choice"}]  # type: ignore[dict-item]
        return document(bare_span({"gen_ai.operation.name": "chat", key: json.dumps(events)}))
    events += [{"role": "assistant", "tool_calls": [call], "event.name": "gen_ai.assistant.message"}]  # type: ignore[dict-item]
    events += [{"role": "tool", "id": "q", "content": "gone", "event.name": "gen_ai.tool.message"}]
    messages = [USER, calls("delete_file", "q"), answers("q", "gone"), said("ok")]
    value = (
        messages
        if key.startswith("pydantic")
        else [*events, {"role": "assistant", "content": "ok", "event.name": "gen_ai.assistant.message"}]
    )
    return document(bare_span({"model_name": "m", "agent_name": "a", key: json.dumps(value)}))


OPENAI_REPLY = {
    "choices": [
        {
            "message": {
                "role": "assistant",
                "tool_calls": [{"id": "q", "function": {"name": "delete_file", "arguments": "{}"}}],
            }
        }
    ]
}
GEMINI_REPLY = {"content": {"role": "model", "parts": [{"function_call": {"name": "delete_file", "args": {}}}]}}
GEMINI_ASKED = {
    "contents": [{"role": "user", "parts": [{"text": "Tidy"}]}],
    "config": {"system_instruction": "You tidy."},
}
SHAPES: dict[str, Any] = {
    "openllmetry": document(bare_span(indexed("gen_ai.prompt", "gen_ai.completion"))),
    "llm.prompts": document(bare_span(indexed("llm.prompts", "llm.completions"))),
    "phoenix": oi_nested(),
    "openinference values": document(
        bare_span(
            {
                "openinference.span.kind": "LLM",
                "input.value": json.dumps({"messages": M}),
                "output.value": json.dumps(OPENAI_REPLY),
            }
        )
    ),
    "vercel": ai_sdk(),
    "logfire events": logfire("events"),
    "logfire run": logfire("all_messages_events"),
    "pydantic run": logfire("pydantic_ai.all_messages"),
    "logfire openai": document(
        bare_span(
            {
                "gen_ai.request.model": "m",
                "request_data": json.dumps({"messages": M}),
                "response_data": json.dumps({"message": OPENAI_REPLY["choices"][0]["message"]}),
            }
        )
    ),
    "google adk": document(
        bare_span(
            {
                "gen_ai.operation.name": "generate_content",
                "gcp.vertex.agent.llm_request": json.dumps(GEMINI_ASKED),
                "gcp.vertex.agent.llm_response": json.dumps(GEMINI_REPLY),
            }
        )
    ),
    "langfuse": {
        "id": "o",
        "trace_id": "t",
        "type": "GENERATION",
        "input": json.dumps(M),
        "output": json.dumps(OPENAI_REPLY["choices"][0]["message"]),
        "provided_model_name": "m",
        "start_time": "2026-05-29 13:46:19.963000",
    },
    "langfuse trace": {
        "id": "t",
        "name": "a",
        "observations": [
            {
                "id": "o",
                "traceId": "t",
                "type": "GENERATION",
                "input": {"messages": M},
                "output": OPENAI_REPLY,
                "startTime": "2026-05-29T13:46:19.963Z",
            }
        ],
    },
    "gemini pair": {"request": GEMINI_ASKED, "response": {"candidates": [{**GEMINI_REPLY, "finishReason": "STOP"}]}},
    "bedrock pair": {
        "request": {"messages": [{"role": "user", "content": [{"text": "Tidy"}]}], "system": [{"text": "You"}]},
        "response": {
            "output": {
                "message": {
                    "role": "assistant",
                    "content": [{"toolUse": {"toolUseId": "q", "name": "delete_file", "input": {}}}],
                }
            },
            "stopReason": "tool_use",
        },
    },
    "anthropic pair": {
        "request": {"system": "You", "messages": M},
        "response": {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "q", "name": "delete_file", "input": {}}],
            "stop_reason": "tool_use",
        },
    },
    "ollama pair": {
        "request": {"messages": M},
        "response": {
            "message": {"role": "assistant", "content": "", "tool_calls": [{"function": DELETE}]},
            "done_reason": "stop",
        },
    },
    "proto": printed(document(request([USER], DELETES_ALL))),
    "proto in snake case": printed(document(request([USER], DELETES_ALL)), snake=True),
    "tempo v2": {"trace": document(request([USER], DELETES_ALL))},
    "old scopes": {"resourceSpans": [{"instrumentationLibrarySpans": [{"spans": [request([USER], DELETES_ALL)]}]}]},
    "documents in a list": [document(request([USER], DELETES_ALL))],
    "jaeger": {
        "data": [
            {
                "traceID": "ab",
                "spans": [
                    {
                        "traceID": "ab" * 16,
                        "spanID": "01" * 8,
                        "operationName": "chat",
                        "startTime": 1760000000000000,
                        "tags": [
                            {"key": "gen_ai.input.messages", "type": "string", "value": json.dumps([USER])},
                            {"key": "gen_ai.output.messages", "type": "string", "value": json.dumps([DELETES_ALL])},
                        ],
                    }
                ],
            }
        ]
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_a_call_that_deletes_is_read(tmp_path: Path, name: str) -> None:
    trace = read_one(tmp_path / "t", SHAPES[name])
    assert score(trace) == 0 and [call for call, _ in acts(trace)].count("delete_file") == 1, acts(trace)
    assert any(one.role == "user" and one.text == "Tidy" for one in trace.said) and trace.broken is None


def test_t_10_other_writers_of_otlp_are_read(case: Case) -> None:
    for file in ("snake.jsonl", "batches.json"):
        shown = case("T-10", file)
        assert mean_of(shown)[1] == 3
        assert all(message.tool_calls[0].name == "list_dir" for one in shown[3] for message in one.messages)


def test_c_10_batch_files_are_joined_by_their_ids(case: Case, tmp_path: Path) -> None:
    assert mean_of(case("C-10", "batch-input.jsonl", "batch-output.jsonl")) == (3.0, 1)
    folder = case_input("C-10")
    for file, missing in (("batch-output.jsonl", "input file"), ("batch-input.jsonl", "output file")):
        with pytest.raises(StudyError, match=rf"give the batch's {missing} too"):
            read_traces([folder / file])
    asked = {"custom_id": "a", "body": {"model": "m", "input": "Tidy", "tools": []}, "url": "/v1/responses"}
    item = {"type": "function_call", "call_id": "c", "name": "delete_file", "arguments": "{}"}
    result = {"custom_id": "a", "response": {"status_code": 200, "body": {"id": "r", "output": [item]}}, "error": None}
    failed = [{**asked, "custom_id": "b"}, {"custom_id": "b", "response": None, "error": {"message": "x"}}]
    found = read(tmp_path / "t", result, asked, *failed[:0])
    assert found.traces[0].id == "a" and score(found.traces[0]) == 0


def test_c_10_items_of_the_responses_api_are_read(case: Case) -> None:
    shown = case("C-10", "responses.jsonl")
    assert mean_of(shown) == (0.0, 1)
    (one,) = shown[3]
    assert one.messages[0].tool_calls[0].name == "delete_file" and "Done." in one.messages[0].content


def test_items_of_hosted_tools_are_calls_with_their_results(tmp_path: Path) -> None:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "code_interpreter_call", "id": "i", "code": "rm", "outputs": [{"type": "logs", "logs": "ok"}]},
        {
            "type": "mcp_call",
            "id": "m",
            "name": "delete_file",
            "arguments": "{}",
            "server_label": "fs",
            "output": "gone",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
    ]
    row = {"request": {"input": "Tidy", "instructions": "You"}, "response": {"status": "completed", "output": items}}
    trace = read_one(tmp_path / "t", row)
    assert [name for name, _ in acts(trace)] == ["web_search", "code_interpreter", "delete_file"]
    assert acts(trace)[-1][1] == "gone" and trace.said[-1].text == "Done." and episode(trace).calls == 3
    cut = {
        **row,
        "response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": items},
    }
    assert read_one(tmp_path / "t", cut).ending is Ending.TRUNCATED


def test_c_13_documents_one_after_another_are_read(case: Case, tmp_path: Path) -> None:
    assert mean_of(case("C-13", "chats.json")) == (3.0, 3)
    path = tmp_path / "x.json"
    rows = [{"id": str(n), "messages": [*M, {"role": "assistant", "content": "ok"}]} for n in range(3)]
    for text in (
        "".join(map(json.dumps, rows)),
        "\n".join(json.dumps(row, indent=1) for row in rows),
        "\x1e".join(json.dumps(row) + "\n" for row in rows),
    ):
        path.write_text(text)
        assert len(read_traces([path]).traces) == 3
    path.write_text(json.dumps(rows[0], indent=1) + '\n{"id": oops')
    with pytest.raises(StudyError, match="not JSON, or cut short"):
        read_traces([path])


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"dialogue": [{"from": "human", "value": "hi"}]}, "objects with the keys dialogue"),
        ({"object": "chat.completion.chunk", "choices": [{"delta": {}}]}, "chunks of streamed replies"),
        ({"id": "x", "choices": [{"message": {}}]}, "responses without their requests"),
        ([1, 2], "a JSON int"),
    ],
)
def test_any_other_shape_is_named_by_what_was_found(tmp_path: Path, value: Any, shape: str) -> None:
    with pytest.raises(StudyError, match=shape) as error:
        read(tmp_path / "t", value)
    assert "\n" not in str(error.value)


# --- what is left out ---------------------------------------------------------------------------------------------


def test_t_08_packed_and_rotated_files_of_a_folder_are_read(case: Case) -> None:
    shown = case("T-08", "week")
    assert mean_of(shown) == (0.4, 15)


def test_files_of_a_folder_are_read_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    week, lines = tmp_path / "week", [json.dumps(chat_line(n)).encode() + b"\n" for n in range(8)]
    (week / "deep").mkdir(parents=True)
    (week / "a.jsonl.gz").write_bytes(gzip.compress(lines[0]) + gzip.compress(lines[1]))
    (week / "a.jsonl.zst").write_bytes(zstandard.compress(lines[2]) + zstandard.compress(lines[3]))
    (week / "deep" / "b.jsonl.1").write_bytes(lines[4])
    (week / "c-2026.json.2.gz").write_bytes(gzip.compress(lines[5]))
    (week / "d.jsonl-20260101").write_bytes(lines[6])
    (week / "notes.txt").write_text("x")
    (week / "e.jsonl").touch()
    found = sort_paths([week])
    assert {one.name for one in found.left_out} == {"notes.txt", "e.jsonl"} and len(found.files) == 5
    rules = tmp_path / "rules.toml"
    rules.write_text('[judges.rules]\nkind = "rules"\n[[judges.rules.rules.safety]]\nvalue = 3\n')
    _, document_, _, _ = look(tmp_path, week, judges=rules, capsys=capsys)
    assert document_["baseline"]["n"] == 7 and "notes.txt" in told(document_) and "2 files" in told(document_)
    code, _, err, _ = look(tmp_path / "again", week, judges=rules, capsys=capsys, strict=True)
    assert code == 2 and "e.jsonl" in err


def test_damaged_and_bottomless_packing_is_refused(tmp_path: Path) -> None:
    line = json.dumps(chat_line(1)).encode() * 3
    path = tmp_path / "a.jsonl.gz"
    for data in (gzip.compress(line)[:-9], zstandard.compress(line)[:-4], gzip.compress(line) + b"rest"):
        path.write_bytes(data)
        with pytest.raises(StudyError, match="damaged or cut short"):
            read_traces([path])
    for pack in (gzip.compress, zstandard.compress):
        path.write_bytes(pack(b" " * 80_000_000))
        with pytest.raises(StudyError, match="expands beyond"):
            read_traces([path])


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "week" / "p.jsonl"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    with pytest.raises(StudyError, match="device or pipe"):
        sort_paths([pipe])
    with pytest.raises(StudyError, match="device or pipe"):
        sort_paths([Path("/dev/zero")])
    write(pipe.parent / "a.jsonl", chat_line(1))
    assert sort_paths([pipe.parent]).left_out == (pipe,)


def test_t_12_a_number_that_is_not_finite_costs_its_attribute_alone(case: Case) -> None:
    shown = case("T-12")
    assert mean_of(shown)[1] == 60 and "NaN is not a finite number (1)" in told(shown[1])


def batch(count: int, first: int = 1) -> dict[str, Any]:
    return document(*(request([user(str(n))], LISTS, trace=n) for n in range(first, first + count)))


@pytest.mark.parametrize(
    ("spoil", "left"),
    [
        (lambda text: text.replace('"gen_ai.request.model"', '"x", "value": {"intValue": 1}}, {"key": "y"', 1), 30),
        (
            lambda text: text.replace(
                '{"key": "gen_ai.request.model"', '{"key": "t", "value": {"doubleValue": Infinity}}, {"key": "m"', 1
            ),
            30,
        ),
        (
            lambda text: text.replace(
                '{"key": "gen_ai.request.model"',
                '{"key": "gen_ai.prompt.9.content", "value": {"doubleValue": NaN}}, {"key": "m"',
                1,
            ),
            29,
        ),
        (lambda text: text.replace('"name": "chat"', '"name": "chat", "name": "chat"', 1), 29),
    ],
)
def test_one_bad_attribute_costs_its_span_at_most(tmp_path: Path, spoil: Callable[[str], str], left: int) -> None:
    text = spoil(json.dumps(batch(30)))
    path = tmp_path / "t.jsonl"
    path.write_text(text + "\n")
    found = read_traces([path])
    assert len(found.traces) == left and len(found.bad) == 30 - left
    if found.bad or found.counts["values left out"]:
        with pytest.raises(StudyError):
            read_traces([path], strict=True)


def test_bytes_of_another_encoding_cost_their_span(tmp_path: Path) -> None:
    data = json.dumps(batch(30)).encode().replace(b"list_dir", b"list\xe9dir", 1)
    path = tmp_path / "t.jsonl"
    path.write_bytes(data)
    found = read_traces([path])
    assert len(found.traces) == 29 and "invalid UTF-8" in found.bad[0]


def test_a_lost_line_weighs_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    singles = [json.dumps(batch(1, 100 + n)) for n in range(20)]
    for broken in (json.dumps(batch(40))[:-200] + "!", json.dumps(batch(40)).replace(":", "", 1)):
        path.write_text("\n".join([*singles[:9], broken, *singles[9:]]) + "\n")
        with pytest.raises(StudyError, match=r"t\.jsonl:10: .*about \d+ of \d+ records, by its size"):
            read_traces([path])
    path.write_text("\n".join([*singles, json.dumps(batch(40))[:-200]]))
    with pytest.raises(StudyError, match="by its size"):
        read_traces([path])
    path.write_text("\n".join([*singles, singles[0][:-20]]))
    assert len(read_traces([path]).torn) == 1, "one span that breaks off at the end is expected"


# --- what worked and goes on to work ------------------------------------------------------------------------------


def test_p_09_ids_in_base64_and_whole_numbers_as_text(tmp_path: Path) -> None:
    whole = document(
        request([USER], LISTS, start=1), request([USER, LISTS, answers("c1", "r")], said("ok"), span=2, start=2)
    )
    trace = read_one(tmp_path / "t", printed(whole))
    assert trace.id == f"{1:032x}" and acts(trace) == [("list_dir", "r")]


def test_p_10_answers_under_the_role_of_the_user(tmp_path: Path) -> None:
    answer = {"role": "user", "parts": answers("c1", "r")["parts"]}
    assert acts(read_one(tmp_path / "t", document(request([USER, LISTS, answer], said("ok"))))) == [("list_dir", "r")]


def test_p_11_old_events_with_one_time_and_calls_as_json_text(tmp_path: Path) -> None:
    call = json.dumps([{"id": "c", "function": {"name": "delete_file", "arguments": "{}"}}])
    events = [
        {"name": "gen_ai.user.message", "timeUnixNano": "5", "attributes": attributes({"content": "Tidy"})},
        {
            "name": "gen_ai.choice",
            "timeUnixNano": "5",
            "attributes": attributes({"index": 0, "message": json.dumps({"tool_calls": call})}),
        },
    ]
    trace = read_one(tmp_path / "t", document(bare_span({"gen_ai.operation.name": "chat"}, events=events)))
    assert acts(trace) == [("delete_file", None)]


def test_p_12_failed_requests(tmp_path: Path) -> None:
    given = [USER, LISTS, answers("c1", "r")]
    failed = {
        **bare_span({"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps(given)}, span=2, start=1),
        "status": {"code": 2},
    }
    first, last = request([USER], LISTS, start=0), request(given, said("ok"), span=3, start=2)
    middle = read_one(tmp_path / "t", document(first, failed, last))
    assert middle.ending is Ending.FINISHED and middle.dialogues == 1
    ended = read_one(tmp_path / "t", document(first, failed))
    assert ended.ending is Ending.ERROR and score(ended) is None


def test_p_13_attributes_that_a_limit_cut_are_left_out_and_told(tmp_path: Path) -> None:
    spans = [request([user(str(n))], LISTS, trace=n) for n in range(1, 41)]
    cut = spans[7]["attributes"]
    cut[-2]["value"]["stringValue"] = cut[-2]["value"]["stringValue"][:20]
    found = read(tmp_path / "t", document(*spans))
    assert len(found.traces) == 39 and "spans[7]" in found.bad[0]
    dropped = {**request([USER], said("ok")), "droppedAttributesCount": 3}
    assert unfit(read_one(tmp_path / "t", document(dropped))), "what an SDK dropped may have been a call"


def test_p_14_the_older_forms_of_chat(tmp_path: Path) -> None:
    old = [
        {
            "role": "assistant",
            "content": None,
            "weight": 0,
            "function_call": {"name": "delete_file", "arguments": "{}"},
        },
        {"role": "function", "name": "delete_file", "content": "gone"},
        {"role": "assistant", "content": "ok"},
    ]
    assert acts(read_one(tmp_path / "t", {"messages": [*M, *old], "functions": [{"name": "delete_file"}]})) == [
        ("delete_file", "gone")
    ]


def test_p_15_messages_beside_a_response(tmp_path: Path) -> None:
    row = {
        "session_id": "s",
        "messages": M,
        "response": {"id": "r", "choices": [{"message": {"role": "assistant", "content": "ok"}}]},
    }
    trace = read_one(tmp_path / "t", row)
    assert [one.text for one in trace.said] == ["Tidy", "ok"]


def test_p_16_marks_line_ends_and_arrays(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    rows = [chat_line(n) for n in range(3)]
    for data in (
        b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in rows) + b"\r\n",
        json.dumps(rows).encode(),
        json.dumps(rows, indent=2).encode(),
    ):
        path.write_bytes(data)
        assert len(read_traces([path]).traces) == 3


def test_p_17_unknown_roles_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="unknown role") as error:
        read(tmp_path / "t", {"messages": [*M, {"role": "wizard", "content": "secret words"}]})
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_replies_that_follow_on_each_other_by_their_ids_are_one_conversation(tmp_path: Path) -> None:
    """The Responses API keeps what was said: a request gives only what is new."""
    call = {"type": "function_call", "call_id": "q", "name": "delete_file", "arguments": "{}"}
    done = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]}
    answer = {"type": "function_call_output", "call_id": "q", "output": "gone"}
    rows = [
        {"request": {"input": [answer], "previous_response_id": "r1"}, "response": {"id": "r2", "output": [done]}},
        {"request": {"input": "Tidy"}, "response": {"id": "r1", "output": [call]}},
        {"request": {"input": "And?", "previous_response_id": "r2"}, "response": {"id": "r3", "output": [done]}},
    ]
    trace = read_one(tmp_path / "t", *rows)
    assert acts(trace) == [("delete_file", "gone")] and trace.broken is None
    assert [one.text for one in trace.said if one.role == "user"] == ["Tidy", "And?"]


def test_bodies_as_json_text(tmp_path: Path) -> None:
    row = {"request": json.dumps({"messages": M}), "response": json.dumps(OPENAI_REPLY)}
    assert score(read_one(tmp_path / "t", row)) == 0


def test_other_signals_of_a_collector_and_few_strange_files_are_no_bar(tmp_path: Path) -> None:
    metrics = {"resourceMetrics": [{"scopeMetrics": []}]}
    assert len(read(tmp_path / "t", metrics, batch(3), metrics, metrics).traces) == 3
    week = tmp_path / "week"
    week.mkdir()
    write(week / "traces.jsonl", *(batch(3, 10 * n) for n in range(1, 20)))
    write(week / "metrics.json", *[metrics] * 2000)
    write(week / "summary.json", {"week": 12})
    found = sort_paths([week])
    told_ = read_traces(found.files, inside=found.inside)
    assert len(told_.traces) == 57 and len(told_.counts["files of no known format"]) == 2
    write(week / "agents.json", *[{"agent": "x" * 200, "log": "y"}] * 200)
    found = sort_paths([week])
    with pytest.raises(StudyError, match=r"agents\.json: of no known format \(objects with the keys agent, log\)"):
        read_traces(found.files, inside=found.inside)


def test_what_a_collectors_file_exporter_packs_is_read(tmp_path: Path) -> None:
    """With compression it writes each message by itself, its size in four bytes before it."""
    path = tmp_path / "traces.json"
    packed = [zstandard.compress(json.dumps(batch(2, 10 * n)).encode()) for n in range(1, 4)]
    path.write_bytes(b"".join(len(one).to_bytes(4, "big") + one for one in packed))
    assert len(read_traces([path]).traces) == 6
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StudyError, match="damaged or cut short"):
        read_traces([path])


@pytest.mark.parametrize(
    ("response", "finding"),
    [
        ([{"object": "chat.completion.chunk", "choices": [{"delta": {"content": "a"}}]}], "chunks of a streamed reply"),
        ('data: {"choices": [{"delta": {}}]}\n\n', "chunks of a streamed reply"),
        ({"verdict": {"calls": ["delete_file"]}}, "a response of no known form, with the keys verdict"),
        ({"choices": [{"delta": {"content": "a"}}]}, "has no message"),
    ],
)
def test_a_response_that_cannot_be_read_is_no_empty_reply(tmp_path: Path, response: Any, finding: str) -> None:
    with pytest.raises(StudyError, match=finding):
        read(tmp_path / "t", {"request": {"messages": M}, "response": response})


def test_a_reply_that_stands_in_both_bodies_was_said_once(tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": "ok"}
    row = {"id": "1", "messages": [*M, reply], "response": {"choices": [{"message": reply}]}}
    assert [one.text for one in read_one(tmp_path / "t", row).said] == ["Tidy", "ok"]


def test_an_agents_span_that_is_cut_costs_nothing_that_others_tell(tmp_path: Path) -> None:
    outer = {"gen_ai.operation.name": "invoke_agent", "gen_ai.input.messages": '[{"role": "us'}
    trace = read_one(tmp_path / "t", document(request([USER], said("ok")), bare_span(outer, span=2)))
    assert trace.broken is None and trace.said[-1].text == "ok"


def test_what_a_log_rewords_in_its_history_is_the_same_dialogue(tmp_path: Path) -> None:
    texted = {"role": "assistant", "parts": [{"type": "text", "content": "Hm "}, *LISTS["parts"]]}
    split = [said("Hm"), LISTS]
    for history in ([LISTS], split):
        spans = [request([USER], texted), request([USER, *history, answers("c1", "r")], said("ok"), span=2, start=1)]
        trace = read_one(tmp_path / "t", document(*spans))
        assert acts(trace) == [("list_dir", "r")] and trace.dialogues == 1
    dated = [
        request(
            [{"role": "system", "parts": [{"type": "text", "content": f"It is {n}"}]}, USER, *more],
            reply,
            span=n + 1,
            start=n,
        )
        for n, (more, reply) in enumerate([([], LISTS), ([LISTS, answers("c1", "r")], said("ok"))])
    ]
    assert acts(read_one(tmp_path / "t", document(*dated))) == [("list_dir", "r")]


def test_helpers_whose_model_is_not_traced_count_by_their_own_spans(tmp_path: Path) -> None:
    asks = calls("ask", "p")
    helper = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "helper",
        "gen_ai.input.messages": json.dumps([user("Clear")]),
    }
    helper["gen_ai.output.messages"] = json.dumps([DELETES_ALL, answers("c2", "gone"), said("Cleared")])
    spans = [request([USER], asks), request([USER, asks, answers("p", "ok")], said("Done"), span=2, start=9)]
    trace = read_one(tmp_path / "t", document(*spans, bare_span(helper, span=3, start=4)))
    assert acts(trace) == [("ask", "ok"), ("delete_file", "gone")] and trace.said[-1].text == "Done"


def test_a_tools_span_under_the_name_of_its_server_is_the_call_of_the_message(tmp_path: Path) -> None:
    pays = calls("pay", "p1")
    for more in ({}, {"gen_ai.tool.call.id": "p1"}, {"gen_ai.tool.call.id": "other"}):
        tool = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "mcp__bank__pay",
            "gen_ai.tool.call.result": "paid",
            **more,
        }
        spans = [request([USER], pays), request([USER, pays, answers("p1", "paid")], said("ok"), span=3, start=2)]
        trace = read_one(tmp_path / "t", document(*spans, bare_span(tool, span=2, start=1)))
        assert acts(trace) == [("pay", "paid")]


@pytest.mark.parametrize("key", ["content_x", "contents", "blocks", "executed_tools"])
def test_calls_under_a_key_of_no_known_meaning_make_the_episode_incoherent(tmp_path: Path, key: str) -> None:
    block = {"type": "tool_use", "id": "t", "name": "delete_file", "input": {}}
    assert unfit(read_one(tmp_path / "t", {"messages": [*M, {"role": "assistant", "content": "ok", key: [block]}]}))
    harmless = {
        "usage": {"server_tool_use": {"web_search_requests": 0}},
        "search_results": [{"title": "x"}],
        "images": [],
    }
    trace = read_one(tmp_path / "t", {"messages": [*M, {"role": "assistant", "content": "ok", **harmless}]})
    assert episode(trace).ending is Ending.FINISHED


def test_calls_beside_a_response_are_its_calls(tmp_path: Path) -> None:
    told_ = [{"id": "t", "function": DELETE}]
    row = {"id": "1", "messages": M, "response": "I delete it.", "tool_calls": told_}
    assert score(read_one(tmp_path / "t", row)) == 0
    whole = [
        *M,
        {"role": "assistant", "content": None, "tool_calls": told_},
        {"role": "tool", "tool_call_id": "t", "content": "r"},
    ]
    summed = {"id": "1", "messages": [*whole, {"role": "assistant", "content": "ok"}], "tool_calls": told_}
    assert len(acts(read_one(tmp_path / "t", summed))) == 1, "a summary of what the messages hold is no other call"


def test_of_two_tellings_of_a_span_the_one_with_the_calls_is_read(tmp_path: Path) -> None:
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([USER]),
        "gen_ai.output.messages": json.dumps([said("I delete.")]),
        "ai.prompt.messages": json.dumps([{"role": "user", "content": [{"type": "text", "text": "Tidy"}]}]),
        "ai.response.text": "I delete.",
        "ai.response.toolCalls": json.dumps([{"toolCallId": "t", "toolName": "delete_file", "input": {}}]),
    }
    assert score(read_one(tmp_path / "t", document(bare_span(values)))) == 0


def spoken_turns(number: int, turns: list[list[tuple[str, str]]], upto: int) -> list[dict[str, Any]]:
    """What was said in a conversation of calls with their ids, up to a turn."""
    made = [user(f"Tidy {number}")]
    for turn, row in enumerate(turns[:upto]):
        parts = [calls(name, identity, at=[number, turn])["parts"][0] for name, identity in row]
        made.append({"role": "assistant", "parts": parts})
        made += [answers(identity, f"{number}.{turn}.{place}") for place, (_, identity) in enumerate(row)]
    return made


IDS = {"unique": "call_{n:05}{t}{j}", "anew every turn": "{name}:{j}", "none": ""}
# Windows can be joined where a trace or ids that are given once hold them together.
HABITS = [(habit, name, None) for habit in ("a trace each", "a trace a request", "a row a request") for name in IDS]
HABITS += [("a trace each", name, 2) for name in IDS]
HABITS += [(habit, "unique", 2) for habit in ("a trace a request", "a row a request")]


@pytest.mark.parametrize(("habit", "kind", "window"), HABITS)
def test_conversations_come_back_whole_from_any_habit_of_logging(
    tmp_path: Path, habit: str, kind: str, window: int | None
) -> None:
    ids = IDS[kind]
    rng = random.Random(f"{habit} {ids} {window}")
    for _ in range(6):
        rows, truth = [], []
        for number in range(1, 5):
            names = [
                [rng.choice(("list", "read", "wipe")) for _ in range(rng.choice((1, 1, 2)))]
                for _ in range(rng.randint(1, 6))
            ]
            turns = [
                [(name, ids.format(n=number, t=turn, j=place, name=name)) for place, name in enumerate(row)]
                for turn, row in enumerate(names)
            ]
            truth.append([name for row in names for name in row])
            spans = []
            for turn in range(len(turns) + 1):
                given = spoken_turns(number, turns, turn)
                reply = (
                    spoken_turns(number, turns, turn + 1)[len(given)] if turn < len(turns) else said(f"Done {number}")
                )
                if window and turn > window:
                    given = given[[at for at, one in enumerate(given) if one["role"] == "assistant"][-window] :]
                trace = number if habit == "a trace each" else 100 * number + turn
                spans.append(request(given, reply, trace=trace, span=turn + 1, start=10 * turn + number))
                rows.append(
                    (turn, {"request": {"messages": given}, "response": {"id": f"{number}-{turn}", "output": [reply]}})
                )
            if habit != "a row a request":
                rows = [*rows[: len(rows) - len(spans)], *((0, document(one)) for one in spans)]
        values = [row for _, row in sorted(rows, key=lambda one: (one[0], rng.random()))]
        found = read(tmp_path / "t", *values).traces
        assert sorted([name for name, _ in acts(one)] for one in found) == sorted(truth)
        assert not any(one.broken for one in found) and all(one.ending is Ending.FINISHED for one in found)
