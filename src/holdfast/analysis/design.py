"""Which rows stand for what: cells of base × recipe × judge × configuration, and contrasts of them.

A contrast is a vector over (objective, row), flat. Its parts are one per key (base, labeller, judge), averaged; within
a part, all configurations are averaged over the same replicates: those that every one of them has. Keys are pooled over
judges only where each of them scored recipes of its own (``Design.levels``): two judges of the same checkpoints are
never averaged, but stand beside each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from holdfast.analysis.labelled import PAIR_JUDGE, join, rank_judge
from holdfast.analysis.panel import Axes, Config, Panel, Replicate, Row, config_of
from holdfast.analysis.roles import MERGE, Arm, Roles
from holdfast.records import Checkpoint, Labelled
from holdfast.records.arrays import Bools, Floats
from holdfast.records.checkpoints import DOSE, rank_dose
from holdfast.stats.contrasts import Sample, sample_of
from holdfast.study.stages import EXTERNAL, is_midway

Terms = tuple[tuple[Config, float], ...]

BASE: Config = ((), ())
FLIPPED = "flipped control"
FLIPPED_CAVEAT = "flipped control: sides of the pairs swapped at random, so there is no gain to keep"
MIN_RANDOM_BASES = 5  # below this the bases are fixed: a claim is about these bases


class Key(NamedTuple):
    """Rows that are compared with each other: one base, one recipe of labels, one judge.

    ``labeller`` is the judge whose scores made the pairs, where the axis ``pair_judge`` makes recipes of it, else
    empty. A base belongs to every recipe that is compared with it.
    """

    base: str
    labeller: str
    judge: str


Span = Literal["all", "base", "judge", "cell"]


class Level(NamedTuple):
    """Keys that are pooled, with the fields of an Estimate about them, and what they span of their group's keys.

    ``averaged`` says that judges of the same checkpoints are among them, as only the published estimator has it.
    """

    fields: Mapping[str, Any]
    keys: tuple[Key, ...]
    span: Span
    averaged: bool = False


class Part(NamedTuple):
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

    ``units`` names them. ``cells`` are the parts of the contrast that share no trained checkpoint with each other, each
    within each unit; they add up to it. They are empty for bases. ``runs`` is 0 where nothing is left to compare;
    ``left_out`` says what was not compared.
    """

    weights: Floats
    by_unit: tuple[Floats, ...]
    units: tuple[Hashable, ...]
    cells: Mapping[Hashable, tuple[Floats, ...]]
    unit: str
    bases: int
    runs: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Design:
    """The panel's rows by base, recipe of labels, judge and configuration."""

    panel: Panel
    rows: Mapping[tuple[Key, Config], Mapping[Replicate, int]]  # those of a key and a configuration, by replicate

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
        """Every key that has rows, sorted, so that draws do not depend on the order of storing."""
        return tuple(sorted({key for key, _ in self.rows}))

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        """Every configuration of a checkpoint, scored or not, the base first."""
        found = dict.fromkeys(config for _, config in self.rows)
        found |= dict.fromkeys(config_of(one) for one in self.panel.trajectories.checkpoints if not is_midway(one))
        return tuple(sorted(found, key=lambda config: (len(config[0]), str(config))))

    @cached_property
    def fixed(self) -> frozenset[Config]:
        """Configurations that no training of the run made: the base, and what was trained elsewhere, once.

        They have no seeds, so that they are the same in every replicate and nothing is claimed of their recipe.
        """
        known = self.panel.trajectories.checkpoints
        trained = {config_of(one) for one in known if any(stage.method != EXTERNAL for stage in one.stages)}
        return frozenset({BASE, *map(config_of, known)} - trained)

    def replicate_in(self, config: Config, replicate: Replicate) -> Replicate:
        """The replicate's key within a configuration: one that is fixed has no training seed."""
        return (replicate[0], None) if config in self.fixed else replicate

    @cached_property
    def replicates(self) -> Mapping[str, tuple[Replicate, ...]]:
        """The replicates in which a base has any configuration that was trained here, under any judge."""
        found: dict[str, dict[Replicate, None]] = {}
        for (key, config), rows in self.rows.items():
            if config not in self.fixed:
                found.setdefault(key.base, {}).update(dict.fromkeys(rows))
        return {base: tuple(replicates) for base, replicates in found.items()}

    def scored(self, key: Key, config: Config, objectives: Iterable[int]) -> Mapping[Replicate, int]:
        """The replicates of a configuration that have scores on every one of the objectives, with their rows."""
        rows, wanted = self.rows.get((key, config), {}), list(objectives)
        return {one: row for one, row in rows.items() if bool(np.isfinite(self.means[wanted, row]).all())}

    @cached_property
    def means(self) -> Floats:
        """Every run's mean: (objectives, rows), NaN where it has no scores."""
        return self.sample.means.reshape(len(self.panel.objectives), len(self.panel.rows))

    def objective(self, name: str) -> int:
        """The objective's number in the panel."""
        return self.panel.objectives.index(name)

    def keys_with(self, configs: Iterable[Config], *objectives: str) -> tuple[Key, ...]:
        """Keys that have any run of every configuration, and whose judge reads the objectives."""
        wanted = tuple(configs)
        scored = (key for key in self.keys if all((key, config) in self.rows for config in wanted))
        return tuple(key for key in scored if self.reads(key.judge, objectives))

    def keys_for(self, configs: Iterable[Config], *objectives: str) -> tuple[Key, ...]:
        """Keys that a comparison of the configurations is about, those that lack some of them too."""
        trained = any(config != BASE for config in configs)
        judged = sorted({key[1:] for key, config in self.rows if config != BASE or not trained})
        bases = sorted({key.base for key in self.keys})
        return tuple(Key(base, *one) for base in bases for one in judged if self.reads(one[1], objectives))

    def levels(self, configs: Iterable[Config], *objectives: str, strict: bool = False) -> list[Level]:
        """The ways to pool the keys of a comparison: within each group of keys that judges may be pooled in.

        The group of the headline comes first. ``strict`` leaves out keys that lack a configuration.
        """
        wanted = tuple(configs)
        keys = self.keys_with(wanted, *objectives) if strict else self.keys_for(wanted, *objectives)
        groups = self._groups(keys)
        return [
            level
            for place, group in enumerate(groups)
            for level in self._levels_of(group, wanted, {"beside": True} if place else {}, named=len(groups) > 1)
        ]

    def published_levels(self, configs: Iterable[Config], *objectives: str) -> list[Level]:
        """``levels``, and where groups of judges differ also all of them averaged, as published."""
        wanted = tuple(configs)
        found = self.levels(wanted, *objectives)
        keys = self.keys_for(wanted, *objectives)
        if len(self._groups(keys)) < 2:
            return found
        every = self._levels_of(keys, wanted, {"beside": True}, named=False)
        return found + [one._replace(averaged=True) for one in every if one.span in ("all", "base")]

    def headline(self, *objectives: str) -> tuple[Key, ...]:
        """The keys whose numbers are the headline of some objectives; none where no judge reads all of them.

        Of the judges that scored most of the trained configurations it is the one that reads the end state, else one
        that labelled none of the pairs, some, all; where that leaves several, the one with more scored runs, the first
        by name.
        """
        groups = self._groups(self.keys_for(self.configs, *objectives))
        return groups[0] if groups else ()

    def relation(self, keys: Iterable[Key], configs: Iterable[Config]) -> Labelled:
        """Of how many stages of some configurations the judges of their keys labelled the pairs; of a base alone what
        holds of all that it is compared with."""
        wanted = [config for config in configs if config != BASE]
        found = {self._known[key, config] for key in keys for config in wanted if (key, config) in self._known}
        return join(found or {self._relation[key] for key in keys})

    @cached_property
    def _known(self) -> Mapping[tuple[Key, Config], Labelled]:
        """The relation of each key's judge to each trained configuration."""
        return {
            place: join(self.panel.rows[row].labelled for row in rows.values())
            for place, rows in self.rows.items()
            if place[1][0] and rows
        }

    @cached_property
    def _relation(self) -> Mapping[Key, Labelled]:
        """The relation of each key's judge to everything that was trained with these labels, scored by it or not."""
        labels = self.panel.labels
        trained: dict[tuple[str, str], list[Checkpoint]] = {}
        for one in self.panel.trajectories.checkpoints:
            if one.stages:
                trained.setdefault((one.base, labeller_of(one)), []).append(one)
        return {
            key: join(labels.relation(key.judge, one) for one in trained.get((key.base, key.labeller), ()))
            for key in self.keys
        }

    def _groups(self, keys: Sequence[Key]) -> list[tuple[Key, ...]]:
        """Keys by the relation of their judge, judges of one recipe apart; the group of the headline first."""
        ranks: dict[int, list[Key]] = {}
        for key in keys:
            relation = self._relation.get(key, Labelled.UNKNOWN)
            ranks.setdefault(rank_judge(relation, self.panel.labels.reads_state(key.judge)), []).append(key)
        groups: list[tuple[int, tuple[Key, ...]]] = []
        for rank, members in ranks.items():
            judges = list(dict.fromkeys(key.judge for key in members))
            recipes = {(key.labeller, key.judge) for key in members}
            if len(recipes) == len({labeller for labeller, _ in recipes}):
                groups.append((rank, tuple(members)))
            else:
                groups += [(rank, tuple(key for key in members if key.judge == judge)) for judge in sorted(judges)]
        ordered = []
        for rank, group in groups:
            runs = {place: count for place, count in self._scored.items() if place[0] in group}
            trained = len({config for (_, config), count in runs.items() if count and config != BASE})
            own = self.relation(group, ()) is Labelled.ALL
            ordered.append((trained, (rank, -sum(runs.values()), not own), group))
        most = max((trained for trained, *_ in ordered), default=0)
        ordered.sort(key=lambda one: (one[0] < most, one[1]))
        return [group for *_, group in ordered]

    @cached_property
    def _scored(self) -> Mapping[tuple[Key, Config], int]:
        """How many rows have any score: a judge that was asked and never read is no judge of them."""
        any_score: Bools = np.asarray(np.isfinite(self.means).any(axis=0), dtype=np.bool_)
        return {place: int(any_score[list(rows.values())].sum()) for place, rows in self.rows.items()}

    def _levels_of(
        self, group: Sequence[Key], configs: Sequence[Config], about: Mapping[str, Any], *, named: bool
    ) -> list[Level]:
        """All keys of a group, those of each base, of each judge, and single ones; ``named`` tells a lone judge."""
        judges = list(dict.fromkeys(key.judge for key in group))
        lone = {"judge": judges[0]} if named and len(judges) == 1 else {}
        chosen: list[tuple[Span, dict[str, str], Sequence[Key]]] = [("all", lone, group)]
        chosen += [("base", {"base": str(base), **lone}, keys) for base, keys in by_base(group)]
        if len(judges) > 1:
            chosen += [("judge", {"judge": name}, [key for key in group if key.judge == name]) for name in judges]
            chosen += [
                ("cell", {"base": base, "judge": name}, [key for key in group if (key.base, key.judge) == (base, name)])
                for base, name in dict.fromkeys((key.base, key.judge) for key in group)
            ]
        untrained = all(config == BASE for config in configs)
        found = []
        for span, fields, keys in chosen:
            # A base stands in every recipe: by itself it counts once.
            once = tuple({(key.base, key.judge): key for key in reversed(keys)}.values())[::-1] if untrained else keys
            reads_state = all(self.panel.labels.reads_state(key.judge) for key in keys)
            known = {"labelled": self.relation(keys, configs), "reads_state": reads_state}
            found.append(Level({**fields, **known, **about}, tuple(once), span))
        return found

    def reads(self, judge: str, objectives: Iterable[str]) -> bool:
        """Whether a judge was asked about every one of the objectives anywhere."""
        return self._read_by.get(judge, frozenset(self.panel.objectives)).issuperset(objectives)

    @cached_property
    def _read_by(self) -> Mapping[str, frozenset[str]]:
        cells = self.panel.cells
        asked = np.any(cells.asked, axis=0).tolist()
        return {
            judge: frozenset(name for name, yes in zip(cells.objectives, own, strict=True) if yes)
            for judge, own in zip(cells.judges, asked, strict=True)
            if any(own)
        }

    @cached_property
    def core_axes(self) -> tuple[Axes, ...]:
        """Every combination of axes of trained configurations, dose apart; a merge's share is none of training."""
        found = dict.fromkeys(
            without_dose(axes) for lineage, axes in self.configs if lineage and self.roles.repairs(lineage) != MERGE
        )
        return tuple(sorted(found, key=str))

    def main(self, lineage: tuple[str, ...], core: Axes) -> Config | None:
        """The configuration of a lineage at its first dose, or None where there is none."""
        if not lineage:
            return BASE
        found = [config for config in self.configs if config[0] == lineage and without_dose(config[1]) == core]
        return min(found, key=lambda config: rank_dose(dose_of(config)), default=None)

    @cached_property
    def recipes(self) -> tuple[Config, ...]:
        """The five recipes that the published study compares, at every core axis and the first dose."""
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


