"""A stage that learns from rewards: rollouts in, weights changed, checkpoints and logs out.

    draw ─▶ Rewarded rollouts ─ groups ─▶ steps ─ Loop ─▶ train.jsonl, rollouts.jsonl, out_dir/step-N

Rollouts are drawn from the policy while it trains, now or some steps before their step, or were stored before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from holdfast.models.directories.stacks import digest_model, is_stack
from holdfast.records import content_id
from holdfast.records.errors import StepError
from holdfast.store.weights import digest_directory
from holdfast.training.encoding import ScoredSequence, check_sequences, score_picked
from holdfast.training.loop.loop import Mark, StepLog, cut_log, isolated
from holdfast.training.loop.passes import check_budget
from holdfast.training.loop.stage import Progress, Stage, TrainResult
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import HubModel, Policy, open_trained
from holdfast.training.rl.groups import (
    Batch,
    Completion,
    Singles,
    Watch,
    describe_batch,
    describe_policy,
    gradient_step,
    list_completions,
    measure,
    order_sequences,
    watched_step,
)
from holdfast.training.rl.selection import Rewarded, offline_steps, select
from holdfast.training.rl.supply import Draw, Supply, score_all
from holdfast.training.trees.parts import TrainStep

ROLLOUTS = "rollouts.jsonl"  # beside the log of the steps
# Steps after which a stage whose rewards never differ within a group is stopped.
_PATIENCE = 10
# Stands for a step that is done already.
_DONE = TrainStep(examples=0, parts=lambda _: [])


def train_on_rewards(
    model_dir: Path,
    settings: RewardSettings,
    *,
    seed: int,
    save_at: Sequence[int],
    out_dir: Path,
    draw: Draw | None = None,
    groups: Sequence[Rewarded] = (),
    folder: Path | None = None,
    tracker: str | None = None,
    progress: Progress | None = None,
) -> list[TrainResult]:
    """Trains on rewarded rollouts and saves ``out_dir/step-N`` after each number of steps in ``save_at``.

    ``draw`` samples and rates all rollouts of a step with the policy as it is, whose ``sampler()`` speaks for it; it
    takes the policy, the step for which they are, counted from 0, and an attempt: 0, or more where ``tokens_per_step``
    asks for further groups. With a lag of k, what is trained on in step t was drawn before step t - k, and in the first
    steps from the weights at the start. ``groups`` are stored rollouts instead. With ``folder`` the stage is logged
    there, its steps in ``train.jsonl`` and their rollouts in ``rollouts.jsonl``, and resumes from what it holds.
    ``tokens`` of a result are the agent's own tokens that were trained on.

    Each step also scores its rollouts before the update, without dropout, under the policy (in the update's own pass
    where that drops nothing out) and under the weights that it started from (without a ``kl_weight`` one rollout of
    each group): an adapter is switched off for that, whole weights need a second copy in memory. Errors: StudyError for
    rollouts that cannot be learnt from; StepError where no group has two rewards, where rewards never differ within a
    group, and for a loss that is not finite; UnusableState for what an earlier process left and this one cannot take
    up.
    """
    with isolated(seed):
        places: dict[str, Any] = {"out_dir": out_dir, "folder": folder, "tracker": tracker}
        stage = RewardStage(model_dir, settings, draw, groups, seed=seed, **places)
        return stage.train(sorted(set(save_at)), progress)


class RewardStage(Stage[RewardSettings]):
    """A stage on rewards under training; ``train_on_rewards`` says what it is given."""

    def __init__(
        self,
        model_dir: Path,
        settings: RewardSettings,
        draw: Draw | None,
        groups: Sequence[Rewarded],
        *,
        seed: int,
        folder: Path | None,
        **places: Any,
    ) -> None:
        super().__init__(model_dir, settings, seed=seed, folder=folder, **places)
        self._groups = groups
        # Before the loop takes an earlier state up. An adapter is switched off where the start is asked for.
        copied = draw is not None and not self._adapted()
        self._start = open_trained(model_dir, settings.model_copy(update={"recompute": False})) if copied else None
        self._references = self._score_stored() if draw is None else {}
        # Of the step under way: all of it where it was drawn, and what is logged.
        self._batch: Batch | None = None
        self._completions: Sequence[Completion] = ()
        digest = digest_directory(model_dir) if is_stack(model_dir) else digest_model(model_dir)
        identity = content_id(_identify(settings, groups, seed), digest)
        self._loop = self._open_loop(identity=identity)
        position = self._loop.history.position
        if folder is not None:
            cut_log(folder / ROLLOUTS, position)
        self._supply: Supply | None = None
        if draw is not None:
            self._supply = Supply(draw, self._policy, settings, folder=folder, identity=identity)
            self._supply.resume(position, self._count_gradient(position))

    def _adapted(self) -> HubModel | None:
        """The policy where it holds the weights that it started from beside what it has learnt."""
        return self._policy if isinstance(self._policy, HubModel) and self._policy.adapted else None

    def _steps(self) -> Iterator[TrainStep]:
        """The stream of steps from its beginning, in which those that are done cost nothing."""
        if self._supply is None:
            stored = offline_steps(self._groups, self._settings, seed=self._loop.seed, reference=self._references)
            known = {item.encoded.ids.tobytes(): item for item in self._groups}
            for number, step in enumerate(stored):
                yield step if number < self._loop.history.position else self._compare(step, known)
            return
        for number in count():
            yield _DONE if number < self._loop.history.position else self._learn(number, self._supply)

    def _learn(self, number: int, supply: Supply) -> TrainStep:
        """A step on what was drawn for it."""
        batch = Batch.of(supply.take(number), self._settings)
        self._check(number, batch)
        places = order_sequences(batch)
        items = [batch.completions[place] for place in places]
        sequences = [item.sequence for item in items]
        check_sequences(((item.sequence.name, item.first.encoded) for item in items), self._policy)
        check_budget(sequences, self._settings.token_budget)
        self._batch, self._completions = batch, batch.completions
        facts, watch = describe_batch(batch), self._ask_start(batch, places)
        # Without dropout the update's own passes say what one before it would.
        if all(item.first.sampled is None for item in items) and not self._policy.drops_out:
            inside = sum(not item.skipped for item in items)
            if inside and not isinstance(self._policy, HubModel):
                return watched_step(batch, self._settings, facts, watch, None)
            # A pass without gradient is so much cheaper that what has no part in the loss takes one.
            if inside:
                known = dict(zip(places[inside:], self._score(self._policy, sequences[inside:]), strict=True))
                return watched_step(batch, self._settings, facts, watch, known)
        now = dict(zip(places, self._score(self._policy, sequences), strict=True))
        return gradient_step(batch, self._settings, facts | describe_policy(watch, now), watch.start)

    def _ask_start(self, batch: Batch, places: Sequence[int]) -> Watch:
        """The batch against the weights at the start.

        Where the loss does not ask for them it is of one rollout a group, which is enough to watch the KL by.
        """
        firsts = self._settings.kl_weight == 0
        asked = set(batch.firsts if firsts else places)
        kept = [place for place in places if place in asked]
        sequences = [batch.completions[place].sequence for place in kept]
        adapted = self._adapted()
        with nullcontext() if adapted is None else adapted.without_adapter():
            scores = self._score(self._start or self._policy, sequences)
        return Watch(batch=batch, start=dict(zip(kept, scores, strict=True)), firsts=firsts)

    def _compare(self, step: TrainStep, known: Mapping[bytes, Rewarded]) -> TrainStep:
        """A step on stored rollouts, by their tokens, with how far they are from the policy that learns from them."""
        sequences = [item for part in step.parts(self._settings.token_budget) for item in part.sequences]
        counts = Counter(item.ids.tobytes() for item in sequences)
        distinct = {item.ids.tobytes(): item for item in sequences}
        self._completions = [Completion(known[key], counts[key], 0.0, False, item) for key, item in distinct.items()]
        items = [item for item in self._completions if item.first.sampled is not None]
        if not items:
            return step
        now = self._score(self._policy, [item.sequence for item in items])
        sampled = [item.first.sampled for item in items if item.first.sampled is not None]
        return replace(step, facts={**step.facts, **measure(now, sampled)})

    def _score(self, policy: Policy, sequences: Sequence[ScoredSequence]) -> list[Singles]:
        """Log-probabilities [tokens] of each sequence, without dropout."""
        if not sequences:
            return []
        self._policy.set_training(False)
        try:
            return score_all(policy, sequences, self._settings.token_budget)
        finally:
            self._policy.set_training(True)

    def _score_stored(self) -> dict[str, Singles]:
        """Stored rollouts by name under the weights at the start, for the objectives that compare with them."""
        settings = self._settings
        named = select(self._groups, settings).trajectories()
        check_sequences(((f"rollout {name}", item) for name, item in named.items()), self._policy)
        sequences = [score_picked(f"rollout {name}", item, "agent") for name, item in named.items()]
        check_budget(sequences, settings.token_budget)
        if settings.method == "best_sft" or (settings.method == "grpo" and settings.kl_weight == 0):
            return {}
        return dict(zip(named, score_all(self._policy, sequences, settings.token_budget), strict=True))

    def _check(self, number: int, batch: Batch) -> None:
        """Raises StepError for a step, or a stage so far, that has nothing to learn from."""
        if not batch.comparable:
            reasons = [item.missing for item in batch.rollouts if item.reward is None and item.missing]
            why = f" (first reason: {reasons[0]})" if reasons else ""
            raise StepError(
                f"training, step {number + 1}: none of {batch.groups} groups has two rollouts with a reward{why}; look"
                " at the judge, or raise group_size"
            )
        earlier = self._loop.history.readings
        due = number + 1 == min(_PATIENCE, self._settings.steps)
        if not due or batch.unequal or any(reading["unequal"] for reading in earlier):
            return
        groups = batch.groups + sum(reading["groups"] for reading in earlier)
        rewards = [*batch.rewards, *(reading[side] for reading in earlier for side in ("low", "high"))]
        low, high = min(rewards), max(rewards)
        said = f"reward {low}" if low == high else f"rewards {low} to {high}"
        raise StepError(
            f"training, step {number + 1}: all rewards are equal in {groups} groups of {self._settings.group_size}"
            f" rollouts ({said}): there is nothing to learn from; take another reward, more rollouts a group or a"
            " higher temperature"
        )

    def _note(self, log: StepLog) -> None:
        """Keeps what later steps need of this one, and logs its rollouts."""
        reading: dict[str, Any] = {"step": log.step, "gradient_tokens": int(log.metrics["gradient_tokens"])}
        if (batch := self._batch) is not None:
            rewards = batch.rewards
            reading |= {"groups": batch.groups, "unequal": batch.unequal, "low": min(rewards), "high": max(rewards)}
        self._loop.history.readings.append(reading)
        if self._folder is not None:
            with (self._folder / ROLLOUTS).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in list_completions(log.step, self._completions))

    def _count_gradient(self, position: int) -> int:
        """Tokens that were trained on up to a position, with repeats."""
        readings = self._loop.history.readings
        return sum(reading["gradient_tokens"] for reading in readings if reading["step"] <= position)

    def _read_dose(self, mark: Mark) -> TrainResult:
        return replace(super()._read_dose(mark), tokens=self._count_gradient(mark.position))

    def _dose_is_kept(self, step: int) -> None:
        if self._supply is not None:
            self._supply.release(step)


def _identify(settings: RewardSettings, groups: Sequence[Rewarded], seed: int) -> str:
    """All that decides where a stage goes, besides its weights; a state of another stage is not taken up."""
    # A stage that users reward is the same whether there could be an objective or not.
    unsaid = (key for key in ("objective", "unscored", "grouping") if getattr(settings, key) is None)
    free = {"token_budget", "recompute", *unsaid}
    if settings.schedule == "constant" and settings.lag == 0 and settings.steps >= _PATIENCE:
        free |= {"steps"}
    kept = {name: value for name, value in settings.model_dump().items() if name not in free}
    data = [[item.group, item.case_id, item.encoded.ids.tolist(), item.reward] for item in groups]
    return content_id(kept, data, seed)
