"""What a balance is measured with while a stage trains: episodes of the policy as it is, scored by the pairs' judge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.judges import open_judge
from holdfast.models.entries import ModelEntry
from holdfast.records import content_id
from holdfast.records.errors import StepError
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import Limits
from holdfast.rollout.episode import roll_out as roll_out_episodes
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import complete
from holdfast.runs.steps.reading import cases_of
from holdfast.runs.steps.speakers import open_speakers
from holdfast.store import Store
from holdfast.study.kinds import read_judge, read_suite
from holdfast.suites import open_world
from holdfast.suites.casebook import TUNE

if TYPE_CHECKING:
    from holdfast.models import Model
    from holdfast.training.dpo.balance import Measure, Measured


@contextlib.contextmanager
def open_measure(step: Step, store: Store) -> Iterator[Measure]:
    """A function that gives the mean score of a model directory's policy, on the cases that are kept for balances.

    Each case is met once at every measurement. Episodes and scores are nobody's results and are not stored.
    """
    from holdfast.training.dpo.balance import Measured

    settings, told = step.settings, step.settings["tuning"]
    wanted = settings["balance"]
    names = store.splits()[told["split_seed"]].get(TUNE, ())[: wanted["cases"]]
    if len(names) < wanted["cases"]:
        raise StepError(f"the run keeps {len(names)} cases for balances, {wanted['cases']} are needed; start a new run")
    cases = [cases_of(store)[name] for name in names]
    judge = open_judge(told["judge"], read_judge(told["section"]))
    world = open_world(read_suite(told["suite"]))
    limits = Limits(**{key: value for key, value in told["limits"].items() if key != "batch_size"})
    size = told["limits"]["batch_size"]

    with open_speakers(step, store) as others:

        def measure(directory: Path, done: int) -> Measured:
            speakers: Speakers = {**others, "agent": _open_agent(step, directory)}
            found: list[float | None] = []
            for start in range(0, len(cases), size):
                batch = cases[start : start + size]
                played = roll_out_episodes(
                    speakers,
                    world,
                    [(case, 0) for case in batch],
                    # Every measurement has luck of its own, which another run of the same step has too.
                    checkpoint_id=content_id("measured", step.fingerprint, done),
                    rollout_seed=settings["train_seed"],
                    limits=limits,
                )
                for case, trajectory in zip(batch, complete(played, "episodes"), strict=True):
                    scores = judge.judge(case, trajectory)
                    assert isinstance(scores, tuple)  # a study's balance has no judge that asks a model
                    found += [score.value for score in scores if score.objective == wanted["objective"]]
            known = [value for value in found if value is not None]
            mean = float(np.mean(known)) if known else None
            return Measured(score=mean, scored=len(known), episodes=len(cases))

        yield measure


def _open_agent(step: Step, directory: Path) -> Model:
    """The policy under training, from weights that were just written; not kept for another time."""
    entry = ModelEntry.model_validate(step.settings.get("agent", {}).get("entry", {"kind": "tiny"}))
    if entry.kind == "tiny":
        from holdfast.models.tiny.model import TinyModel

        return TinyModel.load(directory)
    from holdfast.models.local.local import LocalModel

    return LocalModel(directory, calls=entry.calls, quantization="none", precision=entry.precision)
