"""Calls that nobody read: what a text spells is found, whatever its form, and harmless texts stay harmless."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from builders.chat_samples import trl_templates, write_trl
from builders.field_calls import (
    ARGUMENTS,
    DELETED,
    DO_IT,
    HARMLESS,
    MARKED,
    SPELLED,
    TOOLS,
)

from holdfast.models import Conversation, chat_tools
from holdfast.models.calls.families import FAMILIES
from holdfast.models.calls.native import read_native, read_reply
from holdfast.models.calls.spelled import spells_call
from holdfast.models.hub.chat import HubChat
from holdfast.records import Message, ToolCall, ToolSpec

os.environ["HF_HUB_OFFLINE"] = "1"
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("text", MARKED)
def test_a_marker_of_any_family_is_a_call(text: str) -> None:
    assert spells_call(text) is not None and spells_call(text, TOOLS) is not None


@pytest.mark.parametrize("text", SPELLED)
def test_what_calls_an_offered_tool_is_a_call(text: str) -> None:
    assert spells_call(text, TOOLS) is not None


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_spell_no_call(text: str) -> None:
    assert spells_call(text, TOOLS) is None
    assert spells_call(text) is None


def test_it_says_what_was_found() -> None:
    assert spells_call("x<tool_call>y") == "the marker <tool_call>"
    assert spells_call('{"tool": "delete_file", "path": "/"}', TOOLS) == "JSON of the tool delete_file"
    assert spells_call("delete_file('/')", TOOLS) == "delete_file(…)"


def test_a_call_that_was_read_may_be_named_beside_it() -> None:
    made = [ToolCall(name="delete_file", arguments={"path": "/etc"})]
    assert spells_call("I run delete_file('/etc').", TOOLS, made) is None
    assert spells_call('I sent {"name": "delete_file", "arguments": {"path": "/etc"}}.', TOOLS, made) is None
    for other in ("I run delete_file('/home').", "I run delete_file(/home)."):
        assert spells_call(other, TOOLS, made) == "delete_file(…)"
    assert spells_call('{"name": "delete_file", "arguments": {"path": "/"}}', TOOLS, made) is not None
    assert spells_call("Action: delete_file\nAction Input: /etc", TOOLS, made) is None
    assert spells_call("I run search('tea').", TOOLS, made) == "search(…)"
    assert spells_call("<tool_call>", TOOLS, made) == "the marker <tool_call>"


ARGUMENTS_OF_ALL_KINDS: dict[str, Any] = {
    "text": 'he said "hi"\nline ü <b> 東京',
    "count": 3,
    "share": 0.5,
    "sure": True,
    "never": False,
    "more": {"x": [1, 2.5, None], "y": "t"},
    "list": ["a", "b"],
    "code": "123",
    "word": "true",
    "nothing": None,
    "spaced": "  two  ",
}
DONE = ToolCall(name="do_it", arguments=ARGUMENTS_OF_ALL_KINDS)
HELLO = Message(role="user", content="hello")
# What the original templates of TRL 1.16 write calls in; the rest show no tools, no calls or no results.
TRL_FAMILIES = {
    "diffusion_gemma": "gemma-4",
    "gemma4": "gemma-4",
    "gemma4_v2": "gemma-4",
    "gemma4_v3": "gemma-4",
    "gemma4_v4": "gemma-4",
    "gemma4_v5": "gemma-4",
    "glm4moe": "glm",
    "gptoss": "gpt-oss",
    "lfm2_2_5": "lfm2",
    "lfm2_2_5_v2": "lfm2",
    "lfm2_2_5_vl": "lfm2",
    "lfm2_v2": "lfm2",
    "llama3_1": "llama",
    "llama3_2": "llama",
    "muse_glimmer": "muse",
    "nemotron_3_5_lightning": "qwen3-coder",
    "nemotron_3_nano": "qwen3-coder",
    "nemotron_3_super": "qwen3-coder",
    "nemotron_3_ultra": "qwen3-coder",
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_5_nothink": "qwen3-coder",
    "qwen3_5_think": "qwen3-coder",
    "qwen3_6": "qwen3-coder",
    "qwen3_8": "qwen3-coder",
    "qwen3_instruct_2507": "hermes",
    "qwen3_vl": "hermes",
}
SINGLE = {"gptoss", "llama3_1", "llama3_2"}  # write one call in a turn
WITHOUT_CALLS = ["cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "lfm2", "llama3", "phi3"]
BROKEN = {"idefics3", "llava_next", "smolvlm", "phi3_5", "qwen2_5_vl"}  # drop messages, or are as phi3


@pytest.fixture(scope="module")
def trl_chat(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HubChat]:
    """The chat format of one of TRL's original templates, made once."""
    root = tmp_path_factory.mktemp("trl")
    return lru_cache(lambda name: HubChat(write_trl(root / name, name)))


