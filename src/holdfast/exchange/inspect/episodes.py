"""One sample of another agent's log as a case and an episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessage

from holdfast.exchange.inspect.dialogue import NOT_CARRIED_OUT, REFUSED_CALL, Dialogue, arrange
from holdfast.exchange.inspect.messages import LEFT_OUT, UNREAD, from_inspect, from_tool_info, storable
from holdfast.exchange.inspect.samples import MOST
from holdfast.exchange.openings import digest_opening
from holdfast.exchange.scoring import is_unscored
from holdfast.models.calls.spelled import find_unread
from holdfast.models.calls.structured import clean
from holdfast.records import Case, Ending, Flag, Message, ToolSpec, Trajectory, content_id
from holdfast.rollout.audit import audit

ENDINGS: Mapping[str, Ending] = {
    "message": Ending.TURN_LIMIT,
    "turn": Ending.TURN_LIMIT,
    "time": Ending.TIME_LIMIT,
    "working": Ending.TIME_LIMIT,
    "token": Ending.TOKEN_LIMIT,
    "cost": Ending.TOKEN_LIMIT,
}
"""How a sample ended at a limit of this type; at any other the reply or the conversation was cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a sample holds: its case (number 0), its episode (without ids), whether the agent said anything.

    ``notes`` counts what a reader must know: kinds of content that were left out, replies that only events held, calls
    of sub-agents and of other roles, dialogues that are not whole.
    """

    case: Case
    trajectory: Trajectory
    spoken: bool
    notes: Counter[tuple[str, str]]


def read_sample(log: EvalLog, sample: EvalSample) -> Read:
    """A sample that holdfast did not write. Errors: ValueError where its numbers are none."""
    if not 1 <= sample.epoch <= MOST:
        raise ValueError(f"epoch is {sample.epoch}, expected 1 or more")
    dialogue = arrange(sample)
    opening, said = from_inspect(dialogue.opening), from_inspect(dialogue.said)
    # The tools that the agent was shown first, where the log tells.
    asked = sorted((event for event in sample.events if event.event == "model"), key=lambda one: one.role is not None)
    tools = from_tool_info(asked[0].tools) if asked else ()
    task = clean(log.eval.task)
    facts = storable({"sample": sample.id, "target": sample.target})
    case = Case(
        id=identify_case(task, sample), suite=task, number=0, family=task, messages=opening, tools=tools, facts=facts
    )
    errors = [(message.detail or {}).get("error") for message in said if message.role == "tool"]
    calls = sum(error not in NOT_CARRIED_OUT for error in errors)
    ending, unread = _ending(sample, dialogue, _unread(said, tools, calls))
    invalid = errors.count(REFUSED_CALL)
    usage = sample.model_usage.get(log.eval.model)
    tokens = None if usage is None else usage.output_tokens
    flags: tuple[Flag, ...] = ()
    if ending is not Ending.ERROR:
        flags = audit(said, ending, calls, invalid, tools)
    elif sample.scores and sample.invalidation is None:
        # Inspect's ``score_on_error`` scores what was done before an episode failed, as one that was cut off.
        flags = (Flag.TRUNCATED,)
    left = Counter(kind for message in (*opening, *said) for kind in (message.detail or {}).get(LEFT_OUT, ()))
    trajectory = Trajectory(
        id="",
        case_id=case.id,
        checkpoint_id="",
        rollout=sample.epoch - 1,
        messages=said,
        ending=ending,
        flags=flags,
        calls=calls,
        invalid_calls=invalid,
        tokens=tokens if tokens is not None and 0 <= tokens <= MOST else None,
        detail=_detail(log, sample, dialogue, unread, left),
    )
    spoken = any(message.role == "assistant" for message in said)
    notes = Counter({("left out", kind): count for kind, count in left.items()})
    notes.update({("agents", name): count for name, count in dialogue.agents.items()})
    notes.update({("roles", name): count for name, count in dialogue.roles.items()})
    if dialogue.rebuilt:
        notes["rebuilt", ""] += 1
    if unread is not None and ending is Ending.INCOHERENT:
        notes["incoherent", unread] += 1
    return Read(case=case, trajectory=trajectory, spoken=spoken, notes=notes)


def identify_case(task: str, sample: EvalSample) -> str:
    """The id of a sample's case: the task, the sample's id, and what is asked in it.

    System messages are no part of it, for they hold dates and prompts of the day; nor are ids and other notes of
    messages, the order of choices, targets, or the package that a task is called with.
    """
    asked: list[tuple[Any, ...]] = [("user", sample.input)]
    if not isinstance(sample.input, str):
        users = [message for message in sample.input if message.role != "system"]
        asked = [_asked(message) for message in users or sample.input]
    return content_id("inspect case", task.rsplit("/", 1)[-1], str(sample.id), asked, sorted(sample.choices or ()))


def _asked(message: ChatMessage) -> tuple[Any, ...]:
    """What a message of an input says: its role, its text and calls, the kinds of its other content."""
    calls = [(call.function, call.arguments) for call in getattr(message, "tool_calls", None) or ()]
    parts = () if isinstance(message.content, str) else message.content
    kinds = [part.type for part in parts if part.type not in ("text", "reasoning")]
    return (message.role, message.text, *([calls] if calls else []), *([kinds] if kinds else []))


def _ending(sample: EvalSample, dialogue: Dialogue, unread: str | None) -> tuple[Ending, str | None]:
    """How an episode ended, and what of it could not be read."""
    unread = dialogue.broken or unread
    if sample.error is not None or sample.invalidation is not None:
        return Ending.ERROR, unread
    if sample.limit is not None:
        return ENDINGS.get(sample.limit.type, Ending.TRUNCATED), unread
    if unread is not None:
        return Ending.INCOHERENT, unread
    cut_off = sample.output.choices and sample.output.stop_reason in ("max_tokens", "model_length")
    return (Ending.TRUNCATED if cut_off else Ending.FINISHED), None


def _unread(said: Sequence[Message], tools: Sequence[ToolSpec], calls: int) -> str | None:
    """What in an agent's messages looks like a call and was read as none; ``calls`` were carried out."""
    parts = (part for message in said for part in (message.detail or {}).get(UNREAD, ()))
    if (part := next(parts, None)) is not None:
        return f"content that may be a call ({part})"
    found = find_unread(said, tools, headings=calls == 0)
    return f"a call as text ({found})" if found is not None else None


