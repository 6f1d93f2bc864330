"""Bodies of requests to models and of their responses, as the APIs of all providers write them.

Chat Completions and Responses (OpenAI, vLLM, LiteLLM, OpenRouter), Messages (Anthropic), ``generateContent`` (Gemini),
Converse (Bedrock), Ollama's and Cohere's chat, LangChain's and the AI SDK's results. Which API it was is told by the
keys that a body has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.exchange.traces.dialogue import Said
from holdfast.exchange.traces.endings import fold_reason, is_told
from holdfast.exchange.traces.messages import merge_replies, perhaps, read_message, read_messages, read_tools
from holdfast.exchange.traces.records import refuse_record
from holdfast.models.calls.structured import clean, holds_calls, read_parts, to_text
from holdfast.records import ToolSpec

MESSAGES = ("messages", "input", "contents", "prompt", "input_messages", "inputs", "conversations")
SYSTEMS = ("system", "instructions", "system_instruction", "systemInstruction", "system_prompt", "preamble")
REASONS = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "finish_reasons")
TOKENS = ("completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount", "candidates_token_count")
STREAMED = ("chunks of a streamed reply", "log the whole reply")
_CHUNKS = frozenset({"delta", "done", "messageStart", "contentBlockStart", "contentBlockDelta", "candidates"})
_INNER = ("config", "generation_config", "generationConfig", "toolConfig", "tool_config", "kwargs", "params")

# Keys of a response that is no reply.
_NO_REPLY = frozenset(
    {"error", "status", "status_code", "id", "model", "usage", "created", "object", "request_id", "incomplete_details"}
    | {"promptFeedback", "usageMetadata", "modelVersion", "headers", "choices", "candidates", "output", "content"}
    | {"type"}
)

Body = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Request:
    """What a model was given."""

    said: list[Said]
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    choices: int | None = None


@dataclass(slots=True, kw_only=True)
class Response:
    """What it replied: ``choices`` are its replies by index, ``reasons`` why each of them ended."""

    choices: list[list[Said]] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    model: str | None = None
    tokens: int | None = None
    failed: bool = False

    @property
    def reason(self) -> str | None:
        """Why the first choice ended."""
        return self.reasons[0] if self.reasons else None


_Reader = Callable[[str, Body, int | None], Response]  # of a body whose place is given, and how many were asked for


def find_messages(body: Any) -> str | None:
    """The key under which a body holds messages, or None where it is no request."""
    if not isinstance(body, Mapping):
        return None
    return next((key for key in MESSAGES if _could_be_messages(key, body.get(key))), None)


def _could_be_messages(key: str, value: Any) -> bool:
    if key == "messages":
        return value is not None
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, Mapping) for one in value) and _looks_spoken(value[0])
    if isinstance(value, Mapping):
        return key == "contents" and "parts" in value
    return isinstance(value, str) and bool(value) and key in ("input", "prompt", "contents")


def _looks_spoken(one: Mapping[str, Any]) -> bool:
    return any(key in one for key in ("role", "parts", "content", "from")) or isinstance(one.get("type"), str)


def read_request(place: str, body: Any) -> Request:
    """What a body of a request, a list of messages or a text says. Errors: BadRecord."""
    body = perhaps(place, body)
    if not isinstance(body, Mapping):
        return Request(said=read_messages(place, body, "user"))
    key = find_messages(body)
    if key is None and _looks_spoken(body):
        return Request(said=read_message(place, body, "user"))
    places = [body, *(body[name] for name in _INNER if isinstance(body.get(name), Mapping))]
    said: list[Said] = []
    if key is not None:
        value = perhaps(place, body[key])
        if key == "messages" and (not isinstance(value, list) or not value):
            refuse_record(place, "messages is no list of messages")
        nested = isinstance(value, Mapping) and "parts" not in value
        said = read_request(place, value).said if nested else read_messages(f"{place}: {key}", value, "user")
    if not any(one.role == "system" for one in said):
        system = first_of(places, SYSTEMS)
        system = system["parts"] if isinstance(system, Mapping) and "parts" in system else system
        text = "\n".join(part.text for part in read_parts(system) if part.kind == "text")
        said = [Said(role="system", text=text), *said] if text else said
    if isinstance(body.get("message"), str) and key is None:  # Cohere's first version
        said = [*said, *read_messages(place, body.get("chat_history"), "user"), Said(role="user", text=body["message"])]
    count = first_of(places, ("n", "candidate_count", "candidateCount"))
    return Request(
        said=said,
        tools=read_tools(first_of(places, ("tools", "functions", "toolSpec"))),
        model=_name(first_of(places, ("model", "modelId", "model_id", "model_name"))),
        choices=count if type(count) is int else None,
    )


def first_of(places: Sequence[Body], keys: Sequence[str]) -> Any:
    """The first value that is there and not empty, by place and then by key."""
    return next((one[key] for one in places for key in keys if one.get(key) not in (None, "", [], {})), None)


def _name(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) and value else None


def read_response(place: str, body: Any, count: int | None = None) -> Response:
    """What a body of a response, messages, items or a text say; ``count`` is how many choices were asked for.

    Errors: BadRecord.
    """
    given, body = body, perhaps(place, body)
    if body is None or body in ("", [], {}):
        return Response()
    if isinstance(body, str) and _is_streamed(body):
        refuse_record(place, *STREAMED)
    if isinstance(body, str) or (isinstance(given, str) and is_answer(body)):
        return Response(choices=[[Said(role="assistant", text=clean(str(given)))]], reasons=[None])
    if isinstance(body, list):
        return choose(place, body, count)
    if not isinstance(body, Mapping):
        refuse_record(place, f"expected a response, found {type(body).__name__}")
    read = next((reader for key, reader in _READERS.items() if body.get(key) not in (None, "", [])), None)
    if read is None and not body.keys() <= _NO_REPLY:
        refuse_record(place, f"a response of no known form, with the keys {', '.join(map(str, list(body)[:5]))}")
    made = Response() if read is None else read(place, body, count)
    usage = next((body[key] for key in ("usage", "usageMetadata", "usage_metadata") if body.get(key)), None)
    if isinstance(usage, Mapping):
        tokens = next((usage[key] for key in TOKENS if type(usage.get(key)) is int), None)
        made.tokens = made.tokens if made.tokens is not None else tokens
    made.model = made.model or _name(first_of([body], ("model", "modelVersion", "model_name")))
    made.failed = made.failed or (bool(body.get("error")) and not made.choices)
    if not is_told(made.reason):
        told = first_of([body], REASONS)
        told = told[0] if isinstance(told, list) and told else told
        if isinstance(told, str):
            made.reasons = [told, *made.reasons[1:]]
    return made


def is_answer(body: Any) -> bool:
    """Whether what a text is JSON of is an answer in JSON, as was asked for, and no response of any API."""
    return isinstance(body, Mapping) and body.keys().isdisjoint(_RESPONSES) and not holds_calls("", body)


def _is_streamed(body: Any) -> bool:
    """Whether a reply was logged as it came, piece by piece: as events, JSON a line, or a list of chunks."""
    if isinstance(body, str):
        line, _, rest = body.lstrip().partition("\n")
        if line.startswith(("data:", "event:")):
            return "{" in body
        body = [perhaps("", line)] if rest.strip() and line.startswith("{") else None
    first = body[0] if isinstance(body, list) and body else None
    if not isinstance(first, Mapping):
        return False
    choices = first.get("choices")
    return (
        (isinstance(choices, list) and bool(choices) and isinstance(choices[0], Mapping) and "delta" in choices[0])
        or not _CHUNKS.isdisjoint(first)
        or first.get("type") in ("message_start", "response.created")
    )


def choose(place: str, messages: list[Any], count: int | None = None) -> Response:
    """Output messages as choices, or as the parts of one reply.

    They are alternatives where they have an index each, where as many were asked for, or where they ended for different
    reasons; calls of any part of one reply count. Errors: BadRecord.
    """
    if _is_streamed(messages):
        refuse_record(place, *STREAMED)
    entries = [entry if isinstance(entry, Mapping) else {} for entry in messages]
    reasons = [first_of([entry], REASONS) for entry in entries]
    indices = [entry.get("index") for entry in entries]
    differ = {fold_reason(reason) for reason in reasons if isinstance(reason, str) and is_told(reason)}
    apart = all(type(index) is int for index in indices) and len(set(indices)) > 1
    several = apart or (count is not None and count > 1) or len(differ) > 1
    groups: dict[int, list[int]] = {}
    for at in range(len(messages)):
        groups.setdefault(int(indices[at] or 0) if apart else at * several, []).append(at)
    made = Response()
    for _, group in sorted(groups.items()):
        said = [message for at in group for message in read_message(f"{place}[{at}]", messages[at], "assistant")]
        made.choices.append(merge_replies(said))
        told = [reason for at in group if isinstance(reason := reasons[at], str)]
        made.reasons.append(told[-1] if told else None)
    return made


def _choices(place: str, body: Body, count: int | None) -> Response:
    """``choices`` of Chat Completions and of the older completions, by their index."""
    choices = body["choices"]
    if not isinstance(choices, list):
        refuse_record(place, "choices is no list")
    replies: list[tuple[int, int, list[Said], str | None]] = []
    for number, one in enumerate(choices):
        where = f"{place}: choices[{number}]"
        message = one.get("message", one.get("text")) if isinstance(one, Mapping) else None
        if not isinstance(message, Mapping | str):
            refuse_record(where, "has no message")
        whole = {"role": "assistant", **message} if isinstance(message, Mapping) else message
        said = merge_replies(read_message(where, whole, "assistant"))
        index, reason = one.get("index"), first_of([one], REASONS)
        index = index if type(index) is int else number
        replies.append((index, number, said, reason if isinstance(reason, str) else None))
    replies.sort(key=lambda one: one[:2])
    return Response(choices=[said for _, _, said, _ in replies], reasons=[reason for *_, reason in replies])


def _candidates(place: str, body: Body, count: int | None) -> Response:
    """Gemini's candidates."""
    entries = []
    for number, one in enumerate(body["candidates"]):
        if isinstance(one, Mapping):
            content = one["content"] if isinstance(one.get("content"), Mapping) else {}
            reason = one.get("finishReason", one.get("finish_reason"))
            entries.append({**content, "index": one.get("index", number), "finish_reason": reason, "role": "model"})
    return choose(f"{place}: candidates", entries, count)