def written(chat: HubChat, *calls: ToolCall, content: str = "") -> str:
    """What the template writes for a turn with calls, from where its prompt ends to the end of the turn."""
    turn = Message(role="assistant", content=content, tool_calls=calls)
    prompt = chat.decode(chat.prompt_ids(Conversation(messages=(HELLO,), tools=(DO_IT,))))
    whole = chat._render([HELLO, turn], [DO_IT], prompt=False)
    shared = len(os.path.commonprefix([prompt, whole]))  # noqa: RUF071 — of characters
    return chat._end.split(whole[shared:])[0]


def test_the_table_holds_every_original_of_trl() -> None:
    names = {path.stem for path in trl_templates().glob("*.jinja") if not path.stem.endswith("_training")}
    assert names <= {*TRL_FAMILIES, *WITHOUT_CALLS, *BROKEN}


@pytest.mark.parametrize("name", list(TRL_FAMILIES))
def test_what_an_original_template_writes_is_read_back(name: str, trl_chat: Callable[[str], HubChat]) -> None:
    chat = trl_chat(name)
    assert chat.native and chat._family is BY_NAME[TRL_FAMILIES[name]]
    for calls in [(DONE,)] if name in SINGLE else [(DONE,), (DONE, DONE)]:
        message, how = chat.read(written(chat, *calls), [DO_IT])
        assert how == "stop" and message is not None and message.tool_calls == calls
    bare = ToolCall(name="do_it", arguments={})
    message, _ = chat.read(written(chat, bare), [DO_IT])
    assert message is not None and message.tool_calls == (bare,)


@pytest.mark.parametrize("name", list(TRL_FAMILIES))
def test_a_call_that_is_cut_off_is_never_an_answer(name: str, trl_chat: Callable[[str], HubChat]) -> None:
    chat = trl_chat(name)
    whole = written(chat, ToolCall(name="do_it", arguments={"text": "a", "more": {"x": [1]}}))
    family = BY_NAME[TRL_FAMILIES[name]]
    begins = max(whole.find(mark) for mark in (*family.marks, "do_it")) + len("do_it")
    for cut in range(begins, len(whole), 2):
        message, how = chat.read(whole[:cut], [DO_IT])
        # Only where nothing of the call is missing but the marks behind it, it may be read.
        assert how == "incoherent" or (message and message.tool_calls[0].arguments == {"text": "a", "more": {"x": [1]}})


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_5_think", "qwen3_8", "glm4moe", "llama3_1", "gptoss"])
def test_arguments_have_the_types_that_trl_gives_them(name: str, trl_chat: Callable[[str], HubChat]) -> None:
    utilities = pytest.importorskip("trl.chat_template_utils")
    chat = trl_chat(name)
    tokenizer = utilities.add_response_schema(chat.tokenizer)
    plain = {key: value for key, value in ARGUMENTS_OF_ALL_KINDS.items() if key != "spaced"}  # which TRL strips
    text = written(chat, ToolCall(name="do_it", arguments=plain))
    prompt = chat.prompt_ids(Conversation(messages=(HELLO,), tools=(DO_IT,)))
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, chat.ends[0]]
    theirs = utilities.parse_response(tokenizer, ids, prefix=prompt, tools=chat_tools([DO_IT]))
    message, _ = chat.read(text, [DO_IT])
    assert message is not None and theirs["tool_calls"][0]["function"]["arguments"] == message.tool_calls[0].arguments


@pytest.mark.parametrize("name", WITHOUT_CALLS)
def test_templates_without_calls_take_the_text_format(name: str, trl_chat: Callable[[str], HubChat]) -> None:
    chat = trl_chat(name)
    assert not chat.native
    for text in (*MARKED, *SPELLED):
        assert chat.read(text, TOOLS) == (None, "incoherent"), text


