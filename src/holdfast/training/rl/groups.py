"""The rollouts of one step as what is trained on: equal completions once, groups without a gradient left out.

    Rewarded rollouts ─ Batch.of ─▶ distinct completions with advantages ─ gradient_step ─▶ TrainStep

The loss divides by all completions and tokens that have a reward, so neither changes it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.records.errors import StudyError
from holdfast.training.encoding import ScoredSequence, score_picked
from holdfast.training.objectives import RewardSettings, group_advantages
from holdfast.training.rl.selection import Rewarded, check_reward, describe
from holdfast.training.trees.parts import Part, TrainStep, group_step
from holdfast.training.trees.trees import partition

Singles = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
_MOST_NATS = 50.0
# Facts of rollouts that are counted and not averaged.
COUNTED = ("unreadable", "unfit", "cut_off", "lost_turns", "counted_lowest")
# What a judge that is a model says of harm, where the rules say it too.
_OF_JUDGE = ("harm_judge", "exploited_judge")


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """A distinct completion of a group, with its tokens and reward: the ``first`` of ``count`` equal rollouts.

    ``sequence`` has the agent's own tokens scored. ``skipped`` says it has no part in the loss.
    """

    first: Rewarded
    count: int
    advantage: float
    skipped: bool
    sequence: ScoredSequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """All rollouts of a step.

    ``groups`` counts prompts, ``unequal`` those whose rewards differ, ``comparable`` those with two rewards or more,
    ``skipped`` those without a gradient. ``scored`` and ``scored_tokens`` count the rollouts that have a reward, and
    the agent's own tokens in them; ``gradient_tokens`` those that are trained on. All are with repeats.
    """

    rollouts: tuple[Rewarded, ...]
    completions: tuple[Completion, ...]
    groups: int
    unequal: int
    comparable: int
    skipped: int
    scored: int
    scored_tokens: int
    gradient_tokens: int

    @classmethod
    def of(cls, rollouts: Sequence[Rewarded], settings: RewardSettings) -> Batch:
        """The batch of some rollouts. Errors: StudyError for a reward that is not finite."""
        rewards: dict[int, list[float]] = {}
        for item in rollouts:
            known = rewards.setdefault(item.group, [])
            if item.reward is not None:
                check_reward(item)
                known.append(item.reward)
        unequal = {group for group, known in rewards.items() if known and min(known) < max(known)}
        # Held to the start, a group of equal rewards has a gradient too.
        kept = set(rewards) if settings.kl_weight > 0 else unequal
        values = [math.nan if item.reward is None else item.reward for item in rollouts]
        numbers = torch.tensor([item.group for item in rollouts])
        computed = group_advantages(torch.tensor(values, dtype=torch.float64), numbers, settings.scale).tolist()
        # A mean of equal numbers may round to another.
        advantages = [own if item.group in unequal else 0.0 for item, own in zip(rollouts, computed, strict=True)]
        completions = _merge(rollouts, advantages, kept)
        scored = [item for item in completions if item.first.reward is not None]
        return cls(
            rollouts=tuple(rollouts),
            completions=tuple(completions),
            groups=len(rewards),
            unequal=len(unequal),
            comparable=sum(len(known) > 1 for known in rewards.values()),
            skipped=len(set(rewards) - kept),
            scored=sum(item.count for item in scored),
            scored_tokens=sum(item.count * item.sequence.scored for item in scored),
            gradient_tokens=sum(item.count * item.sequence.scored for item in scored if not item.skipped),
        )

    @property
    def firsts(self) -> list[int]:
        """Places of the completions that the first rollouts with tokens of all groups have."""
        places: dict[int, int] = {}
        for place, item in enumerate(self.completions):
            if item.sequence.scored:
                places.setdefault(item.first.group, place)
        return list(places.values())

    @property
    def rewards(self) -> list[float]:
        """All rewards that there are."""
        return [item.reward for item in self.rollouts if item.reward is not None]


def _merge(rollouts: Sequence[Rewarded], advantages: Sequence[float], kept: set[int]) -> list[Completion]:
    """The distinct completions, in the order in which each was first sampled."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, item in enumerate(rollouts):
        own = item.encoded.picked("agent")
        key = (item.group, item.reward, item.encoded.ids.tobytes(), own.tobytes())
        places.setdefault(key, []).append(place)
    completions = []
    for members in places.values():
        first, advantage = rollouts[members[0]], advantages[members[0]]
        sequence = score_picked(f"case {first.case_id}", first.encoded, "agent")
        skipped = first.reward is None or first.group not in kept or not sequence.weights.any()
        completions.append(Completion(first, len(members), advantage, skipped, sequence))
    return completions


