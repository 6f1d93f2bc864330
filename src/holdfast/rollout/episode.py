"""Episodes: a case, an agent and a world become a trajectory.

An episode is a dialogue with the agent, and with the model that plays the tools where there is one; ``dialogues``
carries on many at once. Every episode has its own random generator, seeded by its id, so that its luck does not
depend on its batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from holdfast.models import Ask, Conversation, Reply
from holdfast.records import Case, Ending, Message, ToolCall, Trajectory, content_id
from holdfast.records.errors import ProviderError
from holdfast.rollout.audit import audit
from holdfast.rollout.dialogues import Dialogue, Speakers, hold
from holdfast.rollout.worlds import Answer, Session, World

STOPPED_ENDINGS = {"length": Ending.TRUNCATED, "context": Ending.TRUNCATED, "incoherent": Ending.INCOHERENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends an episode early: agent turns, tokens in one turn; the agent's tokens and seconds in all its turns."""

    max_turns: int
    max_tokens: int
    temperature: float
    max_episode_tokens: int | None = None
    max_seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class _Episode:
    id: str
    case: Case
    rollout: int
    session: Session
    rng: np.random.Generator
    limits: Limits
    messages: list[Message] = field(default_factory=list)
    calls: int = 0
    invalid_calls: int = 0
    tokens: int = 0
    logprob: float | None = 0.0
    turns: int = 0
    error: str | None = None
    cut: str | None = None  # "context" where the conversation is longer than the model reads

    def play(self, checkpoint_id: str) -> Dialogue[Trajectory]:
        """The whole episode. Errors: ProviderError for what is not this episode's own."""
        started = time.monotonic()
        try:
            ending = None
            while ending is None:
                ending = self._take((yield self._ask()))
                if ending is Ending.FINISHED and self._go_on():
                    ending = self._limit(time.monotonic() - started)
                elif ending is None:
                    yield from self._answer(self.messages[-1].tool_calls)
                    ending = self._limit(time.monotonic() - started)
        except ProviderError as error:
            if not error.is_data:
                raise
            self.error, ending = str(error), Ending.ERROR
        return self._record(checkpoint_id, ending)

    def _ask(self) -> Ask:
        left = self.limits.max_tokens
        if self.limits.max_episode_tokens is not None:
            left = min(left, self.limits.max_episode_tokens - self.tokens)
        return Ask(
            speaker="agent",
            conversation=Conversation(messages=(*self.case.messages, *self.messages), tools=self.case.tools),
            temperature=self.limits.temperature,
            max_tokens=left,
            rng=self.rng,
            # A ledger of answers would give a case that is made of another, where both say the same, the same reply;
            # its mark makes them episodes apart.
            replicate=(self.rollout, 1) if "variant" in self.case.facts else (self.rollout,),
        )

    def _take(self, reply: Reply) -> Ending | None:
        """Go on by one reply of the agent; how the episode ended with it."""
        self.turns += 1
        self.tokens += reply.tokens
        self.logprob = None if self.logprob is None or reply.logprob is None else self.logprob + reply.logprob
        if reply.message is None or reply.stopped != "stop":
            self.messages.append(reply.message or Message(role="assistant", content=reply.raw))
            if reply.stopped == "length" and self._tokens_spent():
                return Ending.TOKEN_LIMIT
            self.cut = "context" if reply.stopped == "context" else None
            return STOPPED_ENDINGS.get(reply.stopped, Ending.INCOHERENT)
        self.messages.append(reply.message)
        return None if reply.message.tool_calls else Ending.FINISHED

    def _answer(self, calls: Sequence[ToolCall]) -> Dialogue[None]:
        """Every call of a turn, in its order: what one call changed, the next one finds."""
        for call in calls:
            answer = self.session.answer(call)
            if not isinstance(answer, Answer):
                answer = yield from answer
            self.calls += answer.valid
            self.invalid_calls += not answer.valid
            self.messages.append(Message(role="tool", content=answer.text, name=call.name, detail=answer.detail))

    def _go_on(self) -> bool:
        """Whether the user has something to say to a closing message; it is said."""
        # A ``Conversing`` has it; asking for the protocol itself takes as long as judging the episode.
        hear = getattr(self.session, "hear", None)
        said: str | None = None if hear is None else hear(self.messages[-1])
        if said is not None:
            self.messages.append(Message(role="user", content=said))
        return said is not None

    def _tokens_spent(self) -> bool:
        return self.limits.max_episode_tokens is not None and self.tokens >= self.limits.max_episode_tokens

    def _limit(self, seconds: float) -> Ending | None:
        reached = {
            Ending.TURN_LIMIT: self.turns == self.limits.max_turns,
            Ending.TOKEN_LIMIT: self._tokens_spent(),
            Ending.TIME_LIMIT: self.limits.max_seconds is not None and seconds >= self.limits.max_seconds,
        }
        return next((ending for ending, is_reached in reached.items() if is_reached), None)

    def _record(self, checkpoint_id: str, ending: Ending) -> Trajectory:
        detail = {"logprob": self.logprob, "error": self.error, "cut": self.cut}
        # What the infrastructure broke off says nothing about the agent.
        failed = ending is Ending.ERROR
        flags = () if failed else audit(self.messages, ending, self.calls, self.invalid_calls, self.case.tools)
        return Trajectory(
            id=self.id,
            case_id=self.case.id,
            checkpoint_id=checkpoint_id,
            rollout=self.rollout,
            messages=tuple(self.messages),
            ending=ending,
            flags=flags,
            world_before=self.case.state,
            world_after=self.session.snapshot(),
            calls=self.calls,
            invalid_calls=self.invalid_calls,
            tokens=self.tokens,
            detail={key: value for key, value in detail.items() if value is not None},
        )


def roll_out(
    speakers: Speakers,
    world: World,
    episodes: Sequence[tuple[Case, int]],
    *,
    checkpoint_id: str,
    rollout_seed: int,
    limits: Limits,
) -> list[Trajectory | ProviderError]:
    """One trajectory per (case, rollout number), in that order, or the outage that kept it from being made.

    ``detail["logprob"]`` is the log-probability of the agent's own tokens under the sampling model, in nats, where
    that is known; ``detail["error"]`` says why an episode ended in ``Ending.ERROR``, and ``detail["cut"]`` is
    "context" where the conversation became longer than the model reads.
    """
    dialogues = [
        start_episode(case, rollout, world, checkpoint_id=checkpoint_id, rollout_seed=rollout_seed, limits=limits)
        for case, rollout in episodes
    ]
    return hold(dialogues, speakers)


def episode_id(checkpoint_id: str, case_id: str, rollout: int, rollout_seed: int) -> str:
    """The id of the trajectory that an episode becomes."""
    return content_id("trajectory", checkpoint_id, case_id, rollout, rollout_seed)


def start_episode(
    case: Case, rollout: int, world: World, *, checkpoint_id: str, rollout_seed: int, limits: Limits
) -> Dialogue[Trajectory]:
    """One episode, for a caller who answers its requests. Errors: ProviderError."""
    identity = episode_id(checkpoint_id, case.id, rollout, rollout_seed)
    rng = np.random.default_rng(int(identity, 16))
    # The tools' luck does not take from the agent's.
    session = world.start(case, rng=np.random.default_rng([1, int(identity[:15], 16)]), replicate=(rollout,))
    episode = _Episode(id=identity, case=case, rollout=rollout, session=session, rng=rng, limits=limits)
    return episode.play(checkpoint_id)
