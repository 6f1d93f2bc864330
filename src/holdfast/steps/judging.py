"""Judge and pair steps: scores of one rollout step's trajectories, and the pairs that a rule makes of them."""

from __future__ import annotations

from itertools import islice

import numpy as np

from holdfast.judges import open_judge
from holdfast.pairs import build_pairs, flip_pairs
from holdfast.plan import Step
from holdfast.steps.outcomes import Batch, Emit, Finished
from holdfast.steps.reading import cases_of
from holdfast.store import Store

JUDGE_BATCH = 400


def judge_episodes(step: Step, store: Store, emit: Emit) -> Finished:
    """Scores for one rollout step's trajectories, in batches."""
    judge = open_judge(step.settings["judge"], step.settings["kind"])
    cases = cases_of(store)
    done = store.log.batches(step.fingerprint)
    trajectories = store.trajectories(step=step.inputs[0])
    number = 0
    while batch := list(islice(trajectories, JUDGE_BATCH)):
        if number not in done:
            scores = [score for item in batch for score in judge.judge(cases[item.case_id], item)]
            emit(Batch(number=number, size=len(batch), scores=tuple(scores)))
        number += 1
    return Finished(result={})


def make_pairs(step: Step, store: Store, emit: Emit) -> Finished:
    """Preference pairs from one judged rollout step."""
    settings = step.settings
    rng = np.random.default_rng([settings["pair_seed"], int(step.fingerprint[:15], 16)])
    table = store.score_table(step=step.inputs[0])
    selection = build_pairs(
        table,
        store.trajectory_ids(),
        objectives=settings["objectives"],
        judge=settings["judge"],
        min_gap=settings["min_gap"],
        min_chosen=settings["min_chosen"],
        combine=settings["agree"],
        cap_per_case=settings["cap_per_case"],
        exclude_unfit=settings["exclude_unfit"],
        rng=rng,
    )
    pairs = flip_pairs(selection.pairs(), settings["flip"], rng)
    summary = {
        "pairs": len(pairs),
        "cases": len({pair.case_id for pair in pairs}),
        "episodes": step.size,
        "scored": len(np.unique(table.trajectory[~np.isnan(table.value)])),
    }
    return Finished(result=summary, pairs=tuple(pairs))
