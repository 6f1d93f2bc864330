"""Requests woven to conversations: one that another begins with is its earlier request, windows join by their overlap.

    exchanges in order of time ─ each continues a strand, lies within one, overlaps with its end, or begins a new one

A record is compared as a row of pieces: texts, calls and answers. Those of different messages that say the same are the
same piece, so it does not matter how a writer cuts a reply into messages. Whatever the ids say, a proper beginning with
a reply of the agent in it is the same conversation; equal ones are so only where an id says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from holdfast.exchange.traces.dialogue import UNTOLD, Exchange, Said
from holdfast.models.calls.spelled import without_thoughts

_LEAST_ID = 8  # characters of a call's id by which a conversation is known without any other id
_MOST_TRIED = 200  # strands with the same last piece that are compared with one exchange

Piece = bytes


@dataclass(slots=True)
class _Pieces:
    """A conversation and its pieces: ``marks`` say what is said, ``loose`` who says it under which ids.

    ``owner`` is the message of each piece, ``ids`` are those of calls, ``spoken`` says whether the agent said it and
    ``calls`` whether it is a call. ``prefixes`` are digests of every beginning, ``bare`` the same without what the
    system said, which many agents write anew for every request.
    """

    said: list[Said]
    marks: list[Piece] = field(default_factory=list)
    loose: list[Piece] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    spoken: list[bool] = field(default_factory=list)
    calls: list[bool] = field(default_factory=list)
    prefixes: list[Piece] = field(default_factory=list)
    bare: list[Piece] = field(default_factory=list)

    @property
    def whole(self) -> Piece:
        """The digest of all of it; empty without any piece."""
        return self.prefixes[-1] if self.prefixes else b""


@dataclass(slots=True, kw_only=True, eq=False)
class Strand:
    """One dialogue put together from exchanges: ``said`` is all of it, ``exchanges`` those that it was put from.

    ``lengths`` counts the messages that there were after each of them, ``units`` are the traces and ``known`` the ids
    of records that belong to it.
    """

    said: list[Said]
    exchanges: list[Exchange]
    pieces: _Pieces
    absorbed: set[Piece] = field(default_factory=set)
    branches: list[_Pieces] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    lengths: list[int] = field(default_factory=list)
    known: set[tuple[str, ...]] = field(default_factory=set)

    @property
    def first(self) -> Exchange:
        """The exchange that it began with."""
        return self.exchanges[0]

    @property
    def last(self) -> Exchange:
        """The exchange that said its last words."""
        return self.exchanges[-1]

    @property
    def spoken(self) -> bool:
        """Whether an agent says anything in it."""
        return any(one.role == "assistant" for one in self.said)

    @property
    def midway(self) -> bool:
        """Whether its beginning is missing: agents are asked before they act."""
        first = next((one for one in self.first.given if one.role != "system"), None)
        return first is not None and (first.role == "tool" or bool(first.calls))


def _mark(*parts: object) -> Piece:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _cut(said: list[Said]) -> _Pieces:
    """A conversation as pieces."""
    rows: list[tuple[Any, ...]] = []
    running, bare = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for number, message in enumerate(said):
        agent = message.role == "assistant"
        pieces: list[tuple[Piece, Piece, str, bool]] = []
        if message.detail == UNTOLD:
            continue  # made by whoever reads
        if message.role == "tool":
            mark = _mark("tool", message.text.strip())
            pieces.append((mark, _mark("tool id", message.answers) if message.answers else mark, "", False))
        elif text := (without_thoughts(message.text) if agent else message.text).strip():
            mark = _mark(message.role, text)  # without thoughts, which whoever asks next leaves out
            # Beside calls, texts are cut and reworded by who logs them.
            pieces.append((mark, _mark("beside calls") if agent and message.calls else mark, "", False))
        for call in message.calls:
            mark = _mark("call", call.name, call.arguments)
            pieces.append((mark, _mark("call id", call.name, call.id) if call.id else mark, call.id, True))
        for mark, loose, identity, is_call in pieces:
            running.update(mark)
            if message.role != "system":
                bare.update(mark)
            digests = running.copy().digest(), bare.copy().digest()
            rows.append((mark, loose, number, identity, agent, is_call, *digests))
    return _Pieces(said, *map(list, zip(*rows, strict=True)))


def weave(exchanges: Sequence[Exchange]) -> tuple[list[Strand], Counter[str]]:
    """Strands of all exchanges, and how they were put together, counted.

    Those of traces are taken in order of time, others where all of them have one.
    """
    loom = _Loom()
    for traced in (True, False):
        group = [one for one in exchanges if (one.unit is not None) is traced]
        timed = traced or all(one.start is not None for one in group)
        for one in sorted(group, key=lambda one: (one.start or 0, len(one.given))) if timed else group:
            loom.offer(one)
    loom.finish()
    return loom.strands, loom.counts


class _Loom:
    """The strands so far, found by their whole, their beginnings, and their ends."""

    def __init__(self) -> None:
        self.strands: list[Strand] = []
        self.counts: Counter[str] = Counter()
        self._whole: dict[Piece, list[Strand]] = defaultdict(list)
        self._bare: dict[Piece, list[Strand]] = defaultdict(list)
        self._beginnings: dict[Piece, list[Strand]] = defaultdict(list)
        self._ends: dict[Piece, list[Strand]] = defaultdict(list)
        self._units: dict[str, list[Strand]] = defaultdict(list)
        self._calls: dict[str, list[Strand]] = defaultdict(list)
        self._named: dict[str, Strand] = {}
        self._waiting: dict[str, list[Exchange]] = defaultdict(list)

    def offer(self, exchange: Exchange) -> None:
        """Take an exchange, after the one that it follows; what waits for it comes behind."""
        queue = [exchange]
        while queue:
            one = queue.pop(0)
            if one.follows is not None and one.follows not in self._named:
                self._waiting[one.follows].append(one)
                continue
            self.take(one)
            queue += [each for name in one.names for each in self._waiting.pop(name, ())]

    def take(self, exchange: Exchange) -> None:
        """One exchange: it continues a strand, lies within one, or begins a new one."""
        forms = [[*exchange.given, *reply] for reply in exchange.replies or [[]]]
        pieces, *others = map(_cut, forms)
        joins = (
            *(self._continue, self._continue_branch, self._continue_bare, self._follow, self._repeat, self._within),
            *(self._overlap, self._loosely, self._continue_cleared, self._begin),
        )
        strand = next(found for join in joins if (found := join(exchange, pieces)) is not None)
        strand.known.add(_own_names(exchange))
        self._named |= dict.fromkeys(exchange.names, strand)
        if exchange.unit is not None and exchange.unit not in strand.units:
            strand.units.add(exchange.unit)
            self._units[exchange.unit].append(strand)
        self.counts["choices"] += len(others)
        self.counts["acting choices"] += sum(any(one.calls for one in reply) for reply in exchange.replies[1:])
        strand.branches = others or strand.branches

    # Each of these gives the strand in which the exchange found its place, or None.

    def _continue(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """A strand is the beginning of what this exchange tells."""
        found = [
            (rank, -length, _ids_differ(strand.pieces, pieces), order, strand)
            for length in range(len(pieces.marks) - 1, 0, -1)
            for order, strand in enumerate(self._whole.get(pieces.prefixes[length - 1], ()))
            if (rank := _rank(strand, exchange)) is not None and (rank == 0 or _ends_reply(pieces, length))
        ]
        if not found:
            return None
        # What is surely of this conversation comes before what is longer.
        *_, strand = min(found, key=lambda one: one[:4])
        return self._grow(strand, exchange, pieces)

    def _continue_bare(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """A strand is the beginning, though the system said something else: an id says that both are one."""
        for length in range(len(pieces.marks) - 1, 0, -1):
            if not _ends_reply(pieces, length):
                continue
            for strand in self._bare.get(pieces.bare[length - 1], ())[-_MOST_TRIED:]:
                rank = _rank(strand, exchange)
                # Two dialogues that hold a call of the same id, which is no other's, are one.
                shared = set(strand.pieces.ids).intersection(pieces.ids[:length])
                if rank in (0, 1) or (rank == 2 and any(map(_is_unique, shared))):
                    return self._grow(strand, exchange, pieces)
        return None

    def _continue_branch(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """Another choice of a request is what the conversation went on with."""
        for strand in self._units.get(exchange.unit or "", ()):
            for other in strand.branches:
                length = len(other.marks)
                if length < len(pieces.marks) and other.prefixes and other.prefixes[-1] == pieces.prefixes[length - 1]:
                    return self._grow(strand, exchange, pieces)
        return None

    def _follow(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """It says which reply it goes on from, and gives only what is new."""
        strand = self._named.get(exchange.follows or "")
        if strand is None:
            return None
        at = next((at for at, one in enumerate(strand.exchanges) if exchange.follows in one.names), -1)
        before = strand.said[: strand.lengths[at]]
        whole = _cut([*before, *(one for one in pieces.said if one.role != "system")])
        if at in (-1, len(strand.exchanges) - 1):
            return self._grow(strand, exchange, whole)
        self.counts["requests"] += 1
        exchange.given = [*before, *(one for one in exchange.given if one.role != "system")]
        return self._begin(exchange, whole)

    def _repeat(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """A strand tells the same: it is the same conversation only where an id says so."""
        for strand in self._whole.get(pieces.whole, ()):
            if _same_id(strand, exchange):
                self.counts["requests" if exchange.unit in strand.units else "duplicates"] += 1
                if exchange.reason and not strand.last.reason:
                    strand.exchanges[-1] = exchange  # it tells why it ended
                return strand
        return None

    def _within(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """It is the beginning of a strand that was met before it, and was not said later than that."""
        spoken = any(pieces.spoken)
        for strand in self._beginnings.get(pieces.whole, ()):
            rank, start = _rank(strand, exchange), strand.last.start
            later = bool(exchange.start) and bool(start) and (exchange.start or 0) > (start or 0)
            named = rank == 1 if exchange.unit is not None else _same_id(strand, exchange)
            # Spans are taken in order of time: what another trace said first would have been gone on with.
            untold = pieces.whole not in strand.absorbed
            free = not later and exchange.unit is None and untold
            longer = _ends_reply(strand.pieces, len(pieces.marks))
            # In one trace, the same told again later was said again, unless calls have the very ids: clocks differ.
            repeated = later and spoken and not untold and not _ids_equal(strand.pieces, pieces)
            if (longer and spoken and (named or (rank in (1, 2) and free))) or (rank == 0 and not repeated):
                strand.absorbed.add(pieces.whole)
                self.counts["requests"] += 1
                return strand
        return None

    def _overlap(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """A window holds the end of a strand: what follows there goes on from it."""
        found = [
            (surely, length, at, order, strand)
            for at in range(len(pieces.marks) - 2, -1, -1)
            for order, strand in enumerate(self._ends.get(pieces.marks[at], ())[-_MOST_TRIED:])
            if (surely := self._may_overlap(strand, exchange, pieces, at)) is not None
            for length in (_common(strand.pieces.marks, pieces.marks, at),)
        ]
        if not found:
            return None
        _, _, at, _, strand = max(found, key=lambda one: one[:4])
        return self._append(strand, exchange, pieces, at + 1, count="windows")

    @staticmethod
    def _may_overlap(strand: Strand, exchange: Exchange, pieces: _Pieces, at: int) -> bool | None:
        """Whether a window's piece ``at`` may be the end of a strand: None for no, True where no id speaks against."""
        rank, length = _rank(strand, exchange), _common(strand.pieces.marks, pieces.marks, at)
        start = at + 1 - length
        if rank is None or not any(pieces.spoken[start : at + 1]):
            return None
        both = zip(strand.pieces.ids[-length:], pieces.ids[start : at + 1], strict=True)
        pairs = [(mine, other) for mine, other in both if mine and other]
        differ = any(mine != other for mine, other in pairs)
        same = [mine for mine, other in pairs if mine == other]
        if differ and (rank > 0 or length == 1):
            return None
        # Before the end that both hold, a window has what was said before, or a summary of it.
        known = set(strand.pieces.marks)
        foreign = [place for place, piece in enumerate(pieces.marks[:start]) if piece not in known]
        acts = any(pieces.calls[place] for place in foreign)
        named = any(map(_is_unique, same))
        if rank == 0:
            return None if foreign and not same and (length < 2 or acts) else not differ
        if acts or (rank == 2 and (foreign or not named)):
            return None
        # Who stopped at a call goes on from there.
        return not differ if named or pieces.calls[at] or (length > 1 and not foreign) else None

    def _loosely(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """In one trace, results may be cleared and texts reworded: the ids of calls say what is what.

        A window so small that it begins with the answer to a strand's last calls goes on from it too.
        """
        said = pieces.said
        for strand in reversed(self._units.get(exchange.unit or "", ())):
            length = len(strand.pieces.loose)
            if 0 < length < len(pieces.loose) and pieces.loose[:length] == strand.pieces.loose:
                return self._append(strand, exchange, pieces, length)
            ends = (at for at, piece in enumerate(pieces.loose) if piece in strand.pieces.loose[-1:])
            at = max(ends, default=-1)
            overlap = _common(strand.pieces.loose, pieces.loose, at) if 0 <= at < len(pieces.loose) - 1 else 0
            if overlap > 1 and any(pieces.ids[at + 1 - overlap : at + 1]):
                return self._append(strand, exchange, pieces, at + 1, count="windows")
            begins = next((number for number, one in enumerate(said) if one.role in ("assistant", "tool")), 0)
            if said and said[begins].role == "tool" and _answers(strand, said[begins]):
                return self._append(strand, exchange, pieces, pieces.owner.index(begins), count="windows")
        return None

    def _continue_cleared(self, exchange: Exchange, pieces: _Pieces) -> Strand | None:
        """A strand is the beginning, though results in it were cleared since: its calls have ids of their own."""
        known = {id(strand): strand for call in filter(_is_unique, pieces.ids) for strand in self._calls.get(call, ())}
        for strand in reversed(known.values()):
            length = len(strand.pieces.loose)
            begins = length < len(pieces.loose) and pieces.loose[:length] == strand.pieces.loose
            if begins and _rank(strand, exchange) is not None and _ids_equal(strand.pieces, pieces):
                return self._append(strand, exchange, pieces, length)
        return None

    def _begin(self, exchange: Exchange, pieces: _Pieces) -> Strand:
        strand = Strand(said=pieces.said, exchanges=[exchange], pieces=pieces, lengths=[len(pieces.said)])
        self.strands.append(strand)
        self._enter(strand, 0)
        return strand

    def _append(self, strand: Strand, exchange: Exchange, pieces: _Pieces, at: int, count: str = "requests") -> Strand:
        """Go on from a strand with the pieces from ``at`` on; a message of which a part is known goes on whole."""
        is_split = at and pieces.owner[at] == pieces.owner[at - 1]
        before = strand.said[: strand.pieces.owner[-1]] if is_split else strand.said
        return self._grow(strand, exchange, _cut([*before, *pieces.said[pieces.owner[at] :]]), count)

    def _grow(self, strand: Strand, exchange: Exchange, pieces: _Pieces, count: str = "requests") -> Strand:
        self.counts[count] += 1
        old = strand.pieces
        if old.prefixes:
            strand.absorbed.add(old.prefixes[-1])
            self._whole[old.prefixes[-1]].remove(strand)
            self._bare[old.bare[-1]].remove(strand)
            self._ends[old.marks[-1]].remove(strand)
        both = zip(old.prefixes, pieces.prefixes, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
        strand.said, strand.pieces, strand.branches = pieces.said, pieces, []
        strand.exchanges.append(exchange)
        strand.lengths.append(len(pieces.said))
        self._enter(strand, same)
        return strand

    def _enter(self, strand: Strand, known: int) -> None:
        pieces = strand.pieces
        if pieces.prefixes:
            self._whole[pieces.prefixes[-1]].append(strand)
            self._bare[pieces.bare[-1]].append(strand)
            self._ends[pieces.marks[-1]].append(strand)
        for call in filter(_is_unique, pieces.ids[known:]):
            if strand not in self._calls[call][-_MOST_TRIED:]:
                self._calls[call].append(strand)
        for prefix in pieces.prefixes[max(known - 1, 0) :]:
            held = self._beginnings[prefix]
            if len(held) < _MOST_TRIED and strand not in held[-1:]:
                held.append(strand)

    def finish(self) -> None:
        """Take those whose predecessors never came; drop retries.

        A retry is a record that ends with a call nobody answered, as a longer one begins: a request logged again.
        """
        for waiting in self._waiting.values():
            for one in waiting:
                self.take(one)
        kept = []
        for strand in self.strands:
            open_call = bool(strand.said) and bool(strand.said[-1].calls) and not strand.units
            begun, length = self._beginnings.get(strand.pieces.whole, ()), len(strand.pieces.marks)
            longer = (one for one in begun if one is not strand and _ends_reply(one.pieces, length))
            if open_call and any(_rank(one, strand.last) is not None for one in longer):
                self.counts["requests"] += len(strand.exchanges)
            else:
                kept.append(strand)
        self.strands = kept


def _rank(strand: Strand, exchange: Exchange) -> int | None:
    """How surely ids say that both are of one conversation: 0 and 1 yes, 2 not, None that they are of two."""
    if exchange.unit is not None and exchange.unit in strand.units:
        return 0
    mine, other = strand.last, exchange
    if mine.conversation is not None and other.conversation is not None:
        return 1 if mine.conversation == other.conversation else None
    if mine.session is not None and other.session is not None:
        return 1 if mine.session == other.session else 2
    return 2


def _same_id(strand: Strand, exchange: Exchange) -> bool:
    if _rank(strand, exchange) == 0:
        return True
    mine, other = strand.last, exchange
    if mine.conversation is not None or other.conversation is not None:
        return mine.conversation == other.conversation
    own = _own_names(other)
    return own in strand.known and (bool(own) or mine.session == other.session)


def _own_names(exchange: Exchange) -> tuple[str, ...]:
    """The ids of a record that no other should have."""
    return tuple(name for name in exchange.names if name != exchange.session)


def _ends_reply(pieces: _Pieces, length: int) -> bool:
    """Whether a longer conversation's first pieces hold a reply, and no reply is cut in two behind them."""
    return length < len(pieces.spoken) and any(pieces.spoken[:length]) and not pieces.spoken[length]


def _ids_differ(mine: _Pieces, other: _Pieces) -> bool:
    return any(a and b and a != b for a, b in zip(mine.ids, other.ids, strict=False))


def _ids_equal(mine: _Pieces, other: _Pieces) -> bool:
    """Whether every call of the shorter has the id of the longer's, and one that no server gives twice."""
    pairs = [(a, b) for a, b in zip(mine.ids, other.ids, strict=False) if a or b]
    return all(a == b for a, b in pairs) and any(_is_unique(a) for a, _ in pairs)


def _is_unique(identity: str) -> bool:
    """Whether a call's id looks like one that is given once, not like one that begins anew (``functions.read:0``)."""
    return len(identity) >= _LEAST_ID and re.search(r"[:.]\d{1,3}$", identity) is None


def _common(mine: Sequence[Piece], theirs: Sequence[Piece], at: int) -> int:
    """How many pieces before and at ``at`` are the last of ``mine``."""
    both = zip(reversed(mine), (theirs[place] for place in range(at, -1, -1)), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))


def _answers(strand: Strand, answer: Said) -> bool:
    """Whether an answer belongs to a call with which a strand ends."""
    calls = strand.said[-1].calls if strand.said else ()
    if answer.answers:
        return any(call.id == answer.answers for call in calls)
    return any(not answer.name or call.name == answer.name for call in calls)
