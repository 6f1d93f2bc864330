"""What instrumentations write into the attributes of a span: one reader for each way of writing a request to a model.

- OpenTelemetry's GenAI conventions: ``gen_ai.input.messages``, ``gen_ai.output.messages``, or the older events.
- OpenLLMetry: ``gen_ai.prompt.N.*`` and ``gen_ai.completion.N.*`` (opentelemetry-semantic-conventions-ai).
- OpenInference: ``llm.input_messages.N.message.*`` (its spec/semantic_conventions.md and spec/tool_calling.md).
- The Vercel AI SDK: ``ai.prompt.messages``, ``ai.response.text``, ``ai.response.toolCalls`` (ai-sdk.dev, telemetry).
- Pydantic AI and Logfire: ``events``, ``all_messages_events``, ``pydantic_ai.all_messages``, ``request_data``.
- Bodies as JSON under a pair of names: OpenInference's ``input.value``, Langfuse, Google's ADK, MLflow, Traceloop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from holdfast.exchange.traces.bodies import Request, Response, choose, first_of, read_request, read_response
from holdfast.exchange.traces.dialogue import Said
from holdfast.exchange.traces.messages import merge_replies, perhaps, read_message, read_messages, read_role, read_tools
from holdfast.exchange.traces.otlp import Attributes, Event, nest
from holdfast.exchange.traces.records import BadRecord, refuse_record
from holdfast.models.calls.structured import read_parts, to_text
from holdfast.records import ToolSpec

CHOICE = "gen_ai.choice"
EVENT_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CONTENT_EVENTS = {"gen_ai.content.prompt": "gen_ai.prompt", "gen_ai.content.completion": "gen_ai.completion"}
INPUT, OUTPUT, SYSTEM = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"
COUNTS = ("gen_ai.request.choice.count", "gen_ai.request.n", "llm.request.n")

Pair = tuple[Request, Response]


def is_told_event(name: str) -> bool:
    """Whether an event says something of a conversation."""
    return name in EVENT_ROLES or name == CHOICE or name in _CONTENT_EVENTS


def read_pairs(place: str, attributes: Attributes, events: Iterable[Event], *, outer: bool = False) -> list[Pair]:
    """The requests and replies that a span tells: of the ways in which it does, the one that tells most.

    What goes into and comes out of an ``outer`` span, which is none of a model, is taken for messages only where it
    says so. Errors: BadRecord.
    """
    best = max(([], *(read(place, attributes) for read in _DIALECTS)), key=_weigh)
    if _weigh(best)[0] < _WHOLE:
        best = max(best, read_events(place, events), key=_weigh)
    if _weigh(best)[0] < _WHOLE and not outer:
        best = max(best, _of_bodies(place, attributes), key=_weigh)
    return [pair for pair in best if _tells(pair)]


_WHOLE = 3  # what ``_tells`` gives of a request with its reply


def _tells(pair: Pair) -> int:
    """A reply counts more than what was asked; a whole conversation has both."""
    request, response = pair
    spoken = bool(response.choices) or any(one.role == "assistant" for one in request.said)
    return 2 * spoken + bool(request.said)


def _weigh(pairs: list[Pair]) -> tuple[int, int]:
    """How much some requests tell, and in how many calls."""
    said = [one for request, response in pairs for one in (*request.said, *(response.choices or [[]])[0])]
    return max(map(_tells, pairs), default=0), sum(len(one.calls) for one in said)


def _count(attributes: Attributes) -> int | None:
    return next((attributes[key] for key in COUNTS if type(attributes.get(key)) is int), None)


def _with_system(said: list[Said], system: Any) -> list[Said]:
    if any(one.role == "system" for one in said):
        return said
    texts = [part.text for part in read_parts(perhaps("", system)) if part.kind == "text" and part.text]
    return [*(Said(role="system", text=text) for text in texts), *said]


def _of_conventions(place: str, attributes: Attributes) -> list[Pair]:
    given, answers = attributes.get(INPUT), attributes.get(OUTPUT)
    if given is None and answers is None:
        return []
    said = read_messages(place, given)
    if said or answers:
        said = _with_system(said, attributes.get(SYSTEM))
    answers = perhaps(place, answers)
    if answers is not None and not isinstance(answers, list | dict):
        refuse_record(place, "messages are neither a list nor JSON of one")
    listed = answers if isinstance(answers, list) else [answers] if answers else []
    return [(Request(said=said), choose(place, listed, _count(attributes)))]


def read_events(place: str, events: Iterable[Event]) -> list[Pair]:
    """Requests out of the older events: each ends with its choice. Errors: BadRecord."""
    # What was asked, and its choices by index: a reply and why it ended.
    requests: list[tuple[list[Said], dict[int, tuple[list[Said], str | None]]]] = [([], {})]
    for _, name, inner in sorted(events, key=lambda one: one[0]):
        asked: list[Said] = []
        replies_at: dict[int, tuple[list[Said], str | None]] | None = None
        body = perhaps(place, inner.get(_CONTENT_EVENTS.get(name, "")))
        if name == "gen_ai.content.prompt":
            asked = read_request(place, body).said
        elif name in _CONTENT_EVENTS:
            reply = read_response(place, body)
            replies_at = dict(enumerate(zip(reply.choices, reply.reasons, strict=False)))
        elif name == CHOICE:
            body = _body(place, inner)
            found = body.get("index")
            index = int(found) if isinstance(found, int) or (isinstance(found, str) and found.isdigit()) else 0
            replies_at = {index: (_read_choice(place, body), to_text(body.get("finish_reason")) or None)}
        else:
            asked = _read_event(place, name, _body(place, inner))
        # What is asked after a reply, and a choice that is there already, are of the next request.
        if requests[-1][1] and (replies_at is None or not requests[-1][1].keys().isdisjoint(replies_at)):
            requests.append(([], {}))
        requests[-1][0].extend(asked)
        requests[-1][1].update(replies_at or {})
    made = ((given, [choices[index] for index in sorted(choices)]) for given, choices in requests)
    return [
        (Request(said=given), Response(choices=[said for said, _ in replies], reasons=[why for _, why in replies]))
        for given, replies in made
        if given or replies
    ]


def _body(place: str, inner: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says: its body, its content attribute, or its attributes themselves."""
    body = perhaps(place, inner.get("body", inner.get("gen_ai.event.content")))
    beside = {key: value for key, value in inner.items() if "." not in key and key != "body"}
    if isinstance(body, dict):
        return {**beside, **body}
    return beside if body is None else {**beside, "content": body}


