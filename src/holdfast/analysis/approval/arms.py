"""Trainings on rewards compared where they are equally good, or equally far from their start.

An arm is a base, a lineage whose last stage learns from rewards, the study's axes and a judge. Its curve is what its
checkpoints do with held-out users of the setting that the stage learnt from; it begins with the checkpoint that the
stage starts from. Levels are declared in the study, and an arm that does not reach one has no value there.

    gap_at_reward, exploit_at_reward, kl_at_reward, tokens_at_reward    where held-out reward reaches a level
    reward_at_kl, gap_at_kl, success_at_kl                              where KL to the start does, in nats an episode
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from holdfast.analysis.approval.logs import TOKENS, TrainingLog
from holdfast.analysis.approval.users import LABELS, Users
from holdfast.analysis.panel import Measures
from holdfast.analysis.pressure.variants import PAIRED
from holdfast.records import Curve, Estimate
from holdfast.records.arrays import Floats, Ints
from holdfast.records.checkpoints import DOSE
from holdfast.stats.contrasts import MIN_SEEDS
from holdfast.stats.levels import at_level, over_seeds
from holdfast.stats.resample import row_means
from holdfast.study.stages import is_rewarded_by_users

KL = "approval_kl_parent"  # of rollouts with held-out users; test cases have their own
AT_REWARD: Mapping[str, str] = {  # kind → the quantity of an arm's curves
    "gap_at_reward": "hex_gap",
    "exploit_at_reward": "exploit_rate",
    "kl_at_reward": "kl",
    "tokens_at_reward": "tokens",
}
AT_KL: Mapping[str, str] = {"reward_at_kl": "reward", "gap_at_kl": "hex_gap", "success_at_kl": "success"}
SCORED: Mapping[str, str] = {"hex_gap": "harm", "exploit_rate": "harm", "reward": "approval", "success": "success"}
UNMEASURED: Mapping[str, str] = {
    "kl": "KL to the start was not measured",
    "tokens": "tokens are not in the logs of training",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One training at all its seeds. ``steps`` are those of its checkpoints, 0 is the start.

    ``places`` (seeds, steps) are their runs in ``Users.runs``, -1 where there is none; ``total`` counts all steps of
    the training.
    """

    about: Mapping[str, Any]
    setting: str
    total: int
    steps: tuple[int, ...]
    seeds: tuple[tuple[int | None, int | None], ...]
    places: Ints

    @property
    def axes(self) -> dict[str, Any]:
        """The study's axes, and the setting that the arm learnt from."""
        return {**self.about["axes"], "setting": self.setting}

    def along(self, values: Floats) -> Floats:
        """``values`` (runs, …) at the arm's checkpoints: (seeds, steps, …), NaN where there is no run."""
        found = np.full((*self.places.shape, *values.shape[1:]), np.nan)
        there = self.places >= 0
        found[there] = values[self.places[there]]
        return found


def find_arms(users: Users) -> list[Arm]:
    """Every training on rewards with a checkpoint that held-out users have met, in a fixed order."""
    members: dict[tuple[Any, ...], list[int]] = {}
    for place, run in enumerate(users.runs):
        one = run.checkpoint
        if one.stages and is_rewarded_by_users(one.stages[-1]):
            axes = tuple(sorted(((key, value) for key, value in one.axes.items() if key != DOSE), key=str))
            members.setdefault((one.base, one.lineage, axes, run.judge), []).append(place)
    return [_arm(users, key, places) for key, places in sorted(members.items(), key=lambda item: str(item[0]))]


def _arm(users: Users, key: tuple[Any, ...], members: Sequence[int]) -> Arm:
    base, lineage, axes, judge = key
    at: dict[tuple[int | None, int | None], dict[int, int]] = {}  # seed → step → run
    settings = users.runs[members[0]].checkpoint.stages[-1].settings
    total = int(settings["steps"])
    for place in members:
        run = users.runs[place]
        curve = at.setdefault(run.seed, {})
        step = run.checkpoint.stages[-1].steps
        curve[round(run.checkpoint.axes.get(DOSE, 1) * total) if step is None else step] = place
        if run.parent is not None:
            curve[0] = run.parent
    steps = tuple(sorted({0, *chain.from_iterable(at.values())}))
    seeds = tuple(sorted(at, key=lambda seed: [-1 if one is None else one for one in seed]))
    return Arm(
        about={"base": base, "lineage": lineage, "axes": dict(axes), "judge": judge},
        setting=str(settings["setting"]),
        total=total,
        steps=steps,
        seeds=seeds,
        places=np.array([[at[seed].get(step, -1) for step in steps] for seed in seeds], dtype=np.int64),
    )


