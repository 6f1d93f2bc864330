"""Which rows stand for what: cells of base × judge × configuration, and contrasts of them.

A contrast is a vector over (objective, row), flat. Its parts are one per base × judge, averaged; within a part,
all configurations are averaged over the same replicates: those that every one of them has.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.panel import Config, Panel, Replicate, Row, config_of
from holdfast.analysis.roles import MERGE, Arm, Roles
from holdfast.rewards import is_midway
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
class Matched:
    """The runs on which configurations are compared within one base and judge.

    ``rows`` holds one row of each configuration for each of the ``replicates`` (a base's row serves every training
    seed of its split). ``left_out`` says in words which replicates are not compared, and for want of what.
    """

    rows: Mapping[Config, tuple[int, ...]]
    replicates: tuple[Replicate, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """``weights`` over all data, and ``by_unit``, the same within each seed (or base): what the claim's ``unit`` is.

    ``units`` names them. ``runs`` is 0 where nothing is left to compare; ``left_out`` says what was not compared.
    """

    weights: Floats
    by_unit: tuple[Floats, ...]
    units: tuple[Hashable, ...]
    unit: str
    bases: int
    runs: int
    left_out: tuple[str, ...]


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
        objectives, rows, cases = self.panel.values.shape
        return self.panel.values.reshape(objectives * rows, cases)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Every base × judge that has rows, sorted, so that draws do not depend on the order of storing."""
        return tuple(sorted({(base, judge) for base, judge, _ in self.cells}))

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        """Every configuration of a checkpoint, scored or not, the base first."""
        found = dict.fromkeys(config for _, _, config in self.cells)
        known = (one for one in self.panel.trajectories.checkpoints if not is_midway(one))
        found |= dict.fromkeys(map(config_of, known))
        return tuple(sorted(found, key=lambda config: (len(config[0]), str(config))))

    @cached_property
    def replicates(self) -> Mapping[str, tuple[Replicate, ...]]:
        """The replicates in which a base has any trained configuration under any judge."""
        found: dict[str, dict[Replicate, None]] = {}
        for (base, _, config), cell in self.cells.items():
            if config != BASE:
                found.setdefault(base, {}).update(dict.fromkeys(cell))
        return {base: tuple(replicates) for base, replicates in found.items()}

    def scored(self, key: Key, config: Config, objectives: Iterable[int]) -> Mapping[Replicate, int]:
        """The replicates of a configuration that have scores on every one of the objectives, with their rows."""
        cell = self.cells.get((*key, config), {})
        wanted = list(objectives)
        return {one: row for one, row in cell.items() if bool(np.isfinite(self.means[wanted, row]).all())}

    @cached_property
    def means(self) -> Floats:
        """Every run's mean: (objectives, rows), NaN where it has no scores."""
        return self.sample.means.reshape(len(self.panel.objectives), len(self.panel.rows))

    def objective(self, name: str) -> int:
        """The objective's number in the panel."""
        return self.panel.objectives.index(name)

    def keys_with(self, configs: Iterable[Config], *objectives: str) -> tuple[Key, ...]:
        """Base × judge keys that have any run of every configuration, and whose judge reads the objectives."""
        wanted = tuple(configs)
        found = (key for key in self.keys if all((*key, config) in self.cells for config in wanted))
        return tuple(key for key in found if self._reads(key[1], objectives))

    def keys_for(self, configs: Iterable[Config], *objectives: str) -> tuple[Key, ...]:
        """Base × judge keys that a comparison of the configurations is about, those that lack some of them too."""
        trained = any(config != BASE for config in configs)
        found = {(judge, config != BASE) for _, judge, config in self.cells}
        judges = sorted({judge for judge, is_trained in found if is_trained or not trained})
        bases = sorted({base for base, _, _ in self.cells})
        return tuple((base, judge) for base in bases for judge in judges if self._reads(judge, objectives))

    def _reads(self, judge: str, objectives: Iterable[str]) -> bool:
        """Whether a judge was asked about every one of the objectives anywhere."""
        read = self._read_by.get(judge, frozenset(self.panel.objectives))
        return all(name in read for name in objectives)

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
        """Every combination of axes of trained configurations, dose apart; a merge's share is none of training."""
        found = dict.fromkeys(
            without_dose(axes) for lineage, axes in self.configs if lineage and self.roles.repairs(lineage) != MERGE
        )
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


def _replicate_in(config: Config, replicate: Replicate) -> Replicate:
    """The replicate's key within a configuration: a base is not trained, so it has no training seed."""
    return (replicate[0], None) if config == BASE else replicate


def match(design: Design, key: Key, configs: Iterable[Config], objectives: Iterable[int]) -> Matched:
    """The replicates of a base × judge in which every configuration has scores on the objectives."""
    wanted, needed = tuple(dict.fromkeys(configs)), tuple(objectives)
    cells = {config: design.scored(key, config, needed) for config in wanted}
    if any(config != BASE for config in wanted):
        known = design.replicates.get(key[0], ())
    else:
        known = tuple(design.cells.get((*key, BASE), ()))
    lacking = {
        one: tuple(config for config in wanted if _replicate_in(config, one) not in cells[config]) for one in known
    }
    kept = tuple(one for one, missing in lacking.items() if not missing)
    return Matched(
        rows={config: tuple(cells[config][_replicate_in(config, one)] for one in kept) for config in wanted},
        replicates=kept,
        left_out=_name_left_out(design, key, lacking or {(None, None): wanted}),
    )


