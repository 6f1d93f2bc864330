"""Judge and pair steps: scores of one rollout step's trajectories, and the pairs that a rule makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.judges import Judge, judge_all, open_judge
from holdfast.judges.rating import RatingJudge, check_answers
from holdfast.judges.rubric.judge import Readings
from holdfast.records import Case, Score, Trajectory
from holdfast.rollout.dialogues import Speakers
from holdfast.runs.plan.settings import JudgeSettings, PairSettings, SpeakerModel
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, complete, in_batches
from holdfast.runs.steps.reading import cases_of, open_speakers
from holdfast.store import Store
from holdfast.study.sections import JudgeTable
from holdfast.training.pairs import flip_pairs


def judge_episodes(step: Step, settings: JudgeSettings, store: Store, emit: Emit) -> Finished:
    """Scores for one rollout step's trajectories, in batches; a judge that is not understood is told in the result."""
    judge = open_judge_of(settings.judge, settings.judged_by, settings.speaker)
    readings = Readings(judge)
    for (name, objective), (_, count) in store.mean_scores(step.inputs[0]).items():
        if name == judge.name:
            readings.add_read(objective, count)
    cases = cases_of(store)
    done = store.log.batches(step.fingerprint)
    trajectories = store.trajectories(step=step.inputs[0], cases=cases)
    with open_speakers(settings.speakers(), step.means, store) as speakers:
        for number, batch in enumerate(in_batches(trajectories, settings.batch)):
            if number not in done:
                scores = score_all(judge, [(cases[item.case_id], item) for item in batch], speakers)
                readings.add(scores)
                emit(Batch(number=number, size=len(batch), scores=tuple(scores)))
    notes = readings.tell()
    return Finished(result={"notes": notes} if notes else {})


def open_judge_of(name: str, section: JudgeTable, speaker: SpeakerModel | None) -> Judge:
    """A judge that a study calls ``name``; behind the study's name for its model stands the model's own."""
    full_name = [] if speaker is None else [speaker.entry.name, speaker.entry.revision]
    return open_judge(name, section, model="@".join(filter(None, full_name)) or None)


def score_all(judge: Judge, items: Sequence[tuple[Case, Trajectory]], speakers: Speakers) -> list[Score]:
    """Every score of some trajectories, in their order.

    Errors: StepError for an outage of the judge's model, and for a model that was asked for ratings and gave none.
    """
    judged = complete(judge_all(judge, items, speakers), "judgements")
    scores = [score for given in judged for score in given]
    if isinstance(judge, RatingJudge):
        check_answers(scores)
    return scores


def make_pairs(step: Step, settings: PairSettings, store: Store) -> Finished:
    """Preference pairs from one judged rollout step."""
    rng = np.random.default_rng([settings.pair_seed, int(step.fingerprint[:15], 16)])
    table = store.score_table(step=step.inputs[0])
    # What was brought from another run holds cases of either half.
    cases = None if settings.split_seed is None else store.splits()[settings.split_seed]["train"]
    selection = settings.select(table, store.trajectory_ids(step=step.inputs[0]), rng, cases)
    pairs = flip_pairs(selection.pairs(), settings.flip, rng)
    summary = {
        "pairs": len(pairs),
        "cases": len({pair.case_id for pair in pairs}),
        "episodes": step.size,
        "scored": len(np.unique(table.trajectory[~np.isnan(table.value)])),
    }
    return Finished(result=summary, pairs=tuple(pairs))
