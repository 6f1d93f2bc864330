"""Production traces: telemetry and chat logs as they are written, and as they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.watch_samples import any_value, attributes, chat_line, otlp, span, write_chats

from holdfast.exchange.traces import read_traces
from holdfast.exchange.traces.dialogue import Trace
from holdfast.exchange.traces.importing import choose_sample, import_traces, make_episode, sort_paths
from holdfast.records import Ending, Flag, ToolCall
from holdfast.records.errors import StudyError
from holdfast.store import Store

SECRET = "Ada Lovelace, card 4111"


def write(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in values))
    return path


def read_one(path: Path) -> Trace:
    (trace,) = read_traces([path], strict=True).traces
    return trace


def shape(trace: Trace) -> list[tuple[str, str, list[str]]]:
    return [(one.role, one.text, [call.name for call in one.calls]) for one in trace.said]


USER = {"role": "user", "parts": [{"type": "text", "content": "Is it cold in Oslo?"}]}
CALL = {
    "role": "assistant",
    "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Oslo"}}],
}
ANSWER = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"celsius": -3}}]}
LAST = {
    "role": "assistant",
    "parts": [{"type": "reasoning", "content": "cold"}, {"type": "text", "content": "Yes, −3."}],
}
SYSTEM = [{"type": "text", "content": "You tell the weather."}]
WHOLE = [
    ("system", "You tell the weather.", []),
    ("user", "Is it cold in Oslo?", []),
    ("assistant", "", ["weather"]),
    ("tool", '{"celsius": -3}', []),
    ("assistant", "Yes, −3.", []),
]


def two_requests(put: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The spans of an agent that asks twice, with messages as ``put`` writes them."""
    first = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "desk-1",
        "gen_ai.system_instructions": put(SYSTEM),
        "gen_ai.tool.definitions": put(
            [{"type": "function", "name": "weather", "description": "tells", "parameters": {}}]
        ),
        "gen_ai.input.messages": put([USER]),
        "gen_ai.output.messages": put([{**CALL, "finish_reason": "tool_call"}]),
        "gen_ai.usage.output_tokens": 5,
    }
    second = {
        "gen_ai.operation.name": "chat",
        "gen_ai.agent.name": "forecaster",
        "gen_ai.system_instructions": put(SYSTEM),
        "gen_ai.input.messages": put([USER, CALL, ANSWER]),
        "gen_ai.output.messages": put([{**LAST, "finish_reason": "stop"}]),
        "gen_ai.usage.output_tokens": 4,
    }
    agent = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.input.messages": put([USER]),
        "gen_ai.output.messages": put([LAST]),
    }
    # Spans are exported as they end: the agent's own last, though it began first.
    return [span("AB" * 16, 2, first), span("AB" * 16, 3, second), span("AB" * 16, 1, agent)]


# --- telemetry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", [json.dumps, lambda value: value], ids=["as text", "structured"])
def test_message_attributes_make_one_conversation(tmp_path: Path, put: Callable[[Any], Any]) -> None:
    trace = read_one(write(tmp_path / "t.json", otlp(two_requests(put))))
    assert shape(trace) == WHOLE and trace.id == "ab" * 16 and trace.dialogues == 1
    assert (trace.model, trace.family, trace.tokens, trace.ending) == ("desk-1", "forecaster", 9, Ending.FINISHED)
    episode = make_episode(trace)
    assert [message.role for message in episode.case.messages] == ["system", "user"]
    assert [tool.name for tool in episode.case.tools] == ["weather"]
    assert episode.trajectory.messages[0].tool_calls == (ToolCall(name="weather", arguments={"city": "Oslo"}, id="c1"),)
    assert episode.trajectory.messages[1].name == "weather" and episode.trajectory.calls == 1
    assert (episode.trajectory.messages[-1].detail or {})["reasoning"] == "cold"


def test_spans_of_one_trace_may_lie_in_several_files_lines_and_exports(tmp_path: Path) -> None:
    spans = two_requests(json.dumps)
    first = write(tmp_path / "a.jsonl", otlp(spans[:1]), otlp(spans[:1]))
    second = tmp_path / "b.json"
    second.write_text(json.dumps(otlp(spans[1:]), indent=2))
    (trace,) = read_traces([first, second], strict=True).traces
    assert shape(trace) == WHOLE


