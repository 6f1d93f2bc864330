"""What in a text looks like a call that nobody read.

A mark of any family counts. So does what names an offered tool the way calls do: JSON with the tool and its arguments,
``name(``, a tag with the name and its arguments, lines such as ``Action: name``. A sentence that mentions a tool, its
signature, its description in JSON and what is only thought do not. Everything here is linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from holdfast.models.calls.values import parameters_of
from holdfast.records import Message, ToolCall, ToolSpec

_TRIES = 64  # of decoding JSON in one text; what is still unclear then is taken for a call
_NEAR = 500  # characters in which what belongs to a name is looked for
_NAMING = "name|tool|function|action|tool_name|toolName|function_name|functionName|recipient_name|api|command"
_ARGUMENTS = (
    "arguments|parameters|args|input|params|kwargs|inputs|action_input|tool_input|toolInput|tool_args|tool_arguments"
    "|function_args|function_arguments|actionInput"
)
_ARGUMENT_KEYS = frozenset(_ARGUMENTS.split("|"))
_NAMING_KEYS = frozenset(_NAMING.split("|")) - {"api", "command"}
_NAME = re.compile(r"[\w.:/\-]{1,128}")
_SEVERAL_WORDS = re.compile(r"[_.]|[a-z][A-Z]")
_CODE_LIST = re.compile(r"\[\s*(?:\w+\.)*(\w+)\(\s*\w+\s*=.*\)\s*\]", re.DOTALL)
# What stands beside a name without being an argument.
_BESIDE = frozenset({"type", "id", "call_id", "tool_call_id", "index", "thought", "thoughts", "reasoning", "rationale"})
_TAGS = "tool|tool_name|toolname|function|function_name|name|action|command"
_PREFIX = r"(?:(?:functions?|tools?|default_api|api)\.)?"
_GAP = r"[\s*_`\"']{0,20}"
_ARGUMENT_KEY = re.compile(rf"[\"'](?:{_ARGUMENTS})[\"']\s{{0,20}}:")
_DEFINES = re.compile(r"(?:\bdef|\bfunction|\bclass|\bfn|\bfunc|\bsub)\s+\Z")
_LINE = re.compile(r"^[ \t*#>`_\-]{0,40}([A-Za-z][A-Za-z _]{2,20}?)[ *_`]{0,20}:", re.MULTILINE)
_CALL_LINES = frozenset(
    {"action", "tool", "function", "tool call", "tool name", "tool use", "function call", "function name"}
)
_INPUT_LINES = frozenset({"action input", "tool input", "arguments", "args", "parameters", "input"})
_SIGNATURE = re.compile(r"[*\[]{0,2}(\w+)\]?\??(?:\s*:\s*[\w\[\]|. ]+)?(?:\s*=\s*(?:None|null|\.\.\.|…))?")
_BRACED_KEY = re.compile(r"\{\s{0,20}[\"']?(\w{1,128})[\"']?\s{0,20}:")
_LITERAL = re.compile(r"\"([^\"]*)\"|'([^']*)'|(?<![\w.])(-?\d+(?:\.\d+)?)")
_ENDINGS = frozenset({"s", "es", "d", "ed", "ing", "er", "ers", "n", "ion", "...", "…", "…)", "etc."})
_DECODER = json.JSONDecoder()


def spells_call(
    text: str, tools: Sequence[ToolSpec] = (), made: Sequence[ToolCall] = (), *, headings: bool = True
) -> str | None:
    """What in an agent's text looks like a call and was not read as one, in a few words; None where nothing does.

    Without ``tools`` the marks of all families are known, and ``Action:`` with ``Action Input:``. ``made`` are calls
    that were read beside this text or before it: telling of them, with arguments that they had, is no other call.
    Without ``headings`` lines such as ``Action:`` do not count.
    """
    spoken = without_thoughts(text)
    if (marker := find_marker(spoken)) is not None:
        return f"the marker {marker}"
    offered = {tool.name: tool for tool in tools if tool.name and tool.name in spoken}
    names = "|".join(sorted(map(re.escape, offered), key=len, reverse=True))
    for find in (_in_json, _in_code, _in_braces, _in_tags) if offered else ():
        if (found := find(spoken, names, offered, made)) is not None:
            return found
    if _is_whole_call(spoken, made, known=bool(tools)):
        return "a call by itself"
    done = {call.name for call in made}
    others = "|".join(sorted(map(re.escape, offered.keys() - done), key=len, reverse=True))
    return _in_lines(spoken, others, any_tool=not made) if headings else None


def find_unread(messages: Iterable[Message], tools: Sequence[ToolSpec] = (), *, headings: bool = True) -> str | None:
    """The first call in an agent's texts that nobody read, in a few words; of the dialogue's calls they may tell."""
    spoken = [message for message in messages if message.role == "assistant"]
    made = [call for message in spoken for call in message.tool_calls]
    texts = (message.content for message in spoken if message.content)
    found = (spells_call(text, tools, made, headings=headings) for text in texts)
    return next(filter(None, found), None)


def _is_bare(tool: ToolSpec) -> bool:
    """Whether a tool can be called without arguments."""
    return not tool.parameters.get("required")


def _tells_of(name: str, values: Any, made: Sequence[ToolCall]) -> bool:
    """Whether a tool was called with the values that are told: a report, not a call."""
    told = set(_scalars(values))
    return any(call.name == name and told <= set(_scalars(call.arguments)) for call in made)


def _scalars(value: Any) -> Iterator[str]:
    """The texts, numbers and constants in a JSON value, as texts."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        else:
            yield str(one)


