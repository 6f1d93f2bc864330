"""The runs that are joined: opened, held to be finished runs of one study, and the study of all their seeds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from holdfast.records.errors import StudyError, refuse, require
from holdfast.records.version import VERSION
from holdfast.records.words import count_noun
from holdfast.runs.build import build
from holdfast.runs.plan.settings import JudgeSettings
from holdfast.runs.plan.step import Plan
from holdfast.store import Store
from holdfast.store.database import hold_still
from holdfast.store.places import MACHINES_KEY, STUDY_KEY
from holdfast.store.steplog import PLAN_KEY, StepStatus
from holdfast.study.noted import read_noted
from holdfast.study.study import Study, changed_keys, without_places

SEEDS = ("study.train_seeds", "model.base_seeds", "axes.split_seed")  # keys of a study in which joined runs may differ
NAMED = 3  # steps or keys in one line


@dataclass(slots=True, kw_only=True)
class Member:
    """A run that is to be joined, open to read, with its study and plan as this version makes them."""

    path: Path
    store: Store
    study: Study
    plan: Plan
    settings: Mapping[str, Any]
    status: Mapping[str, StepStatus]
    # Found while steps are shared out:
    taken: dict[str, str] = field(default_factory=dict)  # steps by fingerprint, with their names in the joined run
    alike: set[str] = field(default_factory=set)  # steps whose records in the joined run are its own or equal
    equal: int = 0
    begun: int = 0  # steps that it has not finished, or no more than another run, and that come from that
    left: dict[str, int] = field(default_factory=dict)  # by step, how many records differ and are left out

    def is_done(self, fingerprint: str) -> bool:
        """Whether it has finished a step."""
        return fingerprint in self.status and self.status[fingerprint].status == "done"

    @property
    def machines(self) -> list[dict[str, str]]:
        """Where its steps were carried out; empty where it was made by a version that did not note that."""
        found: list[dict[str, str]] = json.loads(self.store.meta(MACHINES_KEY) or "[]")
        return found

    @property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """Its seeds by their key in the study."""
        found = {key: _value(self.settings, key) for key in SEEDS}
        return {key: tuple(values) for key, values in found.items() if values}


def check_places(runs: Sequence[Path], output: Path, shared: Path | None) -> list[Path]:
    """The runs, first the one whose shared steps stand. Errors: StudyError for one run, or the same twice."""
    require(len(runs) > 1, f"join: {count_noun(len(runs), 'runs')} given; name two or more runs of one study")
    require(not (output.exists() or output.is_symlink()), f"{output}: is there already; choose another output")
    for one, other in combinations(runs, 2):
        if one.resolve() == other.resolve():
            refuse(f"join: {other}", f"is the same directory as {one}", "name each run once")
    if shared is None:
        return list(runs)
    first = [run for run in runs if run.resolve() == shared.resolve()]
    require(bool(first), f"--shared {shared}: is none of the runs that are joined; name one of them")
    return [*first, *(run for run in runs if run not in first)]


def open_member(path: Path, opened: contextlib.ExitStack) -> Member:
    """A run and its plan, held still until the block ends. Errors: StoreError, StudyError."""
    opened.enter_context(hold_still(path))
    store = opened.enter_context(Store(path))
    if not store.sealed:
        refuse(
            path,
            "was written by an earlier version, without digests of its rows",
            f"join a copy that has them: `holdfast export {path} --to run -o NEW`",
        )
    if store.meta(STUDY_KEY) is None:
        refuse(path, "holds no study's run (an import, or traces of a watch)", "join runs of `holdfast run`")
    noted = json.loads(store.meta(PLAN_KEY) or "null")
    if noted is None:
        refuse(
            path,
            "notes no plan (the run of a search, or of an earlier version)",
            f"a search's cannot be joined; for another repeat `holdfast run STUDY -o {path}` first",
        )
    status = store.log.steps()
    try:
        study = Study.model_validate(read_noted(store))
        study = _as_noted(study, noted)
        plan = build(study)
    except StudyError as error:
        raise StudyError(f"{path}: its study cannot be read here: {error}") from error
    if not study.study.lineages:
        refuse(path, "trains nothing (a gate's own run, or an evaluation)", "join runs whose studies have lineages")
    settings = json.loads(json.dumps(study.settings()))
    member = Member(path=path, store=store, study=study, plan=plan, settings=settings, status=status)
    _check_version(member, noted)
    return member


def _as_noted(study: Study, noted: Sequence[str]) -> Study:
    """A study with its judges in the order in which its run's plan asks them, by which the first makes pairs.

    A run does not keep it otherwise.
    """
    judge_of = {
        step.fingerprint: step.settings.judge for step in build(study).steps if isinstance(step.settings, JudgeSettings)
    }
    asked = dict.fromkeys(judge_of[name] for name in noted if name in judge_of)
    order = [*(name for name in asked if name in study.judges), *(name for name in study.judges if name not in asked)]
    return study.model_copy(update={"judges": {name: study.judges[name] for name in order}})


def _check_version(member: Member, noted: Sequence[str]) -> None:
    """Raise StudyError where a run's steps are not those that this version plans, or others stand beside them."""
    planned = {step.fingerprint for step in member.plan.steps}
    if other := planned ^ set(noted):
        made = sorted({one.get("holdfast", "?") for one in member.machines})
        by = f", which holdfast {', '.join(made)} carried out" if made else ""
        refuse(
            member.path,
            f"its plan{by}, is not the one that holdfast {VERSION} makes of its study"
            f" ({count_noun(len(other & planned), 'steps')} of {len(planned)} differ)",
            "join it with the version that made it (and its suites and judges), or run the study again",
        )
    strays = [one for name, one in member.status.items() if name not in planned and one.kind != "analyze"]
    if strays:
        refuse(
            member.path,
            f"holds {count_noun(len(strays), 'steps')} that are not of its study (first: {strays[0].name}), left by"
            " another version",
            f"take what is of it into a new run: `holdfast run STUDY -o {member.path} --fork NEW`",
        )


