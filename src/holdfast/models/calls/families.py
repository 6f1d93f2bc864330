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

from holdfast.models.calls import values
from holdfast.models.calls.values import (
    Unreadable,
    argument_types,
    decode,
    decode_whole,
    expect,
    make_call,
    read_call,
    skip_blanks,
    type_value,
)
from holdfast.records import ToolCall, ToolSpec

Found = tuple[list[ToolCall], int]
"""Calls, and where they end."""

Reader = Callable[[str, int, Sequence[ToolSpec]], Found]
"""Reads the calls that begin somewhere in a text, or none of them. Errors: Unreadable."""

ReadOne = Callable[[str, int, Sequence[ToolSpec]], tuple[ToolCall, int]]
"""Reads the one call that begins somewhere, and where it ends. Errors: Unreadable."""


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


def _repeated(open_: str, read_one: ReadOne) -> Reader:
    """A reader of one call after the other, each with a mark of its own."""

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found:
        calls: list[ToolCall] = []
        end = at
        while text.startswith(open_, at):
            call, end = read_one(text, at + len(open_), tools)
            calls.append(call)
            at = skip_blanks(text, end)
        return calls, end

    return read


def _section(open_: str, close: str, read_one: ReadOne) -> Reader:
    """A reader of any number of calls between one pair of marks."""

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found:
        calls: list[ToolCall] = []
        at = skip_blanks(text, at + len(open_))
        while not text.startswith(close, at):
            call, at = read_one(text, at, tools)
            calls.append(call)
            at = skip_blanks(text, at)
        return calls, at + len(close)

    return read


def _either(first: Reader, second: Reader) -> Reader:
    """A reader of what one of two can read."""

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found:
        try:
            return first(text, at, tools)
        except Unreadable:
            return second(text, at, tools)

    return read


def _past(text: str, at: int, mark: str) -> int:
    """The end of a mark that may stand next, white space aside; where it does not, the same place."""
    begin = skip_blanks(text, at)
    return begin + len(mark) if text.startswith(mark, begin) else at


def _match(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str]:
    if (match := pattern.match(text, at)) is None:
        raise Unreadable(f"no {pattern.pattern}")
    return match


# --- JSON --------------------------------------------------------------------------------------------------------


