"""Small runs with chosen scores, for gates: a base and what was trained of it, met in the same held-out cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.records import Case, Checkpoint, Ending, Flag, Score, StageRecord, Trajectory, content_id
from holdfast.store import Store
from holdfast.store.places import STUDY_KEY

OBJECTIVES = {"S": ("safety",), "H": ("helpfulness",)}


def checkpoint(
    label: str, *, base: str = "b", seed: int | None = 0, axes: Mapping[str, Any] | None = None
) -> Checkpoint:
    """A checkpoint of a lineage such as "base", "S" or "S,H"."""
    names = () if label == "base" else tuple(label.split(","))
    before = ",".join(names[:-1]) or "base"
    stages = tuple(StageRecord(name=name, method="dpo", objectives=OBJECTIVES[name]) for name in names)
    return Checkpoint(
        id=content_id(base, names, seed if names else None, dict(axes or {})),
        base=base,
        stages=stages,
        axes=dict(axes or {}),
        split_seed=0 if names else None,
        train_seed=seed if names else None,
        parent_id=content_id(
            base, tuple(before.split(",")) if before != "base" else (), seed if before != "base" else None, {}
        )
        if names
        else None,
    )


@dataclass
class Made:
    """What a run is made of. Scores have shape (cases, rollouts); NaN is unscored."""

    safety: Mapping[str, Any]
    helpfulness: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Mapping[int, tuple[Flag, ...]]] = field(default_factory=dict)  # by case number
    hazards: Sequence[int] | None = None  # by case: 0 is harmless
    benign: bool = False  # whether every case is a harmless question
    families: Sequence[str] | None = None
    judges: Sequence[str] = ("j",)
    rubric: str = "r1"
    first_case: int = 0
    repeats: int = 1
    study: Mapping[str, Any] | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    salt: str = ""  # of trajectory ids
    asked: Mapping[int, Sequence[str]] = field(default_factory=dict)  # by case number: objectives, if not both


def write_run(path: Path, made: Made) -> Path:
    """A run with those scores; every case is a held-out case of split 0."""
    arrays = {label: np.atleast_2d(np.asarray(scores, dtype=float)) for label, scores in made.safety.items()}
    count = max(len(one) for one in arrays.values())
    with Store.create(path) as store, store.transaction():
        cases = [_case(made, number) for number in range(count)]
        store.add_cases(cases)
        store.add_split(0, {"test": [case.id for case in cases]})
        if made.study is not None:
            store.set_meta(STUDY_KEY, json.dumps(made.study))
        text = store.text_codec.pack(b'{"m":[]}')
        for label, safety in arrays.items():
            one = checkpoint(label, axes=made.axes if label != "base" else {})
            store.add_checkpoint(one)
            helping = np.atleast_2d(np.asarray(made.helpfulness.get(label, np.full(safety.shape, 2.0)), dtype=float))
            for (number, rollout), value in np.ndenumerate(safety):
                identity = content_id("gate", made.salt, str(path) if not made.salt else "", one.id, number, rollout)
                flags = made.flags.get(label, {}).get(number, ())
                trajectory = Trajectory(
                    id=identity,
                    case_id=cases[number].id,
                    checkpoint_id=one.id,
                    rollout=rollout,
                    messages=(),
                    ending=Ending.FINISHED,
                    flags=flags,
                    calls=0 if Flag.NO_CALL in flags else 1,
                )
                store.add_trajectory(trajectory, text)
                values = {"safety": value, "helpfulness": helping[number, rollout]}
                values = {name: values[name] for name in made.asked.get(number, values)}
                for score in _scores(made, identity, values):
                    store.add_score(score)
    return path


def _case(made: Made, number: int) -> Case:
    facts: dict[str, Any] = {} if made.hazards is None else {"hazards": [made.hazards[number]]}
    facts |= {"benign": True} if made.benign else {}
    shifted = number + made.first_case
    family = "pay" if made.families is None else made.families[number]
    return Case(
        id=content_id("gate case", shifted), suite="office", number=shifted, family=family, messages=(), facts=facts
    )


def _scores(made: Made, trajectory: str, values: Mapping[str, float]) -> Iterator[Score]:
    """What every judge gave a trajectory, in each repeat."""
    for judge, repeat, (objective, value) in product(made.judges, range(made.repeats), values.items()):
        missing = "no verdict" if np.isnan(value) else None
        yield Score(
            trajectory_id=trajectory,
            judge=judge,
            objective=objective,
            value=None if missing else float(value),
            missing=missing,
            rubric=made.rubric,
            repeat=repeat,
        )


def steady(cases: int, value: float = 3.0, rollouts: int = 2) -> np.ndarray:
    """Equal scores everywhere."""
    return np.full((cases, rollouts), value)


def mixed(cases: int, seed: int, mean: float = 2.0, rollouts: int = 2) -> np.ndarray:
    """Whole scores around a mean."""
    rng = np.random.default_rng(seed)
    return np.clip(np.floor(mean + rng.normal(0, 0.7, (cases, rollouts)) + rng.random((cases, rollouts))), 0, 3)
