"""Rollouts for each step, by the policy of that step or of some steps before it.

What an earlier policy sampled waits in files until its step is done for good, so that a stage that was broken off goes
on with the same rollouts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.records.outputs import write_file
from holdfast.training.encoding import Encoded, ScoredSequence
from holdfast.training.loop.passes import score_within
from holdfast.training.objectives import RewardSettings
from holdfast.training.policy.adapters import Policy
from holdfast.training.rl.groups import Batch, Singles
from holdfast.training.rl.selection import Rewarded
from holdfast.training.states import STATE, UnusableState, random_states, set_random_states

# Samples and rates rollouts: policy, optimiser step counted from 0, attempt (0, or more where a step lacks tokens).
Draw = Callable[[Policy, int, int], Sequence[Rewarded]]
# How often a step that lacks tokens draws at most.
_ATTEMPTS = 4
_FOLDER, _FILE = "pending", "step-{:06d}.json"


class Supply:
    """Rollouts by number of the step, counted from 0; each ``take`` is for the step after the last one.

    With a lag, what waits is kept under ``folder``.
    """

    def __init__(
        self, draw: Draw, policy: Policy, settings: RewardSettings, *, folder: Path | None, identity: str
    ) -> None:
        self._draw, self._policy, self._settings, self._identity = draw, policy, settings, identity
        self._folder = None if folder is None or settings.lag == 0 else folder / _FOLDER
        self._waiting: dict[int, list[Rewarded]] = {}
        self._trained = 0  # tokens of all steps that were drawn for, where their number is asked for

    def resume(self, position: int, trained: int) -> None:
        """Takes up what waits for the steps from ``position`` on, before which ``trained`` tokens were trained.

        Errors: UnusableState where a file is missing, damaged or of another stage.
        """
        self._trained = trained
        if self._folder is None:
            return
        if position == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(position, min(position + self._settings.lag, self._settings.steps) if position else 0):
            self._waiting[number] = self._read(self._folder / _FILE.format(number))
            self._trained += Batch.of(self._waiting[number], self._settings).gradient_tokens

    def take(self, number: int) -> list[Rewarded]:
        """The rollouts of a step; what the present policy samples for a later one is sampled now."""
        ahead = min(number + self._settings.lag, self._settings.steps - 1)
        for wanted in range(number, ahead + 1):
            if wanted in self._waiting:
                continue
            self._waiting[wanted] = self._sample(wanted)
            if self._folder is not None and wanted > number:
                rows = [_as_json(item) for item in self._waiting[wanted]]
                held = {"identity": self._identity, "rollouts": rows, "digest": _digest(rows)}
                write_file(self._folder / _FILE.format(wanted), json.dumps(held))
        return self._waiting.pop(number)

    def release(self, position: int) -> None:
        """Removes what waited for steps before ``position``, which are done for good."""
        if self._folder is None:
            return
        for path in self._folder.glob("step-*.json"):
            if int(path.stem.removeprefix("step-")) < position:
                path.unlink()

    def _sample(self, number: int) -> list[Rewarded]:
        wanted = self._settings.tokens_per_step
        states = random_states()
        self._policy.set_training(False)
        try:
            rollouts: list[Rewarded] = []
            tokens = 0  # counted where they are asked for
            for attempt in range(_ATTEMPTS if wanted else 1):
                # Groups of a later attempt are other groups.
                first = 1 + max((item.group for item in rollouts), default=-1)
                drawn = self._draw(self._policy, number, attempt)
                rollouts += [replace(item, group=first + item.group) for item in drawn]
                if wanted is None:
                    break
                tokens = Batch.of(rollouts, self._settings).gradient_tokens
                if self._trained + tokens >= (number + 1) * wanted:
                    break
            if self._settings.lag:
                rollouts = self._score(rollouts)
        finally:
            # Luck is the draw's own; dropout goes on as if nothing had been sampled.
            self._policy.set_training(True)
            set_random_states(states)
        self._trained += tokens
        return rollouts

    def _score(self, rollouts: Sequence[Rewarded]) -> list[Rewarded]:
        """The same with what the training engine says of them under the weights that sampled."""
        batch = Batch.of(rollouts, self._settings)
        known = {_key(item.first): item.sequence for item in batch.completions if item.sequence.scored}
        values = score_all(self._policy, list(known.values()), self._settings.token_budget)
        sampled = dict(zip(known, values, strict=True))
        none = np.zeros(0, np.float32)
        return [replace(item, sampled=sampled.get(_key(item), none)) for item in rollouts]

    def _read(self, path: Path) -> list[Rewarded]:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["identity"] != self._identity:
                raise ValueError("they are of a stage with other settings")
            if held["digest"] != _digest(held["rollouts"]):
                raise ValueError("they are not as they were written")
            return [_from_json(row) for row in held["rollouts"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it goes on with the rollouts of {path.name}, which cannot be read: {error}"
            raise UnusableState(path.parent.parent / STATE, reason) from error


def _digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def score_all(policy: Policy, sequences: Sequence[ScoredSequence], budget: int) -> list[Singles]:
    """The log-probabilities [tokens] in nats of each sequence's scored tokens under a policy as it is."""
    return [value.to("cpu").float().numpy() for value in score_within(policy, sequences, budget)]


def _key(item: Rewarded) -> tuple[bytes, bytes]:
    return item.encoded.ids.tobytes(), item.encoded.picked("agent").tobytes()


def _as_json(item: Rewarded) -> dict[str, Any]:
    sampled = None if item.sampled is None else item.sampled.tolist()
    encoded = {"ids": item.encoded.ids.tolist(), "agent": item.encoded.agent.tolist(), "prompt": item.encoded.prompt}
    plain = {field.name: getattr(item, field.name) for field in fields(item)}
    return {**plain, "facts": dict(item.facts), "encoded": encoded, "sampled": sampled}


def _from_json(row: Mapping[str, Any]) -> Rewarded:
    ids, agent = np.array(row["encoded"]["ids"], np.int64), np.array(row["encoded"]["agent"], np.bool_)
    encoded = Encoded(ids=ids, agent=agent, prompt=row["encoded"]["prompt"])
    sampled = None if row["sampled"] is None else np.array(row["sampled"], np.float32)
    return Rewarded(**{**row, "encoded": encoded, "sampled": sampled})