def _json(close: str = "", keys: Sequence[str] = ("arguments",)) -> ReadOne:
    """``{"name": …, "arguments": …}`` and a mark behind."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int]:
        value, end = decode(text, at)
        return read_call(value, keys), expect(text, end, close)

    return read_one


def _json_block(open_: str, close: str, keys: Sequence[str] = ("arguments",)) -> Reader:
    """``<tool_call>{"name": …, "arguments": …}</tool_call>``, one call in each block."""
    return _repeated(open_, _json(close, keys))


def _json_list(open_: str, close: str, keys: Sequence[str] = ("arguments",), name: str = "name") -> Reader:
    """One mark, a JSON list of calls and the mark that closes it."""

    def read(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found:
        listed, end = decode(text, at + len(open_))
        if not isinstance(listed, list):
            raise Unreadable("no list")
        return [read_call(value, keys, name) for value in listed], expect(text, end, close)

    return read


def _json_lines(open_: str, close: str) -> Reader:
    """One mark, a JSON object a line or a list of them, and the mark that closes it."""
    return _either(_json_list(open_, close), _section(open_, close, read_json_call))


def read_to_end(read_one: ReadOne, text: str, at: int, tools: Sequence[ToolSpec], between: str = "") -> list[ToolCall]:
    """The calls that the rest of a text consists of, one after the other. Errors: Unreadable for anything else."""
    calls: list[ToolCall] = []
    while (at := skip_blanks(text, at, between)) < len(text):
        call, at = read_one(text, at, tools)
        calls.append(call)
    return calls


read_json_call = _json()
_llama_call = _json(keys=("parameters",))


def _read_llama(text: str, at: int, tools: Sequence[ToolSpec]) -> Found:
    """``{"name": …, "parameters": …}``, several parted by ``;``, as the whole reply."""
    return read_to_end(_llama_call, text, _past(text, at, "<|python_tag|>"), tools, ";"), len(text)


def _named(opens: str, closes: str = "") -> ReadOne:
    """A call whose name stands before the JSON of its arguments: patterns of what is around both."""
    opening, closing = re.compile(opens), re.compile(closes)

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int]:
        named = _match(opening, text, at)
        arguments, end = decode(text, named.end())
        call = make_call(next(filter(None, named.groups())), arguments)
        return call, _match(closing, text, end).end()

    return read_one


_MISTRAL = "[TOOL_CALLS]"
_mistral_calls = _either(
    _json_list(_MISTRAL, ""),
    _repeated(_MISTRAL, _named(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")),
)


def _read_mistral(text: str, at: int, tools: Sequence[ToolSpec]) -> Found:
    """``[TOOL_CALLS][{…}]``, or ``[TOOL_CALLS]name[ARGS]{…}`` for each call; nothing behind."""
    calls, end = _mistral_calls(text, at, tools)
    if text[end:].strip():
        raise Unreadable("text behind the calls")
    return calls, end


# The calls of DeepSeek V3 and R1, with a type and a fence, and of V3.1, with neither.
_deepseek_call = _named(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([\w.\-]+)\s*```json\s*|([\w.\-]+)<｜tool▁sep｜>)(?=\s*\{)",
    r"\s*(?:```)?\s*<｜tool▁call▁end｜>\s*",
)
# <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|> in a section.
_kimi_call = _named(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?([\w.\-]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>",
    r"[ \t\r\n]*<\|tool_call_end\|>",
)


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


def _read_tags(tags: _Tags, text: str, at: int, tools: Sequence[ToolSpec], ends: str = "") -> tuple[ToolCall, int]:
    """A call in tags; values take their types from the tool's schema, unless a tag says ``string=``."""
    opened = _match(tags.opens, text, at)
    name = opened[1].strip()
    types = argument_types(tools, name)
    arguments: dict[str, object] = {}
    at = skip_blanks(text, opened.end())
    while (keyed := tags.key.match(text, at)) is not None:
        key, is_text = keyed["key"], keyed.groupdict().get("string")
        end = text.find(tags.key_closes, keyed.end())
        if end < 0 or key in arguments:
            raise Unreadable("an argument without an end, or twice")
        value = text[keyed.end() : end]
        if tags.lines:
            value = value.removeprefix("\n").removesuffix("\n")
        if is_text == "false":
            arguments[key] = decode_whole(value)
        else:
            arguments[key] = type_value(value, types.get(key, ()) if is_text is None else ("string",))
        at = skip_blanks(text, end + len(tags.key_closes))
    return make_call(name, arguments), expect(text, expect(text, at, tags.closes), ends)


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


def _tagged(open_: str, close: str, tags: _Tags) -> Reader:
    """One call in tags between each pair of marks."""
    return _repeated(open_, lambda text, at, tools: _read_tags(tags, text, at, tools, close))


def _invoked(open_: str, close: str, prefix: str = "") -> Reader:
    """Any number of ``<invoke name="…"><parameter name="…">…</parameter></invoke>`` between one pair of marks.

    ``prefix`` stands before the words.
    """
    mark = re.escape(prefix)
    tags = _Tags(
        opens=re.compile(rf'<{mark}invoke\s+name="([^"<>]+)">'),
        key=re.compile(rf'<{mark}parameter\s+name="(?P<key>[^"<>]+)"(?:\s+string="(?P<string>true|false)")?\s*>'),
        key_closes=f"</{prefix}parameter>",
        closes=f"</{prefix}invoke>",
    )
    return _section(open_, close, lambda text, at, tools: _read_tags(tags, text, at, tools))


# --- as programs write them --------------------------------------------------------------------------------------

_FUNCTION_NAME = re.compile(r"\s*([^\W\d][\w.\-]*)\(")
_GEMMA_NAME = re.compile(r"\s*call:\s*([\w.\-]+)\s*\{")