def _read_choice(place: str, body: Mapping[str, Any]) -> list[Said]:
    message = perhaps(place, body.get("message", body.get("content")))
    plain = dict(message) if isinstance(message, dict) else {"content": message}
    plain = {key: body[key] for key in ("tool_calls", "function_call") if body.get(key)} | plain
    if isinstance(plain.get("body"), dict):
        plain = {**plain, **plain.pop("body")}
    return _read_event(place, CHOICE, {"role": "assistant", **plain})


def _read_event(place: str, name: str, body: Mapping[str, Any]) -> list[Said]:
    content = _parts_of(place, body.get("content"))
    plain = isinstance(content, dict) and not any(key in content for key in ("type", "text", "parts"))
    if plain or isinstance(content, int | float):
        content = to_text(content)
    role = body.get("role") or EVENT_ROLES.get(name, "assistant")
    # The role of a tool's event may be that of who hands its answer on.
    role = "tool" if name == "gen_ai.tool.message" else role
    read_role(place, role)
    return merge_replies(read_message(place, {**body, "role": role, "content": content}))


def _of_openllmetry(place: str, attributes: Attributes) -> list[Pair]:
    given = next((found for key in ("gen_ai.prompt", "llm.prompts") if (found := nest(attributes, key))), [])
    replies = next((found for key in ("gen_ai.completion", "llm.completions") if (found := nest(attributes, key))), [])
    if not given and not replies:
        return []
    asked = [{"role": "user", **_as_message(f"{place}: prompt {number}", one)} for number, one in enumerate(given)]
    said = [one for number, message in enumerate(asked) for one in read_message(f"{place}: prompt {number}", message)]
    texts = [_as_message(place, one) for one in replies]
    return [(Request(said=said), choose(place, texts, _count(attributes)))]


def _as_message(place: str, one: Any) -> dict[str, Any]:
    if not isinstance(one, dict):
        return {"content": one}
    for key in ("prompt", "completion"):  # OpenInference's llm.prompts.N.prompt.text
        one = one[key] if isinstance(one.get(key), dict) else one
    return {**one, "content": _parts_of(place, one.get("content", one.get("text")))}


def _parts_of(place: str, content: Any) -> Any:
    """A message's content, its parts where they were written as JSON text."""
    is_list = isinstance(content, str) and content.lstrip()[:2] in ("[{", "[]")
    return perhaps(place, content) if is_list else content


def _of_openinference(place: str, attributes: Attributes) -> list[Pair]:
    given, replies = nest(attributes, "llm.input_messages"), nest(attributes, "llm.output_messages")
    prompts, texts = nest(attributes, "llm.prompts"), nest(attributes, "llm.choices")
    if not any((given, replies, texts)):
        return []
    if not given and not replies:
        given, replies = [_as_message(place, one) for one in prompts], [_as_message(place, one) for one in texts]
    said = [one for message in given for one in read_message(place, {"role": "user", **_plain_message(message)})]
    return [(Request(said=said), choose(place, [_plain_message(one) for one in replies], _count(attributes)))]


