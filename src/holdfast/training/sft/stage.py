"""Supervised fine-tuning: episodes in, model directories out.

What the demonstrations of a step share is computed once, above all the system message and the tools of a family.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.records import content_id
from holdfast.records.errors import require
from holdfast.study.sections import SFTSection
from holdfast.study.stages import DemonstrationSection
from holdfast.training.encoding import Encoded, check_demonstrations, score_picked
from holdfast.training.loop.loop import TOKEN_BUDGET, Loop, isolated
from holdfast.training.loop.passes import check_budget
from holdfast.training.loop.stage import Progress, Stage, TrainResult
from holdfast.training.policy.adapters import open_policy
from holdfast.training.sft.orders import demonstration_steps, family_steps
from holdfast.training.trees.parts import TrainStep, demonstration_step


def train_sft(
    model_dir: Path,
    demonstrations: Sequence[Encoded],
    settings: SFTSection,
    *,
    steps: int,
    seed: int,
    out_dir: Path,
    progress: Progress | None = None,
) -> TrainResult:
    """Teaches a tiny base from demonstrations in ``steps`` optimiser steps and saves it to ``out_dir``.

    Warm-up, then linear decay to zero; what is not the agent's own weighs ``other_weight``. Raises StudyError for data
    that cannot be learnt from and StepError for a loss that is not finite.
    """
    with isolated(seed):
        started = time.process_time()
        policy = open_policy(model_dir)
        check_demonstrations({f"demonstration {number}": item for number, item in enumerate(demonstrations)}, policy)
        lengths = np.array([len(item.ids) for item in demonstrations], np.int64)
        order = demonstration_steps(lengths, batch_size=settings.batch_size, rng=np.random.default_rng(seed))
        stage = DemonstrationSection(
            steps=steps,
            schedule="linear",
            token_budget=max(TOKEN_BUDGET, int(lengths.max())),
            **settings.model_dump(include={"learning_rate", "warmup_steps", "max_grad_norm"}),
        )
        loop = Loop(policy, stage, seed=seed)
        taken = (demonstration_step([demonstrations[n] for n in rows], settings.other_weight) for rows in order)
        for log in loop.run(taken):
            if progress is not None:
                progress(log.step, steps)
        policy.save(out_dir)
        return TrainResult(
            path=out_dir,
            steps=loop.history.position,
            examples=loop.history.examples,
            tokens=loop.history.scored,
            losses=tuple(loop.history.losses),
            cpu_seconds=time.process_time() - started,
        )


def imitate(
    model_dir: Path,
    demonstrations: Mapping[str, Encoded],
    settings: DemonstrationSection,
    *,
    families: Mapping[str, str] | None = None,
    seed: int,
    save_at: Sequence[int],
    out_dir: Path,
    folder: Path | None = None,
    tracker: str | None = None,
    progress: Progress | None = None,
) -> list[TrainResult]:
    """Imitates demonstrations and saves ``out_dir/step-N`` after each number of steps in ``save_at``.

    ``demonstrations`` are keyed by what errors call them, ``families`` by the same: what is of one family opens alike,
    which the grouping "family" makes steps of. A step's loss is the mean negative log-probability in nats of its
    tokens that count, each weighing the same whichever demonstration it is of, as TRL's SFTTrainer has it. With
    ``folder`` the stage is logged there and resumes from what it holds; ``tracker`` names one of accelerate's. Raises
    StudyError for data that cannot be learnt from and StepError for a loss that is not finite; doses saved before stay.
    """
    doses = sorted(set(save_at))
    require(
        bool(doses) and doses[0] >= 1 and doses[-1] <= settings.steps,
        f"checkpoints are to be kept at steps {doses}; give steps between 1 and {settings.steps}",
    )
    with isolated(seed):
        stage = ImitationStage(
            model_dir,
            demonstrations,
            settings,
            families or {},
            seed=seed,
            out_dir=out_dir,
            folder=folder,
            tracker=tracker,
        )
        return stage.train(doses, progress)


class ImitationStage(Stage[DemonstrationSection]):
    """A stage on demonstrations under training; ``imitate`` says what it is given."""

    def __init__(
        self,
        model_dir: Path,
        demonstrations: Mapping[str, Encoded],
        settings: DemonstrationSection,
        families: Mapping[str, str],
        **places: Any,
    ) -> None:
        super().__init__(model_dir, settings, **places)
        picked = {name: replace(item, agent=item.picked(settings.loss_mask)) for name, item in demonstrations.items()}
        check_demonstrations(picked, self._policy)
        check_budget([score_picked(*item, settings.loss_mask) for item in picked.items()], settings.token_budget)
        names = sorted(picked)
        self._items = [picked[name] for name in names]
        self._families = [families.get(name, "") for name in names]
        self._loop = self._open_loop(identity=self._identify())

    def _identify(self) -> str:
        """All that decides where a stage goes, besides its seed; a state of another stage is not taken up."""
        free = {"token_budget", "recompute", "data"} | ({"steps"} if self._settings.schedule == "constant" else set())
        settings = {name: value for name, value in self._settings.model_dump().items() if name not in free}
        items = [content_id(item.ids.tolist(), item.agent.tolist()) for item in self._items]
        return content_id(settings, items, self._families)

    def _steps(self) -> Iterator[TrainStep]:
        settings, rng = self._settings, np.random.default_rng(self._loop.seed)
        families = self._families if settings.grouping == "family" else [""] * len(self._items)
        for numbers in family_steps(families, batch_size=settings.examples_per_step, rng=rng):
            yield demonstration_step([self._items[number] for number in numbers], 0.0)
