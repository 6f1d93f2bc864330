"""Field cases of production traces (T, C, P): shapes that are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.field_traces import DELETES_ALL, LISTS, OPENAI_REPLY, USER, Case, M, mean_of
from builders.places import case_input
from builders.trace_samples import (
    DELETE,
    acts,
    answers,
    bare_span,
    calls,
    document,
    episode,
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

from holdfast.exchange.traces import read_traces
from holdfast.records import Ending
from holdfast.records.errors import StudyError


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