def check_copies(members: Sequence[Member]) -> None:
    for one, other in combinations(members, 2):
        if one.store.digest() == other.store.digest():
            refuse(f"join: {other.path}", f"is a copy of {one.path} (the same digest)", "name each run once")


def check_cases(members: Sequence[Member]) -> None:
    """Raise StudyError where two runs have other cases in a split of the same seed."""
    for one, other in combinations(members, 2):
        mine, theirs = one.store.splits(), other.store.splits()
        for seed in sorted(mine.keys() & theirs.keys()):
            if mine[seed] != theirs[seed]:
                refuse(
                    other.path,
                    f"has other cases than {one.path} in split {seed}, as another version of the suite makes them",
                    "carry out both with one version",
                )


def join_studies(members: Sequence[Member]) -> Study:
    """The study of all seeds. Errors: StudyError where the studies differ otherwise, or two runs have one seed."""
    first = members[0]
    for other in members[1:]:
        if changes := changed_keys(_without_seeds(first.settings), _without_seeds(other.settings)):
            told = "; ".join(changes[:NAMED]) + (f" and {len(changes) - NAMED} more" if changes[NAMED:] else "")
            split = any(change.startswith("suite.split_seed") for change in changes)
            hint = " (splits that are to be joined stand in axes.split_seed)" if split else ""
            refuse(
                other.path,
                f"is of another study than {first.path}: {told}",
                f"join runs whose studies differ in {', '.join(SEEDS)} alone{hint}",
            )
    for one, other in combinations(members, 2):
        both = {key: sorted({*one.seeds[key]} & {*other.seeds[key]}) for key in one.seeds}
        if all(both.values()):
            told = ", ".join(f"{key} {', '.join(map(str, values))}" for key, values in both.items())
            refuse(other.path, f"has seeds that {one.path} has too ({told})", "join runs of other seeds")
    settings = json.loads(json.dumps(first.settings))
    settings["judges"] = {name: settings["judges"][name] for name in first.study.judges}
    for key in first.seeds:
        table, name = key.split(".")
        settings[table][name] = sorted({seed for member in members for seed in member.seeds[key]})
    try:
        return Study.model_validate(settings)
    except StudyError as error:
        raise StudyError(f"join: the study of all seeds is none: {error}") from error


def _without_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(without_places(settings)))
    for key in SEEDS:
        table, name = key.split(".")
        if name in found[table]:
            found[table][name] = "joined"
    return found


def _value(settings: Mapping[str, Any], key: str) -> Sequence[int]:
    table, name = key.split(".")
    found: Sequence[int] = settings[table].get(name, ())
    return found


def check_plans(members: Sequence[Member], plan: Plan, partial: bool) -> None:
    """Raise StudyError for steps that a study of all seeds has otherwise, or, unless ``partial``, that are missing."""
    planned = {step.fingerprint: step for step in plan.steps}
    for member in members:
        own = [step for step in member.plan.steps if step.kind != "analyze"]
        if other := [step for step in own if step.fingerprint not in planned]:
            refuse(
                member.path,
                f"{count_noun(len(other), 'steps')} would be others in a study of all seeds (first: {other[0].name}),"
                " for there a step of one seed needs what another seed makes",
                "carry out the study of all seeds in one run",
            )
        lacking = [step for step in own if not member.is_done(step.fingerprint)]
        failed = [step for step in lacking if step.fingerprint in member.status]
        if lacking and not partial:
            first = (failed or lacking)[0]
            state = member.status[first.fingerprint].status if failed else "not begun"
            refuse(
                member.path,
                f"{len(lacking)} of {len(own)} steps are not done (first: {first.name}, {state})",
                f"finish it with `holdfast run STUDY -o {member.path}`, or add --partial to join what is there",
            )
    known = {step.fingerprint for member in members for step in member.plan.steps}
    gaps = [step for step in plan.steps if step.kind != "analyze" and step.fingerprint not in known]
    if gaps and not partial:
        refuse(
            "join",
            f"{count_noun(len(gaps), 'steps')} of the study of all seeds are in none of the runs, for not every"
            f" combination of their seeds was carried out (first: {gaps[0].name})",
            "add the runs that lack, or add --partial to join what is there and to run the rest later",
        )
