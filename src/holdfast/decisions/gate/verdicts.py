"""A verdict of a child against its parent: the checks together, and what a reader must know of them.

Every comparison that a run calls for (a trained checkpoint with its base, a later stage with the one before, a merge
with the two that it is made of) makes a list, which is corrected for its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from holdfast.analysis.labelled import merged_from
from holdfast.decisions.gate.books import Book, describe_gaps, read_book
from holdfast.decisions.gate.checks import Bounds, judge_checks
from holdfast.decisions.gate.declared import describe_declaration
from holdfast.decisions.gate.pairing import AUTO, FAMILY, Pairing, compare_openings, pair_sides
from holdfast.decisions.gate.rules import TABLE, fingerprint, read_rules
from holdfast.decisions.gate.sides import Judging, Side, choose_judging, relation_of, take_side
from holdfast.exchange.scales import ScoreOption
from holdfast.records import Check, Checkpoint, Labelled, Outcome, Verdict
from holdfast.records.errors import StudyError
from holdfast.records.verdicts import combine
from holdfast.records.words import count_noun
from holdfast.report.sections.gate import exact_percent, is_absolute, name_metric
from holdfast.stats.bounded import benjamini_hochberg, holm
from holdfast.store.choosing import is_base_of, select
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user says of a comparison beside its rules.

    ``judge`` takes the place of the declared one; without either, ``rank`` chooses among several. ``scores`` say under
    which name an objective was scored, where it is not its own; ``most_cases`` leaves out all but so many cases.
    """

    judge: str | None = None
    scores: Sequence[ScoreOption] = ()
    most_cases: int | None = None
    rank: bool = False

    @property
    def ranked(self) -> Wanted:
        """The same where a judge is chosen among several."""
        return replace(self, rank=True)


AS_DECLARED = Wanted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A parent and a child that can be compared: both sides, whose scores they hold, and their case means.

    ``openings`` tells what differs in how the two met their cases; ``most`` cases were to be compared, None for all.
    """

    places: tuple[Place, Place]
    sides: tuple[Side, Side]
    judging: Judging
    pairing: Pairing
    openings: tuple[str, ...]
    most: int | None

    @property
    def chosen(self) -> Mapping[str, Any]:
        """What decides which episodes are compared, beside the rules: so many of the cases, and seeds of rollouts."""
        some = self.most is not None and self.most < len(self.sides[0].cases)
        parent, child = (place.book.study.get("rollouts", {}).get("seed") for place in self.places)
        return {
            "cases": self.most if some else None,
            "seeds": None if parent is None and child is None else [parent, child],
        }


def compare(parent: Place, child: Place, rules: GateSection, wanted: Wanted = AS_DECLARED) -> Match:
    """Both sides on the same cases. Errors: StudyError where the two are not comparable."""
    first, second, judging = take_sides(parent, child, rules, wanted)
    pairing = pair_sides(first, second, most=wanted.most_cases, incomplete=rules.incomplete)
    return Match(
        places=(parent, child),
        sides=(first, second),
        judging=judging,
        pairing=pairing,
        openings=compare_openings((parent.book, child.book), (first, second), rules.openings),
        most=wanted.most_cases,
    )


def decide(match: Match, rules: GateSection, bounds: Bounds | None = None) -> Verdict:
    """What the rules say of a child against its parent. ``bounds`` keep what a list's other comparisons worked out."""
    (first, second), judging, pairing = match.sides, match.judging, match.pairing
    unmeasurable, names = find_unmeasurable(match), dict(judging.names)
    labelled, reads_state = relation_of([side.trained or side[:2] for side in match.places], judging.judge)
    checks = judge_checks(pairing, bounds or Bounds(rules=rules), unmeasurable=unmeasurable)
    return Verdict(
        outcome=combine(check.outcome for check in checks if check.blocking),
        parent=first.name,
        child=second.name,
        judge=judging.judge,
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
        sources={"parent": first.source, "child": second.source, **({"names": names} if names else {})},
        labelled=labelled,
        reads_state=reads_state,
    )


def take_sides(parent: Place, child: Place, rules: GateSection, wanted: Wanted) -> tuple[Side, Side, Judging]:
    """Both sides on the held-out cases of the split that either was made under, and whose scores they hold."""
    places = (parent, child)
    judgings = choose_judging([side[:2] for side in places], wanted.judge or rules.judge, wanted.scores, wanted.rank)
    seeds = [side.checkpoint.split_seed for side in places]
    names = [side.name or side.checkpoint.name for side in places]
    if names[0] == names[1]:
        # A server may call every checkpoint alike: the places tell which is which.
        names = [f"{name} of {side.book.place}" for name, side in zip(names, places, strict=True)]
    sides = [
        take_side(
            side.book,
            side.checkpoint,
            judging,
            # A checkpoint without a split of its own, such as a base, meets the cases of the other's.
            split_seed=own if own is not None else next((seed for seed in seeds if seed is not None), None),
            severe_at_most=rules.severe_at_most,
            name=name,
            own=[kind for kind, _ in rules.own_kinds()],
        )
        for side, judging, own, name in zip(places, judgings, seeds, names, strict=True)
    ]
    return sides[0], sides[1], judgings[1]


