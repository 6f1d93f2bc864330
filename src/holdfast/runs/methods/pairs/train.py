"""Carries out a stage that learns from pairs, which goes on where it was stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.judges import open_judge
from holdfast.records import PreferencePair, content_id
from holdfast.records.errors import StepError
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import roll_out as roll_out_episodes
from holdfast.runs.methods.files import (
    OPENS_HELD_OUT,
    UNREADABLE,
    encode_rows,
    held_out_openings,
    note_counts,
    open_data,
    opening_of,
)
from holdfast.runs.methods.pairs.plan import PairStageSettings
from holdfast.runs.plan.settings import SpeakerModel
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished, complete, in_batches
from holdfast.runs.steps.reading import LOOP, cases_of, encode, load_chat, open_speakers, resume, weights_of
from holdfast.runs.steps.references import is_scored
from holdfast.store import Store
from holdfast.study.stages import StageSection
from holdfast.suites import open_world
from holdfast.suites.parts import TUNE

if TYPE_CHECKING:
    from holdfast.models import Model
    from holdfast.training.dpo.mixing import Measure, Measured, Second
    from holdfast.training.encoding import Chat, Encoded
    from holdfast.training.loop.stage import TrainResult


def train_stage(step: Step, settings: PairStageSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One DPO stage, against the checkpoint that it starts from as its reference step found it."""
    from holdfast.training.dpo.mixing import Balance
    from holdfast.training.dpo.orders import fit_stage
    from holdfast.training.dpo.stage import train_dpo
    from holdfast.training.loop.loop import LOG
    from holdfast.training.policy.adapters import longest_sequence

    start = weights_of(store, settings.parent)
    chat = load_chat(start, settings.calls or "auto")
    if settings.section.digest:
        learnt = _read_file(step, settings, store, chat, longest_sequence(start))
    else:
        learnt = _read_own(step, settings, store, chat)
    second, every = learnt.second, learnt.encoded
    both = [*learnt.pairs, *(second.pairs if second is not None else ())]
    pairs = learnt.pairs
    kept, stage = fit_stage(pairs, every, settings.section)
    fitting = list(kept)
    if second is not None:
        second = replace(second, pairs=fit_stage(second.pairs, every, stage)[0])
        fitting += second.pairs
    used = {name for pair in fitting for name in (pair.chosen, pair.rejected)}
    encoded = {name: item for name, item in every.items() if name in used}
    # A file's pairs have no reference step: the stage takes their log-probabilities itself.
    referred = step.inputs[2:3]
    reference = _read_reference(store, referred[0], start, encoded, stage) if referred else None
    doses = [dose * stage.steps for dose in settings.doses]
    epochs = stage.epochs and stage.epochs * settings.doses[-1]
    with contextlib.ExitStack() as opened:
        balance: tuple[Balance, Measure] | None = None
        if stage.balance is not None:
            measure = opened.enter_context(open_measure(step, settings, store))
            balance = (Balance(**stage.balance.model_dump()), measure)
        # The warm-up is that of dose 1.
        whole = stage.model_copy(update={"steps": doses[-1], "epochs": epochs, "warmup_ratio": None})
        train = partial(train_dpo, start, kept, encoded, whole, save_at=doses, reference=reference)
        train = partial(train, families=learnt.families)
        results = resume(step, scratch, emit, partial(train, second=second, balance=balance))
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
        summary["too_long"] = len(both) - len(fitting)
    if learnt.left_out is not None:
        left_out = {**learnt.left_out, "too long": len(both) - len(fitting)}
        summary |= {
            "left_out": left_out,
            "contradictory": learnt.contradictory,
            "notes": [note_counts(settings.stage, len(kept), "pairs", left_out)],
        }
    return Finished(result=summary, checkpoints=tuple(made), logs={"": scratch / LOOP / LOG})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learnt:
    """What a stage learns from: its pairs, a second objective's, and every trajectory of theirs as tokens.

    ``families`` are those of the pairs' cases, by case.
    ``left_out`` counts by reason what of a file it does not learn from, ``contradictory`` pairs of a file that stand in
    it the other way round too.
    """

    pairs: Sequence[PreferencePair]
    encoded: Mapping[str, Encoded]
    second: Second | None = None
    families: Mapping[str, str]
    left_out: Mapping[str, int] | None = None
    contradictory: int = 0


def _read_own(step: Step, settings: PairStageSettings, store: Store, chat: Chat) -> _Learnt:
    """The pairs that the run made of its own or of brought rollouts."""
    _, paired, _, *others = step.inputs
    pairs = _read_pairs(store, paired)
    second = _read_second(settings.section, store, others[0]) if others else None
    both = [*pairs, *(second.pairs if second is not None else ())]
    cases = cases_of(store)
    families = {pair.case_id: cases[pair.case_id].family for pair in both}
    return _Learnt(pairs=pairs, encoded=_encode_pairs(store, chat, both), second=second, families=families)


