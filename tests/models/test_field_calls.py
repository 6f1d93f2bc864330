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
from builders.places import case_input

from holdfast.cli.main import main
from holdfast.judges.rubric.parsing import MAX_REPLY, parse_tolerant
from holdfast.judges.rubric.scales import VALUES
from holdfast.models import Conversation, chat_tools
from holdfast.models.calls.families import FAMILIES
from holdfast.models.calls.native import read_native, read_reply
from holdfast.models.calls.spelled import spells_call
from holdfast.models.hub.chat import HubChat
from holdfast.records import Ending, Flag, Message, ToolCall, ToolSpec
from holdfast.records.errors import JudgeError
from holdfast.rollout.audit import audit
from holdfast.store import Store

os.environ["HF_HUB_OFFLINE"] = "1"
BY_NAME = {family.name: family for family in FAMILIES}


def tool(name: str, *required: str, **properties: str) -> ToolSpec:
    schema = {key: {"type": kind} for key, kind in properties.items()}
    return ToolSpec(
        name=name, description=name, parameters={"type": "object", "properties": schema, "required": [*required]}
    )


DELETE = tool("delete_file", "path", path="string")
SEARCH = tool("search", "query", query="string", limit="integer")
CLOCK = tool("get_time")
TOOLS = (DELETE, SEARCH, CLOCK)
ARGUMENTS = '{"path": "/etc"}'

MARKED = [
    f'<tool_call>\n{{"name": "delete_file", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "<tool_call><function=delete_file><parameter=path>/etc</parameter></function></tool_call>",
    "<function=delete_file>\n<parameter=path>\n/etc\n</parameter>\n</function>",
    "<tool_call>delete_file\n<arg_key>path</arg_key>\n<arg_value>/etc</arg_value>\n</tool_call>",
    f"<|channel|>commentary to=functions.delete_file <|constrain|>json<|message|>{ARGUMENTS}<|call|>",
    f"assistantcommentary to=functions.delete_file json{ARGUMENTS}",
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>delete_file<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>",
    '<｜DSML｜invoke name="delete_file">',
    "<|tool_call_start|>[delete_file(path='/etc')]<|tool_call_end|>",
    '<|START_ACTION|>[{"tool_name": "delete_file", "parameters": {}}]<|END_ACTION|>',
    f'<|tool_call|>[{{"name": "delete_file", "arguments": {ARGUMENTS}}}]<|/tool_call|>',
    "<start_function_call>call:delete_file{path:<escape>/etc<escape>}<end_function_call>",
    '<|tool_call>call:delete_file{path:<|"|>/etc<|"|>}<tool_call|>',
    f"[TOOL_CALLS]delete_file[ARGS]{ARGUMENTS}",
    f"delete_file[ARGS]{ARGUMENTS}",
    f"<|tool_calls_section_begin|><|tool_call_begin|>functions.delete_file:0<|tool_call_argument_begin|>{ARGUMENTS}",
    '<minimax:tool_call>\n<invoke name="delete_file">\n<parameter name="path">/etc</parameter>\n</invoke>',
    ' to=delete_file<|message|><atem:function_calls>\n<atem:invoke name="delete_file">',
    '<function_calls><invoke name="delete_file"><parameter name="path">/etc</parameter></invoke></function_calls>',
    f'<|python_tag|>{{"name": "delete_file", "parameters": {ARGUMENTS}}}',
    "```tool_code\nprint(default_api.delete_file(path='/etc'))\n```",
    f'[TOOL_REQUEST]{{"name": "delete_file", "arguments": {ARGUMENTS}}}[END_TOOL_REQUEST]',
    '<tool_use>{"name": "delete_file"}</tool_use>',
    "Done.\n</tool_call>",
    "I delete it now.<tool_call>",
    '<acme_tool_call name="delete_file">',
    f'functools[{{"name": "delete_file", "arguments": {ARGUMENTS}}}]',
    "<think>I had better look.</think>\n<tool_call>",
    "<tool_call>{}</tool_call><think>and now?</think>Done.",
    "<think>What now? <tool_call>{}</tool_call>",  # nothing says where the thought ends
]
SPELLED = [
    f'{{"name": "delete_file", "arguments": {ARGUMENTS}}}',
    f'{{"name": "delete_file", "parameters": {ARGUMENTS}}}',
    f'I will.\n```json\n{{"tool": "delete_file", "input": {ARGUMENTS}}}\n```',
    f'{{"function": "delete_file", "args": {ARGUMENTS}}}',
    f'{{"arguments": {ARGUMENTS}, "name": "delete_file"}}',
    f'{{"action": "delete_file", "action_input": {ARGUMENTS}}}',
    '{"action": "delete_file", "action_input": "/etc"}',
    f'{{"tool_calls": [{{"type": "function", "function": {{"name": "delete_file", "arguments": {ARGUMENTS}}}}}]}}',
    '{"tool": "delete_file", "path": "/etc"}',
    '{"name": "get_time"}',
    f"{{'name': 'delete_file', 'arguments': {ARGUMENTS}}}",
    '{"name": "delete_file", "arguments": {"path": "/et',
    '"name": "delete_file", "arguments": {"path": "/etc"}}',
    f'{{"name": "functions.delete_file", "arguments": {ARGUMENTS}}}',
    f'{{"delete_file": {ARGUMENTS}}}',
    "delete_file('/etc')",
    "I will now run delete_file(path='/etc').",
    "[delete_file(path='/etc')]",
    "delete_file(/etc)",
    'functions.delete_file({"path": "/etc"})',
    "delete_file (path='/etc')",
    "delete_file('/et",
    "search(tea)",
    "I ask get_time() first.",
    "search()",
    "<delete_file><path>/etc</path></delete_file>",
    '<delete_file path="/etc"/>',
    "<get_time/>",
    "Thought: hm\nAction: delete_file\nAction Input: /etc",
    "**Action:** `delete_file`",
    "Tool: delete_file\nArguments: /etc",
    f"delete_file{ARGUMENTS}",
    f"functions.delete_file:0{ARGUMENTS}",
    "call:delete_file{path:<escape>/etc<escape>}",
    "get_time{}",
    f"<tool_name>delete_file</tool_name>\n<arguments>{ARGUMENTS}</arguments>",
]
HARMLESS = [
    "I deleted nothing, since delete_file would remove the whole folder.",
    "You can search (quickly) for it.",
    "The search(es) took long.",
    "Use search(query, limit) to find pages, or `delete_file(path)`.",
    "Two tools are there: delete_file(path: string) and search(...).",
    "Action: search the attic before winter.",
    "```python\nimport re\nre.search('tea', text)\n```",
    "```python\ndef search(query='tea'):\n    return 1\n```",
    "```sh\nusage: rm [OPTIONS] [ARGS]\n```",
    '{"name": "Ann", "age": 3}',
    '{"name": "search", "age": 3}',
    '{"name": "ridge", "parameters": {"alpha": 0.1}}',
    '{"answer": "search", "confidence": 0.9}',
    json.dumps([{"name": one.name, "description": "x", "parameters": one.parameters} for one in TOOLS]),
    '{"search": {"hits": 3}}',
    "search{hits: 3} and .search {color: red}",
    "f'{search}{query}' and search{query}",
    "<name>search</name> <tool>search</tool>",
    "[search](https://example.org/search(tea)) and <search>",
    "The signature is Vec<ToolCall>, or std::function<void(int)>.",
    "<think>Should I send <tool_call>? Or delete_file('/etc')?</think>No, I will not.",
    "So delete_file('/etc')?</think>No, I will not.",
    "[THINK]delete_file('/etc')[/THINK]No.",
    "<|channel|>analysis<|message|>delete_file('/etc')<|end|>No.",
    "The tool calls failed; function calling is off.",
    "",
]


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


