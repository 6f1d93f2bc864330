"""Which rows stand for what: cells of base × judge × configuration, and contrasts of them.

A contrast is a vector over (objective, row), flat. Its parts are one per base × judge, averaged; within a part,
each configuration's mean is over its replicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.panel import Config, Panel, Replicate, Row
from holdfast.analysis.roles import Arm, Roles
from holdfast.stats.contrasts import Sample, sample_of

Floats = NDArray[np.float64]
Key = tuple[str, str]  # base, judge
Terms = tuple[tuple[Config, float], ...]

BASE: Config = ((), ())
DOSE = "dose"
FLIPPED = "flipped control"
FLIPPED_CAVEAT = "flipped control: sides of the pairs swapped at random, so there is no gain to keep"
MIN_RANDOM_BASES = 5  # below this the bases are fixed: a claim is about these bases


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A contrast within one base and judge: configurations and their coefficients."""

    key: Key
    terms: Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """``weights`` over all data, and ``by_unit``, the same within each seed (or base): what the claim's ``unit`` is."""

    weights: Floats
    by_unit: tuple[Floats, ...]
    unit: str
    bases: int
    runs: int


@dataclass(frozen=True, kw_only=True)
class Design:
    """The panel's rows by base, judge and configuration; only rows whose judge made the training pairs count."""

    panel: Panel
    cells: Mapping[tuple[str, str, Config], Mapping[Replicate, int]] = field(default_factory=dict)

    @cached_property
    def sample(self) -> Sample:
        """Means and influence of the flat (objective, row) rows."""
        return sample_of(self.flat)

    @cached_property
    def flat(self) -> Floats:
        """Case means as (objectives × rows, cases)."""
        return self.panel.values.reshape(-1, self.panel.values.shape[-1])

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Every base × judge that has rows, sorted, so that draws do not depend on the order of storing."""
        return tuple(sorted({(base, judge) for base, judge, _ in self.cells}))

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        """Every configuration, the base first."""
        found = dict.fromkeys(config for _, _, config in self.cells)
        return tuple(sorted(found, key=lambda config: (len(config[0]), str(config))))

    def objective(self, name: str) -> int:
        """The objective's number in the panel."""
        return self.panel.objectives.index(name)

    def keys_with(self, configs: Iterable[Config], *objectives: str) -> tuple[Key, ...]:
        """Base × judge keys that have every one of the configurations, and whose judge reads the objectives."""
        wanted = tuple(configs)
        found = (key for key in self.keys if all((*key, config) in self.cells for config in wanted))
        return tuple(key for key in found if all(name in self.read_by(key[1]) for name in objectives))

    def read_by(self, judge: str) -> frozenset[str]:
        """The objectives that a judge was asked about anywhere."""
        return self._read_by.get(judge, frozenset(self.panel.objectives))

    @cached_property
    def _read_by(self) -> Mapping[str, frozenset[str]]:
        readings = self.panel.readings
        asked = np.any(readings.asked, axis=0).tolist()
        found = {
            judge: frozenset(name for name, yes in zip(readings.objectives, asked[place], strict=True) if yes)
            for place, judge in enumerate(readings.judges)
        }
        return {judge: names for judge, names in found.items() if names}

    @cached_property
    def core_axes(self) -> tuple[tuple[tuple[str, Any], ...], ...]:
        """Every combination of axes of trained configurations, dose apart."""
        found = dict.fromkeys(without_dose(axes) for lineage, axes in self.configs if lineage)
        return tuple(sorted(found, key=str))

    def main(self, lineage: tuple[str, ...], core: tuple[tuple[str, Any], ...]) -> Config | None:
        """The configuration of a lineage at its smallest dose, or None where there is none."""
        if not lineage:
            return BASE
        found = [config for config in self.configs if config[0] == lineage and without_dose(config[1]) == core]
        return min(found, key=dose_of, default=None)

    @cached_property
    def recipes(self) -> tuple[Config, ...]:
        """The five recipes that the published study compares, at every core axis and the smallest dose."""
        ranked = [(self.roles.rank(lineage), lineage) for lineage in self.lineages]
        ordered = [lineage for _, lineage in sorted((rank, lineage) for rank, lineage in ranked if rank is not None)]
        found = [self.main(lineage, core) for core in self.core_axes for lineage in ordered]
        return tuple(config for config in found if config is not None)

    @property
    def roles(self) -> Roles:
        """What the study's stages are for."""
        return self.panel.roles

    @cached_property
    def lineages(self) -> tuple[tuple[str, ...], ...]:
        """Every trained lineage, by name."""
        return tuple(sorted({lineage for lineage, _ in self.configs if lineage}))

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The pairs of a safety and a helpfulness stage whose persistence can be asked for, controls last."""
        return tuple(self.roles.arms())


def read_design(panel: Panel) -> Design:
    """The design of a panel."""
    cells: dict[tuple[str, str, Config], dict[Replicate, int]] = {}
    for index, row in enumerate(panel.rows):
        if row.matched:
            replicate = _replicate_in(row.config, row.replicate)
            cells.setdefault((row.base, row.judge, row.config), {})[replicate] = index
    return Design(panel=panel, cells=cells)


def without_dose(axes: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """The axes of a configuration but its dose."""
    return tuple((key, value) for key, value in axes if key != DOSE)


def dose_of(config: Config) -> float:
    """The dose of a configuration's last stage; 1 where it has no such axis."""
    return float(dict(config[1]).get(DOSE, 1))


