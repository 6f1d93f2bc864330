"""Conversations as token sequences, and what is refused before training. Pure NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.records import Message, PreferencePair, ToolSpec
from holdfast.records.errors import StudyError

LossMask = Literal["agent", "completion"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A conversation as tokens: ``ids`` and ``agent`` [length], the agent's own tokens true.

    The first ``prompt`` tokens are what the case opens with.
    """

    ids: NDArray[np.int64]
    agent: NDArray[np.bool_]
    prompt: int

    def picked(self, loss_mask: LossMask) -> NDArray[np.bool_]:
        """The tokens that count: the agent's own, or everything after the prompt; never in the prompt."""
        after = np.arange(len(self.ids)) >= max(self.prompt, 1)
        return after & self.agent if loss_mask == "agent" else after


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredSequence:
    """Token ``ids`` [length]; those with ``weights`` [length] above 0 have their log-probability taken.

    The first token has no prediction and weighs 0. ``name`` is what errors call the sequence.
    """

    name: str
    ids: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def scored(self) -> int:
        """How many tokens have their log-probability taken."""
        return int((self.weights > 0).sum())


class Chat(Protocol):
    """A chat format: messages to token ids and a mask of the agent's own tokens.

    ``unknown`` is the id of the token that stands for words without one, None where all texts can be written.
    """

    unknown: int | None

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[list[int], list[bool]]: ...

    def shows_as_written(self, message: Message) -> bool:
        """Whether a message spells no control token, which would be shown otherwise."""


class Limits(Protocol):
    """What a model can read: token ids below ``vocabulary``, sequences up to ``max_positions``."""

    vocabulary: int
    max_positions: int


def encode_episode(
    chat: Chat, opening: Sequence[Message], messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
) -> Encoded:
    """The tokens of an episode: ``opening`` is the case's own messages, ``messages`` what followed."""
    ids, agent = chat.encode([*opening, *messages], tools)
    prompt = len(chat.encode(opening, tools)[0])
    return Encoded(ids=np.array(ids, np.int64), agent=np.array(agent, np.bool_), prompt=prompt)


def score_picked(name: str, encoded: Encoded, loss_mask: LossMask) -> ScoredSequence:
    """The sequence of an episode whose picked tokens weigh 1."""
    return ScoredSequence(name=name, ids=encoded.ids, weights=encoded.picked(loss_mask).astype(np.float32))


def check_template(chat: Chat, case_id: str, opening: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> None:
    """Raises StudyError for a chat format that leaves a case's system message out."""
    spoken = [message for message in opening if message.role == "system" and message.content.strip()]
    rest = [message for message in opening if message.role != "system"]
    if spoken and chat.encode(opening, tools)[0] == chat.encode(rest, tools)[0]:
        raise StudyError(
            f"case {case_id}: the chat template drops the system message; put it into the first user message"
            " or use a model whose template renders it"
        )


def check_pairs(pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], loss_mask: LossMask) -> None:
    """Raises StudyError for pairs that cannot be learnt from, naming case and trajectory.

    No pairs at all, a trajectory that is not encoded or has no token to learn from, two sides that do not share
    their prompt, or a weight that is not finite and above 0.
    """
    if not pairs:
        raise StudyError("training data: there are no preference pairs; lower the thresholds or sample more rollouts")
    for pair in pairs:
        for name in (pair.chosen, pair.rejected):
            if name not in encoded:
                raise StudyError(f"case {pair.case_id}: trajectory {name} of a pair is not encoded; pass it too")
            if len(encoded[name].ids) <= encoded[name].prompt:
                raise StudyError(f"case {pair.case_id}: trajectory {name} has an empty completion; drop its pairs")
            if not encoded[name].picked(loss_mask).any():
                raise StudyError(f"case {pair.case_id}: trajectory {name} has no token to learn from; drop its pairs")
        chosen, rejected = encoded[pair.chosen], encoded[pair.rejected]
        if not np.array_equal(chosen.ids[: chosen.prompt], rejected.ids[: rejected.prompt]):
            raise StudyError(
                f"case {pair.case_id}: trajectories {pair.chosen} and {pair.rejected} do not share their prompt"
                f" ({chosen.prompt} and {rejected.prompt} tokens); pair trajectories of one case in one rendering"
            )
        if not (np.isfinite(pair.weight) and pair.weight > 0):
            raise StudyError(f"case {pair.case_id}: a pair has weight {pair.weight}; weights are finite and above 0")


def check_sequences(named: Iterable[tuple[str, Encoded]], limits: Limits) -> None:
    """Raises StudyError for a sequence that the model cannot read; each comes with what errors call it."""
    for name, item in named:
        if item.prompt >= limits.max_positions:
            raise StudyError(
                f"{name}: its prompt has {item.prompt} tokens, but the model reads {limits.max_positions};"
                " shorten the case or use a model with a longer context"
            )
        if len(item.ids) > limits.max_positions:
            raise StudyError(f"{name}: {len(item.ids)} tokens, but the model reads {limits.max_positions}; drop it")
        low, high = int(item.ids.min(initial=0)), int(item.ids.max(initial=0))
        if low < 0 or high >= limits.vocabulary:
            raise StudyError(
                f"{name}: token id {low if low < 0 else high} is outside the model's vocabulary of"
                f" {limits.vocabulary}; encode with the model's own tokenizer"
            )


def check_demonstrations(demonstrations: Mapping[str, Encoded], limits: Limits) -> None:
    """Raises StudyError for demonstrations that cannot be learnt from; their keys are what it calls them."""
    if not demonstrations:
        raise StudyError("training data: there are no demonstrations; give some to learn from")
    for name, item in demonstrations.items():
        if not item.agent.any():
            raise StudyError(f"training data: {name} has no token to learn from; drop it")
    check_sequences(demonstrations.items(), limits)