# --- JSON --------------------------------------------------------------------------------------------------------


def _in_json(text: str, names: str, offered: Mapping[str, ToolSpec], made: Sequence[ToolCall]) -> str | None:
    """JSON, or what is meant to be, that names a tool and gives it arguments."""
    named = re.compile(rf"[\"']({_NAMING})[\"']\s{{0,20}}:\s{{0,20}}[\"']{_PREFIX}({names})(?::\d+)?(?:[\"']|\Z)")
    keyed = re.compile(rf"[\"']{_PREFIX}({names})[\"']\s{{0,20}}:\s{{0,20}}(?=\{{)")
    tries = iter(range(_TRIES))
    for match in named.finditer(text):
        if _is_object_call(text, match, offered[match[2]], made, tries):
            return f"JSON of the tool {match[2]}"
    for match in keyed.finditer(text):
        unclear = next(tries, None) is None
        arguments, _ = _decode(text, match.end()) or ({}, 0)
        known = bool(arguments) and arguments.keys() <= parameters_of(offered[match[1]]).keys()
        if unclear or (known and not _tells_of(match[1], arguments, made)):
            return f"JSON of the tool {match[1]}"
    return None


def _decode(text: str, at: int) -> tuple[dict[str, Any], int] | None:
    """The object that begins somewhere and where it ends; None where none can be read."""
    try:
        found, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return (found, end) if isinstance(found, dict) else None


def _is_object_call(
    text: str, match: re.Match[str], tool: ToolSpec, made: Sequence[ToolCall], tries: Iterator[int]
) -> bool:
    """Whether the object around a name is a call of it."""
    place = match.start()
    if next(tries, None) is None:
        return True
    while (place := text.rfind("{", 0, place)) >= 0:
        if next(tries, None) is None:
            return True
        found = _decode(text, place)
        if found is None and text.count("{", place, match.start()) > text.count("}", place, match.start()):
            return True  # cut off, or no JSON: it cannot be read
        if found is not None and found[1] > match.start():
            rest = {key: value for key, value in found[0].items() if key not in _BESIDE and key != match[1]}
            return _calls(found[0], match[1], tool) and not _tells_of(tool.name, rest, made)
    return bool(_ARGUMENT_KEY.search(text, match.end(), match.end() + _NEAR))


