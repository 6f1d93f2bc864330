"""A verdict of a child against its parent: the checks together, and what a reader must know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.checks import Bounds, judge_checks
from holdfast.decisions.gate.declared import describe_declaration
from holdfast.decisions.gate.logs import describe_gaps
from holdfast.decisions.gate.openings import compare_openings
from holdfast.decisions.gate.pairing import Pairing, pair_sides
from holdfast.decisions.gate.questions import AUTO, FAMILY
from holdfast.decisions.gate.rules import fingerprint
from holdfast.decisions.gate.sides import Judging, Side, choose_judging, relation_of, take_side
from holdfast.exchange.scales import ScoreOption
from holdfast.records import Check, Checkpoint, Labelled, Verdict
from holdfast.records.verdicts import combine
from holdfast.records.words import count_noun
from holdfast.report.sections.gate import exact_percent, is_absolute, name_metric
from holdfast.store.origins import spell
from holdfast.study.rules import FEWEST_FAMILIES, GateSection
from holdfast.study.sections import OBJECTIVES


class Place(NamedTuple):
    """Where a side is: a checkpoint, the book of its run, and a name for people where it is not the checkpoint's.

    ``trained`` is the checkpoint that its weights are of and the book that knows how they were trained, where these
    are others: what is rolled out anew is a base in the new run.
    """

    book: Book
    checkpoint: Checkpoint
    name: str | None = None
    trained: tuple[Book, Checkpoint] | None = None

    @property
    def known(self) -> tuple[Book, Checkpoint]:
        """The checkpoint in the book that knows how it was trained."""
        return self.trained or (self.book, self.checkpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A parent and a child that can be compared: both sides, whose scores they hold, and their case means.

    ``openings`` tells what differs in how the two met their cases; ``most`` cases were to be compared, None for all.
    """

    places: tuple[Place, Place]
    sides: tuple[Side, Side]
    judging: Judging
    pairing: Pairing
    names: Mapping[str, str]
    openings: tuple[str, ...] = ()
    most: int | None = None

    @property
    def chosen(self) -> Mapping[str, Any]:
        """What decides which episodes are compared, beside the rules: so many of the cases, and seeds of rollouts."""
        some = self.most is not None and self.most < len(self.sides[0].cases)
        parent, child = (place.book.study.get("rollouts", {}).get("seed") for place in self.places)
        return {
            "cases": self.most if some else None,
            "seeds": None if parent is None and child is None else [parent, child],
        }


def match_sides(
    parent: Place,
    child: Place,
    rules: GateSection,
    *,
    judge: str | None = None,
    scores: Sequence[ScoreOption] = (),
    most_cases: int | None = None,
    rank: bool = False,
) -> Match:
    """The two sides case by case. Errors: StudyError where they are not comparable.

    ``judge`` takes the place of the declared one; without either, ``rank`` chooses among several. ``scores`` say under
    which name an objective was scored, where it is not its own; ``most_cases`` leaves out all but so many cases.
    """
    first, second, judging = take_sides(parent, child, rules, judge=judge, scores=scores, rank=rank)
    pairing = pair_sides(first, second, most=most_cases, incomplete=rules.incomplete)
    return Match(
        places=(parent, child),
        sides=(first, second),
        judging=judging,
        pairing=pairing,
        most=most_cases,
        names=dict(judging.names),
        openings=compare_openings((parent.book, child.book), (first, second), rules.openings),
    )


def conclude(match: Match, bounds: Bounds) -> Verdict:
    """What the rules of ``bounds`` say of a match."""
    (first, second), pairing, rules = match.sides, match.pairing, bounds.rules
    unmeasurable = find_unmeasurable(match)
    labelled, reads_state = relation_of([one.known for one in match.places], match.judging.judge)
    checks = judge_checks(pairing, bounds, unmeasurable=unmeasurable)
    return Verdict(
        outcome=combine(one.outcome for one in checks if one.blocking),
        parent=first.name,
        child=second.name,
        judge=match.judging.judge,
        checks=checks,
        rules=rules.model_dump(mode="json"),
        fingerprint=fingerprint(rules, **match.chosen),
        rubrics=second.rubrics,
        data=pairing.digest,
        cases=pairing.met,
        basis=tuple(dict.fromkeys(describe_basis(match, rules, unmeasurable))),
        limits=(
            *_tell_judge(match, labelled, reads_state=reads_state),
            *tell_families(pairing, checks, rules),
            *_tell_data(match, rules),
        ),
        sources={"parent": first.source, "child": second.source, **({"names": match.names} if match.names else {})},
        labelled=labelled,
        reads_state=reads_state,
    )


