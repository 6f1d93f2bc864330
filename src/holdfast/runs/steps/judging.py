"""Judge and pair steps: scores of one rollout step's trajectories, and the pairs that a rule makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from holdfast.judges import Judge, open_judge
from holdfast.judges.rating.judge import RatingJudge, check_answers
from holdfast.judges.unread import Readings
from holdfast.records import Case, Score, Trajectory
from holdfast.rollout.dialogues import Speakers, hold
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, complete
from holdfast.runs.steps.reading import cases_of
from holdfast.runs.steps.speakers import open_speakers
from holdfast.store import Store
from holdfast.study.kinds import read_judge
from holdfast.training.pairs import build_pairs, flip_pairs

JUDGE_BATCH = 400


def judge_episodes(step: Step, store: Store, emit: Emit) -> Finished:
    """Scores for one rollout step's trajectories, in batches; a judge that is not understood is told in the result."""
    judge = open_step_judge(step)
    readings = Readings(judge)
    for (name, objective), (_, count) in store.mean_scores(step.inputs[0]).items():
        if name == judge.name:
            readings.add_read(objective, count)
    cases = cases_of(store)
    done = store.log.batches(step.fingerprint)
    trajectories = store.trajectories(step=step.inputs[0])
    number = 0
    with open_speakers(step, store) as speakers:
        while batch := list(islice(trajectories, JUDGE_BATCH)):
            if number not in done:
                scores = score_all(judge, [(cases[item.case_id], item) for item in batch], speakers)
                readings.add(scores)
                emit(Batch(number=number, size=len(batch), scores=tuple(scores)))
            number += 1
    notes = readings.tell()
    return Finished(result={"notes": notes} if notes else {})


def open_step_judge(step: Step) -> Judge:
    """The judge of a judge step; behind the study's name for its model stands the model's own."""
    section = read_judge(step.settings.get("section", {"kind": step.settings.get("kind", "state")}))
    entry = step.settings.get("speaker", {}).get("entry", {})
    named = [entry.get("name"), entry.get("revision")]
    model = "@".join(part for part in named if part) or None
    return open_judge(step.settings["judge"], section, model=model)


def score_all(judge: Judge, items: Sequence[tuple[Case, Trajectory]], speakers: Speakers) -> list[Score]:
    """Every score of some trajectories, in their order.

    Errors: StepError for an outage of the judge's model, and for a model that was asked for ratings and gave none.
    """
    found = [judge.judge(case, trajectory) for case, trajectory in items]
    asked = [(place, one) for place, one in enumerate(found) if not isinstance(one, tuple)]
    answers = complete(hold([dialogue for _, dialogue in asked], speakers), "judgements")
    told = {place: answer for (place, _), answer in zip(asked, answers, strict=True)}
    scores = [score for place, one in enumerate(found) for score in (one if isinstance(one, tuple) else told[place])]
    if isinstance(judge, RatingJudge):
        check_answers(scores)
    return scores


def make_pairs(step: Step, store: Store, emit: Emit) -> Finished:
    """Preference pairs from one judged rollout step."""
    settings = step.settings
    rng = np.random.default_rng([settings["pair_seed"], int(step.fingerprint[:15], 16)])
    table = store.score_table(step=step.inputs[0])
    selection = build_pairs(
        table,
        store.trajectory_ids(step=step.inputs[0]),
        objectives=settings["objectives"],
        judge=settings["judge"],
        min_gap=settings["min_gap"],
        min_chosen=settings["min_chosen"],
        combine=settings["agree"],
        cap_per_case=settings["cap_per_case"] or None,
        exclude_unfit=settings["exclude_unfit"],
        rng=rng,
        # What was brought from another run holds cases of either half.
        cases=store.splits()[settings["split_seed"]]["train"] if "split_seed" in settings else None,
    )
    pairs = flip_pairs(selection.pairs(), settings["flip"], rng)
    summary = {
        "pairs": len(pairs),
        "cases": len({pair.case_id for pair in pairs}),
        "episodes": step.size,
        "scored": len(np.unique(table.trajectory[~np.isnan(table.value)])),
    }
    return Finished(result=summary, pairs=tuple(pairs))