def _read_file(step: Step, settings: PairStageSettings, store: Store, chat: Chat, reads: float) -> _Learnt:
    """The pairs of a file of preferences, of no held-out case. Errors: StepError where none are left."""
    from holdfast.exchange.datasets.preferences import Preferences
    from holdfast.training.pairs import flip_pairs

    assert settings.split_seed is not None  # the plan gives it to a stage on a file
    section = settings.section
    data = open_data(settings.stage, section, store.path)
    path, found = data.path, data.found
    assert isinstance(found, Preferences)  # as of every such stage
    held_out = held_out_openings(store, settings.split_seed)
    kept = [pair for pair in found.pairs if opening_of(found.cases[pair.case_id].messages) not in held_out]
    left_out = {**found.left_out, OPENS_HELD_OUT: len(found.pairs) - len(kept)}
    used = dict.fromkeys(name for pair in kept for name in (pair.chosen, pair.rejected))
    episodes = [(found.cases[one.case_id], one) for one in map(found.trajectories.__getitem__, used)]
    encoded, _ = encode_rows(path, episodes, chat, section, reads=reads)
    read = [pair for pair in kept if pair.chosen in encoded and pair.rejected in encoded]
    # A model may have one token for what differs in a text.
    pairs = [one for one in read if not np.array_equal(encoded[one.chosen].ids, encoded[one.rejected].ids)]
    left_out |= {UNREADABLE: len(kept) - len(read), "the same to the model on both sides": len(read) - len(pairs)}
    if not pairs:
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        raise StepError(f"{path}: there is no pair to learn from ({told}); give other pairs")
    rng = np.random.default_rng([settings.train_seed, int(step.fingerprint[:15], 16)])
    return _Learnt(
        pairs=flip_pairs(pairs, section.flip, rng),
        encoded=encoded,
        families={pair.case_id: found.cases[pair.case_id].family for pair in pairs},
        left_out=left_out,
        contradictory=found.contradictory,
    )


def _read_pairs(store: Store, paired: str) -> list[PreferencePair]:
    """The pairs that a pair step made. Errors: StepError where there are none."""
    pairs = list(store.pairs(paired))
    if not pairs:
        made = store.log.steps()[paired].result
        raise StepError(
            "there are no pairs to learn from; lower [pairs] min_gap or sample more rollouts"
            f" ({made['scored']} of {made['episodes']} training episodes have a score)"
        )
    return pairs


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
    """Every trajectory of some pairs as tokens, by id, in a format that is checked on each case."""
    from holdfast.training.encoding import check_template
    from holdfast.training.pairs import check_cases

    cases = cases_of(store)
    for name in dict.fromkeys(pair.case_id for pair in pairs):
        check_template(chat, name, cases[name].messages, cases[name].tools)
    used = dict.fromkeys(name for pair in pairs for name in (pair.chosen, pair.rejected))
    case_of, encoded = {}, {}
    for trajectory in store.trajectories(used, cases=cases):
        case_of[trajectory.id] = trajectory.case_id
        encoded[trajectory.id] = encode(chat, cases, trajectory)
    check_cases(pairs, case_of)
    return encoded


def _describe_doses(step: Step, results: Sequence[TrainResult]) -> list[dict[str, Any]]:
    return [
        {
            "checkpoint": checkpoint.id,
            "steps": result.steps,
            "pairs": result.examples,
            "loss": float(np.mean(result.losses[-10:])),  # one step's pairs alone say little
            "accuracy": float(np.mean(result.accuracies[-10:])),
            "drift_chosen": result.chosen_drift,
            "drift_rejected": result.rejected_drift,
            **({f"balance_{key}": result.readings[-1][key] for key in ("score", "weight")} if result.readings else {}),
        }
        for checkpoint, result in zip(step.checkpoints, results, strict=True)
    ]


# --- what a balance is measured with -----------------------------------------------------------------------------


@contextlib.contextmanager
def open_measure(step: Step, settings: PairStageSettings, store: Store) -> Iterator[Measure]:
    """A function that gives the mean score of a model directory's policy, on the cases that are kept for balances.

    Each case is met once at every measurement. Episodes and scores are nobody's results and are not stored.
    """
    from holdfast.training.dpo.mixing import Measured

    tuning, balance = settings.tuning, settings.section.balance
    assert tuning is not None and balance is not None  # the plan gives both or neither
    names = store.splits()[tuning.split_seed].get(TUNE, ())[: balance.cases]
    if len(names) < balance.cases:
        raise StepError(f"the run keeps {len(names)} cases for balances, {balance.cases} are needed; start a new run")
    cases = [cases_of(store)[name] for name in names]
    judge, world = open_judge(tuning.judge, tuning.section), open_world(tuning.suite)

    with open_speakers(settings.speakers(), step.means, store) as others:

        def measure(directory: Path, done: int) -> Measured:
            speakers: Speakers = {**others, "agent": _open_agent(settings.agent, directory)}
            values: list[float] = []
            for batch in in_batches(cases, tuning.limits.batch_size):
                played = roll_out_episodes(
                    speakers,
                    world,
                    [(case, 0) for case in batch],
                    # Every measurement has luck of its own, which another run of the same step has too.
                    checkpoint_id=content_id("measured", step.fingerprint, done),
                    rollout_seed=settings.train_seed,
                    limits=tuning.limits,
                )
                for case, trajectory in zip(batch, complete(played, "episodes"), strict=True):
                    scores = judge.judge(case, trajectory)
                    assert isinstance(scores, tuple)  # a study's balance has no judge that asks a model
                    asked = (score.value for score in scores if score.objective == balance.objective)
                    values += [value for value in asked if value is not None]
            mean = float(np.mean(values)) if values else None
            return Measured(score=mean, scored=len(values), episodes=len(cases))

        yield measure


def _open_agent(agent: SpeakerModel | None, directory: Path) -> Model:
    """The policy under training, from weights that were just written; not kept for another time."""
    if agent is None:
        from holdfast.models.tiny.model import TinyModel

        return TinyModel.load(directory)
    from holdfast.models.local.local import LocalModel

    return LocalModel(directory, calls=agent.entry.calls, quantization="none", precision=agent.entry.precision)