def labeller_of(one: Row | Checkpoint) -> str:
    """The judge of the pairs where that tells recipes apart, else an empty text."""
    return str(one.axes.get(PAIR_JUDGE) or "")


def read_design(panel: Panel) -> Design:
    """The design of a panel."""
    recipes: dict[str, dict[str, set[str]]] = {}  # base → judge → labellers
    for row in panel.rows:
        if row.lineage:
            recipes.setdefault(row.base, {}).setdefault(row.judge, set()).add(labeller_of(row))
    rows: dict[tuple[Key, Config], dict[Replicate, int]] = {}
    for index, row in enumerate(panel.rows):
        labellers = {labeller_of(row)}
        if not row.lineage:
            there = recipes.get(row.base, {})
            # Whose judge scored nothing that was trained is held against all of it.
            labellers = there.get(row.judge) or set().union(*there.values()) or labellers
        # A base is not trained, so it has no training seed.
        replicate = (row.split_seed, None) if row.config == BASE else row.replicate
        for labeller in sorted(labellers):
            rows.setdefault((Key(row.base, labeller, row.judge), row.config), {})[replicate] = index
    return Design(panel=panel, rows=rows)


def without_dose(axes: Axes) -> Axes:
    """The axes of a configuration but its dose."""
    return tuple((key, value) for key, value in axes if key != DOSE)


