"""Inspect logs of tool-using agents as trajectories to judge.

A log's model and task are a checkpoint, its sample ids cases, its epochs rollouts. A case opens with the messages
before the agent's first. What holdfast itself wrote, an exported run or a log of one of its tasks, comes back as it
was. One transaction holds the whole import, and importing a log again adds nothing.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from inspect_ai.log import (
    EvalLog,
    EvalSample,
    read_eval_log,
    read_eval_log_sample_summaries,
    read_eval_log_samples_by_id,
)

from holdfast.audit import audit
from holdfast.errors import HoldfastError, StudyError
from holdfast.exchange.inspect.messages import clean, from_inspect, from_tool_info, storable
from holdfast.exchange.inspect.samples import OWN, read_case, read_episode, read_own_score, read_scores
from holdfast.published import ImportProgress, ImportSummary
from holdfast.records import Case, Checkpoint, Ending, Message, Score, StageRecord, ToolSpec, Trajectory, content_id
from holdfast.store import Store, codec

SAMPLES_AT_ONCE = 32  # in memory
MAX_ENTRY_BYTES = 2**30  # of one sample
REMEDY = "fetch the log again or leave it out"
FINDING_LENGTH = 200
ENDINGS: Mapping[str, Ending] = {
    "message": Ending.TURN_LIMIT,
    "turn": Ending.TURN_LIMIT,
    "time": Ending.TIME_LIMIT,
    "working": Ending.TIME_LIMIT,
    "token": Ending.TOKEN_LIMIT,
    "cost": Ending.TOKEN_LIMIT,
}
"""How a sample ended at a limit of this type; at any other the reply or the conversation was cut off."""

# A log as JSON begins so; other JSON files stand beside logs in a folder.
_JSON_LOG = re.compile(rb'\s*\{\s*"version"\s*:')
_REFUSED_CALL = "parsing"  # Inspect's name for a call that no tool could take
_NOT_CARRIED_OUT = frozenset({_REFUSED_CALL, "approval"})

Listener = Callable[[ImportProgress], None]


def _refuse(place: str, finding: str, remedy: str = REMEDY) -> NoReturn:
    raise StudyError(f"{place}: {finding}; {remedy}")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Inside, whatever keeps a log from being read is a StudyError of one line that names the file."""
    try:
        yield
    except (HoldfastError, sqlite3.Error):
        raise
    # A damaged log fails in the archive, the compression, the JSON, the schema or in Inspect itself.
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:FINDING_LENGTH]
        raise StudyError(f"{path}: not a readable Inspect log, or cut short ({told}); {REMEDY}") from error


# --- files -------------------------------------------------------------------------------------------------------


def _logs_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and _is_log(path))


def _is_log(path: Path) -> bool:
    if path.suffix != ".json":
        return path.suffix == ".eval"
    with path.open("rb") as file:
        return _JSON_LOG.match(file.read(64)) is not None


def _refuse_bombs(path: Path) -> None:
    """Refuse an archive with an entry too large for memory, before any is read. Errors: StudyError."""
    if path.suffix == ".json":
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > MAX_ENTRY_BYTES:
                _refuse(f"{path}: entry {entry.filename[:80]!r}", f"expands beyond {MAX_ENTRY_BYTES >> 30} GiB")


def _read_samples(path: Path) -> Iterator[list[EvalSample]]:
    """A log's samples, some at a time, those of an unfinished log too."""
    if path.suffix == ".json":
        yield read_eval_log(path, resolve_attachments="full").samples or []
        return
    places = [(one.id, one.epoch) for one in read_eval_log_sample_summaries(path)]
    for start in range(0, len(places), SAMPLES_AT_ONCE):
        batch = places[start : start + SAMPLES_AT_ONCE]
        yield read_eval_log_samples_by_id(path, batch, resolve_attachments="full", exclude_fields={"store"})


# --- one sample --------------------------------------------------------------------------------------------------


def make_checkpoint(log: EvalLog) -> Checkpoint:
    """The checkpoint of an exported log as it was, without its weights; of any other its model and task."""
    row = (log.eval.metadata or {}).get(OWN)
    if row is not None:
        stages = tuple(StageRecord(**{**one, "objectives": tuple(one["objectives"])}) for one in row["stages"])
        return Checkpoint(**{**row, "stages": stages, "path": None})
    model, task = clean(log.eval.model), clean(log.eval.task)
    return Checkpoint(id=content_id("inspect checkpoint", model, task), base=f"{model} ({task})", model=model)


