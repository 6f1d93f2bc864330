"""Train steps of stages that learn from rewards: rollouts to train on, rewarded, as training takes them."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdfast.models import Ask, Conversation, Model, Reply
from holdfast.models.tiny.chat import is_tiny
from holdfast.records import Case, Ending, Score, Trajectory, content_id
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import roll_out as roll_out_episodes
from holdfast.runs.methods.rewards.plan import RewardStageSettings
from holdfast.runs.methods.rewards.rewarding import Rewards, open_rewards
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.judging import score_all
from holdfast.runs.steps.outcomes import Emit, Finished, complete
from holdfast.runs.steps.reading import LOOP, cases_of, encode, load_chat, open_speakers, resume, weights_of
from holdfast.store import Store
from holdfast.study.stages import RewardSection

# What is noted of a rollout: turns whose tokens are not trained on.
LOST_TURNS = "lost_turns"

if TYPE_CHECKING:
    from holdfast.models.local.vllm import VllmModel
    from holdfast.training.encoding import Chat, Encoded
    from holdfast.training.policy.adapters import Policy
    from holdfast.training.rl.selection import Rewarded


def train_on_rewards(step: Step, settings: RewardStageSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """The checkpoints of one stage, and the log of its steps and rollouts."""
    from holdfast.training.loop.loop import LOG
    from holdfast.training.objectives import RewardSettings
    from holdfast.training.rl import stage as reinforce
    from holdfast.training.rl.selection import select

    start, limits = weights_of(store, settings.parent), settings.limits
    section = RewardSettings(**settings.section.model_dump(), max_tokens=limits.max_tokens * limits.max_turns)
    with open_speakers(settings.speakers(), step.means, store) as speakers:
        practice = _Practice(step, settings, store, speakers, open_rewards(settings, store))
        stored = () if section.on_policy else practice.read_stored()
        draw = practice.draw if section.on_policy else None
        train = partial(reinforce.train_on_rewards, start, section, save_at=settings.kept, draw=draw, groups=stored)
        results = resume(step, scratch, emit, train)
    doses = [
        {
            "checkpoint": checkpoint.id,
            "steps": result.steps,
            "rollouts": result.examples,
            "trained_tokens": result.tokens,
            "loss": float(np.mean(result.losses[-10:])),
        }
        for checkpoint, result in zip(step.checkpoints, results, strict=True)
    ]
    summary: dict[str, Any] = {"doses": doses, "trained_tokens": results[-1].tokens}
    if not section.on_policy:
        data = select(stored, section)
        # Shares are of exploits; unreadable rollouts were left out.
        summary["data"] = {
            "harmful_share": data.harmful,
            "harmful_share_all": data.harmful_of_all,
            "prompts": data.prompts,
            "units": len(data.units),
            "rollouts": data.rollouts,
            "unscored": data.unscored,
            "tokens": data.tokens,
            "unreadable": practice.unreadable,
        }
    elif settings.training is not None:
        summary |= _tell_unscored(step.name.removeprefix("train "), _sum_log(scratch / LOOP / LOG))
    made = tuple(zip(step.checkpoints, (result.path for result in results), strict=True))
    logs = {"": scratch / LOOP / LOG, ".rollouts": scratch / LOOP / reinforce.ROLLOUTS}
    return Finished(result=summary, checkpoints=made, logs=logs)


# What a stage's log counts of its rollouts in every step.
_OF_ROLLOUTS = ("rollouts", "unscored", "cut_off", "unfit", "counted_lowest")
_COUNTED = (*_OF_ROLLOUTS, "groups", "lone_groups", "skipped_groups", LOST_TURNS)


def _sum_log(path: Path) -> dict[str, int]:
    """What all steps of a stage counted."""
    steps = [json.loads(line)["metrics"] for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: round(math.fsum(metrics.get(name, 0.0) for metrics in steps)) for name in _COUNTED}


def _tell_unscored(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The counts of a training as its step's result, and a line for people where rollouts taught nothing or in part."""
    notes, rollouts = [], count_noun(counts["rollouts"], "rollouts")
    if counts["counted_lowest"]:
        notes.append(f"{name}: {counts['counted_lowest']:,} of {rollouts} were cut off, unreadable or unfit: reward 0")
    if counts["unscored"]:
        notes.append(
            f"{name}: {counts['unscored']:,} of {rollouts} have no reward and are"
            f" left out of their groups ({counts['cut_off']:,} of all were cut off, {counts['unfit']:,} unfit);"
            f" {counts['lone_groups']:,} of {count_noun(counts['groups'], 'groups')} had fewer than two rewards and"
            " taught nothing"
        )
    if counts[LOST_TURNS]:
        notes.append(
            f"{name}: {count_noun(counts[LOST_TURNS], 'turns')} of {rollouts} were"
            " not trained on: the chat format writes them with other tokens in the turns after them than were sampled"
        )
    return {"sampled": dict(counts), **({"notes": notes} if notes else {})}


