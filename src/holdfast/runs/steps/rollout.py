"""Where trajectories come from.

Roll-out steps: episodes of one checkpoint, and how far its conduct moved. Bring steps: the trajectories and scores of
another run, to learn from.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdfast.models.tiny.chat import is_tiny
from holdfast.records import JSON, Ending, Trajectory, content_id
from holdfast.records.errors import StepError, StudyError
from holdfast.records.processes import hand_back_memory
from holdfast.records.words import CUT_OFF_AT
from holdfast.rollout.episode import episode_id
from holdfast.rollout.episode import roll_out as roll_out_episodes
from holdfast.runs.plan.settings import MEASURED_TOKENS, BringSettings, RolloutSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps import reading
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, complete, in_batches
from holdfast.store import Store, codec
from holdfast.study.kinds import suite_of
from holdfast.suites import open_world

# The key of [rollouts] at which an episode ended that was cut off.
LIMITS: Mapping[Ending, str] = {
    Ending.TRUNCATED: "max_tokens",
    Ending.TURN_LIMIT: "max_turns",
    Ending.TOKEN_LIMIT: "max_episode_tokens",
    Ending.TIME_LIMIT: "max_seconds",
}
MUCH_CUT = 0.05  # of a step's episodes at one limit, from which a reader is told

if TYPE_CHECKING:
    from holdfast.training.encoding import Encoded
    from holdfast.training.policy.adapters import Precision


def roll_out(step: Step, settings: RolloutSettings, store: Store, emit: Emit) -> Finished:
    """Episodes in batches of a fixed plan, run whole; what is committed is not run again."""
    cases = reading.cases_of(store)
    made = _play(step, settings, store, emit)
    # The order of a sum is part of its value: sorted by id it does not depend on where a run was interrupted.
    # A reply that could not be read is not kept token by token, so such an episode has no log-probability.
    # One episode a case is enough for a KL.
    kept = [item for item in made if item.ending is Ending.FINISHED and item.rollout == 0]
    kept.sort(key=lambda item: item.id)
    result: dict[str, Any] = {}
    if settings.part == "test":
        result = _measure(settings, store, kept)
    elif settings.own is not None:
        kept = [item for item in kept if cases[item.case_id].facts["setting"] == settings.own]
        result = _measure(settings, store, kept)
        result["measures"] = {f"{settings.part}_{name}": value for name, value in result["measures"].items()}
    if broken := sum(item.ending is Ending.ERROR for item in made):  # by the infrastructure
        result["broken_off"] = broken
    return Finished(result=result | _count_cut(settings, made))


def _play(step: Step, settings: RolloutSettings, store: Store, emit: Emit) -> list[Trajectory]:
    """All episodes of a step, those of before too; the model that spoke is nobody's afterwards."""
    cases = reading.cases_of(store)
    part = store.splits()[settings.split_seed][settings.part]
    if settings.users is not None:
        met = settings.users.section.settings
        part = tuple(name for name in part if cases[name].facts["setting"] in met)
    episodes = [(cases[name], rollout) for rollout in range(settings.per_case) for name in part]
    world = open_world(settings.suite)
    done = store.log.batches(step.fingerprint)
    made = list(store.trajectories(step=step.fingerprint)) if done else []
    # A base meets a case that is held out in two splits once.
    shared = suite_of(settings.suite).shared and settings.part == "test"
    elsewhere = set(store.trajectory_ids()) - {item.id for item in made} if shared else ()
    with reading.open_speakers(settings.speakers(), step.means, store) as speakers:
        for number, planned in enumerate(in_batches(episodes, settings.limits.batch_size)):
            if number in done:
                continue
            batch = [
                (case, rollout)
                for case, rollout in planned
                if episode_id(settings.checkpoint, case.id, rollout, settings.rollout_seed) not in elsewhere
            ]
            played = roll_out_episodes(
                speakers,
                world,
                batch,
                checkpoint_id=settings.checkpoint,
                rollout_seed=settings.rollout_seed,
                limits=settings.limits,
            )
            trajectories = complete(played, "episodes")
            made += trajectories
            # That is no property of the episodes.
            if made and all(item.ending is Ending.ERROR for item in made):
                raise StepError(
                    f"all {len(made)} episodes failed: {(made[0].detail or {}).get('error')}; mend the model or its"
                    " settings and repeat the command to go on, with another -o where the model did answer, for answers"
                    " are kept"
                )
            packed = tuple(_pack(store, item, cases[item.case_id].state) for item in trajectories)
            emit(Batch(number=number, size=len(packed), trajectories=packed))
    return made


def _count_cut(settings: RolloutSettings, made: Sequence[Trajectory]) -> dict[str, Any]:
    """How many episodes ended at which limit, and a line for people where many did; nothing where none did.

    A conversation that is longer than the model reads is no matter of a limit.
    """
    cut = Counter(
        LIMITS[item.ending] for item in made if item.ending in LIMITS and (item.detail or {}).get("cut") != "context"
    )
    if not cut:
        return {}
    limits = {key: getattr(settings.limits, key) for key in cut}
    notes = [
        tell_cut(count, len(made), key, limits[key]) for key, count in cut.items() if count >= MUCH_CUT * len(made)
    ]
    return {"episodes": len(made), "cut_off": {key: [count, limits[key]] for key, count in cut.items()}, "notes": notes}


