"""Reads the published study of arXiv 2603.02229 into a store.

Its archive is read once as a stream, in whatever order its files come: texts go to the store at once,
compressed; what joins them (small tuples) is kept until the end and resolved there, so that rows are stored
in the same order whatever the archive's. One transaction holds the whole import.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from holdfast.exchange.published import files
from holdfast.exchange.published.files import DAMAGED, File, Verdict
from holdfast.exchange.published.names import LAYOUT, METRICS, Entry, is_published, parse_entry
from holdfast.exchange.published.text_writer import Slot, TextWriter
from holdfast.records import Case, Checkpoint, Ending, Message, Score, ToolCall, Trajectory, content_id
from holdfast.records.errors import refuse
from holdfast.rollout.audit import audit
from holdfast.store import Store, codec
from holdfast.store.database import DATABASE, remove_files
from holdfast.suites.toolemu.cases import halve

SUITE = "toolemu"
SPLIT_SEEDS = (0, 1, 2)
MOST_NOTES = 8  # of files that lack evaluations; the rest is counted

Key = tuple[str, int]  # checkpoint id, case number
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportProgress:
    """How far an import is: bytes of the source as it lies on disk, and what was found in them."""

    bytes_read: int
    bytes_total: int
    trajectories: int
    scores: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What an import found, each distinct thing counted once, and how much of it is new to the run.

    ``notes`` are what its reader must know, a sentence each.
    """

    files: int
    ignored: int
    checkpoints: int
    cases: int
    trajectories: int
    scores: int
    missing: int
    new_trajectories: int
    new_scores: int
    seconds: float
    notes: tuple[str, ...] = ()


Listener = Callable[[ImportProgress], None]


@dataclass(frozen=True, slots=True)
class _Episode:
    """A trajectory that waits for its row: the record without messages, its text, where it was found."""

    record: Trajectory
    text: Slot
    place: str


def make_case(record: Mapping[str, Any], number: int) -> Case:
    """A case from the published object."""
    return Case(
        id=record["name"],
        suite=SUITE,
        number=number,
        family=record["Toolkits"][0],
        messages=(Message(role="user", content=record["User Instruction"]),),
        facts={key: value for key, value in record.items() if key != "User Instruction"},
    )