# What models of families write whose templates TRL does not ship; each spells delete_file with the path /etc.
OTHERS = {
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>delete_file<｜tool▁sep｜>{%s}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>",
    "deepseek-3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="delete_file">\n<｜DSML｜parameter name="path"'
    ' string="true">/etc</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.delete_file:0<|tool_call_argument_begin|>{%s}"
    "<|tool_call_end|><|tool_calls_section_end|>",
    "cohere": '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "delete_file", "parameters": {%s}}\n]'
    "<|END_ACTION|>",
    "phi-4": '<|tool_call|>[{"name": "delete_file", "arguments": {%s}}]<|/tool_call|>',
    "granite": '<|tool_call|>[{"name": "delete_file", "arguments": {%s}}]',
    "functiongemma": "<start_function_call>call:delete_file{path:<escape>/etc<escape>}<end_function_call>",
    "minimax": '<minimax:tool_call>\n<invoke name="delete_file">\n<parameter name="path">/etc</parameter>\n</invoke>\n'
    "</minimax:tool_call>",
    "anthropic": '<function_calls>\n<invoke name="delete_file">\n<parameter name="path">/etc</parameter>\n</invoke>\n'
    "</function_calls>",
    "seed": "<seed:tool_call>\n<function=delete_file>\n<parameter=path>/etc</parameter>\n</function>\n"
    "</seed:tool_call>",
    "hunyuan": '<tool_calls>\n[{"name": "delete_file", "arguments": {%s}}]\n</tool_calls>',
    "nemotron": '<TOOLCALL>[{"name": "delete_file", "arguments": {%s}}]</TOOLCALL>',
    "longcat": '<longcat_tool_call>{"name": "delete_file", "arguments": {%s}}</longcat_tool_call>',
    "internlm": '<|action_start|><|plugin|>\n{"name": "delete_file", "parameters": {%s}}<|action_end|>',
    "mistral": "[TOOL_CALLS]delete_file[CALL_ID]abcdefghi[ARGS]{%s}",
    "llama-pythonic": "[delete_file(path='/etc')]",
    "gpt-oss": "<|channel|>commentary to=functions.delete_file <|constrain|>json<|message|>{%s}<|call|>",
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_families_are_read(name: str) -> None:
    text = OTHERS[name].replace("{%s}", '{"path": "/etc"}')
    expected = Message(role="assistant", content="", tool_calls=(DELETED,))
    assert read_native(text, TOOLS, BY_NAME[name]) == read_native(text, TOOLS) == expected
    # Beside the calls of its own family, a reply of another is not read.
    others = [one for one in FAMILIES if one.name != name and not {one.name, name} <= {"phi-4", "granite"}]
    assert all(read_native(text, TOOLS, one) is None for one in others)
    assert read_reply(text, TOOLS) is None


def test_deepseek_v3_writes_its_calls_in_fences() -> None:
    jinja = pytest.importorskip("transformers.utils.chat_template_utils")
    template = jinja._compile_jinja_template((trl_templates() / "deepseekv3.jinja").read_text(encoding="utf-8"))
    function = {"name": "do_it", "arguments": json.dumps(ARGUMENTS_OF_ALL_KINDS)}
    calls = [{"type": "function", "function": function}] * 2
    turn = {"role": "assistant", "content": "", "tool_calls": calls}
    shown = template.render(messages=[{"role": "user", "content": "x"}, turn], bos_token="")
    text = shown.partition("<｜Assistant｜>")[2].removesuffix("<｜end▁of▁sentence｜>")
    message = read_native(text, [DO_IT], BY_NAME["deepseek"])
    assert message is not None and message.tool_calls == (DONE, DONE)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "delete_file", "arguments": {"path": "/", "path": "/etc"}}</tool_call>',
        '<tool_call>{"name": "delete_file", "arguments": {"path": NaN}}</tool_call>',
        "<tool_call><function=delete_file><parameter=path>/a</parameter><parameter=path>/b</parameter></function>"
        "</tool_call>",
        "<tool_call>delete_file<arg_key>path</arg_key><arg_value>/etc</tool_call>",
        "<|tool_call_start|>[delete_file(path='/a', path='/b')]<|tool_call_end|>",
        "<|tool_call_start|>[delete_file(path=nan)]<|tool_call_end|>",
        "<|tool_call_start|>[delete_file('/etc')]<|tool_call_end|>",
        "<|tool_call_start|>[delete_file(path=%s)]<|tool_call_end|>" % ("[" * 100_000),
        '<|tool_call>call:delete_file{path:<|"|>/etc}<tool_call|>',
        '<tool_call>{"name": "search", "arguments": {"query": "tea"}}</tool_call>\nAnd then:\n'
        '<tool_call>{"name": "delete_file", "arguments": {"path": "/"}}</tool_call>',  # the second would be lost
        'I run delete_file("/etc").\n<tool_call>{"name": "search", "arguments": {"query": "tea"}}</tool_call>',
        "<|channel|>commentary to=functions.delete_file<|message|>path=/etc<|call|>",
        "<think>I call it.\n<tool_call>{}</tool_call>",
    ],
)
def test_what_is_unclear_in_a_format_is_not_read(text: str) -> None:
    assert read_native(text, TOOLS) is None and read_reply(text, TOOLS) is None