def dose_of(config: Config) -> float:
    """The dose of a configuration's last stage; 1 where it has no such axis."""
    return float(dict(config[1]).get(DOSE, 1))


def subject(config: Config) -> dict[str, Any]:
    """A configuration as the fields of an Estimate."""
    return {"lineage": config[0], "axes": dict(config[1])}


def match(design: Design, key: Key, configs: Iterable[Config], objectives: Iterable[int]) -> Matched:
    """The replicates of a base × judge in which every configuration has scores on the objectives."""
    wanted, needed = tuple(dict.fromkeys(configs)), tuple(objectives)
    cells = {config: design.scored(key, config, needed) for config in wanted}
    if any(config not in design.fixed for config in wanted):
        known = design.replicates.get(key.base, ())
    else:
        known = tuple(dict.fromkeys(one for config in wanted for one in design.rows.get((key, config), ())))
    lacking = {
        one: tuple(config for config in wanted if design.replicate_in(config, one) not in cells[config])
        for one in known
    }
    kept = tuple(one for one, missing in lacking.items() if not missing)
    return Matched(
        rows={config: tuple(cells[config][design.replicate_in(config, one)] for one in kept) for config in wanted},
        replicates=kept,
        left_out=_name_left_out(design, key, lacking or {(None, None): wanted}),
    )


