"""What each kind of step does: a step and a run's directory in, outcomes out.

``carry_out`` reads the run but never writes to its database: records go to the one process that writes, in
batches that it commits. Weights are written to a temporary directory that the writer adopts.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import StepError
from holdfast.judges import open_judge
from holdfast.pairs import build_pairs, flip_pairs
from holdfast.plan import Step
from holdfast.records import Case, Checkpoint, Ending, PreferencePair, Score, Trajectory
from holdfast.rollout import Limits, roll_out
from holdfast.store import Store, codec, weights
from holdfast.store.weights import WEIGHTS
from holdfast.study import SuiteSection
from holdfast.suites import open_world

if TYPE_CHECKING:
    from holdfast.models.tiny import TinyModel
    from holdfast.training.batches import Encoded
    from holdfast.training.loop import DPOSettings, SFTSettings

PROGRESS_SECONDS = 0.5
JUDGE_BATCH = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records to commit together. Trajectories come without messages, their texts packed beside them."""

    number: int
    size: int
    trajectories: tuple[tuple[Trajectory, codec.Text], ...] = ()
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is, in its own unit."""

    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a step: its result (JSON), and the pairs or the checkpoints (with their directories) it made."""

    result: Mapping[str, Any]
    pairs: tuple[PreferencePair, ...] = ()
    checkpoints: tuple[tuple[Checkpoint, Path], ...] = ()


Outcome = Batch | Progress | Finished
Emit = Callable[[Outcome], None]


def carry_out(step: Step, run_path: Path, emit: Emit) -> None:
    """Carry out a step and give every outcome to ``emit``, last ``Finished``. Errors: any HoldfastError."""
    work = {"train": _train, "rollout": _roll_out, "judge": _judge, "pair": _pair}[step.kind]
    started = time.process_time()
    with Store(run_path) as store:
        finished = work(step, store, emit)
    seconds = round(time.process_time() - started, 3)
    emit(replace(finished, result={**finished.result, "cpu_seconds": seconds}))


def _beat(emit: Emit, per_step: int = 1) -> Callable[[int, int], None]:
    """A progress callback that speaks at most every half second, in units of ``per_step``."""
    spoken = [time.monotonic()]

    def tell(done: int, _: int) -> None:
        if time.monotonic() - spoken[0] >= PROGRESS_SECONDS:
            spoken[0] = time.monotonic()
            emit(Progress(done=done * per_step))

    return tell


def batch_size(step: Step) -> int:
    """How many units of a step are committed together; 0 where nothing is committed before its end."""
    if step.kind == "judge":
        return JUDGE_BATCH
    return int(step.settings["limits"]["batch_size"]) if step.kind == "rollout" else 0


def _cases(store: Store) -> Mapping[str, Case]:
    """A run's cases by id. Ids say what is in them, so another run at the same place is told apart."""
    return _read_cases(store.path, tuple(store.case_ids()))


@lru_cache(maxsize=4)
def _read_cases(run_path: Path, _: tuple[str, ...]) -> Mapping[str, Case]:
    with Store(run_path) as store:
        return {case.id: case for case in store.cases()}


@lru_cache(maxsize=2)
def _load_model(directory: Path) -> TinyModel:
    from holdfast.models.tiny import TinyModel

    return TinyModel.load(directory)


def _weights_of(store: Store, checkpoint_id: str) -> Path:
    """A checkpoint's directory, verified by name: it was renamed to its digest when it was complete."""
    checkpoint = store.checkpoint(checkpoint_id)
    directory = store.path / (checkpoint.path or "")
    if checkpoint.path is None or not directory.is_dir():
        raise StepError(f"{checkpoint.name}: its weights are not at {directory}; run the study again in a new run")
    return directory


# --- train ---------------------------------------------------------------------------------------------------


def _train(step: Step, store: Store, emit: Emit) -> Finished:
    scratch = store.path / WEIGHTS / f"{weights.TEMPORARY}{step.fingerprint}-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    if step.settings["method"] == "sft":
        return _teach_base(step, scratch, emit)
    return _train_stage(step, store, scratch, emit)