def _python_list(open_: str, close: str) -> Reader:
    """``[name(key='value', …), …]`` between marks."""

    def read(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found:
        at = expect(text, at + len(open_), "[")
        calls: list[ToolCall] = []
        while True:
            call, at = _read_program(text, at, _FUNCTION_NAME, values.PYTHON, ends=")", equals="=")
            calls.append(call)
            at = skip_blanks(text, at)
            if text.startswith("]", at):
                return calls, expect(text, at + 1, close)
            at = expect(text, at, ",")

    return read


def _read_llama_4(text: str, at: int, tools: Sequence[ToolSpec]) -> Found:
    """``[name(key='value')]`` as the whole reply, between ``<|python_start|>`` and ``<|python_end|>`` or not."""
    begin = _past(text, at, "<|python_start|>")
    calls, end = _python_list("", "")(text, begin, tools)
    return calls, _past(text, end, "<|python_end|>") if begin > at else end


def _read_program(
    text: str, at: int, opens: re.Pattern[str], quotes: values.Quotes, *, ends: str, equals: str
) -> tuple[ToolCall, int]:
    named = _match(opens, text, at)
    arguments, end = values.read_arguments(text, named.end(), quotes, ends=ends, equals=equals)
    return make_call(named[1], arguments), end


def _gemma(open_: str, close: str) -> Reader:
    """``call:name{key:<|"|>text<|"|>,other:1}`` between each pair of marks."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int]:
        call, end = _read_program(text, at, _GEMMA_NAME, values.GEMMA, ends="}", equals=":")
        return call, expect(text, end, close)

    return _repeated(open_, read_one)


# --- in channels -------------------------------------------------------------------------------------------------


def _read_harmony(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found:
    """The arguments that a message to ``functions.NAME`` is."""
    return [make_call("unnamed", decode_whole(text[at:]))], len(text)


_read_atem = _invoked("<atem:function_calls>", "</atem:function_calls>", "atem:")


# --- the table ---------------------------------------------------------------------------------------------------


def _marked(
    name: str, make: Callable[..., Reader], open_: str, close: str = "", *told: object, stops: Sequence[str] = ()
) -> Family:
    """A family whose calls begin with a mark, by what makes the reader of what stands between the two marks."""
    return Family(name=name, marks=(open_,), read=make(open_, close, *told), stops=tuple(stops))


_TOOL_CALL, _END_TOOL_CALL = "<tool_call>", "</tool_call>"
_RESPONSE, _GEMMA_RESPONSE = ("<tool_response>",), ("<start_function_response>",)
_PHI, _DSML = "<|tool_call|>", "｜DSML｜"

FAMILIES: tuple[Family, ...] = (
    _marked("hermes", _json_block, _TOOL_CALL, _END_TOOL_CALL, stops=_RESPONSE),
    _marked("qwen3-coder", _tagged, _TOOL_CALL, _END_TOOL_CALL, _FUNCTION, stops=_RESPONSE),
    _marked("glm", _tagged, _TOOL_CALL, "", _GLM, stops=_RESPONSE),
    Family(name="gpt-oss", marks=(), read=_read_harmony, stops=("<|call|>",), channels=True),
    Family(name="muse", marks=(), read=_read_atem, alone=True, channels=True),
    _marked("gemma-4", _gemma, "<|tool_call>", "<tool_call|>", stops=("<|tool_response>",)),
    _marked("functiongemma", _gemma, "<start_function_call>", "<end_function_call>", stops=_GEMMA_RESPONSE),
    _marked("lfm2", _python_list, "<|tool_call_start|>", "<|tool_call_end|>"),
    _marked("deepseek", _section, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _deepseek_call),
    _marked("deepseek-3.2", _invoked, f"<{_DSML}function_calls>", f"</{_DSML}function_calls>", _DSML),
    _marked("kimi", _section, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _kimi_call),
    Family(name="mistral", marks=(_MISTRAL,), read=_read_mistral, stops=("[TOOL_RESULTS]",)),
    _marked("cohere", _json_list, "<|START_ACTION|>", "<|END_ACTION|>", ("parameters",), "tool_name"),
    _marked("phi-4", _json_list, _PHI, "<|/tool_call|>"),
    _marked("granite", _json_list, _PHI),
    _marked("minimax", _invoked, "<minimax:tool_call>", "</minimax:tool_call>"),
    _marked("anthropic", _invoked, "<function_calls>", "</function_calls>"),
    _marked("seed", _tagged, "<seed:tool_call>", "</seed:tool_call>", _FUNCTION),
    _marked("hunyuan", _json_lines, "<tool_calls>", "</tool_calls>"),
    _marked("nemotron", _json_list, "<TOOLCALL>", "</TOOLCALL>"),
    _marked("longcat", _json_block, "<longcat_tool_call>", "</longcat_tool_call>"),
    _marked("internlm", _json_block, "<|action_start|><|plugin|>", "<|action_end|>", ("parameters", "arguments")),
    Family(name="llama", marks=(), read=_read_llama, alone=True),
    Family(name="llama-pythonic", marks=(), read=_read_llama_4, alone=True),
)
"""Every family that can be read. Where two share their marks, at most one of them reads what stands behind."""
