"""Inspect logs of tool-using agents as trajectories to judge.

    files.py ─▶ actors.py ─▶ attempts.py ─▶ episodes.py, scoring.py ─▶ wholeness.py
    which logs    who acted    which count    what was done, how good    what is absent

Sample ids with their inputs are cases, epochs rollouts. What holdfast itself wrote, an exported run or a log of one of
its tasks, comes back as it was. One transaction holds the whole import, and importing a log again adds nothing but the
scores that it declares for the first time.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from inspect_ai.log import EvalLog, EvalSample, read_eval_log
from inspect_ai.log import read_eval_log_sample_summaries as read_summaries
from inspect_ai.log import read_eval_log_samples_by_id as read_by_id
from inspect_ai.scorer import Score as InspectScore

from holdfast.exchange.inspect.actors import identify, name_checkpoints, origin_of
from holdfast.exchange.inspect.attempts import SHOWN, Attempts, Log, Spot, sort_attempts
from holdfast.exchange.inspect.episodes import Read, mark_opening, read_sample, tell_notes
from holdfast.exchange.inspect.files import REMEDY, check_log, find_logs, is_archive
from holdfast.exchange.inspect.messages import from_inspect
from holdfast.exchange.inspect.samples import OWN, read_case, read_checkpoint, read_episode, read_own_score, read_splits
from holdfast.exchange.inspect.wholeness import Held, describe_logs, merge_states, tell_states
from holdfast.exchange.openings import first_difference
from holdfast.exchange.published.reader import ImportProgress, ImportSummary, Listener
from holdfast.exchange.scales import ScoreOption, describe
from holdfast.exchange.scoring import ABSENT, Place, Scoring, is_unscored
from holdfast.models.calls.structured import clean
from holdfast.records import Case, Ending, Score, Trajectory, content_id
from holdfast.records.errors import HoldfastError, StudyError, refuse
from holdfast.rollout.audit import audit
from holdfast.store import Store, codec, origins

SAMPLES_AT_ONCE = 32  # in memory
FINDING_LENGTH = 200
_SAMPLE = re.compile(r"samples/(?P<id>.*)_epoch_(?P<epoch>\d{1,9})\.json", re.DOTALL)
FAILED = "absent: the episode failed before it was scored"
INVALIDATED = "invalidated: the sample was withdrawn from the log"


@contextlib.contextmanager
def _reading(
    path: Path, finding: str = "not a readable Inspect log, or cut short", remedy: str = REMEDY
) -> Iterator[None]:
    """Inside, whatever keeps a log from being read is a StudyError of one line that names the file."""
    try:
        yield
    except (HoldfastError, sqlite3.Error):
        raise
    # A damaged log fails in the archive, the compression, the JSON, the schema or in Inspect itself.
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:FINDING_LENGTH]
        raise StudyError(f"{path}: {finding} ({told}); {remedy}") from error


def _taking(path: Path) -> contextlib.AbstractContextManager[None]:
    """Inside, what Inspect read is taken in: what fails here is no damage of the file."""
    return _reading(path, "holds something that holdfast cannot read", "report this, or leave the log out")


def _open_log(path: Path) -> Log:
    """A log's header and what it holds. Errors: StudyError."""
    with _reading(path):
        place = path.resolve()
        check_log(place)
        if is_archive(place):
            header = read_eval_log(place, header_only=True, format="eval")
            summaries = read_summaries(place, format="eval")
        else:
            header = _read_whole(place)
            summaries = [one.summary() for one in header.samples or ()]
            header.samples = None
        listed = [Spot(id=str(one.id), epoch=one.epoch, uuid=one.uuid or None) for one in summaries]
        spots = (*listed, *(_unlisted(place, listed) if is_archive(place) else ()))
        row = (header.eval.metadata or {}).get(OWN)
        try:
            checkpoint = identify(header)[0] if row is None else read_checkpoint(row).id
        except ValueError as error:
            refuse(f"{path}: metadata {OWN!r} of the log", str(error), REMEDY)
        return Log(
            path=path, header=header, checkpoint=checkpoint, own=row is not None, spots=spots, origin=origin_of(header)
        )