def _calls(found: Mapping[str, Any], key: str, tool: ToolSpec) -> bool:
    rest = found.keys() - _BESIDE - {key}
    if arguments := rest & _ARGUMENT_KEYS - ({"input"} if "output_schema" in rest else set()):
        return not any(_is_schema(found[name]) for name in arguments)
    if not rest:
        return key != "name" or _is_bare(tool)
    return rest <= parameters_of(tool).keys()


def _is_whole_call(text: str, made: Sequence[ToolCall], *, known: bool) -> bool:
    """Whether a text is nothing but calls, of whatever tools, in JSON or as ``[name(key=…)]``.

    Where the tools are ``known`` and none of them is meant, only ``name`` with ``arguments`` says that it is one.
    """
    bare = text.strip().strip("`").strip().removeprefix("json").removeprefix("python").lstrip()
    if not bare.startswith(("{", "[")):
        return False
    if not known and (listed := _CODE_LIST.fullmatch(bare)) is not None:
        return listed[1] not in {call.name for call in made}
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return False
    if isinstance(found, dict) and len(found) == 1:
        # Replies hold calls under one of these keys, too.
        key, inner = next(iter(found.items()))
        found = inner if key in ("tool_calls", "tool_uses", "function_call", "tool_call") else found
    calls = [_whole_call(one, known=known) for one in (found if isinstance(found, list) else [found])]
    return bool(calls) and None not in calls and not all(call and _tells_of(*call, made) for call in calls)


def _whole_call(value: Any, *, known: bool) -> tuple[str, Any] | None:
    """Name and arguments of an object that holds a tool's name, its arguments and nothing else."""
    if not isinstance(value, dict):
        return None
    if isinstance(inner := value.get("function"), Mapping):
        value = inner
    keys = value.keys() - _BESIDE
    names = [key for key in keys if key in _NAMING_KEYS]
    given = [key for key in keys if key in _ARGUMENT_KEYS]
    if known and keys != {"name", "arguments"}:
        return None
    if len(keys) != 2 or len(names) != 1 or len(given) != 1:
        return None
    name, arguments = value[names[0]], value[given[0]]
    # Only where the key is the usual one may the arguments be text: JSON within JSON.
    told = isinstance(arguments, Mapping) or given[0] in ("arguments", "action_input", "tool_input")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not told or _is_schema(arguments):
        return None
    if names == ["name"] and given != ["arguments"] and not _SEVERAL_WORDS.search(name):
        return None  # much else has a name and parameters; names of tools are verbs with objects
    return name.rpartition(".")[2], arguments


def _is_schema(value: Any) -> bool:
    """Whether a value describes arguments instead of giving them."""
    return isinstance(value, Mapping) and isinstance(value.get("properties"), Mapping)


# --- name(…), <name>, Action: name -------------------------------------------------------------------------------


def _in_code(text: str, names: str, offered: Mapping[str, ToolSpec], made: Sequence[ToolCall]) -> str | None:
    called = re.compile(rf"(?<![\w.$/\-\]]){_PREFIX}({names})(?:\.call)?( ?)\(")
    for match in called.finditer(text):
        defines = _DEFINES.search(text, max(match.start() - 16, 0), match.start())
        inside, closed, _ = text[match.end() : match.end() + _NEAR].partition(")")
        inside = inside.strip()
        if defines or not _is_code_call(text, match, offered[match[1]], inside, closed=bool(closed)):
            continue
        told = [literal for groups in _LITERAL.findall(inside) for literal in groups if literal]
        if not _tells_of(match[1], told or inside or (), made):
            return f"{match[1]}(…)"
    return None