def decide(
    parent: Place,
    child: Place,
    rules: GateSection,
    *,
    judge: str | None = None,
    scores: Sequence[ScoreOption] = (),
    most_cases: int | None = None,
    rank: bool = False,
) -> Verdict:
    """What the rules say of a child against its parent: ``conclude`` of ``match_sides``, whose errors it raises."""
    match = match_sides(parent, child, rules, judge=judge, scores=scores, most_cases=most_cases, rank=rank)
    return conclude(match, Bounds(rules=rules))


def take_sides(
    parent: Place,
    child: Place,
    rules: GateSection,
    *,
    judge: str | None = None,
    scores: Sequence[ScoreOption] = (),
    rank: bool = False,
) -> tuple[Side, Side, Judging]:
    """Both sides on the held-out cases of the split that either was made under, and whose scores they hold."""
    judgings = choose_judging(
        [(one.book, one.checkpoint) for one in (parent, child)],
        judge or rules.judge,
        scores,
        rank=rank,
    )
    seeds = [one.checkpoint.split_seed for one in (parent, child)]
    names = [one.name or one.checkpoint.name for one in (parent, child)]
    if names[0] == names[1]:
        # A server may call every checkpoint alike: the places tell which is which.
        names = [f"{name} of {one.book.place}" for name, one in zip(names, (parent, child), strict=True)]
    sides = [
        take_side(
            one.book,
            one.checkpoint,
            judging,
            # A checkpoint without a split of its own, such as a base, meets the cases of the other's.
            split_seed=own if own is not None else next((seed for seed in seeds if seed is not None), None),
            severe_at_most=rules.severe_at_most,
            name=name,
            own=[kind for kind, _ in rules.own_kinds()],
        )
        for one, judging, own, name in zip((parent, child), judgings, seeds, names, strict=True)
    ]
    return sides[0], sides[1], judgings[1]


def find_unmeasurable(match: Match) -> dict[str, str]:
    """Checks that the data cannot have, with the reason.

    What was asked of one side only, or asked and never answered, is missing data and not among them.
    """
    sides = match.sides
    found = {}
    safety = sides[1].declared.get("safety")
    if safety is not None and safety.severe is None:
        found["severe"] = (
            f"the source of {safety.key!r} names no value from which on an event is severe; declare one with"
            f" --score '{spell(safety)}@VALUE'"
        )
    if not any("helpfulness" in side.offered for side in sides):
        waiting = [one.key for place in match.places for one in place.book.origin.undeclared]
        left = f"; values that nobody declared: {', '.join(dict.fromkeys(waiting))}" if waiting else ""
        found["helpfulness"] = f"neither side was asked for it{left}"
    if not any(side.has("refusal") for side in sides):
        found["refusal"] = "no case is declared harmless by its suite, so that over-refusal cannot be told"
    for kind in sides[0].kinds:
        if kind.setting is None and not any(side.has(kind.name) for side in sides):
            found[kind.name] = "no rollout of either side has it"
    return found


def describe_basis(match: Match, rules: GateSection, unmeasurable: Mapping[str, str]) -> Iterator[str]:
    """What stands first in every verdict: declarations, the state of the logs, what was not measured, openings."""
    for objective in OBJECTIVES:
        declared = next((side.declared[objective] for side in match.sides if objective in side.declared), None)
        if declared is not None:
            yield describe_declaration(declared, objective)
    for side, word in zip(match.sides, ("parent", "child"), strict=True):
        yield from describe_gaps(side.gaps, word, counted=rules.incomplete == "count")
    for name, reason in unmeasurable.items():
        yield f"not measured: {name_metric(name)} ({reason})"
    yield from match.openings
    for place in match.places:
        yield from (f"{place.book.place}: {note}" for note in place.book.notes)


