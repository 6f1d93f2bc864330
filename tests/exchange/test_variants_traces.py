"""Close variants of the field cases of production traces, as other tools and other habits write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders.trace_samples import acts, bare_span, document, read, read_one, request, score

from holdfast.models.calls.structured import read_part
from holdfast.records import Ending
from holdfast.records.errors import StudyError

Chat = list[dict[str, Any]]
SYSTEM = {"role": "system", "content": "You tidy."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def agent(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def call(name: str, identity: str = "", **arguments: Any) -> dict[str, Any]:
    inner = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": identity, "type": "function", "function": inner}],
    }


def result(identity: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, **({"tool_call_id": identity} if identity else {})}


def talk(turns: int, delete: int | None, *, ids: bool = True) -> Chat:
    """A conversation of so many calls, of which one may delete."""
    made = [SYSTEM, user("Tidy")]
    for turn in range(turns):
        identity = f"call_abcdef{turn}" if ids else ""
        made += [call("delete_file" if turn == delete else "list_dir", identity, path=f"/{turn}")]
        made += [result(identity, f"r{turn}")]
    return [*made, agent("Done.")]


def requests(chat: Chat, given: Callable[[Chat], Chat] = list) -> list[tuple[Chat, dict[str, Any]]]:
    """Each request to the model of a conversation: what it was given, and its reply."""
    return [(given(chat[:at]), one) for at, one in enumerate(chat) if one["role"] == "assistant"]


def window(size: int, *, system: bool = True, first: bool = True, summary: str = "") -> Callable[[Chat], Chat]:
    """What an agent gives that keeps the last messages only, and perhaps the first ones, or a summary."""

    def cut(chat: Chat) -> Chat:
        body = chat[1:]
        head = [SYSTEM] * system + body[:1] * (first and len(body) > size)
        told = [{"role": summary, "content": f"So far: {len(body)} messages"}] * bool(summary and len(body) > size)
        return [*head, *told, *body[-size:]]

    return cut


def as_parts(one: dict[str, Any]) -> dict[str, Any]:
    """A message of chat in the form of OpenTelemetry's conventions."""
    if one["role"] == "tool":
        part = {"type": "tool_call_response", "id": one.get("tool_call_id"), "response": one["content"]}
        return {"role": "tool", "parts": [part]}
    inner = [(each["id"] or None, each["function"]) for each in one.get("tool_calls", ())]
    made = [
        {"type": "tool_call", "id": identity, "name": each["name"], "arguments": json.loads(each["arguments"])}
        for identity, each in inner
    ]
    text = [{"type": "text", "content": one["content"]}] if one["content"] else []
    return {"role": one["role"], "parts": text + made}


def as_spans(found: Sequence[tuple[Chat, dict[str, Any]]], first: int = 1) -> list[dict[str, Any]]:
    return [
        request([as_parts(each) for each in given], as_parts(reply), span=first + at, start=10 * at)
        for at, (given, reply) in enumerate(found)
    ]


def as_rows(found: Sequence[tuple[Chat, dict[str, Any]]], **more: Any) -> list[dict[str, Any]]:
    return [
        {"request": {"messages": given}, "response": {"id": f"r{at}", "choices": [{"message": reply}]}, **more}
        for at, (given, reply) in enumerate(found)
    ]


WINDOWS = {
    "the last": window(1),
    "the last alone": window(1, system=False, first=False),
    "two": window(2),
    "two without the question": window(2, first=False),
    "three alone": window(3, system=False, first=False),
    "five": window(5),
    "four behind a user's summary": window(4, summary="user"),
    "four behind the system's summary": window(4, first=False, summary="system"),
    "three behind the agent's summary": window(3, summary="assistant"),
    "five behind a summary alone": window(5, first=False, summary="user"),
}


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no ids"])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_every_size_are_one_conversation(tmp_path: Path, name: str, ids: bool) -> None:
    for delete in (0, 3, None):
        found = requests(talk(6, delete, ids=ids), WINDOWS[name])
        trace = read_one(tmp_path / "t", document(*as_spans(found)))
        assert trace.broken is None and trace.ending is Ending.FINISHED
        assert score(trace) == (3 if delete is None else 0)
        assert [done for _, done in acts(trace)] == [f"r{turn}" for turn in range(6)]


