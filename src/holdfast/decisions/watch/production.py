"""Looks at production traces: imported, audited, judged by sample, and held against a baseline without any pairing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

from holdfast.decisions.gate.books import make_book
from holdfast.decisions.watch.mix import Features, compare_mixes, describe_episode
from holdfast.decisions.watch.paired import declare, make_watch, note_unread, open_run
from holdfast.decisions.watch.reading import View, freeze, judge_again, read_view
from holdfast.decisions.watch.request import TraceWatch
from holdfast.decisions.watch.series import Watch, flatten
from holdfast.decisions.watch.state import Seen, State, Values, load_state, save_state
from holdfast.exchange.published.reader import into_run
from holdfast.exchange.traces.importing import Imported, choose_sample, import_traces
from holdfast.judges.rubric.judge import Readings
from holdfast.records import Flag, content_id
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.rollout.audit import UNFIT
from holdfast.runs.progress import ProgressLines, rate_and_left
from holdfast.runs.rescoring import FoundJudge, find_waiting, judge_stored
from holdfast.store import Store
from holdfast.store.choosing import find_checkpoint
from holdfast.store.origins import FOREIGN

FROZEN = 20  # trajectories that are judged anew each time, unless told otherwise


def watch_traces(request: TraceWatch) -> tuple[Watch, State]:
    """What production traces say against a run's checkpoint; without RUN, what a baseline of them would be.

    Errors: HoldfastError.
    """
    label = request.label or " + ".join(dict.fromkeys(path.stem for path in request.traces))
    if request.run is None:
        imported = _import(request, label)
        with Store(request.output, writable=True) as store:
            return _begin(store, imported, label, request)
    with open_run(request.run, request.score) as base:
        before, asked = _read_baseline(base, request)
        state = _open_state(base, before, request)
        imported = leave_out_seen(_import(request, label), state, label)
        with Store(request.output, writable=True) as store:
            view = _judge_sample(store, imported, asked, request, before.rubric)
            values, traces = read_traces_of(store, view)
            data = content_id(
                "watch traces", view.rubric, traces, sorted(values.items()), *filter(None, [imported.absent])
            )
            if state.find(label, data) is None:
                again, unread = judge_again(base, asked, state.frozen, before) if asked is not None else ({}, ())
                notes = describe_look((base, before), (store, view), imported, request.seed)
                seen = Seen(
                    label=label,
                    data=data,
                    values=values,
                    missing=view.missing + imported.absent,
                    traces=traces,
                    frozen=again or None,
                    notes=note_unread(notes, [*_tell_unread(store, asked, view), *unread]),
                )
                state.looks.append(seen)
                if request.state is not None:
                    save_state(request.state, state)
    name = str(before.side.checkpoint.axes.get("look", before.side.name))
    return make_watch("traces", before, state, request, flatten(state.baseline).tolist(), baseline=name), state


def digest_trace(trace: str) -> str:
    """What the state knows of a trace's id."""
    return content_id("trace id", trace)


def leave_out_seen(imported: Imported, state: State, label: str) -> Imported:
    """A look's traces without those that the baseline or an earlier look has: each counts once.

    Errors: StudyError where none is left.
    """
    earlier = takewhile(lambda look: look.label != label, state.looks)
    seen = {trace for look in earlier for trace in look.traces}
    if state.declared["baseline unit"] == "trace":
        seen |= state.baseline.keys()
    new = {trace: one for trace, one in imported.trajectories.items() if digest_trace(trace) not in seen}
    if not new:
        raise StudyError(
            f"look {label!r}: the baseline or an earlier look has all of its {len(imported.trajectories):,} traces,"
            " and each counts once; give new ones"
        )
    return replace(imported, trajectories=new, seen=len(imported.trajectories) - len(new))


def read_traces_of(store: Store, view: View) -> tuple[Values, tuple[str, ...]]:
    """Scores by the digest of each trace's id, whatever was asked in it, and the digests of all that were asked for."""
    found = {one.id: digest_trace(str((one.detail or {})["trace"])) for one in store.trajectories(view.trajectories)}
    return {found[one]: (score,) for one, score in view.scores.items()}, tuple(sorted(found.values()))


def _import(request: TraceWatch, label: str) -> Imported:
    """The traces in their run; one that was made for them goes again where they cannot be read."""
    return into_run(
        request.output,
        lambda store: import_traces(store, request.traces, label, strict=request.strict, scores=request.score),
    )


def _read_baseline(base: Store, request: TraceWatch) -> tuple[View, FoundJudge | None]:
    """The baseline's scores and the judge that gives them; no judge where the scores come with the logs.

    Errors: StudyError where the baseline was judged by other rules.
    """
    book = make_book(base, str(request.run))
    baseline = find_checkpoint(book, request.baseline or "", request.where)
    if request.judge.startswith(FOREIGN):
        return read_view(book, baseline, request.judge, request.objective, scores=request.score), None
    asked = _find_judge(base, request)
    rubric = asked.judge.rubric_of(request.objective)
    before = read_view(book, baseline, request.judge, request.objective, rubric=rubric)
    if rubric != before.rubric:
        raise StudyError(
            f"{book.place}: was judged by {request.judge!r} under rubric {before.rubric[:8]}, but this one is"
            f" {rubric[:8]}; judge it again: `holdfast judge {book.place} --with {request.judge}`"
        )
    return before, asked