def _name_left_out(design: Design, key: Key, lacking: Mapping[Replicate, tuple[Config, ...]]) -> tuple[str, ...]:
    """Which replicates are left out for want of which configurations, in words."""
    who = key.base if len({one.judge for one in design.keys}) == 1 else f"{key.base} under {key.judge}"
    if len({one.labeller for one in design.keys if one.judge == key.judge}) > 1:
        who += f" on pairs of {key.labeller or 'no named judge'}"
    splits = {row.split_seed for row in design.panel.rows}

    def name(replicate: Replicate) -> str:
        """The split is named where there is more than one."""
        split, seed = replicate
        parts = [f"split {split}"] if split is not None and (len(splits) > 1 or seed is None) else []
        return " ".join([*parts, *([f"seed {seed}"] if seed is not None else [])]) or "its only run"

    found = []
    for missing in dict.fromkeys(filter(None, lacking.values())):
        mine = [replicate for replicate, wanting in lacking.items() if wanting == missing]
        some = f" {', '.join(map(name, mine))}" if len(mine) < len(lacking) else ""
        verb = "has" if len(missing) == 1 else "have"
        found.append(f"{who}{some} left out: {', '.join(map(name_config, missing))} {verb} no scores")
    return tuple(found)


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

    cells: dict[Hashable, tuple[Floats, ...]] = {}
    units: list[Hashable] = list(dict.fromkeys(part.key.base for part, _ in kept))
    bases, unit = len(units), "bases"
    if bases >= MIN_RANDOM_BASES:
        by_unit = tuple(mean([one for one in kept if one[0].key.base == base], None) for base in units)
    else:
        trained = any(config not in design.fixed for part in parts for config, _ in part.terms)
        trainings = _own_trainings(design, kept) if trained else {}
        shared = {
            name: [one for one in cell[0][1].replicates if all(one in matched.replicates for _, matched in cell)]
            for name, cell in trainings.items()
        }
        units, seeds = _pair_seeds(shared)
        unit = "seeds"
        for name, cell in trainings.items():
            share = len(cell) / len(kept)  # so that the cells add up to the contrast
            cells[name] = tuple(mean(cell, one) * share for one in seeds[name])
        by_unit = tuple(np.sum(one, axis=0) for one in zip(*cells.values(), strict=True))
    weights = mean(kept, None)
    return Contrast(
        weights=weights,
        by_unit=by_unit,
        units=tuple(units),
        cells=cells,
        unit=unit,
        bases=bases,
        runs=int(np.count_nonzero(weights)),
        left_out=tuple(dict.fromkeys(words for _, matched in pairs for words in matched.left_out)),
    )


