"""Bring steps: the trajectories and scores of another run, to learn from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from holdfast.records import Trajectory, content_id
from holdfast.records.errors import StepError
from holdfast.runs.plan.settings import BringSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, in_batches
from holdfast.runs.steps.reading import cases_of
from holdfast.store import Store, codec


def bring(step: Step, settings: BringSettings, store: Store, emit: Emit) -> Finished:
    """The source's trajectories of cases that this run has too, with their scores and checkpoints.

    Cases go by their ids. Errors: StepError where no case is in both.
    """
    cases, done = cases_of(store), store.log.batches(step.fingerprint)
    found: Counter[str] = Counter()
    with Store(Path(settings.source)) as source:
        checkpoints = tuple(
            replace(one, id=_own(one.id), path=None, source=settings.source) for one in source.checkpoints()
        )
        for number, batch in enumerate(in_batches(source.trajectories(), settings.batch)):
            kept = [item for item in batch if item.case_id in cases]
            found.update(trajectories=len(kept), of_other_cases=len(batch) - len(kept))
            if number not in done:
                scores = [
                    replace(score, trajectory_id=_own(score.trajectory_id))
                    for row in source.scores_of(item.id for item in kept)
                    for score in row
                ]
                packed = tuple(
                    (_rename(item.without_texts()), store.text_codec.pack(codec.trajectory_to_bytes(item, None)))
                    for item in kept
                )
                made = Batch(number=number, size=len(batch), checkpoints=checkpoints, trajectories=packed)
                emit(replace(made, scores=tuple(scores)))
    if not found["trajectories"]:
        raise StepError(
            f"{settings.source}: holds no trajectory of this study's cases"
            f" ({found['of_other_cases']} of others); bring a run of the same suite"
        )
    return Finished(result=dict(found))


def _own(identity: str) -> str:
    """An id of this run: ids come of content, so a source that began as this run does would meet its own here."""
    return content_id("brought", identity)


def _rename(item: Trajectory) -> Trajectory:
    return replace(item, id=_own(item.id), checkpoint_id=_own(item.checkpoint_id))
