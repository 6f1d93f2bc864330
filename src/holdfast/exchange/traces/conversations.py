"""Strands put together to the conversations that count: one for each trace, conversation or record."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.exchange.traces.answers import pair_answers, unmatched_runs
from holdfast.exchange.traces.dialogue import LEFT_OUT, UNREAD, Exchange, Intake, Said, ToolRun, Trace
from holdfast.exchange.traces.endings import find_ending, is_told, read_reason
from holdfast.exchange.traces.messages import merge_replies
from holdfast.exchange.traces.weaving import Strand, weave
from holdfast.models.calls.spelled import find_unread
from holdfast.models.calls.structured import read_arguments, to_text
from holdfast.records import Ending, Message, ToolCall, ToolSpec, content_id
from holdfast.records.groups import group_tied
from holdfast.records.words import count_noun

_NAMELESS = "unnamed"  # a tool whose span does not say which it is
_LEAST_TURNS = 3  # traces with one id for which that id may be none of a conversation; two may well be two turns
_MOST_NAMED = 5
_LONGEST = 160  # characters of a name
# What is told of how conversations were put together, by what is counted.
_SPELLINGS = {
    "requests": ("joined to longer records of the same conversation", "records"),
    "windows": ("joined to what came before by their overlap", "windows of a conversation"),
    "turns": ("joined by the id of their conversation, as they repeat nothing", "turns"),
    "choices": ("other choices of a request, left out (the first was read)", "choices"),
    "runs": ("calls that no message holds, taken from their tools' own spans", "calls"),
    "failed": ("failed without any reply of an agent, and left out", "requests"),
    "shared": ("share one conversation id though nothing joins them, so each counts by itself", "traces"),
}


@dataclass(slots=True)
class Gathered:
    """Conversations, and what is told of how they were put together.

    ``silent`` are requests of which no reply is told, one of each conversation, ``units`` the traces that were read,
    ``partly`` the shapes of requests in them that were not.
    """

    traces: list[Trace] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unknown_reasons: Counter[str] = field(default_factory=Counter)
    silent: list[Exchange] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    units_of: dict[str, set[str]] = field(default_factory=dict)
    partly: Counter[str] = field(default_factory=Counter)

    def break_units(self, units: set[str]) -> None:
        """Conversations of traces in which a request cannot be read are incoherent."""
        for place, one in enumerate(self.traces):
            if self.units_of[one.id] & units and one.ending is not Ending.ERROR:
                broken = one.broken or "a request of it cannot be read"
                self.traces[place] = replace(one, broken=broken, ending=Ending.INCOHERENT)


def gather(intake: Intake) -> Gathered:
    """The conversations of everything that was read."""
    made = Gathered()
    inner, outer = _without_copies(intake)
    strands, counts = weave(inner)
    made.counts += counts
    strands += _of_agents(strands, outer)
    # Strands that share a trace belong together; a strand of no trace is by itself.
    tied = ([strands[place] for place in places] for places in group_tied([one.units for one in strands]))
    groups = [sorted(group, key=lambda one: one.first.start or 0) for group in tied]
    clusters = _join_turns(groups, made.counts)
    runs: dict[str, list[ToolRun]] = defaultdict(list)
    for tool_run in intake.runs:
        runs[tool_run.unit].append(tool_run)
    damaged = {one.unit for one in intake.lost if one.unit}
    for name, cluster in zip(_choose_names(clusters), clusters, strict=True):
        members = [strand for group in cluster for strand in group]
        if not any(strand.spoken for strand in members):
            if all(exchange.failed for strand in members for exchange in strand.exchanges):
                made.counts["failed"] += 1
            else:
                made.silent.append(members[0].first)
            continue
        units = {unit for strand in members for unit in strand.units}
        made.units |= units
        found = [tool_run for unit in sorted(units) for tool_run in runs[unit]]
        trace = _make(name, cluster, found, made, bool(units & damaged))
        made.traces.append(trace)
        made.units_of[trace.id] = units
    return made


def _without_copies(intake: Intake) -> tuple[list[Exchange], list[Exchange]]:
    """Requests of models without those that a span around or within them tells too, and what agents' spans tell."""
    by_span: dict[tuple[str, str], list[Exchange]] = defaultdict(list)
    for request in intake.exchanges:
        if request.unit is not None and request.span and not request.outer:
            by_span[request.unit, request.span].append(request)
    dropped: set[int] = set()
    for (unit, span), found in by_span.items():
        for above in intake.above(unit, span):
            for request in found:
                for other in by_span.get((unit, above), ()):
                    if _tell_same(request, other):
                        dropped.add(id(min((request, other), key=lambda each: (_weight(each), each is other))))
    inner = [request for request in intake.exchanges if not request.outer and id(request) not in dropped]
    return inner, [request for request in intake.exchanges if request.outer]