def _unlisted(path: Path, listed: Sequence[Spot]) -> list[Spot]:
    """Samples that an archive holds and its summaries do not name, as those of a log that broke off."""
    known = {(spot.id, spot.epoch) for spot in listed}
    with zipfile.ZipFile(path) as archive:
        found = [_SAMPLE.fullmatch(name) for name in dict.fromkeys(archive.namelist())]
    spots = [Spot(id=one["id"], epoch=int(one["epoch"]), uuid=None) for one in found if one is not None]
    return [spot for spot in spots if (spot.id, spot.epoch) not in known]


def _read_whole(path: Path) -> EvalLog:
    """A log as JSON. Inspect's reader of headers wants their keys in the order in which Inspect writes them."""
    return read_eval_log(path, resolve_attachments="full", format="json")


def _read_samples(log: Log) -> Iterator[EvalSample]:
    """A log's samples, some at a time, those of an unfinished log too."""
    path = log.path.resolve()
    with _reading(log.path):
        if not is_archive(path):
            yield from _read_whole(path).samples or ()
            return
        places = list(dict.fromkeys((spot.id, spot.epoch) for spot in log.spots))
        for start in range(0, len(places), SAMPLES_AT_ONCE):
            batch = places[start : start + SAMPLES_AT_ONCE]
            yield from read_by_id(path, batch, resolve_attachments="full", format="eval", exclude_fields={"store"})


