"""What was read, joined and left out, in words and numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from holdfast.exchange.traces.conversations import Gathered
from holdfast.exchange.traces.dialogue import LEFT_OUT, UNREAD, Intake
from holdfast.records.words import count_noun

_MOST_NAMED = 5
_LONGEST = 160  # characters of a name
_SPELLINGS = {
    "requests": ("joined to longer records of the same conversation", "records"),
    "windows": ("joined to what came before by their overlap", "windows of a conversation"),
    "turns": ("joined by the id of their conversation, as they repeat nothing", "turns"),
    "choices": ("other choices of a request, left out (the first was read)", "choices"),
    "runs": ("calls that no message holds, taken from their tools' own spans", "calls"),
    "failed": ("failed without any reply of an agent, and left out", "requests"),
    "shared": ("share one conversation id though nothing joins them, so each counts by itself", "traces"),
}


def describe_reading(gathered: Gathered, intake: Intake, shapes: Counter[str]) -> tuple[list[str], dict[str, Any]]:
    """Sentences without their end, and the same as JSON."""
    counts = gathered.counts
    notes = [f"{words}: {count_noun(counts[key], noun)}" for key, (words, noun) in _SPELLINGS.items() if counts[key]]
    dialogues = Counter(one.dialogues for one in gathered.traces if one.dialogues > 1)
    if dialogues:
        most = max(dialogues)
        many = f"{most} dialogues" if len(dialogues) == 1 else f"2 to {most} dialogues"
        held = f"{sum(dialogues.values()):,} of {count_noun(len(gathered.traces), 'traces')}"
        verb = "holds" if sum(dialogues.values()) == 1 else "hold"
        notes.append(f"{held} {verb} {many}; the longest is read as what was asked, and the calls of all of them count")
    broken = Counter(one.broken for one in gathered.traces if one.broken)
    for reason, count in broken.most_common(_MOST_NAMED):
        notes.append(f"incoherent and unfit to be judged: {count_noun(count, 'traces')} ({reason})")
    spoken = [one for trace in gathered.traces for one in trace.said if one.role == "assistant"]
    data, unread = (Counter(part for one in spoken for part in one.detail.get(key, ())) for key in (LEFT_OUT, UNREAD))
    acting = counts["acting choices"]
    notes += [
        *_list("left out of agents' messages, as no text", data),
        *_list("parts of agents' messages that could be calls and cannot be read", unread),
        *_list("words of no known meaning for why a model stopped, taken for an end", gathered.unknown_reasons),
        *([f"of the other choices {acting:,} hold calls, which do not count"] if acting else []),
        *_list("traces left out, as their requests cannot be read", shapes),
        *_list("traces with a request that cannot be read among others", gathered.partly),
        *_list("attributes and keys left out for their values", intake.flaws),
    ]
    return notes, {
        "conversations": len(gathered.traces),
        "records": intake.rows,
        "requests joined": counts["requests"],
        "windows joined": counts["windows"],
        "turns joined": counts["turns"],
        "duplicates": counts["duplicates"],
        "other choices": counts["choices"],
        "failed without a reply": counts["failed"],
        "calls from tools' spans": counts["runs"],
        "traces with several dialogues": sum(dialogues.values()),
        "incoherent": dict(broken.most_common()),
        "unknown endings": dict(gathered.unknown_reasons.most_common()),
        "parts left out": dict(data.most_common()),
        "unreadable parts": dict(unread.most_common()),
        "requests without readable messages": dict((shapes + gathered.partly).most_common()),
        "values left out": dict(intake.flaws.most_common()),
        "unreadable records": len(intake.lost),
    }


def _list(what: str, found: Counter[str]) -> list[str]:
    told = ", ".join(f"{name[:_LONGEST]} ({count:,})" for name, count in found.most_common(_MOST_NAMED))
    more = len(found) - _MOST_NAMED
    return [f"{what}: {told}{f' and {more:,} more kinds' if more > 0 else ''}"] if found else []