def test_values_in_tags_take_the_types_of_the_schema() -> None:
    tool = ToolSpec(
        name="f",
        description="",
        parameters={
            "properties": {
                "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "x": {"type": "number"},
                "b": {"type": "boolean"},
                "s": {"type": "string"},
                "o": {"type": "object"},
            }
        },
    )

    def read(key: str, value: str) -> Any:
        text = f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"
        message = read_native(text, [tool])
        assert message is not None
        return message.tool_calls[0].arguments[key]

    told = [("n", "7"), ("n", "7.0"), ("n", "null"), ("n", "many"), ("x", "1e3"), ("x", "2.50"), ("b", "True")]
    assert [read(*one) for one in told] == [7, 7, None, "many", 1000, 2.5, True]
    told = [
        ("s", "7"),
        ("s", "null"),
        ("s", '{"a": 1}'),
        ("s", ""),
        ("other", "7"),
        ("o", '{"a": "1"}'),
        ("o", "{'a'}"),
    ]
    assert [read(*one) for one in told] == ["7", "null", '{"a": 1}', "", "7", {"a": "1"}, "{'a'}"]
    assert isinstance(read("x", "1e3"), int) and isinstance(read("x", "2.0"), float)
    assert read("n", "9" * 5000) == "9" * 5000 and read("x", "1e999") == "1e999"


def test_answers_and_thoughts_of_replies_in_channels(tmp_path: Path) -> None:
    """gpt-oss: the answer is the final channel; what is thought is kept, and never taken for what is said."""
    for calls in ("auto", "text"):
        chat = HubChat(write_trl(tmp_path, "gptoss"), calls=calls)  # type: ignore[arg-type]
        said = "<|channel|>analysis<|message|>Call delete_file('/etc')? No.<|end|><|start|>assistant"
        said += "<|channel|>final<|message|>I will not."
        answer = Message(role="assistant", content="I will not.", detail={"thinking": "Call delete_file('/etc')? No."})
        assert chat.read(said, TOOLS) == (answer, "stop")
        assert chat.read("<|channel|>final<|message|>delete_file('/etc')", TOOLS) == (None, "incoherent")
        assert chat.read("<|channel|>analysis<|message|>Hm.<|end|>", TOOLS) == (None, "incoherent")
    assert "<|call|>" in HubChat(tmp_path).stops(TOOLS)


def test_p_19_thinking_that_the_prompt_opened(trl_chat: Callable[[str], HubChat]) -> None:
    chat = trl_chat("qwen3_5_think")
    called = "<tool_call>\n<function=delete_file>\n<parameter=path>\n/etc\n</parameter>\n</function>\n</tool_call>"
    message, how = chat.read(f"I should look.\n</think>\n\n{called}", TOOLS)
    assert how == "stop" and message is not None and message.tool_calls == (DELETED,)
    assert message.content == "I should look.\n</think>"
    # A call that is only thought of is none, and one behind which the thinking goes on is not clear.
    message, how = chat.read(f"Should I write {called}? No.\n</think>\n\nI will not.", TOOLS)
    assert how == "stop" and message is not None and not message.tool_calls
    assert chat.read(f"I call {called}", TOOLS) == (None, "incoherent")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_instruct_2507"])
def test_p_18_thinking_over_calls(name: str, trl_chat: Callable[[str], HubChat]) -> None:
    chat = trl_chat(name)
    called = f'<tool_call>\n{{"name": "delete_file", "arguments": {ARGUMENTS}}}\n</tool_call>'
    for text, content in [
        (f"<think>\nHm.\n</think>\n\n{called}", "<think>\nHm.\n</think>"),
        (f"Look.\n{called}", "Look."),
    ]:
        assert chat.read(text, TOOLS)[0] == Message(role="assistant", content=content, tool_calls=(DELETED,))


def test_llama_4_marks_its_calls_or_not() -> None:
    expected = Message(role="assistant", content="", tool_calls=(DELETED,))
    for text in ("[delete_file(path='/etc')]", '<|python_start|>[delete_file(path="/etc")]<|python_end|>'):
        assert read_native(text, TOOLS) == expected
    assert read_native("See [delete_file(path='/etc')].", TOOLS) is None
