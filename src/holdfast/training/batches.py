"""What an optimiser step is fed. Pure NumPy: encoded trajectories and pairs in, padded blocks out.

A pair batch holds each distinct trajectory once, however many of its pairs the trajectory stands in; pairs
are index arrays into those rows. Rows stand in length buckets so that little padding is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import StudyError
from holdfast.records import Message, PreferencePair, ToolSpec

LossMask = Literal["agent", "completion"]
# Demonstration batches are drawn from chunks of this many batches, each chunk sorted by length.
_CHUNK_BATCHES = 50


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


class Chat(Protocol):
    """A chat format: messages to token ids and a mask of the agent's own tokens."""

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[list[int], list[bool]]: ...


def encode_episode(
    chat: Chat, opening: Sequence[Message], messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
) -> Encoded:
    """The tokens of an episode: ``opening`` is the case's own messages, ``messages`` what followed."""
    ids, agent = chat.encode([*opening, *messages], tools)
    prompt = len(chat.encode(opening, tools)[0])
    return Encoded(ids=np.array(ids, np.int64), agent=np.array(agent, np.bool_), prompt=prompt)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Rows padded on the right: ``tokens`` and ``weights`` [rows, length]; a token of weight 0 has no loss."""

    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBatch:
    """The pairs of one step. ``rows`` names the distinct trajectories in the order of the blocks' rows.

    ``chosen`` and ``rejected`` [pairs] are indices into ``rows``; ``weights`` [pairs] weigh the pairs.
    """

    rows: tuple[str, ...]
    blocks: tuple[Block, ...]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    weights: NDArray[np.float32]


def pad_block(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Block:
    """One block of rows of (ids, weights); padding has token 0 and weight 0."""
    length = max(len(ids) for ids, _ in rows)
    tokens = np.zeros((len(rows), length), np.int64)
    weights = np.zeros((len(rows), length), np.float32)
    for number, (ids, weight) in enumerate(rows):
        tokens[number, : len(ids)] = ids
        weights[number, : len(ids)] = weight
    return Block(tokens=tokens, weights=weights)


def bucket_lengths(lengths: NDArray[np.int64]) -> list[slice]:
    """One or two slices of rows sorted by length, cut where the padded area is smallest."""
    count = len(lengths)
    cuts = np.arange(1, count)
    if not len(cuts):
        return [slice(0, count)]
    areas = cuts * lengths[cuts - 1] + (count - cuts) * lengths[-1]
    best = int(cuts[np.argmin(areas)])
    return [slice(0, best), slice(best, count)] if areas[best - 1] < count * lengths[-1] else [slice(0, count)]


def trajectory_blocks(
    names: Sequence[str], encoded: Mapping[str, Encoded], loss_mask: LossMask
) -> tuple[tuple[str, ...], tuple[Block, ...]]:
    """The distinct trajectories sorted by length, and their blocks: at most two length buckets."""
    rows = tuple(sorted(set(names), key=lambda name: (len(encoded[name].ids), name)))
    lengths = np.array([len(encoded[name].ids) for name in rows], np.int64)
    blocks = []
    for part in bucket_lengths(lengths):
        items = [encoded[name] for name in rows[part]]
        blocks.append(pad_block([(item.ids, item.picked(loss_mask).astype(np.float32)) for item in items]))
    return rows, tuple(blocks)


def check_pairs(pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], loss_mask: LossMask) -> None:
    """Raises StudyError for no pairs, or a trajectory that is not encoded or has no token to learn from."""
    if not pairs:
        raise StudyError("training data: there are no preference pairs; lower the thresholds or sample more rollouts")
    for pair in pairs:
        for name in (pair.chosen, pair.rejected):
            if name not in encoded:
                raise StudyError(f"case {pair.case_id}: trajectory {name} of a pair is not encoded; pass it too")
            if not encoded[name].picked(loss_mask).any():
                raise StudyError(f"case {pair.case_id}: trajectory {name} has no token to learn from; drop its pairs")
        if not (np.isfinite(pair.weight) and pair.weight > 0):
            raise StudyError(f"case {pair.case_id}: a pair has weight {pair.weight}; weights are finite and above 0")


def pair_batches(
    pairs: Sequence[PreferencePair],
    encoded: Mapping[str, Encoded],
    *,
    pairs_per_step: int,
    loss_mask: LossMask,
    rng: np.random.Generator,
) -> Iterator[PairBatch]:
    """An endless stream of batches of exactly ``pairs_per_step`` pairs.

    Every epoch takes the cases in a fresh random order with all pairs of a case together, so that the pairs
    of a batch share trajectories; a case is split only where a batch is full. The stream does not depend on
    how much of it is used.
    """
    groups: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault(pair.case_id, []).append(pair)
    cases = list(groups.values())
    queue: list[PreferencePair] = []
    while True:
        while len(queue) < pairs_per_step:
            for number in rng.permutation(len(cases)):
                case = cases[number]
                queue += [case[place] for place in rng.permutation(len(case))]
        taken, queue = queue[:pairs_per_step], queue[pairs_per_step:]
        yield _pair_batch(taken, encoded, loss_mask)


def _pair_batch(pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], loss_mask: LossMask) -> PairBatch:
    names = [name for pair in pairs for name in (pair.chosen, pair.rejected)]
    rows, blocks = trajectory_blocks(names, encoded, loss_mask)
    place = {name: number for number, name in enumerate(rows)}
    return PairBatch(
        rows=rows,
        blocks=blocks,
        chosen=np.array([place[pair.chosen] for pair in pairs], np.int64),
        rejected=np.array([place[pair.rejected] for pair in pairs], np.int64),
        weights=np.array([pair.weight for pair in pairs], np.float32),
    )


def demonstration_batches(
    demonstrations: Sequence[Encoded], *, batch_size: int, other_weight: float, rng: np.random.Generator
) -> Iterator[Block]:
    """An endless stream of blocks of ``batch_size`` demonstrations of similar length, in random order.

    The agent's own tokens weigh 1, all others ``other_weight``, the first token 0. An epoch leaves out the
    demonstrations that do not fill a last batch; fewer demonstrations than a batch repeat within it.
    """
    count = len(demonstrations)
    lengths = np.array([len(item.ids) for item in demonstrations], np.int64)
    chunk = batch_size * _CHUNK_BATCHES
    while True:
        order = rng.permutation(count)
        order = np.resize(order, max(batch_size, count - count % batch_size))
        chunks = [order[start : start + chunk] for start in range(0, len(order), chunk)]
        sorted_rows = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in chunks])
        batches = sorted_rows.reshape(-1, batch_size)
        for number in rng.permutation(len(batches)):
            yield pad_block([_weigh(demonstrations[row], other_weight) for row in batches[number]])


def _weigh(item: Encoded, other_weight: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    weights = np.where(item.agent, np.float32(1.0), np.float32(other_weight))
    weights[0] = 0.0
    return item.ids, weights