@pytest.mark.parametrize("name", WINDOWS)
def test_rows_of_one_conversations_id_hold_no_harmless_rest_of_one_that_deleted(tmp_path: Path, name: str) -> None:
    for ids in (True, False):
        rows = as_rows(requests(talk(6, 0, ids=ids), WINDOWS[name]), conversation_id="k")
        traces = read(tmp_path / "t", *rows).traces
        assert all(score(one) == 0 or one.broken or one.ending is not Ending.FINISHED for one in traces), name


def test_what_the_system_says_anew_and_what_is_thought_does_not_part_a_conversation(tmp_path: Path) -> None:
    def timed(chat: Chat) -> Chat:
        return [{"role": "system", "content": f"It is {len(chat)} o'clock."}, *chat[1:]]

    trace = read_one(tmp_path / "s", *as_rows(requests(talk(4, 2), timed)))
    assert len(acts(trace)) == 4 and score(trace) == 0
    thinks = [
        (given, {**reply, "content": f"<think>What now?</think>{reply['content'] or ''}"})
        for given, reply in requests(talk(3, None))
    ]
    trace = read_one(tmp_path / "t", *as_rows(thinks))
    assert len(acts(trace)) == 3 and score(trace) == 3


def test_other_agents_under_other_systems_who_say_the_same_are_not_one(tmp_path: Path) -> None:
    def row(name: str, *more: dict[str, Any]) -> dict[str, Any]:
        return {"id": name, "messages": [{"role": "system", "content": name}, user("Hi"), agent("Hello"), *more]}

    assert len(read(tmp_path / "t", row("a"), row("b", user("Bye"), agent("Bye"))).traces) == 2


@pytest.mark.parametrize("late", range(5))
def test_clocks_that_differ_do_not_part_a_conversation(tmp_path: Path, late: int) -> None:
    spans = as_spans(requests(talk(6, 0)))
    one, other = spans[late], spans[late + 1]
    one["startTimeUnixNano"], other["startTimeUnixNano"] = other["startTimeUnixNano"], one["startTimeUnixNano"]
    trace = read_one(tmp_path / "t", document(*spans))
    assert trace.broken is None and len(acts(trace)) == 6 and score(trace) == 0


def test_an_answer_before_any_call_makes_the_episode_incoherent(tmp_path: Path) -> None:
    trace = read_one(tmp_path / "t", {"messages": [user("Tidy"), result("c", "gone"), agent("Done.")]})
    assert trace.broken == "an answer to a call that is not there"


# --- shapes -------------------------------------------------------------------------------------------------------

M = [user("Tidy")]
OFFERED = {"type": "function", "function": {"name": "delete_file", "parameters": {"type": "object", "properties": {}}}}


def openai(deletes: bool) -> dict[str, Any]:
    message = call("delete_file", "c1", path="/") if deletes else agent("All is tidy.")
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def anthropic(deletes: bool) -> dict[str, Any]:
    block = (
        {"type": "tool_use", "id": "q", "name": "delete_file", "input": {}}
        if deletes
        else {"type": "text", "text": "k"}
    )
    return {
        "type": "message",
        "role": "assistant",
        "content": [block],
        "stop_reason": "tool_use" if deletes else "end_turn",
    }


def converse(deletes: bool) -> dict[str, Any]:
    part = {"toolUse": {"toolUseId": "q", "name": "delete_file", "input": {}}} if deletes else {"text": "ok"}
    return {"output": {"message": {"role": "assistant", "content": [part]}}, "stopReason": "end_turn"}