class _Import:
    """What is known while the logs go by; each distinct thing is counted once."""

    def __init__(self, store: Store, logs: Sequence[Log], scoring: Scoring) -> None:
        self._store, self._logs, self._scoring = store, logs, scoring
        self._cases = {case.id: case for case in store.cases()}
        self._numbers = {(case.suite, case.number) for case in self._cases.values()}
        self._next: dict[str, int] = {}
        self._kept: dict[tuple[str, Spot], str] = {}
        self._before = _earlier_attempts(store, logs)
        self._given: dict[str, dict[str, InspectScore]] = {}  # by trajectory: values and edits, without what was said
        self._waiting: list[tuple[int, EvalSample, Read]] = []
        self.openings: dict[str, str] = {}
        self._met: dict[int, dict[str, dict[Place, None]]] = {}  # by log and trajectory: which values it has
        self._failed: set[str] = set()
        self.attempts: Attempts = sort_attempts(logs)
        self.held: dict[int, Held] = {}
        self.episode_notes: Counter[tuple[str, str]] = Counter()
        self.checkpoints: set[str] = set()
        self.cases: set[str] = set()
        self.trajectories: set[str] = set()
        self.scores: dict[tuple[str, str, str, str, int], bool] = {}
        self.new_trajectories = self.new_scores = self.repeated = 0

    def store_checkpoints(self) -> None:
        """The checkpoints of all logs that hold samples, told apart. Errors: StudyError."""
        known = origins.read_actors(self._store)
        held = self._store.checkpoints(brought=True)
        new: dict[str, tuple[EvalLog, Mapping[str, str]]] = {}
        for log in self._logs:
            if log.own:
                self._store.add_checkpoint(read_checkpoint((log.header.eval.metadata or {})[OWN]))
            elif log.spots:
                new.setdefault(log.checkpoint, (log.header, identify(log.header)[1]))
                # Its cases and scores mean something else.
                old = content_id("inspect checkpoint", clean(log.header.eval.model), clean(log.header.eval.task))
                if any(one.id == old for one in held):
                    finding = "an earlier version imported these logs, without the direction of their scores"
                    refuse(self._store.path, finding, "import them into a new run")
        for checkpoint in name_checkpoints(new, known, held):
            self._store.add_checkpoint(checkpoint)
        if new:
            actors = {**known, **{name: settings for name, (_, settings) in new.items()}}
            rows = [{"checkpoint": name, "settings": settings} for name, settings in sorted(actors.items())]
            origins.write_notes(self._store, origins.ACTORS, rows)

    def take(self, number: int, sample: EvalSample) -> None:
        """One sample of a log. Errors: StudyError that names log and sample."""
        log = self._logs[number]
        spot = _spot(sample)
        # A sample that no summary lists has no uuid there.
        if not self.attempts.answered.get(number, {}).keys().isdisjoint((spot, replace(spot, uuid=None))):
            self._add_other_scores(log, sample, spot)
            return
        try:
            if OWN in sample.metadata:
                self._take_own(number, sample)
            else:
                self._take_foreign(number, sample, read_sample(log.header, sample))
        except ValueError as error:
            refuse(_place(log, sample), str(error), REMEDY)

    def _take_own(self, number: int, sample: EvalSample) -> None:
        """A sample that holdfast wrote. Errors: ValueError."""
        log, row = self._logs[number], sample.metadata[OWN]
        if not isinstance(row, Mapping):
            raise ValueError(f"metadata {OWN!r} is no object")
        messages = from_inspect(sample.messages)
        read = read_case(row.get("case"), messages)
        case = self._hold(read)
        if replace(read, number=case.number) != case:
            refuse(f"case {case.id}", "the run holds another case of that id", "import into a new run")
        for seed, part in read_splits(row):
            self._store.add_split(seed, {part: [case.id]})
        if row.get("episode") is not None:
            made = read_episode(row["episode"], case, messages)
            if made.ending is not Ending.ERROR:
                flags = audit(made.messages, made.ending, made.calls, made.invalid_calls, case.tools)
                made = replace(made, flags=flags)
        else:
            made = read_sample(log.header, sample).trajectory
        made = replace(made, checkpoint_id=log.checkpoint, case_id=case.id, messages=messages[len(case.messages) :])
        body = codec.trajectory_to_bytes(made, case.state).decode()
        origin = sample.uuid or (log.header.eval.eval_id, sample.id)
        parts = (log.checkpoint, case.id, made.rollout, origin, made.ending.value, body)
        self._keep(number, sample, replace(made, id=content_id("inspect trajectory", *parts)), case)

    def _take_foreign(self, number: int, sample: EvalSample, read: Read, *, last: bool = False) -> None:
        """A sample of another agent; one whose agent never spoke waits, for another may show its case's opening."""
        log = self._logs[number]
        if read.case.id not in self._cases and not read.spoken and not last:
            self._waiting.append((number, sample, read))
            return
        key = (log.checkpoint, _spot(sample))
        if sample.uuid and key in self._kept:
            self.repeated += 1
            return
        case, made = self._hold(read.case), read.trajectory
        difference = first_difference(read.case.messages, case.messages) if read.spoken else None
        if difference is not None:
            made = mark_opening(made, read.case, difference)
            self.openings.setdefault(case.id, difference)
        origin = (sample.uuid or log.header.eval.eval_id, str(sample.id), sample.epoch)
        made = replace(made, checkpoint_id=log.checkpoint, id=content_id("inspect trajectory", log.checkpoint, origin))
        self.episode_notes.update(read.notes)
        self._kept[key] = made.id
        evaluation = self.attempts.chain[number]
        self.held.setdefault(evaluation, Held()).add(str(sample.id), sample.epoch, case.id)
        self._keep(number, sample, made, case)

    def _keep(self, number: int, sample: EvalSample, made: Trajectory, case: Case) -> None:
        """Store an episode and its scores. Errors: StudyError where the run holds another text of it."""
        new = made.id not in self.trajectories and self._store.add_trajectory(
            made, self._store.text_codec.pack(codec.trajectory_to_bytes(made, case.state))
        )
        place = _place(self._logs[number], sample)
        if not new and made.id not in self.trajectories:
            held = self._store.trajectory(made.id)
            if (held.messages, held.ending) != (made.messages, made.ending):
                refuse(place, "the run holds another text of this episode", "import into a new run")
        if new and (made.checkpoint_id, case.id, made.rollout) in self._before:
            refuse(place, "the run holds an attempt that this one replaced", "import all logs into a new run")
        self.new_trajectories += new
        self.checkpoints.add(made.checkpoint_id)
        self.cases.add(case.id)
        self.trajectories.add(made.id)
        self._add_scores(number, sample, made, new)

    def _add_scores(self, number: int, sample: EvalSample, made: Trajectory, new: bool) -> None:
        log = self._logs[number]
        met = self._met.setdefault(number, {}).setdefault(made.id, {})
        if made.ending is Ending.ERROR:
            self._failed.add(made.id)
        self._given[made.id] = {name: _bare(one) for name, one in (sample.scores or {}).items()}
        for name, given in (sample.scores or {}).items():
            # A score is holdfast's own only beside an episode that it wrote.
            own = read_own_score(given, made.id) if OWN in sample.metadata else None
            if own is not None:
                self._add_score(own, sample)
                continue
            for place, score in self._scoring.read(log.origin, name, given, (made.id, made.checkpoint_id, new)):
                self._add_score(score, sample)
                met[place] = None

    def _add_other_scores(self, log: Log, sample: EvalSample, spot: Spot) -> None:
        """The scores that another copy of an episode has and the one that was kept has not."""
        identity = self._kept.get((log.checkpoint, spot))
        if identity is None or OWN in sample.metadata:
            return
        held = self._given[identity]
        for name, given in (sample.scores or {}).items():
            if name in held:
                _require_later(log, sample, name, held[name])
            else:
                for _, score in self._scoring.read(log.origin, name, given, (identity, log.checkpoint, False)):
                    self._add_score(score, sample)
                held[name] = _bare(given)

    def _add_score(self, score: Score, sample: EvalSample | None = None) -> None:
        """Store a score; missing where its sample was invalidated (``invalidate_samples``), for Inspect redoes it."""
        if sample is not None and sample.invalidation is not None:
            score = replace(score, value=None, missing=INVALIDATED)
        self.new_scores += self._store.add_score(score)
        self.scores[score.trajectory_id, score.judge, score.objective, score.rubric, score.repeat] = score.value is None

    def finish(self) -> None:
        """Store the samples that waited for an opening, and the scores that samples of a scored log lack."""
        for number, sample, read in self._waiting:
            with _taking(self._logs[number].path):
                self._take_foreign(number, sample, read, last=True)
        for number, found in self._met.items():
            log = self._logs[number].origin
            places = dict.fromkeys(place for met in found.values() for place in met)
            for trajectory, met in found.items():
                reason = FAILED if trajectory in self._failed else ABSENT
                for place in (one for one in places if one not in met):
                    self._add_score(self._scoring.score(log, place, trajectory, value=None, missing=reason))

    def _hold(self, case: Case) -> Case:
        """The case that the run holds under this id; else it is stored, by its own number where that is free."""
        held = self._cases.get(case.id)
        if held is None:
            number = case.number
            if (case.suite, number) in self._numbers:
                later = itertools.count(self._next.get(case.suite, 0))
                number = next(free for free in later if (case.suite, free) not in self._numbers)
                self._next[case.suite] = number
            held = self._cases[case.id] = replace(case, number=number)
            self._numbers.add((held.suite, held.number))
            self._store.add_cases([held])
        return held

    def notes(self) -> list[str]:
        """What a reader must know of the attempts, the cases' openings and the episodes."""
        first = next(iter(self.openings.values()), "")
        several = f"{len(self.openings):,} cases are opened in several ways; the run holds the first"
        opened = [f"{several} (first difference: {first})"] if self.openings else []
        told = [f"{self.repeated} samples stand twice in one log and count once"] if self.repeated else []
        return [*self.attempts.notes, *opened, *tell_notes(self.episode_notes), *told]


