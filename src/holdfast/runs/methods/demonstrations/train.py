"""Carries out a stage that imitates episodes, which goes on where it was stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.records import Case, Trajectory
from holdfast.records.errors import StepError, StudyError
from holdfast.runs.methods.demonstrations.plan import Imitation, ImitationSettings
from holdfast.runs.methods.files import (
    OPENS_HELD_OUT,
    UNREADABLE,
    encode_rows,
    held_out_openings,
    note_counts,
    open_data,
    opening_of,
)
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.runs.steps.reading import LOOP, cases_of, load_chat, resume, weights_of
from holdfast.store import Store
from holdfast.study.kinds import suite_of
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import DEMONSTRATIONS, TRAJECTORIES, DemonstrationSection

if TYPE_CHECKING:
    from holdfast.training.encoding import Chat, Encoded


@dataclass(frozen=True, slots=True)
class Chosen:
    """Episodes to imitate, by what errors call them, how many were left out for which reason, and the file they are of.

    None is a file of those that the run or its suite has.
    """

    episodes: Mapping[str, tuple[Case, Trajectory]]
    left_out: Mapping[str, int]
    path: Path | None = None


def train_stage(step: Step, settings: ImitationSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One stage of supervised fine-tuning."""
    from holdfast.training.loop.loop import LOG
    from holdfast.training.policy.adapters import longest_sequence
    from holdfast.training.sft.stage import imitate

    start, section = weights_of(store, settings.parent), settings.section
    chosen, chat = choose(step, settings, store), load_chat(start, settings.calls or "auto")
    left_out = dict(chosen.left_out)
    if chosen.path is None:
        encoded = _encode(chat, chosen)
    else:
        rows, reads = chosen.episodes.values(), longest_sequence(start)
        encoded, bad = encode_rows(chosen.path, rows, chat, section, reads=reads)
        left_out[UNREADABLE] = len(bad)
    longest = math.inf if section.max_length is None else section.max_length
    fitting = {name: item for name, item in encoded.items() if len(item.ids) <= longest}
    if not fitting:
        raise StepError(f"all {len(encoded)} episodes have more than max_length {longest} tokens; raise it")
    families = {name: chosen.episodes[name][0].family for name in fitting}
    stage = fit_stage(list(families.values()), section)
    doses = [dose * stage.steps for dose in settings.doses]
    whole = stage.model_copy(update={"steps": doses[-1]})  # the warm-up is that of dose 1
    results = resume(step, scratch, emit, partial(imitate, start, fitting, whole, families=families, save_at=doses))
    if section.max_length is not None:
        left_out["too long"] = len(encoded) - len(fitting)
    summary = {
        "episodes": len(fitting),
        "families": len(set(families.values())),
        "left_out": left_out,
        "notes": [note_counts(settings.stage, len(fitting), "episodes", left_out)],
        "trained_tokens": results[-1].tokens,
        "doses": [
            {"checkpoint": checkpoint.id, "steps": result.steps, "loss": float(np.mean(result.losses[-10:]))}
            for checkpoint, result in zip(step.checkpoints, results, strict=True)
        ],
    }
    made = zip(step.checkpoints, (result.path for result in results), strict=True)
    return Finished(result=summary, checkpoints=tuple(made), logs={"": scratch / LOOP / LOG})


def fit_stage(families: Sequence[str], section: DemonstrationSection) -> DemonstrationSection:
    """Settings with the steps and the warm-up that epochs and shares make of these episodes."""
    from holdfast.training.sft.orders import count_steps

    steps, warmup = section.steps, section.warmup_steps
    if section.epochs is not None:
        grouped = families if section.grouping == "family" else [""] * len(families)
        steps = section.epochs * count_steps(grouped, section.examples_per_step)
    if section.warmup_ratio is not None:
        warmup = math.ceil(section.warmup_ratio * steps)
    return section.model_copy(update={"steps": steps, "warmup_steps": warmup, "warmup_ratio": None, "epochs": None})


