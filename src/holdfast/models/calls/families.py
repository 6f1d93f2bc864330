"""The families of models by how they write calls, each with its marks and its reader.

    reply ─ thoughts aside ─▶ the family's first mark ─▶ its reader ─▶ calls, or None: then the reply is incoherent

Sources: the original chat templates that TRL 1.16 ships, and for the rest the tool parsers of vLLM and SGLang. A reader
starts at the first mark and takes what the family's own template writes, and nothing that is merely like it; text after
the calls is no part of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.models.calls.literals import GEMMA, PYTHON, Style, Unreadable, read_arguments
from holdfast.models.calls.values import argument_types, decode, make_call, read_call, skip_blanks, type_value
from holdfast.records import ToolCall, ToolSpec

Found = tuple[list[ToolCall], int]
"""Calls, and where they end."""

Reader = Callable[[str, int, Sequence[ToolSpec]], Found | None]
"""Reads the calls that begin somewhere in a text; None where they cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to write calls.

    ``marks`` begin them; one without marks, or with ``alone``, writes nothing beside them. ``stops`` are texts at which
    a reply ends. ``channels`` says that replies carry headers (``calls.channels``): the reader is given each call's
    own text and name.
    """

    name: str
    marks: tuple[str, ...]
    read: Reader
    stops: tuple[str, ...] = ()
    alone: bool = False
    channels: bool = False


def _repeated(read_one: Callable[[str, int, Sequence[ToolSpec]], tuple[ToolCall, int] | None], mark: str) -> Reader:
    """A reader of one call after the other, each with a mark of its own."""

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
        calls: list[ToolCall] = []
        end = at
        while text.startswith(mark, at):
            one = read_one(text, at + len(mark), tools)
            if one is None:
                return None
            calls.append(one[0])
            end = one[1]
            at = skip_blanks(text, end)
        return (calls, end) if calls else None

    return read


# --- JSON --------------------------------------------------------------------------------------------------------


def _json_block(open_: str, close: str, keys: Sequence[str] = ("arguments",)) -> Reader:
    """``<tool_call>{"name": …, "arguments": …}</tool_call>``, one call in each block."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        found = decode(text, at)
        call = read_call(found[0], keys) if found else None
        end = _expect(text, found[1], close) if found else None
        return (call, end) if call and end is not None else None

    return _repeated(read_one, open_)


