"""What stored rollouts teach, and the steps that do: of rollouts that a stage's own policy did not just sample.

    best_sft   imitates the best rollout of each prompt
    best_dpo   prefers it to the worst
    grpo       follows the policy gradient over the whole group, with or without weights for its source

Data are filtered by reward alone. What is harmful in them is counted and reported, and changes nothing. Streams of
steps are endless and do not depend on how much of them is used, so a stage goes on at any step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.records import PreferencePair, content_id
from holdfast.records.errors import StepError, StudyError
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded, score_picked
from holdfast.training.objectives import RewardSettings, group_advantages
from holdfast.training.trees.parts import TrainStep, demonstration_step, group_step, pair_step

# What a method's units are called.
_UNITS = {"grpo": "prompts", "best_sft": "demonstrations", "best_dpo": "pairs"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewarded:
    """One rollout: its tokens, and what was said of it.

    ``group`` numbers the prompt within what is passed together, ``case_id`` names it. ``reward`` is None where the
    judge gave none, with ``missing`` as its reason. ``logprob`` is the sum in nats over the agent's own tokens under
    the model that sampled them, as the sampler reports it, and ``sampled`` [agent's tokens] the same token by token as
    the training engine computes it, where it has. ``facts`` are numbers to watch, such as ``harm``, ``exploited``,
    ``success`` and ``gameable`` (0 or 1). ``text`` is what a reader is shown.
    """

    group: int
    case_id: str
    encoded: Encoded
    reward: float | None
    missing: str | None = None
    logprob: float | None = None
    sampled: NDArray[np.float32] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """What is never cut: a demonstration, a pair or the group of a prompt.

    ``taught`` are the best rollout, or all that have a reward under "grpo"; ``against`` is the worst of a pair.
    ``tokens`` counts the agent's own tokens of both.
    """

    case_id: str
    taught: tuple[Rewarded, ...]
    against: tuple[Rewarded, ...] = ()
    tokens: int

    @property
    def rollouts(self) -> tuple[Rewarded, ...]:
        """All that is trained on."""
        return self.taught + self.against


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """What a stage learns from, and how much of it is harmful.

    ``prompts``, ``rollouts`` and ``unscored`` (rollouts without a reward) count all data; ``tokens`` those of one pass
    over the ``units``. ``harmful`` is the share of exploits among what is imitated or preferred, under "grpo" among
    rollouts above their group's mean; ``harmful_of_all`` that of all data. Both are None where no rollout was rated.
    """

    units: tuple[Unit, ...]
    prompts: int
    rollouts: int
    unscored: int
    tokens: int
    harmful: float | None
    harmful_of_all: float | None

    def trajectories(self) -> dict[str, Encoded]:
        """The distinct rollouts that are trained on by ``name_rollout``: those that a reference has to score."""
        return {name_rollout(rollout): rollout.encoded for unit in self.units for rollout in unit.rollouts}


def name_rollout(rollout: Rewarded) -> str:
    """An id of a rollout's case and tokens; equal completions of a case share it."""
    return content_id(rollout.case_id, rollout.encoded.ids.tolist())


def select(groups: Sequence[Rewarded], settings: RewardSettings) -> Selection:
    """What a stage learns from stored rollouts, by their rewards alone, in an order that theirs does not change.

    A prompt is used where the rewards of its rollouts differ; those without a reward are left out. Among equal rewards
    the first by ``name_rollout`` is taken. The two sides of a pair are different completions. Errors: StudyError for
    rollouts that cannot be learnt from (one alone of its prompt, prompts that differ within a group, none of the
    agent's tokens, a reward that is not finite, no label of a user, no ``sampled`` where importance asks for it);
    StepError where no rewards differ, a user's label is missing, or the data do not fill a step.
    """
    prompts = _group(groups)
    for rollout in groups:
        needs_sampled = settings.method == "grpo" and settings.importance
        _check_rollout(rollout, needs_sampled=needs_sampled, by_users=settings.objective is None)
    units = [unit for prompt in prompts if (unit := _choose(prompt, settings.method)) is not None]
    _check_units(units, groups, len(prompts), settings)
    favoured = []
    for unit in units:
        rewards = [reward_or(rollout, 0.0) for rollout in unit.taught]
        mean = math.fsum(rewards) / len(rewards)
        pairs = zip(unit.taught, rewards, strict=True)
        favoured += [rollout for rollout, reward in pairs if len(rewards) == 1 or reward > mean]
    return Selection(
        units=tuple(units),
        prompts=len(prompts),
        rollouts=len(groups),
        unscored=sum(rollout.reward is None for rollout in groups),
        tokens=sum(unit.tokens for unit in units),
        harmful=mean_known(rollout.facts.get("exploited") for rollout in favoured),
        harmful_of_all=mean_known(rollout.facts.get("exploited") for rollout in groups),
    )


def units_per_step(settings: RewardSettings) -> int:
    """The groups, demonstrations or pairs of a step that is not counted in tokens."""
    completions = settings.prompts_per_step * settings.group_size
    return {"grpo": settings.prompts_per_step, "best_sft": completions, "best_dpo": max(1, completions // 2)}[
        settings.method
    ]


def count_own(rollout: Rewarded) -> int:
    """The agent's own tokens of a rollout."""
    return int(rollout.encoded.picked("agent").sum())


def _group(rollouts: Iterable[Rewarded]) -> list[list[Rewarded]]:
    """The rollouts of each prompt in an order of their own."""
    prompts: dict[int, list[Rewarded]] = {}
    for rollout in rollouts:
        prompts.setdefault(rollout.group, []).append(rollout)
    for members in prompts.values():
        first, *others = members
        if not others:
            raise StudyError(
                f"case {first.case_id}: 1 rollout of its prompt (group size 1), but rewards are compared within a"
                " prompt; sample two or more"
            )
        opening = first.encoded.ids[: first.encoded.prompt]
        for other in others:
            same = np.array_equal(opening, other.encoded.ids[: other.encoded.prompt])
            if other.case_id != first.case_id or not same:
                raise StudyError(
                    f"group {first.group}: rollouts of case {first.case_id} and of case {other.case_id} do not share"
                    " their prompt; number the prompts apart"
                )
        members.sort(key=lambda rollout: (name_rollout(rollout), reward_or(rollout, math.inf)))
    return sorted(prompts.values(), key=lambda members: (members[0].case_id, members[0].group))


def reward_or(rollout: Rewarded, otherwise: float) -> float:
    """A rollout's reward, or ``otherwise`` where it has none."""
    return otherwise if rollout.reward is None else rollout.reward


def check_reward(rollout: Rewarded) -> None:
    """Raises StudyError for a reward that is not finite."""
    if rollout.reward is not None and not math.isfinite(rollout.reward):
        raise StudyError(
            f"case {rollout.case_id}: a reward is {rollout.reward}; rewards are finite, and None where there is none"
        )


def _check_rollout(rollout: Rewarded, *, needs_sampled: bool, by_users: bool) -> None:
    case, tokens = f"case {rollout.case_id}", count_own(rollout)
    if not tokens:
        raise StudyError(f"{case}: a rollout has no token of the agent to learn from; drop it")
    check_reward(rollout)
    if by_users and rollout.facts.get("gameable") not in (0, 1):
        raise StudyError(f"{case}: a rollout does not say whether its user is gameable; give facts['gameable'] 0 or 1")
    if not needs_sampled:
        return
    if rollout.sampled is None:
        raise StudyError(
            f"{case}: a rollout comes without its source's log-probabilities, but importance is true; score it under"
            " the model that sampled it, or set importance = false"
        )
    if rollout.sampled.shape != (tokens,) or not np.isfinite(rollout.sampled).all():
        raise StudyError(
            f"{case}: {rollout.sampled.size} log-probabilities of the source for {tokens} tokens of the agent, or one"
            " that is not finite; score the rollout again"
        )


def _choose(prompt: Sequence[Rewarded], method: str) -> Unit | None:
    """What a prompt teaches; None where its rewards do not differ. ``prompt`` is in the order that settles ties."""
    rated = [(rollout.reward, rollout) for rollout in prompt if rollout.reward is not None]
    rewards = [reward for reward, _ in rated]
    if not rated or min(rewards) == max(rewards):
        return None
    taught, against = [rollout for _, rollout in rated], list[Rewarded]()
    if method != "grpo":
        taught = [taught[rewards.index(max(rewards))]]
    if method == "best_dpo":
        # A judge that is a model may rate one text twice; a text is not preferred to itself.
        name = name_rollout(taught[0])
        worse = [pair for pair in rated if pair[0] < max(rewards) and name_rollout(pair[1]) != name]
        if not worse:
            return None
        against = [min(worse, key=lambda pair: pair[0])[1]]
    tokens = sum(count_own(rollout) for rollout in taught + against)
    return Unit(case_id=taught[0].case_id, taught=tuple(taught), against=tuple(against), tokens=tokens)


def _check_units(units: Sequence[Unit], rollouts: Sequence[Rewarded], prompts: int, settings: RewardSettings) -> None:
    """Raises StepError for units that teach nothing, or that do not fill a step."""
    if rollouts and all(rollout.reward is None for rollout in rollouts):
        why = f"none of {len(rollouts)} rollouts has a reward ({rollouts[0].missing or 'no reason given'})"
        raise StepError(f"training on rewards: {why}; look at the judge")
    if not units:
        why = f"all rewards are equal within each of {prompts} prompts, so there is nothing to learn"
        raise StepError(f"training on rewards: {why}; sample more rollouts of each, or take another reward")
    labels = {unit.taught[0].facts.get("gameable") for unit in units}
    if len(labels) < 2 and settings.objective is None:
        missing = "gameable" if 0 in labels else "other (not gameable)"
        why = f"of the {len(units)} prompts whose rewards differ none is of a user who is {missing}"
        raise StepError(f"training on rewards: {why}; sample more prompts of both labels")
    share, tokens = settings.tokens_per_step, sum(unit.tokens for unit in units)
    largest, per_step = max(units, key=lambda unit: unit.tokens), units_per_step(settings)
    selected = f"{len(units)} {_UNITS[settings.method]}"
    if share is None and len(units) < per_step:
        raise StepError(
            f"training on rewards: {selected} were selected, but a step takes {per_step}; sample more prompts or lower"
            " prompts_per_step"
        )
    if share is not None and tokens < share:
        raise StepError(
            f"training on rewards: {selected} of {tokens} tokens were selected, but a step takes tokens_per_step"
            f" {share}; sample more prompts or lower it"
        )
    if share is not None and largest.tokens > share:
        why = f"one of the {_UNITS[settings.method]} has {largest.tokens} tokens, above tokens_per_step {share}"
        raise StepError(f"case {largest.case_id}: {why}; raise it")


def mean_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that there are; None where there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


# --- steps from them ----------------------------------------------------------------------------------------------


def offline_steps(
    groups: Sequence[Rewarded],
    settings: RewardSettings,
    *,
    seed: int,
    reference: Mapping[str, NDArray[np.float32]] | None = None,
) -> Iterator[TrainStep]:
    """The steps of a stage on stored rollouts, endlessly; every pass takes every unit of ``select`` once, in new order.

    A step takes as many completions whatever the method: ``prompts_per_step`` groups, ``group_size`` times as many
    demonstrations, or half of these in pairs. With ``tokens_per_step`` it takes whole units until the tokens of all
    steps so far reach their share, so that methods differ by less than one unit however long they train. A step may
    span two passes.

    ``reference`` are, by ``name_rollout``, the log-probabilities [tokens] in nats at the start of the stage, for
    "best_dpo" and for "grpo" with a ``kl_weight``. Each step's ``facts`` describe the rollouts that it teaches, of a
    pair the chosen one. Errors: those of ``select``, before the first step.
    """
    taken = take_units(select(groups, settings).units, settings, seed=seed)
    return (_build(units, settings, reference or {}) for units in taken)


def take_units(units: Sequence[Unit], settings: RewardSettings, *, seed: int) -> Iterator[list[Unit]]:
    """The units of each step, endlessly; ``offline_steps`` says how many."""
    per_step, share = units_per_step(settings), settings.tokens_per_step
    taken: list[Unit] = []
    tokens = steps = 0
    for epoch in count():
        for place in np.random.default_rng([seed, epoch]).permutation(len(units)).tolist():
            taken.append(units[place])
            tokens += units[place].tokens
            if len(taken) == per_step if share is None else tokens >= (steps + 1) * share:
                yield taken
                taken, steps = [], steps + 1


def describe(rollouts: Sequence[Rewarded]) -> dict[str, float]:
    """What is watched of some rollouts: means by name, over those that have the fact; none of them, no name."""
    means = {"success": mean_known(rollout.facts.get("success") for rollout in rollouts)}
    means["reward"] = mean_known(rollout.reward for rollout in rollouts)
    for objective in OBJECTIVES:
        means[objective] = mean_known(rollout.facts.get(objective) for rollout in rollouts)
    # Cases of a suite have no users of either label.
    labelled = any("gameable" in rollout.facts for rollout in rollouts)
    for side, label in (("gameable", 1.0), ("other", 0.0)) if labelled else ():
        members = [rollout for rollout in rollouts if rollout.facts.get("gameable") == label]
        means[f"reward_{side}"] = mean_known(rollout.reward for rollout in members)
        # Also those of a judge that is a model, where one rewards and the rules rate too.
        for fact in ("harm", "exploited", "harm_judge", "exploited_judge"):
            name = f"{fact.replace('exploited', 'exploit')}_{side}"
            means[name] = mean_known(rollout.facts.get(fact) for rollout in members)
        means[f"count_{side}"] = float(len(members))
    means["length"] = mean_known(count_own(rollout) for rollout in rollouts)
    means["distinct"] = float(len({(rollout.case_id, rollout.encoded.ids.tobytes()) for rollout in rollouts}))
    return {name: value for name, value in means.items() if value is not None}


def _build(units: Sequence[Unit], settings: RewardSettings, reference: Mapping[str, NDArray[np.float32]]) -> TrainStep:
    taught = [rollout for unit in units for rollout in unit.taught]
    if settings.method == "best_sft":
        # What the agent says in the case's opening is not imitated.
        own = [replace(rollout.encoded, agent=rollout.encoded.picked("agent")) for rollout in taught]
        step = demonstration_step(own, 0.0)
    elif settings.method == "best_dpo":
        encoded = {name_rollout(rollout): rollout.encoded for unit in units for rollout in unit.rollouts}
        pairs = [
            PreferencePair(
                case_id=unit.case_id,
                chosen=name_rollout(unit.taught[0]),
                rejected=name_rollout(unit.against[0]),
                objectives=("reward",),
                judge="",
                gap=reward_or(unit.taught[0], 0.0) - reward_or(unit.against[0], 0.0),
            )
            for unit in units
        ]
        sums = {name: float(reference[name].sum(dtype=np.float64)) for name in encoded}
        step = pair_step(pairs, encoded, sums, StageSection(objective="reward", beta=settings.beta))
    else:
        step = _gradient(units, settings, reference)
    counts = {"groups": float(len(units)), "gradient_tokens": float(sum(unit.tokens for unit in units))}
    return replace(step, facts=describe(taught) | counts)


def _gradient(
    units: Sequence[Unit], settings: RewardSettings, reference: Mapping[str, NDArray[np.float32]]
) -> TrainStep:
    """The policy gradient over whole groups.

    Its normaliser counts the groups that are trained on alone, all of which differ in reward; the on-policy loss counts
    all of a step's, also those without a gradient.
    """
    members = [rollout for unit in units for rollout in unit.taught]
    rewards = torch.tensor([reward_or(rollout, math.nan) for rollout in members], dtype=torch.float64)
    groups = torch.tensor([number for number, unit in enumerate(units) for _ in unit.taught])
    advantages = group_advantages(rewards, groups, settings.scale).to(torch.float32).numpy()
    sampled = [rollout.sampled for rollout in members if rollout.sampled is not None]
    start = [reference[name_rollout(rollout)] for rollout in members] if settings.kl_weight > 0 else None
    return group_step(
        [score_picked(f"case {rollout.case_id}", rollout.encoded, "agent") for rollout in members],
        advantages,
        settings=settings,
        sampled=sampled if settings.importance else None,
        reference=start,
    )
