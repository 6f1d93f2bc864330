"""What networks compute in a step, in tokens and passes, told from the plan: the same that the step itself will count.

    prompts (once for what they share) + replies ─▶ tokens read, sampled, scored, learnt from

What prompts share is computed once in a batch, a tree or a step, as ``models/local/shared`` and ``training/trees`` do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from holdfast.models.hub.counting import Outline
from holdfast.models.local.speed import ROWS
from holdfast.records import Case
from holdfast.runs.costs.talk import (
    Prompts,
    Replies,
    expect_replies,
    read_demonstrated,
    read_parts,
    read_prompts,
    replies_to_users,
)
from holdfast.runs.plan.settings import (
    MEASURED_TOKENS,
    MergeSettings,
    OpenSettings,
    RandomSettings,
    ReferenceSettings,
    RolloutSettings,
    StageSettings,
    StartSettings,
)
from holdfast.runs.plan.step import Plan, Step
from holdfast.study.stages import (
    DEMONSTRATIONS,
    DemonstrationSection,
    ExternalSection,
    RewardSection,
    StageSection,
    TrainingSection,
)

# What is counted: tokens of prompts, of scored sequences, and of those that all weights or an adapter learn from; steps
# of sampling and the tokens sampled in them; networks that are opened, saved and updated, and files that are unpacked.
Sort = Literal["read", "scored", "trained", "adapted", "step", "row", "load", "save", "update", "unpack", "start"]
# Of the episodes of a case, the share of tokens that no other of them has at the same place.
_OWN_TOKENS = 0.8
_PAIRS_OF_CASE = 8  # pairs of a case that come together, as ``training/dpo/orders`` has them
# The share of training cases that have pairs.
_WITH_PAIRS = 0.5
_DRIFT_PAIRS = 128  # as ``training/dpo/stage`` measures at every dose


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts by sort and precision; ``context`` is the mean number of tokens before one that is computed."""

    amounts: Mapping[tuple[Sort, str], float] = field(default_factory=dict)
    context: float = 0.0


def opened_once(outlined: Outline) -> Work:
    """A base that is opened where it lies."""
    amounts: dict[tuple[Sort, str], float] = {("start", ""): 1}
    if not outlined.unpacked:
        amounts["unpack", ""] = 1
    return Work(amounts)


