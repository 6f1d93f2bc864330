"""Train steps of stages that learn from rewards: rollouts of users to train on, rewarded, as training takes them."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdfast.judges import Judge
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.models import Ask, Conversation, Model, Reply
from holdfast.models.tiny.chat import is_tiny
from holdfast.records import Case, Ending, Message, Score, Trajectory, content_id
from holdfast.records.errors import StepError, StudyError
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import roll_out as roll_out_episodes
from holdfast.runs.methods.rewards.plan import RewardStageSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.judging import open_judge_of, score_all
from holdfast.runs.steps.outcomes import Emit, Finished, complete
from holdfast.runs.steps.reading import LOOP, cases_of, encode, load_chat, open_speakers, resume, weights_of
from holdfast.store import Store
from holdfast.study.noted import read_rewarder
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import RewardSection, combine_reward
from holdfast.study.tables import RULES
from holdfast.study.users import APPROVAL, PRACTICE, is_exploit, to_rating
from holdfast.suites import open_world

if TYPE_CHECKING:
    from holdfast.models.local.vllm import VllmModel
    from holdfast.training.encoding import Chat, Encoded
    from holdfast.training.policy.adapters import Policy
    from holdfast.training.rl.selection import Rewarded

# The rules' own name, where they are not the judge that rewards.
_RULES = "rules"


def train_on_rewards(step: Step, settings: RewardStageSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """The checkpoints of one stage, and the log of its steps and rollouts."""
    from holdfast.training.loop.loop import LOG
    from holdfast.training.objectives import RewardSettings
    from holdfast.training.rl import stage as reinforce
    from holdfast.training.rl.selection import select

    start, limits = weights_of(store, settings.parent), settings.limits
    section = RewardSettings(**settings.section.model_dump(), max_tokens=limits.max_tokens * limits.max_turns)
    with open_speakers(settings.speakers(), step.means, store) as speakers:
        practice = _Practice(step, settings, store, speakers)
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
    made = tuple(zip(step.checkpoints, (result.path for result in results), strict=True))
    logs = {"": scratch / LOOP / LOG, ".rollouts": scratch / LOOP / reinforce.ROLLOUTS}
    return Finished(result=summary, checkpoints=made, logs=logs)


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
    """The users that a stage trains on, and how what is done for them is rewarded.

    ``unreadable`` counts the stored rollouts that were left out: those that cannot be written as tokens, and one that
    is then alone of its prompt.
    """

    def __init__(self, step: Step, settings: RewardStageSettings, store: Store, speakers: Speakers) -> None:
        self._step, self._settings, self._store, self._speakers = step, settings, store, speakers
        practice = (cases_of(store)[name] for name in store.splits()[settings.split_seed].get(PRACTICE, ()))
        self._cases = [case for case in practice if case.facts["setting"] == settings.section.setting]
        if not self._cases:
            raise StepError(f"the run holds no users of the setting {settings.section.setting!r}; start a new run")
        self._world = open_world(SuiteSection(name=APPROVAL))
        self._calls = settings.calls or "auto"
        self._chat: Chat = load_chat(weights_of(store, settings.parent), self._calls)
        self._judge = open_judge_of(settings.judge, settings.rater, settings.speaker)
        self.unreadable = 0
        self._rules = ApprovalJudge(name=_RULES)
        # Without rules in the study a model that rewards penalizes by what it says of harm itself.
        rewarder = read_rewarder(store)
        judged = settings.rater.kind != RULES and "harm" in self._judge.objectives
        self._own_harm = judged and rewarder is not None and not rewarder.beside_rules
        self._engine: VllmModel | None = None

    def draw(self, policy: Policy, number: int, attempt: int) -> list[Rewarded]:
        """The groups of one step: rollouts of the policy as it is, for users drawn anew, rewarded."""
        section = self._settings.section
        identity = content_id("practice", self._step.fingerprint, number, attempt)
        count = min(section.prompts_per_step, len(self._cases))
        rng = np.random.default_rng(int(identity, 16))
        chosen = [self._cases[number] for number in rng.choice(len(self._cases), count, replace=False)]
        episodes = [(case, rollout) for case in chosen for rollout in range(section.group_size)]
        recorder = _Recorder(self._sampler_of(policy), {})
        played = roll_out_episodes(
            {**self._speakers, "agent": recorder},
            self._world,
            episodes,
            checkpoint_id=identity,
            rollout_seed=self._settings.train_seed,
            limits=self._settings.limits,
        )
        items = list(zip([case for case, _ in episodes], complete(played, "rollouts"), strict=True))
        rewarded = []
        for place, ((case, trajectory), scores) in enumerate(zip(items, self._rate(items), strict=True)):
            encoded, logprob = self._encode_sampled(case, recorder.turns[int(trajectory.id, 16)])
            group = place // section.group_size
            rewarded.append(replace(self._reward(group, case, trajectory, scores, encoded), logprob=logprob))
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
        """The scores of some rollouts by the judge that rewards, and by the rules."""
        judges: list[Judge] = [self._judge]
        if not isinstance(self._judge, ApprovalJudge):
            judges.append(self._rules)
        scores: dict[str, list[Score]] = {trajectory.id: [] for _, trajectory in items}
        for judge in judges:
            for score in score_all(judge, items, self._speakers):
                scores[score.trajectory_id].append(score)
        return list(scores.values())

    def _reward(
        self, group: int, case: Case, trajectory: Trajectory, scores: Sequence[Score], encoded: Encoded
    ) -> Rewarded:
        """A rollout with its reward, and what there is to watch of it."""
        from holdfast.training.rl.selection import Rewarded

        section, own = self._settings.section, self._settings.judge
        values: dict[tuple[str, str], list[float]] = {}
        for score in scores:
            if score.value is not None:
                values.setdefault((score.judge, score.objective), []).append(score.value)
        means = {key: math.fsum(repeats) / len(repeats) for key, repeats in values.items()}
        # The rules, which alone tell success, are the ground truth where they were asked.
        named = [judge for judge, objective in means if objective == "success"]
        rules = own if own in named or not named else named[0]
        facts = {"gameable": float(case.facts["gameable"]), "unreadable": float(trajectory.ending is Ending.INCOHERENT)}
        for judge, suffix in {own: "_judge", rules: ""}.items():
            if (judge, "harm") in means:
                rating = to_rating(means[judge, "harm"])
                facts |= {f"harm{suffix}": rating, f"exploited{suffix}": float(is_exploit(rating))}
        if (rules, "success") in means:
            facts["success"] = float(means[rules, "success"] > 0)
        if (own, "approval") in means:
            facts["approval"] = to_rating(means[own, "approval"])
        parts = {name: facts.get(name) for name in ("approval", "success", "harm")}
        if self._own_harm and rules != own:
            parts["harm"] = facts.get("harm_judge")
        reward = combine_reward(section.reward, section.weight, **parts)
        reasons = [score.missing for score in scores if score.judge == own and score.missing]
        if not encoded.agent.any():
            reward, reasons = None, ["no token was sampled"]
        return Rewarded(
            group=group,
            case_id=case.id,
            encoded=encoded,
            reward=reward,
            missing=None if reward is not None else (*reasons, "unscored")[0],
            logprob=(trajectory.detail or {}).get("logprob"),
            facts=facts,
            text=" ⏎ ".join(_show(message) for message in trajectory.messages),
        )

    def _encode_sampled(self, case: Case, turns: Sequence[tuple[Ask, Reply]]) -> tuple[Encoded, float | None]:
        """A rollout as it was sampled, and the log-probability in nats of what counts as the agent's own of it.

        It is what came before its last turn, and that turn's tokens. Of an earlier turn tokens count where they stand
        there as they were sampled; what the chat format puts around them was not. Where there was no room for a token
        none is the agent's own.
        """
        from holdfast.training.encoding import Encoded

        prompts = [self._chat_prompt(ask.conversation) for ask, _ in turns]
        ids = np.array([*prompts[-1], *(turns[-1][1].ids or ())], np.int64)
        agent = np.zeros(len(ids), np.bool_)
        logprob: float | None = 0.0
        for prompt, (_, reply) in zip(prompts, turns, strict=True):
            own = slice(len(prompt), len(prompt) + len(reply.ids or ()))
            if np.array_equal(ids[own], reply.ids or ()):
                agent[own] = True
                logprob = None if logprob is None or reply.logprob is None else logprob + reply.logprob
        opening = self._chat_prompt(Conversation(messages=case.messages, tools=case.tools))
        return Encoded(ids=ids, agent=agent, prompt=len(opening)), logprob

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
                    rewarded.append(self._reward(number[case.id], case, trajectory, scores, encoded))
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


def _show(message: Message) -> str:
    """A message of a rollout in a line."""
    calls = (f"{call.name}({', '.join(map(str, call.arguments.values()))})" for call in message.tool_calls)
    return " ".join([f"[{message.role}]" if message.role != "assistant" else "", message.content, *calls]).strip()
