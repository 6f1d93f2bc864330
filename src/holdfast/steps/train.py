"""Train steps: a base taught from demonstrations, or one preference stage, which goes on where it was stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.errors import StepError
from holdfast.plan import Step
from holdfast.records import PreferencePair
from holdfast.steps.outcomes import Emit, Finished, beat
from holdfast.steps.reading import cases_of, encode, load_model, weights_of
from holdfast.store import Store, weights
from holdfast.store.weights import WEIGHTS

if TYPE_CHECKING:
    from holdfast.training.encoding import Encoded
    from holdfast.training.stages import DPOSettings, SFTSettings, TrainResult

LOOP = "loop"  # in a step's directory: the state of its training and its log
LOG = "train.jsonl"
TRACKER = "HOLDFAST_TRACKER"  # names one of accelerate's trackers, which then gets a stage's numbers too


def train(step: Step, store: Store, emit: Emit) -> Finished:
    """New weights in the step's own directory, which the writer takes over."""
    with weights.open_scratch(store.path / WEIGHTS, step.fingerprint) as scratch:
        if step.settings["method"] == "sft":
            weights.clear_scratch(scratch)
            return _teach_base(step, scratch, emit)
        return _train_stage(step, store, scratch, emit)


def _teach_base(step: Step, scratch: Path, emit: Emit) -> Finished:
    """A tiny base: its tokenizer and weights, taught from demonstrations of scripted agents."""
    from holdfast.models import tiny
    from holdfast.suites import office
    from holdfast.training.encoding import encode_episode
    from holdfast.training.stages import SFTSettings, train_sft

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
    tell = beat(emit, sft["batch_size"])
    result = train_sft(fresh, encoded, settings, seed=seed, out_dir=directory, progress=tell)
    weights.keep_cached(step.fingerprint, directory)
    summary = {
        "steps": result.steps,
        "trained_tokens": result.tokens,
        "loss": float(np.mean(result.losses[-100:])),
        "mean_episode_tokens": float(np.mean([len(item.ids) for item in encoded])),
    }
    return Finished(result=summary, checkpoints=((checkpoint, directory),))


def _besides_steps(kind: type[SFTSettings] | type[DPOSettings], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a trainer's settings take from a step's as it is: all that a study says but the number of steps."""
    return {field.name: settings[field.name] for field in fields(kind) if field.name in settings.keys() - {"steps"}}


def _train_stage(step: Step, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One DPO stage, against the checkpoint that it starts from as its reference step found it."""
    from holdfast.training.stages import DPOSettings, train_dpo

    settings = step.settings
    start = weights_of(store, settings["parent"])
    _, paired, referred = step.inputs
    pairs = store.pairs(paired)
    if not pairs:
        found = store.log.steps()[paired].result
        raise StepError(
            "there are no pairs to learn from; lower [pairs] min_gap or sample more rollouts"
            f" ({found['scored']} of {found['episodes']} training episodes have a score)"
        )
    encoded = _encode_pairs(store, start, pairs)
    reference = store.logprobs(referred)
    if missing := [name for name in encoded if name not in reference]:
        raise StepError(
            f"trajectory {missing[0]} of a pair has no log-probability from the reference step"
            f" ({len(missing)} of {len(encoded)} have none); make the run anew"
        )
    doses = [dose * settings["steps"] for dose in settings["doses"]]
    results = _resume(
        scratch,
        lambda: train_dpo(
            start,
            pairs,
            encoded,
            DPOSettings(steps=doses[-1], **_besides_steps(DPOSettings, settings)),
            seed=int(step.fingerprint[:15], 16),
            save_at=doses,
            out_dir=scratch,
            reference={name: reference[name] for name in encoded},
            folder=scratch / LOOP,
            tracker=os.environ.get(TRACKER) or None,
            progress=beat(emit),
        ),
    )
    made = zip(step.checkpoints, (result.path for result in results), strict=True)
    summary = {
        "distinct_pairs": len(pairs),
        "distinct_trajectories": len(encoded),
        "trained_tokens": results[-1].tokens,
        "doses": _describe_doses(step, results),
    }
    return Finished(result=summary, checkpoints=tuple(made), log=scratch / LOOP / LOG)


def _encode_pairs(store: Store, start: Path, pairs: Sequence[PreferencePair]) -> dict[str, Encoded]:
    """Every trajectory of some pairs as tokens, by id, in a format that was checked on each case."""
    from holdfast.training.encoding import check_template

    cases, model = cases_of(store), load_model(start)
    for name in dict.fromkeys(pair.case_id for pair in pairs):
        check_template(model.chat, name, cases[name].messages, cases[name].tools)
    used = dict.fromkeys(name for pair in pairs for name in (pair.chosen, pair.rejected))
    return {trajectory.id: encode(model, cases, trajectory) for trajectory in store.trajectories(used)}


def _resume(scratch: Path, run: Callable[[], list[TrainResult]]) -> list[TrainResult]:
    """Training from the state that an earlier process left, or from the beginning where that cannot be taken up."""
    from holdfast.training.states import UnusableState

    with contextlib.suppress(UnusableState):
        results = run()
        # The writer may have taken weights over and been stopped before it noted them.
        if all(result.path.is_dir() for result in results):
            return results
    weights.clear_scratch(scratch)
    return run()


def _describe_doses(step: Step, results: Sequence[TrainResult]) -> list[dict[str, Any]]:
    return [
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
    ]