def _json_list(
    open_: str, close: str = "", keys: Sequence[str] = ("arguments",), name: str = "name", *, may_end: bool = False
) -> Reader:
    """One mark, a JSON list of calls and the mark that closes it, which ``may_end`` lets be missing."""

    def read(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found | None:
        found = decode(text, at + len(open_))
        if not found or not isinstance(found[0], list):
            return None
        calls = [call for one in found[0] if (call := read_call(one, keys, name))]
        end = _expect(text, found[1], close)
        if end is None and may_end and not text[found[1] :].strip():
            end = found[1]
        return (calls, end) if calls and len(calls) == len(found[0]) and end is not None else None

    return read


def _json_lines(open_: str, close: str) -> Reader:
    """One mark, a JSON object a line or a list of them, and the mark that closes it."""
    as_list = _json_list(open_, close)

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
        if listed := as_list(text, at, tools):
            return listed
        at += len(open_)
        calls: list[ToolCall] = []
        while (end := _expect(text, at, close)) is None:
            found = decode(text, at)
            call = read_call(found[0], ("arguments",)) if found else None
            if found is None or call is None:
                return None
            calls.append(call)
            at = found[1]
        return (calls, end) if calls else None

    return read


def _expect(text: str, at: int, mark: str) -> int | None:
    """The end of a mark that stands next, white space aside."""
    at = skip_blanks(text, at)
    return at + len(mark) if text.startswith(mark, at) else None


def _read_llama(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found | None:
    """``{"name": …, "parameters": …}``, several parted by ``;``, as the whole reply."""
    at = _expect(text, at, "<|python_tag|>") or at
    calls: list[ToolCall] = []
    while (at := skip_blanks(text, at, ";")) < len(text):
        found = decode(text, at)
        call = read_call(found[0], ("parameters",)) if found else None
        if found is None or call is None:
            return None
        calls.append(call)
        at = found[1]
    return (calls, at) if calls else None


_MISTRAL = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")


def _read_mistral(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
    """``[TOOL_CALLS][{…}]``, or ``[TOOL_CALLS]name[ARGS]{…}`` for each call; nothing behind."""
    listed = _json_list(_MISTRAL)(text, at, tools)
    if listed is not None:
        return listed if not text[listed[1] :].strip() else None

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        named = _NAMED.match(text, at)
        found = decode(text, named.end()) if named else None
        call = make_call(named[1], found[0]) if named and found else None
        return (call, found[1]) if call and found else None

    found = _repeated(read_one, _MISTRAL)(text, at, tools)
    return found if found and not text[found[1] :].strip() else None


_DEEPSEEK = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([\w.\-]+)\s*```json\s*|([\w.\-]+)<｜tool▁sep｜>)(?=\s*\{)"
)
_DEEPSEEK_END = re.compile(r"\s*(?:```)?\s*<｜tool▁call▁end｜>\s*")


def _read_deepseek(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found | None:
    """The calls of DeepSeek V3 and R1, with a type and a fence, and of V3.1, with neither."""
    at = skip_blanks(text, at + len("<｜tool▁calls▁begin｜>"))
    calls: list[ToolCall] = []
    while (begun := _DEEPSEEK.match(text, at)) is not None:
        found = decode(text, begun.end())
        ended = _DEEPSEEK_END.match(text, found[1]) if found else None
        call = make_call(begun[1] or begun[2], found[0]) if found else None
        if ended is None or call is None:
            return None
        calls.append(call)
        at = ended.end()
    end = _expect(text, at, "<｜tool▁calls▁end｜>")
    return (calls, end) if calls and end is not None else None


_KIMI = re.compile(r"\s*(?:functions\.)?([\w.\-]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>")


def _read_kimi(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
    """``<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`` in a section."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        named = _KIMI.match(text, at)
        found = decode(text, named.end()) if named else None
        end = _expect(text, found[1], "<|tool_call_end|>") if found else None
        call = make_call(named[1], found[0]) if named and found else None
        return (call, end) if call and end is not None else None

    at = skip_blanks(text, at + len("<|tool_calls_section_begin|>"))
    found = _repeated(read_one, "<|tool_call_begin|>")(text, at, tools)
    end = _expect(text, found[1], "<|tool_calls_section_end|>") if found else None
    return (found[0], end) if found and end is not None else None


# --- tags --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tags:
    """How a call is written in tags: what opens it with its name, an argument with its key, and what closes them.

    ``lines`` says that values stand on lines of their own.
    """

    opens: re.Pattern[str]
    key: re.Pattern[str]
    key_closes: str
    closes: str
    lines: bool = False


def _read_tags(
    tags: _Tags, text: str, at: int, tools: Sequence[ToolSpec], ends: str = ""
) -> tuple[ToolCall, int] | None:
    """A call in tags; values take their types from the tool's schema, unless a tag says ``string=``."""
    opened = tags.opens.match(text, at)
    if opened is None:
        return None
    name = opened[1].strip()
    types = argument_types(tools, name)
    arguments: dict[str, object] = {}
    at = skip_blanks(text, opened.end())
    while (keyed := tags.key.match(text, at)) is not None:
        key, told = keyed["key"], keyed.groupdict().get("string")
        end = text.find(tags.key_closes, keyed.end())
        if end < 0 or key in arguments:
            return None
        value = text[keyed.end() : end]
        if tags.lines:
            value = value.removeprefix("\n").removesuffix("\n")
        kinds = types.get(key, ()) if told is None else ("string",)
        if told == "false":
            found = decode(value)
            if found is None or value[found[1] :].strip():
                return None
            arguments[key] = found[0]
        else:
            arguments[key] = type_value(value, kinds)
        at = skip_blanks(text, end + len(tags.key_closes))
    closed = _expect(text, at, tags.closes)
    closed = _expect(text, closed, ends) if closed is not None and ends else closed
    call = make_call(name, arguments)
    return (call, closed) if call and closed is not None else None


_FUNCTION = _Tags(  # Qwen3-Coder, Qwen3.5, Nemotron 3, Seed-OSS
    opens=re.compile(r"\s*<function=([^\n<>]+)>"),
    key=re.compile(r"<parameter=(?P<key>[^\n<>]+)>"),
    key_closes="</parameter>",
    closes="</function>",
    lines=True,
)
_GLM = _Tags(
    opens=re.compile(r"\s*([^\s<>{}\[\]\"']+)(?=\s*(?:<arg_key>|</tool_call>))"),
    key=re.compile(r"<arg_key>(?P<key>[^<>]+)</arg_key>\s*<arg_value>"),
    key_closes="</arg_value>",
    closes="</tool_call>",
)


def _invoke(prefix: str) -> _Tags:
    """``<invoke name="…"><parameter name="…">…</parameter></invoke>``, with whatever stands before the words."""
    mark = re.escape(prefix)
    return _Tags(
        opens=re.compile(rf'<{mark}invoke\s+name="([^"<>]+)">'),
        key=re.compile(rf'<{mark}parameter\s+name="(?P<key>[^"<>]+)"(?:\s+string="(?P<string>true|false)")?\s*>'),
        key_closes=f"</{prefix}parameter>",
        closes=f"</{prefix}invoke>",
    )


def _tagged(open_: str, close: str, tags: _Tags) -> Reader:
    """One call in tags between each pair of marks."""
    return _repeated(lambda text, at, tools: _read_tags(tags, text, at, tools, close), open_)


def _invoked(open_: str, close: str, prefix: str = "") -> Reader:
    """Any number of ``<invoke>`` between one pair of marks."""
    tags = _invoke(prefix)

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
        at = skip_blanks(text, at + len(open_))
        calls: list[ToolCall] = []
        while (one := _read_tags(tags, text, at, tools)) is not None:
            calls.append(one[0])
            at = skip_blanks(text, one[1])
        end = _expect(text, at, close)
        return (calls, end) if calls and end is not None else None

    return read


# --- as programs write them --------------------------------------------------------------------------------------

_FUNCTION_NAME = re.compile(r"\s*([^\W\d][\w.\-]*)\(")
_GEMMA_NAME = re.compile(r"\s*call:\s*([\w.\-]+)\s*\{")


def _python_list(open_: str, close: str) -> Reader:
    """``[name(key='value', …), …]`` between marks."""

    def read(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found | None:
        begun = _expect(text, at + len(open_), "[")
        calls: list[ToolCall] = []
        while begun is not None:
            one = _read_program(text, begun, _FUNCTION_NAME, PYTHON, ends=")", equals="=")
            if one is None:
                return None
            calls.append(one[0])
            if (ended := _expect(text, one[1], "]")) is not None:
                end = _expect(text, ended, close)
                return (calls, end) if end is not None else None
            begun = _expect(text, one[1], ",")
        return None

    return read


def _read_llama_4(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
    """``[name(key='value')]`` as the whole reply, between ``<|python_start|>`` and ``<|python_end|>`` or not."""
    begun = _expect(text, at, "<|python_start|>")
    found = _python_list("", "")(text, at if begun is None else begun, tools)
    end = _expect(text, found[1], "<|python_end|>") if found and begun is not None else None
    return (found[0], end) if found and end is not None else found


def _read_program(
    text: str, at: int, opens: re.Pattern[str], style: Style, *, ends: str, equals: str
) -> tuple[ToolCall, int] | None:
    named = opens.match(text, at)
    if named is None:
        return None
    try:
        arguments, end = read_arguments(text, named.end(), style, ends=ends, equals=equals)
    except Unreadable:
        return None
    call = make_call(named[1], arguments)
    return (call, end) if call else None


def _gemma(open_: str, close: str) -> Reader:
    """``call:name{key:<|"|>text<|"|>,other:1}`` between each pair of marks."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        one = _read_program(text, at, _GEMMA_NAME, GEMMA, ends="}", equals=":")
        end = _expect(text, one[1], close) if one else None
        return (one[0], end) if one and end is not None else None

    return _repeated(read_one, open_)


# --- in channels -------------------------------------------------------------------------------------------------


def _read_harmony(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found | None:
    """The arguments that a message to ``functions.NAME`` is."""
    found = decode(text, at)
    if found is None or text[found[1] :].strip():
        return None
    call = make_call("unnamed", found[0])
    return ([call], len(text)) if call else None


_read_atem = _invoked("<atem:function_calls>", "</atem:function_calls>", "atem:")


# --- the table ---------------------------------------------------------------------------------------------------

FAMILIES: tuple[Family, ...] = (
    Family(
        name="hermes",
        marks=("<tool_call>",),
        read=_json_block("<tool_call>", "</tool_call>"),
        stops=("<tool_response>",),
    ),
    Family(
        name="qwen3-coder",
        marks=("<tool_call>",),
        read=_tagged("<tool_call>", "</tool_call>", _FUNCTION),
        stops=("<tool_response>",),
    ),
    Family(name="glm", marks=("<tool_call>",), read=_tagged("<tool_call>", "", _GLM), stops=("<tool_response>",)),
    Family(name="gpt-oss", marks=(), read=_read_harmony, stops=("<|call|>",), channels=True),
    Family(name="muse", marks=(), read=_read_atem, alone=True, channels=True),
    Family(
        name="gemma-4",
        marks=("<|tool_call>",),
        read=_gemma("<|tool_call>", "<tool_call|>"),
        stops=("<|tool_response>",),
    ),
    Family(
        name="functiongemma",
        marks=("<start_function_call>",),
        read=_gemma("<start_function_call>", "<end_function_call>"),
        stops=("<start_function_response>",),
    ),
    Family(name="lfm2", marks=("<|tool_call_start|>",), read=_python_list("<|tool_call_start|>", "<|tool_call_end|>")),
    Family(name="deepseek", marks=("<｜tool▁calls▁begin｜>",), read=_read_deepseek),
    Family(
        name="deepseek-3.2",
        marks=("<｜DSML｜function_calls>",),
        read=_invoked("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", "｜DSML｜"),
    ),
    Family(name="kimi", marks=("<|tool_calls_section_begin|>",), read=_read_kimi),
    Family(name="mistral", marks=(_MISTRAL,), read=_read_mistral, stops=("[TOOL_RESULTS]",)),
    Family(
        name="cohere",
        marks=("<|START_ACTION|>",),
        read=_json_list("<|START_ACTION|>", "<|END_ACTION|>", ("parameters",), "tool_name"),
    ),
    Family(name="phi-4", marks=("<|tool_call|>",), read=_json_list("<|tool_call|>", "<|/tool_call|>")),
    Family(name="granite", marks=("<|tool_call|>",), read=_json_list("<|tool_call|>", "", may_end=True)),
    Family(
        name="minimax",
        marks=("<minimax:tool_call>",),
        read=_invoked("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    Family(name="anthropic", marks=("<function_calls>",), read=_invoked("<function_calls>", "</function_calls>")),
    Family(name="seed", marks=("<seed:tool_call>",), read=_tagged("<seed:tool_call>", "</seed:tool_call>", _FUNCTION)),
    Family(name="hunyuan", marks=("<tool_calls>",), read=_json_lines("<tool_calls>", "</tool_calls>")),
    Family(name="nemotron", marks=("<TOOLCALL>",), read=_json_list("<TOOLCALL>", "</TOOLCALL>")),
    Family(
        name="longcat",
        marks=("<longcat_tool_call>",),
        read=_json_block("<longcat_tool_call>", "</longcat_tool_call>"),
    ),
    Family(
        name="internlm",
        marks=("<|action_start|><|plugin|>",),
        read=_json_block("<|action_start|><|plugin|>", "<|action_end|>", ("parameters", "arguments")),
    ),
    Family(name="llama", marks=(), read=_read_llama, alone=True),
    Family(name="llama-pythonic", marks=(), read=_read_llama_4, alone=True),
)
"""Every family that can be read. Where two share their marks, at most one of them reads what stands behind."""
