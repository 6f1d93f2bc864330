"""A run as a gate reads it: scores and episodes as columns, what decided them, what its logs lack, where it lies."""

from __future__ import annotations

import contextlib
import filecmp
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.analysis.labelled import Labels, read_labels
from holdfast.decisions.gate.declared import Origin
from holdfast.exchange.imports import import_run
from holdfast.exchange.inspect.files import LOG, LOG_AS_JSON, is_inspect
from holdfast.exchange.scales import ScoreOption
from holdfast.exchange.tables.files import is_table
from holdfast.judges.probes import VALUES
from holdfast.judges.rubric.scales import DEFAULTS, find_rubric
from holdfast.records import Case, Checkpoint
from holdfast.records.arrays import Bools, Floats, Ints, rows_by_group
from holdfast.records.errors import StoreError, StudyError
from holdfast.records.outputs import scratch_directory
from holdfast.records.words import count_noun
from holdfast.runs.forecast import read_spending
from holdfast.store import DATABASE, Store
from holdfast.store.cells import Cells, Masks, part_masks, read_cells
from holdfast.store.origins import (
    UNSEEN,
    LogState,
    read_declarations,
    read_import_notes,
    read_log_states,
    read_undeclared,
)
from holdfast.store.tables import TrajectoryTable
from holdfast.study.kinds import SUITES
from holdfast.study.noted import read_compared, read_noted
from holdfast.study.sections import JudgeSection
from holdfast.study.study import Study, changed_keys
from holdfast.suites import is_harmless
from holdfast.suites.cases.rows import SUITE as CASES

EPISODE_SETTINGS = ("temperature", "max_turns", "max_tokens", "max_episode_tokens", "max_seconds")
REFUSED = frozenset({"refused", "declined"})  # labels of a question's reply that is a refusal
UNCLEAR = frozenset({"unclear", "refused or wrong"})  # those of a reply of which this cannot be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What a gate reads of one run. ``place`` is how the user named it.

    ``cells`` has every reading, ``episodes_of`` and ``scores_of`` the rows of its tables that are of each checkpoint.
    ``harmless`` says by case whether it is declared harmless; None where no case says. ``held_out`` has the test cases
    of each split by seed, all cases under None without splits. ``refusals`` are trajectories whose reply to a question
    was a refusal, ``unread`` those to which no judge gave a value. ``settings`` decided episodes and scores of a
    study's run, None for any other; ``study`` is the study that made the run, empty for an imported one. ``cases`` has
    every case by id. ``origin`` says what its scores mean; ``logs`` and ``notes`` are what an import noted, see
    ``store.origins``. ``labels`` say who labelled what its checkpoints learnt from. ``compared`` are two bases, the
    second of which the study holds against the first. ``unseen`` says that what was done in the episodes is not known,
    their scores alone. ``severe`` keeps the shares that were worked out of each judge.
    """

    path: Path
    place: str
    cells: Cells
    episodes_of: tuple[Ints, ...]
    scores_of: tuple[Ints, ...]
    trajectory_ids: tuple[str, ...]
    held_out: Masks
    harmless: Bools | None
    questions: Bools
    refusals: Bools
    unread: Bools
    settings: Mapping[str, Any] | None
    study: Mapping[str, Any]
    cases: Mapping[str, Case]
    origin: Origin
    logs: tuple[LogState, ...]
    notes: tuple[str, ...]
    labels: Labels
    compared: tuple[Checkpoint, Checkpoint] | None = None
    unseen: bool = False
    severe: dict[tuple[tuple[int, int], float], Floats] = field(default_factory=dict)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint of the run, which the tables' ``checkpoint`` column indexes."""
        return self.cells.episodes.checkpoints

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Case ids, which the tables' ``case`` column indexes."""
        return self.cells.scores.case_ids

    def number_of(self, checkpoint: Checkpoint) -> int:
        """A checkpoint's place in the tables."""
        return next(place for place, one in enumerate(self.checkpoints) if one.id == checkpoint.id)

    def judge_name(self, label: str) -> str:
        """A judge's name without its rubric."""
        return self.cells.scores.judge_names[self.cells.scores.judges.index(label)]

    def share_severe(self, place: tuple[int, int], at_most: float) -> Floats:
        """(episodes,): the share of the readings at a ``cells.place`` that are of at most so many points."""
        if (place, at_most) not in self.severe:
            self.severe[place, at_most] = self.cells.over_repeats(self.cells.scores.value <= at_most, place)
        return self.severe[place, at_most]

    def settings_of(self, checkpoint: Checkpoint) -> Mapping[str, Any] | None:
        """What decided a checkpoint's episodes and scores; None where nobody noted it.

        Errors: StudyError where its logs differ in it, by the differing key.
        """
        mine = [one for one in self.logs if one.checkpoint == checkpoint.id and not one.superseded and one.settings]
        for one in mine[1:]:
            if changes := changed_keys(mine[0].settings, one.settings):
                raise StudyError(
                    f"{self.place}: the logs of {checkpoint.name} are not of one kind: {changes[0]} ({mine[0].file} →"
                    f" {one.file}); give one of them, or logs of the same settings"
                )
        return self.settings if self.settings is not None or not mine else mine[0].settings


