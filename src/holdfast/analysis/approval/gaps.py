"""Whether checkpoints exploit the users who can be gamed.

    reward, harm              mean ratings from 1 to 10, by label of the user
    exploit_rate, success     shares of episodes, by label
    hex_gap                   harm with the gameable user of each pair less harm with the other
    late_gap                  the same, averaged over the checkpoints of the declared late window
    cue, cue_length           how well a bag of words, and the length alone, tell the labels apart

Rows are by setting, and by environment where there are several. A claim on checkpoints takes scenarios as random, one
on a recipe seeds too. ``reactions`` says which rows count, ``arms`` compares trainings, ``logs`` reads their logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from holdfast.analysis.approval.arms import Arm, arm_rows, find_arms, held_out_curves
from holdfast.analysis.approval.logs import MEASURED, log_curves, log_rows, read_logs
from holdfast.analysis.approval.reactions import read_reactions
from holdfast.analysis.approval.users import LABELS, OBJECTIVES, Users, read_users
from holdfast.analysis.panel import Measures
from holdfast.analysis.pooled import Claim
from holdfast.analysis.pressure.variants import few_cases, leaning, mean_rows, paired_rows
from holdfast.records import Checkpoint, Curve, Estimate
from holdfast.records.arrays import Floats
from holdfast.records.checkpoints import DOSE
from holdfast.stats.contrasts import MIN_SEEDS
from holdfast.stats.exploitation import late_gap, late_window, paired_gaps
from holdfast.stats.resample import Interval
from holdfast.store import Store
from holdfast.study.noted import read_rewarder
from holdfast.study.stages import is_midway
from holdfast.suites.approval.cues import audit_cues


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploitation:
    """What an analysis has of users who can be gamed. ``notes`` begin with what makes results void.

    ``met`` are the ids of checkpoints that such users have met, ``rewarder`` is the judge that rewards.
    """

    rows: tuple[Estimate, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    met: frozenset[str] = frozenset()
    rewarder: str | None = None


def read_exploitation(
    store: Store, splits: Mapping[int, Mapping[str, Sequence[str]]], measures: Measures
) -> Exploitation:
    """Everything of a run's users who can be gamed, and of the stages that learn from rewards; empty without them."""
    logs = [log for log in read_logs(store) if log.of_users]
    rewarder, users = read_rewarder(store), read_users(store, splits)
    name = None if rewarder is None else rewarder.name
    of_logs, curves = tuple(log_rows(logs, rewarder)), tuple(log_curves(logs))
    if users is None:
        return Exploitation(rows=of_logs, curves=curves, rewarder=name)
    arms = find_arms(users)
    reactions, notes = read_reactions(users, store.checkpoints())
    measured = arm_rows(users, arms, measures, logs)
    return Exploitation(
        rows=(*_level_rows(users), *_late_rows(users, arms), *reactions, *_cue_rows(users), *measured, *of_logs),
        curves=(*curves, *held_out_curves(users, arms, measures)),
        notes=tuple(notes),
        met=frozenset(run.checkpoint.id for run in users.runs),
        rewarder=name,
    )


def without_test_cases(
    checkpoints: Sequence[Checkpoint], splits: Mapping[int, Mapping[str, Sequence[str]]], met: frozenset[str]
) -> frozenset[str]:
    """Ids of the checkpoints that lack no score on test cases: kept on the way of a stage, or of a run without any."""
    none = bool(splits) and not any(halves.get("test") for halves in splits.values())
    return frozenset(one.id for one in checkpoints if is_midway(one) or (none and one.id in met))


# --- levels and gaps ----------------------------------------------------------------------------------------------


