"""A sample's dialogue: what opened it, and what its agent did, put together from its events where messages lack it.

``messages`` is the history that the agent had at the end. What was compacted or trimmed away, what a sub-agent did
inside a tool and what a handoff rewrote stands in the events alone:

    model event ─ its output, with the results of its calls ─▶ the dialogue
    model event of another span, with calls that were carried out ─▶ after the call that began the sub-agent
    model event of a scorer, or of another role ─▶ no part of it; calls of other roles are counted
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspect_ai.event import Event, ModelEvent, SubtaskEvent, ToolEvent
from inspect_ai.log import EvalSample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool, ChatMessageUser, ContentData
from pydantic import ValidationError

from holdfast.exchange.inspect.messages import DETAIL
from holdfast.records.groups import group_by_key

REFUSED_CALL = "parsing"  # Inspect's name for a call that no tool could take
NOT_CARRIED_OUT = frozenset({REFUSED_CALL, "approval"})
SUBMIT = "submit"  # how Inspect's agents hand in their answer; no act
AGENT = "agent"  # in a message's detail: the sub-agent that wrote it
LOST = "the part before its context was compacted is not in the log"
_SCORERS = ("scorers", "scorer")
_SUMMARY = "[CONTEXT COMPACTION SUMMARY]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """What a sample's agent was shown first and what followed.

    ``rebuilt`` counts replies that only events hold. ``agents`` are sub-agents by name with how many calls of theirs
    were carried out, ``roles`` other model roles likewise, whose calls are not the agent's. ``broken`` says why the
    dialogue is not whole.
    """

    opening: tuple[ChatMessage, ...]
    said: tuple[ChatMessage, ...]
    rebuilt: int = 0
    agents: Mapping[str, int] = field(default_factory=dict)
    roles: Mapping[str, int] = field(default_factory=dict)
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class _Turn:
    """A reply of a model, its place among the events, the calls of it that a tool event carried out, and who spoke."""

    place: int
    event: ModelEvent
    message: ChatMessageAssistant
    results: tuple[ToolEvent, ...]
    agent: str

    @property
    def acts(self) -> list[ToolEvent]:
        """The calls that were carried out, without the handing in of an answer."""
        done = (one for one in self.results if one.error is None or one.error.type not in NOT_CARRIED_OUT)
        return [one for one in done if one.function != SUBMIT]


def arrange(sample: EvalSample) -> Dialogue:
    """The dialogue of a sample."""
    unread: list[str] = []
    events = list(_flatten(sample.events, unread))
    turns = _turns(events)
    there = _match(turns, sample.messages)
    mine = _own_turns(turns, there, sample.messages)
    opening, said = _split(sample, there)
    lost = [turn for turn in mine if turn.place not in there and _is_part(turn, mine)]
    if lost:
        opening, said = _rebuild(mine, there, sample.messages)
    said, handed = _restore(said, [turn for turn in turns if turn.place in there])
    own = {turn.place for turn in mine} | set(there)
    roles = {turn.event.role for turn in mine} | {None}
    asked = {(call.id, call.function) for message in said for call in _calls(message)}
    others = [turn for turn in turns if turn.place not in own]
    others = [turn for turn in others if any((act.id, act.function) not in asked for act in turn.acts)]
    inserted = [turn for turn in others if turn.event.role in roles]
    said = _insert(said, mine, inserted)
    return Dialogue(
        opening=tuple(opening),
        said=tuple(said),
        rebuilt=len(lost),
        agents=dict(handed + Counter(turn.agent for turn in inserted for _ in turn.acts)),
        roles=dict(Counter(str(turn.event.role) for turn in others if turn not in inserted for _ in turn.acts)),
        broken=LOST if _is_cut(events, sample.messages, mine) else next(iter(unread), None),
    )


def _flatten(events: Iterable[Any], unread: list[str]) -> Iterator[Event]:
    """Events in their order without those of scorers; those that old logs hold inside others follow them.

    ``unread`` is given what of these cannot be read.
    """
    scorers: set[str] = set()
    depth = 0
    for event in events:
        kind = event.event
        if kind == "span_begin" and (event.type in _SCORERS or event.parent_id in scorers):
            scorers.add(event.id)
        elif kind == "step":
            depth += (event.action == "begin") - (event.action == "end") if event.type in _SCORERS else 0
        if depth > 0 or event.span_id in scorers:
            continue
        yield event
        if kind in ("tool", "subtask") and event.events:
            yield from _nested(event, unread)


def _nested(parent: Any, unread: list[str]) -> Iterator[Event]:
    """What happened inside a tool or subtask of an old log, under a span of its own."""
    kinds: Mapping[str, Any] = {"model": ModelEvent, "tool": ToolEvent, "subtask": SubtaskEvent}
    span = f"{parent.uuid or id(parent)}/{getattr(parent, 'function', None) or getattr(parent, 'name', '')}"
    for inner in parent.events:
        row = inner if isinstance(inner, Mapping) else inner.model_dump()
        if row.get("event") not in kinds:
            continue
        try:
            made = kinds[row["event"]].model_validate(row)
        except ValidationError:
            unread.append(f"a {row['event']} event inside {span.rpartition('/')[2] or 'another'} cannot be read")
            continue
        made.span_id = span
        yield made
        if made.event != "model" and made.events:
            yield from _nested(made, unread)


def _turns(events: Sequence[Event]) -> list[_Turn]:
    """Every reply of a model that was not withdrawn, with what its calls gave."""
    names = {event.id: str(event.name) for event in events if event.event == "span_begin"}
    made = group_by_key((event.id, (at, event)) for at, event in enumerate(events) if isinstance(event, ToolEvent))
    turns = []
    for position, event in enumerate(events):
        if not isinstance(event, ModelEvent) or event.error is not None or not event.output.choices:
            continue
        message = event.output.choices[0].message
        results = []
        for call in message.tool_calls or ():
            later = next((carried_out for carried_out in made.get(call.id, ()) if carried_out[0] > position), None)
            if later is not None:
                made[call.id].remove(later)
                results.append(later[1])
        # An old log holds the events of a tool inside it, and names none of their spans.
        agent = names.get(event.span_id) or (event.span_id or "").rpartition("/")[2] or "sub-agent"
        turns.append(_Turn(position, event, message, tuple(results), agent))
    return turns


def _match(turns: Sequence[_Turn], messages: Sequence[ChatMessage]) -> dict[int, int]:
    """Turns by place → where among the messages their reply stands: by its id, else by what it says, in order.

    What the first request held is no reply to it.
    """
    shown: Sequence[ChatMessage] = next((turn.event.input for turn in turns if turn.event.role is None), ())
    start = 0
    while start < min(len(shown), len(messages)) and _same(shown[start], messages[start]):
        start += 1
    free = {at: message for at, message in enumerate(messages) if at >= start and message.role == "assistant"}
    matched: dict[int, int] = {}
    for identify in (lambda message: message.id, _content):
        for turn in turns:
            key = identify(turn.message)
            if turn.place in matched or key is None:
                continue
            at = next((at for at, message in free.items() if identify(message) == key), None)
            if at is not None:
                matched[turn.place] = at
                del free[at]
    return matched


def _own_turns(turns: Sequence[_Turn], there: Mapping[int, int], messages: Sequence[ChatMessage]) -> list[_Turn]:
    """The replies of the agent itself: those in the spans whose replies stand among the messages as they were given.

    Without any such reply among the messages they are those of the first span.
    """
    matched = [turn for turn in turns if turn.place in there]
    if not matched and any(message.role == "assistant" for message in messages):
        return []
    plain = [turn for turn in turns if turn.event.role is None]
    first = next(iter(matched or plain or turns), None)
    if first is None:
        return []
    # A handoff leaves the other agent's replies in the history, without their calls and under its own span.
    whole = [turn for turn in matched if not (turn.acts and not _calls(messages[there[turn.place]]))]
    roles = {turn.event.role for turn in matched} or {first.event.role}
    spans = {turn.event.span_id for turn in whole} or {first.event.span_id}
    return [turn for turn in turns if turn.event.span_id in spans and turn.event.role in roles]


def _split(sample: EvalSample, there: Mapping[int, int]) -> tuple[list[ChatMessage], list[ChatMessage]]:
    """A sample's messages before and from the agent's first one.

    Where events tell, that is the first that a model gave. Else the replies that ``input`` begins with are passed by.
    """
    messages = sample.messages
    spoken = [at for at, message in enumerate(messages) if message.role == "assistant"]
    given = [*there.values(), *(at for at in spoken if messages[at].source == "generate")]
    if given:
        return messages[: min(given)], messages[min(given) :]
    shown = [] if isinstance(sample.input, str) else [one for one in sample.input if one.role == "assistant"]
    passed = 0
    while passed < min(len(shown), len(spoken)) and _content(messages[spoken[passed]]) == _content(shown[passed]):
        passed += 1
    start = spoken[passed] if passed < len(spoken) else len(messages)
    return messages[:start], messages[start:]


def _is_part(turn: _Turn, turns: Sequence[_Turn]) -> bool:
    """Whether a reply that no message holds is part of the dialogue.

    It is where its calls were carried out or a later request holds it; a critique of an own draft is not, nor is the
    summary that a compaction asked for.
    """
    if turn.results:
        return True
    shown = [(one.place, held) for one in turns for held in one.event.input if held.role == "assistant"]
    given = {one.message.id for one in turns if one.message.id is not None}
    known = any(held.id in given for _, held in shown)  # else the agent makes its messages anew for each request
    return any(
        held.id == turn.message.id if known else _content(held) == _content(turn.message)
        for place, held in shown
        if place > turn.place
    )


def _rebuild(
    turns: Sequence[_Turn], there: Mapping[int, int], messages: Sequence[ChatMessage]
) -> tuple[list[ChatMessage], list[ChatMessage]]:
    """Opening and dialogue of an agent's replies in their order, with what each request adds to the one before."""
    opening = list(turns[0].event.input)
    seen = {key for message in opening for key in _identities(message)}
    said: list[ChatMessage] = []
    turns = [turn for turn in turns if turn.place in there or _is_part(turn, turns)]
    for number, turn in enumerate(turns):
        held = messages[there[turn.place]] if turn.place in there else turn.message
        spoken = held if isinstance(held, ChatMessageAssistant) else turn.message
        said.append(spoken)
        seen |= {*_identities(spoken), *_identities(turn.message)}
        after = turns[number + 1].event.input if number + 1 < len(turns) else messages
        new = [message for message in _after(after, turn.message, seen) if message.role != "system"]
        # The results of its calls are taken from tool events where no message holds them.
        held_ids = {message.tool_call_id for message in new if isinstance(message, ChatMessageTool)}
        asked = {call.id for call in spoken.tool_calls or ()} - held_ids
        said += [*(_result(event) for event in turn.results if event.id in asked), *new]
        seen |= {key for message in new for key in _identities(message)}
    return opening, said


