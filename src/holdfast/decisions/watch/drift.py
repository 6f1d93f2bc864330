"""Has the judge changed? A frozen set of trajectories, judged again at every look and held against its first scores."""

from __future__ import annotations

from collections.abc import Collection

from holdfast.decisions.watch.reading import View
from holdfast.judges.rubric.judge import Readings
from holdfast.records import content_id
from holdfast.records.errors import StudyError
from holdfast.runs.rescoring import FoundJudge
from holdfast.runs.steps.judging import score_all
from holdfast.store import Store


def freeze(store: Store, view: View, count: int, seed: int) -> dict[str, float]:
    """The frozen set: ``count`` of a view's trajectories with the scores that they have, whatever these are.

    They are chosen by a hash of their ids. Errors: StudyError where there is none to freeze.
    """
    if not view.scores:
        raise StudyError(
            f"{store.path}: {view.side.name} has no trajectory scored by {view.judge} to freeze; judge it first"
        )
    order = sorted(view.scores, key=lambda identity: content_id("frozen", seed, identity))
    return {identity: view.scores[identity] for identity in sorted(order[:count])}


def judge_again(
    store: Store, asked: FoundJudge, ids: Collection[str], view: View
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """What the judge gives these trajectories now, None where it gives no verdict; nothing is stored.

    Beside it stands what is told of a judge that was not understood.

    The judge's model is asked anew: no reply that was kept answers for it. Errors: StudyError where a trajectory is not
    in the run any more, StepError for an outage.
    """
    known = set(store.trajectory_ids(part="all"))
    if lost := sorted(set(ids) - known):
        raise StudyError(
            f"{store.path}: {len(lost)} of the frozen trajectories are not here (first: {lost[0]}); give the run that"
            " the watch was begun with"
        )
    judge = asked.judge
    if view.objective not in judge.objectives or judge.rubric_of(view.objective) != view.rubric:
        raise StudyError(
            f"judge {view.judge!r}: judges {view.objective!r} by other rules now than when the baseline was judged, so"
            " nothing tells its drift; judge the baseline anew and begin a new watch"
        )
    items = [(store.case(one.case_id), one) for one in store.trajectories(sorted(ids))]
    with asked.open_model(None) as speakers:
        scores = score_all(judge, items, speakers)
    found: dict[str, list[float]] = {identity: [] for identity in sorted(ids)}
    for score in scores:
        if score.objective == view.objective and score.value is not None:
            found[score.trajectory_id].append(score.value)
    readings = Readings(judge)
    readings.add(scores)
    means = {identity: sum(values) / len(values) if values else None for identity, values in found.items()}
    return means, tuple(f"frozen trajectories: {line}" for line in readings.tell())