def _spot(sample: EvalSample) -> Spot:
    return Spot(id=str(sample.id), epoch=sample.epoch, uuid=sample.uuid or None)


def _bare(given: InspectScore) -> InspectScore:
    """A score's value and edits alone."""
    return InspectScore(value=given.value, history=given.history)


def _require_later(log: Log, sample: EvalSample, name: str, held: InspectScore) -> None:
    """Refuse another copy of an episode whose score differs, unless the copy that counts was edited since.

    Errors: StudyError.
    """
    given = (sample.scores or {})[name]
    same = given.value == held.value or (is_unscored(given.value) and is_unscored(held.value))
    if not (same or not sample.uuid or len(held.history) > len(given.history)):
        mine, other = describe(given.value), describe(held.value)
        finding = f"another copy of this episode has the score {other} of {name}, this one {mine}"
        refuse(_place(log, sample), finding, "leave out the copy that was replaced")


def _place(log: Log, sample: EvalSample) -> str:
    return f"{log.path}: sample {sample.id!r}, epoch {sample.epoch}"


def _earlier_attempts(store: Store, logs: Sequence[Log]) -> set[tuple[str, str, int]]:
    """Where the run holds episodes of attempts at the same evaluations from earlier imports: checkpoint, case, rollout.

    Nothing in a run is taken back, so a retry of them cannot replace them.
    """
    mine = {(log.checkpoint, log.header.eval.task_id) for log in logs if log.header.eval.task_id and not log.own}
    names = {one.checkpoint for one in origins.read_log_states(store) if (one.checkpoint, one.attempt) in mine}
    if not names:
        return set()
    table, cases = store.trajectory_table(), store.case_ids()
    rows = zip(table.checkpoint.tolist(), table.case.tolist(), table.rollout.tolist(), strict=True)
    return {
        (table.checkpoints[checkpoint].id, cases[case], rollout)
        for checkpoint, case, rollout in rows
        if table.checkpoints[checkpoint].id in names
    }