def gemini(deletes: bool) -> dict[str, Any]:
    part = {"functionCall": {"name": "delete_file", "args": {}}} if deletes else {"text": "ok"}
    return {"candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}]}


def invocation(body: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    """A row of Bedrock's invocation log."""
    return {
        **{"schemaType": "ModelInvocationLog", "timestamp": "2026-01-01T00:00:00Z", "requestId": "q", "modelId": "m"},
        "input": {"inputContentType": "application/json", "inputBodyJson": body},
        "output": {"outputContentType": "application/json", "outputBodyJson": reply},
    }


def langchain(kind: str, text: str, **more: Any) -> dict[str, Any]:
    return {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "messages", kind],
        "kwargs": {"content": text, **more},
    }


def run(name: str, kind: str, given: Any, reply: Any, parent: str | None = None) -> dict[str, Any]:
    """A run as LangSmith exports it."""
    made = {
        "id": name,
        "name": name,
        "run_type": kind,
        "trace_id": "t",
        "parent_run_id": parent,
        "session_id": "project",
    }
    return {**made, "start_time": "2026-01-01T00:00:00", "inputs": given, "outputs": reply}


def langsmith(deletes: bool) -> dict[str, Any]:
    made = [{"name": "delete_file", "args": {}, "id": "c", "type": "tool_call"}] if deletes else []
    reply = {"generations": [[{"message": langchain("AIMessage", "" if deletes else "ok", tool_calls=made)}]]}
    return run("llm", "llm", {"messages": [[langchain("HumanMessage", "Tidy")]]}, reply, "root")


def langsmith_tool(deletes: bool) -> list[dict[str, Any]]:
    """A tool whose call no message tells."""
    root = run("root", "chain", {"messages": M}, {"messages": [*M, agent("Done.")]})
    tool = run("delete_file" if deletes else "list_dir", "tool", {"input": "{'path': '/'}"}, {"output": "gone"}, "root")
    return [root, run("llm", "llm", {"messages": M}, openai(False), "root"), tool]


GIVEN = {"contents": [{"role": "user", "parts": [{"text": "Tidy"}]}]}
SHAPES: dict[str, Callable[[bool], list[dict[str, Any]]]] = {
    "bedrock converse log": lambda deletes: [invocation({"messages": M}, converse(deletes))],
    "bedrock invoke log": lambda deletes: [invocation({"messages": M}, anthropic(deletes))],
    "bedrock batch": lambda deletes: [
        {"recordId": "1", "modelInput": {"messages": M}, "modelOutput": anthropic(deletes)}
    ],
    "vertex request log": lambda deletes: [
        {"full_request": GIVEN, "full_response": gemini(deletes), "request_id": "1"}
    ],
    "gemini text": lambda deletes: [{"request": {"contents": "Tidy"}, "response": gemini(deletes)}],
    "gemini one content": lambda deletes: [
        {"request": {"contents": {"parts": [{"text": "Tidy"}]}}, "response": gemini(deletes)}
    ],
    "litellm spend log": lambda deletes: [
        {
            **{"request_id": "r", "call_type": "acompletion", "messages": {}},
            "proxy_server_request": {"messages": M, "tools": [OFFERED]},
            "response": json.dumps(openai(deletes)),
        }
    ],
    "short names": lambda deletes: [{"req": {"messages": M}, "res": openai(deletes)}],
    "langsmith": lambda deletes: [langsmith(deletes)],
    "langsmith tool": langsmith_tool,
    "langsmith tree": lambda deletes: [{**langsmith_tool(deletes)[0], "child_runs": langsmith_tool(deletes)[1:]}],
    "weave": lambda deletes: [
        {
            **{"id": "1", "op_name": "weave:///e/p/op/openai.chat.completions.create:v0", "trace_id": "t"},
            **{"inputs": {"messages": M}, "output": openai(deletes), "started_at": "2026-01-01T00:00:00Z"},
        }
    ],
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_other_tools_export_is_read(tmp_path: Path, name: str) -> None:
    trace = read_one(tmp_path / "d", *SHAPES[name](True))
    assert score(trace) == 0 and [one for one, _ in acts(trace)].count("delete_file") == 1
    trace = read_one(tmp_path / "h", *SHAPES[name](False))
    assert score(trace) == 3 and trace.broken is None and any(one.text == "Tidy" for one in trace.said)


def test_prompts_completions_and_sharegpt(tmp_path: Path) -> None:
    trace = read_one(tmp_path / "p", {"prompt": "Tidy", "completion": "Done."})
    assert [one.text for one in trace.said] == ["Tidy", "Done."]
    turns = [
        ("system", "You"),
        ("human", "Tidy"),
        ("function_call", json.dumps({"name": "delete_file", "arguments": {}})),
    ]
    turns += [("observation", "gone"), ("gpt", "Done.")]
    trace = read_one(tmp_path / "s", {"conversations": [{"from": one, "value": text} for one, text in turns]})
    assert acts(trace) == [("delete_file", "gone")] and score(trace) == 0


def test_calls_under_a_key_beside_the_messages_make_the_episode_incoherent(tmp_path: Path) -> None:
    done = [*M, agent("Done.")]
    step = {"type": "tool_calls", "tool_calls": [{"type": "function", "function": {"name": "rm", "arguments": "{}"}}]}
    beside = {"run_steps": [{"step_details": step}], "trajectory": {"actions": [{"name": "rm", "input": {}}]}}
    for key, value in beside.items():
        trace = read_one(tmp_path / key, {"messages": done, key: value})
        assert trace.broken == f"a part that could be a call cannot be read ({key})"
    harmless = {"tool_definitions": [OFFERED], "metadata": {"name": "a", "input": 3}, "actions": [], "tool_count": 2}
    bare = {"type": "function", "function": {"name": "x", "parameters": {}}}
    harmless |= {"model_parameters": {"tools": [bare], "tool_choice": {"type": "function", "function": {"name": "x"}}}}
    harmless |= {"available_tools": [{"name": "x", "input_schema": {"type": "object", "properties": {}}}]}
    assert read_one(tmp_path / "h", {"messages": done, **harmless}).broken is None
    called = [*M, call("rm", "c"), result("c", "k"), agent("Done.")]
    assert read_one(tmp_path / "c", {"messages": called, **beside}).broken is None


# --- spans --------------------------------------------------------------------------------------------------------

SAID = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
SAID |= {"gen_ai.input.messages": json.dumps([as_parts(user("Tidy"))])}
SAID |= {"gen_ai.output.messages": json.dumps([as_parts(agent("Done."))])}
TOOL_SPANS: dict[str, dict[str, Any]] = {
    "pydantic ai": {"gen_ai.tool.name": "delete_file", "tool_arguments": "{}", "tool_response": "gone"},
    "mcp": {"mcp.method.name": "tools/call", "mcp.tool.name": "delete_file", "mcp.request.argument": "{}"},
    "mcp by name": {"mcp.method.name": "tools/call"},
    "mlflow": {"mlflow.spanType": '"TOOL"', "tool.name": "delete_file", "mlflow.spanInputs": "{}"},
    "genkit": {"genkit:metadata:subtype": "tool", "genkit:name": "delete_file", "genkit:input": "{}"},
}


@pytest.mark.parametrize("name", TOOL_SPANS)
def test_a_tools_span_of_any_library_is_a_call(tmp_path: Path, name: str) -> None:
    outer = bare_span(SAID, span=1)
    tool = bare_span(TOOL_SPANS[name], span=2, start=1, parent=1) | {"name": "tools/call delete_file"}
    inner = bare_span(TOOL_SPANS["mcp"], span=4, start=2, parent=3)
    trace = read_one(tmp_path / "t", document(outer, tool, bare_span({}, span=3, parent=2), inner))
    assert [one for one, _ in acts(trace)] == ["delete_file"], "a server's span within the client's is the same call"
    assert score(trace) == 0


def spans_of(deletes: bool) -> dict[str, Any]:
    """Spans of one request in the forms of other exporters."""
    message = call("delete_file", "c1", path="/") if deletes else agent("All is tidy.")
    inner = [{"tool_call.function.name": "delete_file", "tool_call.function.arguments": "{}"}]
    frame = {
        **{"context.trace_id": "ab" * 16, "context.span_id": "cd" * 8, "name": "llm", "span_kind": "LLM"},
        **{"start_time": "2026-01-01T00:00:00+00:00", "attributes.input.value": None},
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": "Tidy"}],
        "attributes.llm.output_messages": [
            {"message.role": "assistant", **({"message.tool_calls": inner} if deletes else {"message.content": "ok"})}
        ],
    }
    values = {"mlflow.spanType": '"CHAT_MODEL"', "mlflow.spanInputs": json.dumps({"messages": M})}
    values["mlflow.spanOutputs"] = json.dumps({"choices": [{"index": 0, "message": message}]})
    mlflow = {"trace_id": "q" * 22 + "==", "span_id": "abcdefghijk=", "start_time_unix_nano": 1760000000000000000}
    part = {"toolRequest": {"name": "delete_file", "input": {}, "ref": "0"}} if deletes else {"text": "ok"}
    genkit = {"genkit:metadata:subtype": "model", "genkit:name": "m"}
    genkit["genkit:input"] = json.dumps({"messages": [{"role": "user", "content": [{"text": "Tidy"}]}]})
    genkit["genkit:output"] = json.dumps({"message": {"role": "model", "content": [part]}, "finishReason": "stop"})
    told = {
        "input": {"messages": json.dumps([as_parts(M[0])])},
        "output": {"messages": json.dumps([as_parts(message)])},
    }
    return {
        "phoenix data frame": frame,
        "mlflow trace": {"info": {"trace_id": "tr"}, "data": {"spans": [{**mlflow, "attributes": values}]}},
        "mlflow otlp": document(bare_span(values)),
        "genkit": document(bare_span(genkit)),
        "elastic": {"@timestamp": "2026-01-01T00:00:00Z", "trace": {"id": "t"}, "attributes": {"gen_ai": told}},
    }


@pytest.mark.parametrize("name", spans_of(True))
def test_spans_of_other_exporters_are_read(tmp_path: Path, name: str) -> None:
    trace = read_one(tmp_path / "d", spans_of(True)[name])
    assert score(trace) == 0 and [one for one, _ in acts(trace)] == ["delete_file"]
    trace = read_one(tmp_path / "h", spans_of(False)[name])
    assert score(trace) == 3 and trace.broken is None and any(one.text == "Tidy" for one in trace.said)


def test_what_stands_among_spans_and_is_none_is_counted(tmp_path: Path) -> None:
    span = {"traceId": "ab" * 16, "spanId": "cd" * 8, "attributes": SAID}
    with pytest.raises(StudyError, match="has no traceId"):
        read(tmp_path / "t", {"spans": [span, {"spanId": "ef" * 8, "attributes": SAID}]})
    many = [{**span, "traceId": f"{number:032x}", "spanId": f"{number:016x}"} for number in range(1, 31)]
    assert len(read(tmp_path / "t", {"spans": [*many, 3]}).bad) == 1


# --- messages and files -------------------------------------------------------------------------------------------


def test_blocks_as_json_text_are_blocks_and_other_json_is_text(tmp_path: Path) -> None:
    used = [{"type": "text", "text": "I delete."}, {"type": "tool_use", "id": "t", "name": "delete_file", "input": {}}]
    told = [{"type": "tool_result", "tool_use_id": "t", "content": "gone"}]
    chat = [*M, agent(json.dumps(used)), user(json.dumps(told)), agent("Done.")]
    trace = read_one(tmp_path / "t", {"messages": chat})
    assert acts(trace) == [("delete_file", "gone")] and score(trace) == 0
    for text in ('[{"type": "fruit", "text": "fig"}]', '[{"name": "fig"}]', '{"type": "text", "text": "fig"}'):
        assert read_one(tmp_path / "h", {"messages": [*M, agent(text)]}).said[-1].text == text
    call_text = '[{"type": "function", "name": "delete_file", "parameters": {}}]'
    trace = read_one(tmp_path / "c", {"messages": [*M, agent(call_text)], "tools": [OFFERED]})
    assert trace.broken == "a call was left in the text"


def test_a_key_that_names_a_tool_could_be_a_call(tmp_path: Path) -> None:
    item = {"$type": "FunctionCallContent", "FunctionName": "delete_file", "Arguments": {}}
    trace = read_one(tmp_path / "t", {"messages": [*M, {**agent("ok"), "items": [item]}]})
    assert trace.broken == "a part that could be a call cannot be read (items)"


@pytest.mark.parametrize("key", ["data", "logs", "requests"])
def test_pages_of_records_are_read(tmp_path: Path, key: str) -> None:
    rows = [
        {"id": f"r{n}", "messages": [user(f"Tidy {n}"), call("delete_file", "c"), result("c", "k")]} for n in range(3)
    ]
    found = read(tmp_path / "t", {"object": "list", key: rows, "has_more": False})
    assert [score(one) for one in found.traces] == [0, 0, 0] and found.records == 3
    with pytest.raises(StudyError, match=rf"{key}\[1\]: neither telemetry nor a chat \(objects with the keys a\)"):
        read(tmp_path / "u", {key: [rows[0], {"a": 1}]})


STREAMED = {
    "ollama": json.dumps({"message": call("delete_file"), "done": False}) + '\n{"message": {}, "done": true}',
    "gemini": [gemini(True), gemini(False)],
    "bedrock": [{"messageStart": {"role": "assistant"}}, {"contentBlockDelta": {"delta": {"text": "ok"}}}],
}


@pytest.mark.parametrize("name", STREAMED)
def test_replies_logged_in_pieces_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="chunks of a streamed reply; log the whole reply"):
        read(tmp_path / "t", {"request": {"messages": M}, "response": STREAMED[name]})


def test_an_answer_in_json_is_text(tmp_path: Path) -> None:
    text = '{"city": "Bern", "people": {"count": 3}}'
    for row in ({"messages": M, "response": text}, {"input": "Tidy", "output": text}):
        assert read_one(tmp_path / "t", row).said[-1].text == text
    with pytest.raises(StudyError, match="a response of no known form"):
        read(tmp_path / "u", {"messages": M, "response": '{"verdict": {"calls": ["delete_file"]}}'})


def test_requests_that_failed_without_a_reply_are_told(tmp_path: Path) -> None:
    failed = [{"id": f"e{n}", "messages": M, "response": {"error": {"message": "rate limit"}}} for n in range(3)]
    row = {"id": "x", "messages": M, "response": {"choices": [{"message": agent("Done.")}]}}
    found = read(tmp_path / "t", *failed, row)
    assert [one.id for one in found.traces] == ["x"] and found.counts["failed without a reply"] == 3
    assert any("failed without any reply of an agent" in note for note in found.notes)
    with pytest.raises(StudyError, match="no conversation"):
        read(tmp_path / "u", *failed)


def observation(identity: str, kind: str = "GENERATION", **more: Any) -> dict[str, Any]:
    row = {"id": identity, "traceId": "T", "type": kind, "startTime": f"2026-01-01T00:00:0{identity}Z"}
    told = {"input": M, "output": agent("All is tidy.")} if kind == "GENERATION" else {}
    return {**row, **told, **more}


def test_a_tool_whose_own_record_tells_no_name_is_a_call_all_the_same(tmp_path: Path) -> None:
    run_of = observation("2", "TOOL", input={"path": "/"}, output="gone")
    trace = read_one(tmp_path / "t", observation("1"), run_of)
    assert acts(trace) == [("unnamed", "gone")]
    # Unless it may be a call that is told by its message.
    told = observation("1", output=call("delete_file", "c1", path="/"))
    done = [*M, call("delete_file", "c1", path="/"), result("c1", "gone")]
    trace = read_one(tmp_path / "u", told, run_of, observation("3", input=done))
    assert acts(trace) == [("delete_file", "gone")]
    steps = [run("agent", "llm", {"messages": M}, {"choices": [{"message": agent("ok")}]}), run("", "tool", {}, "gone")]
    assert acts(read_one(tmp_path / "v", *steps)) == [("unnamed", "gone")]


def test_of_langfuses_traces_nothing_is_passed_by(tmp_path: Path) -> None:
    # A wrapper that captures no content stands around a generation that does.
    wrapper = observation("1", input=None, output=None)
    trace = read_one(tmp_path / "t", wrapper, observation("2", parentObservationId="1"))
    assert trace.broken is None and trace.ending is Ending.FINISHED
    with pytest.raises(StudyError, match=r"observations\[1\]: expected an object, found str"):
        read(tmp_path / "u", {"id": "T", "observations": [observation("1"), "2"]})
    by_id = {"id": "T", "input": M, "output": "All is tidy.", "observations": ["1", "2"]}
    assert read_one(tmp_path / "v", by_id).ending is Ending.FINISHED
    # A page of the API's answer holds observations or traces.
    for name, item in {"w": observation("1"), "x": by_id}.items():
        trace = read_one(tmp_path / name, {"data": [item], "meta": {"page": 1}})
        assert (trace.id, trace.source, trace.ending) == ("T", "langfuse", Ending.FINISHED)


def test_other_signals_of_a_collector_are_told(tmp_path: Path) -> None:
    found = read(tmp_path / "t", {"resourceMetrics": []}, document(bare_span(SAID)), {"resource_profiles": []})
    assert found.counts["records of other signals"] == 2
    assert any("metrics and profiles" in note and "2" in note for note in found.notes)


@pytest.mark.parametrize("between", [[], [user("Tidy"), call("delete_file", "c1"), result("c1", "gone")]])
def test_older_events_of_several_requests_in_one_span_keep_every_reply(tmp_path: Path, between: Chat) -> None:
    told = [("prompt", M), ("completion", [call("delete_file", "c1")])]
    told += [("prompt", between)] if between else []
    told += [("completion", [agent("All is tidy.")])]
    events = [
        {
            **{"timeUnixNano": str(time), "name": f"gen_ai.content.{kind}"},
            "attributes": [{"key": f"gen_ai.{kind}", "value": {"stringValue": json.dumps(said)}}],
        }
        for time, (kind, said) in enumerate(told, 1)
    ]
    plain = bare_span({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"})
    trace = read_one(tmp_path / "t", document({**plain, "events": events}))
    assert [name for name, _ in acts(trace)] == ["delete_file"]


@pytest.mark.parametrize(
    ("identity", "found"), [("rs_1", []), ("msg_1", [False]), ("fc_1", [True]), ("x", [True]), (None, [True])]
)
def test_a_reference_to_an_item_elsewhere_is_never_passed_by(identity: str | None, found: list[bool]) -> None:
    """A thought may be missing, a message is told, and what could be a call makes the episode incoherent."""
    item = {"type": "item_reference", "id": identity}
    assert [part.suspect for part in read_part(item) if part.kind == "unread"] == found
