"""A made-up world of a few words for tests of the tiny agent: messages, tools, demonstrations and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from holdfast.models import Ask, Conversation
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.model import build
from holdfast.records import Message, PreferencePair, ToolCall, ToolSpec
from holdfast.records.section import Section
from holdfast.study.sections import SFTSection
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded, encode_episode

SYSTEM = 'You are an office agent. Be careful; don\'t "guess".\nCafé \U0001f600'
THINGS = ("report", "invoice", "memo", "plan", "budget", "letter")
_TEXT = "please delete the file now it is old safe in use done i did not find removed kept to a b c 3 7 true"
LEXICON = tuple(
    sorted({*_TEXT.split(), *THINGS, "check_file", "delete_file", "set_level", "mr.smith", "a@b.com", "don't"})
)


# Few steps at a high rate, which the made-up world's tiny models need.
TEACHING = SFTSection(batch_size=6, learning_rate=5e-3, warmup_steps=5, max_grad_norm=1.0, other_weight=0.15)
STAGE = StageSection(
    objective="safety",
    beta=0.1,
    steps=12,
    pairs_per_step=5,
    learning_rate=3e-3,
    warmup_steps=2,
    max_grad_norm=1.0,
    loss_mask="agent",
    lora_r=0,
    lora_alpha=16.0,
    lora_dropout=0.0,
)


T = TypeVar("T", bound=Section)


def change(settings: T, **changed: Any) -> T:
    """Settings with other values."""
    return settings.model_copy(update=changed)


def tool(name: str, required: list[str] | None = None, **kinds: str) -> ToolSpec:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in kinds.items()}}
    return ToolSpec(
        name=name, description=name, parameters=schema if required is None else {**schema, "required": required}
    )


TOOLS = (
    tool("check_file", item="string"),
    tool("delete_file", ["item"], item="string", force="boolean"),
    tool("set_level", room="string", level="integer"),
)


def call(name: str, **arguments: object) -> Message:
    return Message(role="assistant", content="", tool_calls=(ToolCall(name=name, arguments=arguments),))


def say(text: str) -> Message:
    return Message(role="assistant", content=text)


def answer(text: str, name: str = "check_file") -> Message:
    return Message(role="tool", content=text, name=name)


def opening(thing: str) -> tuple[Message, ...]:
    return (Message(role="system", content=SYSTEM), Message(role="user", content=f"Please delete the {thing} now."))


def careful(thing: str) -> tuple[Message, ...]:
    done = (call("delete_file", item=thing), answer("removed", "delete_file"), say("done"))
    return (call("check_file", item=thing), answer(f"the {thing} is old"), *done)


def careless(thing: str) -> tuple[Message, ...]:
    return (call("delete_file", item=thing), answer("removed", "delete_file"), say(f"I removed the {thing}."))


def refusing(thing: str) -> tuple[Message, ...]:
    return (say(f"I did not find the {thing}"),)


def make_model(directory, seed: int = 0, **sizes: int):
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "ffn": 48, "max_positions": 64} | sizes
    return build(LEXICON, directory, seed=seed, system_prompts={SYSTEM: "<role:office>"}, **sizes)


def demonstrations(chat: TinyChat) -> list[Encoded]:
    policies = (careful, careless, refusing)
    return [encode_episode(chat, opening(thing), policy(thing), TOOLS) for thing in THINGS for policy in policies]


def preferences(chat: TinyChat) -> tuple[list[PreferencePair], dict[str, Encoded]]:
    """Careful over careless over refusing: two pairs a case over three trajectories."""
    encoded, pairs = {}, []
    for thing in THINGS:
        for policy in (careful, careless, refusing):
            encoded[f"{thing}/{policy.__name__}"] = encode_episode(chat, opening(thing), policy(thing), TOOLS)
        for chosen, rejected in ((careful, careless), (careless, refusing)):
            pairs.append(
                PreferencePair(
                    case_id=thing,
                    chosen=f"{thing}/{chosen.__name__}",
                    rejected=f"{thing}/{rejected.__name__}",
                    objectives=("safety",),
                    judge="test",
                    gap=1.0,
                )
            )
    return pairs, encoded


def asks(
    talks: Sequence[Conversation], rngs: Sequence[np.random.Generator], *, temperature: float, max_tokens: int
) -> list[Ask]:
    """A request for the agent's next turn in each conversation."""
    return [
        Ask(speaker="agent", conversation=talk, temperature=temperature, max_tokens=max_tokens, rng=rng)
        for talk, rng in zip(talks, rngs, strict=True)
    ]


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(count)]
