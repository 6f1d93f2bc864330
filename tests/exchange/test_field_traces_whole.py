"""Field cases of production traces (T, C, P): what is left out and told, and what goes on to work."""

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
from builders.field_traces import DELETES_ALL, HABITS, IDS, LISTS, OPENAI_REPLY, USER, Case, M, mean_of, told
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
from builders.watch_samples import attributes, chat_line

from holdfast.exchange.traces import read_traces
from holdfast.exchange.traces.importing import sort_paths
from holdfast.records import Ending
from holdfast.records.errors import StudyError


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