def make_case(log: EvalLog, sample: EvalSample, messages: Sequence[Message]) -> Case:
    """A sample's case; its number is still 0 unless holdfast wrote it."""
    own = sample.metadata.get(OWN)
    if own is not None:
        return read_case(own["case"], messages)
    task = clean(log.eval.task)
    case = Case(
        id="",
        suite=task,
        number=0,
        family=task,
        messages=tuple(takewhile(lambda message: message.role != "assistant", messages)),
        tools=_tools(sample),
        facts=storable({"sample": sample.id, "target": sample.target}),
    )
    return replace(case, id=content_id("inspect case", task, codec.case_to_bytes(case).decode()))


def _tools(sample: EvalSample) -> tuple[ToolSpec, ...]:
    """The tools that the agent was shown first, where the log tells."""
    return next((from_tool_info(event.tools) for event in sample.events if event.event == "model"), ())


def make_trajectory(log: EvalLog, sample: EvalSample, case: Case, messages: Sequence[Message]) -> Trajectory:
    """A sample's episode, without ids."""
    row = (sample.metadata.get(OWN) or {}).get("episode")
    if row is not None:
        made = read_episode(row, case, messages)
    else:
        spoken = tuple(messages[len(case.messages) :])
        errors = [(message.detail or {}).get("error") for message in spoken if message.role == "tool"]
        usage = sample.model_usage.get(log.eval.model)
        made = Trajectory(
            id="",
            case_id=case.id,
            checkpoint_id="",
            rollout=sample.epoch - 1,
            messages=spoken,
            ending=_ending(sample),
            calls=sum(error not in _NOT_CARRIED_OUT for error in errors),
            invalid_calls=errors.count(_REFUSED_CALL),
            tokens=None if usage is None else usage.output_tokens,
            detail=_detail(log, sample),
        )
    failed = made.ending is Ending.ERROR
    flags = () if failed else audit(made.messages, made.ending, made.calls, made.invalid_calls)
    return replace(made, flags=flags)


def _ending(sample: EvalSample) -> Ending:
    if sample.error is not None or sample.invalidation is not None:
        return Ending.ERROR
    if sample.limit is not None:
        return ENDINGS.get(sample.limit.type, Ending.TRUNCATED)
    cut_off = sample.output.choices and sample.output.stop_reason in ("max_tokens", "model_length")
    return Ending.TRUNCATED if cut_off else Ending.FINISHED


def _detail(log: EvalLog, sample: EvalSample) -> dict[str, Any]:
    """Where the episode comes from, and scores that have no place on our scale."""
    left: dict[str, Any] = {}
    for name, score in (sample.scores or {}).items():
        left |= read_scores(name, score, "", "")[1] or {}
    found = {
        "log": log.eval.eval_id,
        "sample": sample.uuid,
        "error": sample.error and sample.error.message,
        "limit": sample.limit and sample.limit.type,
        "scores": left,
    }
    return storable({key: value for key, value in found.items() if value})


def make_scores(log: EvalLog, sample: EvalSample, trajectory_id: str) -> list[Score]:
    """A sample's scores on our scale; see ``read_scores`` for those that holdfast did not give."""
    scores: list[Score] = []
    options = {scorer.name: scorer.options for scorer in log.eval.scorers or ()}
    for name, score in (sample.scores or {}).items():
        own = read_own_score(score, trajectory_id)
        rubric = content_id("inspect scorer", name, storable(options.get(name) or {}))
        scores += [own] if own is not None else read_scores(name, score, trajectory_id, rubric)[0]
    return scores


# --- the import --------------------------------------------------------------------------------------------------


