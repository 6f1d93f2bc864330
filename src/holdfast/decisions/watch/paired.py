"""Looks at checkpoints: the scores of later checkpoints on the baseline's own cases."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from holdfast.analysis.labelled import join
from holdfast.decisions.gate.books import Book, describe_gaps, is_log, make_book
from holdfast.decisions.gate.declared import describe_declaration
from holdfast.decisions.gate.pairing import WATCH, require_comparable
from holdfast.decisions.watch.reading import View, count_absent, find_later, find_looks, freeze, judge_again, read_view
from holdfast.decisions.watch.request import CheckpointWatch, WatchRequest
from holdfast.decisions.watch.series import Kind, Watch, case_means, promise_delay, replay
from holdfast.decisions.watch.state import Seen, State, load_state, save_state
from holdfast.exchange.imports import import_run
from holdfast.exchange.scales import ScoreOption
from holdfast.records import Checkpoint, Labelled
from holdfast.records.errors import StoreError, StudyError
from holdfast.records.outputs import scratch_directory
from holdfast.store import DATABASE, Store
from holdfast.store.choosing import find_checkpoint
from holdfast.store.origins import spell

LABELLED, UNREAD = "labelled", "unread"  # of a look's notes: the judge's relation, and what it could not be read in


@contextlib.contextmanager
def open_run(path: Path, scores: Sequence[ScoreOption] = ()) -> Iterator[Store]:
    """A run to read: a directory of ours, or Inspect logs, imported for the while; ``scores`` say what theirs mean.

    Errors: StoreError, StudyError.
    """
    if (path / DATABASE).is_file():
        with Store(path) as store:
            yield store
        return
    if not is_log(path):
        raise StoreError(f"{path}: no run here (no {DATABASE}) and no Inspect log; give one of the two")
    with scratch_directory() as folder:
        import_run(path, folder / "run", scores=scores)
        with Store(folder / "run") as store:
            yield store


def watch_checkpoints(request: CheckpointWatch) -> tuple[Watch, State]:
    """What later checkpoints say against the baseline; the state is saved where one is kept. Errors: HoldfastError."""
    with open_run(request.run, request.score) as store:
        book = make_book(store, str(request.run))
        baseline = find_checkpoint(book, request.baseline or "", request.where)
        before = read_view(book, baseline, request.judge, request.objective, scores=request.score)
        declared = declare("paired", before, request, request.frozen or 0)
        declared |= {} if before.declared is None else {"score": spell(before.declared)}
        state = None if request.state is None else load_state(request.state, declared)
        if state is None:
            state = State(declared=declared, baseline=before.values, asked=before.asked)
            if request.frozen:
                state.frozen = freeze(store, before, request.frozen, request.seed)
        taken = len(state.looks)
        looks = _take_looks(book, before, request)
        state.looks += [seen for seen in looks if state.find(seen.label, seen.data) is None]
        if len(state.looks) > taken and state.frozen:
            asked = request.find_judge(before.judge, store)
            frozen, unread = judge_again(store, asked, state.frozen, before)
            last = state.looks[-1]
            state.looks[-1] = replace(last, frozen=frozen, notes=note_unread(last.notes, unread))
        notes = _tell_choice(book, before, request, {str(seen.notes.get("checkpoint")) for seen in state.looks})
    promise = ""
    if request.drop is not None:
        rng = np.random.default_rng(request.seed)
        promise = promise_delay(state, request.drop, alpha=request.level, margin=request.margin, rng=rng)
    scores, name = case_means(before.values).values(), before.side.name
    watch = make_watch("paired", before, state, request, scores, baseline=name, notes=notes, promise=promise)
    if request.state is not None and len(state.looks) > taken:
        save_state(request.state, state)
    return watch, state


def declare(kind: Kind, before: View, request: WatchRequest, frozen: int) -> dict[str, Any]:
    """What a watch is begun with and goes on with: the baseline and its scores, what is asked and at which level."""
    return {
        "kind": kind,
        "baseline": before.side.checkpoint.id,
        "baseline scores": before.data,
        "judge": before.judge,
        "rubric": before.rubric,
        "objective": request.objective,
        "alpha": request.alpha,
        "margin": request.margin,
        "min coverage": request.min_coverage,
        "frozen": frozen,
        "seed": request.seed,
        # Nothing where the scores had no part in the choice of the baseline.
        **({"best of": request.best_of} if request.best_of > 1 else {}),
    }


def make_watch(
    kind: Kind, before: View, state: State, request: WatchRequest, scores: Collection[float], **more: Any
) -> Watch:
    """All looks of a state against a baseline of these ``scores``; ``more`` says what differs between the kinds."""
    # What it means at all: what the score was declared to be, and how whole the baseline's logs are.
    basis = [] if before.declared is None else [describe_declaration(before.declared, before.objective)]
    basis += [*describe_gaps(before.gaps, "baseline", counted=True), *before.notes]
    rows = replay(state, kind, request.level, request.margin, request.min_coverage, baseline=before.coverage)
    labelled = [Labelled(row.notes[LABELLED]) for row in rows if LABELLED in row.notes]
    return Watch(
        kind=kind,
        judge=before.judge,
        objective=before.objective,
        alpha=request.alpha,
        margin=request.margin,
        rows=rows,
        min_coverage=request.min_coverage,
        basis=tuple(basis),
        best_of=request.best_of,
        # Of the looks that were trained, else of the baseline.
        labelled=join(labelled) if labelled else before.labelled,
        reads_state=before.reads_state,
        baseline_mean=fmean(scores) if scores else None,
        baseline_n=len(scores),
        baseline_missing=before.lacking,
        **more,
    )


def note_unread(notes: Mapping[str, Any], lines: Sequence[str]) -> dict[str, Any]:
    """A look's notes with what is told of a judge whose replies could not be read."""
    return {**notes, UNREAD: [*notes.get(UNREAD, ()), *lines]} if lines else dict(notes)


