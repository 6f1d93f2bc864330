"""Whether the numbers can be trusted: agreement of judges, and what the audit found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.design import Design, subject
from holdfast.analysis.panel import Panel, config_of
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Estimate, Flag
from holdfast.stats.agreement import agree, case_intervals, correlation
from holdfast.stats.resample import row_means
from holdfast.store.codec import FLAG_BITS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

AGREEMENT, AUDIT = "agreement", "audit"
ALL_RECORDS, TEST_EVALUATIONS = "all records", "test evaluations"
UNDEFINED = "not defined: nothing to compare, or no variation"
INVENTED = FLAG_BITS[Flag.INVENTED_RESULT] | FLAG_BITS[Flag.INVENTED_MIDWAY]


def lineage_name(lineage: tuple[str, ...]) -> str:
    """A lineage for people."""
    return "→".join(lineage) or "base"


def agreement_rows(panel: Panel) -> Iterator[Estimate]:
    """Agreement of every two judges on the trajectories that both scored: overall and by lineage, per objective."""
    readings = panel.readings
    lineages = [checkpoint.lineage for checkpoint in panel.trajectories.checkpoints]
    kinds = sorted(set(lineages), key=lambda lineage: (len(lineage), lineage))
    number = np.array([kinds.index(lineage) for lineage in lineages], dtype=np.int64)
    owner = number[panel.trajectories.checkpoint] if len(number) else np.zeros(0, dtype=np.int64)
    for first, second in combinations(range(len(readings.judges)), 2):
        judge = f"{readings.judges[first]} × {readings.judges[second]}"
        for objective, name in enumerate(readings.objectives):
            one, two = readings.value[:, first, objective], readings.value[:, second, objective]
            both = np.isfinite(one) & np.isfinite(two)
            present = [kinds[index] for index in np.unique(owner[both])]
            caveats = _overlap_caveats(present, kinds)
            groups = [(None, both)] + [(kinds[index], both & (owner == index)) for index in np.unique(owner[both])]
            for lineage, mask in groups:
                about = {"judge": judge, "objective": name, "lineage": lineage, "estimator": AGREEMENT}
                about |= {"n": {"trajectories": int(mask.sum())}, "caveats": caveats if lineage is None else ()}
                yield from _agreement(one[mask], two[mask], panel.trajectories.case[mask], about)
    yield from _objective_correlations(panel)


def _overlap_caveats(present: list[tuple[str, ...]], kinds: list[tuple[str, ...]]) -> tuple[str, ...]:
    if not present:
        return ("no trajectory was scored by both judges",)
    if len(present) < len(kinds):
        return (f"both judges scored the same trajectories only for: {', '.join(map(lineage_name, present))}",)
    return ()


def _agreement(one: Floats, two: Floats, cases: NDArray[np.int64], about: dict[str, Any]) -> Iterator[Estimate]:
    intervals = case_intervals(one, two, cases)
    about = about | {"n": about["n"] | {"cases": len(np.unique(cases))}}
    for kind, value in agree(one, two).items():
        reason = () if value is not None else (UNDEFINED,)
        interval = intervals.get(kind) if value is not None else None
        random = ("cases",) if interval is not None else ()
        words = about | {"caveats": (*about["caveats"], *reason)}
        yield Estimate(kind=kind, value=value, interval=interval, resampled=random, **words)


def _objective_correlations(panel: Panel) -> Iterator[Estimate]:
    """Each judge's mean, and the correlation of safety and helpfulness over the trajectories it scored."""
    readings = panel.readings
    for index, judge in enumerate(readings.judges):
        for objective, name in enumerate(readings.objectives):
            found = readings.value[:, index, objective]
            found = found[np.isfinite(found)]
            if len(found):
                yield Estimate(
                    kind="judge_mean",
                    estimator=AGREEMENT,
                    value=float(found.mean()),
                    judge=judge,
                    objective=name,
                    n={"trajectories": len(found)},
                )
        if {SAFETY, HELPFULNESS} <= set(readings.objectives):
            x, y = (readings.value[:, index, readings.objectives.index(name)] for name in (HELPFULNESS, SAFETY))
            both = np.isfinite(x) & np.isfinite(y)
            value = correlation(x[both], y[both]) if both.any() else None
            yield Estimate(
                kind="objective_correlation",
                estimator=AGREEMENT,
                value=value,
                judge=judge,
                unit=f"{SAFETY} × {HELPFULNESS}",
                n={"trajectories": int(both.sum())},
                caveats=() if value is not None else (UNDEFINED,),
            )