def _own_trainings(
    design: Design, kept: Sequence[tuple[Part, Matched]]
) -> Mapping[Hashable, list[tuple[Part, Matched]]]:
    """Parts by what was trained for them: parts of one key, and those whose checkpoints several judges scored, as one.

    What a base is by itself is in no seed's hands, so that two parts may share it.
    """
    rows = design.panel.rows
    found: dict[Hashable, tuple[set[int], list[tuple[Part, Matched]]]] = {}
    for part, matched in kept:
        trained = {rows[row].checkpoint for some in matched.rows.values() for row in some if rows[row].lineage}
        members = [(part, matched)]
        for name, (other, there) in list(found.items()):
            if name == part.key or trained & other:
                del found[name]
                trained |= other
                members = there + members
        found[members[0][0].key] = (trained, members)
    return {name: members for name, (_, members) in found.items()}


def _pair_seeds(
    trainings: Mapping[Hashable, Sequence[Replicate]],
) -> tuple[list[Hashable], Mapping[Hashable, Sequence[Replicate]]]:
    """Which replicates of trainings that are independent of each other make a unit, and the units' names.

    A split is the same cases for all of them, so that units are the replicates that all have. A seed of one training
    has nothing to do with one of another, whatever their names: there the first make a unit, the second, and so on.
    """
    every = [one for replicates in trainings.values() for one in replicates]
    if splits_differ(every):
        shared = [one for one in dict.fromkeys(every) if all(one in replicates for replicates in trainings.values())]
        return list(shared), dict.fromkeys(trainings, shared)
    count = min(map(len, trainings.values()), default=0)
    return list(range(count)), {name: replicates[:count] for name, replicates in trainings.items()}


def splits_differ(units: Sequence[Hashable]) -> bool:
    """Whether replicates (split seed, train seed) differ in their split, which all bases and judges then share."""
    return len({one[0] for one in units if isinstance(one, tuple)}) > 1


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
    return [(base, [key for key in keys if key.base == base]) for base in dict.fromkeys(key.base for key in keys)]


def describe_arm(arm: Arm) -> tuple[str | None, tuple[str, ...]]:
    """The unit and the caveats of an arm's estimates; none but for a control."""
    return (FLIPPED, (FLIPPED_CAVEAT,)) if arm.flipped else (None, ())


def over(keys: Iterable[Key], *terms: tuple[Config, float]) -> list[Part]:
    """The same terms for every key."""
    return [Part(key, terms) for key in keys]
