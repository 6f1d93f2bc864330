"""Looks at checkpoints: the scores of later checkpoints on the baseline's own cases."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.analysis.labelled import join
from holdfast.decisions.gate.choosing import read_conditions
from holdfast.decisions.gate.declared import describe_declaration
from holdfast.decisions.gate.logs import describe_gaps
from holdfast.decisions.watch.drift import choose_frozen, judge_again, mean_scores
from holdfast.decisions.watch.reading import (
    View,
    count_absent,
    find_checkpoint,
    find_later,
    find_looks,
    read_view,
    require_same_cases,
)
from holdfast.decisions.watch.series import Row, Watch, case_means, promise_delay, replay
from holdfast.decisions.watch.state import Seen, State, load_state, save_state
from holdfast.exchange.inspect.files import is_inspect
from holdfast.exchange.scales import ScoreOption, parse_score
from holdfast.records import Checkpoint, Labelled
from holdfast.records.errors import MissingExtra, StoreError, StudyError
from holdfast.records.outputs import scratch_directory
from holdfast.rollout.audit import UNFIT
from holdfast.runs.rescoring import find_judge_step
from holdfast.store import DATABASE, Store
from holdfast.store.codec import FLAG_BITS
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
    if not path.exists() or not is_inspect(path):
        raise StoreError(f"{path}: no run here (no {DATABASE}) and no Inspect log; give one of the two")
    try:
        from holdfast.exchange.inspect.importing import import_logs
    except ImportError as error:
        raise MissingExtra("import of Inspect logs", "remote") from error
    with scratch_directory() as folder, Store.create(folder / "run") as store:
        import_logs(path, store, scores=scores)
        yield store


def watch_checkpoints(options: Namespace) -> tuple[Watch, State]:
    """What later checkpoints say against the baseline; the state is saved where one is kept. Errors: HoldfastError."""
    scores = read_scores(options)
    with open_run(options.run, scores) as store:
        place = str(options.run)
        baseline = find_checkpoint(place, store.checkpoints(), options.baseline, read_conditions(options.where))
        before = read_view(store, place, baseline, options.judge, options.objective, scores=scores)
        declared = {
            "kind": "paired",
            "baseline": baseline.id,
            "baseline scores": before.data,
            "judge": before.judge,
            "rubric": before.rubric,
            "objective": options.objective,
            "alpha": options.alpha,
            "margin": options.margin,
            "min coverage": options.min_coverage,
            "frozen": options.frozen or 0,
            "seed": options.seed,
            **({} if before.declared is None else {"score": spell(before.declared)}),
            **declare_choice(options),
        }
        state = None if options.state is None else load_state(options.state, declared)
        if state is None:
            state = State(declared=declared, baseline=before.values, asked=count_asked(before))
            if options.frozen:
                state.frozen = freeze(store, before, options)
        taken = len(state.looks)
        for seen in _views(store, before, options):
            if state.find(seen.label, seen.data) is None:
                state.looks.append(seen)
        if len(state.looks) > taken and state.frozen:
            frozen, unread = try_judge(store, state, before, options)
            last = state.looks[-1]
            state.looks[-1] = replace(last, frozen=frozen, notes=note_unread(last.notes, unread))
        notes = tell_choice(store, before, options, {str(seen.notes.get("checkpoint")) for seen in state.looks})
    watch = _tell(before, state, options, notes)
    if options.state is not None and len(state.looks) > taken:
        save_state(options.state, state)
    return watch, state


def _tell(before: View, state: State, options: Namespace, notes: tuple[str, ...]) -> Watch:
    rows = replay(
        state, "paired", shared_level(options), options.margin, options.min_coverage, baseline=before.coverage
    )
    means = case_means(before.values)
    return Watch(
        kind="paired",
        baseline=before.name,
        judge=before.judge,
        objective=options.objective,
        alpha=options.alpha,
        margin=options.margin,
        baseline_mean=sum(means.values()) / len(means) if means else None,
        baseline_n=len(means),
        rows=rows,
        min_coverage=options.min_coverage,
        basis=describe_basis(before),
        notes=notes,
        promise=tell_delay(state, options),
        best_of=options.best_of,
        labelled=relate_judge(before, rows),
        reads_state=before.reads_state,
        baseline_missing=before.lacking,
    )


def relate_judge(before: View, rows: Sequence[Row]) -> Labelled:
    """Of how many stages of what is watched the judge labelled the pairs: of the looks that were trained, else the
    baseline.
    """
    found = [Labelled(row.notes[LABELLED]) for row in rows if LABELLED in row.notes]
    return join(found) if found else before.labelled


def note_unread(notes: Mapping[str, Any], lines: Sequence[str]) -> dict[str, Any]:
    """A look's notes with what is told of a judge whose replies could not be read."""
    return {**notes, UNREAD: [*notes.get(UNREAD, ()), *lines]} if lines else dict(notes)


def declare_choice(options: Namespace) -> dict[str, int]:
    """What is declared of how the baseline was chosen; nothing where these scores had no part in it."""
    return {"best of": options.best_of} if options.best_of > 1 else {}


def shared_level(options: Namespace) -> float:
    """The level of all looks together against one baseline.

    A baseline that is the best of k by these scores was lucky, and a model that has not changed then looks worse. With
    a share of the level for each of the k, no alarm is false against any of them but with probability alpha, whichever
    is chosen (Bonferroni).
    """
    return float(options.alpha / options.best_of)


