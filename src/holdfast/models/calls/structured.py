"""Calls, answers, text and reasoning in structured content, whosever format it is.

    a message ─ read_message_parts ─▶ parts in their order ─ each: text, reasoning, call, answer, data, or unread

Read are the content of OpenAI's Chat Completions (``tool_calls``, ``function_call``, ``custom``) and Responses (items
such as ``function_call`` and ``web_search_call``), Anthropic's blocks (``tool_use``, ``server_tool_use``,
``mcp_tool_use`` and their results), Gemini's parts, Bedrock's Converse, OpenTelemetry's GenAI parts
(``gen-ai-output-messages.json`` of the semantic conventions), the Vercel AI SDK's and LangChain's messages. What is of
no known kind is never dropped: it is ``unread``, and ``suspect`` where it could be a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from holdfast.models.calls.values import Unreadable, decode_whole, keep_arguments
from holdfast.records import ToolCall

Kind = Literal["text", "reasoning", "call", "answer", "data", "unread"]
NAMES = ("name", "toolName", "tool_name", "function_name", "functionName")
ARGUMENTS = ("arguments", "args", "input", "parameters", "params", "kwargs", "arguments_json")
CALL_IDS = ("call_id", "toolCallId", "tool_call_id", "toolUseId", "tool_use_id", "id", "ref")
RESULTS = (
    *("server_tool_call_response", "output", "result", "response", "content", "results", "outputs", "toolResult"),
    *("data", "value"),
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CALLING_WORDS = _words("tool tools function functions call calls action actions computer command commands invocations")
_MOST_NESTED = 20  # lists of parts within parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of a message: text, a thought, a call, a tool's answer, data that is no text, or what nobody read.

    ``type`` is what its source calls it. ``answers`` is the id of the call that an answer belongs to and ``name`` its
    tool. A ``served`` call was carried out by the provider, whether or not its result is told. ``suspect`` says of an
    unread part that it could be a call.
    """

    kind: Kind
    type: str = ""
    text: str = ""
    call: ToolCall | None = None
    answers: str = ""
    name: str = ""
    served: bool = False
    suspect: bool = False


Read = Callable[[Mapping[str, Any], str], list[Part]]
"""Reads the parts that an object of some type is."""


# --- values -------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """The text, its surrogate pairs joined and half ones, which cannot be stored, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_text(value: Any) -> str:
    """A value as text: texts as they are, None as nothing, the rest as JSON."""
    if value is None:
        return ""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def read_arguments(value: Any) -> dict[str, Any]:
    """A call's arguments, an object or JSON text of one, as the store gives them back; else they stand under ``_raw``.

    Text within text is read twice, as some gateways write it.
    """
    arguments = value
    with suppress(Unreadable):
        for _ in range(2):
            if isinstance(arguments, str) and arguments.strip():
                arguments = decode_whole(arguments)
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    return keep_arguments(arguments) if isinstance(arguments, dict) else {"_raw": to_text(value)}


