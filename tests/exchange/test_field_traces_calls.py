"""Field cases of production traces (T, C, P): calls and answers, and how conversations end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.field_traces import DELETES_ALL, USER, Case, M, mean_of, told
from builders.trace_samples import (
    DELETE,
    acts,
    answers,
    bare_span,
    document,
    episode,
    read,
    read_one,
    request,
    said,
    score,
    unfit,
)

from holdfast.records import Ending, Flag


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
