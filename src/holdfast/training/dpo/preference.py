"""One preference stage: policy, reference and loop, what it keeps, and what it measures on the way."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.records import PreferencePair, content_id
from holdfast.records.errors import StepError
from holdfast.records.outputs import sync_tree
from holdfast.store.weights import dose_path, note_digest, start_anew
from holdfast.training.dpo.balance import Balance, Measure
from holdfast.training.dpo.mixing import Second, mixed_steps, second_step
from holdfast.training.dpo.orders import PairOrder, pair_steps
from holdfast.training.encoding import Encoded, LossMask, check_sequences, score_picked
from holdfast.training.loop.loop import Loop, LoopSettings, open_tracker
from holdfast.training.loop.passes import check_budget, score_within
from holdfast.training.loop.sharding import score_together
from holdfast.training.policy.adapters import Policy, open_policy
from holdfast.training.ranks import find_ranks
from holdfast.training.settings import DPOSettings
from holdfast.training.states import STATE, UnusableState, random_states, set_random_states
from holdfast.training.trees.parts import PairObjective, TrainStep, pair_step

# Pairs on which drift is measured.
_DRIFT_PAIRS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A saved dose of a stage, with everything counted from the stage's start.

    ``examples`` are pairs or demonstrations with repeats, ``tokens`` those that carried loss, ``losses`` one
    value a step before its update. The drifts are the mean change in nats of a chosen and of a rejected
    trajectory's log-probability since the start, over up to 128 pairs; None for SFT. ``readings`` are what a balance
    measured up to here.
    """

    path: Path
    steps: int
    examples: int
    tokens: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...] = ()
    chosen_drift: float | None = None
    rejected_drift: float | None = None
    readings: tuple[Mapping[str, Any], ...] = ()
    cpu_seconds: float


def score_names(
    policy: Policy, names: Sequence[str], encoded: Mapping[str, Encoded], loss_mask: LossMask, budget: int
) -> dict[str, float]:
    """The log-probability in nats of each distinct trajectory's picked tokens, in trees within a budget.

    Errors: StepError for a value that is not finite, StudyError for a trajectory above the budget.
    """
    distinct = sorted(set(names))
    sequences = [score_picked(f"trajectory {name}", encoded[name], loss_mask) for name in distinct]
    check_budget(sequences, budget)
    ranks = find_ranks()
    scores = (
        score_within(policy, sequences, budget) if ranks is None else score_together(policy, sequences, budget, ranks)
    )
    found = {name: float(logps.double().sum()) for name, logps in zip(distinct, scores, strict=True)}
    for name, value in found.items():
        if not math.isfinite(value):
            raise StepError(f"trajectory {name}: log-probability {value}; the model's weights are damaged")
    return found


