"""Train steps: a base taught, made or opened, a merge, or a preference stage, which goes on where it was stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.models.entries import ModelEntry
from holdfast.records import PreferencePair
from holdfast.records.errors import StepError
from holdfast.runs.plan.on_pairs import MERGE
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished, beat
from holdfast.runs.steps.practice import train_on_rewards
from holdfast.runs.steps.reading import LOOP, TRACKER, cases_of, encode, load_chat, resume, weights_of
from holdfast.runs.steps.references import is_scored
from holdfast.runs.steps.tuning import open_measure
from holdfast.store import Store, weights
from holdfast.store.weights import WEIGHTS
from holdfast.study.stages import REWARD_METHODS

if TYPE_CHECKING:
    from holdfast.training.dpo.balance import Balance, Measure
    from holdfast.training.dpo.mixing import Second, Way
    from holdfast.training.encoding import Chat, Encoded
    from holdfast.training.loop.result import TrainResult
    from holdfast.training.settings import DPOSettings, SFTSettings


def train(step: Step, store: Store, emit: Emit) -> Finished:
    """New weights in the step's own directory, which the writer takes over; a base that is opened stays where it is."""
    method = step.settings["method"]
    if method == "open":
        return _open_base(step, store)
    with weights.open_scratch(store.path / WEIGHTS, step.fingerprint) as scratch:
        if method in REWARD_METHODS:
            return train_on_rewards(step, store, scratch, emit)
        if method not in ("sft", "random", MERGE):
            return _train_stage(step, store, scratch, emit)
        weights.clear_scratch(scratch)
        if method == MERGE:
            return _merge(step, store, scratch)
        return _teach_base(step, scratch, emit) if method == "sft" else _make_base(step, store, scratch)


def _open_base(step: Step, store: Store) -> Finished:
    """A directory, or a repository in the revision that it has now, noted so that every later step finds the same.

    Weights that the run holds are named by their digest, wherever the run lies.
    """
    (checkpoint,) = step.checkpoints
    if step.settings["entry"]["kind"] == "remote":
        return Finished(result={}, checkpoints=((checkpoint, None),))
    if weights.is_held(step.settings["entry"]["name"]):
        held = replace(checkpoint, path=step.settings["entry"]["name"], model=None)
        return Finished(result={"digest": store.weights(held).name}, checkpoints=((held, None),))
    # Not before: a study of remote models alone needs no packages for weights.
    from holdfast.models.directories.stacks import base_of
    from holdfast.models.hub import hub

    name, revision = step.settings["entry"]["name"], step.settings["entry"]["revision"]
    directory = hub.resolve(name, revision)
    found = hub.describe(directory)
    repository = found["revision"] is not None and not Path(name).expanduser().is_dir()
    model = f"{name}@{found['revision']}" if repository else str(directory.resolve())
    base = base_of(directory)
    result = {**found, "directory": str(directory), **({"base": str(base)} if base != directory else {})}
    return Finished(result=result, checkpoints=((replace(checkpoint, model=model), None),))


def _make_base(step: Step, store: Store, scratch: Path) -> Finished:
    """A base of a real architecture with random weights, and a tokenizer made of the cases' texts."""
    from holdfast.models.hub.random_base import build_random

    (checkpoint,) = step.checkpoints
    directory = scratch / "made"
    texts = [
        text
        for case in cases_of(store).values()
        for text in (*(message.content for message in case.messages), *(tool.description for tool in case.tools))
    ]
    entry = ModelEntry.model_validate(step.settings["entry"])
    build_random(directory, entry, texts, seed=step.settings["base_seed"])
    return Finished(result={}, checkpoints=((checkpoint, directory),))