def tell_cut(count: int, episodes: int, key: str, limit: float, whose: str = "") -> str:
    """``45 of 60 episodes were cut off at rollouts.max_tokens = 96, so how they end is not known; raise it``.

    ``whose`` stands behind the episodes.
    """
    told = f"{count:,} of {episodes:,} episodes{whose} {CUT_OFF_AT}{key} = {limit:g}"
    return f"{told}, so how they end is not known; raise it"


def _pack(store: Store, trajectory: Trajectory, state: JSON | None) -> tuple[Trajectory, codec.Text]:
    return trajectory.without_texts(), store.text_codec.pack(codec.trajectory_to_bytes(trajectory, state))


def _measure(settings: RolloutSettings, store: Store, episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """How far a checkpoint moved: KL to its parent and to its base on its own held-out episodes, in nats an episode.

    KL(policy ‖ reference) is the mean of log policy − log reference over finished episodes sampled from the
    policy, one a case. Episodes that did not finish are left out, so it is the KL of finished conduct, which
    differs from that of all conduct where many are cut off; ``kl_episodes`` says how many were counted.
    """
    checkpoint = store.checkpoint(settings.checkpoint)
    measures: dict[str, float] = {}
    result = {"checkpoint": checkpoint.id, "measures": measures}
    if checkpoint.parent_id is None:
        return result
    entry = None if settings.agent is None else settings.agent.entry
    chat = reading.load_chat(reading.weights_of(store, checkpoint.id), "auto" if entry is None else entry.calls)
    cases, encoded = reading.cases_of(store), dict[str, "Encoded"]()
    for trajectory in episodes:
        with contextlib.suppress(StudyError):  # what the chat format cannot write is left out
            encoded[trajectory.id] = reading.encode(chat, cases, trajectory)
    if len(encoded) < 2:
        return result
    measures["kl_episodes"] = len(encoded)
    precision: Precision = "fp32" if entry is None else entry.precision
    own = _episode_logprobs(reading.weights_of(store, checkpoint.id), encoded, precision)
    base = next(c for c in store.checkpoints() if c.base == checkpoint.base and not c.stages)
    # A first stage's parent is its base: one scoring serves both.
    scored = {
        name: _episode_logprobs(reading.weights_of(store, name), encoded, precision)
        for name in dict.fromkeys((checkpoint.parent_id, base.id))
    }
    for name, reference in (("kl_parent", checkpoint.parent_id), ("kl_base", base.id)):
        gaps = own - scored[reference]
        measures[name] = float(gaps.mean())
        measures[f"{name}_se"] = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return result


def _episode_logprobs(directory: Path, encoded: Mapping[str, Encoded], precision: Precision) -> NDArray[np.float64]:
    if is_tiny(directory):
        rows = reading.load_tiny(directory).logprobs(
            [(item.ids.tolist(), item.picked("agent").tolist()) for item in encoded.values()]
        )
        return np.array([float(row.sum()) for row in rows])
    reading.release_models()
    hand_back_memory()  # of the checkpoint that was measured before
    from holdfast.models.local.speed import has_accelerator
    from holdfast.training.dpo.stage import reference_logprobs
    from holdfast.training.loop.loop import TOKEN_BUDGET

    longest = max(len(item.ids) for item in encoded.values())
    budget = TOKEN_BUDGET if has_accelerator() else max(MEASURED_TOKENS, longest)
    values = reference_logprobs(directory, list(encoded), encoded, "agent", token_budget=budget, precision=precision)
    return np.array([values[name] for name in encoded])


def bring(step: Step, settings: BringSettings, store: Store, emit: Emit) -> Finished:
    """The source's trajectories of cases that this run has too, with their scores and checkpoints.

    Cases go by their ids. Errors: StepError where no case is in both.
    """
    cases, done = reading.cases_of(store), store.log.batches(step.fingerprint)
    counts: Counter[str] = Counter()
    with Store(Path(settings.source)) as source:
        checkpoints = tuple(
            replace(known, id=_own(known.id), path=None, source=settings.source, start=())
            for known in source.checkpoints()
        )
        for number, batch in enumerate(in_batches(source.trajectories(), settings.batch)):
            kept = [item for item in batch if item.case_id in cases]
            counts.update(trajectories=len(kept), of_other_cases=len(batch) - len(kept))
            if number not in done:
                scores = [
                    replace(score, trajectory_id=_own(score.trajectory_id))
                    for row in source.scores_of(item.id for item in kept)
                    for score in row
                ]
                packed = tuple(
                    (replace(item, id=_own(item.id), checkpoint_id=_own(item.checkpoint_id)), text)
                    for item, text in (_pack(store, item, None) for item in kept)
                )
                made = Batch(number=number, size=len(batch), checkpoints=checkpoints, trajectories=packed)
                emit(replace(made, scores=tuple(scores)))
    if not counts["trajectories"]:
        raise StepError(
            f"{settings.source}: holds no trajectory of this study's cases"
            f" ({counts['of_other_cases']} of others); bring a run of the same suite"
        )
    return Finished(result=dict(counts))


def _own(identity: str) -> str:
    """An id of this run: ids come of content, so a source that began as this run does would meet its own here."""
    return content_id("brought", identity)