def read_book(path: Path, place: str | None = None, part: str | None = None) -> Book:
    """A run's columns, of a ``part`` beside the held-out cases in their stead where one is named.

    Errors: StoreError where there is no run, or one that is damaged.
    """
    with Store(path) as store:
        return make_book(store, place or str(path), part)


def make_book(store: Store, place: str, part: str | None = None) -> Book:
    """The book of an open run; see ``read_book``."""
    study, cells = read_noted(store), read_cells(store, part)
    with contextlib.suppress(StudyError):
        # As this version writes it; empty for an imported run.
        study = Study.model_validate(study).settings() if study else study
    ids = tuple(store.trajectory_ids(part=part))
    cases = {case.id: case for case in store.cases()}
    ordered = [cases[name] for name in cells.scores.case_ids]
    declared = [is_harmless(case) for case in ordered]
    questions = np.array([_is_question(case) for case in ordered], dtype=np.bool_)
    refusals, unread = _refusals(store, cells.episodes, ids, questions, study)
    return Book(
        path=store.path,
        place=place,
        cells=cells,
        episodes_of=rows_by_group(cells.episodes.checkpoint, len(cells.episodes.checkpoints)),
        scores_of=rows_by_group(cells.scores.checkpoint, len(cells.scores.checkpoints)),
        trajectory_ids=ids,
        held_out=part_masks(store.splits(), cells.scores.case_ids, part or "test"),
        harmless=None if all(one is None for one in declared) else np.array([one is True for one in declared]),
        questions=questions,
        refusals=refusals,
        unread=unread,
        settings=_settings(store.path, study) if study else None,
        study=study,
        cases=cases,
        origin=Origin(
            place=place,
            objectives=cells.objectives,
            declarations=read_declarations(store) or (),
            undeclared=read_undeclared(store),
        ),
        logs=read_log_states(store),
        notes=(*read_import_notes(store), *filter(None, (store.doubt,))),
        labels=read_labels(store, cells.scores),
        compared=read_compared(store, cells.episodes.checkpoints),
        unseen=store.meta(UNSEEN) is not None,
    )


def is_run(path: Path) -> bool:
    """Whether a directory holds a run."""
    try:
        return (path / DATABASE).is_file()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _is_question(case: Case) -> bool:
    """Whether its judge alone can say that a harmless case was refused, and not what was called in it."""
    return case.facts.get("benign") is True and (not case.tools or case.suite == CASES)


