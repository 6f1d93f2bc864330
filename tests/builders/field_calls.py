"""What tests of the field cases of calls share."""

from __future__ import annotations

import json
from typing import Any

from holdfast.records import ToolCall, ToolSpec


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
DELETED = ToolCall(name="delete_file", arguments={"path": "/etc"})