def _arguments(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        arguments = json.loads(text)
        # What the store cannot give back as it was (NaN, a long integer, half a surrogate pair) stays text.
        if isinstance(arguments, dict) and orjson.loads(orjson.dumps(arguments)) == arguments:
            return arguments
    return {"_raw": text}


def make_messages(steps: list[Any]) -> tuple[Message, ...]:
    """Chat messages of the published steps; what the emulator thought goes into a tool message's detail."""
    messages: list[Message] = []
    for first, second in steps:
        if isinstance(first, dict) or first[0] == files.OOM_TOOL:  # the end: words, and no call
            messages.append(Message(role="assistant", content=first["log"] if isinstance(first, dict) else first[2]))
            continue
        (tool, arguments, log), (observation, summary, thought) = first, second
        call = ToolCall(name=tool, arguments=_arguments(arguments))
        messages.append(Message(role="assistant", content=log, tool_calls=(call,)))
        detail = {"summary": summary, "log": thought}
        messages.append(Message(role="tool", content=observation, name=tool, detail=detail))
    return tuple(messages)


def make_trajectory(record: Mapping[str, Any], checkpoint_id: str, case_id: str) -> Trajectory:
    """A trajectory without an id; ``calls`` counts every executed step, as nothing says which were refused."""
    messages: tuple[Message, ...] = ()
    if "error" in record:
        ending, detail = Ending.ERROR, {"error": record["error"], "error_type": record["error_type"]}
    else:
        endings = {files.TOKEN_LIMIT: Ending.TRUNCATED, files.OUT_OF_MEMORY: Ending.OUT_OF_MEMORY}
        messages = make_messages(record["intermediate_steps"])
        ending, detail = endings.get(record["output"], Ending.FINISHED), {"output": record["output"]}
    calls = sum(message.role == "tool" for message in messages)
    return Trajectory(
        id="",
        case_id=case_id,
        checkpoint_id=checkpoint_id,
        rollout=0,
        messages=messages,
        ending=ending,
        flags=() if ending is Ending.ERROR else audit(messages, ending, calls),
        calls=calls,
        detail=detail,
    )


class _Import:
    """What is known so far while the files go by."""

    def __init__(self, store: Store, writer: TextWriter) -> None:
        self._store, self._writer = store, writer
        self.ignored = self.found_scores = 0
        self.names: set[str] = set()
        self.cases: dict[int, Mapping[str, Any]] = {}
        self.checkpoints: dict[str, Checkpoint] = {}
        self.episodes: dict[Key, list[_Episode]] = {}
        self._lines: dict[tuple[str, int, int, bytes], Key] = {}
        self._streams: dict[str, list[Key]] = {}
        self._verdicts: dict[tuple[str, str], tuple[Entry, list[tuple[Verdict, Slot]]]] = {}
        self._judges: dict[str, str] = {}  # of the trajectories in a stem's file, whoever is to evaluate them
        self.notes: list[str] = []

    def take(self, file: File) -> None:
        """One file of the archive."""
        if not is_published(file.name):
            self.ignored += 1
            return
        if file.name in self.names:
            refuse(file.name, "appears twice in the archive", "leave one of the two out")
        self.names.add(file.name)
        entry = parse_entry(file.name)
        self.checkpoints.setdefault(entry.checkpoint.id, entry.checkpoint)
        if entry.metric is None:
            self._take_trajectories(file, entry)
        else:
            self._take_verdicts(file, entry, *METRICS[entry.metric])

    def _take_trajectories(self, file: File, entry: Entry) -> None:
        stream = self._streams.setdefault(entry.stem, [])
        self._judges[entry.stem] = entry.judge
        for line in files.split_lines(file.name, file.data):
            # A file for each judge holds the same trajectories: an equal line is parsed and stored once.
            mark = (entry.checkpoint.id, entry.start, entry.stop, hashlib.sha256(line.data).digest())
            if mark not in self._lines:
                self._lines[mark] = self._take_episode(line.place, files.parse_line(line), entry)
            key = self._lines[mark]
            if key in stream:
                refuse(line.place, f"case {key[1]} stands in this file twice", DAMAGED)
            stream.append(key)

    def _take_episode(self, place: str, record: Mapping[str, Any], entry: Entry) -> Key:
        files.check_trajectory(place, record, entry.start, entry.stop)
        number = record["case_idx"]
        if self.cases.setdefault(number, record["case"]) != record["case"]:
            refuse(f"{place}: case", f"case {number} differs from an earlier record's", DAMAGED)
        trajectory = make_trajectory(record, entry.checkpoint.id, record["case"]["name"])
        text = self._writer.write("trajectory", codec.trajectory_to_bytes(trajectory))
        kept = replace(trajectory, messages=(), detail=None)
        self.episodes.setdefault((entry.checkpoint.id, number), []).append(_Episode(kept, text, place))
        return (entry.checkpoint.id, number)

    def _take_verdicts(self, file: File, entry: Entry, objective: str, key: str) -> None:
        verdicts: list[tuple[Verdict, Slot]] = []
        for line in files.split_lines(file.name, file.data):
            verdict = files.read_verdict(line.place, files.parse_line(line), line.number - 1, key)
            verdicts.append((verdict, self._writer.write(f"{entry.judge} {objective}", line.data)))
        self.found_scores += len(verdicts)
        self._verdicts[entry.stem, objective] = (entry, verdicts)

    def store_cases(self) -> None:
        """Cases and, once all of them are known, the published splits. Errors: StudyError on another text."""
        known = {case.id: case for case in self._store.cases() if case.suite == SUITE}
        made = [make_case(self.cases[number], number) for number in sorted(self.cases)]
        for case in made:
            if known.setdefault(case.id, case) != case:
                refuse(f"case {case.id}", "this run holds another case of that name", "import into a new run")
        self._store.add_cases(made)
        if len(known) == files.CASES:
            ids = {case.number: case.id for case in known.values()}
            for seed in SPLIT_SEEDS:
                halves = zip(("train", "test"), halve(files.CASES, seed), strict=True)
                self._store.add_split(seed, {part: [ids[number] for number in numbers] for part, numbers in halves})

    def store_checkpoints(self) -> None:
        """Checkpoints, parents before children, by name."""
        for checkpoint in sorted(self.checkpoints.values(), key=lambda one: (len(one.stages), one.name)):
            self._store.add_checkpoint(checkpoint)

    def store_trajectories(self) -> tuple[dict[Key, str], int]:
        """Ids by checkpoint and case, and how many are new. Errors: StudyError where two texts claim one place."""
        ids: dict[Key, str] = {}
        new = 0
        table, names, cases = self._store.trajectory_table(), self._store.trajectory_ids(), self._store.case_ids()
        places = zip(table.trajectory.tolist(), table.checkpoint.tolist(), table.case.tolist(), strict=True)
        there = {(table.checkpoints[c].id, cases[k]): names[t] for t, c, k in places}
        order = {checkpoint.id: place for place, checkpoint in enumerate(self._store.checkpoints())}
        for key in sorted(self.episodes, key=lambda key: (order[key[0]], key[1])):
            first, *copies = self.episodes[key]
            for copy in copies:
                if copy.text.digest != first.text.digest:
                    refuse(copy.place, f"another trajectory of this run and case than at {first.place}", DAMAGED)
            record = first.record
            ids[key] = content_id("published trajectory", key[0], record.case_id, first.text.digest.hex())
            if there.get((key[0], record.case_id), ids[key]) != ids[key]:
                refuse(first.place, "the run holds another trajectory of this case", "import into a new run")
            new += self._store.add_trajectory(replace(record, id=ids[key]), first.text.key)
        return ids, new

    def store_scores(self, ids: Mapping[Key, str]) -> tuple[int, int, int]:
        """How many distinct scores there are, how many lack a value, how many are new."""
        table, names = self._store.score_table(), self._store.trajectory_ids()
        columns = (table.trajectory, table.judge, table.objective, table.value)
        seen: dict[tuple[str, str, str], float | None] = {
            (names[t], table.judges[j], table.objectives[o]): None if math.isnan(value) else value
            for t, j, o, value in zip(*(column.tolist() for column in columns), strict=True)
        }
        distinct: set[tuple[str, str, str]] = set()
        missing = new = 0
        for (stem, objective), (entry, verdicts) in sorted(self._verdicts.items()):
            stream = self._streams.get(stem, [])
            for position, (verdict, reply) in enumerate(verdicts):
                place = f"{stem}_eval_agent_{entry.metric}.jsonl:{position + 1}"
                if position >= len(stream):
                    refuse(place, f"no trajectory at line {position + 1} of {stem.rsplit('/', 1)[-1]}.jsonl", DAMAGED)
                mark = (ids[stream[position]], entry.judge, objective)
                if seen.setdefault(mark, verdict.value) != verdict.value:
                    refuse(place, f"score {verdict.value} where the same judge gave {seen[mark]} elsewhere", DAMAGED)
                if mark not in distinct:
                    distinct.add(mark)
                    missing += verdict.value is None
                    new += self._store.add_score(_score(mark, verdict), reply.key)
        for mark, verdict in self._unevaluated(ids, seen):
            distinct.add(mark)
            missing += 1
            new += self._store.add_score(_score(mark, verdict))
        return len(distinct), missing, new

    def _unevaluated(
        self, ids: Mapping[Key, str], seen: dict[tuple[str, str, str], float | None]
    ) -> Iterator[tuple[tuple[str, str, str], Verdict]]:
        """Missing scores for trajectories whose evaluation file is empty, ends before them or is not there.

        Each such file is noted. An objective that nothing of the source is evaluated on gets no rows.
        """
        lacks: list[str] = []
        evaluated = {objective for _, objective in self._verdicts}
        for stem, judge in sorted(self._judges.items()):
            for metric, (objective, _) in METRICS.items():
                file = f"{stem}_eval_agent_{metric}.jsonl"
                read = self._verdicts.get((stem, objective))
                count = 0 if read is None else len(read[1])
                marks = [(ids[key], judge, objective) for key in self._streams[stem][count:]]
                lacking = [mark for mark in dict.fromkeys(marks) if mark not in seen]
                if not lacking:
                    continue
                why = "is not there" if read is None else f"ends after {count:,} lines" if count else "is empty"
                many = f"{len(lacking):,} trajector{'y has' if len(lacking) == 1 else 'ies have'}"
                lacks.append(f"{file} {why}: {many} no {objective} score by {judge}")
                if objective in evaluated:
                    verdict = Verdict(value=None, missing=f"not evaluated: the file {why}", label=None)
                    seen.update(dict.fromkeys(lacking))
                    yield from ((mark, verdict) for mark in lacking)
        self.notes += lacks[:MOST_NOTES]
        if (rest := len(lacks) - MOST_NOTES) > 0:
            self.notes.append(f"and {rest:,} more evaluation files like these")


def _score(mark: tuple[str, str, str], verdict: Verdict) -> Score:
    trajectory_id, judge, objective = mark
    return Score(
        trajectory_id=trajectory_id,
        judge=judge,
        objective=objective,
        value=None if verdict.value is None else float(verdict.value),
        missing=verdict.missing,
        label=verdict.label,
        rubric=content_id("rubric of arXiv 2603.02229", judge, objective),
    )


def import_published(source: Path, store: Store, *, progress: Listener | None = None) -> ImportSummary:
    """What was read from ``source`` (a ``.tar.zst`` or ``.tar`` archive, or a directory) into ``store``.

    All of it is committed together or nothing is. Errors: StudyError naming file, line, finding and remedy.
    """
    started = time.monotonic()
    total = files.source_bytes(source)
    if store.log.steps() or any(case.suite != SUITE for case in store.cases()):
        refuse(str(store.path), "holds the run of a study", "import into another directory")
    with store.transaction(), TextWriter(store) as writer:
        reading = _Import(store, writer)
        for file in files.read_files(source):
            reading.take(file)
            if progress is not None:
                found = {"trajectories": len(reading.episodes), "scores": reading.found_scores}
                seconds = time.monotonic() - started
                progress(ImportProgress(bytes_read=file.bytes_read, bytes_total=total, seconds=seconds, **found))
        if not reading.names:
            refuse(str(source), f"no file of the published layout ({reading.ignored} others)", f"expected {LAYOUT}")
        if not reading.episodes and not reading.found_scores:
            refuse(str(source), "every file is empty", DAMAGED)
        writer.flush()
        reading.store_cases()
        reading.store_checkpoints()
        ids, new_trajectories = reading.store_trajectories()
        scores, missing, new_scores = reading.store_scores(ids)
    return ImportSummary(
        files=len(reading.names),
        ignored=reading.ignored,
        checkpoints=len(reading.checkpoints),
        cases=len(reading.cases),
        trajectories=len(ids),
        scores=scores,
        missing=missing,
        new_trajectories=new_trajectories,
        new_scores=new_scores,
        seconds=time.monotonic() - started,
        notes=tuple(reading.notes),
    )


def import_into(source: Path, output: Path, *, progress: Listener | None = None) -> ImportSummary:
    """``import_published`` into the run at ``output``, made if need be; one made here is removed on failure."""
    files.source_bytes(source)  # refuses it before a run is made, perhaps in its very place
    return into_run(output, lambda store: import_published(source, store, progress=progress))


def into_run(output: Path, read: Callable[[Store], Made]) -> Made:
    """What ``read`` finds for the run at ``output``, made if need be; one made here is removed on failure."""
    made = [path for path in (output, *output.parents) if not path.exists()]
    fresh = not (output / DATABASE).exists()
    try:
        with Store.open_or_create(output) as store:
            try:
                return read(store)
            except BaseException:
                if fresh:
                    remove_files(output)
                raise
    except BaseException:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