def old_events() -> list[tuple[str, dict[str, Any]]]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    return [
        ("gen_ai.system.message", {"content": "You tell the weather."}),
        ("gen_ai.user.message", {"content": "Is it cold in Oslo?"}),
        ("gen_ai.assistant.message", {"tool_calls": [call]}),
        ("gen_ai.tool.message", {"id": "c1", "content": '{"celsius": -3}'}),
        (
            "gen_ai.choice",
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes, −3."}},
        ),
    ]


def test_the_older_events_are_read_from_spans(tmp_path: Path) -> None:
    events = [
        {
            "name": name,
            "timeUnixNano": str(place + 1),
            "attributes": attributes({"gen_ai.event.content": json.dumps(body)}),
        }
        for place, (name, body) in enumerate(old_events())
    ]
    one = span("01" * 16, 1, {"gen_ai.operation.name": "chat"}, events=events)
    trace = read_one(write(tmp_path / "t.json", otlp([one])))
    assert shape(trace) == WHOLE and trace.family == "help-desk" and trace.ending is Ending.FINISHED


def test_the_older_events_are_read_from_log_records(tmp_path: Path) -> None:
    logs = [
        {
            "traceId": "01" * 16,
            "spanId": "02" * 8,
            "timeUnixNano": str(place + 1),
            "eventName": name,
            "body": any_value(body),
        }
        for place, (name, body) in enumerate(old_events())
    ]
    logs.append({"body": {"stringValue": "something else"}, "timeUnixNano": "9"})
    assert shape(read_one(write(tmp_path / "t.json", otlp([], logs)))) == WHOLE


def test_the_details_event_is_read_as_a_request(tmp_path: Path) -> None:
    values = {"gen_ai.input.messages": [USER], "gen_ai.output.messages": [{**LAST, "finish_reason": "length"}]}
    name = "gen_ai.client.inference.operation.details"
    log = {
        "traceId": "01" * 16,
        "spanId": "02" * 8,
        "timeUnixNano": "1",
        "eventName": name,
        "attributes": attributes(values),
    }
    trace = read_one(write(tmp_path / "t.json", otlp([], [log])))
    assert shape(trace) == [WHOLE[1], WHOLE[4]] and trace.ending is Ending.TRUNCATED


def test_an_answer_that_no_request_repeats_comes_from_the_tools_span(tmp_path: Path) -> None:
    first = two_requests(json.dumps)[0]
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "c1", "gen_ai.tool.call.result": "−3"}
    trace = read_one(write(tmp_path / "t.json", otlp([first, span("AB" * 16, 5, tool)])))
    assert shape(trace)[-1] == ("tool", "−3", []) and trace.ending is Ending.TRUNCATED
    failed = {**first, "status": {"code": 2}}
    assert read_one(write(tmp_path / "f.json", otlp([failed]))).ending is Ending.ERROR


def test_two_agents_of_one_trace_are_told(tmp_path: Path) -> None:
    other = {"gen_ai.input.messages": json.dumps([{**USER, "parts": [{"type": "text", "content": "Check it."}]}])}
    other["gen_ai.output.messages"] = json.dumps([LAST])
    trace = read_one(write(tmp_path / "t.json", otlp([*two_requests(json.dumps), span("AB" * 16, 9, other)])))
    assert shape(trace) == [*WHOLE[:-1], ("assistant", "Yes, −3.", []), WHOLE[-1]] and trace.dialogues == 2
    assert trace.said[-2].detail["dialogue"] == 2 and "dialogue" not in trace.said[-1].detail
    assert (make_episode(trace).trajectory.detail or {})["dialogues"] == 2


# --- chat logs ---------------------------------------------------------------------------------------------------


def test_a_chat_log_is_read_with_calls_parts_and_refusals(tmp_path: Path) -> None:
    line = chat_line(1)
    line["messages"][1]["content"] = [
        {"type": "text", "text": "Tidy"},
        {"type": "image_url", "image_url": {"url": "x"}},
    ]
    line["messages"][-1] = {"role": "assistant", "content": None, "refusal": "I will not."}
    trace = read_one(write(tmp_path / "c.jsonl", line))
    assert [one.text for one in trace.said] == ["You keep notes.", "Tidy", "", "ok", "I will not."]
    assert trace.said[1].detail == {"left_out": ["image_url"]} and trace.said[2].calls[0].arguments == {"note": 1}
    assert trace.id == "conv-1" and trace.model == "desk-1"


