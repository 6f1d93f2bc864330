"""What a balance is measured with while a stage trains: episodes of the policy as it is, scored by the pairs' judge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.judges import open_judge
from holdfast.records import content_id
from holdfast.records.errors import StepError
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import roll_out as roll_out_episodes
from holdfast.runs.methods.pairs.plan import PairStageSettings
from holdfast.runs.plan.settings import SpeakerModel
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import complete
from holdfast.runs.steps.reading import cases_of
from holdfast.runs.steps.speakers import open_speakers
from holdfast.store import Store
from holdfast.suites import open_world
from holdfast.suites.casebook import TUNE

if TYPE_CHECKING:
    from holdfast.models import Model
    from holdfast.training.dpo.mixing import Measure, Measured


@contextlib.contextmanager
def open_measure(step: Step, settings: PairStageSettings, store: Store) -> Iterator[Measure]:
    """A function that gives the mean score of a model directory's policy, on the cases that are kept for balances.

    Each case is met once at every measurement. Episodes and scores are nobody's results and are not stored.
    """
    from holdfast.training.dpo.mixing import Measured

    tuning, balance = settings.tuning, settings.section.balance
    assert tuning is not None and balance is not None  # the plan gives both or neither
    names = store.splits()[tuning.split_seed].get(TUNE, ())[: balance.cases]
    if len(names) < balance.cases:
        raise StepError(f"the run keeps {len(names)} cases for balances, {balance.cases} are needed; start a new run")
    cases = [cases_of(store)[name] for name in names]
    judge, world = open_judge(tuning.judge, tuning.section), open_world(tuning.suite)
    size = tuning.limits.batch_size

    with open_speakers(settings.speakers(), step.means, store) as others:

        def measure(directory: Path, done: int) -> Measured:
            speakers: Speakers = {**others, "agent": _open_agent(settings.agent, directory)}
            found: list[float | None] = []
            for start in range(0, len(cases), size):
                batch = cases[start : start + size]
                played = roll_out_episodes(
                    speakers,
                    world,
                    [(case, 0) for case in batch],
                    # Every measurement has luck of its own, which another run of the same step has too.
                    checkpoint_id=content_id("measured", step.fingerprint, done),
                    rollout_seed=settings.train_seed,
                    limits=tuning.limits,
                )
                for case, trajectory in zip(batch, complete(played, "episodes"), strict=True):
                    scores = judge.judge(case, trajectory)
                    assert isinstance(scores, tuple)  # a study's balance has no judge that asks a model
                    found += [score.value for score in scores if score.objective == balance.objective]
            known = [value for value in found if value is not None]
            mean = float(np.mean(known)) if known else None
            return Measured(score=mean, scored=len(known), episodes=len(cases))

        yield measure


def _open_agent(agent: SpeakerModel | None, directory: Path) -> Model:
    """The policy under training, from weights that were just written; not kept for another time."""
    if agent is None:
        from holdfast.models.tiny.model import TinyModel

        return TinyModel.load(directory)
    from holdfast.models.local.local import LocalModel

    return LocalModel(directory, calls=agent.entry.calls, quantization="none", precision=agent.entry.precision)