class PreferenceStage:
    """A stage under training, and the doses kept so far; ``train_dpo`` says what it is given."""

    def __init__(
        self,
        model_dir: Path,
        pairs: Sequence[PreferencePair],
        encoded: Mapping[str, Encoded],
        settings: DPOSettings,
        reference: Mapping[str, float],
        *,
        seed: int,
        folder: Path | None,
        tracker: str | None,
        second: Second | None,
        balance: tuple[Balance, Measure] | None,
    ) -> None:
        self._started = time.process_time()
        self._pairs, self._encoded, self._settings = pairs, encoded, settings
        self._second, self._balance = second, balance
        self._policy = open_policy(
            model_dir,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            use_rslora=settings.use_rslora,
            precision=settings.precision,
            recompute=settings.recompute,
        )
        every = [*pairs, *(second.pairs if second is not None else ())]
        cases = {name: pair.case_id for pair in every for name in (pair.chosen, pair.rejected)}
        named = [(f"case {case}, trajectory {name}", encoded[name]) for name, case in cases.items()]
        check_sequences(named, self._policy)
        check_budget([score_picked(*item, settings.loss_mask) for item in named], settings.token_budget)
        known = {name: reference[name] for name in cases if name in reference}
        # A fresh adapter changes nothing, so before the first update the policy is its own reference.
        self._reference = known | self._score([name for name in cases if name not in known])
        loop = {field.name: getattr(settings, field.name) for field in fields(LoopSettings)}
        ranks = find_ranks()
        self._leads = ranks is None or ranks.rank == 0
        self._folder, self._tracker = folder, None
        if tracker is not None and self._leads:
            self._tracker = open_tracker(tracker, folder or Path.cwd(), {**asdict(settings), "seed": seed})
        self._loop = Loop(
            self._policy,
            LoopSettings(**loop),
            seed=seed,
            identity=self._identify(),
            folder=folder,
            tracker=self._tracker,
        )

    def run(self, doses: Sequence[int], out_dir: Path) -> Iterator[int]:
        """Trains to the last dose, keeps each, and yields the steps done."""
        try:
            yield from self._train(doses, out_dir)
        finally:
            if self._tracker is not None:
                self._tracker.finish()

    def _train(self, doses: Sequence[int], out_dir: Path) -> Iterator[int]:
        for log in self._loop.run(islice(self._steps(), doses[-1])):
            # Before the state is saved that says that the step is done.
            if self._balance is not None and self._balance[0].is_due(log.step):
                self._measure(log.step, out_dir)
            if log.step in doses:
                path = dose_path(out_dir, log.step)
                if self._leads:
                    start_anew(path)
                self._policy.save(path)
                if self._leads:
                    # On disk before the loop's state says that it is.
                    sync_tree(path)
                    note_digest(path)
                chosen, rejected = self._drifts()
                self._loop.keep({"chosen_drift": chosen, "rejected_drift": rejected})
            yield log.step

    def _measure(self, step: int, out_dir: Path) -> None:
        """Measures the policy as it is now; the loop keeps what came of it."""
        assert self._balance is not None
        (balance, measure), states = self._balance, random_states()
        readings = self._loop.history.readings
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir, prefix="measured-") as folder:
            self._policy.set_training(False)
            self._policy.save(Path(folder) / "policy")
            found = measure(Path(folder) / "policy", step)
        self._policy.set_training(True)
        set_random_states(states)
        readings.append(balance.read(step, found, readings))

    def _identify(self) -> str:
        """All that decides where a stage goes, besides its seed; a state of another stage is not taken up."""
        free = {"token_budget", "recompute", "devices"} | (
            {"steps"} if self._settings.schedule == "constant" else set()
        )
        settings = {name: value for name, value in asdict(self._settings).items() if name not in free}
        kept: list[Any] = []
        if self._second is not None:
            rule = None if self._balance is None else asdict(self._balance[0])
            kept = [[self._second.way, self._second.amount, rule, _list_pairs(self._second.pairs)]]
        return content_id(settings, _list_pairs(self._pairs), self._reference, *kept)

    def results(self, doses: Sequence[int], out_dir: Path) -> list[TrainResult]:
        """What was kept, dose by dose. Errors: UnusableState for one that an earlier process was not asked to keep."""
        kept = {mark.position: mark for mark in self._loop.history.marks}
        for dose in doses:
            if dose not in kept:
                raise UnusableState((self._folder or out_dir) / STATE, f"it is past step {dose}, which was not kept")
        seconds = time.process_time() - self._started
        history = self._loop.history
        return [
            TrainResult(
                path=dose_path(out_dir, mark.position),
                steps=mark.position,
                examples=mark.examples,
                tokens=mark.scored,
                losses=tuple(history.losses[: mark.position]),
                accuracies=tuple(history.accuracies[: mark.position]),
                readings=tuple(one for one in history.readings if one["step"] <= mark.position),
                cpu_seconds=seconds,
                **mark.found,
            )
            for mark in (kept[dose] for dose in doses)
        ]

    def _steps(self) -> Iterator[TrainStep]:
        settings = self._settings
        order = PairOrder(**{field.name: getattr(settings, field.name) for field in fields(PairOrder)})
        objective = PairObjective(**{field.name: getattr(settings, field.name) for field in fields(PairObjective)})
        told: dict[str, Any] = {"objective": objective, "loss_mask": settings.loss_mask}
        if self._second is None:
            for pairs in pair_steps(self._pairs, self._encoded, order, seed=self._loop.seed):
                yield pair_step(pairs, self._encoded, self._reference, **told)
            return
        both = mixed_steps(self._pairs, self._second, self._encoded, order, seed=self._loop.seed)
        for number, (own, others) in enumerate(both):
            yield second_step(own, others, self._weight(number), self._encoded, self._reference, **told)

    def _weight(self, step: int) -> float | None:
        """The weight of the second objective's term in a step, counted from 0; None where its pairs are mixed in."""
        assert self._second is not None
        if self._balance is not None:
            return self._balance[0].weight_at(step, self._loop.history.readings)
        return None if self._second.way == "mix" else self._second.amount

    def _score(self, names: Sequence[str]) -> dict[str, float]:
        settings = self._settings
        return score_names(self._policy, names, self._encoded, settings.loss_mask, settings.token_budget)

    def _drifts(self) -> tuple[float, float]:
        count = min(len(self._pairs), _DRIFT_PAIRS)
        places = np.linspace(0, len(self._pairs) - 1, count).astype(int)
        sides = [[self._pairs[place].chosen for place in places], [self._pairs[place].rejected for place in places]]
        self._policy.set_training(False)
        now = self._score(sides[0] + sides[1])
        self._policy.set_training(True)
        chosen, rejected = (float(np.mean([now[name] - self._reference[name] for name in side])) for side in sides)
        return chosen, rejected


def _list_pairs(pairs: Sequence[PreferencePair]) -> list[list[Any]]:
    return [[pair.case_id, pair.chosen, pair.rejected, pair.weight] for pair in pairs]