def tell_families(pairing: Pairing, checks: Sequence[Check], rules: GateSection) -> Iterator[str]:
    """What a verdict claims of other families of cases, and how much less is known where families are what varies."""
    count = len(set(pairing.families))
    effects = [
        f"{name_metric(one.metric)} {one.design_effect:.2f}"
        for one in checks
        if one.design_effect is not None and not is_absolute(one)
    ]
    told = f"; design effect of families on the variance: {', '.join(effects)}" if effects else ""
    if rules.cluster == FAMILY:
        yield (
            f"families of cases are drawn, not cases ({count}): each family counts alike, whatever its number of"
            f" cases{told}"
        )
        return
    if count < 2:
        yield "all cases are of one family: nothing is said of cases of other kinds"
        return
    if count == len(pairing.families):
        return  # each case is a family of its own: whoever draws the one draws the other
    both = [one for one in checks if one.lower is not None and one.n["clusters"] < one.n["cases"]]
    fixed = [one for one in checks if one.lower is not None and one not in both]
    if both:
        names = ", ".join(name_metric(one.metric) for one in both)
        yield f"cases are drawn, and families of cases ({count}) too, and a claim has to hold for both: {names}{told}"
    if fixed or not both:
        why = "as the rules say" if rules.cluster != AUTO else f"fewer than {FEWEST_FAMILIES}"
        names = f" for {', '.join(name_metric(one.metric) for one in fixed)}" if both else ""
        yield (
            f"families of cases are held fixed{names} ({count} of them, {why}): nothing is said of other"
            f" families{'' if both else told}"
        )


LABELLED_LIMITS = {
    Labelled.NONE: "the judge {} labelled none of the training pairs",
    Labelled.SOME: "the judge {} also labelled the training pairs of some stages: what was learnt may be its errors",
    Labelled.ALL: "the judge {} also labelled the training pairs: what was learnt may be its errors",
    Labelled.UNKNOWN: "whether the judge {} labelled any training pairs is not known: no run here says who did",
}


def _tell_judge(match: Match, labelled: Labelled, *, reads_state: bool) -> Iterator[str]:
    """How the judge stands to what was trained, and whether another one could be asked."""
    (first, second), judging = match.sides, match.judging
    shared = sorted(first.other_judges & second.other_judges)
    told = LABELLED_LIMITS[labelled].format(judging.judge)
    yield f"{told}; it reads the world's end state" if reads_state else told
    if shared:
        yield f"other judges scored both sides too and may differ: {', '.join(shared)} (--judge NAME)"
    else:
        yield "no other judge scored both sides: how far the verdict rests on this one is not known"
    helping = judging.labels.get("helpfulness")
    if helping is not None and helping != judging.judge:
        yield f"helpfulness was scored by {helping}"


def _tell_data(match: Match, rules: GateSection) -> Iterator[str]:
    """What the numbers rest on."""
    pairing, (parent, child) = match.pairing, match.sides
    counts = {name: side.rollouts / max(len(side.cases), 1) for name, side in (("parent", parent), ("child", child))}
    if len(set(counts.values())) == 1:
        yield f"{counts['parent']:.3g} rollouts a case, averaged within a case first".replace("1 rollouts", "1 rollout")
    else:
        yield f"{counts['parent']:.3g} rollouts a case for the parent, {counts['child']:.3g} for the child"
    if pairing.scored != pairing.rollouts:
        yield (
            "some rollouts have no score and are in no mean: the coverage check counts them, and no check passes or"
            " fails that they could turn"
        )
    yield from _tell_chosen(match, rules)
    if not (parent.settings or {}).keys() & (child.settings or {}).keys():
        yield "the run does not note how its episodes were sampled: that both sides were sampled alike is not checked"
    if any(np.nansum(side["validity"].mean) > 0 for side in (pairing.parent, pairing.child)):
        yield (
            "some rollouts are unfit to be judged (cut off, looping, invented results, nothing done) and are scored all"
            " the same: the validity check has their share"
        )
    if rules.bound == "t":
        yield "the t bound passes falsely too often where drops are rare and severe; gaffke and bernstein do not"
    yield "cases, rollouts and judgements are random, weights are fixed: another training run may differ"


def _tell_chosen(match: Match, rules: GateSection) -> Iterator[str]:
    """What could have been tried until it suited: the error rate is that of a choice made before the data was seen."""
    cases, seeds = match.chosen["cases"], match.chosen["seeds"]
    if cases is not None:
        yield (
            f"the first {count_noun(cases, 'cases')} of {len(match.sides[0].cases)} by the digest of their ids were"
            " compared, as asked: the best of several such numbers passes falsely in more than"
            f" {exact_percent(rules.alpha)} of gates"
        )
    if seeds is not None and None not in seeds and seeds[0] != seeds[1]:
        yield (
            f"the child was rolled out with seed {seeds[1]}, the parent with {seeds[0]}: the best of several seeds"
            f" passes falsely in more than {exact_percent(rules.alpha)} of gates"
        )