def _whole(one: Exchange) -> list[Said]:
    return [*one.given, *(one.replies[0] if one.replies else [])]


def _weight(one: Exchange) -> int:
    return sum(bool(said.text) + len(said.calls) for said in _whole(one))


def _tell_same(one: Exchange, other: Exchange) -> bool:
    """Whether two records are of one request: they end alike, or ask the same and only one of them has a reply."""
    mine, theirs = _whole(one), _whole(other)
    if not one.replies or not other.replies:
        return bool(mine and theirs) and mine[-1].text.strip() in {said.text.strip() for said in theirs}
    last, first = ([(said.text.strip(), _names(said.calls)) for said in each.replies[0][-1:]] for each in (one, other))
    return last == first


def _names(calls: Iterable[ToolCall]) -> list[str]:
    return [call.name for call in calls]


def _calls(said: Iterable[Said]) -> Counter[str]:
    return Counter(content_id(call.name, call.arguments) for one in said for call in one.calls)


def _of_agents(strands: Sequence[Strand], outer: Sequence[Exchange]) -> list[Strand]:
    """What agents' own spans tell beyond the requests to their models: all where there are none, else other calls."""
    held: dict[str, list[list[Said]]] = defaultdict(list)
    for strand in strands:
        for unit in strand.units if strand.spoken else ():
            held[unit].append(strand.said)
    spoken = set(held)
    kept = []
    for one in sorted(outer, key=lambda each: (-_weight(each), each.start or 0)):
        said, there = _whole(one), held[one.unit or ""]
        texts = {each.text.strip() for whole in there for each in whole}
        acted = not _calls(said) <= _calls(each for whole in there for each in whole)
        if acted or (one.unit not in spoken and said and said[-1].text.strip() not in texts):
            there.append(said)
            kept.append(one)
    return weave(kept)[0]


Cluster = list[list[Strand]]  # the strands of a conversation, by turns that are not woven together


def _join_turns(groups: list[list[Strand]], counts: Counter[str]) -> list[Cluster]:
    """Traces of one ``gen_ai.conversation.id`` whose requests do not repeat what was said: turns of one conversation.

    An id that most traces have, though none of them goes on with another, is none of a conversation.
    """
    by_id: dict[str, list[list[Strand]]] = defaultdict(list)
    made: list[Cluster] = []
    traced = sum(any(one.units for one in group) for group in groups)
    for group in groups:
        told = {one.last.conversation for one in group if one.units and one.last.conversation}
        if len(told) == 1:
            by_id[told.pop()].append(group)
        else:
            made.append([group])
    for found in by_id.values():
        woven = any(len({unit for one in group for unit in one.units}) > 1 for group in found)
        if len(found) >= _LEAST_TURNS and len(found) > traced / 2 and not woven:
            counts["shared"] += len(found)
            made += [[group] for group in found]
            continue
        counts["turns"] += len(found) - 1
        made.append(sorted(found, key=lambda group: group[0].first.start or 0))
    return made


def _choose_names(clusters: Sequence[Cluster]) -> list[str]:
    """What each conversation is called: the first of its ids that no other has, else one made of its words."""
    ids = [_ids(cluster) for cluster in clusters]
    holders = Counter(name for names in ids for name in names)
    chosen: dict[str, None] = {}
    for cluster, names in zip(clusters, ids, strict=True):
        name = next((one for one in names if holders[one] == 1 and one not in chosen), None)
        if name is None:
            said = [one for group in cluster for strand in group for one in strand.said]
            name = content_id("chat", [(one.role, one.text, _names(one.calls)) for one in said])
        while name in chosen:
            name = content_id("chat", name)
        chosen[name] = None
    return list(chosen)