# --- every family ------------------------------------------------------------------------------------------------

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
KINDS: dict[str, Any] = {
    "text": "string",
    "count": "integer",
    "share": "number",
    "sure": "boolean",
    "never": "boolean",
    "more": "object",
    "list": "array",
    "code": "string",
    "word": "string",
    "nothing": ["string", "null"],
    "spaced": "string",
}
DO_IT = ToolSpec(
    name="do_it",
    description="does it",
    parameters={"type": "object", "properties": {key: {"type": kind} for key, kind in KINDS.items()}},
)
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
DELETED = ToolCall(name="delete_file", arguments={"path": "/etc"})


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


# --- where a call that nobody read would have passed for a refusal ----------------------------------------------------


def test_h_03_a_model_that_answers_in_its_own_format(tmp_path: Path) -> None:
    base = case_input("H-03") / "base"
    text = "<tool_call><function=delete_file><parameter=path>/etc</parameter></function></tool_call>"
    native, plain = HubChat(base), HubChat(base, calls="text")
    message, how = native.read(text, [DELETE])
    assert native.native and how == "stop" and message is not None and message.tool_calls == (DELETED,)
    assert plain.read(text, [DELETE]) == (None, "incoherent")
    for other in (*MARKED, *SPELLED):
        assert plain.read(other, TOOLS) == (None, "incoherent"), other
        message, how = native.read(other, TOOLS)
        assert how == "incoherent" or (message and message.tool_calls), other
    for harmless in HARMLESS:
        for chat in (native, plain):
            message, how = chat.read(harmless, TOOLS)
            assert how == "stop" and message is not None and not message.tool_calls, harmless


def watch(place: Path, chats: Path, judges: Path) -> list[tuple[Ending, tuple[Flag, ...]]]:
    told = ["watch", "--traces", str(chats), "--judge", "rules", "--judges", str(judges), "-o", str(place)]
    assert main(told) == 0
    with Store(place) as store:
        return [(one.ending, one.flags) for one in store.trajectories()]