def tell_choice(store: Store, before: View, options: Namespace, looks: Collection[str]) -> tuple[str, ...]:
    """That the baseline has the highest mean of the trainings like it in its run, where nobody said how it was chosen.

    ``looks`` are ids of checkpoints that are looked at: they are no candidates.
    """
    mine = before.checkpoint
    rivals = [
        one
        for one in store.checkpoints()
        if (one.base, one.lineage) == (mine.base, mine.lineage) and one.id != mine.id and one.id not in looks
    ]
    means = []
    for one in rivals:
        try:
            found = case_means(
                read_view(
                    store,
                    str(options.run),
                    one,
                    before.judge,
                    before.objective,
                    rubric=before.rubric,
                    scores=read_scores(options),
                ).values
            )
        except StudyError:
            continue  # not judged: nobody chose by its score
        means.append(sum(found.values()) / len(found))
    own = list(case_means(before.values).values())
    if options.best_of > len(means) or not means or not own or sum(own) / len(own) < max(means):
        return ()
    return (
        f"{before.name} has the highest mean of {len(means) + 1} checkpoints like it in {options.run}: if it was chosen"
        f" for that, its luck is in no bound; say so with --best-of {len(means) + 1}",
    )


def describe_basis(view: View) -> tuple[str, ...]:
    """What a watch means at all: what the score was declared to be, and how whole the baseline's logs are."""
    declared = [] if view.declared is None else [describe_declaration(view.declared, view.objective)]
    return (*declared, *describe_gaps(view.gaps, "baseline", counted=True), *view.notes)


def tell_delay(state: State, options: Namespace) -> str:
    """How soon the drop that the user named is caught, or nothing."""
    if options.drop is None:
        return ""
    import numpy as np

    rng = np.random.default_rng(options.seed)
    return promise_delay(state, options.drop, alpha=shared_level(options), margin=options.margin, rng=rng)


def try_judge(
    store: Store, state: State, view: View, options: Namespace
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """What the judge gives the frozen set now, and what is told of replies unread. Errors: HoldfastError."""
    budget = {"max_calls": options.max_calls, "max_cost": options.max_cost}
    step = find_judge_step(view.judge, options.judges, store, budget, trusted=options.trust_endpoints)
    return judge_again(store, step, list(state.frozen), view)


def freeze(store: Store, view: View, options: Namespace) -> dict[str, float]:
    """The frozen set: some of a view's trajectories with the scores that they have. Errors: StudyError."""
    scores = mean_scores(store, view.trajectories, view.judge, view.rubric, view.objective)
    if not scores:
        raise StudyError(
            f"{store.path}: {view.name} has no trajectory scored by {view.judge} to freeze; judge it first"
        )
    return choose_frozen(scores, options.frozen, options.seed)


def _views(store: Store, before: View, options: Namespace) -> list[Seen]:
    """The looks that are asked for, in order. Errors: StudyError where one is not of the same cases and rubric."""
    found = _views_of_runs(before, options) if options.runs else _views_of_run(store, before, options)
    if options.label is None:
        return found
    if len(found) != 1:
        raise StudyError(f"--label names one look, but there are {len(found)}; leave it out")
    return [replace(found[0], label=options.label)]


def _views_of_runs(before: View, options: Namespace) -> list[Seen]:
    found = []
    for path in options.runs:
        with open_run(path, read_scores(options)) as store:
            checkpoints = store.checkpoints()
            names = options.checkpoints or [None]
            chosen = [find_checkpoint(str(path), checkpoints, name, near=before.checkpoint) for name in names]
            for one in chosen:
                seen = _look(store, str(path), one, before, read_scores(options))
                found.append(replace(seen, label=str(path) if len(chosen) == 1 else f"{path} · {one.name}"))
    return found


def _views_of_run(store: Store, before: View, options: Namespace) -> list[Seen]:
    place, checkpoints = str(options.run), store.checkpoints()
    if options.checkpoints:
        where = read_conditions(options.where)
        named = [find_looks(place, checkpoints, name, where, before.checkpoint) for name in options.checkpoints]
        wanted = [one for found in named for one in found]
    else:
        wanted = find_later(place, checkpoints, before.checkpoint)
    distinct = {one.id: one for one in wanted}
    return [_look(store, place, one, before, read_scores(options)) for one in distinct.values()]


def read_scores(options: Namespace) -> tuple[ScoreOption, ...]:
    """What ``--score`` says. Errors: StudyError."""
    return tuple(parse_score(word) for word in options.score)


def count_asked(view: View) -> int:
    """How many cases a view was to have, those among them that its logs lack altogether."""
    return len(view.cases) + len(view.gaps.samples) + len(view.gaps.unnamed)


def _look(store: Store, place: str, checkpoint: Checkpoint, before: View, scores: Sequence[ScoreOption]) -> Seen:
    """A checkpoint as a look that bears its name."""
    view = read_view(store, place, checkpoint, before.judge, before.objective, rubric=before.rubric, scores=scores)
    require_same_cases(before, view)
    logs = describe_gaps(view.gaps, "look", counted=True)
    notes = {"run": place, "checkpoint": checkpoint.id, "unfit": share_unfit(store, view.trajectories)}
    notes |= {LABELLED: view.labelled.value} if checkpoint.stages else {}
    return Seen(
        label=checkpoint.name,
        data=view.data,
        values=view.values,
        missing=view.missing + count_absent(before, view),
        notes={**notes, **({"logs": logs} if logs else {})},
    )


def share_unfit(store: Store, ids: Sequence[str]) -> float | None:
    """The share of trajectories that the audit found unfit to be judged; None where there are none."""
    bits = sum(FLAG_BITS[flag] for flag in UNFIT)
    wanted, flags = set(ids), store.trajectory_table(part="all").flags
    found = [
        bool(int(flags[place]) & bits)
        for place, identity in enumerate(store.trajectory_ids(part="all"))
        if identity in wanted
    ]
    return sum(found) / len(found) if found else None