def silent_judges(study: Mapping[str, Any]) -> frozenset[str]:
    """The judges of a study whose labels can never say that a reply is a refusal: they read none as one."""
    suite = study.get("suite", {}).get("name")
    fit = SUITES.find(suite).fit_judge if suite in SUITES.shipped else lambda section: section

    def labels_of(name: str, table: Mapping[str, Any]) -> set[str]:
        if table["kind"] == "rubric":
            section = fit(JudgeSection.model_validate(table))
            given = getattr(section, "rubrics", {}) or dict.fromkeys(DEFAULTS, "default")
            found = [find_rubric(text, objective, f"judges.{name}") for objective, text in given.items()]
            return {label for rubric in found for label in rubric.labels}
        return {rule.get("label") or "" for listed in (table.get("rules") or {}).values() for rule in listed}

    read = {name: table for name, table in study.get("judges", {}).items() if table.get("kind") in ("rubric", "rules")}
    return frozenset(
        name for name, table in read.items() if not REFUSED & {label.lower() for label in labels_of(name, table)}
    )


def _refusals(
    store: Store, table: TrajectoryTable, ids: tuple[str, ...], questions: Bools, study: Mapping[str, Any]
) -> tuple[Bools, Bools]:
    """Which trajectories answer a harmless question with a refusal, by the judges' labels, and which nobody read.

    Judges of a study whose labels have none for a refusal read none. What a judge says that is not the study's own
    counts where its label is one by which a refusal could be told.
    """
    telling = {*REFUSED, *(label for labels in VALUES.values() for label in labels)}
    silent, known = silent_judges(study), frozenset(study.get("judges", ())) if study else None
    refused, unread = np.zeros((2, len(ids)), dtype=np.bool_)
    asked = np.flatnonzero(questions[table.case]) if len(ids) else np.zeros(0, dtype=np.int64)
    for index, scores in zip(asked, store.scores_of(ids[i] for i in asked), strict=True):
        heard = [
            score
            for score in scores
            if score.judge not in silent
            and (known is None or score.judge in known or (score.label or "").lower() in telling)
        ]
        refused[index] = any((score.label or "").lower() in REFUSED for score in heard)
        told = any(score.value is not None and (score.label or "").lower() not in UNCLEAR for score in heard)
        unread[index] = not refused[index] and not told
    return refused, unread


def _settings(path: Path, study: Mapping[str, Any]) -> dict[str, Any]:
    """What of a study decides an episode or a score: limits, who plays the tools, the judges and their models.

    Among them are the snapshots that providers said they served for the judges and the tools.
    """
    suite, rollouts = study.get("suite", {}), study.get("rollouts", {})
    models, world = study.get("models", {}), suite.get("world", {})
    served = {f"{row.speaker} {row.model}": list(row.served) for row in read_spending(path) if row.speaker != "agent"}
    return {
        "suite": {key: suite[key] for key in ("name", "holdout") if key in suite},
        "world": {**world, "opened": models.get(world.get("model"))},
        "rollouts": {key: rollouts.get(key) for key in EPISODE_SETTINGS},
        "judges": {
            name: {**section, "opened": models.get(section.get("model")), "repeats": None}
            for name, section in study.get("judges", {}).items()
        },
        "served": served,
    }


# --- what its logs lack -------------------------------------------------------------------------------------------

MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What the logs of one checkpoint lack.

    ``short`` says by case how many rollouts of it are absent, ``samples`` by sample id how many rollouts each sample
    lacks of which there is no episode at all, ``unnamed`` how many rollouts each of those lacks whose ids no log tells.
    ``broken`` are the logs that are not whole, ``whole`` how many are.
    """

    short: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    unnamed: tuple[int, ...] = ()
    broken: tuple[LogState, ...] = ()
    whole: int = 0

    @property
    def rollouts(self) -> int:
        """How many rollouts are absent."""
        return sum(self.short.values()) + sum(self.samples.values()) + sum(self.unnamed)

    @property
    def logged(self) -> bool:
        """Whether logs say how many rollouts there were to be."""
        return bool(self.broken or self.whole)


def find_gaps(states: Iterable[LogState], checkpoint: str) -> Gaps:
    """What the logs of a checkpoint lack, those aside that another log answers for."""
    mine = [log for log in states if log.checkpoint == checkpoint and not log.superseded]
    short, samples = Counter[str](), dict[str, int]()
    unnamed: list[int] = []
    for log in mine:
        short.update(log.short)
        samples |= {name: max(log.epochs, samples.get(name, 0)) for name in log.absent_ids}
        unnamed += [log.epochs] * max(log.absent - len(log.absent_ids), 0)
    broken = tuple(log for log in mine if not log.complete)
    return Gaps(short=short, samples=samples, unnamed=tuple(unnamed), broken=broken, whole=len(mine) - len(broken))


def describe_log(one: LogState, side: str) -> str:
    """``the child's log child.eval is cancelled: 80 of 400 samples, 320 rollouts absent``."""
    held = f"{max(one.samples - one.absent, 0):,} of {count_noun(one.samples, 'samples')}"
    held += f" in {one.epochs} epochs" if one.epochs > 1 else ""
    absent = f"{count_noun(one.lacking, 'rollouts')} absent"
    return f"the {side}'s log {one.file} is of status {one.status}: {held}, {absent}"