def _plain_message(message: Any) -> dict[str, Any]:
    """OpenInference's message without the names of its objects before every key."""
    inner = message.get("message", message) if isinstance(message, dict) else {"content": message}
    if not isinstance(inner, dict):
        return {"content": inner}
    made = {key: value for key, value in inner.items() if not key.startswith("function_call_")}
    contents = inner.get("contents")
    if isinstance(contents, list):
        made["content"] = [_plain_content(part) for part in contents]
        del made["contents"]
    calls = inner.get("tool_calls")
    if isinstance(calls, list):
        made["tool_calls"] = [call.get("tool_call", call) if isinstance(call, dict) else call for call in calls]
    if inner.get("function_call_name"):
        arguments = inner.get("function_call_arguments_json")
        made["function_call"] = {"name": inner["function_call_name"], "arguments": arguments}
    return made


def _plain_content(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    call = part.get("tool_call")
    return {"type": "tool_use", "tool_call": call} if isinstance(call, dict) else part.get("message_content", part)


def _of_ai_sdk(place: str, attributes: Attributes) -> list[Pair]:
    given = attributes.get("ai.prompt.messages", attributes.get("ai.prompt"))
    texts = ("ai.response.text", "ai.result.text", "ai.response.object", "ai.result.object")
    text = first_of([attributes], texts)
    calls = perhaps(place, first_of([attributes], ("ai.response.toolCalls", "ai.result.toolCalls")))
    if given is None and text is None and not calls:
        return []
    request = read_request(place, given) if given is not None else Request(said=[])
    message = {"role": "assistant", "content": None if text is None else to_text(text), "tool_calls": calls}
    message["reasoning"] = attributes.get("ai.response.reasoning")
    said = [] if text is None and not calls else [merge_replies(read_message(place, message))]
    return [(request, Response(choices=said, reasons=[None] * len(said)))]


def _of_logfire(place: str, attributes: Attributes) -> list[Pair]:
    for key in ("pydantic_ai.all_messages", "all_messages_events", "events"):
        value = perhaps(place, attributes.get(key))
        if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
            continue
        if any("event.name" in one for one in value):
            told = [(0, to_text(one.get("event.name")), one) for one in value]
            return read_events(place, [one for one in told if is_told_event(one[1])])
        if any("role" in one for one in value):
            said = _with_system(read_messages(f"{place}: {key}", value), attributes.get(SYSTEM))
            return [(Request(said=said), Response())]
    return []


# Names of what went in and of what came out, each a body, messages, or a text.
_BODIES = (
    ("request_data", "response_data"),
    ("gen_ai.prompt", "gen_ai.completion"),
    ("langfuse.observation.input", "langfuse.observation.output"),
    ("gcp.vertex.agent.llm_request", "gcp.vertex.agent.llm_response"),
    ("mlflow.spanInputs", "mlflow.spanOutputs"),
    ("input.value", "output.value"),
    ("traceloop.entity.input", "traceloop.entity.output"),
    ("genkit:input", "genkit:output"),
    ("input", "output"),
)


def _of_bodies(place: str, attributes: Attributes) -> list[Pair]:
    for asked, told in _BODIES:
        given, reply = attributes.get(asked), attributes.get(told)
        if reply in (None, "") or (isinstance(given, dict | None) and not given):
            continue
        try:
            request = read_request(place, perhaps(place, given))
            body = perhaps(place, reply)
            if isinstance(body, dict) and isinstance(body.get("combined_chunk_content"), str):
                # Logfire keeps a response's message, its text or its parts beside other keys.
                body = {"role": "assistant", "content": body["combined_chunk_content"]}
            response = read_response(place, body, request.choices or _count(attributes))
        except BadRecord:
            continue  # these names hold anything
        if response.choices:
            return [(request, response)]
    return []


_DIALECTS: tuple[Callable[[str, Attributes], list[Pair]], ...]
_DIALECTS = (_of_conventions, _of_openinference, _of_openllmetry, _of_ai_sdk, _of_logfire)


def read_offered(place: str, attributes: Attributes) -> tuple[ToolSpec, ...]:
    """The tools that a request offers."""
    for found in (
        attributes.get("gen_ai.tool.definitions"),
        nest(attributes, "llm.tools"),
        nest(attributes, "llm.request.functions"),
        attributes.get("ai.prompt.tools"),
        attributes.get("model_request_parameters"),
    ):
        value = perhaps(place, found)
        if isinstance(value, dict) and isinstance(value.get("function_tools"), list):
            value = value["function_tools"]
        if tools := read_tools(value):
            return tools
    return ()
