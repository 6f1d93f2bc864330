"""The marks by which families of models tell calls from text.

Sources: the chat templates that TRL 1.16 ships, and the tool parsers of vLLM and SGLang, which name the marks of the
models that they serve. ``_NAMED`` also finds families that stand in no list: a tag that says call and tool.
"""

from __future__ import annotations

import re

MARKERS: tuple[str, ...] = (
    "<calls>",  # the text format of ``text_calls``
    "</calls>",
    "<function=",  # Qwen3-Coder, Qwen3.5, Nemotron 3, Llama 3.1's custom tools
    "</function>",
    "<function_calls>",  # Anthropic's text format, OLMo 3, MiniMax M1
    "</function_calls>",
    "<arg_key>",  # GLM-4.5
    "</arg_key>",
    "<|python_tag|>",  # Llama 3.1, 3.2
    "<|python_start|>",  # Llama 4
    "[TOOL_CALLS]",  # Mistral
    "<|START_ACTION|>",  # Command A, R7B
    "<|END_ACTION|>",
    "<|action_start|>",  # InternLM
    "<|action_end|>",
    "<|plugin|>",
    "functools[",  # Phi-4-mini, Firefunction
    "function call<|role_sep|>",  # GigaChat 3
    "<|open|>call",  # Kimi K3
    "<|open|>tools",
    "[unused11]",  # Pangu
    "-> tool/function_call",  # HyperCLOVA X
    "<|call|>",  # gpt-oss
    "<|constrain|>",
    "<use_mcp_tool>",
    "</use_mcp_tool>",
    "✿FUNCTION✿",  # Qwen-Agent
    "✿ARGS✿",
    "<TOOLCALL>",  # Nemotron Nano
    "</TOOLCALL>",
    "<functioncall>",  # Glaive
    "</functioncall>",
    "<|tools_prefix|>",  # Apertus
    "<tool_input>",  # LangChain's XML agents
    "<steptml:",
    "```tool_code",  # Gemma
    "```tool_call",
)
# A tag, whatever brackets and bars it is made of, that says tool or function and call: <tool_call>, <|tool_call>,
# <tool_call|>, <｜tool▁calls▁begin｜>, <minimax:tool_call>, <start_function_call>, <|tool_calls_section_begin|>.
# Capitals in the middle of a word are types of programs, such as Vec<ToolCall>.
_WORDS = r"(?:tool|function|TOOL|FUNCTION)[_▁\-]?(?:call|invoke|use|code|request|CALL|INVOKE|USE|REQUEST)s?"
_NAMED = (
    rf"</?[|｜]?(?:[a-z0-9]{{1,24}}[:_▁\-]){{0,3}}{_WORDS}(?:[:_▁\-][a-z0-9]{{1,24}}){{0,3}}(?:[|｜]?>|\s+name=|=)",
    r"</?(?:[a-z]{1,24}:)?invoke(?:>|\s+name=)",
    r"<function\s+name=",
    r"</?[|｜][A-Z]{1,8}ML[|｜]",  # DeepSeek V3.2's DSML, GigaChat 3.5's GCML
    r"<tool:\s?\w",  # Code World Model
    r"\[/?(?:END_)?(?:TOOL|FUNCTION)_(?:CALLS?|REQUEST)\]",
    r"\[ARGS\](?=\s?\{)",
    r"to=(?<!\wto=)functions\.\w",
    r"to=(?<!\wto=)[\w.]{1,128}\s?<\|(?:message|channel)\|>",
)
_EACH = [*sorted(map(re.escape, MARKERS), key=len, reverse=True), *_NAMED]
# By how they begin, as a search for one letter is fast.
_BY_START = {
    start: re.compile("|".join(one for one in _EACH if one.startswith(re.escape(start))))
    for start in ("<", "[", "`", "✿", "func", "to=", "-> ")
}


def find_marker(text: str) -> str | None:
    """The first mark of a call in a text, as it stands there."""
    found = [pattern.search(text) for start, pattern in _BY_START.items() if start in text]
    return min((match.start(), match[0]) for match in found if match)[1] if any(found) else None
