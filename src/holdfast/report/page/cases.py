"""The report's list of cases: an index small enough for the page, and the texts in shards beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.records import Case, Checkpoint, Flag
from holdfast.records.arrays import Bools, Ints
from holdfast.report.page.shards import ShardWriter, case_content, trajectory_content
from holdfast.report.words.inert import show_line, trim_text
from holdfast.report.words.labels import FIRST_OBJECTIVE, is_control, name_axes, name_kind, name_lineage
from holdfast.rollout.audit import UNFIT
from holdfast.store import Store
from holdfast.store.cells import own_cases, part_masks, read_cells
from holdfast.store.codec import FLAG_BITS
from holdfast.store.tables import TrajectoryTable

Lineage = tuple[str, ...]
TITLE_CHARACTERS = 160
TRAIN, TEST = 0, 1
# Parts beside the cases to train on and the held-out ones.
BESIDE = {"attack": 2, "shift": 3, "probe": 4, "approval": 5}
# Of each form of attack, kind of shift and dimension of probe, the page holds so many cases with all their episodes.
BESIDE_CASES = 12
USER_CASES = 2  # of each setting, environment and label of simulated users
SCORE_DIGITS = 3


def write_cases(store: Store, folder: Path, colors: Mapping[Lineage, int]) -> dict[str, Any]:
    """Write all shards into ``folder`` and return the index that the page carries.

    Trajectories are read case by case; memory holds one shard and the columns of the run.
    """
    cells = read_cells(store, "all")
    scores, runs = cells.scores, cells.episodes
    ids, cases = store.trajectory_ids(part="all"), {case.id: case for case in store.cases()}
    means = cells.value.reshape(len(ids), len(scores.judges) * len(scores.objectives)).round(SCORE_DIGITS)
    planned = {name: number for number, name in enumerate(store.planned_ids(part="all"))}
    numbers = np.array([planned[name] for name in ids], dtype=np.int64)
    columns = (numbers, runs.checkpoint, runs.rollout, runs.flags, _parts(store, runs, scores.case_ids))
    facts = np.column_stack(columns).tolist()
    order = np.lexsort((numbers, runs.rollout, runs.checkpoint, runs.case))
    order = order[_listed(cases, scores.case_ids, store)[runs.case[order]]]
    groups = np.split(order, np.flatnonzero(np.diff(runs.case[order])) + 1) if len(order) else []
    writer = ShardWriter(folder)
    listed = []
    for rows in sorted(groups, key=lambda rows: _case_key(cases[scores.case_ids[runs.case[rows[0]]]])):
        case = cases[scores.case_ids[runs.case[rows[0]]]]
        entry: dict[str, Any] = {"k": case.number, "u": case.suite, "f": case.family, "t": case_title(case)}
        entry |= {"s": writer.begin_case(case.id, case_content(case)), "i": case.id, "r": []}
        wanted = [ids[row] for row in rows]
        for row, trajectory, judged in zip(rows, store.trajectories(wanted), store.scores_of(wanted), strict=True):
            number, checkpoint, rollout, flags, part = facts[row]
            shard = writer.add(str(number), trajectory_content(trajectory, judged))
            values = [None if np.isnan(value) else value for value in means[row].tolist()]
            entry["r"].append([number, checkpoint, rollout, flags, shard, values, part])
        listed.append(entry)
    writer.close()
    return {
        "shards": [[shard.name, shard.digest] for shard in writer.shards],
        "slots": [[judge, objective] for judge in scores.judges for objective in scores.objectives],
        "objectives": sorted(scores.objectives, key=lambda name: (name != FIRST_OBJECTIVE, name)),
        "flags": [name_kind(flag.value) for flag in FLAG_BITS],
        "flagBits": list(FLAG_BITS.values()),
        "findings": _findings(),
        "checkpoints": _checkpoint_rows(runs.checkpoints, colors),
        "cases": listed,
        "bytes": sum(shard.size for shard in writer.shards),
    }


def _listed(cases: Mapping[str, Case], case_ids: Sequence[str], store: Store) -> Bools:
    """Which cases the page lists: all to train on and held out, and the first of each sort beside them.

    Of simulated users, those to practise on are many and alike, so that they are listed like those held out.
    """
    few = (*BESIDE, "practice")
    beside = {name for parts in store.splits().values() for part in few for name in parts.get(part, ())}
    seen: dict[tuple[object, ...], int] = {}
    listed = np.ones(len(case_ids), dtype=np.bool_)
    for place in sorted(range(len(case_ids)), key=lambda place: _case_key(cases[case_ids[place]])):
        case = cases[case_ids[place]]
        if case.id not in beside:
            continue
        variant = case.facts.get("variant") or {}
        sort = (variant.get("kind"), variant.get("form"), case.facts.get("dimension"), case.facts.get("benign"))
        if "gameable" in case.facts:  # a pair has two ends; practice has no other end
            ends = (case.facts.get("gameable"), case.facts.get("pair") is None)
            sort = (case.facts.get("setting"), case.facts.get("environment"), *ends)
        seen[sort] = seen.get(sort, 0) + 1
        listed[place] = seen[sort] <= (USER_CASES if "gameable" in case.facts else BESIDE_CASES)
    return listed


def _findings() -> list[list[Any]]:
    """What the list of cases can be filtered by: name, words, and masks of flags, one bit of each of which is set."""
    invented = FLAG_BITS[Flag.INVENTED_RESULT] | FLAG_BITS[Flag.INVENTED_MIDWAY]
    masks = {
        "unfit": [sum(FLAG_BITS[flag] for flag in UNFIT)],
        "no_call_and_invented": [FLAG_BITS[Flag.NO_CALL], invented],
        "any_invention": [invented],
        **{flag.value: [bit] for flag, bit in FLAG_BITS.items()},
    }
    return [[name, name_kind(name), found] for name, found in masks.items()]


def _parts(store: Store, runs: TrajectoryTable, case_ids: Sequence[str]) -> Ints:
    """The part of each trajectory's case in its checkpoint's split; all are held out where nothing was split."""
    splits = store.splits()
    own = own_cases(runs.checkpoints, part_masks(splits, case_ids, "test"))
    beside = {name: part for parts in splits.values() for part, ids in parts.items() if part in BESIDE for name in ids}
    apart = np.array([BESIDE[beside[one]] if one in beside else -1 for one in case_ids], dtype=np.int64)
    table = np.where(apart >= 0, apart, np.where(own, TEST, TRAIN))
    return np.asarray(table[runs.checkpoint, runs.case], dtype=np.int64)


def _case_key(case: Case) -> tuple[str, int]:
    return case.suite, case.number


def case_title(case: Case) -> str:
    """The user's first words in a case, on one line, with a count of what is left out.

    Before those of a case that is made of another stands how.
    """
    words = next((message.content for message in case.messages if message.role == "user"), "")
    variant = case.facts.get("variant")
    if isinstance(variant, Mapping):
        words = f"[{variant.get('kind')}: {str(variant.get('form')).replace('_', ' ')}] {words}"
    elif "gameable" in case.facts:
        words = f"[{case.facts.get('setting')}: {'gameable' if case.facts['gameable'] else 'other'} user] {words}"
    kept, left_out = trim_text(show_line(words), TITLE_CHARACTERS)
    return f"{kept} … (+{left_out:,} characters)" if left_out else kept


def _checkpoint_rows(checkpoints: Sequence[Checkpoint], colors: Mapping[Lineage, int]) -> list[dict[str, Any]]:
    number = {checkpoint.id: index for index, checkpoint in enumerate(checkpoints)}
    rows = []
    for checkpoint in checkpoints:
        seeds = [f"split {checkpoint.split_seed}"] if checkpoint.split_seed is not None else []
        seeds += [f"seed {checkpoint.train_seed}"] if checkpoint.train_seed is not None else []
        rows.append(
            {
                "b": show_line(checkpoint.base),
                "l": name_lineage(checkpoint.lineage),
                "a": show_line(" · ".join(part for part in [name_axes(checkpoint.axes), *seeds] if part)),
                "p": number.get(checkpoint.parent_id or "", -1),
                "c": colors.get(checkpoint.lineage, 0),
                "m": int(not is_control(checkpoint)),
            }
        )
    return rows