def _after(shown: Sequence[ChatMessage], last: ChatMessage, seen: set[Any]) -> list[ChatMessage]:
    """What a list of messages holds after ``last``; where that is gone from it, what was never seen."""
    for at in reversed(range(len(shown))):
        if _same(shown[at], last):
            return list(shown[at + 1 :])
    return [message for message in shown if seen.isdisjoint(_identities(message))]


def _result(event: ToolEvent) -> ChatMessageTool:
    return ChatMessageTool(
        id=event.message_id,
        content=event.result if isinstance(event.result, str | list) else str(event.result),
        tool_call_id=event.id,
        function=event.function,
        error=event.error,
    )


def _restore(said: Sequence[ChatMessage], matched: Sequence[_Turn]) -> tuple[list[ChatMessage], Counter[str]]:
    """The messages with the calls that a handoff turned into text, and how many of which agent these are.

    Their results, which the history holds as a user's words, are results again.
    """
    turns = {turn.message.id: turn for turn in matched if turn.message.id is not None and turn.acts}
    results = {event.message_id: (turn, event) for turn in turns.values() for event in turn.results if event.message_id}
    shown = {message.id for message in said if message.role == "user" and message.id in results}
    made: list[ChatMessage] = []
    handed: Counter[str] = Counter()
    for message in said:
        restored, turn = message, turns.get(message.id)
        if message.role == "user" and message.id in shown:
            turn, result = results[message.id]
            restored = _of(_result(result), turn)
        elif turn is not None and message.role == "assistant" and not _calls(message):
            given = {event.id for event in turn.results if event.message_id in shown}
            if back := [call for call in turn.message.tool_calls or () if call.id in given]:
                handed[turn.agent] += len(back)
                restored = _of(turn.message.model_copy(update={"tool_calls": back}), turn)
        made.append(restored)
    return made, handed


