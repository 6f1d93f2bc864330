"""Roll-out steps: episodes of one checkpoint, and how far its conduct moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdfast.plan import Step
from holdfast.records import Case, Ending, Trajectory
from holdfast.rollout import Limits
from holdfast.rollout import roll_out as roll_out_episodes
from holdfast.sections import SuiteSection
from holdfast.steps.outcomes import Batch, Emit, Finished, complete
from holdfast.steps.reading import cases_of, encode, load_model, weights_of
from holdfast.store import Store, codec
from holdfast.suites import open_world

if TYPE_CHECKING:
    from holdfast.models.tiny import TinyModel
    from holdfast.training.encoding import Encoded


def roll_out(step: Step, store: Store, emit: Emit) -> Finished:
    """Episodes in batches of a fixed plan, run whole; what is committed is not run again."""
    settings = step.settings
    suite = SuiteSection.model_validate(settings["suite"])
    cases = cases_of(store)
    part = store.splits()[settings["split_seed"]][settings["part"]]
    episodes = [(cases[name], rollout) for rollout in range(settings["per_case"]) for name in part]
    model = load_model(weights_of(store, settings["checkpoint"]))
    world = open_world(suite)
    limits = {key: settings["limits"][key] for key in ("max_turns", "max_tokens", "temperature")}
    done, size = store.log.batches(step.fingerprint), settings["limits"]["batch_size"]
    made = list(store.trajectories(step=step.fingerprint)) if done else []
    for number, start in enumerate(range(0, len(episodes), size)):
        if number in done:
            continue
        played = roll_out_episodes(
            {"agent": model},
            world,
            episodes[start : start + size],
            checkpoint_id=settings["checkpoint"],
            rollout_seed=settings["rollout_seed"],
            limits=Limits(**limits),
        )
        trajectories = complete(played, "episodes")
        made += trajectories
        packed = tuple(_pack(store, cases, trajectory) for trajectory in trajectories)
        emit(Batch(number=number, size=len(packed), trajectories=packed))
    if settings["part"] != "test":
        return Finished(result={})
    # The order of a sum is part of its value: sorted by id it does not depend on where a run was interrupted.
    # A reply that could not be read is not kept token by token, so such an episode has no log-probability.
    # One episode a case is enough for a KL.
    kept = (item for item in made if item.ending is Ending.FINISHED and item.rollout == 0)
    whole = sorted(kept, key=lambda item: item.id)
    return Finished(result=_measure(step, store, [encode(model, cases, item) for item in whole], model))


def _pack(store: Store, cases: Mapping[str, Case], trajectory: Trajectory) -> tuple[Trajectory, codec.Text]:
    plain = codec.trajectory_to_bytes(trajectory, cases[trajectory.case_id].state)
    return replace(trajectory, messages=(), world_before=None, world_after=None), store.text_codec.pack(plain)


def _measure(step: Step, store: Store, encoded: Sequence[Encoded], model: TinyModel) -> dict[str, Any]:
    """How far a checkpoint moved: KL to its parent and to its base on its own held-out episodes, in nats an episode.

    KL(policy ‖ reference) is the mean of log policy − log reference over finished episodes sampled from the
    policy, one a case. Episodes that did not finish are left out, so it is the KL of finished conduct, which
    differs from that of all conduct where many are cut off; ``kl_episodes`` says how many were counted.
    """
    checkpoint = store.checkpoint(step.settings["checkpoint"])
    found: dict[str, Any] = {"checkpoint": checkpoint.id, "measures": {}}
    if checkpoint.parent_id is None or len(encoded) < 2:
        return found
    found["measures"]["kl_episodes"] = len(encoded)
    own = _episode_logprobs(model, encoded)
    base = next(c for c in store.checkpoints() if c.base == checkpoint.base and not c.stages)
    references = {"kl_parent": checkpoint.parent_id, "kl_base": base.id}
    # A first stage's parent is its base: one scoring serves both.
    given = {
        reference: _episode_logprobs(load_model(weights_of(store, reference)), encoded)
        for reference in dict.fromkeys(references.values())
    }
    for name, reference in references.items():
        gaps = own - given[reference]
        found["measures"][name] = float(gaps.mean())
        found["measures"][f"{name}_se"] = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return found


def _episode_logprobs(model: TinyModel, encoded: Sequence[Encoded]) -> NDArray[np.float64]:
    rows = model.logprobs([(item.ids.tolist(), item.picked("agent").tolist()) for item in encoded])
    return np.array([float(row.sum()) for row in rows])
