"""DPO: preference pairs in, model directories out.

A stage reads a model directory and writes others, so what a stage starts from is always on disk: its reference is that
directory's weights, never an earlier one's.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.records import PreferencePair, content_id
from holdfast.records.errors import StepError, StudyError, require
from holdfast.study.stages import StageSection
from holdfast.training.dpo.mixing import Balance, Measure, Second, mixed_steps, second_step
from holdfast.training.dpo.orders import fit_stage, pair_steps
from holdfast.training.encoding import (
    Encoded,
    LossMask,
    check_pairs,
    check_sequences,
    score_picked,
)
from holdfast.training.loop.launch import run_together
from holdfast.training.loop.loop import TOKEN_BUDGET, StepLog, isolated
from holdfast.training.loop.passes import check_budget, score_together, score_within
from holdfast.training.loop.stage import Progress, Stage, TrainResult
from holdfast.training.policy.adapters import Policy, Precision, open_policy
from holdfast.training.ranks import find_ranks
from holdfast.training.states import random_states, set_random_states
from holdfast.training.trees.parts import TrainStep, name_sequences, pair_step


def reference_logprobs(
    model_dir: Path,
    names: Sequence[str],
    encoded: Mapping[str, Encoded],
    loss_mask: LossMask = "agent",
    *,
    token_budget: int = TOKEN_BUDGET,
    precision: Precision = "fp32",
    adapter: bool = False,
) -> dict[str, float]:
    """The log-probability in nats, by trajectory name, that a model directory gives each trajectory's picked tokens.

    Computed in trees, once for each distinct name; every stage that starts from this directory can share the result.
    ``adapter`` takes the weights as a stage with a LoRA adapter does, which matters to bf16 alone.
    """
    with isolated(0):
        # A fresh adapter changes nothing.
        policy = open_policy(model_dir, precision=precision, lora_r=int(adapter))
        check_sequences(((f"trajectory {name}", encoded[name]) for name in names), policy)
        return score_names(policy, names, encoded, loss_mask, token_budget)


def train_dpo(
    model_dir: Path,
    pairs: Sequence[PreferencePair],
    encoded: Mapping[str, Encoded],
    settings: StageSection,
    *,
    seed: int,
    save_at: Sequence[int],
    out_dir: Path,
    reference: Mapping[str, float] | None = None,
    folder: Path | None = None,
    tracker: str | None = None,
    progress: Progress | None = None,
    second: Second | None = None,
    balance: tuple[Balance, Measure] | None = None,
    families: Mapping[str, str] | None = None,
) -> list[TrainResult]:
    """Trains on preference pairs and saves ``out_dir/step-N`` after each number of steps in ``save_at``.

    Warm-up, then a constant rate unless the settings say otherwise, so the dose saved after N steps equals a run of N
    steps. The reference is ``model_dir``; ``reference`` holds its ``reference_logprobs`` where the caller has them.
    ``encoded`` is keyed by trajectory id. With ``folder`` the stage is logged there and resumes from what it holds;
    ``tracker`` names one of accelerate's, which then gets the same numbers. ``progress`` is not called where several
    processes train. Pairs and steps are those that ``fit_stage`` finds. ``second`` are the pairs of an objective that
    the stage keeps beside its own; where its way is "balance", ``balance`` measures the policy as it is trained and
    sets their weight, on one device. ``families`` are those of cases, for the grouping "family". Raises StudyError for
    data that cannot be learnt from and StepError for a loss that is not finite; doses saved before stay.
    """
    pairs, settings = fit_stage(pairs, encoded, settings)
    if second is not None:
        second = replace(second, pairs=fit_stage(second.pairs, encoded, settings)[0])
    doses = sorted(set(save_at))
    require(
        bool(doses) and doses[0] >= 1 and doses[-1] <= settings.steps,
        f"checkpoints are to be kept at steps {doses}; give steps between 1 and {settings.steps}",
    )
    for side in (pairs, *(() if second is None else (second.pairs,))):
        check_pairs(side, encoded, settings.loss_mask)
    options: dict[str, Any] = {"seed": seed, "out_dir": out_dir, "folder": folder, "tracker": tracker}
    options |= {"second": second, "families": families}
    if settings.devices > 1 and find_ranks() is None:
        if torch.cuda.is_available() and settings.devices > torch.cuda.device_count():
            raise StudyError(f"devices is {settings.devices}, but this machine has {torch.cuda.device_count()}")
        options |= {"model_dir": model_dir, "pairs": pairs, "encoded": encoded, "settings": settings}
        options |= {"save_at": save_at, "reference": reference}
        together: list[TrainResult] = run_together(settings.devices, train_dpo, options)
        return together
    with isolated(seed):
        stage = PreferenceStage(model_dir, pairs, encoded, settings, reference or {}, balance=balance, **options)
        return stage.train(doses, progress)


# Pairs on which drift is measured.
_DRIFT_PAIRS = 128


def score_names(
    policy: Policy, names: Sequence[str], encoded: Mapping[str, Encoded], loss_mask: LossMask, budget: int
) -> dict[str, float]:
    """The log-probability in nats of each distinct trajectory's picked tokens, in trees within a budget.

    Errors: StepError for a value that is not finite, StudyError for a trajectory above the budget.
    """
    distinct = sorted(set(names))
    sequences = name_sequences(distinct, encoded, loss_mask)
    check_budget(sequences, budget)
    ranks = find_ranks()
    scores = (
        score_within(policy, sequences, budget) if ranks is None else score_together(policy, sequences, budget, ranks)
    )
    values = {name: float(logps.double().sum()) for name, logps in zip(distinct, scores, strict=True)}
    for name, value in values.items():
        if not math.isfinite(value):
            raise StepError(f"trajectory {name}: log-probability {value}; the model's weights are damaged")
    return values


class PreferenceStage(Stage[StageSection]):
    """A stage on pairs under training; ``train_dpo`` says what it is given."""

    def __init__(
        self,
        model_dir: Path,
        pairs: Sequence[PreferencePair],
        encoded: Mapping[str, Encoded],
        settings: StageSection,
        reference: Mapping[str, float],
        *,
        second: Second | None,
        families: Mapping[str, str] | None,
        balance: tuple[Balance, Measure] | None,
        **places: Any,
    ) -> None:
        super().__init__(model_dir, settings, **places)
        self._pairs, self._encoded = pairs, encoded
        self._second, self._balance, self._families = second, balance, families
        every = [*pairs, *(second.pairs if second is not None else ())]
        cases = {name: pair.case_id for pair in every for name in (pair.chosen, pair.rejected)}
        named = [(f"case {case}, trajectory {name}", encoded[name]) for name, case in cases.items()]
        check_sequences(named, self._policy)
        check_budget([score_picked(*item, settings.loss_mask) for item in named], settings.token_budget)
        known = {name: reference[name] for name in cases if name in reference}
        # A fresh adapter changes nothing, so before the first update the policy is its own reference.
        self._reference = known | self._score([name for name in cases if name not in known])
        self._loop = self._open_loop(identity=self._identify())

    def _note(self, log: StepLog) -> None:
        """Measures the policy where a balance is due; the loop keeps what came of it."""
        if self._balance is None or log.step % self._balance[0].every:
            return
        (balance, measure), states = self._balance, random_states()
        readings = self._loop.history.readings
        self._out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._out_dir, prefix="measured-") as folder:
            self._policy.set_training(False)
            self._policy.save(Path(folder) / "policy")
            measured = measure(Path(folder) / "policy", log.step)
        self._policy.set_training(True)
        set_random_states(states)
        readings.append(balance.read(log.step, measured, readings))

    def _identify(self) -> str:
        """All that decides where a stage goes, besides its seed; a state of another stage is not taken up."""
        free = {"token_budget", "recompute", "devices"} | (
            {"steps"} if self._settings.schedule == "constant" else set()
        )
        settings = {name: value for name, value in self._settings.model_dump().items() if name not in free}
        kept: list[Any] = []
        if self._second is not None:
            rule = None if self._balance is None else self._balance[0].model_dump()
            kept = [[self._second.way, self._second.amount, rule, _list_pairs(self._second.pairs)]]
        if settings.get("grouping") == "family":
            kept.append(dict(self._families or {}))
        return content_id(settings, _list_pairs(self._pairs), self._reference, *kept)

    def _steps(self) -> Iterator[TrainStep]:
        settings, encoded, reference = self._settings, self._encoded, self._reference
        order: dict[str, Any] = {"seed": self._loop.seed, "families": self._families}
        if self._second is None:
            for pairs in pair_steps(self._pairs, encoded, settings, **order):
                yield pair_step(pairs, encoded, reference, settings)
            return
        both = mixed_steps(self._pairs, self._second, encoded, settings, **order)
        weight = None if self._second.way == "mix" else self._second.amount
        for number, (own, others) in enumerate(both):
            if self._balance is not None:
                weight = self._balance[0].weight_at(number, self._loop.history.readings)
            yield second_step(own, others, weight, encoded, reference, stage=settings)

    def _score(self, names: Sequence[str]) -> dict[str, float]:
        settings = self._settings
        return score_names(self._policy, names, self._encoded, settings.loss_mask, settings.token_budget)

    def _measure_dose(self) -> Mapping[str, float]:
        """The drifts of the pairs' two sides."""
        count = min(len(self._pairs), _DRIFT_PAIRS)
        some = [self._pairs[place] for place in np.linspace(0, len(self._pairs) - 1, count).astype(int)]
        sides = {"chosen_drift": [pair.chosen for pair in some], "rejected_drift": [pair.rejected for pair in some]}
        self._policy.set_training(False)
        now = self._score([name for names in sides.values() for name in names])
        self._policy.set_training(True)
        return {
            side: float(np.mean([now[name] - self._reference[name] for name in names])) for side, names in sides.items()
        }


def _list_pairs(pairs: Sequence[PreferencePair]) -> list[list[Any]]:
    return [[pair.case_id, pair.chosen, pair.rejected, pair.weight] for pair in pairs]
