"""Reference steps: the log-probabilities that one checkpoint gives the trajectories of one rollout or bring step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from holdfast.models.tiny.chat import is_tiny
from holdfast.records import Ending
from holdfast.records.errors import StudyError
from holdfast.runs.plan.settings import ReferenceSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, in_batches
from holdfast.runs.steps.reading import cases_of, encode, load_chat, weights_of
from holdfast.store import Store

if TYPE_CHECKING:
    from holdfast.training.encoding import Encoded, LossMask


# Tokens of a tree of a tiny model: larger ones share hardly more, and take a tenth of a gigabyte for their states.
_TINY_TOKENS = 2048


def take_reference(step: Step, settings: ReferenceSettings, store: Store, emit: Emit) -> Finished:
    """The log-probability of every trajectory that can be learnt from, whoever asks for it.

    Batches do not depend on pairs nor on what was committed before, so neither do the trees, nor their rounding.
    """
    from holdfast.training.dpo.stage import reference_logprobs

    directory = weights_of(store, settings.checkpoint)
    encoded = dict(_encoded_episodes(step, settings, store))
    budget = settings.token_budget
    if is_tiny(directory):
        budget = min(budget, max((_TINY_TOKENS, *(len(item.ids) for item in encoded.values()))))
    done, batches = store.log.batches(step.fingerprint), list(in_batches(encoded, settings.batch))
    for number, batch in enumerate(batches):
        if number not in done:
            values = reference_logprobs(
                directory,
                batch,
                encoded,
                settings.loss_mask,
                token_budget=budget,
                precision=settings.precision,
                adapter=settings.adapter,
            )
            emit(Batch(number=number, size=len(batch), logprobs=values))
    tokens = sum(_tree_tokens([encoded[name] for name in batch], budget) for batch in batches)
    plain = sum(len(item.ids) for item in encoded.values())
    return Finished(result={"trajectories": len(encoded), "tokens": tokens, "plain_tokens": plain})


def is_scored(encoded: Encoded, loss_mask: LossMask, longest: int) -> bool:
    """Whether a reference step gives a log-probability: of some tokens, in no more than can be computed at once."""
    return len(encoded.ids) <= longest and bool(encoded.picked(loss_mask).any())


def _encoded_episodes(step: Step, settings: ReferenceSettings, store: Store) -> Iterator[tuple[str, Encoded]]:
    """Episodes as tokens, case by case, in the order of ids; with a ``split_seed``, those of its train cases.

    What the chat format cannot write, or what is longer than the model reads, has no log-probability. Neither has what
    a tiny agent did not finish: a reply of its that could not be read is not kept token by token.
    """
    from holdfast.training.policy.adapters import longest_sequence

    directory, cases = weights_of(store, settings.checkpoint), cases_of(store)
    chat = load_chat(directory, settings.calls or "auto")
    longest = min(settings.token_budget, longest_sequence(directory))
    part = set(cases if settings.split_seed is None else store.splits()[settings.split_seed]["train"])
    unfinished = not is_tiny(directory)
    taken = [
        item
        for item in store.trajectories(step=step.inputs[1], cases=cases)
        if item.case_id in part and (unfinished or item.ending is Ending.FINISHED)
    ]
    for trajectory in sorted(taken, key=lambda item: (item.case_id, item.id)):
        with contextlib.suppress(StudyError):  # where it is in a pair, the stage that learns from it says what is wrong
            encoded = encode(chat, cases, trajectory)
            if is_scored(encoded, settings.loss_mask, longest):
                yield trajectory.id, encoded


def _tree_tokens(batch: Sequence[Encoded], budget: int) -> int:
    """Tokens of the trees in which a batch is computed."""
    from holdfast.training.trees.trees import grow, partition

    ids = [item.ids for item in batch]
    return sum(len(grow([ids[number] for number in group])) for group in partition(ids, budget))
