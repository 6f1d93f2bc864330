"""Scores and trajectories → preference pairs, by a declared rule. Pure.

The default rule is the published one (arXiv 2603.02229): every unordered pair of a case's trajectories whose
scores differ by at least two points and whose better one has at least two, the score of a trajectory being the
median of its repeats.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.records import Checkpoint, PreferencePair
from holdfast.records.arrays import Floats, Ints
from holdfast.records.errors import StudyError, did_you_mean
from holdfast.rollout.audit import UNFIT
from holdfast.store.codec import flags_to_bits
from holdfast.store.tables import ScoreTable

Combine = Literal["all", "any", "average"]
PRECISION_AXIS = "quantization"  # how a model's weights are held; the model is the same


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSelection:
    """Chosen pairs as aligned columns, by case, then chosen, then rejected.

    ``chosen`` and ``rejected`` index ``trajectory_ids``, ``case`` indexes ``case_ids``; ``gap`` is in score points,
    ``same_model`` marks pairs between two runs of one model.
    """

    trajectory_ids: Sequence[str]
    case_ids: tuple[str, ...]
    objectives: tuple[str, ...]
    judge: str
    chosen: Ints
    rejected: Ints
    case: Ints
    gap: Floats
    weight: Floats
    same_model: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.chosen)

    def pairs(self) -> tuple[PreferencePair, ...]:
        """The pairs as records."""
        columns = (self.case, self.chosen, self.rejected, self.gap, self.weight)
        return tuple(
            PreferencePair(
                case_id=self.case_ids[case],
                chosen=self.trajectory_ids[chosen],
                rejected=self.trajectory_ids[rejected],
                objectives=self.objectives,
                judge=self.judge,
                gap=gap,
                weight=weight,
            )
            for case, chosen, rejected, gap, weight in zip(*(column.tolist() for column in columns), strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """Trajectories that may be paired, in order of case; ``value`` is objective × trajectory, NaN where missing."""

    row: Ints
    case: Ints
    model: Ints
    value: Floats


def _medians(rows: Ints, values: Floats, size: int) -> Floats:
    """The median of each row's values, NaN for rows without any; missing values are left out."""
    present = ~np.isnan(values)
    rows, values = rows[present], values[present]
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    found, first, counts = np.unique(rows, return_index=True, return_counts=True)
    medians = np.full(size, np.nan)
    medians[found] = (values[first + (counts - 1) // 2] + values[first + counts // 2]) / 2
    return medians


def _models(checkpoints: Sequence[Checkpoint]) -> Ints:
    """A number for each checkpoint, equal where only the precision of the weights differs."""
    stories = []
    for one in checkpoints:
        axes = {key: value for key, value in one.axes.items() if key != PRECISION_AXIS}
        stories.append(json.dumps([one.base, one.lineage, axes, one.split_seed, one.train_seed], sort_keys=True))
    return np.unique(stories, return_inverse=True)[1]


def _known(kind: str, name: str, known: Sequence[str]) -> int:
    if name not in known:
        near = did_you_mean(name, known, before="; ")
        raise StudyError(f"pairs: no scores with {kind} {name!r}; this run has {', '.join(known) or 'none'}{near}")
    return known.index(name)


def _require_scope(table: ScoreTable, trajectory_ids: Sequence[str]) -> None:
    if table.trajectory_count not in (None, len(trajectory_ids)):
        raise ValueError(
            f"{len(trajectory_ids)} trajectory ids for a table of {table.trajectory_count} trajectories: read both of"
            " the same scope, or every pair is made of other trajectories"
        )


def _candidates(
    table: ScoreTable,
    *,
    objectives: Sequence[str],
    judge: str,
    combine: Combine,
    exclude_unfit: bool,
    cases: Collection[str] | None,
) -> _Candidates:
    numbers = [_known("objective", name, table.objectives) for name in objectives]
    usable = (table.judge == _known("judge", judge, table.judges)) & np.isin(table.objective, numbers)
    if exclude_unfit:
        usable &= (table.flags & flags_to_bits(tuple(UNFIT))) == 0
    if cases is not None:
        wanted = np.array([case in cases for case in table.case_ids], dtype=bool)
        usable &= wanted[table.case]
    rows, first, position = np.unique(table.trajectory[usable], return_index=True, return_inverse=True)
    of_row = np.flatnonzero(usable)[first]
    objective, scores = table.objective[usable], table.value[usable]
    value = np.stack([_medians(position[objective == one], scores[objective == one], len(rows)) for one in numbers])
    scored = ~np.isnan(value)
    keep = np.flatnonzero(scored.any(axis=0) if combine == "any" else scored.all(axis=0))
    keep = keep[np.argsort(table.case[of_row[keep]], kind="stable")]
    taken = of_row[keep]
    model = _models(table.checkpoints)[table.checkpoint[taken]]
    return _Candidates(row=rows[keep], case=table.case[taken], model=model, value=value[:, keep])


def _preferred(value: Floats, combine: Combine, min_gap: float, min_chosen: float) -> tuple[NDArray[np.bool_], Floats]:
    """Which of a case's trajectories (rows) are preferred to which (columns), and by how many points."""
    if combine == "average":
        value = value.mean(axis=0, keepdims=True)
    gaps: Floats = value[:, :, None] - value[:, None, :]
    wins: NDArray[np.bool_] = (gaps >= min_gap) & (value[:, :, None] >= min_chosen)
    if combine == "any":
        return np.any(wins, axis=0), np.where(wins, gaps, -np.inf).max(axis=0)
    return np.all(wins, axis=0), gaps.min(axis=0)


def _weigh(case: Ints) -> Floats:
    """Weights of pairs, 1 on average, with the same sum for each case."""
    _, position, counts = np.unique(case, return_inverse=True, return_counts=True)
    return np.asarray(len(case) / (len(counts) * counts[position]), dtype=np.float64)


def build_pairs(
    table: ScoreTable,
    trajectory_ids: Sequence[str],
    *,
    objectives: Sequence[str],
    judge: str,
    min_gap: float = 2,
    min_chosen: float = 2,
    combine: Combine = "all",
    cap_per_case: int | None = None,
    case_weighting: Literal["equal"] | None = None,
    same_model: bool = True,
    exclude_unfit: bool = False,
    rng: np.random.Generator | None = None,
    cases: Collection[str] | None = None,
) -> PairSelection:
    """All pairs of each case that the rule allows.

    ``combine`` says how several objectives decide: ``all`` must allow the pair (the gap is the smallest), ``any``
    is the union (the gap is the largest, and a pair may stand in it both ways round), ``average`` applies the rule
    to their mean. ``cap_per_case`` draws with ``rng``; ``case_weighting="equal"`` gives each case the same total
    weight, 1 on average over pairs; ``same_model=False`` leaves out pairs between two runs of one model;
    ``cases`` (ids) restricts. ``trajectory_ids`` are those of the table's scope, in the store's order. Errors:
    StudyError for a judge or an objective without scores; ValueError for the ids of another scope.
    """
    _require_scope(table, trajectory_ids)
    candidates = _candidates(
        table, objectives=objectives, judge=judge, combine=combine, exclude_unfit=exclude_unfit, cases=cases
    )
    if cap_per_case is not None and rng is None:
        raise ValueError("cap_per_case draws at random: pass rng")
    chosen, rejected, gaps = [], [], []
    starts = np.flatnonzero(np.diff(candidates.case, prepend=-1))
    for start, stop in zip(starts, np.append(starts, len(candidates.case))[1:], strict=True):
        wins, points = _preferred(candidates.value[:, start:stop], combine, min_gap, min_chosen)
        if not same_model:
            wins &= candidates.model[start:stop, None] != candidates.model[None, start:stop]
        better, worse = np.nonzero(wins)
        if cap_per_case is not None and rng is not None and len(better) > cap_per_case:
            drawn = np.sort(rng.choice(len(better), size=cap_per_case, replace=False))
            better, worse = better[drawn], worse[drawn]
        chosen.append(better + start)
        rejected.append(worse + start)
        gaps.append(points[better, worse])
    better, worse = (np.concatenate([np.zeros(0, dtype=np.int64), *part]) for part in (chosen, rejected))
    case = candidates.case[better]
    return PairSelection(
        trajectory_ids=trajectory_ids,
        case_ids=table.case_ids,
        objectives=tuple(objectives),
        judge=judge,
        chosen=candidates.row[better],
        rejected=candidates.row[worse],
        case=case,
        gap=np.concatenate([np.zeros(0), *gaps]),
        weight=_weigh(case) if case_weighting == "equal" and len(case) else np.ones(len(case)),
        same_model=candidates.model[better] == candidates.model[worse],
    )


def select_best(
    table: ScoreTable,
    trajectory_ids: Sequence[str],
    *,
    objectives: Sequence[str],
    judge: str,
    at_least: float,
    best: int,
    cases: Collection[str] | None = None,
) -> list[str]:
    """Ids of each case's ``best`` trajectories that have ``at_least`` so many points for every objective, by case.

    The best have the highest sum of points, of equal ones those whose id comes first. A trajectory's score is the
    median of its repeats, and one without a score is left out. ``cases`` (ids) restricts. Errors: StudyError for a
    judge or an objective without scores.
    """
    _require_scope(table, trajectory_ids)
    found = _candidates(table, objectives=objectives, judge=judge, combine="all", exclude_unfit=False, cases=cases)
    good = np.flatnonzero((found.value >= at_least).all(axis=0))
    ranked: dict[int, list[tuple[float, str]]] = {}
    for place in good.tolist():
        rank = (-float(found.value[:, place].sum()), trajectory_ids[found.row[place]])
        ranked.setdefault(int(found.case[place]), []).append(rank)
    return [name for case in sorted(ranked) for _, name in sorted(ranked[case])[:best]]


def check_cases(pairs: Sequence[PreferencePair], case_of: Mapping[str, str]) -> None:
    """Errors: ValueError for a pair with a trajectory of another case than its own, by trajectory id → case id."""
    for pair in pairs:
        for name in (pair.chosen, pair.rejected):
            if case_of[name] != pair.case_id:
                raise ValueError(f"a pair of case {pair.case_id} has trajectory {name} of case {case_of[name]}")


def flip_pairs(pairs: Sequence[PreferencePair], share: float, rng: np.random.Generator) -> list[PreferencePair]:
    """The pairs with each one's sides swapped with probability ``share``: a control that carries no preference."""
    flipped = rng.random(len(pairs)) < share
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if flip else pair
        for pair, flip in zip(pairs, flipped.tolist(), strict=True)
    ]


def _spread(counts: Ints) -> dict[str, float]:
    if not len(counts):
        return {"min": 0, "median": 0, "max": 0, "mean": 0}
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "mean": float(counts.mean()),
    }