class Workload:
    """The work of a plan's steps, as far as it can be told; ``outlines`` are those of its bases, by name."""

    def __init__(self, plan: Plan, outlines: Mapping[str, Outline]) -> None:
        self._plan, self._outlines = plan, outlines
        self._bases: dict[str, str] = {}
        self._parents: dict[str, str | None] = {}
        self._taught: set[str] = set()
        for step in plan.steps:
            for one in step.checkpoints:
                self._bases[one.id], self._parents[one.id] = one.base, one.parent_id
                learnt = any(stage.method == "sft" for stage in (*one.stages, *one.start))
                if learnt or one.parent_id in self._taught:
                    self._taught.add(one.id)
        self._prompts: dict[tuple[str, str, int], Prompts | None] = {}
        self._parts: dict[int, Mapping[str, Sequence[Case]]] = {}
        self._shown: dict[str, Replies | None] = {}

    def base_of(self, step: Step) -> str:
        """The base whose weights a step computes with, by the study's name for it; empty where it is none of them."""
        settings = step.settings
        speaks = step.checkpoints[0].id if step.checkpoints else ""
        if isinstance(settings, RolloutSettings | ReferenceSettings):
            speaks = settings.checkpoint
        name = self._bases.get(speaks, "")
        known = self._plan.study.model.bases
        # A base under another seed, and one as it was before its start, have names that begin with its own.
        return max((base for base in known if name == base or name.startswith((f"{base} ", f"{base}-"))), default="")

    def of(self, step: Step) -> Work | None:
        """The work of a step; None where it cannot be told."""
        outlined = self._outlines.get(self.base_of(step))
        if outlined is None:
            return None
        match step.settings:
            case RolloutSettings() as settings:
                return self._of_rollout(step, settings)
            case ReferenceSettings() as settings:
                return self._of_reference(step, settings)
            case OpenSettings() | RandomSettings():
                return opened_once(outlined)
            case StartSettings():
                return Work()
            case MergeSettings() as settings:
                count = len(settings.shares)
                return Work({("load", ""): 2 * count, ("save", ""): count})
            case StageSettings() as settings:
                return self._of_stage(step, settings)
        return None

    # --- conversations ------------------------------------------------------------------------------------------

    def _read_prompts(self, base: str, part: str, split_seed: int) -> Prompts | None:
        key = base, part, split_seed
        if key not in self._prompts:
            if split_seed not in self._parts:
                self._parts[split_seed] = read_parts(self._plan.study, split_seed)
            cases = self._parts[split_seed].get(part, ())
            self._prompts[key] = read_prompts(cases, self._outlines[base].count) if cases else None
        return self._prompts[key]

    def _read_shown(self, base: str) -> Replies | None:
        if base not in self._shown:
            self._shown[base] = read_demonstrated(self._plan.study, self._outlines[base].count)
        return self._shown[base]

    def _replies(self, base: str, checkpoint: str) -> Replies:
        emulated = self._plan.study.suite.world.model is not None
        taught = checkpoint in self._taught
        return expect_replies(self._plan.study, self._read_shown(base), taught=taught, emulated=emulated)

    # --- steps --------------------------------------------------------------------------------------------------

    def _of_rollout(self, step: Step, settings: RolloutSettings) -> Work | None:
        base = self.base_of(step)
        prompts = self._read_prompts(base, settings.part, settings.split_seed)
        if prompts is None or settings.agent is None:
            return None
        replies = self._replies(base, settings.checkpoint)
        if settings.users is not None:
            replies = replies_to_users(self._plan.study, settings.users.section)
        entry = settings.agent.entry
        batch = settings.limits.batch_size
        work = sampling(prompts, replies, episodes=step.size, batch=batch, openings=prompts.kinds)
        parent = self._parents.get(settings.checkpoint)
        if settings.part == "test" and parent is not None:
            # How far conduct moved: its own, its parent's and its base's log-probabilities, one episode a case.
            models = 2 if self._parents.get(parent) is None else 3
            tree = _forest(prompts, replies, prompts.kinds, prompts.cases, 1)
            tree += prompts.opening * (math.ceil(tree / MEASURED_TOKENS) - 1)  # as those of references
            work += {("scored", entry.precision): models * tree, ("load", ""): models}
        work[("load", "")] += 1
        return Work(work.told(), _context(prompts, replies))

    def _of_reference(self, step: Step, settings: ReferenceSettings) -> Work | None:
        rolled = self._plan.step(step.inputs[1])
        if not isinstance(rolled.settings, RolloutSettings):
            return None
        base = self.base_of(step)
        prompts = self._read_prompts(base, rolled.settings.part, rolled.settings.split_seed)
        if prompts is None:
            return None
        replies = self._replies(base, rolled.settings.checkpoint)
        batches = math.ceil(step.size / settings.batch)
        each = step.size / max(1, prompts.cases)
        tree = _forest(prompts, replies, prompts.kinds * batches, prompts.cases, each)
        tree += prompts.opening * (math.ceil(tree / settings.token_budget) - 1)  # cut trees have theirs again
        amounts: dict[tuple[Sort, str], float] = {("scored", settings.precision): tree, ("load", ""): 1}
        return Work(amounts, _context(prompts, replies))

    def _of_stage(self, step: Step, settings: StageSettings) -> Work | None:
        section = settings.section
        if isinstance(section, ExternalSection):
            return Work({("start", ""): len(step.checkpoints)})
        base = self.base_of(step)
        split_seed = step.checkpoints[0].split_seed
        seed = self._plan.study.suite.split_seed if split_seed is None else split_seed
        prompts = self._read_prompts(base, "train", seed)
        if not isinstance(section, TrainingSection) or getattr(section, "digest", None) or prompts is None:
            return None
        replies = self._replies(base, settings.parent)
        amounts = _Amounts()
        learn: Sort = "adapted" if section.lora_r else "trained"
        # A file's pairs, another run's and epochs of them are counted when they are there.
        match section:
            case StageSection(epochs=None):
                tree, drift = _pair_trees(section, prompts, replies, self._plan)
                amounts[("scored", section.precision)] += drift * len(step.checkpoints)
            case DemonstrationSection(epochs=None):
                shown = self._read_shown(base) if section.data == DEMONSTRATIONS else replies
                if shown is None:
                    return None
                replies = shown
                tree = _demonstration_tree(section, prompts, replies)
            case RewardSection():
                met: float = section.prompts_per_step
                if section.grouping == "family":
                    met = min(met, prompts.cases / max(1, prompts.kinds))
                openings = 1.0 if section.grouping == "family" else _met(prompts.kinds, met)
                tree = _forest(prompts, replies, openings, met, section.group_size)
                if section.on_policy:
                    each, batch = met * section.group_size, math.ceil(met * section.group_size)
                    read = openings * step.size
                    amounts += sampling(prompts, replies, episodes=each * step.size, batch=batch, openings=read)
                if section.lora_dropout or section.lag:  # before the update too, or as they were sampled
                    amounts[("scored", section.precision)] += tree * step.size
                if section.on_policy or section.kl_weight:  # under the weights at the start
                    asked = tree if section.kl_weight else _forest(prompts, replies, openings, met, 1)
                    amounts[("scored", section.precision)] += asked * step.size
            case _:
                return None
        pieces = math.ceil(tree / section.token_budget)
        tree += prompts.opening * (pieces - 1)
        again = 1 if section.recompute else 0  # what is computed once more without gradient
        amounts += {
            (learn, section.precision): tree * step.size,
            ("scored", section.precision): again * tree * step.size,
            ("load", ""): 1,
            ("update" if learn == "trained" else "save", ""): step.size if learn == "trained" else 0,
            ("save", ""): len(step.checkpoints) if learn == "trained" else 0,
        }
        return Work(amounts.told(), _context(prompts, replies))