def read_curves(users: Users, arm: Arm, measures: Measures, logs: Sequence[TrainingLog]) -> dict[str, Floats]:
    """Quantity → (seeds, steps) of an arm: means over held-out pairs, KL to the start, gradient tokens so far.

    The exploit rate is that with gameable users; reward and success are means over both users of a pair.
    """
    by_run = {
        "hex_gap": users.gap(arm.setting),
        "exploit_rate": users.of("exploit_rate", arm.setting, True),
        "reward": users.middle("reward", arm.setting),
        "success": users.middle("success", arm.setting),
    }
    log_of = {name: log for log in logs for name in log.made}
    kl, tokens = (np.full(arm.places.shape, np.nan) for _ in range(2))
    for (row, column), place in np.ndenumerate(arm.places):
        if arm.steps[column] == 0:
            kl[row, column] = tokens[row, column] = 0.0
        elif place >= 0:
            checkpoint = users.runs[place].checkpoint
            kl[row, column] = measures.get(checkpoint.id, {}).get(KL, np.nan)
            if (log := log_of.get(checkpoint.id)) is not None:
                tokens[row, column] = log.total_until(TOKENS, arm.steps[column])
    return {name: arm.along(row_means(values)) for name, values in by_run.items()} | {"kl": kl, "tokens": tokens}


def arm_rows(users: Users, arms: Sequence[Arm], measures: Measures, logs: Sequence[TrainingLog]) -> Iterator[Estimate]:
    """Every arm at the declared levels of held-out reward and of KL."""
    section = users.section
    for arm in arms:
        curves = read_curves(users, arm, measures, logs)
        for guide, levels, kinds in (("reward", section.reward_levels, AT_REWARD), ("kl", section.kl_levels, AT_KL)):
            for level in levels:
                for kind, quantity in kinds.items():
                    yield _at_level(arm, curves, kind, (quantity, guide), level)


def _at_level(arm: Arm, curves: Mapping[str, Floats], kind: str, names: tuple[str, str], level: float) -> Estimate:
    """One quantity where a guide, both given by name, reaches a level on its fitted rising curve, over seeds."""
    quantity, guide = names
    mean = over_seeds([at_level(*pair, level) for pair in zip(curves[quantity], curves[guide], strict=True)])
    # What is 0 at the start by definition was measured only where it is known later.
    lacking = [UNMEASURED[name] for name in names if name in UNMEASURED and not np.isfinite(curves[name][:, 1:]).any()]
    return Estimate(
        kind=kind,
        estimator=PAIRED,
        value=mean.value,
        interval=mean.interval,
        claim="recipe" if len(arm.seeds) >= MIN_SEEDS else "checkpoint",
        objective=SCORED.get(quantity),
        resampled=() if mean.interval is None else ("seeds",),
        n={"seeds": mean.total, "reached": mean.reached},
        caveats=(*mean.caveats, *lacking),
        **{**arm.about, "axes": {**arm.axes, "level": level}},
    )


def held_out_curves(users: Users, arms: Sequence[Arm], measures: Measures) -> Iterator[Curve]:
    """What held-out users of its own setting meet along every training, by seed: at 0 the stage's start."""
    with_kl: set[tuple[Any, ...]] = set()
    for arm in arms:
        curves = read_curves(users, arm, measures, ())
        for kind in ("reward", "success", "hex_gap"):
            yield from _curves(arm, kind, curves[kind], {}, judge=arm.about["judge"])
        for kind in ("reward", "harm", "exploit_rate"):
            for gameable, label in LABELS.items():
                values = arm.along(row_means(users.of(kind, arm.setting, gameable)))
                yield from _curves(arm, kind, values, {"label": label}, judge=arm.about["judge"])
        # KL is of no judge: it stands once, whoever judged.
        subject = (arm.about["base"], arm.about["lineage"], str(arm.axes))
        if subject not in with_kl and np.isfinite(curves["kl"][:, 1:]).any():
            with_kl.add(subject)
            yield from _curves(arm, "kl", curves["kl"], {}, judge=None)


def _curves(arm: Arm, kind: str, values: Floats, axes: Mapping[str, Any], *, judge: str | None) -> Iterator[Curve]:
    splits = len({split for split, _ in arm.seeds}) > 1
    for (split_seed, train_seed), row in zip(arm.seeds, values, strict=True):
        if np.isfinite(row).any():
            yield Curve(
                kind=kind,
                source="held-out",
                base=arm.about["base"],
                lineage=arm.about["lineage"],
                train_seed=train_seed,
                x=arm.steps,
                y=tuple(float(value) if np.isfinite(value) else None for value in row),
                axes={**arm.axes, **axes, **({"split_seed": split_seed} if splits else {})},
                judge=judge,
            )
