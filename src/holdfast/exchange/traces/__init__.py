"""Production traces as conversations, whatever wrote them, told apart by what is in them.

    files ─ records ─▶ JSON values ─ a reader for each shape ─▶ requests to models ─ weaving ─▶ strands
      ─ conversations ─▶ traces

Inspect logs are traces too; they are imported as such (``importing``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.exchange.traces.chat import Batches, is_batch_request, is_batch_result, is_chat, read_chat
from holdfast.exchange.traces.conversations import Gathered, describe_reading, gather
from holdfast.exchange.traces.dialogue import Exchange, Intake, Trace
from holdfast.exchange.traces.otlp import RESOURCES, is_spans, read_rows
from holdfast.exchange.traces.records import BadRecord, Record, find_flaw, read_bytes, read_records, refuse_record
from holdfast.exchange.traces.spans import SpanCollector
from holdfast.exchange.traces.steps import is_langfuse, is_run, read_langfuse, read_run
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun

MOST_BAD = 0.05  # of a week's spans or conversations; more of them missing may change what is left
FORMATS = (
    "OpenTelemetry JSON (resourceSpans, batches, spans by themselves), chat JSONL (messages, request and response,"
    " batch files), Langfuse observations, LangSmith runs, Inspect logs (.eval)"
)
_MOST_KEYS = 6
_PAGES = ("data", "logs", "requests", "items", "rows", "records", "runs", "results")
_OTHERS = frozenset({"resourceMetrics", "resource_metrics", "resourceProfiles", "resource_profiles"})
_OTHER_SIGNALS, _HEAD = re.compile(rb'"resource_?(?:M|m|P|p)(?:etrics|rofiles)"'), 4096
_MOST_TORN = 2.0  # records that a last line which breaks off may have held
_SPOKEN = frozenset(
    {"messages", "request", "response", "body", "input", "output", "choices", "contents", "prompt", "tools"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSet:
    """What some files hold: conversations by id, and what was left out.

    ``records`` counts spans, log records and chat records that were met, ``bad`` holds the errors of what was left out,
    ``torn`` those of last lines that break off; ``duplicates`` counts records that came again. ``notes`` tell in words
    what was joined, left out or not read, ``counts`` the same as numbers.
    """

    traces: tuple[Trace, ...]
    records: int
    bad: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)


def read_traces(paths: Iterable[Path], *, strict: bool = False, inside: Collection[Path] = ()) -> TraceSet:
    """The conversations of some files that are no Inspect logs, sorted by id.

    Of the files that lie ``inside`` a folder, those of no known format are left out and told, as long as they are few.

    A record that cannot be read is left out and told; with ``strict``, or where more than one in twenty spans or
    conversations cannot, it is refused. A last line that breaks off is left out too, unless ``strict`` or where it
    weighs more than one record. Errors: StudyError.
    """
    reading = _Reading(strict)
    for path in paths:
        reading.take_file(path, inside=path in inside and not strict)
    return reading.result()


class _Reading:
    """What is known while the files go by."""

    def __init__(self, strict: bool) -> None:
        self.intake = Intake(strict=strict)
        self.spans = SpanCollector()
        self.batches = Batches()
        self.torn: list[str] = []
        self.strange: list[StudyError] = []
        self.bytes = self.strange_bytes = self.signals = 0
        # In this order a record's shape is told; the last says whether a record may hold many of what is counted.
        self.shapes: tuple[tuple[Callable[[Any], bool], Callable[[Record], None], bool], ...] = (
            (lambda value: isinstance(value, dict) and any(key in value for key in RESOURCES), self._take_spans, True),
            (is_langfuse, lambda record: read_langfuse(record.place, _unflawed(record), self.intake), True),
            (is_run, lambda record: read_run(record.place, _unflawed(record), self.intake), True),
            (is_batch_result, self._take_batch, False),
            (lambda value: is_chat(value) and is_batch_request(value), self._take_batch, False),
            (is_chat, self._take_chat, False),
            (is_spans, self._take_spans, True),
        )

    def take_file(self, path: Path, *, inside: bool = False) -> None:
        """All records of a file. Errors: StudyError where it is of no known format, and not ``inside`` a folder."""
        data = read_bytes(path)
        self.bytes += len(data)
        try:
            self._take_records(path, data)
        except StudyError as error:
            if isinstance(error, BadRecord) or not inside:
                raise
            self.strange.append(error)
            self.strange_bytes += len(data) * (_OTHER_SIGNALS.search(data[:_HEAD]) is None)

    def _take_records(self, path: Path, data: bytes) -> None:
        known, keys, before, size = False, Counter[str](), self.intake.rows, 0
        lost: list[Record] = []
        batched = False
        for record in self._without_pages(read_records(path, data, strict=self.intake.strict)):
            if record.error is not None:
                lost.append(record)
                if self.intake.strict:
                    break
                continue
            if isinstance(record.value, dict) and not record.value.keys().isdisjoint(_OTHERS):
                keys[_describe(record.value)] += 1  # a collector may write all of its signals to one file
                self.signals += 1
                continue
            size += record.size
            try:
                for fits, take, many in self.shapes:
                    if fits(record.value):
                        known, batched = True, batched or many
                        take(record)
                        break
                else:
                    shape = _describe(record.value)
                    keys[shape] += 1
                    self.intake.rows += 1
                    refuse_record(record.place, f"neither telemetry nor a chat ({shape})", "leave it out")
            except BadRecord as error:
                self.intake.lose(error)
        if not known:
            told = keys.most_common(1)[0][0] if keys else lost[0].error if lost else None
            raise StudyError(f"{path}: of no known format{f' ({told})' if told else ''}; known are {FORMATS}")
        mean = size / max(self.intake.rows - before, 1)
        for record in lost:
            assert record.error is not None
            # A chat's line is one record, a batch's may hold many, which its size tells.
            lines = max(1.0, record.size / max(mean, 1.0)) if batched else 1.0
            if record.torn and not self.intake.strict and lines <= _MOST_TORN:
                self.torn.append(str(record.error))
            else:
                self.intake.lose(record.error, lines=lines)

    def _without_pages(self, records: Iterable[Record]) -> Iterator[Record]:
        """Records, and instead of a page of an API's answer those on it."""
        for record in records:
            held = record.value if isinstance(record.value, dict) else {}
            lists = (key for key in _PAGES if isinstance(held.get(key), list))
            page = next((key for key in lists if any(isinstance(one, dict) for one in held[key])), None)
            if page is None or any(fits(record.value) for fits, _, _ in self.shapes):
                yield record
                continue
            for number, one in enumerate(held[page]):
                size = record.size // len(held[page])
                yield replace(record, place=f"{record.place}: {page}[{number}]", value=one, size=size)

    def _take_spans(self, record: Record) -> None:
        for row in read_rows(record.place, record.value, self.intake, flawed=record.flawed):
            try:
                self.spans.take(row)
            except BadRecord as error:
                self.intake.lose(error, unit=row.trace or None)

    def _take_batch(self, record: Record) -> None:
        self.intake.rows += 1
        self.batches.take(record.place, _unflawed(record))

    def _take_chat(self, record: Record) -> None:
        self.intake.rows += 1
        made = read_chat(record.place, self._without_flaws(record))
        if self.intake.strict and not made.replies and all(one.role != "assistant" for one in made.given):
            raise _silent(made)
        self.intake.exchanges.append(made)

    def _without_flaws(self, record: Record) -> dict[str, Any]:
        """A chat's record without keys beside its messages whose values cannot be read. Errors: BadRecord."""
        kept = {}
        for key, value in record.value.items():
            reason = find_flaw(value) if record.flawed else None
            if reason is None:
                kept[key] = value
            elif key in _SPOKEN:
                refuse_record(record.place, reason)
            else:
                self.intake.flaws[reason] += 1
        return kept

    def result(self) -> TraceSet:
        """What was found. Errors: StudyError where too little could be read."""
        self.spans.finish(self.intake)
        self.batches.finish(self.intake)
        gathered = gather(self.intake)
        for exchange in gathered.silent:
            self.intake.lose(_silent(exchange), unit=exchange.unit, silent=True)
        shapes = self._shapes(gathered)
        if self.strange and self.strange_bytes > MOST_BAD * self.bytes:
            raise self.strange[0]
        self._refuse_too_little(gathered, shapes)
        notes, counts = describe_reading(gathered, self.intake, shapes)
        if self.strange:
            notes.append(
                f"files of folders left out: {count_noun(len(self.strange), 'files')} (first: {self.strange[0]})"
            )
            counts["files of no known format"] = list(map(str, self.strange))
        if self.signals:
            notes.append(f"records of metrics and profiles, which hold no conversation: {self.signals:,}")
            counts["records of other signals"] = self.signals
        return TraceSet(
            traces=tuple(sorted(gathered.traces, key=lambda trace: trace.id)),
            records=self.intake.rows + len(self.torn) + sum(lost.lines > 0 for lost in self.intake.lost),
            bad=tuple(str(lost.error) for lost in self.intake.lost),
            torn=tuple(self.torn),
            duplicates=gathered.counts["duplicates"],
            notes=tuple(notes),
            counts=counts,
        )

    def _shapes(self, gathered: Gathered) -> Counter[str]:
        """How many traces hold requests to models whose messages cannot be read, by their shape.

        Those of which other requests can be read are incoherent; they are counted by themselves.
        """
        spoken = {(one.unit, one.span) for one in self.intake.exchanges if one.unit and not one.outer}
        above = {(unit, span) for unit, span in spoken if unit is not None for span in self.intake.above(unit, span)}
        found: dict[str, str] = {}
        for one in self.intake.speechless:
            around = {(one.unit, span) for span in self.intake.above(one.unit, one.span)}
            told = around & spoken or (one.unit, one.span) in above
            if not told and not (one.outer and one.unit in gathered.units):
                found.setdefault(one.unit, one.shape)
        partly = {unit for unit in found if unit in gathered.units}
        gathered.break_units(partly)
        gathered.partly.update(shape for unit, shape in found.items() if unit in partly)
        return Counter(shape for unit, shape in found.items() if unit not in partly)

    def _refuse_too_little(self, gathered: Gathered, shapes: Counter[str]) -> None:
        """Errors: StudyError where more than one in twenty spans and records, or conversations, are missing."""
        lost, there = self.intake.lost, len(gathered.traces)
        lines = sum(one.lines for one in lost)
        rows = lines + sum(not one.lines and not (one.silent and one.unit) for one in lost)
        read = self.intake.rows + lines
        missing = len({one.unit for one in lost if one.unit} - gathered.units)
        missing += sum(one.unit is None and not one.lines for one in lost)
        if self.intake.strict and (shapes or gathered.partly):
            raise StudyError(self._tell_shapes(shapes + gathered.partly, there))
        if lost and (not there or rows > MOST_BAD * max(read, 1) or missing > MOST_BAD * (there + missing)):
            more = f" (and {len(lost) - 1} more of {read:,.0f} records)" if lost[1:] else ""
            weight = f" (about {lines:,.0f} of {read:,.0f} records, by its size)" if lines > len(lost) else more
            raise StudyError(f"{lost[0].error}{weight}")
        without = missing + sum(shapes.values())
        if shapes and (not there or without > MOST_BAD * (there + without)):
            raise StudyError(self._tell_shapes(shapes, there))
        if not there:
            raise StudyError("traces: no conversation in these files; give telemetry that captures messages")

    def _tell_shapes(self, shapes: Counter[str], there: int) -> str:
        shape, count = shapes.most_common(1)[0]
        others = f" (and {len(shapes) - 1} more shapes)" if len(shapes) > 1 else ""
        return (
            f"traces: {sum(shapes.values()):,} of {there + sum(shapes.values()):,} hold requests that cannot be read:"
            f" {shape} in {count:,}{others}; capture messages in one of the known forms"
        )


def _silent(one: Exchange) -> BadRecord:
    return BadRecord(f"{one.place}: holds no reply of an agent; leave it out")


def _unflawed(record: Record) -> dict[str, Any]:
    """A record's value, which must have no flaw anywhere. Errors: BadRecord."""
    if record.flawed and (reason := find_flaw(record.value)) is not None:
        refuse_record(record.place, reason)
    return dict(record.value)


def _describe(value: Any) -> str:
    """What a record of no known shape is, by its keys."""
    if not isinstance(value, dict):
        return f"a JSON {type(value).__name__}"
    if not value:
        return "empty objects"
    if value.get("object") == "chat.completion.chunk":
        return "chunks of streamed replies; log the whole reply"
    if isinstance(value.get("choices"), list) or isinstance(value.get("candidates"), list):
        return "responses without their requests; log both"
    keys = [str(key)[:40] for key in value][:_MOST_KEYS]
    return f"objects with the keys {', '.join(keys)}{' …' if len(value) > _MOST_KEYS else ''}"