def _ids(cluster: Cluster) -> list[str]:
    told = [one for group in cluster for strand in group for one in reversed(strand.exchanges)]
    traced = [one.conversation for one in told if one.unit is not None and one.conversation]
    return list(dict.fromkeys([*traced, *(name for one in told for name in one.names)]))


def _make(name: str, cluster: Cluster, runs: Sequence[ToolRun], made: Gathered, damaged: bool) -> Trace:
    strands = [strand for group in cluster for strand in group if strand.spoken]
    said: list[Said] = []
    orphans, last = 0, strands[0]
    for spoken in filter(None, ([strand for strand in group if strand.spoken] for group in cluster)):
        last = max(spoken, key=lambda strand: len(strand.said))
        whole, lost = _blend(last, [strand for strand in spoken if strand is not last])
        orphans += lost
        said += whole if not said else [message for message in whole if message.role != "system"]
    said, lost = pair_answers(said, runs)
    extra = unmatched_runs(said, runs)
    said = _with_runs(said, extra)
    made.counts["runs"] += len(extra)
    exchanges = [exchange for strand in strands for exchange in strand.exchanges]
    tools = tuple({tool.name: tool for exchange in exchanges for tool in exchange.tools}.values())  # each once
    if is_told(last.last.reason) and read_reason(last.last.reason) is None:
        made.unknown_reasons[to_text(last.last.reason)] += 1
    ending = find_ending(last.said, last.last.reason, failed=last.last.failed)
    broken = "a span of it could not be read" if damaged else _find_break(said, strands, tools, orphans + lost)
    if broken is not None and ending is not Ending.ERROR:
        ending = Ending.INCOHERENT
    tokens = [exchange.tokens for exchange in exchanges if exchange.tokens is not None]
    agents = [exchange.agent for exchange in last.exchanges if exchange.agent]
    return Trace(
        id=name,
        source=strands[0].first.source,
        said=tuple(said),
        tools=next((exchange.tools for exchange in last.exchanges if exchange.tools), tools),
        model=next((exchange.model for exchange in reversed(last.exchanges) if exchange.model), None),
        family=agents[-1] if agents else last.last.family,
        time=next((exchange.time for exchange in exchanges if exchange.time), None),
        tokens=sum(tokens) if tokens else None,
        ending=ending,
        dialogues=max(sum(strand.spoken for strand in group) for group in cluster),
        broken=broken,
    )


def _tidy(said: Sequence[Said]) -> list[Said]:
    """Calls of one turn that were logged as messages of their own, as one message."""
    made: list[Said] = []
    for one in said:
        if made and one.role == made[-1].role == "assistant" and made[-1].calls:
            made[-1:] = merge_replies([made[-1], one])
        else:
            made.append(one)
    return made


def _blend(main: Strand, others: Sequence[Strand]) -> tuple[list[Said], int]:
    """The longest dialogue with what agents did in the others, each where it began in time.

    An other one stands between two turns, never between calls and their answers, and never after the last words.
    """
    whole, orphans = pair_answers(_tidy(main.said))
    starts = [strand.start or 0 for strand in main.exchanges]
    inserts: dict[int, list[Said]] = defaultdict(list)
    for number, strand in enumerate(others, 2):
        told, lost = pair_answers(_tidy(strand.said))
        orphans += lost
        before = sum(start <= (strand.first.start or 0) for start in starts)
        at = min(main.lengths[before - 1], len(whole)) if before else 0
        while at < len(whole) and whole[at].role == "tool":
            at += 1
        at = max(at, next((place for place, said in enumerate(whole) if said.role == "assistant"), 0))
        if at == len(whole) and whole[-1].role == "assistant" and not whole[-1].calls:
            at -= 1
        inserts[at] += _acts(told, number, strand.first.agent)
    return [strand for at in range(len(whole) + 1) for strand in (*inserts.get(at, ()), *whole[at : at + 1])], orphans