def import_logs(
    source: Path | Sequence[Path], store: Store, *, scores: Sequence[ScoreOption] = (), progress: Listener | None = None
) -> ImportSummary:
    """What was read of the logs at ``source``, a file, a folder or several files, into ``store``, all or nothing.

    Logs that belong together, such as an attempt and its retry, must come together. ``scores`` say what the values of
    other scorers mean, before what the registry knows. In a folder, files that are no logs are ignored. Errors:
    StudyError.
    """
    started = time.monotonic()
    if any(step.kind != "judge" for step in store.log.steps().values()):
        refuse(store.path, "holds the run of a study", "import into another directory")
    paths = find_logs(source) if isinstance(source, Path) else list(source)
    ignored = 0
    if isinstance(source, Path) and source.is_dir():
        ignored = sum(path.is_file() for path in source.rglob("*")) - len(paths)
    subject = source if isinstance(source, Path) else ", ".join(map(str, paths[:SHOWN]))
    logs = [_open_log(path) for path in paths]
    sizes = [path.stat().st_size for path in paths]
    scoring = Scoring(subject, scores, origins.read_declarations(store) or ())
    with store.transaction():
        reading = _Import(store, logs, scoring)
        reading.store_checkpoints()
        for done, number in enumerate(reading.attempts.order, 1):
            for sample in _read_samples(logs[number]):
                with _taking(paths[number]):
                    reading.take(number, sample)
            if progress is not None:
                read = sum(sizes[place] for place in reading.attempts.order[:done])
                found = {"trajectories": len(reading.trajectories), "scores": len(reading.scores)}
                seconds = time.monotonic() - started
                progress(ImportProgress(bytes_read=read, bytes_total=sum(sizes), seconds=seconds, **found))
        reading.finish()
        if not reading.trajectories:
            refuse(subject, f"no sample in {len(logs)} logs", "give logs of agents that were run")
        notes = _note(store, logs, reading, scoring, ignored)
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
        notes=notes,
    )


def _note(store: Store, logs: Sequence[Log], reading: _Import, scoring: Scoring, ignored: int) -> tuple[str, ...]:
    """Note in the run what was declared, what was not taken and how whole the logs are; all of it as sentences.

    Errors: StudyError where an option found nothing, a scorer is off its scale, or a declaration differs.
    """
    scoring.require_options()
    scoring.require_scales()
    origins.add_declarations(store, scoring.declarations())
    origins.write_notes(store, origins.UNDECLARED, scoring.undeclared(origins.read_undeclared(store)))
    states = describe_logs(logs, reading.attempts, reading.held)
    origins.write_notes(store, origins.LOGS, merge_states(origins.read_log_states(store), states))
    # Declarations and states are noted as such; the run keeps as sentences what stands nowhere else.
    kept = [*scoring.doubts(), *reading.notes()]
    if ignored:
        kept.append(f"{ignored} other files in the folder are no Inspect logs and were left out")
    kept = list(map(clean, kept))
    origins.write_notes(store, origins.NOTES, dict.fromkeys((*origins.read_import_notes(store), *kept)))
    return tuple(dict.fromkeys((*map(clean, scoring.notes()), *map(clean, tell_states(states)), *kept)))