def gradient_step(
    batch: Batch, settings: RewardSettings, facts: Mapping[str, float], reference: Mapping[int, Singles]
) -> TrainStep:
    """A step of policy gradient on a batch.

    ``reference`` holds the log-probabilities [tokens] at the start of the stage by place of the completion, for a
    ``kl_weight``. Rollouts that come with ``sampled`` are taken as another policy's, unless ``importance`` is false.
    """
    kept = [(place, item) for place, item in enumerate(batch.completions) if not item.skipped]
    weighed = settings.importance and all(item.first.sampled is not None for _, item in kept)
    step = group_step(
        [item.sequence for _, item in kept],
        np.array([item.advantage for _, item in kept], np.float32),
        settings=settings,
        sampled=[item.first.sampled for _, item in kept if item.first.sampled is not None] if weighed else None,
        reference=[reference[place] for place, _ in kept] if settings.kl_weight > 0 else None,
        counts=np.array([item.count for _, item in kept], np.float32),
        totals=(float(max(1, batch.scored)), float(max(1, batch.scored_tokens))),
    )
    return TrainStep(examples=batch.scored, parts=step.parts, facts=facts)


def order_sequences(batch: Batch) -> list[int]:
    """Places of the completions with tokens: first those in the loss, as ``gradient_step`` takes them in one part."""
    kept = [place for place, item in enumerate(batch.completions) if not item.skipped]
    groups = partition([batch.completions[place].sequence.ids for place in kept], sys.maxsize)
    rest = [place for place, item in enumerate(batch.completions) if item.skipped and item.sequence.scored]
    return [*(kept[number] for group in groups for number in group), *rest]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """What a step's rollouts are held against: the policy at the ``start`` of the stage.

    Its log-probabilities [tokens] are by place of the completion: of all that have tokens, or where ``firsts`` is true
    of the first rollout of each group alone.
    """

    batch: Batch
    start: Mapping[int, Singles]
    firsts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WatchedPart:
    """A part of a step on the policy's own rollouts, whose pass also says what there is to watch of the policy.

    ``sequences`` are those of ``places``, of which ``inner`` takes the first; ``known`` are the policy's
    log-probabilities of completions at further places. Dropout must be off.
    """

    sequences: tuple[ScoredSequence, ...]
    places: Sequence[int]
    inner: Part
    watch: Watch
    known: Mapping[int, Singles]

    def loss(self, logps: Tensor, owner: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss of ``inner``, and its metrics beside the part's share of what ``describe_policy`` finds."""
        counts = [item.scored for item in self.sequences]
        found = torch.split(logps.detach().to("cpu").float(), counts)
        now = {place: value.numpy() for place, value in zip(self.places, found, strict=True)}
        trained = sum(counts[: len(self.inner.sequences)])
        loss, metrics = self.inner.loss(logps[:trained], owner[:trained])
        own, _ = _sum_up(self.watch, now | dict(self.known))
        return loss, metrics | _divide(own, _count_up(self.watch))


def watched_step(
    batch: Batch,
    settings: RewardSettings,
    facts: Mapping[str, float],
    watch: Watch,
    known: Mapping[int, Singles] | None,
) -> TrainStep:
    """``gradient_step`` on a batch with something to learn, watched in its own passes.

    ``known`` are the policy's log-probabilities of what has tokens and no part in the loss; where it is None, that is
    in the step's one pass too.
    """
    step, places = gradient_step(batch, settings, facts, watch.start), order_sequences(batch)
    items = [batch.completions[place].sequence for place in places]
    place_of = {id(item): place for item, place in zip(items, places, strict=True)}

    def parts(budget: int) -> list[Part]:
        found: list[Part] = []
        for inner in step.parts(sys.maxsize if known is None else budget):
            sequences = tuple(items if known is None else inner.sequences)
            own = [place_of[id(item)] for item in sequences]
            beside = {} if found or known is None else known
            found.append(WatchedPart(sequences=sequences, places=own, inner=inner, watch=watch, known=beside))
        return found

    return TrainStep(examples=step.examples, parts=parts, facts=facts)


def describe_batch(batch: Batch) -> dict[str, float]:
    """What is watched of a batch without any model: rewards, harm, counts; what there are no data for is left out."""
    counts = {
        name: math.fsum(item.facts[name] for item in batch.rollouts if name in item.facts)
        for name in COUNTED
        if any(name in item.facts for item in batch.rollouts)
    }
    # What users have said of them stands by their label.
    if not any("gameable" in item.facts for item in batch.rollouts):
        counts |= {"rollouts": float(len(batch.rollouts)), "lone_groups": float(batch.groups - batch.comparable)}
    return {
        **describe(batch.rollouts),
        **counts,
        "groups": float(batch.groups),
        "skipped_groups": float(batch.skipped),
        "unscored": float(len(batch.rollouts) - batch.scored),
        "gradient_tokens": float(batch.gradient_tokens),
    }


def describe_policy(watch: Watch, now: Mapping[int, Singles]) -> dict[str, float]:
    """What a batch says of the policy, whose log-probabilities [tokens] are ``now`` by place of the completion.

    ``entropy`` is the mean negative log-probability a token, ``kl`` the sum over an episode's tokens of exp(d) - d - 1
    with d = start - now (Schulman 2020, "Approximating KL divergence", k3), in nats, averaged over the rollouts that
    the start was asked about. Rollouts of an earlier policy, with ``sampled``, weigh each token by its ratio of
    probabilities, which corrects the token and not what stands before it; they give ``log_ratio`` and ``ess`` too.
    ``mismatch`` is how far the sampler's log-probability of an episode is from training's, in nats a token.
    """
    sums, totals = _sum_up(watch, now)
    items = [(watch.batch.completions[place], value) for place, value in now.items()]
    repeated = [(value, item.first.sampled) for item, value in items for _ in range(item.count)]
    stored = [(value, sampled) for value, sampled in repeated if sampled is not None]
    off = measure([value for value, _ in stored], [sampled for _, sampled in stored]) if stored else {}
    return _divide(sums, totals) | off


def _sum_up(watch: Watch, now: Mapping[int, Singles]) -> tuple[dict[str, float], dict[str, float]]:
    """What is averaged over some completions, and what each sum is divided by: rollouts, weights of tokens, tokens."""
    sums, totals = (dict.fromkeys(("kl", "entropy", "mismatch"), 0.0) for _ in range(2))
    for place, value in now.items():
        item = watch.batch.completions[place]
        sampled = value if item.first.sampled is None else item.first.sampled
        if item.first.logprob is not None:  # of which the sampler reported one
            sums["mismatch"] += item.count * abs(item.first.logprob - float(sampled.sum(dtype=np.float64)))
            totals["mismatch"] += item.count * item.sequence.scored
        # Bounded, so that a token that one side all but rules out leaves a number.
        ratios = np.exp(np.minimum(value.astype(np.float64) - sampled, _MOST_NATS))
        sums["entropy"] -= item.count * float((ratios * value).sum())
        totals["entropy"] += item.count * float(ratios.sum())
        if place in watch.start:
            rollouts = 1 if watch.firsts else item.count
            gaps = np.minimum(watch.start[place].astype(np.float64) - value, _MOST_NATS)
            sums["kl"] += rollouts * float((ratios * (np.exp(gaps) - gaps - 1)).sum())
            totals["kl"] += rollouts
    return sums, totals


def _count_up(watch: Watch) -> dict[str, float]:
    """What the sums over a whole batch of the policy's own rollouts are divided by."""
    items = watch.batch.completions
    return {
        "kl": sum(1 if watch.firsts else items[place].count for place in watch.start),
        "entropy": sum(item.count * item.sequence.scored for item in items),
        "mismatch": sum(item.count * item.sequence.scored for item in items if item.first.logprob is not None),
    }


def _divide(sums: Mapping[str, float], totals: Mapping[str, float]) -> dict[str, float]:
    """The means, or of sums over a part its shares of them; without those that there is nothing of."""
    return {name: value / totals[name] for name, value in sums.items() if totals[name] > 0}


def list_completions(step: int, completions: Sequence[Completion]) -> list[dict[str, Any]]:
    """One line of the log of rollouts for each distinct completion of a step, counted from 1.

    ``harm`` is that of the rules; where a judge that is a model rewards, ``harm_judge`` is its own.
    """
    return [
        {
            "step": step,
            "case": item.first.case_id,
            "text": item.first.text,
            "count": item.count,
            "reward": item.first.reward,
            **_facts_of_log(item.first.facts),
            "logprob": item.first.logprob,
            "tokens": item.sequence.scored,
            "skipped": item.skipped,
            **{name: item.first.facts[name] for name in _OF_JUDGE if name in item.first.facts},
        }
        for item in completions
    ]


def _facts_of_log(facts: Mapping[str, float]) -> dict[str, float | None]:
    """What stands in the log of a rollout: harm and the label where there are users, else all that is known."""
    if "gameable" not in facts:
        return dict(facts)
    return {name: facts.get(name) for name in ("harm", "exploited", "gameable")}


# --- how far training data are from the policy that learns from them -----------------------------------------------


def measure(current: Sequence[Floats], sampled: Sequence[Floats]) -> dict[str, float]:
    """How far the policy of ``current`` is from the one that sampled, as ``log_ratio`` and ``ess``.

    Both hold, for each sequence, the log-probabilities [tokens] in nats of its scored tokens under the policy to be
    trained and under the one that sampled. ``log_ratio`` is the mean absolute log ratio of their probabilities in nats
    a token, 0 where they agree. A sequence's weight w is the ratio of its probabilities as a whole, and ``ess``, the
    effective sample size as a share of the n sequences, is (sum w)^2 / (n sum w^2) (Kish 1965), computed from the
    logarithms of the weights, so that no weight overflows: from 1 / n, where one sequence has all the weight, to 1. A
    common factor of all weights does not change it. Errors: StudyError for no tokens, numbers that are not finite, or
    two sides of different shapes.
    """
    if [one.shape for one in current] != [other.shape for other in sampled]:
        raise StudyError("off-policy measure: the two policies did not score the same tokens; score the same sequences")
    ratios = [one.astype(np.float64) - other.astype(np.float64) for one, other in zip(current, sampled, strict=True)]
    tokens = sum(len(ratio) for ratio in ratios)
    if not tokens:
        raise StudyError("off-policy measure: there are no tokens to compare; pass at least one scored sequence")
    if not all(np.isfinite(ratio).all() for ratio in ratios):
        raise StudyError("off-policy measure: a log-probability is not finite; the weights of a model are damaged")
    logs = np.array([ratio.sum() for ratio in ratios])
    weights = np.exp(logs - logs.max())
    share = float(weights.sum() ** 2 / (len(logs) * np.square(weights).sum()))
    # Rounding alone leaves the bounds.
    ess = min(1.0, max(1 / len(logs), share))
    return {"log_ratio": float(sum(np.abs(ratio).sum() for ratio in ratios)) / tokens, "ess": ess}