def _of(message: ChatMessage, turn: _Turn) -> ChatMessage:
    """A message named as a sub-agent's own."""
    return message.model_copy(update={"metadata": {DETAIL: {AGENT: turn.agent}}})


def _insert(said: Sequence[ChatMessage], mine: Sequence[_Turn], others: Sequence[_Turn]) -> list[ChatMessage]:
    """The dialogue with sub-agents' replies that acted, each after the results of the reply that came before it."""
    after: dict[Any, list[_Turn]] = {}
    for turn in others:
        before = [own for own in mine if own.place < turn.place]
        after.setdefault(before[-1].message.id or _content(before[-1].message) if before else None, []).append(turn)
    waiting: list[_Turn] = after.pop(None, [])
    made: list[ChatMessage] = []
    for message in said:
        if message.role != "tool":
            made += [line for turn in waiting for line in _of_agent(turn)]
            waiting = []
        made.append(message)
        if message.role == "assistant":
            waiting = after.pop(message.id, []) + after.pop(_content(message), [])
    left = [*waiting, *(turn for rest in after.values() for turn in rest)]
    return made + [line for turn in left for line in _of_agent(turn)]


def _of_agent(turn: _Turn) -> list[ChatMessage]:
    """A sub-agent's reply with the results of its calls."""
    done = {one.id for one in turn.acts}
    calls = [call for call in turn.message.tool_calls or () if call.id in done]
    spoken = turn.message.model_copy(update={"tool_calls": calls})
    return [_of(one, turn) for one in (spoken, *map(_result, turn.acts))]