def _in_braces(text: str, names: str, offered: Mapping[str, ToolSpec], made: Sequence[ToolCall]) -> str | None:
    """``name{…}``, ``functions.name:0{…}``, and a line ``name`` above ``{…}``, as GLM-4 writes a call.

    The same is left of other families' calls where special tokens are not shown.
    """
    beside = rf"(?<![\w./\-\]]){_PREFIX}({names})(?::\d{{1,6}})? ?"
    above = rf"^[ \t]{{0,20}}(?:function)?({names})[ \t]{{0,20}}\n\s{{0,20}}(?:```(?:json)?\s{{0,20}})?"
    braced = re.compile(rf"(?:{beside}|{above})(?=\{{(?!\{{))", re.MULTILINE)
    for tries, match in enumerate(braced.finditer(text)):
        name = match[1] or match[2]
        tool, found = offered[name], _decode(text, match.end()) if tries < _TRIES else None
        parameters = parameters_of(tool)
        if found is None:
            key = _BRACED_KEY.match(text, match.end())
            given = key is not None and (key[1] in parameters or not parameters)
        else:
            given = bool(found[0] or _is_bare(tool)) and (found[0].keys() <= parameters.keys() or not parameters)
        if given and not (found and _tells_of(tool.name, found[0], made)):
            return f"{name}{{…}}"
    return None


def _is_code_call(text: str, match: re.Match[str], tool: ToolSpec, inside: str, *, closed: bool) -> bool:
    """Whether ``name(`` is a call, by what is ``inside`` the parentheses, as far as they are ``closed`` nearby."""
    keyword = re.match(r"(\w+)\s*=", inside)
    if match[2]:
        # A parenthesis after a space is one of prose unless it holds arguments.
        return bool(keyword and keyword[1] in parameters_of(tool)) or inside.startswith("{")
    if not inside:
        return _is_bare(tool) or not closed or _stands_alone(text, match)
    if inside in _ENDINGS:
        return False
    parts = [_SIGNATURE.fullmatch(part.strip()) for part in inside.split(",")]
    return not all(part and part[1] in {*parameters_of(tool), "self"} for part in parts)


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether nothing but a call ``name()`` stands on its line."""
    before = text[max(match.start() - 80, 0) : match.start()].rpartition("\n")[2]
    around = before + text[match.end() : match.end() + 80].partition("\n")[0]
    return not around.strip(" \t\r`*_[]>-;.)=\"'")


def _in_tags(text: str, names: str, offered: Mapping[str, ToolSpec], made: Sequence[ToolCall]) -> str | None:
    """``<tool>name</tool><arguments>…``, ``<name><argument>…`` or ``<name argument="…">``: calls of editors' agents."""
    named = re.search(rf"<({_TAGS})>\s{{0,20}}{_PREFIX}({names})\s{{0,20}}</\1>\s{{0,20}}<(?:{_ARGUMENTS})[\s>]", text)
    if named and named[2] not in {call.name for call in made}:
        return f"the tag <{named[1]}> with {named[2]}"
    for match in re.finditer(rf"<({names})(?=[\s/>])", text):
        if _tag_arguments(offered[match[1]]).match(text, match.end(), match.end() + _NEAR):
            return f"the tag <{match[1]}>"
    return None


def _tag_arguments(tool: ToolSpec) -> re.Pattern[str]:
    """What stands behind a tool's tag where that is a call: an argument as attribute or as tag, or the end."""
    parameters = "|".join(map(re.escape, parameters_of(tool))) or "(?!)"
    bare = rf"|\s*/>|\s*>\s*</{re.escape(tool.name)}>" if _is_bare(tool) else ""
    return re.compile(rf"[^<>]*?\s(?:{parameters})\s*=|\s*>\s*<(?:{parameters})\s*>{bare}")


