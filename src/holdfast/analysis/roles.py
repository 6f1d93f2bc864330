"""What stages are for, read from the records: their names are the study's own and mean nothing here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from holdfast.records import Checkpoint
from holdfast.study.stages import EXTERNAL, is_rewarded

SAFETY, HELPFULNESS = "safety", "helpfulness"
FLIP = "flip"  # the setting of a stage that holds the share of pairs whose sides are swapped
KEEPS = ("mix", "term", "balance")  # the settings of a stage that keep a second objective
MERGE = "merge"  # the method of a stage that is no training
MERGED = "of"  # its setting that holds the two lineages
SHARE = "share"  # the axis with the second one's weight
Lineage = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The objectives that a stage trains, and whether its pairs are flipped, which makes it a control.

    ``repairs`` is how it tries to keep a second objective, if it does: "mix", "term", "balance" or "merge". Such a
    stage is none of the recipes that are compared, whatever it trains: it is held against them (``analysis.repair``).
    ``late`` says that no lineage has it first or second, so that it is no part of a sequence of two. ``rewarded`` says
    that it learns from rewarded rollouts, ``elsewhere`` that it was trained elsewhere.
    """

    objectives: frozenset[str]
    flipped: bool = False
    repairs: str | None = None
    late: bool = False
    rewarded: bool = False
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A safety stage and a helpfulness stage to be trained in sequence; ``flipped`` where both are controls."""

    safety: str
    helpfulness: str
    flipped: bool

    def ordered(self, objective: str) -> tuple[str, str]:
        """The stage that trains the objective, then the other one."""
        pair = (self.safety, self.helpfulness)
        return pair if objective == SAFETY else (pair[1], pair[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The role of every stage of a study; a name that stands for different things has none."""

    by_stage: Mapping[str, Role]
    ambiguous: tuple[str, ...] = ()

    def role(self, name: str) -> Role:
        """The role of a stage; one without objectives where it has none."""
        return self.by_stage.get(name, Role(objectives=frozenset()))

    def single(self, name: str) -> str | None:
        """The one objective that a stage trains, or None for a joint stage, a repair, or one without a role."""
        role = self.role(name)
        return next(iter(role.objectives)) if role.repairs is None and len(role.objectives) == 1 else None

    def repairs(self, lineage: Lineage) -> str | None:
        """How a lineage's last stage tries to keep a second objective, or None."""
        return self.role(lineage[-1]).repairs if lineage else None

    def reteaches(self, lineage: Lineage) -> bool:
        """Whether a lineage ends in the objective that it began with, after one of another: safety, help, safety."""
        goals = [self.single(name) for name in lineage]
        if len(lineage) < 3 or None in goals or any(map(self.flipped, lineage)):
            return False
        return goals[-1] == goals[0] and goals[-1] not in goals[1:-1]

    def flipped(self, name: str) -> bool:
        """Whether a stage is a control with flipped pairs."""
        return self.role(name).flipped

    def is_joint(self, lineage: Lineage) -> bool:
        """Whether a lineage is one stage that trains safety and helpfulness at once."""
        if len(lineage) != 1 or self.flipped(lineage[0]) or self.repairs(lineage) is not None:
            return False
        return {SAFETY, HELPFULNESS} <= self.role(lineage[0]).objectives

    def is_sequence(self, lineage: Lineage) -> bool:
        """Whether a lineage is safety then helpfulness or the reverse, without controls."""
        if len(lineage) != 2 or any(map(self.flipped, lineage)):
            return False
        return {self.single(name) for name in lineage} == {SAFETY, HELPFULNESS}

    def rank(self, lineage: Lineage) -> int | None:
        """The place of a recipe that the published study compares: S, H, S→H, H→S, S&H; None for any other."""
        if not lineage or any(map(self.flipped, lineage)):
            return None
        if self.is_joint(lineage):
            return 4
        first = self.single(lineage[0])
        if first not in (SAFETY, HELPFULNESS) or not (len(lineage) == 1 or self.is_sequence(lineage)):
            return None
        return (first == HELPFULNESS) + 2 * (len(lineage) - 1)

    def arms(self) -> Iterator[Arm]:
        """Every safety stage with every helpfulness stage, both real or both controls; controls last."""
        single: dict[tuple[str | None, bool], list[str]] = {}
        for name in sorted(name for name, role in self.by_stage.items() if not role.late):
            single.setdefault((self.single(name), self.flipped(name)), []).append(name)
        for flipped in (False, True):
            for first in single.get((SAFETY, flipped), ()):
                for second in single.get((HELPFULNESS, flipped), ()):
                    yield Arm(safety=first, helpfulness=second, flipped=flipped)

    def through_rewards(self, lineages: Iterable[Lineage]) -> Iterator[Lineage]:
        """Lineages that begin with safety or helpfulness and go on with a stage that learns from rewards, but for
        sequences of which each stage was trained alone too: these are compared as any are."""
        known = list(dict.fromkeys(lineages))
        for lineage in known:
            if len(lineage) < 2 or self.single(lineage[0]) not in (SAFETY, HELPFULNESS):
                continue
            if self.is_sequence(lineage) and lineage[1:] in known:
                continue
            if any(self.role(name).rewarded for name in lineage[1:]) and not any(map(self.flipped, lineage)):
                yield lineage

    def through_elsewhere(self, lineages: Iterable[Lineage]) -> Iterator[Lineage]:
        """Lineages of two stages or more that went through training elsewhere, but for sequences of which each stage
        was trained alone too: these are compared as any are."""
        known = list(dict.fromkeys(lineages))
        for lineage in known:
            roles = [self.by_stage[name] for name in lineage if name in self.by_stage]
            if len(lineage) < 2 or len(roles) < len(lineage) or not any(role.elsewhere for role in roles):
                continue
            alone = self.is_sequence(lineage) and lineage[1:] in known
            if not alone and not any(role.flipped or role.rewarded for role in roles):
                yield lineage

    def controls(self, first: str, lineages: Iterable[Lineage]) -> Iterator[Lineage]:
        """Lineages that train on after ``first`` without the other objective: the same goal again, or flipped pairs."""
        for lineage in dict.fromkeys(lineages):
            if len(lineage) != 2 or lineage[0] != first or self.flipped(first):
                continue
            goals = {self.single(name) for name in lineage}
            if self.flipped(lineage[1]) or (len(goals) == 1 and None not in goals):
                yield lineage


def read_roles(checkpoints: Iterable[Checkpoint]) -> Roles:
    """The roles of all stages of some checkpoints."""
    known = list(checkpoints)
    early = {name for checkpoint in known for name in checkpoint.lineage[:2]}
    seen: dict[str, set[Role]] = {}
    for checkpoint in known:
        for stage in checkpoint.stages:
            kept = [name for name, value in stage.settings.items() if value is not None]
            role = Role(
                objectives=frozenset(stage.objectives),
                flipped=float(stage.settings.get(FLIP) or 0) > 0,
                repairs=MERGE if stage.method == MERGE else next((way for way in KEEPS if way in kept), None),
                late=stage.name not in early,
                rewarded=is_rewarded(stage),
                elsewhere=stage.method == EXTERNAL,
            )
            seen.setdefault(stage.name, set()).add(role)
    return Roles(
        by_stage={name: next(iter(roles)) for name, roles in seen.items() if len(roles) == 1},
        ambiguous=tuple(sorted(name for name, roles in seen.items() if len(roles) > 1)),
    )
