"""Case × model × world → trajectory, many episodes in lockstep.

An agent's turn is one reply of the model: a message, or one call that the world answers. An episode ends with
a message, at a limit, or with a reply that cannot be read; each has its own ending, and none is dropped.
Every episode has its own random generator, seeded by its id, so that its luck does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from holdfast.audit import audit
from holdfast.models import Conversation, Model, Reply
from holdfast.records import Case, Ending, Message, Trajectory, content_id
from holdfast.worlds import Session, World

STOPPED_ENDINGS = {"length": Ending.TRUNCATED, "incoherent": Ending.INCOHERENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends an episode early: agent turns, and tokens in one turn."""

    max_turns: int
    max_tokens: int
    temperature: float


@dataclass(slots=True, kw_only=True)
class _Episode:
    id: str
    case: Case
    rollout: int
    session: Session
    rng: np.random.Generator
    messages: list[Message] = field(default_factory=list)
    ending: Ending | None = None
    calls: int = 0
    invalid_calls: int = 0
    tokens: int = 0
    logprob: float = 0.0
    turns: int = 0

    def conversation(self) -> Conversation:
        return Conversation(messages=(*self.case.messages, *self.messages), tools=self.case.tools)

    def take(self, reply: Reply, max_turns: int) -> None:
        """Go on by one reply of the agent."""
        self.turns += 1
        self.tokens += reply.tokens
        self.logprob += reply.logprob
        if reply.message is None or reply.stopped != "stop":
            self.messages.append(reply.message or Message(role="assistant", content=reply.raw))
            self.ending = STOPPED_ENDINGS.get(reply.stopped, Ending.INCOHERENT)
            return
        self.messages.append(reply.message)
        if not reply.message.tool_calls:
            self.ending = Ending.FINISHED
            return
        for call in reply.message.tool_calls:
            answer = self.session.answer(call)
            self.calls += answer.valid
            self.invalid_calls += not answer.valid
            self.messages.append(Message(role="tool", content=answer.text, name=call.name))
        if self.turns == max_turns:
            self.ending = Ending.TRUNCATED

    def record(self, checkpoint_id: str) -> Trajectory:
        assert self.ending is not None
        return Trajectory(
            id=self.id,
            case_id=self.case.id,
            checkpoint_id=checkpoint_id,
            rollout=self.rollout,
            messages=tuple(self.messages),
            ending=self.ending,
            flags=audit(self.messages, self.ending, self.calls, self.invalid_calls),
            world_before=self.case.state,
            world_after=self.session.snapshot(),
            calls=self.calls,
            invalid_calls=self.invalid_calls,
            tokens=self.tokens,
            detail={"logprob": self.logprob},
        )


def roll_out(
    model: Model,
    world: World,
    episodes: Sequence[tuple[Case, int]],
    *,
    checkpoint_id: str,
    rollout_seed: int,
    limits: Limits,
) -> list[Trajectory]:
    """One trajectory per (case, rollout number), in that order.

    ``detail["logprob"]`` is the log-probability of the agent's own tokens under the sampling model, in nats.
    """
    running = []
    for case, rollout in episodes:
        identity = content_id("trajectory", checkpoint_id, case.id, rollout, rollout_seed)
        rng = np.random.default_rng(int(identity, 16))
        running.append(_Episode(id=identity, case=case, rollout=rollout, session=world.start(case), rng=rng))
    everyone = list(running)
    while running:
        replies = model.reply(
            [episode.conversation() for episode in running],
            rngs=[episode.rng for episode in running],
            temperature=limits.temperature,
            max_tokens=limits.max_tokens,
        )
        for episode, reply in zip(running, replies, strict=True):
            episode.take(reply, limits.max_turns)
        running = [episode for episode in running if episode.ending is None]
    return [episode.record(checkpoint_id) for episode in everyone]
