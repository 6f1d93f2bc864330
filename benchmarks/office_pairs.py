"""Office pairs for the benchmarks that train: a taught tiny base, its pairs on training cases and on held-out ones.

A small study is run once and kept under a cache: bases taught as in the quick study, their rollouts on training cases
and on cases with other objects, judged by state. Pairs follow the published rule (gap of 2, chosen at least 2).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import holdfast as hf
from holdfast.models.tiny.model import TinyModel
from holdfast.records import Case, PreferencePair, content_id
from holdfast.runs.build import build
from holdfast.runs.plan.settings import RolloutSettings
from holdfast.store import Store
from holdfast.study.study import Study, load
from holdfast.training.encoding import Chat, Encoded, encode_episode
from holdfast.training.pairs import build_pairs, check_cases

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(tempfile.gettempdir()) / "holdfast-office-pairs"
Part = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficePairs:
    """One base's directory and its pairs for one objective.

    ``encoded`` holds their trajectories by id, ``families`` the family of every case.
    """

    base: Path
    train: tuple[PreferencePair, ...]
    held_out: tuple[PreferencePair, ...]
    encoded: Mapping[str, Encoded]
    families: Mapping[str, str]


def study_of(*, bases: int, test_cases: int, per_case: int) -> Study:
    """The quick study's bases, cases and rollouts with a single step of training, which nothing here uses."""
    settings = load(ROOT / "studies" / "quick.toml").model_dump()
    settings["study"] |= {"name": "office-pairs", "lineages": [["S"]], "train_seeds": [0], "draws": 100}
    settings["model"] |= {"base_seeds": list(range(bases))}
    settings["suite"] |= {"test_cases": test_cases}
    settings["rollouts"] |= {"per_test_case": per_case}
    settings["stages"] = {"S": {"objective": "safety", "steps": 1}}
    # The bases are taught as in the study; what it asks beside its held-out cases is not.
    settings |= {"doses": {}, "attacks": None, "shifts": None}
    settings["probes"] |= {"lineages": ()}
    return Study.model_validate(settings)


def run_study(study: Study, cache: Path) -> Path:
    """The run of the study, made where it is not there; a study with other settings has another directory."""
    return hf.run(study, cache / f"run-{content_id('study', study.settings())}", workers=1).path


def load_pairs(
    study: Study,
    run: Path,
    *,
    base: int,
    objective: str,
    cap: int | None,
    held_out_cap: int | None,
    chat: Chat | None = None,
) -> OfficePairs:
    """One base's pairs for one objective, at most ``cap`` and ``held_out_cap`` a case, drawn at random.

    They are encoded in the base's own chat format, or in that of another model.
    """
    with Store(run) as store:
        checkpoint = next(one for one in store.checkpoints() if one.base == f"tiny-{base}" and not one.stages)
        directory = run / (checkpoint.path or "")
        cases = {case.id: case for case in store.cases()}
        train = _pairs_of(store, _rollout_of(study, checkpoint.id, "train"), objective, cap)
        held_out = _pairs_of(store, _rollout_of(study, checkpoint.id, "test"), objective, held_out_cap)
        encoded = _encode(store, chat or TinyModel.load(directory).chat, cases, (*train, *held_out))
        families = {case.id: case.family for case in cases.values()}
    return OfficePairs(base=directory, train=train, held_out=held_out, encoded=encoded, families=families)


def _rollout_of(study: Study, checkpoint: str, part: Part) -> str:
    """The step that rolled a checkpoint out on a part."""
    return next(
        step.fingerprint
        for step in build(study).steps
        if isinstance(step.settings, RolloutSettings)
        and (step.settings.checkpoint, step.settings.part) == (checkpoint, part)
    )


def _pairs_of(store: Store, rollout: str, objective: str, cap: int | None) -> tuple[PreferencePair, ...]:
    selection = build_pairs(
        store.score_table(step=rollout),
        store.trajectory_ids(step=rollout),
        objectives=(objective,),
        judge="state",
        cap_per_case=cap,
        rng=np.random.default_rng(0),
    )
    return selection.pairs()


def _encode(store: Store, chat: Chat, cases: Mapping[str, Case], pairs: Sequence[PreferencePair]) -> dict[str, Encoded]:
    names = sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)})
    found, case_of = {}, {}
    for trajectory in store.trajectories(names):
        case = cases[trajectory.case_id]
        case_of[trajectory.id] = case.id
        found[trajectory.id] = encode_episode(chat, case.messages, trajectory.messages, case.tools)
    check_cases(pairs, case_of)
    return found