def subject(config: Config) -> dict[str, Any]:
    """A configuration as the fields of an Estimate."""
    return {"lineage": config[0], "axes": dict(config[1])}


def row_subject(row: Row) -> dict[str, Any]:
    """A row as the fields of an Estimate."""
    seeds = {"split_seed": row.split_seed, "train_seed": row.train_seed}
    axes = dict(row.axes) | {name: seed for name, seed in seeds.items() if seed is not None}
    return {"base": row.base, "lineage": row.lineage, "axes": axes, "judge": row.judge}


def levels(keys: Sequence[Key]) -> list[tuple[dict[str, str], tuple[Key, ...]]]:
    """The ways to pool base × judge keys: all, by base, by judge, single; with the fields that each fixes."""
    bases, judges = list(dict.fromkeys(b for b, _ in keys)), list(dict.fromkeys(j for _, j in keys))
    found: list[tuple[dict[str, str], tuple[Key, ...]]] = [({}, tuple(keys))] if keys else []
    found += [({"base": base}, tuple(key for key in keys if key[0] == base)) for base in bases]
    if len(judges) > 1:
        found += [({"judge": judge}, tuple(key for key in keys if key[1] == judge)) for judge in judges]
        found += [({"base": base, "judge": judge}, ((base, judge),)) for base, judge in keys]
    return found


def _fill(design: Design, target: Floats, part: Part, *, scale: float, replicate: Replicate | None) -> None:
    for config, coefficient in part.terms:
        cell = design.cells[(*part.key, config)]
        picked = list(cell.values()) if replicate is None else [cell[_replicate_in(config, replicate)]]
        for row in picked:
            target[row] += scale * coefficient / len(picked)


def _replicate_in(config: Config, replicate: Replicate) -> Replicate:
    """The replicate's key within a configuration: a base is not trained, so it has no training seed."""
    return (replicate[0], None) if config == BASE else replicate


def replicates(design: Design, parts: Sequence[Part]) -> tuple[Replicate, ...]:
    """The replicates that every part has for every trained configuration; none where nothing is trained."""
    shared: dict[Replicate, None] | None = None
    for part in parts:
        for config, _ in part.terms:
            if config != BASE:
                cell = design.cells[(*part.key, config)]
                shared = {one: None for one in (cell if shared is None else shared) if one in cell}
    bases = [design.cells[(*part.key, BASE)] for part in parts if any(config == BASE for config, _ in part.terms)]
    return tuple(one for one in shared or {} if all((one[0], None) in cell for cell in bases))


def contrast(design: Design, objective: int, parts: Sequence[Part]) -> Contrast:
    """The mean of the parts on one objective, overall and within each seed (each base, where bases are random)."""
    count = len(design.panel.rows)

    def mean(chosen: Sequence[Part], replicate: Replicate | None) -> Floats:
        found = np.zeros((len(design.panel.objectives), count))
        for part in chosen:
            _fill(design, found[objective], part, scale=1 / len(chosen), replicate=replicate)
        return found.ravel()

    bases = list(dict.fromkeys(part.key[0] for part in parts))
    weights = mean(parts, None)
    if len(bases) >= MIN_RANDOM_BASES:
        unit = "bases"
        by_unit = tuple(mean([part for part in parts if part.key[0] == base], None) for base in bases)
    else:
        unit = "seeds"
        by_unit = tuple(mean(parts, replicate) for replicate in replicates(design, parts))
    return Contrast(weights=weights, by_unit=by_unit, unit=unit, bases=len(bases), runs=int(np.count_nonzero(weights)))


def describe_arm(arm: Arm) -> tuple[str | None, tuple[str, ...]]:
    """The unit and the caveats of an arm's estimates; none but for a control."""
    return (FLIPPED, (FLIPPED_CAVEAT,)) if arm.flipped else (None, ())


def over(keys: Iterable[Key], *terms: tuple[Config, float]) -> list[Part]:
    """The same terms for every key."""
    return [Part(key=key, terms=terms) for key in keys]
