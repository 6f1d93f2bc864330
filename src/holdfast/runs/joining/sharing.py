"""Which step of the joined run comes from which run, and where runs differ in what they share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from holdfast.records import Checkpoint
from holdfast.records.errors import refuse
from holdfast.records.words import count_noun
from holdfast.runs.joining.members import Member
from holdfast.runs.plan.settings import JudgeSettings
from holdfast.runs.plan.step import Plan, Step
from holdfast.store.joining import Pair, Share

# What an analysis reads of a step's result beside its records; the rest is of clocks and places.
_READ = ("measures", "doses")


def share_out(members: Sequence[Member], plan: Plan, shared: Path | None) -> None:
    """Give each step to the first run that has it, and compare it with the others' of the same name.

    Errors: StudyError where records differ and nobody said whose stand, or where a run has learnt from its own.
    """
    kinds = {step.fingerprint: step.kind for step in plan.steps}
    differences: list[str] = []
    with contextlib.ExitStack() as opened:
        pairs: dict[tuple[int, int], Pair] = {}
        for step in plan.steps:
            havers = [number for number, one in enumerate(members) if step.fingerprint in one.status]
            if step.kind == "analyze" or not havers:
                continue
            # What was judged or rated otherwise is known by its own run alone; nothing is made of it by another.
            needed = [name for name in step.inputs if kinds[name] not in ("judge", "reference")]
            fit = [number for number in havers if all(name in members[number].alike for name in needed)]
            if not fit:
                _refuse_learnt(members, plan, step, members[havers[0]], needed)
            owner = max(fit, key=lambda number: _progress(members[number], step))
            members[owner].taken[step.fingerprint] = step.name
            members[owner].alike.add(step.fingerprint)
            for number in havers:
                if number == owner:
                    continue
                if (owner, number) not in pairs:
                    pair = Pair(members[owner].store, members[number].store)
                    pairs[owner, number] = opened.enter_context(contextlib.closing(pair))
                found = _compare(step, members[owner], members[number], pairs[owner, number])
                if found is not None:
                    differences.append(found)
        differences += _compare_added(members, plan, pairs)
    if differences and shared is None:
        more = f" (and {len(differences) - 1} more steps)" if differences[1:] else ""
        refuse(
            "join",
            f"the runs differ in what they share: {differences[0]}{more}",
            "add --shared RUN to take what they share from one of them, which its notes will say",
        )


def _progress(member: Member, step: Step) -> tuple[bool, int]:
    """How far a run is with a step: what is done goes before what is begun."""
    return member.is_done(step.fingerprint), len(member.store.log.batches(step.fingerprint))


def _refuse_learnt(members: Sequence[Member], plan: Plan, step: Step, member: Member, needed: Sequence[str]) -> None:
    """Refuse a run whose step was made of something that is another in the joined run."""
    name = next(one for one in needed if one not in member.alike)
    owner = next((one for one in members if name in one.taken), None)
    refuse(
        member.path,
        f"{step.name}: was made from its own {plan.step(name).name!r}, which differs from that of"
        f" {owner.path if owner else 'the others'}",
        f"begin every seed from the shared steps of one run (`holdfast run STUDY -o {owner.path if owner else 'RUN'}"
        " --fork NEW`, STUDY with the new seed), then join",
    )


def _compare(step: Step, owner: Member, other: Member, pair: Pair) -> str | None:
    """Compare a step that two runs have; what differs in words, None where nothing does or one has not finished it."""
    name = step.fingerprint
    if not (owner.is_done(name) and other.is_done(name)):
        other.begun += 1
        return None
    rows, what = _differing(step, owner, other, pair)
    only_rounding = step.kind == "rollout" and bool(rows) and not pair.said_otherwise(name, rows)
    if not rows:
        mine, theirs = (one.status[name].result for one in (owner, other))
        if any(mine.get(key) != theirs.get(key) for key in _READ):
            rows, what, only_rounding = [name], "measures", True
    if not rows:
        other.alike.add(name)
        other.equal += 1
        return None
    if only_rounding:
        other.alike.add(name)
    other.left[step.name] = len(rows)
    digits = " in the last digits alone" if only_rounding else ""
    return f"{step.name}: {count_noun(len(rows), what)} of {other.path} differ{digits} from {owner.path}'s"


def _differing(step: Step, owner: Member, other: Member, pair: Pair) -> tuple[list[str], str]:
    """Which records of a step differ between two runs, and what they are."""
    name = step.fingerprint
    match step.kind:
        case "rollout":
            return pair.trajectories(name), "trajectories"
        case "bring":
            return list(dict.fromkeys([*pair.trajectories(name), *pair.scores(name, None)])), "trajectories"
        case "judge":
            assert isinstance(step.settings, JudgeSettings)
            return pair.scores(step.inputs[0], step.settings.judge), "judgements"
        case "pair":
            return pair.pairs(name), "pairs"
        case "reference":
            return pair.logprobs(name), "log-probabilities"
    made = [one.id for one in step.checkpoints]
    return [one for one in made if not _same(owner.store.checkpoint(one), other.store.checkpoint(one))], "checkpoints"


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are the same weights; those that are held by digest may lie at another place."""
    held = one.digest is not None and one.digest == other.digest
    return one == (replace(other, model=one.model) if held else other)


def _compare_added(members: Sequence[Member], plan: Plan, pairs: Mapping[tuple[int, int], Pair]) -> list[str]:
    """Compare what judges that are none of the study's gave the episodes that runs share."""
    planned, found = judged(plan), []
    for (owner, number), pair in pairs.items():
        for judge, count in pair.scored_otherwise(members[number].alike, planned).items():
            members[number].left[f"judge {judge}"] = count
            found.append(
                f"{judge}: {count_noun(count, 'judgements')} of {members[number].path} differ from"
                f" {members[owner].path}'s"
            )
    return found


def judged(plan: Plan) -> set[tuple[str, str]]:
    """The study's own judgements: (rollout step, judge)."""
    return {(one.inputs[0], one.settings.judge) for one in plan.steps if isinstance(one.settings, JudgeSettings)}


def list_shares(members: Sequence[Member], plan: Plan) -> Iterator[Share]:
    """What each run gives, as the store takes it; the cases of a split come from the first run that has it."""
    planned = {one.id for step in plan.steps for one in step.checkpoints}
    given: set[int] = set()
    for member in members:
        steps = [step for step in plan.steps if step.fingerprint in member.taken]
        made = {one.id for step in steps for one in step.checkpoints}
        brings = any(step.kind == "bring" for step in steps)
        held = member.store.checkpoints(brought=True)
        splits = sorted(member.store.splits().keys() - given)
        given |= set(splits)
        yield Share(
            path=member.path,
            steps=member.taken,
            scores=[(s.inputs[0], s.settings.judge) for s in steps if isinstance(s.settings, JudgeSettings)],
            checkpoints=[one.id for one in held if one.id in made or (brings and one.id not in planned)],
            alike=member.alike,
            splits=splits,
        )