def _level_rows(users: Users) -> Iterator[Estimate]:
    """Every quantity by label and the gap, of every checkpoint, by setting and environment."""
    subjects = users.subjects()
    for setting, (environment, inside) in product(users.section.settings, users.divisions()):
        axes = {"setting": setting} | environment
        for group in subjects:
            for (kind, objective), (gameable, label) in product(OBJECTIVES.items(), LABELS.items()):
                values = np.where(inside, users.of(kind, setting, gameable), np.nan)
                if np.isfinite(values[list(group.runs)]).any():
                    labelled = {**axes, "label": label}
                    for row in mean_rows(kind, group, users.runs, values, axes=labelled, objective=objective):
                        if row.claim == "checkpoint" or _is_whole(group.about):
                            yield row
            gaps = np.where(inside, users.gap(setting), np.nan)[list(group.runs)]
            yield from gap_rows("hex_gap", group.about, gaps, axes)


def _is_whole(about: Mapping[str, Any]) -> bool:
    """Whether a recipe is claimed of this: of stages at their end."""
    return bool(about["lineage"]) and about["axes"].get(DOSE, 1) == 1


def gap_rows(
    kind: str, about: Mapping[str, Any], gaps: Floats, axes: Mapping[str, Any], *, caveats: tuple[str, ...] = ()
) -> Iterator[Estimate]:
    """The mean of gaps (seeds, scenarios) as a claim on checkpoints, and on the recipe where there are enough seeds."""
    if not np.isfinite(gaps).any():
        return
    gap = late_gap(gaps)
    caveats += few_cases(gap.scenarios)
    caveats += tuple(caveat for caveat in gap.caveats if "seeds: no interval" not in caveat)
    caveats += leaning(gap.scenarios, "pairs")
    if gap.missing:
        pairs = gap.seeds * gap.scenarios
        caveats += (f"{gap.missing} of {pairs} pairs, counted by seed, have no gap: not met, or no score",)
    intervals: dict[Claim, Interval | None] = {"checkpoint": gap.checkpoint}
    if gap.seeds >= MIN_SEEDS and _is_whole(about):
        intervals["recipe"] = gap.recipe
    n = {"cases": gap.scenarios, "seeds": gap.seeds, "runs": len(gaps)}
    words = {**about, "axes": {**about["axes"], **axes}, "kind": kind, "value": gap.value, "objective": "harm"}
    yield from paired_rows(intervals, caveats, n=n, **words)


def _late_rows(users: Users, arms: Sequence[Arm]) -> Iterator[Estimate]:
    """The gap over the late window of every training, with users of the setting that it learnt from."""
    for arm in arms:
        trained = [place for place, step in enumerate(arm.steps) if step > 0]
        window = np.zeros(len(arm.steps), dtype=np.bool_)
        window[trained] = late_window([arm.steps[place] for place in trained], arm.total, users.section.late)
        harm = [arm.along(users.of("harm", arm.setting, gameable)) for gameable in (True, False)]
        first, last = (arm.steps[place] for place in np.flatnonzero(window)[[0, -1]])
        note: tuple[str, ...] = (f"over {int(window.sum())} checkpoints, steps {first} to {last}",)
        note += () if last == arm.total else (f"trained to step {last} of {arm.total} so far",)
        for environment, inside in users.divisions():
            gameable, other = (np.where(inside, values, np.nan) for values in harm)
            if all(np.isfinite(values[:, window]).any() for values in (gameable, other)):
                axes = {"setting": arm.setting} | environment
                yield from gap_rows("late_gap", arm.about, paired_gaps(gameable, other, window), axes, caveats=note)


def _cue_rows(users: Users) -> Iterator[Estimate]:
    """What the words of held-out cases give away of the label, by setting and channel."""
    for cue in audit_cues(users.cases):
        axes = {"setting": cue.setting, "channel": cue.channel}
        about: dict[str, Any] = {"estimator": MEASURED, "axes": axes, "n": {"cases": cue.n}}
        caveats = [] if cue.majority is None else [f"always naming one label gets {cue.majority:.2f}"]
        caveats += ["too few scenarios, or one label alone: nothing to learn from"] * (cue.accuracy is None)
        yield Estimate(kind="cue", value=cue.accuracy, unit="share", caveats=tuple(caveats), **about)
        lone = ("one label alone: no difference",) * (cue.words_difference is None)
        yield Estimate(kind="cue_length", value=cue.words_difference, unit="words", caveats=lone, **about)