def _teach_base(step: Step, scratch: Path, emit: Emit) -> Finished:
    """A tiny base: its tokenizer and weights, taught from demonstrations of scripted agents."""
    from holdfast.models.tiny import model as tiny
    from holdfast.study.kinds import Taught, read_suite, suite_of
    from holdfast.suites import probes
    from holdfast.suites.approval import teaching
    from holdfast.training.dpo.stage import train_sft
    from holdfast.training.encoding import encode_episode
    from holdfast.training.settings import SFTSettings

    (checkpoint,) = step.checkpoints
    directory, fresh = scratch / "taught", scratch / "fresh"
    if weights.fetch_cached(step.fingerprint, directory):
        return Finished(result={"cached": True}, checkpoints=((checkpoint, directory),))
    seed, model, sft = step.settings["base_seed"], step.settings["model"], step.settings["model"]["sft"]
    shape = {key: model[key] for key in ("hidden", "layers", "heads", "ffn")}
    named = {"name": step.settings["suite"], "mixture": step.settings["mixture"]}
    table = read_suite(step.settings.get("table", named))
    teach, count = suite_of(table).teach, sft["demonstrations"]
    lessons = [
        Taught(system_prompts={}) if teach is None else teach(table, seed, count),
        probes.teach_beside(step.settings.get("probes"), seed, 0 if teach is None else count),
        teaching.teach_beside(step.settings.get("approval"), seed),
    ]
    words = tuple(word for lesson in lessons for word in lesson.words)
    prompts = {text: token for lesson in lessons for text, token in lesson.system_prompts.items()}
    tiny.build(words, fresh, seed=seed, system_prompts=prompts, argument="object", **shape)
    chat = tiny.TinyModel.load(fresh).chat
    encoded = [
        encode_episode(chat, case.messages, trajectory.messages, case.tools)
        for lesson in lessons
        for case, trajectory in lesson.demonstrations
    ]
    steps = max(1, len(encoded) // sft["batch_size"])
    settings = SFTSettings(**{**_known(SFTSettings, sft), "steps": steps})
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


def _merge(step: Step, store: Store, scratch: Path) -> Finished:
    """A checkpoint between two others for every share; nothing is trained."""
    from holdfast.training.policy.merging import merge_checkpoints

    of = [weights_of(store, name) for name in step.settings["of"]]
    made = [
        (checkpoint, merge_checkpoints(of[0], of[1], share, scratch / f"share-{number}"))
        for number, (checkpoint, share) in enumerate(zip(step.checkpoints, step.settings["shares"], strict=True))
    ]
    return Finished(result={"merged": len(made)}, checkpoints=tuple(made))


def _known(kind: type[SFTSettings] | type[DPOSettings], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a trainer's settings take from a step's as it is."""
    return {field.name: settings[field.name] for field in fields(kind) if field.name in settings}


def _train_stage(step: Step, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One DPO stage, against the checkpoint that it starts from as its reference step found it."""
    from holdfast.training.dpo.stage import train_dpo
    from holdfast.training.loop.loop import LOG
    from holdfast.training.settings import DPOSettings, fit_stage

    settings = step.settings
    start = weights_of(store, settings["parent"])
    _, paired, referred, *others = step.inputs
    pairs = _read_pairs(store, paired)
    second = _read_second(step, store, others[0]) if others else None
    both = [*pairs, *(second.pairs if second is not None else ())]
    every = _encode_pairs(store, load_chat(start, settings.get("calls", "auto")), both)
    kept, stage = fit_stage(pairs, every, DPOSettings(**_known(DPOSettings, settings)))
    if second is not None:
        second = replace(second, pairs=fit_stage(second.pairs, every, stage)[0])
    used = {name for pair in (*kept, *(second.pairs if second else ())) for name in (pair.chosen, pair.rejected)}
    encoded = {name: item for name, item in every.items() if name in used}
    reference = _read_reference(store, referred, start, encoded, stage)
    doses = [dose * stage.steps for dose in settings["doses"]]
    epochs = stage.epochs and stage.epochs * settings["doses"][-1]
    with _open_balance(step, store) as balance:
        results = resume(
            scratch,
            lambda: train_dpo(
                start,
                kept,
                encoded,
                # The warm-up is that of dose 1.
                replace(stage, steps=doses[-1], epochs=epochs, warmup_ratio=None),
                seed=int(step.fingerprint[:15], 16),
                save_at=doses,
                out_dir=scratch,
                reference=reference,
                folder=scratch / LOOP,
                tracker=os.environ.get(TRACKER) or None,
                progress=beat(emit),
                second=second,
                balance=balance,
            ),
        )
    made = zip(step.checkpoints, (result.path for result in results), strict=True)
    summary = {
        "distinct_pairs": len(kept),
        "distinct_trajectories": len(encoded),
        "trained_tokens": results[-1].tokens,
        "doses": _describe_doses(step, results),
    }
    if second is not None:
        summary["second_pairs"] = len(second.pairs)
    if balance is not None:
        summary["balance"] = list(results[-1].readings)
    if stage.max_length is not None:
        summary["too_long"] = len(both) - len(kept) - len(second.pairs if second else ())
    return Finished(result=summary, checkpoints=tuple(made), logs={"": scratch / LOOP / LOG})


def _read_pairs(store: Store, paired: str) -> list[PreferencePair]:
    """The pairs that a pair step made. Errors: StepError where there are none."""
    pairs = store.pairs(paired)
    if not pairs:
        found = store.log.steps()[paired].result
        raise StepError(
            "there are no pairs to learn from; lower [pairs] min_gap or sample more rollouts"
            f" ({found['scored']} of {found['episodes']} training episodes have a score)"
        )
    return list(pairs)


def _read_second(step: Step, store: Store, paired: str) -> Second:
    """The pairs of the objective that a stage keeps beside its own, and how it takes them."""
    from holdfast.training.dpo.mixing import Second

    amounts: Mapping[Way, str] = {"mix": "share", "term": "weight", "balance": "initial"}
    way, key = next((way, key) for way, key in amounts.items() if step.settings.get(way) is not None)
    return Second(pairs=_read_pairs(store, paired), way=way, amount=step.settings[way][key])


@contextlib.contextmanager
def _open_balance(step: Step, store: Store) -> Iterator[tuple[Balance, Measure] | None]:
    """The balance of a stage, and what it measures with; None for a stage without one."""
    told = step.settings.get("balance")
    if told is None:
        yield None
        return
    from holdfast.training.dpo.balance import Balance

    known = {field.name: told[field.name] for field in fields(Balance)}
    with open_measure(step, store) as measure:
        yield Balance(**known), measure


def _read_reference(
    store: Store, referred: str, start: Path, encoded: Mapping[str, Encoded], stage: DPOSettings
) -> dict[str, float]:
    """The reference's log-probabilities of some trajectories. What it cannot score, training itself refuses by name."""
    from holdfast.training.policy.adapters import longest_sequence

    reference, longest = store.logprobs(referred), min(stage.token_budget, longest_sequence(start))
    lacking = {name: item for name, item in encoded.items() if name not in reference}
    missing = [name for name, item in lacking.items() if is_scored(item, stage.loss_mask, longest)]
    if missing:
        raise StepError(
            f"trajectory {missing[0]} of a pair has no log-probability from the reference step"
            f" ({len(missing)} of {len(encoded)} have none); make the run anew"
        )
    return {name: reference[name] for name in encoded if name in reference}


def _encode_pairs(store: Store, chat: Chat, pairs: Sequence[PreferencePair]) -> dict[str, Encoded]:
    """Every trajectory of some pairs as tokens, by id, in a format that was checked on each case."""
    from holdfast.training.encoding import check_template

    cases = cases_of(store)
    for name in dict.fromkeys(pair.case_id for pair in pairs):
        check_template(chat, name, cases[name].messages, cases[name].tools)
    used = dict.fromkeys(name for pair in pairs for name in (pair.chosen, pair.rejected))
    return {trajectory.id: encode(chat, cases, trajectory) for trajectory in store.trajectories(used)}


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
            **({f"balance_{key}": result.readings[-1][key] for key in ("score", "weight")} if result.readings else {}),
        }
        for checkpoint, result in zip(step.checkpoints, results, strict=True)
    ]