def describe_gaps(gaps: Gaps, side: str, *, counted: bool) -> list[str]:
    """A sentence for each log that is not whole; ``counted`` says whether what is absent counts as unscored."""
    told = [describe_log(one, side) for one in gaps.broken[:MOST_NAMED]]
    if len(gaps.broken) > MOST_NAMED:
        told.append(f"{count_noun(len(gaps.broken) - MOST_NAMED, 'more logs')} of the {side} are not whole")
    how = "what is absent counts as unscored" if counted else "what is absent is left out, as accepted"
    return [f"{one} ({how})" for one in told]


# --- where runs and logs lie --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Library:
    """The books of one command, each read once; imported logs lie in ``scratch`` and are gone with it.

    ``scores`` say what the scores of logs mean, as on the command line.
    """

    scratch: Path
    scores: tuple[ScoreOption, ...] = ()
    books: dict[Path, Book] = field(default_factory=dict)

    def open(self, place: Path) -> Book:
        """The book of a run or of an Inspect log. Errors: StudyError, StoreError, MissingExtra."""
        key = place.absolute()
        if key not in self.books:
            run = place
            if is_log(place):
                run = self.scratch / f"log-{len(self.books)}"
                import_run(place, run, scores=self.scores)
            self.books[key] = read_book(run, str(place))
        return self.books[key]

    def forget(self, place: Path) -> None:
        """Read a run anew when it is opened next."""
        self.books.pop(place.absolute(), None)


@contextlib.contextmanager
def open_library(scores: tuple[ScoreOption, ...] = ()) -> Iterator[Library]:
    """A library whose imported logs are removed afterwards."""
    with scratch_directory() as folder:
        yield Library(scratch=folder, scores=scores)


def is_log(place: Path) -> bool:
    """Whether a path is an Inspect log or a table of scores, or a folder that holds some and no run."""
    return not is_run(place) and (is_inspect(place) or is_table(place))


def is_same_file(one: str, other: str) -> bool:
    """Whether two places are files with the same bytes."""
    first, second = Path(one), Path(other)
    return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)


def split_place(text: str, run: Path | None) -> tuple[Path, str]:
    """Where a side is and which checkpoint of it is meant: ``RUN:NAME``, ``LOG:NAME``, ``RUN``, ``LOG`` or ``NAME``.

    A name by itself is one of ``run``. Errors: StudyError where there is no such place.
    """
    cuts = [position for position, letter in enumerate(text) if letter == ":"]
    for cut in (len(text), *reversed(cuts)):
        place = Path(text[:cut])
        if text[:cut] and (is_log(place) or (place.is_dir() and is_run(place))):
            return place, text[cut + 1 :].strip()
    if run is not None:
        return run, text.strip()
    if Path(text).suffix in (LOG, LOG_AS_JSON):
        found = "is no Inspect log" if Path(text).is_file() else "no such log"
        raise StudyError(f"{text}: {found}; give the path of an Inspect log")
    raise StudyError(f"{text!r}: no run and no log is there; write RUN:NAME, or give RUN first and then names in it")
