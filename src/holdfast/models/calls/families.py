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
from holdfast.models.calls.values import argument_types, decode, make_call, read_call, skip_blanks, type_value
from holdfast.records import ToolCall, ToolSpec

Found = tuple[list[ToolCall], int]
"""Calls, and where they end."""

Reader = Callable[[str, int, Sequence[ToolSpec]], Found | None]
"""Reads the calls that begin somewhere in a text; None where they cannot be read."""

ReadOne = Callable[[str, int, Sequence[ToolSpec]], tuple[ToolCall, int] | None]
"""Reads the one call that begins somewhere, and where it ends."""


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

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
        calls: list[ToolCall] = []
        end = at
        while text.startswith(open_, at):
            if (one := read_one(text, at + len(open_), tools)) is None:
                return None
            calls.append(one[0])
            end = one[1]
            at = skip_blanks(text, end)
        return (calls, end) if calls else None

    return read


def _section(open_: str, close: str, read_one: ReadOne) -> Reader:
    """A reader of any number of calls between one pair of marks."""

    def read(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
        calls: list[ToolCall] = []
        at = skip_blanks(text, at + len(open_))
        while (end := _expect(text, at, close)) is None:
            if (one := read_one(text, at, tools)) is None:
                return None
            calls.append(one[0])
            at = skip_blanks(text, one[1])
        return (calls, end) if calls else None

    return read


def _expect(text: str, at: int, mark: str) -> int | None:
    """The end of a mark that stands next, white space aside."""
    at = skip_blanks(text, at)
    return at + len(mark) if text.startswith(mark, at) else None


# --- JSON --------------------------------------------------------------------------------------------------------


def _json(close: str = "", keys: Sequence[str] = ("arguments",)) -> ReadOne:
    """``{"name": …, "arguments": …}`` and a mark behind."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        found = decode(text, at)
        call = read_call(found[0], keys) if found else None
        end = _expect(text, found[1], close) if found else None
        return (call, end) if call and end is not None else None

    return read_one


def _json_block(open_: str, close: str, keys: Sequence[str] = ("arguments",)) -> Reader:
    """``<tool_call>{"name": …, "arguments": …}</tool_call>``, one call in each block."""
    return _repeated(open_, _json(close, keys))


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
    as_list, as_lines = _json_list(open_, close), _section(open_, close, read_json_call)
    return lambda text, at, tools: as_list(text, at, tools) or as_lines(text, at, tools)


def read_to_end(
    read_one: ReadOne, text: str, at: int, tools: Sequence[ToolSpec], between: str = ""
) -> list[ToolCall] | None:
    """The calls that the rest of a text consists of, one after the other; None for anything else."""
    calls: list[ToolCall] = []
    while (at := skip_blanks(text, at, between)) < len(text):
        if (one := read_one(text, at, tools)) is None:
            return None
        calls.append(one[0])
        at = one[1]
    return calls


read_json_call = _json()
_llama_call = _json(keys=("parameters",))


def _read_llama(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
    """``{"name": …, "parameters": …}``, several parted by ``;``, as the whole reply."""
    calls = read_to_end(_llama_call, text, _expect(text, at, "<|python_tag|>") or at, tools, ";")
    return (calls, len(text)) if calls else None


def _named(opens: str, closes: str = "") -> ReadOne:
    """A call whose name stands before the JSON of its arguments: patterns of what is around both."""
    opening, closing = re.compile(opens), re.compile(closes)

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        named = opening.match(text, at)
        found = decode(text, named.end()) if named else None
        ended = closing.match(text, found[1]) if found else None
        call = make_call(next(filter(None, named.groups())), found[0]) if named and found else None
        return (call, ended.end()) if call and ended else None

    return read_one


_MISTRAL = "[TOOL_CALLS]"
_mistral_list = _json_list(_MISTRAL)
_mistral_calls = _repeated(_MISTRAL, _named(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)"))


def _read_mistral(text: str, at: int, tools: Sequence[ToolSpec]) -> Found | None:
    """``[TOOL_CALLS][{…}]``, or ``[TOOL_CALLS]name[ARGS]{…}`` for each call; nothing behind."""
    found = _mistral_list(text, at, tools) or _mistral_calls(text, at, tools)
    return found if found and not text[found[1] :].strip() else None


# The calls of DeepSeek V3 and R1, with a type and a fence, and of V3.1, with neither.
_read_deepseek = _section(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    _named(
        r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([\w.\-]+)\s*```json\s*|([\w.\-]+)<｜tool▁sep｜>)(?=\s*\{)",
        r"\s*(?:```)?\s*<｜tool▁call▁end｜>\s*",
    ),
)
# <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|> in a section.
_read_kimi = _section(
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    _named(
        r"<\|tool_call_begin\|>\s*(?:functions\.)?([\w.\-]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>",
        r"[ \t\r\n]*<\|tool_call_end\|>",
    ),
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
        arguments[key] = type_value(value, types.get(key, ()) if told is None else ("string",))
        if told == "false":
            found = decode(value)
            if found is None or value[found[1] :].strip():
                return None
            arguments[key] = found[0]
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
    return _repeated(open_, lambda text, at, tools: _read_tags(tags, text, at, tools, close))


def _invoked(open_: str, close: str, prefix: str = "") -> Reader:
    """Any number of ``<invoke>`` between one pair of marks."""
    tags = _invoke(prefix)
    return _section(open_, close, lambda text, at, tools: _read_tags(tags, text, at, tools))


# --- as programs write them --------------------------------------------------------------------------------------

_FUNCTION_NAME = re.compile(r"\s*([^\W\d][\w.\-]*)\(")
_GEMMA_NAME = re.compile(r"\s*call:\s*([\w.\-]+)\s*\{")


def _python_list(open_: str, close: str) -> Reader:
    """``[name(key='value', …), …]`` between marks."""

    def read(text: str, at: int, _tools: Sequence[ToolSpec]) -> Found | None:
        begun = _expect(text, at + len(open_), "[")
        calls: list[ToolCall] = []
        while begun is not None:
            one = _read_program(text, begun, _FUNCTION_NAME, values.PYTHON, ends=")", equals="=")
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
    text: str, at: int, opens: re.Pattern[str], quotes: values.Quotes, *, ends: str, equals: str
) -> tuple[ToolCall, int] | None:
    named = opens.match(text, at)
    if named is None:
        return None
    try:
        arguments, end = values.read_arguments(text, named.end(), quotes, ends=ends, equals=equals)
    except values.Unreadable:
        return None
    call = make_call(named[1], arguments)
    return (call, end) if call else None


def _gemma(open_: str, close: str) -> Reader:
    """``call:name{key:<|"|>text<|"|>,other:1}`` between each pair of marks."""

    def read_one(text: str, at: int, _tools: Sequence[ToolSpec]) -> tuple[ToolCall, int] | None:
        one = _read_program(text, at, _GEMMA_NAME, values.GEMMA, ends="}", equals=":")
        end = _expect(text, one[1], close) if one else None
        return (one[0], end) if one and end is not None else None

    return _repeated(open_, read_one)


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
    Family(name="deepseek", marks=("<｜tool▁calls▁begin｜>",), read=_read_deepseek),
    _marked("deepseek-3.2", _invoked, f"<{_DSML}function_calls>", f"</{_DSML}function_calls>", _DSML),
    Family(name="kimi", marks=("<|tool_calls_section_begin|>",), read=_read_kimi),
    Family(name="mistral", marks=(_MISTRAL,), read=_read_mistral, stops=("[TOOL_RESULTS]",)),
    _marked("cohere", _json_list, "<|START_ACTION|>", "<|END_ACTION|>", ("parameters",), "tool_name"),
    _marked("phi-4", _json_list, _PHI, "<|/tool_call|>"),
    Family(name="granite", marks=(_PHI,), read=_json_list(_PHI, may_end=True)),
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