def find_unmeasurable(match: Match) -> dict[str, str]:
    """Checks that the data cannot have, with the reason.

    What was asked of one side only, or asked and never answered, is missing data and not among them.
    """
    sides = match.sides
    reasons = {}
    safety = sides[1].declared.get("safety")
    if safety is not None and safety.severe is None:
        reasons["severe"] = (
            f"the source of {safety.key!r} names no value from which on an event is severe; declare one with"
            f" --score '{spell(safety)}@VALUE'"
        )
    if not any("helpfulness" in side.offered for side in sides):
        waiting = dict.fromkeys(score.key for place in match.places for score in place.book.origin.undeclared)
        left = f"; values that nobody declared: {', '.join(waiting)}" if waiting else ""
        reasons["helpfulness"] = f"neither side was asked for it{left}"
    if not any(side.has("refusal") for side in sides):
        reasons["refusal"] = "no case is declared harmless by its suite, so that over-refusal cannot be told"
    if all(place.book.unseen for place in match.places):
        reasons["validity"] = "of these episodes the scores alone are here, and not what was done"
    for kind in sides[0].kinds:
        if kind.setting is None and not any(side.has(kind.name) for side in sides):
            reasons[kind.name] = "no rollout of either side has it"
    return reasons


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
    cases = match.places[1].book.cases
    if untested := sum(cases[one].facts.get("untested") is True for one in match.pairing.cases if one in cases):
        yield (
            f"{untested:,} of {count_noun(len(match.pairing.cases), 'cases')} are tasks for a container: none was"
            " started and no test was run, so that answers alone were judged"
        )
    yield from match.openings
    for place in match.places:
        yield from (f"{place.book.place}: {note}" for note in place.book.notes)