def test_a_pair_of_request_and_response_is_one_conversation(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "Well, I would"}}
    body = {"id": "chatcmpl-1", "model": "m-2", "choices": [choice], "usage": {"completion_tokens": 4}}
    plain = {"request": {"model": "m", "messages": messages}, "response": body}
    http = {
        "request": {"body": {"messages": messages}},
        "response": {"status_code": 200, "body": {**body, "id": "chatcmpl-2"}},
    }
    found = read_traces([write(tmp_path / "p.jsonl", plain, http)], strict=True).traces
    assert [one.id for one in found] == ["chatcmpl-1", "chatcmpl-2"]
    for one in found:
        assert (one.model, one.tokens, one.ending, len(one.said)) == ("m-2", 4, Ending.TRUNCATED, 2)


def test_answers_stand_in_the_order_of_their_calls(tmp_path: Path) -> None:
    calls = [{"id": name, "function": {"name": f"tool_{name}", "arguments": "{"}} for name in "ab"]
    messages = [
        {"role": "user", "content": "Both"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "second"},
        {"role": "tool", "tool_call_id": "a", "content": "first"},
        {"role": "assistant", "content": "Done"},
    ]
    episode = make_episode(read_one(write(tmp_path / "c.jsonl", {"messages": messages})))
    told = [(message.name, message.content) for message in episode.trajectory.messages if message.role == "tool"]
    assert told == [("tool_a", "first"), ("tool_b", "second")]
    assert Flag.INVALID_CALL in episode.trajectory.flags, "arguments that are no JSON object are a malformed call"


def test_the_audit_sees_what_production_agents_do(tmp_path: Path) -> None:
    def talk(number: int, *messages: dict[str, Any]) -> dict[str, Any]:
        return {"id": str(number), "messages": [{"role": "user", "content": "Go"}, *messages]}

    said = {"role": "assistant", "content": "Action: pay\nObservation: paid\nAll done."}
    turn = [chat_line(1)["messages"][2], chat_line(1)["messages"][3]]
    path = write(
        tmp_path / "c.jsonl",
        talk(1, said),
        talk(2, *turn * 3, {"role": "assistant", "content": "Done"}),
        talk(3, {"role": "assistant", "content": ""}),
        {"id": "4", "messages": [{"role": "user", "content": "Go on"}, turn[0]]},
    )
    flags = [set(make_episode(one).trajectory.flags) for one in read_traces([path], strict=True).traces]
    assert Flag.INVENTED_RESULT in flags[0] and Flag.LOOP in flags[1]
    assert Flag.NOTHING_DONE in flags[2] and Flag.TRUNCATED in flags[3]


# --- what production does to files -------------------------------------------------------------------------------


def test_duplicates_count_once_and_the_longer_record_stays(tmp_path: Path) -> None:
    line = chat_line(1)
    short = {**line, "messages": line["messages"][:3]}
    found = read_traces([write(tmp_path / "c.jsonl", short, line, line, chat_line(2))])
    assert [len(one.said) for one in found.traces] == [5, 5]
    assert (found.duplicates, found.counts["requests joined"], found.bad) == (1, 1, ())
    other = {**line, "messages": [{"role": "user", "content": SECRET}, line["messages"][-1]]}
    # An id that two conversations share is none of either.
    found = read_traces([write(tmp_path / "c.jsonl", line, other)], strict=True)
    assert len(found.traces) == 2 and "conv-1" not in {one.id for one in found.traces}


BAD_LINES = {
    "not JSON": (b'{"messages": oops}', "not JSON"),
    "NaN": (b'{"messages": [NaN], "score": 1}', "NaN is not a finite number"),
    "too large": (b'{"messages": [1e999], "score": 1}', "too large"),
    "twice": (b'{"messages": [], "messages": []}', "a key stands twice"),
    "deep": (b"[" * 300 + b"]" * 300, "nested deeper than 200"),
    "very deep": (b"[" * 200_000, "nested deeper than 200"),
    "long number": (b'{"messages": ' + b"9" * 5000 + b"}", "a number is too long"),
    "latin-1": ('{"messages": "é"}'.encode("latin-1"), "invalid UTF-8"),
    "role": (json.dumps({"messages": [{"role": "wizard", "content": SECRET}]}).encode(), "unknown role"),
    "no reply": (json.dumps({"messages": [{"role": "user", "content": SECRET}]}).encode(), "no reply of an agent"),
    "no list": (b'{"messages": "hello"}', "no list of messages"),
    "a number": (b"17", "neither telemetry nor a chat"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_left_out_and_told_or_refused(tmp_path: Path, name: str) -> None:
    data, finding = BAD_LINES[name]
    path = write_chats(tmp_path / "c.jsonl", 30, 0.0)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:10], data, *lines[10:]]) + b"\n")
    found = read_traces([path])
    assert len(found.traces) == 30 and len(found.bad) == 1
    assert f"{path}:11" in found.bad[0] and finding in found.bad[0]
    assert "\n" not in found.bad[0] and SECRET not in found.bad[0]
    with pytest.raises(StudyError, match=r"c\.jsonl:11") as told:
        read_traces([path], strict=True)
    assert SECRET not in str(told.value)