def _name_left_out(design: Design, key: Key, lacking: Mapping[Replicate, tuple[Config, ...]]) -> tuple[str, ...]:
    """Which replicates are left out for want of which configurations, in words."""
    who = key[0] if len({judge for _, judge in design.keys}) == 1 else f"{key[0]} under {key[1]}"
    groups: dict[tuple[Config, ...], list[Replicate]] = {}
    for replicate, missing in lacking.items():
        if missing:
            groups.setdefault(missing, []).append(replicate)
    found = []
    for missing, replicates in groups.items():
        some = f" {_name_replicates(design, replicates)}" if len(replicates) < len(lacking) else ""
        verb = "has" if len(missing) == 1 else "have"
        found.append(f"{who}{some} left out: {', '.join(map(name_config, missing))} {verb} no scores")
    return tuple(found)


def _name_replicates(design: Design, replicates: Sequence[Replicate]) -> str:
    """Replicates for people; the split is named where there is more than one."""
    splits = {row.split_seed for row in design.panel.rows}
    names = []
    for split, seed in replicates:
        parts = [f"split {split}"] if split is not None and (len(splits) > 1 or seed is None) else []
        names.append(" ".join([*parts, *([f"seed {seed}"] if seed is not None else [])]) or "its only run")
    return ", ".join(names)


def name_config(config: Config) -> str:
    """A configuration for people, as in ``S,H dose 4``."""
    return " ".join([",".join(config[0]) or "base", *(f"{key} {value}" for key, value in config[1])])


def contrast(design: Design, objective: int, parts: Sequence[Part], *, needs: Sequence[int] = ()) -> Contrast:
    """The mean of the parts on one objective, overall and within each seed (each base, where bases are random).

    A part without a replicate that has all its configurations is left out. ``needs`` are the objectives that a
    replicate must have scores on, where they are more than the one.
    """
    pairs = [
        (part, match(design, part.key, [config for config, _ in part.terms], needs or (objective,))) for part in parts
    ]
    kept = [(part, matched) for part, matched in pairs if matched.replicates]
    shape = (len(design.panel.objectives), len(design.panel.rows))

    def mean(chosen: Sequence[tuple[Part, Matched]], replicate: Replicate | None) -> Floats:
        found = np.zeros(shape)
        for part, matched in chosen:
            places = range(len(matched.replicates)) if replicate is None else [matched.replicates.index(replicate)]
            for config, coefficient in part.terms:
                for place in places:
                    found[objective, matched.rows[config][place]] += coefficient / (len(chosen) * len(places))
        return found.ravel()

    units: list[Hashable] = list(dict.fromkeys(part.key[0] for part, _ in kept))
    bases, unit = len(units), "bases"
    if bases >= MIN_RANDOM_BASES:
        by_unit = tuple(mean([one for one in kept if one[0].key[0] == base], None) for base in units)
    else:
        trained = any(config != BASE for part in parts for config, _ in part.terms)
        first = kept[0][1].replicates if kept and trained else ()
        shared = [one for one in first if all(one in matched.replicates for _, matched in kept)]
        units, unit = list(shared), "seeds"
        by_unit = tuple(mean(kept, one) for one in shared)
    weights = mean(kept, None)
    return Contrast(
        weights=weights,
        by_unit=by_unit,
        units=tuple(units),
        unit=unit,
        bases=bases,
        runs=int(np.count_nonzero(weights)),
        left_out=tuple(dict.fromkeys(words for _, matched in pairs for words in matched.left_out)),
    )


def compare(
    design: Design, keys: Iterable[Key], configs: Iterable[Config], *objectives: str
) -> tuple[Mapping[Config, list[int]], tuple[str, ...]]:
    """The rows of configurations over keys, each on the same replicates as the others; what was left out, in words."""
    wanted, needed = tuple(configs), [design.objective(name) for name in objectives]
    found = [match(design, key, wanted, needed) for key in keys]
    rows = {config: [row for one in found for row in one.rows[config]] for config in wanted}
    return rows, tuple(dict.fromkeys(words for one in found for words in one.left_out))


def comparable(design: Design, keys: Iterable[Key], configs: Iterable[Config], *objectives: str) -> list[Config]:
    """The configurations that have scores on the objectives anywhere in the keys."""
    needed, chosen = [design.objective(name) for name in objectives], tuple(keys)
    return [config for config in configs if any(design.scored(key, config, needed) for key in chosen)]


def by_base(keys: Sequence[Key]) -> list[tuple[str | None, Sequence[Key]]]:
    """The keys of each base."""
    bases = dict.fromkeys(base for base, _ in keys)
    return [(base, [key for key in keys if key[0] == base]) for base in bases]


def describe_arm(arm: Arm) -> tuple[str | None, tuple[str, ...]]:
    """The unit and the caveats of an arm's estimates; none but for a control."""
    return (FLIPPED, (FLIPPED_CAVEAT,)) if arm.flipped else (None, ())


def over(keys: Iterable[Key], *terms: tuple[Config, float]) -> list[Part]:
    """The same terms for every key."""
    return [Part(key=key, terms=terms) for key in keys]
