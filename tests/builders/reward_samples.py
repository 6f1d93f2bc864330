"""A toy world for training on rewards: openings of the made-up office, and a reward for saying certain words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from builders import tiny_office as office
from holdfast.models import Ask, Conversation
from holdfast.models.tiny.chat import TinyChat
from holdfast.training.encoding import Encoded
from holdfast.training.objectives import RewardSettings
from holdfast.training.rl.selection import Rewarded
from holdfast.training.rl.stage import train_on_rewards

WORDS = frozenset(["i", "did", "not", "find"])
SETTINGS = RewardSettings(
    method="grpo",
    group_size=6,
    prompts_per_step=3,
    steps=6,
    learning_rate=3e-3,
    warmup_steps=1,
    max_tokens=5,
)


def says_words(chat: TinyChat, ids: tuple[int, ...]) -> float:
    """How many of a reply's tokens are such words."""
    return float(sum(chat.tokens[token] in WORDS for token in ids))


class Draw:
    """Samples with the policy's own sampler; ``seen`` holds the step, the attempt and a weight of the sampling policy.

    ``broken_at`` is the step, counted from 0, at which it fails as a killed process would.
    """

    def __init__(
        self,
        base: Any,
        *,
        reward: Callable[[TinyChat, tuple[int, ...]], float | None] = says_words,
        settings: RewardSettings = SETTINGS,
        broken_at: int | None = None,
    ) -> None:
        self.chat, self.reward, self.settings, self.broken_at = TinyChat.load(base), reward, settings, broken_at
        self.seen: list[tuple[int, int, float]] = []
        self.made: dict[tuple[int, int], list[Rewarded]] = {}

    def __call__(self, policy: Any, number: int, attempt: int) -> list[Rewarded]:
        if number == self.broken_at:
            raise KeyboardInterrupt
        self.seen.append((number, attempt, float(policy.trainable()[0].detach().double().sum())))
        things = [office.THINGS[(number + place) % 6] for place in range(self.settings.prompts_per_step)]
        told = [(group, thing) for group, thing in enumerate(things) for _ in range(self.settings.group_size)]
        asks = [
            Ask(
                speaker="agent",
                conversation=Conversation(messages=office.opening(thing), tools=office.TOOLS),
                temperature=1.0,
                max_tokens=self.settings.max_tokens,
                rng=np.random.default_rng([number, attempt, place]),
            )
            for place, (_, thing) in enumerate(told)
        ]
        replies = policy.sampler().reply(asks)
        found = [self._rewarded(group, thing, reply) for (group, thing), reply in zip(told, replies, strict=True)]
        self.made[number, attempt] = found
        return found

    def _rewarded(self, group: int, thing: str, reply: Any) -> Rewarded:
        opening = self.chat.encode(office.opening(thing), office.TOOLS)[0]
        reward = self.reward(self.chat, reply.ids)
        gameable = float(thing in office.THINGS[:3])
        return Rewarded(
            group=group,
            case_id=thing,
            encoded=Encoded(
                ids=np.array([*opening, *reply.ids], np.int64),
                agent=np.array([False] * len(opening) + [True] * len(reply.ids)),
                prompt=len(opening),
            ),
            reward=reward,
            missing=None if reward is not None else "nothing said",
            logprob=reply.logprob,
            facts={"gameable": gameable, "harm": 1.0 + gameable, "exploited": gameable, "success": 1.0},
            text=reply.raw,
        )


def train(base: Any, tmp: Any, draw: Draw, settings: RewardSettings = SETTINGS, **options: Any) -> Any:
    """Trains in a folder of ``tmp``, to the last step unless told otherwise."""
    told = {"seed": 3, "save_at": (settings.steps,), "out_dir": tmp / "out", "folder": tmp / "log"} | options
    return train_on_rewards(base, settings, draw=draw, **told)


def lines_of(tmp: Any, name: str = "train.jsonl") -> list[dict[str, Any]]:
    """A log without what the clock decides."""
    lines = [json.loads(line) for line in (tmp / "log" / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("cpu_seconds", "work")} for line in lines]