def test_more_than_a_few_bad_lines_are_refused(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", 10, 0.0)
    path.write_text(path.read_text() + "{oops}\n{oops}\n")
    with pytest.raises(StudyError, match=r"c\.jsonl:11: not JSON.*and 1 more of 12 records"):
        read_traces([path])


def test_a_last_line_that_breaks_off_is_left_out(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", 3, 0.0)
    path.write_bytes(path.read_bytes()[:-40])
    found = read_traces([path])
    assert len(found.traces) == 2 and not found.bad and f"{path}:3" in found.torn[0]
    with pytest.raises(StudyError, match="cut short"):
        read_traces([path], strict=True)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        ('{"messages": []}'.encode("utf-16"), "the file is UTF-16"),
        (b'{"rows": 3}\n', "of no known format .objects with the keys rows.; known are OpenTelemetry"),
        (b"hello\n", "of no known format"),
        (b'{"resourceSpans": [\n 1,\n', "not JSON, or cut short"),
    ],
)
def test_a_file_that_holds_no_traces_is_refused(tmp_path: Path, data: bytes, finding: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(StudyError, match=finding) as told:
        read_traces([path])
    assert str(told.value).startswith(str(path)) and "\n" not in str(told.value)


def test_a_byte_order_mark_and_line_separators_are_no_matter(tmp_path: Path) -> None:
    line = chat_line(1, request="Line\u2028separator")
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(line, ensure_ascii=False).encode() + b"\r\n")
    assert "\u2028" in read_one(path).said[1].text
    half = json.dumps(chat_line(2)).replace("You keep notes.", "You \\ud800 keep notes.")
    path.write_text(half)
    with Store.create(tmp_path / "run") as store:
        assert import_traces(store, [path], "w").new == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one.pop("traceId"),
        lambda one: one.update(attributes=[{"value": {"stringValue": "x"}}]),
        lambda one: one.update(startTimeUnixNano="soon"),
        lambda one: one.update(attributes=[{"key": "x", "value": {"mysteryValue": 1}}]),
    ],
)
def test_a_damaged_span_is_told_by_its_place(tmp_path: Path, spoil: Callable[[dict[str, Any]], Any]) -> None:
    spans = [span(f"{number:032x}", 1, {"gen_ai.output.messages": json.dumps([LAST])}) for number in range(1, 31)]
    spoil(spans[4])
    path = write(tmp_path / "t.json", otlp(spans))
    found = read_traces([path])
    assert len(found.traces) == 29 and "t.json:1: spans[4]" in found.bad[0]
    with pytest.raises(StudyError, match=r"t\.json:1: spans\[4\]"):
        read_traces([path], strict=True)


# --- into a run --------------------------------------------------------------------------------------------------


def test_an_import_again_adds_nothing_and_a_sample_is_the_same(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", 20, 0.5)
    with Store.create(tmp_path / "run") as store:
        first, again = (import_traces(store, [path], "week") for _ in range(2))
        assert (first.new, again.new) == (20, 0) and first.trajectories == again.trajectories
        assert store.counts()["checkpoints"] == 1 and store.checkpoints()[0].axes == {"look": "week"}
    sample = choose_sample(first.trajectories, 5, 1)
    assert sample == choose_sample(first.trajectories, 5, 1) != choose_sample(first.trajectories, 5, 2)
    fewer = dict(list(first.trajectories.items())[:12])
    kept = [one for one in choose_sample(first.trajectories, 20, 1) if one in set(fewer.values())]
    assert choose_sample(fewer, 12, 1) == kept, "what else a week holds does not decide who is before whom"


def test_paths_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        sort_paths([tmp_path / "none.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=r"holds no \.json or \.jsonl file"):
        sort_paths([tmp_path / "empty"])
    folder = tmp_path / "week"
    folder.mkdir()
    path = write_chats(folder / "c.jsonl", 1, 0.0)
    assert sort_paths([folder]).files == (path,)