def choose(step: Step, settings: Imitation, store: Store) -> Chosen:
    """The episodes that the stage's ``data`` names. Errors: StepError where there are none."""
    section = settings.section
    if section.data == DEMONSTRATIONS:
        chosen = _draw(settings, store)
    elif section.data == TRAJECTORIES:
        chosen = _select(step, settings, store)
    else:
        chosen = _read_file(settings, store)
    if not chosen.episodes:
        told = ", ".join(f"{count} {reason}" for reason, count in chosen.left_out.items() if count)
        raise StepError(f"stages.{settings.stage}: there is no episode to imitate ({told or 'nothing was found'})")
    return chosen


def _draw(settings: Imitation, store: Store) -> Chosen:
    """Demonstrations of the suite's scripted agents, of no held-out case."""
    section, table = settings.section, settings.suite
    assert table is not None  # the plan gives it with such data
    if isinstance(table, SuiteSection):
        table = table.model_copy(update={"mixture": section.mixture})
    teach = suite_of(table).teach
    assert teach is not None  # as the study's check has it
    drawn = teach(table, settings.train_seed, section.count).demonstrations
    return _without_held_out({f"demonstration {number}": one for number, one in enumerate(drawn)}, settings, store)


def _select(step: Step, settings: Imitation, store: Store) -> Chosen:
    """The best trajectories of each case by the judge of pairs."""
    from holdfast.training.pairs import select_best

    section = settings.section
    assert settings.judge is not None and settings.split_seed is not None  # the plan gives them with such data
    train = set(store.splits()[settings.split_seed]["train"])
    names = store.trajectory_ids(step=step.inputs[1])
    taken = select_best(
        store.score_table(step=step.inputs[1]),
        names,
        objectives=section.objectives,
        judge=settings.judge,
        at_least=section.at_least,
        best=section.best,
        cases=train,
    )
    cases = cases_of(store)
    episodes = {f"trajectory {one.id}": (cases[one.case_id], one) for one in store.trajectories(taken)}
    return Chosen(episodes, {"below at_least or not among the best": len(names) - len(episodes)})


def _read_file(settings: Imitation, store: Store) -> Chosen:
    """The chats of the stage's file, of no held-out case. Errors: StepError where the file is gone or has changed."""
    assert isinstance(settings.section, DemonstrationSection)  # a program is given its file as it is
    data = open_data(settings.stage, settings.section, store.path)
    kept = _without_held_out({one.id: (case, one) for case, one in data.episodes}, settings, store)
    return Chosen(kept.episodes, {**data.found.left_out, **kept.left_out}, data.path)


def _without_held_out(episodes: Mapping[str, tuple[Case, Trajectory]], settings: Imitation, store: Store) -> Chosen:
    """Episodes whose opening is that of no case that is kept out of training."""
    assert settings.split_seed is not None  # as above
    held_out = held_out_openings(store, settings.split_seed)
    kept = {name: one for name, one in episodes.items() if opening_of(one[0].messages) not in held_out}
    return Chosen(kept, {OPENS_HELD_OUT: len(episodes) - len(kept)})


def _encode(chat: Chat, chosen: Chosen) -> Mapping[str, Encoded]:
    """Every episode of the run's own as tokens, in a format that was checked on one case of each family.

    Errors: StudyError naming the episode where the format cannot write it.
    """
    from holdfast.training.encoding import check_template, encode_episode

    encoded, checked = {}, set[str]()
    for name, (case, trajectory) in chosen.episodes.items():
        if case.family not in checked:
            checked.add(case.family)
            check_template(chat, case.id, case.messages, case.tools)
        try:
            encoded[name] = encode_episode(chat, case.messages, trajectory.messages, case.tools)
        except StudyError as error:
            raise StudyError(f"{name}: {error}") from error
    return encoded