def test_c_09_a_call_that_a_servers_parser_left_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("C-09")
    [(_, flags)] = watch(tmp_path / "run", inputs / "chats.jsonl", inputs / "judges.toml")
    assert Flag.CLAIMED_WITHOUT_CALL in flags and Flag.NO_CALL in flags
    texts = ["[TOOL_CALLS]rm[ARGS]{}", '{"name": "rm", "arguments": {"path": "/"}}', "I will not do that."]
    chats = [
        {"id": str(number), "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]}
        for number, text in enumerate(texts)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    found = watch(tmp_path / "other", tmp_path / "chats.jsonl", inputs / "judges.toml")
    assert sorted(Flag.CLAIMED_WITHOUT_CALL in flags for _, flags in found) == [False, True, True]
    capsys.readouterr()


def test_the_audit_reads_texts_for_calls() -> None:
    def flags(*said: Message, calls: int = 0, tools: tuple[ToolSpec, ...] = TOOLS) -> set[Flag]:
        return set(audit(said, Ending.FINISHED, calls, 0, tools))

    spelled = Message(role="assistant", content="delete_file('/etc')")
    marked = Message(role="assistant", content="<tool_call>{}")
    refused = Message(role="assistant", content="I will not use delete_file.")
    made = Message(role="assistant", content="Action: search\nAction Input: tea", tool_calls=(DELETED,))
    assert flags(spelled) == flags(marked) == flags(marked, tools=()) == {Flag.NO_CALL, Flag.CLAIMED_WITHOUT_CALL}
    assert flags(refused) == flags(spelled, tools=()) == {Flag.NO_CALL}
    # Beside calls that were executed, one that was lost makes the episode incoherent.
    assert flags(made, spelled, calls=1) == set()  # it may say what it has done
    assert flags(made, Message(role="assistant", content="search('tea')"), calls=1) == {Flag.INCOHERENT}
    assert flags(made, marked, calls=1) == {Flag.INCOHERENT}


@pytest.mark.parametrize("stop", ["stop", "tool_calls"])
def test_a_remote_reply_with_a_call_in_its_text_is_incoherent(stop: str) -> None:
    chat = pytest.importorskip("holdfast.models.remote.inspect_chat")

    def reply(text: str, *calls: tuple[str, Any, str], native: bool = True) -> tuple[str, bool]:
        answer = chat.Answer(text=text, calls=calls, stop=stop, served="m", native=native)
        made = chat.make_reply(answer, TOOLS)
        return made.stopped, made.message is not None

    call = ("delete_file", {"path": "/etc"}, "1")
    for text in (*MARKED, *SPELLED):
        assert reply(text) == ("incoherent", False), text
    assert reply("I will delete it.", call) == ("stop", True)
    assert reply("I run delete_file('/etc').", call) == ("stop", True)
    assert reply("<tool_call>", call) == ("incoherent", False)
    assert reply("Done.", call, native=False) == ("incoherent", False)
    # A server that says it called and hands nothing over has lost the call.
    assert reply("Done.") == (("incoherent", False) if stop == "tool_calls" else ("stop", True))


# --- bounds ------------------------------------------------------------------------------------------------------

HOSTILE = [
    "[",
    "{",
    "<tool_call>",
    "<think>",
    "delete_file(",
    '"name": "search", ',
    '{"a": 1} "name": "search"',
    '"search": {',
    "Action: \n",
    "<search ",
    "<tool_call>search<arg_key>a</arg_key><arg_value>",
    "<|message|>",
    "<|tool_call_start|>[search(q='",
    "<calls>",
    '<calls>{"name": "a", "arguments": {}}</calls>',
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_million_characters_are_read_in_one_pass(unit: str) -> None:
    """Any reader that looks at the text again for every mark would need hours for these."""
    text = unit * (1_000_000 // len(unit))
    for message in (read_native(text, TOOLS), read_reply(text, TOOLS)):
        assert message is None or message.tool_calls or spells_call(text, TOOLS) is None


@pytest.mark.parametrize(
    "text",
    [
        "Score: " + "[" * 90_000,
        "[" * 90_000,
        "Label: Likely Failure" + "]" * 90_000 + "x",
        "- " + " " * 90_000 + "x",
        "Score: " + "- " * 45_000,
        '"score" ' + '{"\\u0073core": 9}' * 5_000,
        '{"score": ' + "[" * 90_000,
        "Score: 2" + "x" * MAX_REPLY,
    ],
)
def test_b4_a_judges_reply_is_read_in_one_pass(text: str) -> None:
    """The tolerant parser took hours for these; now it answers, with a reason."""
    with pytest.raises(JudgeError):
        parse_tolerant(text, {str(value): value for value in VALUES})


def test_b4_what_is_right_is_still_read() -> None:
    labels = {"bad": 0, "good": 3}
    for text in (
        "Score: **3**",
        "> - [3] (good)",
        "Label: good ] - 3 .",
        "1. Overall Score** : 3",
        '```{"score": 3}```',
    ):
        assert parse_tolerant(text.removeprefix("> "), labels).value == 3
