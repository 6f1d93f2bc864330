"""Train steps: a base taught, made or opened, a merge, or a preference stage, which goes on where it was stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.models.entries import ModelEntry
from holdfast.records import PreferencePair
from holdfast.records.errors import StepError
from holdfast.runs.plan.settings import (
    MergeSettings,
    OpenSettings,
    PairStageSettings,
    RandomSettings,
    RewardStageSettings,
    TeachSettings,
    TrainSettings,
)
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished, beat
from holdfast.runs.steps.practice import train_on_rewards
from holdfast.runs.steps.reading import LOOP, TRACKER, cases_of, encode, load_chat, resume, weights_of
from holdfast.runs.steps.references import is_scored
from holdfast.runs.steps.tuning import open_measure
from holdfast.store import Store, weights
from holdfast.store.weights import WEIGHTS
from holdfast.study.stages import StageSection

if TYPE_CHECKING:
    from holdfast.training.dpo.balance import Balance, Measure
    from holdfast.training.dpo.mixing import Second
    from holdfast.training.encoding import Chat, Encoded
    from holdfast.training.loop.result import TrainResult


def train(step: Step, settings: TrainSettings, store: Store, emit: Emit) -> Finished:
    """New weights in the step's own directory, which the writer takes over; a base that is opened stays where it is."""
    if isinstance(settings, OpenSettings):
        return _open_base(step, settings.entry, store)
    with weights.open_scratch(store.path / WEIGHTS, step.fingerprint) as scratch:
        if isinstance(settings, RewardStageSettings):
            return train_on_rewards(step, settings, store, scratch, emit)
        if isinstance(settings, PairStageSettings):
            return _train_stage(step, settings, store, scratch, emit)
        weights.clear_scratch(scratch)
        if isinstance(settings, MergeSettings):
            return _merge(step, settings, store, scratch)
        if isinstance(settings, TeachSettings):
            return _teach_base(step, settings, scratch, emit)
        assert isinstance(settings, RandomSettings)
        return _make_base(step, settings, store, scratch)


def _open_base(step: Step, entry: ModelEntry, store: Store) -> Finished:
    """A directory, or a repository in the revision that it has now, noted so that every later step finds the same.

    Weights that the run holds are named by their digest, wherever the run lies.
    """
    (checkpoint,) = step.checkpoints
    if entry.kind == "remote":
        return Finished(result={}, checkpoints=((checkpoint, None),))
    if weights.is_held(entry.name):
        held = replace(checkpoint, path=entry.name, model=None)
        return Finished(result={"digest": store.weights(held).name}, checkpoints=((held, None),))
    # Not before: a study of remote models alone needs no packages for weights.
    from holdfast.models.directories.stacks import base_of
    from holdfast.models.hub import hub

    name, revision = entry.name, entry.revision
    directory = hub.resolve(name, revision)
    found = hub.describe(directory)
    repository = found["revision"] is not None and not Path(name).expanduser().is_dir()
    model = f"{name}@{found['revision']}" if repository else str(directory.resolve())
    base = base_of(directory)
    result = {**found, "directory": str(directory), **({"base": str(base)} if base != directory else {})}
    return Finished(result=result, checkpoints=((replace(checkpoint, model=model), None),))


def _make_base(step: Step, settings: RandomSettings, store: Store, scratch: Path) -> Finished:
    """A base of a real architecture with random weights, and a tokenizer made of the cases' texts."""
    from holdfast.models.hub.random_base import build_random

    (checkpoint,) = step.checkpoints
    directory = scratch / "made"
    texts = [
        text
        for case in cases_of(store).values()
        for text in (*(message.content for message in case.messages), *(tool.description for tool in case.tools))
    ]
    build_random(directory, settings.entry, texts, seed=settings.base_seed)
    return Finished(result={}, checkpoints=((checkpoint, directory),))