def _in_lines(text: str, names: str, *, any_tool: bool) -> str | None:
    """``Action: name``, or ``Tool: name`` with arguments on a later line; any ``Action:`` with ``Action Input:``."""
    lines = [(match[1].lower().replace("_", " "), match.end()) for match in _LINE.finditer(text)]
    inputs = {word: end for word, end in lines if word in _INPUT_LINES}
    last_input = max(inputs.values(), default=0)
    named = re.compile(rf"{_GAP}{_PREFIX}({names or '(?!)'}){_GAP}[.;]?[ \t]{{0,20}}(?:\n|\Z)")
    for word, end in lines:
        if word in _CALL_LINES and (match := named.match(text, end)) and (word == "action" or last_input > end):
            return f"the line {word.capitalize()}: {match[1]}"
    both = any_tool and "action input" in inputs and any(word == "action" for word, _ in lines)
    return "the lines Action: and Action Input:" if both else None


# --- marks of families --------------------------------------------------------------------------------------------
# Sources: the chat templates that TRL 1.16 ships, and the tool parsers of vLLM and SGLang, which name the marks of the
# models that they serve. ``_NAMED`` also finds families that stand in no list: a tag that says call and tool.

MARKERS: tuple[str, ...] = (
    *("<calls>", "</calls>"),  # the text format of ``native``
    *("<function=", "</function>"),  # Qwen3-Coder, Qwen3.5, Nemotron 3, Llama 3.1's custom tools
    *("<function_calls>", "</function_calls>"),  # Anthropic's text format, OLMo 3, MiniMax M1
    *("<arg_key>", "</arg_key>"),  # GLM-4.5
    *("<|python_tag|>", "<|python_start|>"),  # Llama 3.1 and 3.2, Llama 4
    "[TOOL_CALLS]",  # Mistral
    *("<|START_ACTION|>", "<|END_ACTION|>"),  # Command A, R7B
    *("<|action_start|>", "<|action_end|>", "<|plugin|>"),  # InternLM
    "functools[",  # Phi-4-mini, Firefunction
    "function call<|role_sep|>",  # GigaChat 3
    *("<|open|>call", "<|open|>tools"),  # Kimi K3
    "[unused11]",  # Pangu
    "-> tool/function_call",  # HyperCLOVA X
    *("<|call|>", "<|constrain|>"),  # gpt-oss
    *("<use_mcp_tool>", "</use_mcp_tool>"),
    *("✿FUNCTION✿", "✿ARGS✿"),  # Qwen-Agent
    *("<TOOLCALL>", "</TOOLCALL>"),  # Nemotron Nano
    *("<functioncall>", "</functioncall>"),  # Glaive
    "<|tools_prefix|>",  # Apertus
    "<tool_input>",  # LangChain's XML agents
    "<steptml:",
    *("```tool_code", "```tool_call"),  # Gemma
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


# --- thoughts: a call that is only thought of is none -------------------------------------------------------------

# Opening and closing marks by family. A closing mark alone ends a thought that the prompt opened.
PAIRS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("◁think▷", "◁/think▷"),
)
# Marks that close more than thoughts end none that was not opened.
_SHARED = frozenset({"<|end|>"})
_CLOSE_OF = dict(PAIRS)
_MARK = re.compile("(?=[<\\[◁])(?:" + "|".join(re.escape(mark) for pair in PAIRS for mark in pair) + ")")


def find_thoughts(text: str) -> Iterator[tuple[int, int]]:
    """Where a text thinks, marks included, in one pass.

    A closing mark before any opening one ends a thought that began with the text. A thought that never ends is none, as
    nothing says where it would have.
    """
    closing: str | None = None
    begin = 0
    opened = False
    for mark in _MARK.finditer(text):
        word = mark[0]
        if closing is not None:
            if word == closing:
                yield begin, mark.end()
                closing = None
        elif word in _CLOSE_OF:
            closing, begin, opened = _CLOSE_OF[word], mark.start(), True
        elif not opened and word not in _SHARED:
            yield 0, mark.end()
            opened = True


def without_thoughts(text: str, blank: str = "") -> str:
    """The text without its thoughts; with a ``blank`` for each of their characters, all others keep their places."""
    parts, start = [], 0
    for begin, end in find_thoughts(text):
        parts += [text[start:begin], blank * (end - begin)]
        start = end
    return "".join([*parts, text[start:]])
