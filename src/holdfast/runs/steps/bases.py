"""Train steps beside the stages: bases (taught, made with random weights, or opened where they are), and merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.models.entries import ModelEntry
from holdfast.records.processes import hand_back_memory, without_collection
from holdfast.runs.plan.settings import MergeSettings, RandomSettings, StartSettings, TeachSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished, beat
from holdfast.runs.steps.reading import cases_of, weights_of
from holdfast.store import Store, weights
from holdfast.study.kinds import Taught, suite_of

if TYPE_CHECKING:
    from holdfast.models.tiny.chat import TinyChat


def open_base(step: Step, entry: ModelEntry, store: Store) -> Finished:
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
    from holdfast.models.hub.gguf import PACKAGE, find_file, is_gguf

    name, revision = entry.name, entry.revision
    directory = hub.resolve(name, revision)
    found = hub.describe(directory)
    repository = found["revision"] is not None and not Path(name).expanduser().exists()
    # A file of llama.cpp is noted as itself: what it is unpacked to can be made again.
    here = find_file(name) if is_gguf(name) else directory
    model = f"{name}@{found['revision']}" if repository else str(here.resolve())
    model = name if name.startswith(PACKAGE) else model
    base = base_of(directory)
    result = {**found, "directory": str(directory), **({"base": str(base)} if base != directory else {})}
    return Finished(result=result, checkpoints=((replace(checkpoint, model=model), None),))


def begin_with(step: Step, settings: StartSettings, store: Store) -> Finished:
    """The base of a study that its start has taught: the weights of the last stage, under a name without stages."""
    (checkpoint,) = step.checkpoints
    taught = store.checkpoint(settings.parent)
    store.weights(taught)
    began = replace(checkpoint, path=taught.path, start=taught.stages)
    return Finished(result={"digest": taught.digest}, checkpoints=((began, None),))


def make_base(step: Step, settings: RandomSettings, store: Store, scratch: Path) -> Finished:
    """A base of a real architecture with random weights, and a tokenizer made of the cases' texts."""
    from holdfast.models.hub.random_base import build_random

    (checkpoint,) = step.checkpoints
    weights.clear_scratch(scratch)
    directory = scratch / "made"
    texts = [
        text
        for case in cases_of(store).values()
        for text in (*(message.content for message in case.messages), *(tool.description for tool in case.tools))
    ]
    build_random(directory, settings.entry, texts, seed=settings.base_seed)
    return Finished(result={}, checkpoints=((checkpoint, directory),))


def teach_base(step: Step, settings: TeachSettings, scratch: Path, emit: Emit) -> Finished:
    """A tiny base: its tokenizer and weights, taught from demonstrations of scripted agents."""
    from holdfast.models.tiny import model as tiny
    from holdfast.training.encoding import encode_episode
    from holdfast.training.sft.stage import train_sft

    (checkpoint,) = step.checkpoints
    weights.clear_scratch(scratch)
    directory, fresh = scratch / "taught", scratch / "fresh"
    if weights.fetch_cached(step.fingerprint, directory):
        return Finished(result={"cached": True}, checkpoints=((checkpoint, directory),))
    seed, model, sft = settings.base_seed, settings.model, settings.model.sft
    lessons = _lessons(settings, sft.demonstrations)
    words, prompts = _language(lessons)
    tiny.build(
        words,
        fresh,
        seed=seed,
        system_prompts=prompts,
        argument="object",
        **model.model_dump(include={"hidden", "layers", "heads", "ffn"}),
    )
    chat = tiny.TinyModel.load(fresh).chat
    encoded = [
        encode_episode(chat, case.messages, trajectory.messages, case.tools)
        for lesson in lessons
        for case, trajectory in lesson.demonstrations
    ]
    del lessons  # so many objects that looking through them for garbage would go on beside the training
    hand_back_memory()
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


@without_collection()
def _lessons(settings: TeachSettings, count: int) -> list[Taught]:
    """What a tiny base learns, with so many demonstrations of its suite."""
    from holdfast.study.sections import SuiteSection
    from holdfast.suites import probes
    from holdfast.suites.approval import demonstrations

    table, seed = settings.table or SuiteSection(name=settings.suite, mixture=settings.mixture), settings.base_seed
    teach = suite_of(table).teach
    return [
        Taught(system_prompts={}) if teach is None else teach(table, seed, count),
        probes.teach_beside(settings.probes, seed, 0 if teach is None else count),
        demonstrations.teach_beside(settings.approval, seed),
    ]


def _language(lessons: Sequence[Taught]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The words of some lessons, and the system prompts that have a token of their own."""
    words = tuple(word for lesson in lessons for word in lesson.words)
    return words, {text: token for lesson in lessons for text, token in lesson.system_prompts.items()}


def language_of(settings: TeachSettings) -> TinyChat:
    """The language of a tiny base that is yet to be made."""
    from holdfast.models.tiny.chat import SPECIALS, TinyChat

    # The words are the same however many demonstrations there are.
    few = replace(settings, approval=settings.approval and {**settings.approval, "count": 1})
    words, prompts = _language(_lessons(few, 1))
    return TinyChat((*SPECIALS, *dict.fromkeys(prompts.values()), *sorted(set(words))), prompts)


def merge(step: Step, settings: MergeSettings, store: Store, scratch: Path) -> Finished:
    """A checkpoint between two others for every share; nothing is trained."""
    from holdfast.training.policy.merging import merge_checkpoints

    weights.clear_scratch(scratch)
    of = [weights_of(store, name) for name in settings.of]
    made = [
        (checkpoint, merge_checkpoints(of[0], of[1], share, scratch / f"share-{number}"))
        for number, (checkpoint, share) in enumerate(zip(step.checkpoints, settings.shares, strict=True))
    ]
    return Finished(result={"merged": len(made)}, checkpoints=tuple(made))
