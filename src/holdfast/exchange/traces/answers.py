"""Answers to the calls that they belong to, with missing, repeated or renumbered ids.

Within an id, answers go to calls in their order, the latest turn first. Without an id that a call has, they go to open
calls of their own name, then to open calls in their order. (Ids begin anew every turn with some servers, and are left
out by others: vllm#50295, vllm#29609.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from holdfast.exchange.traces.dialogue import Said, ToolRun
from holdfast.exchange.traces.messages import untold
from holdfast.records import ToolCall


@dataclass(slots=True)
class _Turn:
    """An agent's message with the answers to its calls, by their places."""

    said: Said
    answers: list[Said | None] = field(default_factory=list)


def pair_answers(said: Sequence[Said], runs: Sequence[ToolRun] = ()) -> tuple[list[Said], int]:
    """A conversation with answers in the order of their calls, right behind them, and the count of those without one.

    ``runs`` are executions of tools that answer calls which no message answers. Calls of a turn that were answered
    come before those that were not.
    """
    made: list[_Turn | Said] = []
    turns: list[_Turn] = []
    orphans = 0
    for are_answers, group in groupby(said, key=lambda message: message.role == "tool"):
        if are_answers:
            # By the ids of calls, then by their tools' names, then in order.
            left = [message for message in group if not _give(message, turns, by_id=True)]
            left = [message for message in left if not _give(message, turns, by_name=True)]
            left = [message for message in left if not _give(message, turns)]
            orphans += len(left)
            made += left
            continue
        for message in group:
            if message.role == "assistant":
                turns.append(_Turn(said=message, answers=[None] * len(message.calls)))
            made.append(turns[-1] if message.role == "assistant" else message)
    # Open calls are answered from the spans of their tools: those of an id in order, others by name in order.
    finished = sorted((run for run in runs if run.result is not None), key=lambda run: run.start)
    calls = [(turn, place) for turn in turns for place in range(len(turn.answers))]
    _match(calls, [run for run in finished if run.call], lambda call, run: call.id == run.call)
    _match(calls, [run for run in finished if not run.call], lambda call, run: call.name == run.name)
    for turn in turns:
        for place in turn.said.served:
            if turn.answers[place] is None:  # carried out by the provider, which does not tell the result
                turn.answers[place] = untold(turn.said.calls[place])
    return [message for item in made for message in (_told(item) if isinstance(item, _Turn) else [item])], orphans


def _give(answer: Said, turns: list[_Turn], *, by_id: bool = False, by_name: bool = False) -> bool:
    """Give an answer to an open call: by its id, by its tool's name, or to the first; the latest turn comes first."""
    for turn in reversed(turns):
        found = [place for place, given in enumerate(turn.answers) if given is None]
        if by_id:
            found = [place for place in found if answer.answers and turn.said.calls[place].id == answer.answers]
            found = [place for place in found if turn.said.calls[place].name == answer.name] or found
        elif by_name:
            found = [place for place in found if answer.name and turn.said.calls[place].name == answer.name]
        elif turn is not turns[-1]:
            return False  # what has neither id nor name answers what was said just before
        if found:
            turn.answers[found[0]] = answer
            return True
    return False


def _told(turn: _Turn) -> list[Said]:
    order = sorted(range(len(turn.answers)), key=lambda place: turn.answers[place] is None)
    calls = tuple(turn.said.calls[place] for place in order)
    served = tuple(new for new, old in enumerate(order) if old in turn.said.served)
    given = [(call, turn.answers[place]) for call, place in zip(calls, order, strict=True)]
    answers = [replace(answer, name=answer.name or call.name) for call, answer in given if answer is not None]
    return [replace(turn.said, calls=calls, served=served), *answers]


def _match(
    calls: Sequence[tuple[_Turn, int]], runs: Sequence[ToolRun], fits: Callable[[ToolCall, ToolRun], bool]
) -> None:
    left = list(runs)
    # A call that a message answers has had its run: the one with the same result, else the first.
    for turn, index in calls:
        call, answer = turn.said.calls[index], turn.answers[index]
        found = [run for run in left if fits(call, run)]
        if answer is None or not found:
            continue
        same = next((run for run in found if run.result == answer.text), None)
        if same is not None:
            left.remove(same)
        elif len(found) >= sum(fits(other.said.calls[at], found[0]) for other, at in calls):
            left.remove(found[0])
    for turn, index in calls:
        call = turn.said.calls[index]
        run = next((one for one in left if turn.answers[index] is None and fits(call, one)), None)
        if run is not None:
            left.remove(run)
            turn.answers[index] = Said(role="tool", text=run.result or "", answers=call.id or None, name=call.name)


def unmatched_runs(said: Sequence[Said], runs: Sequence[ToolRun]) -> list[ToolRun]:
    """Executions of tools that no message of a conversation calls, by id or, without one, by name and in number.

    Those without a name come last.
    """
    calls: list[ToolCall] = [call for one in said for call in one.calls]
    identities = {call.id for call in calls if call.id}
    left = Counter(_plain_name(call.name) for call in calls)
    # A call that an id tells is not told again by a name; one id may have several runs, of tries.
    left -= Counter(_plain_name(run.name) for run in {run.call: run for run in runs if run.call in identities}.values())
    unmatched, nameless = [], []
    for run in sorted(runs, key=lambda one: one.start):
        if run.call and run.call in identities:
            continue
        if not run.name:
            nameless.append(run)
        elif left[_plain_name(run.name)] > 0:
            left[_plain_name(run.name)] -= 1
        else:
            unmatched.append(run)
    # One that tells no name may be any call that nothing else tells of; beyond those it is a call of its own.
    return [*unmatched, *nameless[sum(left.values()) :]]


def _plain_name(name: str) -> str:
    """A tool's name without that of its server or namespace: ``mcp__fs__read`` and ``functions.read`` are read."""
    return re.split(r"__|[./:]", name)[-1].lower()