def _is_cut(events: Sequence[Event], messages: Sequence[ChatMessage], mine: Sequence[_Turn]) -> bool:
    """Whether the history was compacted and nothing in the log holds what stood before.

    Inspect's own agents compact what is sent and keep the record, with the summary in its place.
    """
    marks = [place for place, one in enumerate(events) if one.event == "compaction"]
    summarized = any(map(_is_summary, messages))
    if not marks and not summarized:
        return False
    if any(one.place < marks[0] for one in mine) if marks else mine:
        return False
    # The agent's own words may stand before the summary of them.
    first = next((one for one in messages if one.role == "assistant" or _is_summary(one)), None)
    return not summarized or (first is not None and first.role != "assistant")


def _is_summary(message: ChatMessage) -> bool:
    if not isinstance(message, ChatMessageUser):
        return False
    if message.text.startswith(_SUMMARY) or (message.metadata or {}).get("summary") is True:
        return True
    parts = () if isinstance(message.content, str) else message.content
    return any(isinstance(part, ContentData) and "compaction_metadata" in part.data for part in parts)


def _calls(message: ChatMessage) -> Sequence[Any]:
    return message.tool_calls or () if message.role == "assistant" else ()


def _content(message: ChatMessage) -> tuple[Any, ...]:
    """What a message says, whatever its id."""
    told = tuple((call.function, json.dumps(call.arguments, sort_keys=True, default=str)) for call in _calls(message))
    return (message.role, message.text, told, message.tool_call_id if message.role == "tool" else None)


def _same(one: ChatMessage, two: ChatMessage) -> bool:
    return (one.id is not None and one.id == two.id) or _content(one) == _content(two)


def _identities(message: ChatMessage) -> tuple[Any, ...]:
    """The ways in which a message may be known: its id, and what it says."""
    content = _content(message)
    return (message.id, content) if message.id is not None else (content,)
