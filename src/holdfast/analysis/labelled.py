"""How every judge stands to what it scored: whether it labelled what a checkpoint learnt from, and whether it reads
the world's end state.

A judge that labelled the pairs of a stage, or gave its rewards, may share its errors with what it scores. Who labelled
is read of what the run knows: a stage's own record, the pairs themselves, the axis ``pair_judge``, the study. What none
of them says is unknown, and is said to be.
"""

from __future__ import annotations

import contextlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.analysis.roles import MERGE, MERGED, SHARE
from holdfast.judges.state import StateJudge
from holdfast.records import Checkpoint, Labelled, StageRecord
from holdfast.records.checkpoints import DOSE, rank_dose
from holdfast.records.errors import StoreError, StudyError
from holdfast.store import Store
from holdfast.store.origins import FOREIGN
from holdfast.store.places import STATE_KEY
from holdfast.store.tables import ScoreTable
from holdfast.study.kinds import rates_users, reads_state
from holdfast.study.noted import read_noted, read_rewarder
from holdfast.study.stages import FILE, TRAJECTORIES, is_rewarded_by_users
from holdfast.study.tables import RULES

Labellers = frozenset[str] | None  # of one stage; None where the run does not say

PAIR_JUDGE = "pair_judge"
RELATIONS = tuple(Labelled)  # in the order in which a headline takes them
PAIRED = "dpo"  # the method whose stages learn from pairs
UNLABELLED = ("sft", "random", "open")  # methods whose stages learn from no judge
RUBRIC_LENGTH = 32  # of the ids that our own judges give their rubrics; any other says nothing of two judges


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a run knows of who labelled, and of its judges.

    ``stages`` has by checkpoint id the labellers of every stage that learnt from a judge, ``names`` by judge (as a
    score table labels it) the names under which it may have labelled, ``state`` the judges that read the end state.
    """

    stages: Mapping[str, tuple[Labellers, ...]] = field(default_factory=dict)
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    state: frozenset[str] = frozenset()

    def relation(self, judge: str, checkpoint: Checkpoint) -> Labelled:
        """Of how many stages of a checkpoint's lineage a judge labelled the pairs; of a base nothing is known."""
        if not checkpoint.stages:
            return Labelled.UNKNOWN
        mine = self.names.get(judge, frozenset({judge, judge.partition("#")[0]}))
        stages = self.stages.get(checkpoint.id, (None,))
        if not stages:
            return Labelled.NONE
        return join(
            Labelled.UNKNOWN if one is None else Labelled.ALL if mine & one else Labelled.NONE for one in stages
        )

    def reads_state(self, judge: str) -> bool:
        """Whether a judge reads the world's end state."""
        known = judge if judge in self.names else judge.partition("#")[0]
        return known in self.state


def join(relations: Iterable[Labelled]) -> Labelled:
    """The relation to several things together: the same to all, else to some; unknown where it may be either."""
    found = set(relations)
    if Labelled.SOME in found or {Labelled.ALL, Labelled.NONE} <= found:
        return Labelled.SOME
    return found.pop() if len(found) == 1 else Labelled.UNKNOWN


def rank_judge(labelled: Labelled, reads_state: bool) -> int:
    """The place of a judge in the order in which a headline takes it: the one that reads the end state comes first."""
    return 0 if reads_state else 1 + RELATIONS.index(labelled)


def read_labels(store: Store, table: ScoreTable) -> Labels:
    """What a run knows of who labelled what its checkpoints learnt from, and of the judges in its score table."""
    checkpoints = store.checkpoints()
    study: Mapping[str, Any] = {}
    with contextlib.suppress(StoreError):
        study = read_noted(store)
    rewards: dict[str, frozenset[str]] = {}
    with contextlib.suppress(StudyError, ValueError, KeyError, AttributeError, RecursionError):
        if (rewarder := read_rewarder(store)) is not None:
            rules = {name for name, one in _judges(study).items() if one.get("kind") == RULES}
            rewards = {"": frozenset({rewarder.name}), "penalized": frozenset({rewarder.name, *rules})}
    known = _Known(checkpoints=checkpoints, study=study, pairs=store.pair_judges(), rewards=rewards)
    names = dict(zip(table.judges, table.judge_names, strict=True))
    # Who reads the end state is told by the state judge's own rubric, else by what the run says of an earlier one.
    rule = StateJudge().rubric_of("safety")
    proven = {label for (label, _), rubric in table.rubrics.items() if rubric == rule}
    said = {name for name, one in _judges(study).items() if reads_state(one.get("kind"))}
    said = {*json.loads(store.meta(STATE_KEY) or "[]"), *said} - {names[label] for label in proven}
    return Labels(
        stages={one.id: known.labellers(one) for one in checkpoints},
        names=_names_of(table),
        state=frozenset(proven | {label for label, name in names.items() if name in said}),
    )