def _detail(
    log: EvalLog, sample: EvalSample, dialogue: Dialogue, unread: str | None, left: Mapping[str, int]
) -> dict[str, Any]:
    """Where the episode comes from, what the log says of it, and what was not read."""
    noted = {
        "log": log.eval.eval_id,
        "sample": sample.uuid,
        "error": sample.error and sample.error.message,
        "limit": sample.limit and sample.limit.type,
        "scores": {clean(name): one.value for name, one in (sample.scores or {}).items() if not is_unscored(one.value)},
        "unread": unread,
        "left_out": dict(left),
        "rebuilt": dialogue.rebuilt,
        "agents": dict(dialogue.agents),
        "roles": dict(dialogue.roles),
    }
    return storable({key: value for key, value in noted.items() if value})


def tell_notes(notes: Counter[tuple[str, str]]) -> list[str]:
    """What a reader must know of the episodes, a sentence each."""
    episodes = {key: f"{count:,} episode{' is' if count == 1 else 's are'}" for key, count in sorted(notes.items())}
    rebuilt = [many for (kind, _), many in episodes.items() if kind == "rebuilt"]
    found = [f"{many} put together from events: the messages lack a part" for many in rebuilt]
    found += [f"{many} incoherent: {name}" for (kind, name), many in episodes.items() if kind == "incoherent"]
    for noted, words in (
        ("agents", "calls of sub-agents count as the agent's and are marked in its dialogue"),
        ("roles", "calls of other model roles do not count as the agent's"),
        ("left out", "content that is no text was left out"),
    ):
        told = [f"{name} {count:,}" for (kind, name), count in sorted(notes.items()) if kind == noted]
        found += [f"{words}: {', '.join(told)}"] if told else []
    return found


def mark_opening(trajectory: Trajectory, opened: Case, difference: str) -> Trajectory:
    """The episode with how its opening (that of ``opened``) differs from its case's, and that opening's own digest."""
    digest = digest_opening(opened.messages)
    return replace(trajectory, detail={**(trajectory.detail or {}), "opening": difference, "opening_digest": digest})
