"""Field cases of production traces (T, C, P): which conversations there are, and what was said in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.field_traces import DELETES_ALL, LISTS, USER, Case, M, mean_of, told
from builders.trace_samples import (
    acts,
    answers,
    bare_span,
    calls,
    document,
    read,
    read_one,
    request,
    said,
    score,
    unfit,
    user,
)
from builders.watch_samples import any_value

from holdfast.records import Ending


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