def _output(place: str, body: Body, count: int | None) -> Response:
    """Items of the Responses API, Bedrock's ``output.message``, or whatever else stands there."""
    output = perhaps(place, body["output"])
    if isinstance(output, Mapping) and isinstance(output.get("message"), Mapping):
        return choose(f"{place}: output", [output["message"]], count)
    if not isinstance(output, list):
        return read_response(place, body["output"], count)
    made = choose(f"{place}: output", output)
    details, status = body.get("incomplete_details"), body.get("status")
    if isinstance(details, Mapping) and isinstance(details.get("reason"), str):
        made.reasons = [details["reason"]]
    elif isinstance(status, str) and not is_told(made.reason):
        made.reasons = [status]
    made.failed = status == "failed"
    return made


def _itself(place: str, body: Body, count: int | None) -> Response:
    """A message by itself: Anthropic's, or one that a log kept of a response."""
    return choose(place, [{key: value for key, value in body.items() if (key, value) != ("type", "message")}], count)


def _generations(place: str, body: Body, count: int | None) -> Response:
    """LangChain's results: a list of choices for each prompt."""
    first = body["generations"]
    while isinstance(first, list) and first and isinstance(first[0], list):
        first = first[0]
    entries = []
    for one in first if isinstance(first, list) else [first]:
        if not isinstance(one, Mapping):
            refuse_record(place, "a generation is no object")
        about = one.get("generation_info")
        reason = first_of([about], REASONS) if isinstance(about, Mapping) else None
        message = one.get("message")
        message = message if isinstance(message, Mapping) else {"role": "assistant", "content": one.get("text")}
        entries.append({**({"message": message} if "kwargs" in message else message), "finish_reason": reason})
    return choose(f"{place}: generations", entries, count or len(entries))


def _words(key: str) -> _Reader:
    """Reads a text that stands under a key as what an agent said, with what else it has."""
    return lambda place, body, count: _itself(
        place, {**body, "type": "message", "role": "assistant", "content": to_text(body[key]) or None}, count
    )


_READERS: dict[str, _Reader] = {
    "choices": _choices,
    "candidates": _candidates,
    "output": _output,
    "message": lambda place, body, count: choose(f"{place}: message", [body["message"]], count),
    "generations": _generations,
    # All messages of a run, as agents return them.
    "messages": lambda place, body, _: Response(
        choices=[read_messages(f"{place}: messages", body["messages"])], reasons=[None]
    ),
    **dict.fromkeys(("content", "parts", "role", "kwargs"), _itself),
    **{key: _words(key) for key in ("text", "completion", "output_text", "generated_text", "response")},
    **dict.fromkeys(
        ("tool_calls", "toolCalls", "function_call"),
        lambda place, body, count: choose(place, [{**body, "role": "assistant"}], count),
    ),
}
_RESPONSES = frozenset({*_READERS, *_NO_REPLY})