# --- audit ------------------------------------------------------------------------------------------------------


def _findings(flags: NDArray[np.int64], unfit: Iterable[Flag]) -> dict[str, Bools]:
    """What is counted, by name, for each trajectory."""
    found = {flag.value: (flags & bit) > 0 for flag, bit in FLAG_BITS.items()}
    found["no_call_and_invented"] = found[Flag.NO_CALL.value] & found[Flag.INVENTED_RESULT.value]
    found["any_invention"] = (flags & INVENTED) > 0
    found["unfit"] = (flags & sum(FLAG_BITS[flag] for flag in unfit)) > 0
    return found


def _groups(panel: Panel) -> Iterator[tuple[dict[str, Any], Bools]]:
    """Overall, by base, by configuration, by both: the fields fixed, and a mask over checkpoints."""
    checkpoints = panel.trajectories.checkpoints
    configs = [config_of(one) for one in checkpoints]
    bases = list(dict.fromkeys(one.base for one in checkpoints))
    ordered = sorted(set(configs), key=lambda config: (len(config[0]), str(config)))
    yield {}, np.ones(len(checkpoints), dtype=np.bool_)
    of_base = {base: np.array([one.base == base for one in checkpoints]) for base in bases}
    of_config = {config: np.array([one == config for one in configs]) for config in ordered}
    for base in bases:
        yield {"base": base}, of_base[base]
    for config in ordered:
        yield subject(config), of_config[config]
        for base in bases:
            both = of_config[config] & of_base[base]
            if both.any():
                yield {"base": base, **subject(config)}, both


def rate_rows(panel: Panel, unfit: Iterable[Flag]) -> Iterator[Estimate]:
    """The share and count of trajectories with each finding, and of executed calls, by group and unit."""
    table = panel.trajectories
    if not len(table.trajectory):
        return
    names, found = zip(*_findings(table.flags, unfit).items(), strict=True)
    columns = np.stack([*found, table.calls]).astype(np.float64)
    count = len(table.checkpoints)
    for unit, mask in ((ALL_RECORDS, np.ones_like(panel.tested)), (TEST_EVALUATIONS, panel.tested)):
        owner = table.checkpoint[mask]
        sizes = np.bincount(owner, minlength=count)
        sums = np.stack([np.bincount(owner, weights=column[mask], minlength=count) for column in columns])
        for fields, group in _groups(panel):
            size = int(sizes[group].sum())
            if size:
                for kind, total in zip((*names, "calls"), sums[:, group].sum(axis=1), strict=True):
                    n = {"count": int(total), "trajectories": size}
                    yield Estimate(kind=kind, estimator=AUDIT, value=total / size, unit=unit, n=n, **fields)


def coverage_rows(design: Design) -> Iterator[Estimate]:
    """Means with and without unfit trajectories, their worst-case bounds, and coverage, at every level."""
    panel = design.panel
    arrays = {
        "mean": panel.values,
        "mean_fit_only": panel.fit,
        "mean_lower_bound": panel.low,
        "mean_upper_bound": panel.high,
    }
    means = {kind: row_means(values) for kind, values in arrays.items()}
    for config in design.configs:
        for objective, name in enumerate(panel.objectives):
            for fields, keys, *_ in design.levels([config], name, strict=True):
                rows = [row for key in keys for row in design.cells[(*key, config)].values()]
                about = {**fields, **subject(config), "objective": name, "estimator": AUDIT}
                for kind, found in means.items():
                    yield _pooled_mean(found[objective, rows], kind, about)
                asked = int(panel.counts["asked"][objective, rows].sum())
                for unit in ("finished", "judged", "fit"):
                    count = int(panel.counts[unit][objective, rows].sum())
                    n = {"count": count, "scores": asked}
                    share = {"value": count / asked} if asked else {"value": None, "caveats": ("nothing was asked",)}
                    yield Estimate(kind="coverage", unit=unit, n=n, **share, **about)


def _pooled_mean(found: Floats, kind: str, about: dict[str, Any]) -> Estimate:
    """The mean of the run means that exist."""
    there = found[np.isfinite(found)]
    caveats = (
        () if len(there) == len(found) else (f"without such a score: {len(found) - len(there)} of {len(found)} runs",)
    )
    value = float(there.mean()) if len(there) else None
    return Estimate(kind=kind, value=value, n={"runs": len(there)}, caveats=caveats, **about)