@dataclass(slots=True)
class _Recorder:
    """A model whose turns are noted, token by token and in their order, by the seed of the episode's luck."""

    model: Model
    turns: dict[int, list[tuple[Ask, Reply]]]

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        replies = self.model.reply(asks)
        for ask, reply in zip(asks, replies, strict=True):
            # What seeds an episode's generator is its id as a number.
            luck = int(ask.rng.bit_generator.seed_seq.entropy)  # type: ignore[attr-defined]
            self.turns.setdefault(luck, []).append((ask, reply))
        return replies


class _Practice:
    """The rollouts that a stage learns from, as ``rewards`` says which cases they are of and what rewards them.

    ``unreadable`` counts the stored rollouts that were left out: those that cannot be written as tokens, and one that
    is then alone of its prompt.
    """

    def __init__(
        self, step: Step, settings: RewardStageSettings, store: Store, speakers: Speakers, rewards: Rewards
    ) -> None:
        self._step, self._settings, self._store, self._speakers = step, settings, store, speakers
        self._rewards = rewards
        self._calls = settings.calls or "auto"
        self._chat: Chat = load_chat(weights_of(store, settings.parent), self._calls)
        self.unreadable = 0
        self._engine: VllmModel | None = None

    def draw(self, policy: Policy, number: int, attempt: int) -> list[Rewarded]:
        """The groups of one step: rollouts of the policy as it is, of cases drawn anew, rewarded."""
        section, cases = self._settings.section, list(self._rewards.cases)
        identity = content_id("practice", self._step.fingerprint, number, attempt)
        rng = np.random.default_rng(int(identity, 16))
        if section.grouping == "family":
            # A family comes as often as it has cases, and is the same in all attempts at a step.
            luck = np.random.default_rng(int(content_id("family", self._step.fingerprint, number), 16))
            family = cases[luck.integers(len(cases))].family
            cases = [case for case in cases if case.family == family]
        count = min(section.prompts_per_step, len(cases))
        chosen = [cases[number] for number in rng.choice(len(cases), count, replace=False)]
        episodes = [(case, rollout) for case in chosen for rollout in range(section.group_size)]
        recorder = _Recorder(self._sampler_of(policy), {})
        played = roll_out_episodes(
            {**self._speakers, "agent": recorder},
            self._rewards.world,
            episodes,
            checkpoint_id=identity,
            rollout_seed=self._settings.train_seed,
            limits=self._settings.limits,
        )
        items = list(zip([case for case, _ in episodes], complete(played, "rollouts"), strict=True))
        rewarded = []
        for place, ((case, trajectory), scores) in enumerate(zip(items, self._rate(items), strict=True)):
            encoded, logprob, lost = self._encode_sampled(case, recorder.turns[int(trajectory.id, 16)])
            item = self._rewards.reward(place // section.group_size, case, trajectory, scores, encoded)
            facts = {**item.facts, LOST_TURNS: float(lost)} if section.setting is None else item.facts
            rewarded.append(replace(item, logprob=logprob, facts=facts))
        return rewarded

    def _sampler_of(self, policy: Policy) -> Model:
        """Who samples for a policy: itself, or a base's vLLM with the policy's newest adapter."""
        settings = self._settings
        if settings.agent is None or settings.agent.entry.kind != "vllm":
            return policy.sampler(self._calls)
        from holdfast.models.local.vllm import VllmModel
        from holdfast.training.policy.adapters import HubModel

        assert isinstance(policy, HubModel) and policy.adapted  # as the study's check asks for
        if self._engine is None:
            start, entry = weights_of(self._store, settings.parent), settings.agent.entry
            lora_r = settings.section.lora_r
            self._engine = VllmModel(start, calls=entry.calls, precision=entry.precision, lora_r=lora_r)
        self._engine.take_adapter(*policy.newest())
        return self._engine

    def _rate(self, items: Sequence[tuple[Case, Trajectory]]) -> list[list[Score]]:
        """The scores of some rollouts by every judge that is asked."""
        scores: dict[str, list[Score]] = {trajectory.id: [] for _, trajectory in items}
        for judge in self._rewards.judges:
            for score in score_all(judge, items, self._speakers):
                scores[score.trajectory_id].append(score)
        return list(scores.values())

    def _encode_sampled(self, case: Case, turns: Sequence[tuple[Ask, Reply]]) -> tuple[Encoded, float | None, int]:
        """A rollout as it was sampled, the log-probability in nats of what counts as the agent's own of it, and how
        many turns do not.

        It is what came before its last turn, and that turn's tokens. Of an earlier turn tokens count where they stand
        there as they were sampled; what the chat format puts around them was not. Where there was no room for a token
        none is the agent's own.
        """
        from holdfast.training.encoding import Encoded

        prompts = [self._chat_prompt(ask.conversation) for ask, _ in turns]
        ids = np.array([*prompts[-1], *(turns[-1][1].ids or ())], np.int64)
        agent = np.zeros(len(ids), np.bool_)
        logprob: float | None = 0.0
        lost = 0
        for prompt, (_, reply) in zip(prompts, turns, strict=True):
            own = slice(len(prompt), len(prompt) + len(reply.ids or ()))
            if np.array_equal(ids[own], reply.ids or ()):
                agent[own] = True
                logprob = None if logprob is None or reply.logprob is None else logprob + reply.logprob
            else:
                lost += 1
        opening = self._chat_prompt(Conversation(messages=case.messages, tools=case.tools))
        return Encoded(ids=ids, agent=agent, prompt=len(opening)), logprob, lost

    def _chat_prompt(self, conversation: Conversation) -> list[int]:
        """What a reply follows, as tokens."""
        prompt = getattr(self._chat, "prompt_ids", None)
        return list(prompt(conversation) if prompt else self._chat.encode(conversation.messages, conversation.tools)[0])

    def read_stored(self) -> list[Rewarded]:
        """The rollouts that a step before this one stored, with their log-probabilities under what sampled them.

        Log-probabilities are left out where the model that sampled writes other tokens; ``select`` says what needs
        them.
        """
        section, sampler = self._settings.section, self._settings.sampler
        assert sampler is not None  # of a stage whose rollouts were stored
        rolled = list(self._store.trajectories(step=self._settings.rolled))
        cases = cases_of(self._store)
        number = {name: place for place, name in enumerate(dict.fromkeys(item.case_id for item in rolled))}
        judged = self._store.scores_of(item.id for item in rolled)
        source = load_chat(weights_of(self._store, sampler), self._calls)
        whole = is_tiny(weights_of(self._store, sampler))
        rewarded: list[Rewarded] = []
        alike = True
        for trajectory, scores in zip(rolled, judged, strict=True):
            # A reply of a tiny agent that could not be read is not kept token by token.
            if whole and trajectory.ending is not Ending.FINISHED:
                continue
            case = cases[trajectory.case_id]
            with contextlib.suppress(StudyError):  # what the chat format cannot write is not learnt from
                encoded = encode(self._chat, cases, trajectory)
                alike = alike and np.array_equal(encode(source, cases, trajectory).ids, encoded.ids)
                if encoded.agent.any():
                    rewarded.append(self._rewards.reward(number[case.id], case, trajectory, scores, encoded))
        sizes = Counter(item.group for item in rewarded)
        # One rollout that is left alone of its prompt cannot be compared.
        rewarded = [item for item in rewarded if sizes[item.group] > 1]
        self.unreadable = len(rolled) - len(rewarded)
        if not alike:
            return rewarded
        sampled = score_tokens(weights_of(self._store, sampler), [item.encoded for item in rewarded], section)
        return [replace(item, sampled=logps) for item, logps in zip(rewarded, sampled, strict=True)]


def score_tokens(directory: Path, encoded: Sequence[Encoded], stage: RewardSection) -> list[NDArray[np.float32]]:
    """Log-probabilities in nats of the agent's own tokens under a model directory, as a stage's engine has them."""
    from holdfast.training.encoding import check_sequences, score_picked
    from holdfast.training.loop.loop import isolated
    from holdfast.training.loop.passes import check_budget
    from holdfast.training.policy.adapters import open_policy
    from holdfast.training.rl.supply import score_all as score_sequences

    # In bf16 the weights beside an adapter are held otherwise than weights without one.
    adapter = stage.precision == "bf16" and stage.lora_r > 0
    with isolated(0):
        policy = open_policy(directory, precision=stage.precision, lora_r=int(adapter))
        named = [(f"rollout {number}", item) for number, item in enumerate(encoded)]
        check_sequences(named, policy)
        sequences = [score_picked(name, item, "agent") for name, item in named]
        check_budget(sequences, stage.token_budget)
        return score_sequences(policy, sequences, stage.token_budget)