def _tell_choice(book: Book, before: View, request: CheckpointWatch, looks: Collection[str]) -> tuple[str, ...]:
    """That the baseline has the highest mean of the trainings like it in its run, where nobody said how it was chosen.

    ``looks`` are ids of checkpoints that are looked at: they are no candidates.
    """
    mine, means = before.side.checkpoint, []
    for one in book.checkpoints:
        if (one.base, one.lineage) != (mine.base, mine.lineage) or one.id in {mine.id, *looks}:
            continue
        # One that is not judged was not chosen by its score.
        with contextlib.suppress(StudyError):
            view = read_view(book, one, before.judge, before.objective, rubric=before.rubric, scores=request.score)
            means.append(fmean(case_means(view.values).values()))
    own = case_means(before.values).values()
    if request.best_of > len(means) or not means or not own or fmean(own) < max(means):
        return ()
    return (
        f"{before.side.name} has the highest mean of {len(means) + 1} checkpoints like it in {request.run}: if it was"
        f" chosen for that, its luck is in no bound; say so with --best-of {len(means) + 1}",
    )


def _take_looks(book: Book, before: View, request: CheckpointWatch) -> list[Seen]:
    """The looks that are asked for, in order. Errors: StudyError where one is not of the same cases and rubric."""
    near, names, looks = before.side.checkpoint, request.checkpoints, list[Seen]()
    for path in request.runs or ():
        with open_run(path, request.score) as store:
            later = make_book(store, str(path))
            for one in [find_checkpoint(later, name, near=near) for name in names or [""]]:
                label = str(path) if len(names or [""]) == 1 else f"{path} · {one.name}"
                looks.append(replace(_look(later, one, before, request), label=label))
    if not request.runs:
        named = [one for name in names or () for one in find_looks(book, name, request.where, near)]
        distinct = {one.id: one for one in (named if names else find_later(book, near))}
        looks = [_look(book, one, before, request) for one in distinct.values()]
    if request.label is None:
        return looks
    if len(looks) != 1:
        raise StudyError(f"--label names one look, but there are {len(looks)}; leave it out")
    return [replace(looks[0], label=request.label)]


def _look(book: Book, checkpoint: Checkpoint, before: View, request: WatchRequest) -> Seen:
    """A checkpoint as a look that bears its name."""
    view = read_view(book, checkpoint, before.judge, before.objective, rubric=before.rubric, scores=request.score)
    require_comparable(before.side, view.side, WATCH)
    logs = describe_gaps(view.gaps, "look", counted=True)
    notes = {"run": book.place, "checkpoint": checkpoint.id, "unfit": view.unfit}
    notes |= {LABELLED: view.labelled.value} if checkpoint.stages else {}
    return Seen(
        label=checkpoint.name,
        data=view.data,
        values=view.values,
        missing=view.missing + count_absent(before, view),
        notes={**notes, **({"logs": logs} if logs else {})},
    )