class _Import:
    """What is known while the logs go by; each distinct thing is counted once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cases = {case.id: case for case in store.cases()}
        self._numbers = {(case.suite, case.number) for case in self._cases.values()}
        self._next: dict[str, int] = {}
        self.checkpoints: set[str] = set()
        self.cases: set[str] = set()
        self.trajectories: set[str] = set()
        self.scores: dict[tuple[str, str, str, str, int], bool] = {}
        self.new_trajectories = self.new_scores = 0

    def take(self, log: EvalLog, sample: EvalSample) -> None:
        """One sample of a log."""
        messages = from_inspect(sample.messages)
        checkpoint = make_checkpoint(log)
        self._store.add_checkpoint(checkpoint)
        case = self._keep_case(make_case(log, sample, messages))
        for seed, part in (sample.metadata.get(OWN) or {}).get("splits", ()):
            self._store.add_split(int(seed), {str(part): [case.id]})
        made = replace(make_trajectory(log, sample, case, messages), checkpoint_id=checkpoint.id)
        body = codec.trajectory_to_bytes(made, case.state)
        origin = sample.uuid or (log.eval.eval_id, sample.id)
        parts = (checkpoint.id, case.id, made.rollout, origin, made.ending.value, body.decode())
        trajectory = replace(made, id=content_id("inspect trajectory", *parts))
        self.new_trajectories += self._store.add_trajectory(trajectory, self._store.text_codec.pack(body))
        self.checkpoints.add(checkpoint.id)
        self.cases.add(case.id)
        self.trajectories.add(trajectory.id)
        for score in make_scores(log, sample, trajectory.id):
            self.new_scores += self._store.add_score(score)
            place = (trajectory.id, score.judge, score.objective, score.rubric, score.repeat)
            self.scores[place] = score.value is None

    def _keep_case(self, case: Case) -> Case:
        """The case as the run holds it, under its own number where that is free. Errors: StudyError."""
        held = self._cases.get(case.id)
        if held is None:
            held = replace(case, number=self._free_number(case))
            self._cases[case.id] = held
            self._numbers.add((held.suite, held.number))
            self._store.add_cases([held])
        elif replace(case, number=held.number) != held:
            _refuse(f"case {case.id}", "the run holds another case of that id", "import into a new run")
        return held

    def _free_number(self, case: Case) -> int:
        if (case.suite, case.number) not in self._numbers:
            return case.number
        number = self._next.get(case.suite, 0)
        while (case.suite, number) in self._numbers:
            number += 1
        self._next[case.suite] = number
        return number


def import_logs(source: Path, store: Store, *, progress: Listener | None = None) -> ImportSummary:
    """What was read of the logs at ``source``, a file or a folder, into ``store``, all or nothing. Errors: StudyError.

    In a folder, files that are no logs are ignored.
    """
    started = time.monotonic()
    if any(step.kind != "judge" for step in store.log.steps().values()):
        _refuse(str(store.path), "holds the run of a study", "import into another directory")
    logs = list(_logs_in(source)) if source.is_dir() else [source]
    ignored = sum(path.is_file() for path in source.rglob("*")) - len(logs) if source.is_dir() else 0
    sizes = [path.stat().st_size for path in logs]
    with store.transaction():
        reading = _Import(store)
        for number, path in enumerate(logs):
            for log, sample in _samples_of(path):
                with _reading(path):
                    reading.take(log, sample)
            if progress is not None:
                progress(
                    ImportProgress(
                        bytes_read=sum(sizes[: number + 1]),
                        bytes_total=sum(sizes),
                        trajectories=len(reading.trajectories),
                        scores=len(reading.scores),
                        seconds=time.monotonic() - started,
                    )
                )
        if not reading.trajectories:
            _refuse(str(source), f"no sample in {len(logs)} logs", "give logs of agents that were run")
    return ImportSummary(
        files=len(logs),
        ignored=ignored,
        checkpoints=len(reading.checkpoints),
        cases=len(reading.cases),
        trajectories=len(reading.trajectories),
        scores=len(reading.scores),
        missing=sum(reading.scores.values()),
        new_trajectories=reading.new_trajectories,
        new_scores=reading.new_scores,
        seconds=time.monotonic() - started,
    )


def _samples_of(path: Path) -> Iterator[tuple[EvalLog, EvalSample]]:
    with _reading(path):
        _refuse_bombs(path.resolve())
        log = read_eval_log(path.resolve(), header_only=True)
        for batch in _read_samples(path.resolve()):
            for sample in batch:
                yield log, sample