def _find_judge(store: Store, request: TraceWatch) -> FoundJudge:
    asked = request.find_judge(request.judge, store)
    if request.objective not in asked.judge.objectives:
        raise StudyError(
            f"judge {request.judge!r}: gives no {request.objective!r}, only {', '.join(asked.judge.objectives)};"
            " choose one of these with --objective"
        )
    return asked


def _open_state(base: Store, before: View, request: TraceWatch) -> State:
    """The state of before, or a new one. A baseline of fixed cases counts each case once, one of traces each trace."""
    unit = "trace" if "look" in before.side.checkpoint.axes else "case"
    count = (FROZEN if request.frozen is None else request.frozen) if not before.judge.startswith(FOREIGN) else 0
    declared = declare("traces", before, request, count) | {"baseline unit": unit, "sample": request.sample}
    state = None if request.state is None else load_state(request.state, declared)
    if state is not None:
        return state
    if unit == "case":
        values: Values = {case: (float(np.mean(found)),) for case, found in before.values.items()}
        asked = before.asked
    else:
        values, traces = read_traces_of(base, before)
        asked = len(traces)
    state = State(declared=declared, baseline=values, asked=asked)
    if count:
        state.frozen = freeze(base, before, count, request.seed)
    return state


def _begin(store: Store, imported: Imported, label: str, request: TraceWatch) -> tuple[Watch, State]:
    """Traces that are to be a baseline: judged and described, compared with nothing."""
    asked = None if request.judge.startswith(FOREIGN) else _find_judge(store, request)
    view = _judge_sample(store, imported, asked, request, None)
    values, _ = read_traces_of(store, view)
    state = State(declared={"kind": "traces", "reading": imported.counts}, baseline=values)
    notes = (
        *_left_out(imported),
        *_tell_unread(store, asked, view),
        f"made a baseline of {len(imported.trajectories):,} traces in {request.output}; next: holdfast watch"
        f" {request.output} --traces FILES --judge {request.judge} -o NEW_DIR --state FILE",
    )
    return make_watch("traces", view, state, request, flatten(values).tolist(), baseline=label, notes=notes), state


# --- judging ------------------------------------------------------------------------------------------------------


def _judge_sample(
    store: Store, imported: Imported, asked: FoundJudge | None, request: TraceWatch, rubric: str | None
) -> View:
    """The scores of the sample, judged where they are not yet; committed as they come. Errors: HoldfastError."""
    sample = choose_sample(imported.trajectories, request.sample, request.seed)
    if asked is not None:
        waiting, judged = find_waiting(store, asked, sample), 0
        with ProgressLines(sys.stderr, quiet=request.quiet) as lines:
            for batch, _ in judge_stored(store, asked, waiting):
                judged += batch
                lines.passing(rate_and_left(judged, len(waiting), None, "traces judged"), judged / len(waiting))
        rubric = asked.judge.rubric_of(request.objective)
    return read_view(
        make_book(store, str(request.output)),
        imported.checkpoint,
        request.judge,
        request.objective,
        rubric=rubric,
        only=frozenset(sample),
        scores=request.score,
    )


def _tell_unread(store: Store, asked: FoundJudge | None, view: View) -> list[str]:
    """What is told of a judge most of whose replies about a view's trajectories could not be read, now or before."""
    if asked is None:
        return []
    judge = asked.judge
    readings = Readings(judge)
    for scores in store.scores_of(view.trajectories):
        readings.add(one for one in scores if one.judge == judge.name and one.rubric == judge.rubric_of(one.objective))
    return readings.tell()


# --- what else is told of a look ----------------------------------------------------------------------------------


def describe_look(base: tuple[Store, View], now: tuple[Store, View], imported: Imported, seed: int) -> dict[str, Any]:
    """The case mix against the baseline, the audit's findings and what was left out, as JSON."""
    (base_store, before), (store, view) = base, now
    ids = list(imported.trajectories.values())
    rng = np.random.default_rng([seed, int(content_id("mix", sorted(ids))[:15], 16)])
    audits = [one.flags for one in store.trajectories(ids)]
    flags: Counter[Flag] = Counter(flag for found in audits for flag in found)
    old, new = _features(base_store, before.trajectories), _features(store, ids)
    return {
        "traces": len(ids),
        "judged": len(view.trajectories),
        "models": imported.models,
        "mix": compare_mixes(old, new, rng).to_json(),
        "unfit": sum(not UNFIT.isdisjoint(found) for found in audits) / len(ids),
        "unfit before": before.unfit,
        "flags": {flag.value: count / len(ids) for flag, count in flags.most_common()},
        "left out": _left_out(imported),
        "reading": imported.counts,
    }


def _features(store: Store, ids: Sequence[str]) -> list[Features]:
    cases = {case.id: case for case in store.cases()}
    return [describe_episode(cases[one.case_id], one) for one in store.trajectories(ids)]


def _left_out(imported: Imported) -> list[str]:
    """What of the files was left out, in words; the first of each kind by its place."""
    places = (
        ("left out as unreadable", imported.bad, "records"),
        ("left out as broken off", imported.torn, "last lines"),
    )
    counts = (
        ("met again and counted once", imported.duplicates),
        ("left out, as the baseline or an earlier look has them", imported.seen),
    )
    said = [f"{how}: {count_noun(len(where), noun)} (first: {where[0]})" for how, where, noun in places if where]
    said += [f"{how}: {count_noun(count, 'traces')}" for how, count in counts if count]
    return [*said, *imported.notes]