def merged_from(checkpoints: Sequence[Checkpoint], merge: Checkpoint) -> list[Checkpoint]:
    """The checkpoints that a merge is made of, as far as they are among these; none for what is no merge."""
    of = merge.stages[-1].settings.get(MERGED, ()) if merge.stages else ()
    alike = [one for one in checkpoints if _recipe(one) == _recipe(merge) and one.id != merge.id]
    # A merge takes every lineage at its first dose.
    alike.sort(key=lambda one: (one.id != merge.parent_id, rank_dose(float(one.axes.get(DOSE, 1)))))
    found = []
    for lineage in of if isinstance(of, list | tuple) else ():
        found += [one for one in alike if list(one.lineage) == list(lineage)][:1]
    return found


def _recipe(one: Checkpoint) -> tuple[Any, ...]:
    """Base, seeds and axes, without those that tell checkpoints of one training apart."""
    return (one.base, one.split_seed, one.train_seed, {k: v for k, v in one.axes.items() if k not in (DOSE, SHARE)})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What of a run tells who labelled: its study, the judges of every pair step, and who rewards by kind of reward.

    Any reward is that of the judge that rewards (""), and the rules' too where harm costs.
    """

    checkpoints: Sequence[Checkpoint]
    study: Mapping[str, Any]
    pairs: Mapping[str, frozenset[str]]
    rewards: Mapping[str, frozenset[str]]

    def labellers(self, checkpoint: Checkpoint) -> tuple[Labellers, ...]:
        """The labellers of every stage of a checkpoint that learnt from a judge; a merge has those of its parts."""
        found: list[Labellers] = []
        for stage in checkpoint.stages:
            if stage.method == MERGE:
                parts, wanted = merged_from(self.checkpoints, checkpoint), stage.settings.get(MERGED, ())
                found += [labellers for part in parts for labellers in self.labellers(part)]
                # Of what is not among these checkpoints, nobody is known.
                found += [None] * (len(wanted) - len(parts) if isinstance(wanted, list | tuple) and wanted else 1)
            elif _is_judged(stage):
                found.append(self._of_stage(checkpoint, stage))
        return tuple(found)

    def _of_stage(self, checkpoint: Checkpoint, stage: StageRecord) -> Labellers:
        if is_rewarded_by_users(stage):
            return self.rewards.get(str(stage.settings.get("reward"))) or self.rewards.get("")
        if stage.data is not None and stage.data in self.pairs:
            return self.pairs[stage.data]
        if stage.data is None and stage.method != PAIRED and PAIR_JUDGE not in stage.settings:
            return None  # a method from elsewhere does not say what it learnt from
        named = stage.settings.get(PAIR_JUDGE) or checkpoint.axes.get(PAIR_JUDGE)
        named = named or (self.study.get("pairs") or {}).get("judge")
        # Of several judges the study leaves it to an order that no run keeps.
        readers = [name for name, one in _judges(self.study).items() if not rates_users(one.get("kind"))]
        return frozenset({str(named or readers[0])}) if named or len(readers) == 1 else None


def _is_judged(stage: StageRecord) -> bool:
    """Whether a stage learnt from what a judge of the run said: nobody here labelled what stands in a user's file."""
    data = stage.settings.get("data")
    if data == TRAJECTORIES:
        return True
    return data != FILE and stage.method not in UNLABELLED and stage.data != ""


def _judges(study: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    judges = study.get("judges")
    return {name: one for name, one in judges.items() if isinstance(one, dict)} if isinstance(judges, dict) else {}


def _names_of(table: ScoreTable) -> dict[str, frozenset[str]]:
    """Judge → its own name, and those of judges with the very rubric of one of its own: they are one judge."""
    names = dict(zip(table.judges, table.judge_names, strict=True))
    holders: dict[str, set[str]] = {}
    for (label, _), rubric in table.rubrics.items():
        holders.setdefault(rubric, set()).add(label)
    found = {label: {label, name} for label, name in names.items()}
    for rubric, labels in holders.items():
        ours = {label for label in labels if not names[label].startswith(FOREIGN)}
        if len(rubric) == RUBRIC_LENGTH and set(rubric) <= set(string.hexdigits):
            for label in ours:
                found[label] |= {names[other] for other in ours}
    return {label: frozenset(all_) for label, all_ in found.items()}