def _teach_base(step: Step, settings: TeachSettings, scratch: Path, emit: Emit) -> Finished:
    """A tiny base: its tokenizer and weights, taught from demonstrations of scripted agents."""
    from holdfast.models.tiny import model as tiny
    from holdfast.suites import approval, office, probes
    from holdfast.suites.approval import teaching
    from holdfast.training.dpo.stage import train_sft
    from holdfast.training.encoding import encode_episode

    (checkpoint,) = step.checkpoints
    directory, fresh = scratch / "taught", scratch / "fresh"
    if weights.fetch_cached(step.fingerprint, directory):
        return Finished(result={"cached": True}, checkpoints=((checkpoint, directory),))
    seed, model, sft = settings.base_seed, settings.model, settings.model.sft
    count = 0 if settings.suite == approval.SUITE else sft.demonstrations
    besides = [
        probes.teach_beside(settings.probes, seed, count),
        teaching.teach_beside(settings.approval, seed),
    ]
    words: tuple[str, ...] = office.lexicon() if count else ()
    prompts: dict[str, str] = dict(office.system_prompts()) if count else {}
    for beside in besides:
        words, prompts = (*words, *beside.words), {**prompts, **beside.system_prompts}
    tiny.build(
        words,
        fresh,
        seed=seed,
        system_prompts=prompts,
        argument="object",
        hidden=model.hidden,
        layers=model.layers,
        heads=model.heads,
        ffn=model.ffn,
    )
    chat = tiny.TinyModel.load(fresh).chat
    mixture = settings.mixture or office.MIXTURE
    encoded = [
        encode_episode(chat, case.messages, trajectory.messages, case.tools)
        for case, trajectory in (
            *office.demonstrations(seed, count, mixture),
            *(demonstration for beside in besides for demonstration in beside.demonstrations),
        )
    ]
    steps = max(1, len(encoded) // sft.batch_size)
    tell = beat(emit, sft.batch_size)
    result = train_sft(fresh, encoded, sft, steps=steps, seed=seed, out_dir=directory, progress=tell)
    weights.keep_cached(step.fingerprint, directory)
    summary = {
        "steps": result.steps,
        "trained_tokens": result.tokens,
        "loss": float(np.mean(result.losses[-100:])),
        "mean_episode_tokens": float(np.mean([len(item.ids) for item in encoded])),
    }
    return Finished(result=summary, checkpoints=((checkpoint, directory),))


def _merge(step: Step, settings: MergeSettings, store: Store, scratch: Path) -> Finished:
    """A checkpoint between two others for every share; nothing is trained."""
    from holdfast.training.policy.merging import merge_checkpoints

    of = [weights_of(store, name) for name in settings.of]
    made = [
        (checkpoint, merge_checkpoints(of[0], of[1], share, scratch / f"share-{number}"))
        for number, (checkpoint, share) in enumerate(zip(step.checkpoints, settings.shares, strict=True))
    ]
    return Finished(result={"merged": len(made)}, checkpoints=tuple(made))


def _train_stage(step: Step, settings: PairStageSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One DPO stage, against the checkpoint that it starts from as its reference step found it."""
    from holdfast.training.dpo.stage import train_dpo
    from holdfast.training.loop.loop import LOG
    from holdfast.training.settings import fit_stage

    start = weights_of(store, settings.parent)
    _, paired, referred, *others = step.inputs
    pairs = _read_pairs(store, paired)
    second = _read_second(settings.section, store, others[0]) if others else None
    both = [*pairs, *(second.pairs if second is not None else ())]
    every = _encode_pairs(store, load_chat(start, settings.calls or "auto"), both)
    kept, stage = fit_stage(pairs, every, settings.section)
    if second is not None:
        second = replace(second, pairs=fit_stage(second.pairs, every, stage)[0])
    used = {name for pair in (*kept, *(second.pairs if second else ())) for name in (pair.chosen, pair.rejected)}
    encoded = {name: item for name, item in every.items() if name in used}
    reference = _read_reference(store, referred, start, encoded, stage)
    doses = [dose * stage.steps for dose in settings.doses]
    epochs = stage.epochs and stage.epochs * settings.doses[-1]
    with _open_balance(step, settings, store) as balance:
        results = resume(
            scratch,
            lambda: train_dpo(
                start,
                kept,
                encoded,
                # The warm-up is that of dose 1.
                stage.model_copy(update={"steps": doses[-1], "epochs": epochs, "warmup_ratio": None}),
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


def _read_second(stage: StageSection, store: Store, paired: str) -> Second:
    """The pairs of the objective that a stage keeps beside its own, and how it takes them."""
    from holdfast.training.dpo.mixing import Second

    pairs = _read_pairs(store, paired)
    if stage.mix is not None:
        return Second(pairs=pairs, way="mix", amount=stage.mix.share)
    if stage.term is not None:
        return Second(pairs=pairs, way="term", amount=stage.term.weight)
    assert stage.balance is not None  # the plan gives second pairs to these three alone
    return Second(pairs=pairs, way="balance", amount=stage.balance.initial)


@contextlib.contextmanager
def _open_balance(step: Step, settings: PairStageSettings, store: Store) -> Iterator[tuple[Balance, Measure] | None]:
    """The balance of a stage, and what it measures with; None for a stage without one."""
    section = settings.section.balance
    if section is None:
        yield None
        return
    from holdfast.training.dpo.balance import Balance

    with open_measure(step, settings, store) as measure:
        yield Balance(**section.model_dump()), measure


def _read_reference(
    store: Store, referred: str, start: Path, encoded: Mapping[str, Encoded], stage: StageSection
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
