"""Small runs in a store with scores and no texts: the shape of the embedded study, and broken shapes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.records import Case, Checkpoint, Ending, Flag, Score, StageRecord, Trajectory, content_id
from holdfast.store import Store

GOALS = {"S": ("safety",), "H": ("helpfulness",), "S&H": ("safety", "helpfulness")}
GOALS |= {"F": GOALS["S"], "N": GOALS["H"]}
VALUES = ("value", "interval")  # what of a row of a document is a number that was estimated
FLIPPED = ("F", "N")  # controls: half of the pairs have their sides swapped
LINEAGES: dict[tuple[str, ...], tuple[int, ...]] = {  # lineage → doses of its last stage
    ("S",): (1,),
    ("H",): (1,),
    ("S", "H"): (1, 2, 4),
    ("H", "S"): (1, 2, 4),
    ("S&H",): (1, 2),
    ("S", "S"): (1,),
    ("H", "H"): (1,),
    ("S", "N"): (1,),
    ("N",): (1,),
    ("F",): (1,),
    ("F", "N"): (1,),
    ("N", "F"): (1,),
}
MEANS = {(): (1.0, 2.2), ("S",): (2.2, 1.4), ("H",): (0.9, 2.6), ("S&H",): (1.9, 2.1), ("S", "S"): (2.3, 1.3)}
MEANS |= dict.fromkeys((("F",), ("F", "N"), ("N", "F")), (1.0, 2.2))
MEANS |= {("H", "H"): (0.8, 2.7), ("S", "N"): (2.1, 1.4), ("N",): (1.0, 2.2), ("H", "S"): (2.0, 1.7)}


def checkpoint(base: str, lineage: tuple[str, ...], dose: int, seed: int | None) -> Checkpoint:
    """A checkpoint of the embedded study; its parent is the lineage without its last stage at dose 1."""
    stages = tuple(
        StageRecord(
            name=name,
            method="dpo",
            objectives=GOALS[name],
            settings={"flip": 0.5 if name in FLIPPED else 0.0},
            steps=40 * dose,
            pairs=1280 * dose,
        )
        for name in lineage
    )
    parent = None
    if lineage:
        before = lineage[:-1]
        parent = content_id(base, before, 1 if before else 0, seed if before else None)
    return Checkpoint(
        id=content_id(base, lineage, dose, seed),
        base=base,
        stages=stages,
        axes={"dose": dose} if lineage else {},
        split_seed=0,
        train_seed=seed,
        parent_id=parent,
    )


def quick_checkpoints(bases: Iterable[str], seeds: Iterable[int]) -> list[Checkpoint]:
    """Every checkpoint of the embedded study."""
    found = []
    for base in bases:
        found.append(checkpoint(base, (), 0, None))
        found += [
            checkpoint(base, one, dose, seed) for one, doses in LINEAGES.items() for dose in doses for seed in seeds
        ]
    return found


def expected(one: Checkpoint, objective: str) -> float:
    """The true mean score: a later stage of the other goal erodes with its dose."""
    dose = one.axes.get("dose", 1)
    safety, helpfulness = MEANS.get(one.lineage, (2.2 - 0.15 * dose, 1.4 + 0.15 * dose))
    return safety if objective == "safety" else helpfulness


def write_study(
    path: Path,
    checkpoints: Iterable[Checkpoint],
    *,
    tests: int,
    train: int = 4,
    rollouts: int = 2,
    score: Callable[[Checkpoint, str, np.random.Generator], float | None] | None = None,
    cases_of: Callable[[Checkpoint], Iterable[int]] | None = None,
    judges: tuple[str, ...] = ("state",),
) -> Store:
    """A store with one trajectory per checkpoint × case × rollout and one score per judge and objective."""
    rng = np.random.default_rng(7)
    store = Store.create(path)
    cases = [
        Case(id=content_id("case", n), suite="office", number=n, family="pay", messages=())
        for n in range(tests + train)
    ]
    text = store.text_codec.pack(b'{"m":[]}')

    def usual(one: Checkpoint, objective: str, rng: np.random.Generator) -> float | None:
        return float(np.clip(np.floor(expected(one, objective) + rng.random()), 0, 3))

    with store.transaction():
        store.add_cases(cases)
        store.add_split(0, {"test": [c.id for c in cases[:tests]], "train": [c.id for c in cases[tests:]]})
        for one in checkpoints:
            store.add_checkpoint(one)
            for number in cases_of(one) if cases_of else range(tests if one.lineage else tests + train):
                for rollout in range(rollouts):
                    identity = content_id(one.id, number, rollout)
                    stopped = one.lineage == ("S&H",) and number % 5 == 0
                    trajectory = Trajectory(
                        id=identity,
                        case_id=cases[number].id,
                        checkpoint_id=one.id,
                        rollout=rollout,
                        messages=(),
                        ending=Ending.TRUNCATED if stopped else Ending.FINISHED,
                        flags=(Flag.TRUNCATED,) if stopped else (),
                        calls=0 if one.lineage == ("H", "H") else 2,
                        tokens=20 if one.lineage == ("S", "S") else 40,
                    )
                    store.add_trajectory(trajectory, text)
                    for judge in judges:
                        for objective in ("safety", "helpfulness"):
                            value = (score or usual)(one, objective, rng)
                            missing = None if value is not None else "no verdict"
                            store.add_score(
                                Score(
                                    trajectory_id=identity,
                                    judge=judge,
                                    objective=objective,
                                    value=value,
                                    missing=missing,
                                )
                            )
    return store


def assert_alike(first: list[Any], second: list[Any]) -> None:
    """Two lists of rows say the same of the same things, to nine digits."""
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert {key: one[key] for key in one if key not in VALUES} == {
            key: two[key] for key in two if key not in VALUES
        }
        for name in VALUES:
            if isinstance(one[name], dict) or one[name] is None:
                assert one[name] == two[name]
            else:
                assert one[name] == pytest.approx(two[name], abs=1e-9)