def _teach_base(step: Step, scratch: Path, emit: Emit) -> Finished:
    """A tiny base: its tokenizer and weights, taught from demonstrations of scripted agents."""
    from holdfast.models import tiny
    from holdfast.suites import office
    from holdfast.training.batches import encode_episode
    from holdfast.training.loop import SFTSettings, train_sft

    (checkpoint,) = step.checkpoints
    directory, fresh = scratch / "taught", scratch / "fresh"
    if weights.fetch_cached(step.fingerprint, directory):
        return Finished(result={"cached": True}, checkpoints=((checkpoint, directory),))
    seed, model, sft = step.settings["base_seed"], step.settings["model"], step.settings["model"]["sft"]
    shape = {key: model[key] for key in ("hidden", "layers", "heads", "ffn")}
    tiny.build(office.lexicon(), fresh, seed=seed, system_prompts=office.system_prompts(), **shape)
    chat = tiny.TinyModel.load(fresh).chat
    mixture = step.settings["mixture"] or office.MIXTURE
    encoded = [
        encode_episode(chat, case.messages, trajectory.messages, case.tools)
        for case, trajectory in office.demonstrations(seed, sft["demonstrations"], mixture)
    ]
    settings = SFTSettings(steps=max(1, sft["demonstrations"] // sft["batch_size"]), **_besides_steps(SFTSettings, sft))
    beat = _beat(emit, sft["batch_size"])
    result = train_sft(fresh, encoded, settings, seed=seed, out_dir=directory, progress=beat)
    weights.keep_cached(step.fingerprint, directory)
    summary = {
        "steps": result.steps,
        "trained_tokens": result.tokens,
        "loss": float(np.mean(result.losses[-100:])),
        "mean_episode_tokens": float(np.mean([len(item.ids) for item in encoded])),
    }
    return Finished(result=summary, checkpoints=((checkpoint, directory),))


def _besides_steps(kind: type[SFTSettings] | type[DPOSettings], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a trainer's settings take from a step's as it is: all but the number of optimiser steps."""
    return {field.name: settings[field.name] for field in fields(kind) if field.name != "steps"}


def _encode(model: TinyModel, cases: Mapping[str, Case], trajectory: Trajectory) -> Encoded:
    from holdfast.training.batches import encode_episode

    case = cases[trajectory.case_id]
    return encode_episode(model.chat, case.messages, trajectory.messages, case.tools)


def _train_stage(step: Step, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One DPO stage. Its reference is the checkpoint that it starts from: the same directory, read once."""
    from holdfast.training.loop import DPOSettings, train_dpo

    settings = step.settings
    start = _weights_of(store, settings["parent"])
    cases = _cases(store)
    pairs = store.pairs(step.inputs[1])
    if not pairs:
        paired = store.log.steps()[step.inputs[1]].result
        raise StepError(
            "there are no pairs to learn from; lower [pairs] min_gap or sample more rollouts"
            f" ({paired['scored']} of {paired['episodes']} training episodes have a score)"
        )
    model = _load_model(start)
    used = dict.fromkeys(name for pair in pairs for name in (pair.chosen, pair.rejected))
    encoded = {trajectory.id: _encode(model, cases, trajectory) for trajectory in store.trajectories(used)}
    doses = [dose * settings["steps"] for dose in settings["doses"]]
    results = train_dpo(
        start,
        pairs,
        encoded,
        DPOSettings(steps=doses[-1], **_besides_steps(DPOSettings, settings)),
        seed=int(step.fingerprint[:15], 16),
        save_at=doses,
        out_dir=scratch,
        progress=_beat(emit),
    )
    summary = {
        "distinct_pairs": len(pairs),
        "distinct_trajectories": len(used),
        "trained_tokens": results[-1].tokens,
        "doses": [
            {
                "checkpoint": checkpoint.id,
                "steps": result.steps,
                "pairs": result.examples,
                "loss": float(np.mean(result.losses[-10:])),
                "accuracy": float(np.mean(result.accuracies[-10:])),
                "drift_chosen": result.chosen_drift,
                "drift_rejected": result.rejected_drift,
            }
            for checkpoint, result in zip(step.checkpoints, results, strict=True)
        ],
    }
    made = zip(step.checkpoints, (result.path for result in results), strict=True)
    return Finished(result=summary, checkpoints=tuple(made))


# --- roll out ------------------------------------------------------------------------------------------------


def _roll_out(step: Step, store: Store, emit: Emit) -> Finished:
    """Episodes in batches of a fixed plan, run whole; what is committed is not run again."""
    settings = step.settings
    suite = SuiteSection.model_validate(settings["suite"])
    cases = _cases(store)
    part = store.splits()[settings["split_seed"]][settings["part"]]
    episodes = [(cases[name], rollout) for rollout in range(settings["per_case"]) for name in part]
    model = _load_model(_weights_of(store, settings["checkpoint"]))
    world = open_world(suite)
    limits = {key: settings["limits"][key] for key in ("max_turns", "max_tokens", "temperature")}
    done, size = store.log.batches(step.fingerprint), settings["limits"]["batch_size"]
    made = list(store.trajectories(step=step.fingerprint)) if done else []
    for number, start in enumerate(range(0, len(episodes), size)):
        if number in done:
            continue
        trajectories = roll_out(
            model,
            world,
            episodes[start : start + size],
            checkpoint_id=settings["checkpoint"],
            rollout_seed=settings["rollout_seed"],
            limits=Limits(**limits),
        )
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
    return Finished(result=_measure(step, store, [_encode(model, cases, item) for item in whole], model))


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
        reference: _episode_logprobs(_load_model(_weights_of(store, reference)), encoded)
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


# --- judge and pair ------------------------------------------------------------------------------------------


def _judge(step: Step, store: Store, emit: Emit) -> Finished:
    """Scores for one rollout step's trajectories, in batches."""
    judge = open_judge(step.settings["judge"], step.settings["kind"])
    cases = _cases(store)
    done = store.log.batches(step.fingerprint)
    trajectories = store.trajectories(step=step.inputs[0])
    number = 0
    while batch := list(islice(trajectories, JUDGE_BATCH)):
        if number not in done:
            scores = [score for item in batch for score in judge.judge(cases[item.case_id], item)]
            emit(Batch(number=number, size=len(batch), scores=tuple(scores)))
        number += 1
    return Finished(result={})


def _pair(step: Step, store: Store, emit: Emit) -> Finished:
    """Preference pairs from one judged rollout step."""
    settings = step.settings
    rng = np.random.default_rng([settings["pair_seed"], int(step.fingerprint[:15], 16)])
    table = store.score_table(step=step.inputs[0])
    selection = build_pairs(
        table,
        store.trajectory_ids(),
        objectives=settings["objectives"],
        judge=settings["judge"],
        min_gap=settings["min_gap"],
        min_chosen=settings["min_chosen"],
        combine=settings["agree"],
        cap_per_case=settings["cap_per_case"],
        exclude_unfit=settings["exclude_unfit"],
        rng=rng,
    )
    pairs = flip_pairs(selection.pairs(), settings["flip"], rng)
    summary = {
        "pairs": len(pairs),
        "cases": len({pair.case_id for pair in pairs}),
        "episodes": step.size,
        "scored": len(np.unique(table.trajectory[~np.isnan(table.value)])),
    }
    return Finished(result=summary, pairs=tuple(pairs))