class _Amounts(defaultdict[tuple[Sort, str], float]):
    def __init__(self, *amounts: Mapping[tuple[Sort, str], float]) -> None:
        super().__init__(float, *amounts)

    def __iadd__(self, other: Mapping[tuple[Sort, str], float]) -> _Amounts:
        for key, amount in other.items():
            self[key] += amount
        return self

    def told(self) -> dict[tuple[Sort, str], float]:
        return {key: amount for key, amount in self.items() if amount}


def sampling(prompts: Prompts, replies: Replies, *, episodes: float, batch: int, openings: float) -> _Amounts:
    """Episodes that are sampled in batches, whose rows grow in lockstep until the longest reply ends.

    ``openings`` is how many are read in all.
    """
    whole, rest = divmod(episodes, batch)
    calls = whole * math.ceil(batch / ROWS) + math.ceil(rest / ROWS)
    read = openings * prompts.opening + episodes * (prompts.own + replies.heard)
    return _Amounts(
        {
            ("read", ""): read,
            ("step", ""): calls * replies.steps,
            ("row", ""): episodes * replies.turns * replies.tokens,
        }
    )


def _met(kinds: int, drawn: float) -> float:
    """How many of some equally frequent kinds are among some cases that are drawn."""
    return kinds * (1 - (1 - 1 / kinds) ** drawn) if kinds else 0.0


def _forest(prompts: Prompts, replies: Replies, openings: float, cases: float, each: float) -> float:
    """Tokens of trees: so many openings, cases, and episodes of each case."""
    own = 1 + (each - 1) * _OWN_TOKENS if each > 1 else each
    return openings * prompts.opening + cases * (prompts.own + own * replies.said)


def _context(prompts: Prompts, replies: Replies) -> float:
    return prompts.opening + prompts.own + replies.said / 2


def _demonstration_tree(section: DemonstrationSection, prompts: Prompts, replies: Replies) -> float:
    """Tokens of a step on demonstrations, on average over steps of one family and those of what is left of all."""
    drawn, kinds = section.examples_per_step, prompts.kinds
    openings = _met(kinds, drawn)
    if section.grouping == "family" and section.data == DEMONSTRATIONS:
        mixed = min(1.0, kinds * (drawn - 1) / 2 / section.count)
        openings = mixed * openings + (1 - mixed)
    return _forest(prompts, replies, openings, drawn, 1)


def _pair_trees(section: StageSection, prompts: Prompts, replies: Replies, plan: Plan) -> tuple[float, float]:
    """Tokens of a step on pairs, and of those on which drift is measured at a dose."""
    study, count = plan.study, section.pairs_per_step
    count *= 2 if section.term or section.balance else 1
    episodes = study.rollouts.per_train_case
    of_case = min(_PAIRS_OF_CASE, study.pairs.cap_per_case or _PAIRS_OF_CASE, max(1, episodes**2 // 4))
    together = 1 if section.pairwise else of_case
    cases = max(1.0, count / together)
    openings = 1.0 if section.grouping == "family" else _met(prompts.kinds, cases)
    tree = _forest(prompts, replies, openings, cases, min(episodes, 2 * together))
    # Drift is that of pairs from end to end of all of them.
    found = max(1.0, _WITH_PAIRS * study.suite.train_cases)
    drift = min(_DRIFT_PAIRS, found * of_case)
    cases = min(found, drift)
    each = min(episodes, 2 * drift / cases)
    return tree, _forest(prompts, replies, _met(prompts.kinds, cases), cases, each)