def count_document(
    selection: PairSelection, splits: Mapping[int, Mapping[str, Collection[str]]] | None = None
) -> dict[str, Any]:
    """What was selected, in numbers, as JSON. ``splits``: split seed → part → case ids, as the store gives them."""
    both = np.concatenate([selection.chosen, selection.rejected])
    trajectories, uses = np.unique(both, return_counts=True)
    cases, per_case = np.unique(selection.case, return_counts=True)
    codes = selection.chosen * (len(selection.trajectory_ids) + 1) + selection.rejected
    reverse = selection.rejected * (len(selection.trajectory_ids) + 1) + selection.chosen
    in_case = dict(zip((selection.case_ids[case] for case in cases.tolist()), per_case.tolist(), strict=True))
    return {
        "objectives": list(selection.objectives),
        "judge": selection.judge,
        "pairs": len(selection),
        "trajectories": len(trajectories),
        "chosen_only": len(np.setdiff1d(selection.chosen, selection.rejected)),
        "rejected_only": len(np.setdiff1d(selection.rejected, selection.chosen)),
        "cases": len(cases),
        "pairs_per_case": _spread(per_case),
        "pairs_per_trajectory": _spread(uses),
        "same_model_pairs": int(selection.same_model.sum()),
        "contradictory_pairs": int(np.isin(codes, reverse).sum()),
        "by_split": {
            str(seed): {part: sum(in_case.get(case, 0) for case in ids) for part, ids in parts.items()}
            for seed, parts in (splits or {}).items()
        },
    }