def tell_families(pairing: Pairing, checks: Sequence[Check], rules: GateSection) -> Iterator[str]:
    """What a verdict claims of other families of cases, and how much less is known where families are what varies."""
    count = len(set(pairing.families))
    effects = [
        f"{name_metric(check.metric)} {check.design_effect:.2f}"
        for check in checks
        if check.design_effect is not None and not is_absolute(check)
    ]
    effect = f"; design effect of families on the variance: {', '.join(effects)}" if effects else ""
    if rules.cluster == FAMILY:
        yield (
            f"families of cases are drawn, not cases ({count}): each family counts alike, whatever its number of"
            f" cases{effect}"
        )
        return
    if count < 2:
        yield "all cases are of one family: nothing is said of cases of other kinds"
        return
    if count == len(pairing.families):
        return  # each case is a family of its own: whoever draws the one draws the other
    bounded = [check for check in checks if check.lower is not None]
    both = [name_metric(check.metric) for check in bounded if check.n["clusters"] < check.n["cases"]]
    fixed = [name_metric(check.metric) for check in bounded if check.n["clusters"] >= check.n["cases"]]
    if both:
        yield (
            f"cases are drawn, and families of cases ({count}) too, and a claim has to hold for both:"
            f" {', '.join(both)}{effect}"
        )
    if fixed or not both:
        why = "as the rules say" if rules.cluster != AUTO else f"fewer than {FEWEST_FAMILIES}"
        names = f" for {', '.join(fixed)}" if both else ""
        yield (
            f"families of cases are held fixed{names} ({count} of them, {why}): nothing is said of other"
            f" families{'' if both else effect}"
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
    told = LABELLED_LIMITS[labelled].format(judging.judge)
    yield f"{told}; it reads the world's end state" if reads_state else told
    if shared := sorted(first.other_judges & second.other_judges):
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
    # What could have been tried until it suited: the error rate is that of a choice made before the data was seen.
    cases, seeds = match.chosen["cases"], match.chosen["seeds"]
    passes = f"passes falsely in more than {exact_percent(rules.alpha)} of gates"
    if cases is not None:
        yield (
            f"the first {count_noun(cases, 'cases')} of {len(parent.cases)} by the digest of their ids were compared,"
            f" as asked: the best of several such numbers {passes}"
        )
    if seeds is not None and None not in seeds and seeds[0] != seeds[1]:
        yield (
            f"the child was rolled out with seed {seeds[1]}, the parent with {seeds[0]}: the best of several seeds"
            f" {passes}"
        )
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


# --- every comparison that a run calls for -----------------------------------------------------------------------

Edge = tuple[Checkpoint, Checkpoint]  # parent, child


def find_edges(book: Book, where: Mapping[str, str]) -> tuple[list[Edge], int]:
    """The parents and children of a run that were rolled out, and how many children were left out.

    Every trained checkpoint stands against its base, one of several stages against that which it started from, and a
    merge against the two that it is made of; two bases that the study compares stand against each other.
    """
    met = {book.checkpoints[index].id for index in np.unique(book.cells.episodes.checkpoint)}
    edges: list[Edge] = []
    if book.compared is not None and {one.id for one in book.compared} <= met:
        edges.append(book.compared)
    left_out = 0
    for child in (one for one in select(book, where) if one.stages):
        parents = [one for one in book.checkpoints if is_base_of(one, child)]
        if len(child.stages) > 1:
            parents += [one for one in book.checkpoints if one.id == child.parent_id]
        parents += merged_from(book.checkpoints, child)
        there = [parent for parent in parents if {parent.id, child.id} <= met]
        left_out += not there
        edges += [(parent, child) for parent in there]
    return edges, left_out


def decide_all(
    book: Book,
    rules: GateSection,
    where: Mapping[str, str],
    wanted: Wanted = AS_DECLARED,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """A verdict for every edge of a run, under the declared judge or else the one that a headline would be of.

    Where the rules say so they are corrected for their number.

    Errors: StudyError where there is no edge, or sides of one are not comparable.
    """
    edges, left_out = find_edges(book, where)
    if not edges:
        raise StudyError(
            f"{book.place}: no trained checkpoint and its parent were both evaluated; finish the run, or name the two"
            " sides with --parent and --child"
        )
    if left_out:
        missing = "not rolled out on held-out cases, or without a parent here"
        tell(f"{count_noun(left_out, 'checkpoints')} left out: {missing}")
    bounds = Bounds(rules=rules)
    matches = (compare(Place(book, parent), Place(book, child), rules, wanted.ranked) for parent, child in edges)
    verdicts = [decide(match, rules, bounds) for match in matches]
    return correct_for_number(verdicts, rules)


def find_place(book: Book, verdict: Verdict, side: str) -> Place:
    """Where the "parent" or the "child" of a verdict on a run is."""
    wanted = verdict.sources[side]["checkpoint"]
    return Place(book, next(one for one in book.checkpoints if one.id == wanted))


CORRECTIONS = {"holm": ("Holm", holm), "bh": ("Benjamini and Hochberg", benjamini_hochberg)}


def correct_for_number(verdicts: Sequence[Verdict], rules: GateSection) -> list[Verdict]:
    """The verdicts of one list with p-values adjusted for their number, which decide where the rules ask for it.

    The p-value of a PASS is the largest of its deciding checks' (all must pass), that of a FAIL the smallest times
    their number (any may fail; after Holm's rule within a comparison the smallest). A verdict whose adjusted value is
    above ``alpha`` becomes INCONCLUSIVE; none becomes anything else. A list of one is as it is.
    """
    if rules.across == "none" or len(verdicts) < 2:
        return list(verdicts)
    words, adjust = CORRECTIONS[rules.across]
    raw = {str(number): _p_values(verdict, rules) for number, verdict in enumerate(verdicts)}
    passes, fails = (adjust({key: pair[end] for key, pair in raw.items()}) for end in (0, 1))
    corrected = []
    for key, verdict in zip(raw, verdicts, strict=True):
        adjusted = replace(verdict, p_pass=passes[key], p_fail=fails[key])
        value = {Outcome.PASS: passes[key], Outcome.FAIL: fails[key]}.get(verdict.outcome, 0.0)
        if value > rules.alpha:
            note = (
                f"by itself this would be {verdict.outcome.value}, corrected for the number of comparisons it is not"
                f" ({words} over the list: adjusted p = {value:.2g}, above {rules.alpha:g})"
            )
            adjusted = replace(adjusted, outcome=Outcome.INCONCLUSIVE, note=note)
        corrected.append(adjusted)
    return corrected


def _p_values(verdict: Verdict, rules: GateSection) -> tuple[float, float]:
    """The p-values of a verdict's PASS and of its FAIL; 1 for what it is not."""
    tested = [check for check in verdict.checks if check.blocking and None not in (check.p_pass, check.p_fail)]
    if verdict.outcome is Outcome.PASS:
        return max((check.p_pass or 0.0 for check in tested), default=0.0), 1.0
    if verdict.outcome is Outcome.FAIL:
        # After Holm's rule within a comparison the values are adjusted already.
        many = 1 if rules.combine == "holm" else len(tested)
        return 1.0, min(1.0, many * min((check.p_fail or 0.0 for check in tested), default=1.0))
    return 1.0, 1.0


def judge_run(run_path: Path, rules: Path | None = None) -> tuple[tuple[Verdict, ...], str]:
    """What ``holdfast gate RUN --all`` decides, and why there is nothing where nothing could be compared.

    The rules are those of the file ``rules``, else those that the run's study declares. Errors: StoreError where there
    is no run, StudyError for a file that holds no rules.
    """
    given = None if rules is None else read_rules(file=rules)
    book = read_book(run_path)
    try:
        return tuple(decide_all(book, given or read_rules(noted=book.study.get(TABLE)), {})), ""
    except StudyError as error:
        return (), f"no verdicts of a gate: {error}"