def _acts(said: Sequence[Said], number: int, agent: str | None) -> list[Said]:
    """What an agent did in a dialogue beside the main one, marked as such."""
    about = {"dialogue": number, **({"agent": agent} if agent else {})}
    first = next((place for place, one in enumerate(said) if one.role == "assistant"), len(said))
    acts = [one for one in said[first:] if one.role in ("assistant", "tool")]
    return [replace(one, detail={**one.detail, **about}) for one in acts]


def _with_runs(said: list[Said], runs: Sequence[ToolRun]) -> list[Said]:
    """Executions of tools that no message calls, as calls before the last words."""
    made = []
    for run in runs:
        call = ToolCall(name=run.name or _NAMELESS, arguments=read_arguments(run.arguments), id=run.call)
        about = {"told by": "the tool's own span"}
        answer = Said(role="tool", text=run.result or "", answers=run.call or None, name=call.name, detail=about)
        made += [Said(role="assistant", calls=(call,), detail=about), answer]
    last = said[-1:] if said and said[-1].role == "assistant" and not said[-1].calls else []
    return [*said[: len(said) - len(last)], *made, *last]


def _find_break(said: Sequence[Said], strands: Sequence[Strand], tools: Sequence[ToolSpec], orphans: int) -> str | None:
    """Why a conversation cannot be read as a whole, or None."""
    unread = next((message.detail[UNREAD][0] for message in said if message.detail.get(UNREAD)), None)
    if unread is not None:
        return f"a part that could be a call cannot be read ({unread[:60]})"
    if any(read_reason(strand.last.reason) is Ending.INCOHERENT for strand in strands):
        return "a call that its provider could not read"
    if orphans:
        return "an answer to a call that is not there"
    if any(strand.midway for strand in strands):
        return "its beginning is missing, or a window of it joins nothing"
    if _falls_apart(strands):
        return "requests of one dialogue that join nowhere"
    spoken = [message for message in said if message.role == "assistant"]
    texts = [Message(role="assistant", content=message.text, tool_calls=message.calls) for message in spoken]
    if find_unread(texts, tools, headings=all(message.role != "tool" for message in said)) is not None:
        return "a call was left in the text"
    return None


def _falls_apart(strands: Sequence[Strand]) -> bool:
    """Whether strands of one trace begin with the same request, though more than that was given to a later one."""
    found: dict[tuple[str, frozenset[str]], list[Strand]] = defaultdict(list)
    for one in strands:
        asked = next((said.text for said in one.said if said.role == "user"), None)
        if asked is not None and one.units:
            found[asked, frozenset(one.units)].append(one)
    # The same asked again from the start is a dialogue of its own.
    return any(
        said.role in {"assistant", "tool"} for group in found.values() for one in group[1:] for said in one.first.given
    )


def describe_reading(gathered: Gathered, intake: Intake, shapes: Counter[str]) -> tuple[list[str], dict[str, Any]]:
    """What was read, joined and left out: sentences without their end, and the same as JSON."""
    counts = gathered.counts
    notes = [f"{words}: {count_noun(counts[key], noun)}" for key, (words, noun) in _SPELLINGS.items() if counts[key]]
    dialogues = Counter(trace.dialogues for trace in gathered.traces if trace.dialogues > 1)
    if dialogues:
        most = max(dialogues)
        many = f"{most} dialogues" if len(dialogues) == 1 else f"2 to {most} dialogues"
        held = f"{sum(dialogues.values()):,} of {count_noun(len(gathered.traces), 'traces')}"
        verb = "holds" if sum(dialogues.values()) == 1 else "hold"
        notes.append(f"{held} {verb} {many}; the longest is read as what was asked, and the calls of all of them count")
    broken = Counter(trace.broken for trace in gathered.traces if trace.broken)
    for reason, count in broken.most_common(_MOST_NAMED):
        notes.append(f"incoherent and unfit to be judged: {count_noun(count, 'traces')} ({reason})")
    spoken = [message for trace in gathered.traces for message in trace.said if message.role == "assistant"]
    parts = {key: [part for message in spoken for part in message.detail.get(key, ())] for key in (LEFT_OUT, UNREAD)}
    data, unread = Counter(parts[LEFT_OUT]), Counter(parts[UNREAD])
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
