"""A trajectory as HTML that needs no script: every word escaped, what is too long cut and counted."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from holdfast.records import JSON, Case, Message, Score, Trajectory
from holdfast.report.words.inert import escape_html, trim_text
from holdfast.report.words.labels import format_number, name_kind

MESSAGE_CHARACTERS = 4_000
CALL_CHARACTERS = 1_500
MOST_MESSAGES = 40  # of one trajectory: its first and last halves


def case_html(case: Case) -> str:
    """A case's opening messages, without what a system message says to every case of its kind."""
    told = [message for message in case.messages if message.role != "system"] or case.messages
    return "".join(map(_message_html, told))


def trajectory_html(trajectory: Trajectory, scores: Sequence[Score], title: str) -> str:
    """A trajectory under its title: scores first, then what was said and called."""
    ending = trajectory.ending.value.replace("_", " ")
    flags = ", ".join(name_kind(flag.value) for flag in trajectory.flags)
    facts = f"{ending}; {trajectory.calls} calls executed, {trajectory.invalid_calls} refused"
    messages, half = trajectory.messages, MOST_MESSAGES // 2
    shown = "".join(map(_message_html, messages))
    if len(messages) > MOST_MESSAGES:
        cut = f'<p class="note">{len(messages) - 2 * half:,} messages in between are left out here</p>'
        shown = "".join((*map(_message_html, messages[:half]), cut, *map(_message_html, messages[-half:])))
    return (
        f'<div class="run"><h3>{escape_html(title)}</h3><p class="note">{escape_html(facts)}</p>'
        + (f'<p class="flag-list"><span class="flag">{escape_html(flags)}</span></p>' if flags else "")
        + f'<div class="scores">{"".join(map(_score_html, scores))}</div>{shown}'
        + f'<p class="trajectory">{escape_html(trajectory.id)}</p></div>'
    )


def _score_html(score: Score) -> str:
    value = "no score" if score.value is None else format_number(score.value, 2)
    beside = "; ".join(filter(None, (score.missing, score.label)))
    words = f"{score.objective} by {score.judge}" + (f" ({beside})" if beside else "")
    return f'<p class="score"><b>{escape_html(value)}</b> {escape_html(words)}</p>'


def _message_html(message: Message) -> str:
    who = message.role if message.name is None else f"{message.role} {message.name}"
    calls = "".join(
        f'<div class="call"><b>{escape_html(call.name)}</b>{_body(_spell(call.arguments), CALL_CHARACTERS)}</div>'
        for call in message.tool_calls
    )
    body = _body(message.content, MESSAGE_CHARACTERS) if message.content else ""
    return f'<div class="message {message.role}"><p class="who">{escape_html(who)}</p>{body}{calls}</div>'


def _spell(arguments: JSON) -> str:
    return orjson.dumps(arguments, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2).decode()


def _body(text: str, limit: int) -> str:
    kept, left_out = trim_text(text, limit)
    more = f'<p class="note">{left_out:,} more characters</p>' if left_out else ""
    return f'<div class="body">{escape_html(kept)}</div>{more}'