def words_of(name: str) -> frozenset[str]:
    """The words of a name in any case: ``toolCallId`` and ``tool-call_id`` are tool, call, id."""
    return frozenset(re.findall(r"[a-z]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()))


def _first(value: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def answer_text(value: Any) -> str:
    """What a tool answered: text, the text of its parts, or JSON."""
    if isinstance(value, Mapping):
        kind = _kind(value)
        if "value" in value and kind in ("text", "json", "error_text", "error_json", "content", "execution_denied"):
            return answer_text(value["value"])
        if kind in ("text", "output_text", "input_text") and isinstance(value.get("text"), str):
            return clean(value["text"])
        if isinstance(value.get("content"), list) and set(value) <= {"content", "isError", "is_error", "type"}:
            return answer_text(value["content"])
        if set(value) == {"text"} or set(value) == {"json"}:  # Bedrock's
            return to_text(next(iter(value.values())))
    if isinstance(value, list) and value and all(isinstance(one, Mapping | str) for one in value):
        return "\n".join(answer_text(one) for one in value)
    return to_text(value)


# --- readers of one kind ------------------------------------------------------------------------------------------


def _kind(value: Mapping[str, Any]) -> str:
    """The type of a part in small letters with underscores: ``tool-call``, ``toolCall`` and ``ToolCall`` are one."""
    found = value.get("type")
    found = found if isinstance(found, str) else ""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", found).replace("-", "_").replace(".", "_").lower()


def _text(value: Mapping[str, Any], kind: str) -> list[Part]:
    found = _first(value, ("text", "content", "refusal", "value", "output_text"))
    if isinstance(found, Mapping):
        found = _first(found, ("value", "text"))  # OpenAI's Assistants
    if isinstance(found, list):
        return read_parts(found)
    if value.get("thought") is True:
        return [Part(kind="reasoning", type="thought", text=to_text(found))]
    return [Part(kind="text", type=kind, text=to_text(found))]


def _reasoning(value: Mapping[str, Any], kind: str) -> list[Part]:
    keys = ("thinking", "text", "content", "reasoning", "reasoningText", "summary", "reasoningContent", "summary_text")
    found = _first(value, keys)
    if isinstance(found, Mapping):
        return _reasoning(found, kind)
    if isinstance(found, list):
        found = "\n".join(to_text(_first(one, keys) if isinstance(one, Mapping) else one) for one in found)
    return [Part(kind="reasoning", type=kind, text=to_text(found))]


def _data(value: Mapping[str, Any], kind: str) -> list[Part]:
    """What is no text; what was spoken in it is."""
    made = [Part(kind="data", type=kind)]
    inner = [value, *(one for one in value.values() if isinstance(one, Mapping))]
    spoken = next((one["transcript"] for one in inner if isinstance(one.get("transcript"), str)), "")
    return [*made, Part(kind="text", type="transcript", text=clean(spoken))] if spoken else made


def _reference(value: Mapping[str, Any], kind: str) -> list[Part]:
    """An item that lies at the provider alone: by its id a thought, a message, or what could be a call."""
    referred = to_text(value.get("id"))
    suspect = not referred.startswith("msg_")
    return [] if referred.startswith("rs_") else [Part(kind="unread", type=kind, suspect=suspect)]


def make_call(value: Mapping[str, Any], name: str = "", kind: str = "", served: bool = False) -> Part:
    """The call that an object with a name and arguments is, under whichever keys; unread where it has no name."""
    keys = ("function", "custom", "tool_call", "function_call", "functionCall", "toolUse", "toolCall")
    inner = next((value[key] for key in keys if isinstance(value.get(key), Mapping)), value)
    if isinstance(inner.get("function"), Mapping):  # {"tool_call": {"function": …}}
        value, inner = inner, inner["function"]
    found = _first(inner, NAMES) or (value.get("function") if isinstance(value.get("function"), str) else None) or name
    if not isinstance(found, str) or not found:
        return Part(kind="unread", type=kind or "call", suspect=True)
    arguments = _first(inner, ARGUMENTS)
    if isinstance(arguments, str) and ("custom" in kind or isinstance(value.get("custom"), Mapping)):
        arguments = {"input": arguments}  # a custom tool takes any text
    identity = _first(value, CALL_IDS) or _first(inner, CALL_IDS)
    made = ToolCall(name=clean(found), arguments=read_arguments(arguments), id=to_text(identity))
    return Part(kind="call", type=kind, call=made, served=served)


def _call(value: Mapping[str, Any], kind: str) -> list[Part]:
    return [make_call(value, kind=kind)]


def _served(value: Mapping[str, Any], kind: str) -> list[Part]:
    return [make_call(value, kind=kind, served=True)]


def _answer(value: Mapping[str, Any], kind: str) -> list[Part]:
    text = answer_text(_first(value, RESULTS)) or to_text(value.get("error"))
    answers, name = to_text(_first(value, CALL_IDS)), to_text(_first(value, NAMES))
    return [Part(kind="answer", type=kind, text=text, answers=answers, name=name)]


_ITEM_KEYS = frozenset({"type", "id", "call_id", "status", "role", "output", "outputs", "results", "error", "name"})


def _item_call(value: Mapping[str, Any], kind: str) -> list[Part]:
    """An item of OpenAI's Responses that names its tool by its type: ``web_search_call`` and its like.

    Its arguments are what stands in it beside ids and results. A result beside it answers it.
    """
    name = to_text(value.get("name")) or kind.removesuffix("_call")
    arguments = _first(value, ("arguments", "input"))
    if arguments is None:
        rest = {key: one for key, one in value.items() if key not in _ITEM_KEYS and one is not None}
        arguments = rest["action"] if set(rest) == {"action"} and isinstance(rest["action"], Mapping) else rest
    served = kind not in _CARRIED_OUT_BY_CLIENT
    call = make_call({"name": name, "arguments": arguments, "id": _first(value, CALL_IDS)}, kind=kind, served=served)
    result = _first(value, ("output", "outputs", "results", "error"))
    if result is None or call.call is None:
        return [call]
    return [call, Part(kind="answer", type=kind, text=answer_text(result), answers=call.call.id, name=name)]


_CARRIED_OUT_BY_CLIENT = frozenset({"computer_call", "local_shell_call", "shell_call", "apply_patch_call"})


def _server_call(value: Mapping[str, Any], kind: str) -> list[Part]:
    """OpenTelemetry's ``server_tool_call``: the details stand under its own name, with or without ``arguments``."""
    details = value.get("server_tool_call")
    inner = dict(details) if isinstance(details, Mapping) else {}
    named = to_text(_first(value, NAMES) or _first(inner, NAMES) or inner.get("type"))
    rest = {key: one for key, one in inner.items() if key not in ("type", "id", "name")}
    arguments = _first(value, ARGUMENTS) or _first(inner, ARGUMENTS) or rest or details
    identity = _first(value, CALL_IDS) or inner.get("id")
    return [make_call({"name": named, "arguments": arguments, "id": identity}, kind=kind, served=True)]


def _invocation(value: Mapping[str, Any], kind: str) -> list[Part]:
    """The AI SDK's call with its state in one: ``tool-invocation``, ``dynamic-tool``, ``tool-NAME``."""
    inner = value.get("toolInvocation")
    inner = inner if isinstance(inner, Mapping) else value
    named = "" if kind in ("dynamic_tool", "tool_invocation", "") else str(value["type"]).partition("-")[2]
    call = make_call(inner, name=named, kind=kind, served=bool(inner.get("providerExecuted")))
    result = _first(inner, ("result", "output", "errorText"))
    if call.call is None or result is None or inner.get("state") in ("call", "partial-call", "output-denied"):
        return [call]
    return [call, Part(kind="answer", type=kind, text=answer_text(result), answers=call.call.id, name=call.call.name)]


def _code(value: Mapping[str, Any], kind: str) -> list[Part]:
    """Gemini's ``executableCode``, which the provider runs."""
    inner = _first(value, ("executableCode", "executable_code"))
    inner = inner if isinstance(inner, Mapping) else value
    arguments = {key: one for key, one in inner.items() if key in ("language", "code")}
    plain = {"name": "code_execution", "arguments": arguments, "id": inner.get("id")}
    return [make_call(plain, kind=kind, served=True)]


def _unread(value: Mapping[str, Any], kind: str) -> list[Part]:
    """What is of no known kind: its text is kept, and a call that shows its name and arguments too."""
    words = words_of(kind).union(*(words_of(key) for key in value))
    acts = _first(value, NAMES) is not None and _first(value, ARGUMENTS) is not None
    # What wraps a call, under whatever name, could be one too.
    suspect = acts or not CALLING_WORDS.isdisjoint(words) or any(holds_calls(key, one) for key, one in value.items())
    made = [Part(kind="unread", type=kind or "/".join(sorted(value)[:3]), suspect=suspect)]
    if acts:
        return [*made, make_call(value, kind=kind)]
    text = _first(value, ("text", "content"))
    return [*made, Part(kind="text", type=kind, text=clean(text))] if isinstance(text, str) else made


def _table(read: Read, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), read)


_BY_TYPE: dict[str, Read] = {
    **_table(_text, "text input_text output_text refusal plain_text summary_text compaction text_delta"),
    **_table(_reasoning, "thinking redacted_thinking reasoning reasoning_content thought reasoning_text"),
    **_table(_reasoning, "reasoning_summary redacted_reasoning"),
    **_table(_call, "tool_use tool_call function_call function custom custom_tool_call mcp_approval_request"),
    **_table(_served, "server_tool_use mcp_tool_use"),
    **_table(_item_call, "web_search_call file_search_call code_interpreter_call computer_call mcp_call"),
    **_table(_item_call, "local_shell_call shell_call apply_patch_call image_generation_call tool_search_call"),
    **_table(_server_call, "server_tool_call"),
    **_table(_answer, "tool_result tool_call_response function_call_output custom_tool_call_output function_response"),
    **_table(_answer, "computer_call_output local_shell_call_output shell_call_output apply_patch_call_output"),
    **_table(_answer, "mcp_approval_response tool_response function_result tool_call_result server_tool_call_response"),
    **_table(_invocation, "tool_invocation dynamic_tool"),
    **_table(_data, "image image_url input_image output_image audio input_audio output_audio audio_url document file"),
    **_table(_data, "input_file blob uri video video_url input_video inline_data media source source_url data"),
    **_table(_data, "source_document container_upload search_result citation cache_point guard_content image_file"),
    **_table(
        lambda value, kind: [],
        "step_start step_finish start finish mcp_list_tools tool_approval_request reasoning_encrypted",
    ),
    "item_reference": _reference,
}
# Parts that have no type are told by the key that they hold (Gemini's and Bedrock's). What stands under these is read:
_BY_KEY: dict[str, Read] = {
    **_table(_call, "functionCall function_call toolUse tool_call tool_use toolRequest"),  # the last is Genkit's
    **_table(_served, "toolCall"),
    **_table(_answer, "functionResponse function_response toolResult tool_result toolResponse"),
    **_table(_answer, "codeExecutionResult code_execution_result"),
}
# And with these the whole part:
_BY_KEY_OF_WHOLE: dict[str, Read] = {
    **_table(_code, "executableCode executable_code"),
    **_table(_reasoning, "reasoningContent reasoning thinking"),
    **_table(_text, "text refusal"),
    "citationsContent": lambda value, _: _read_inner(_text, value, "citationsContent"),
    **_table(_data, "inlineData inline_data fileData file_data image video document audio cachePoint guardContent"),
    **_table(_data, "image_url searchResult"),
}


def _read_inner(read: Read, value: Mapping[str, Any], key: str) -> list[Part]:
    return read(value[key], key) if isinstance(value[key], Mapping) else _unread(value, key)


def read_part(value: Any, depth: int = 0) -> list[Part]:
    """The parts that one piece of content is; nothing of it is passed over."""
    if value is None:
        return []
    if isinstance(value, str):
        return [Part(kind="text", type="text", text=clean(value))]
    if isinstance(value, list) and depth < _MOST_NESTED:
        return [part for one in value for part in read_part(one, depth + 1)]
    if not isinstance(value, Mapping):
        return [Part(kind="unread", type=type(value).__name__)]
    kind = _kind(value)
    read = _BY_TYPE.get(kind)
    if read is not None:
        return read(value, kind)
    if kind.endswith("_tool_result"):
        return _answer(value, kind)
    if kind.startswith("tool_") and "toolCallId" in value:
        return _invocation(value, kind)
    if not kind:  # else a type says that it is something else
        if (key := next(filter(value.__contains__, _BY_KEY), None)) is not None:
            return _read_inner(_BY_KEY[key], value, key)
        if (key := next(filter(value.__contains__, _BY_KEY_OF_WHOLE), None)) is not None:
            return _BY_KEY_OF_WHOLE[key](value, "")
    return _unread(value, kind)


def read_parts(content: Any) -> list[Part]:
    """The parts of a message's content, in their order; also of one that a log wrote as JSON text."""
    return read_part(_unpack(content))


def _unpack(content: Any) -> Any:
    """The parts that a text is a JSON list of, where all of them are of known kinds and one is said or done.

    Texts in which models themselves write calls (``"type": "function"``) stay texts.
    """
    if not isinstance(content, str) or not content.lstrip().startswith("[") or '"type"' not in content:
        return content
    try:
        listed = decode_whole(content.strip())
    except Unreadable:
        return content
    parts = [one for one in listed if isinstance(one, Mapping) and _kind(one) not in ("function", "custom")]
    reads = [_BY_TYPE.get(_kind(one)) for one in parts]
    told = any(one.get("text") for one in parts) or not set(_ACTING).isdisjoint(reads)
    return listed if told and len(parts) == len(listed) and None not in reads else content


_ACTING = (_call, _served, _answer)


# --- messages -----------------------------------------------------------------------------------------------------

# Keys of an agent's message beside its content that say nothing of calls that it makes, whatever stands in them.
_HARMLESS = _words(
    "role type content parts name id tool_call_id tool_use_id toolCallId call_id tool_name toolName annotations status"
    " finish_reason finishReason stop_reason stopReason usage usage_metadata usageMetadata response_metadata metadata"
    " tool_call_chunks additional_kwargs refusal tool_calls toolCalls function_call invalid_tool_calls toolInvocations"
    " toolResults tool_results audio tool_plan logprobs logprobs_result citations groundingMetadata grounding_metadata"
    " safetyRatings safety_ratings providerMetadata experimental_providerMetadata provider_specific_fields tools"
    " tool_choice toolChoice tool_config toolConfig functions container context_management timings reasoning_details"
    " warnings request response steps prompt input messages"
)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts", "tool_plan")
_CALL_LISTS = ("tool_calls", "toolCalls", "function_call", "toolInvocations", "invalid_tool_calls")


def _listed_calls(value: Any, key: str) -> list[Part]:
    """The calls that stand beside a message's content, as a list, an object, or JSON text of one."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(Unreadable):
            value = decode_whole(value)
    made: list[Part] = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Mapping) and key == "toolInvocations":
            made += _invocation(one, "")
        elif isinstance(one, Mapping):
            made.append(make_call(one, kind="custom" if _kind(one) == "custom" else key))
        else:
            made.append(Part(kind="unread", type=key, suspect=True))
    return made


def _without_known(found: list[Part], known: list[Part]) -> list[Part]:
    """Calls that no other place of the message holds too: LangChain and others write each in two or three places."""
    left = [part.call for part in known if part.call is not None]
    kept = []
    for part in found:
        twin = next((call for call in left if part.call is not None and _is_same(call, part.call)), None)
        if twin is None:
            kept.append(part)
        else:
            left.remove(twin)
    dropped = {part.call.id for part in found if part.call is not None and part not in kept}
    return [part for part in kept if part.kind != "answer" or part.answers not in dropped]


def _is_same(one: ToolCall, other: ToolCall) -> bool:
    same = one.id == other.id if one.id and other.id else one.arguments == other.arguments
    return same and one.name == other.name


def read_message_parts(message: Mapping[str, Any]) -> list[Part]:
    """The parts of an agent's message: its content, then what stands beside it; each call once."""
    made = read_parts(_first(message, ("content", "parts")))
    extra = message.get("additional_kwargs")
    holders = [message, extra] if isinstance(extra, Mapping) else [message]
    for holder in holders:
        for key in _CALL_LISTS:
            if holder.get(key):
                found = _without_known(_listed_calls(holder[key], key), made)
                # The AI SDK's text is what was said when its calls were answered.
                made = [*found, *made] if any(part.kind == "answer" for part in found) else [*made, *found]
    for key in ("toolResults", "tool_results"):
        if isinstance(message.get(key), list):
            for one in message[key]:
                made += _answer(one, key) if isinstance(one, Mapping) else read_part(one)
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        made.append(Part(kind="text", type="refusal", text=clean(message["refusal"])))
    if isinstance(message.get("audio"), Mapping):
        made += _data(message["audio"], "audio")
    thoughts = next((holder[key] for holder in holders for key in _THOUGHTS if holder.get(key)), None)
    if thoughts is not None and not any(part.kind == "reasoning" for part in made):
        made += [replace(part, kind="reasoning") for part in read_parts(thoughts) if part.text]
    for holder in holders:
        for key, value in holder.items():
            if key not in _HARMLESS and holds_calls(key, value):
                made.append(Part(kind="unread", type=key, suspect=True))
    return made


_OFFERS = _words("tools functions tool_choice toolChoice toolConfig available_tools")  # what may be called


def find_names(key: str, value: Any, depth: int = 0) -> Iterator[str]:
    """The names of what is written as a call somewhere in a value that nobody reads; what describes a tool is none."""
    if not isinstance(value, list | dict) or depth > _MOST_NESTED:
        return
    if isinstance(value, list):
        for item in value:
            yield from find_names(key, item, depth + 1)
        return
    name, given = _first(value, NAMES), _first(value, ARGUMENTS)
    schema = "description" in value or (
        isinstance(given, Mapping) and ("properties" in given or given.get("type") == "object")
    )
    calling = not CALLING_WORDS.isdisjoint(words_of(key) | words_of(_kind(value)))
    if isinstance(name, str) and given is not None and not schema and (calling or "arguments" in value):
        yield name
        return
    for inner, item in value.items():
        if inner not in _OFFERS:
            yield from find_names(inner, item, depth + 1)


def holds_calls(key: str, value: Any, depth: int = 0) -> bool:
    """Whether a value of no known meaning could hold calls, by its key, or by the keys and types within it."""
    if not isinstance(value, list | dict) or not value or depth > _MOST_NESTED:
        return False
    if words_of(key) & CALLING_WORDS:
        return True
    if isinstance(value, list):
        return any(holds_calls(key, one, depth + 1) for one in value)
    texts = [words_of(inner) for inner, one in value.items() if isinstance(one, str)]
    given = _first(value, ARGUMENTS) is not None
    return (
        (given and _first(value, NAMES) is not None)
        or any("name" in words and words & CALLING_WORDS for words in texts)  # ``FunctionName``, ``tool_name``
        or (given and any(isinstance(value.get(inner), str) for inner in ("tool", "function")))
        or bool(words_of(_kind(value)) & CALLING_WORDS)
        or any(holds_calls(inner, one, depth + 1) for inner, one in value.items())
    )
