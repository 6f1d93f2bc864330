"""Production traces as conversations: OpenTelemetry GenAI JSON and OpenAI chat logs, told apart by what is in them.

Inspect logs are traces too; they are imported as such (``importing``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import StudyError
from holdfast.exchange.traces.chat import is_chat, read_chat
from holdfast.exchange.traces.dialogue import Trace
from holdfast.exchange.traces.otel import Collector, is_otel
from holdfast.exchange.traces.records import BadRecord, Record, read_bytes, read_records

MOST_BAD = 0.05  # of a week's records; more of them missing may change what is left
FORMATS = "OpenTelemetry GenAI JSON (resourceSpans or resourceLogs), OpenAI chat JSONL (messages), Inspect logs (.eval)"
_ZIP = b"PK\x03\x04"
_INSPECT_JSON = re.compile(rb'\s*\{\s*"version"\s*:')
_EVAL_KEY = re.compile(rb'"eval"\s*:\s*\{')


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSet:
    """What some files hold: traces by id, and what was left out.

    ``records`` counts everything that was met, ``bad`` holds the errors of what was left out, ``torn`` those of last
    lines that break off; ``duplicates`` counts traces that came again, ``earlier`` those that a longer record of the
    same conversation replaced.
    """

    traces: tuple[Trace, ...]
    records: int
    bad: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    duplicates: int = 0
    earlier: int = 0


def is_inspect(path: Path) -> bool:
    """Whether a path is an Inspect log, or a folder of them, by its content."""
    if path.is_dir():
        return any(path.rglob("*.eval"))
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(_ZIP) or (_INSPECT_JSON.match(head) is not None and _EVAL_KEY.search(head) is not None)


def read_traces(paths: Iterable[Path], *, strict: bool = False) -> TraceSet:
    """The traces of some files that are no Inspect logs, sorted by id.

    A record that cannot be read is left out and told; with ``strict``, or where more than one in twenty cannot, it is
    refused. A last line that breaks off is left out too, unless ``strict``. Errors: StudyError.
    """
    collector, found = Collector(), _Found()
    for path in paths:
        known, first = False, None
        for record in read_records(path, read_bytes(path)):
            known |= record.error is None and _kind(record) is not None
            first = first or record.error
            found.take(record, collector, strict)
        if not known:
            told = f" ({first})" if first is not None else ""
            raise StudyError(f"{path}: of no known format{told}; known are {FORMATS}")
    for made in collector.traces():
        if isinstance(made, BadRecord):
            found.leave_out(made, strict)
        else:
            found.keep(made, strict)
    return found.result()


def _kind(record: Record) -> str | None:
    if is_otel(record.value):
        return "otel"
    return "chat" if is_chat(record.value) else None


class _Found:
    """What is known while the records go by."""

    def __init__(self) -> None:
        self.traces: dict[str, Trace] = {}
        self.bad: list[BadRecord] = []
        self.torn: list[str] = []
        self.records = self.duplicates = self.earlier = 0

    def take(self, record: Record, collector: Collector, strict: bool) -> None:
        """One record of a file."""
        self.records += 1
        if record.error is not None:
            if record.torn and not strict:
                self.torn.append(str(record.error))
            else:
                self.leave_out(record.error, strict)
            return
        try:
            kind = _kind(record)
            if kind == "otel":
                self.records -= 1
                for error in collector.take(record.place, record.value):
                    self.records += 1
                    if error is not None:
                        self.leave_out(error, strict)
            elif kind == "chat":
                self.keep(read_chat(record.place, record.value), strict)
            else:
                raise BadRecord(f"{record.place}: neither telemetry nor a chat; leave it out")
        except BadRecord as error:
            self.leave_out(error, strict)

    def leave_out(self, error: BadRecord, strict: bool) -> None:
        """Count what cannot be read. Errors: BadRecord if ``strict``."""
        if strict:
            raise error
        self.bad.append(error)

    def keep(self, trace: Trace, strict: bool) -> None:
        """Keep a trace unless it is there; of two records of one conversation, the longer."""
        if not any(one.role == "assistant" for one in trace.said):
            self.leave_out(BadRecord(f"{trace.place}: holds no reply of an agent; leave it out"), strict)
            return
        held = self.traces.setdefault(trace.id, trace)
        if held is trace:
            return
        short, long = sorted((held, trace), key=lambda one: len(one.said))
        if all(a.same(b) for a, b in zip(short.said, long.said, strict=False)):
            equal = len(short.said) == len(long.said)
            self.duplicates += equal
            self.earlier += not equal
            if not equal:
                self.traces[trace.id] = long
            return
        finding = f"{trace.place}: another conversation has the same id ({held.place}); give each an id of its own"
        self.leave_out(BadRecord(finding), strict)

    def result(self) -> TraceSet:
        """What was found. Errors: StudyError where too little could be read."""
        if self.bad and (not self.traces or len(self.bad) > MOST_BAD * max(self.records, 1)):
            more = f" (and {len(self.bad) - 1} more of {self.records} records)" if self.bad[1:] else ""
            raise StudyError(f"{self.bad[0]}{more}")
        if not self.traces:
            raise StudyError("traces: no conversation in these files; give telemetry that captures messages")
        return TraceSet(
            traces=tuple(self.traces[key] for key in sorted(self.traces)),
            records=self.records,
            bad=tuple(map(str, self.bad)),
            torn=tuple(self.torn),
            duplicates=self.duplicates,
            earlier=self.earlier,
        )


def sort_paths(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Inspect logs, and files of traces; a folder stands for the files in it. Errors: StudyError."""
    logs, files = [], []
    for path in paths:
        if not path.exists():
            raise StudyError(f"{path}: no such file; give files or folders of traces")
        if is_inspect(path):
            logs.append(path)
        elif path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix in (".json", ".jsonl", ".ndjson"))
            if not inside:
                raise StudyError(f"{path}: holds no .json or .jsonl file; give files of traces")
            files += [one for one in inside if one.is_file()]
        else:
            files.append(path)
    return logs, files
