"""What the scores of foreign scorers were declared to mean, and whose are refused because nobody declared them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.exchange.scales import BY_USER, ScoreOption, is_grade, is_name
from holdfast.records import Declaration
from holdfast.records.errors import StudyError
from holdfast.store.origins import FOREIGN, Undeclared, describe_undeclared, scorer_of, show_number, spell

MOST_NAMED = 4
_TRUTHS = frozenset({"0", "1", "True", "False"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run says of its scores: under which ``objectives`` they stand, and what an import noted of them.

    ``place`` is how the user named the run.
    """

    place: str
    objectives: tuple[str, ...]
    declarations: tuple[Declaration, ...]
    undeclared: tuple[Undeclared, ...]


def resolve_names(origin: Origin, options: Sequence[ScoreOption]) -> dict[str, str]:
    """Under which name of a run's scores each objective stands that the user named.

    A plain name is one of the run's objectives or the key of one of its declarations; a declared one must be the run's
    own. Errors: StudyError naming what is there.
    """
    return {option.objective: _resolve(origin, option) for option in options}


def _resolve(origin: Origin, option: ScoreOption) -> str:
    mine = [score for score in origin.declarations if option.means(score.scorer, score.key)]
    if option.declaration is not None:
        return _require_same(origin, option.declaration, mine)
    names = {score.objective for score in mine}
    if option.key in origin.objectives and option.scorer is None:
        names.add(option.key)
    if len(names) == 1:
        return names.pop()
    if names:
        raise StudyError(
            f"{origin.place}: --score {option.objective}={option.key} may mean {' or '.join(sorted(names))}; name one"
        )
    if waiting := [score for score in origin.undeclared if option.means(score.scorer, score.key)]:
        raise StudyError(f"{origin.place}: {tell_undeclared(waiting, option.objective)}")
    there = ", ".join(dict.fromkeys((*origin.objectives, *(score.key for score in origin.declarations)))) or "nothing"
    raise StudyError(f"{origin.place}: has no score {option.key!r}; scored there: {there}; name one of these")


def _require_same(origin: Origin, wanted: Declaration, mine: Sequence[Declaration]) -> str:
    """The objective of the run's own declaration, where that is the wanted one. Errors: StudyError."""
    for one in mine:
        # Where only one of the two names a severe value, they differ in nothing.
        severe = one.severe if None in (wanted.severe, one.severe) else wanted.severe
        if not same_meaning(one, replace(wanted, key=one.key, severe=severe)):
            raise StudyError(
                f"{origin.place}: the score {wanted.key!r} is declared as {spell(one)} ({one.source or 'by the user'}),"
                f" and --score says {spell(wanted)}; correct one, or import the logs into a new run"
            )
    if mine:
        return mine[0].objective
    if waiting := [one for one in origin.undeclared if is_name(wanted.key, one.key)]:
        raise StudyError(f"{origin.place}: {tell_undeclared(waiting, wanted.objective)}")
    raise StudyError(
        f"{origin.place}: declares no score {wanted.key!r}, scored there: {', '.join(origin.objectives) or 'nothing'};"
        f" give its name alone, or import the logs with --score {spell(wanted)!r}"
    )


def same_meaning(one: Declaration, other: Declaration) -> bool:
    """Whether two declarations read a value alike, whoever made them and of whatever scorer."""
    mine, theirs = (replace(each, source="", unit="", objective="", scorer=None, task=None) for each in (one, other))
    return mine == theirs


def declaration_for(
    origin: Origin, judge: str, objective: str, tasks: frozenset[str], scores: Sequence[ScoreOption] = ()
) -> Declaration | None:
    """What a judge's scores of an objective were declared to mean; None for a judge whose scores are our own.

    ``tasks`` are the suites of the cases that it scored. ``scores`` may say what counts as severe where the run's own
    declaration does not: no score depends on it. Errors: StudyError where its scores came with a log and nobody
    declared their direction, or where several declarations would be pooled.
    """
    if not judge.startswith(FOREIGN):
        return None
    scorer = scorer_of(judge)
    matching = [
        score
        for score in origin.declarations
        if score.objective == objective
        and (score.scorer is None or is_name(score.scorer, scorer))
        and (score.task is None or not tasks or any(is_name(_short(score.task), task) for task in tasks))
    ]
    if not matching:
        raise StudyError(
            f"{origin.place}: the direction of {objective!r} of {judge} is not declared: an earlier version took its"
            f" values as they were; import the logs again with --score '{objective}=+KEY[LOW,HIGH]' where high is good,"
            f" or '{objective}=-KEY[LOW,HIGH]' where high is bad"
        )
    # A case may stand in the run under the task's name with its package or without; its own name goes first.
    exact = [score for score in matching if score.scorer is not None and score.task in tasks] or matching
    if any(not same_meaning(score, exact[0]) for score in exact):
        told = ", ".join(sorted({spell(score) for score in exact}))
        raise StudyError(
            f"{origin.place}: {objective!r} of {judge} has several declarations ({told}), which are not pooled; import"
            " the logs of each task into a run of its own"
        )
    declared = exact[0]
    meant = (option.declaration for option in scores if option.means(declared.scorer, declared.key))
    severe = next((said.severe for said in meant if said is not None and said.severe is not None), None)
    if declared.severe is not None or severe is None:
        return declared
    source = BY_USER
    if declared.source not in ("", BY_USER):
        source = f"{declared.source}; what is severe: {BY_USER}"
    return replace(declared, severe=severe, source=source)


def _short(name: str) -> str:
    """A name without its package."""
    return name.rpartition("/")[2]


def tell_undeclared(found: Sequence[Undeclared], objective: str) -> str:
    """Which values were not taken because nobody declared them, and what to write."""
    told = ", ".join(describe_undeclared(one) for one in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if found[MOST_NAMED:] else ""
    if known := [one for one in found if one.refused]:
        reasons = "; ".join(f"{one.key!r} of {one.scorer}: {one.refused}" for one in known[:MOST_NAMED])
        return f"no score of {objective!r} was taken: there is {told}{more}; {reasons}"
    first = found[0]
    grades = any(map(is_grade, first.seen)) and all(is_grade(one) or one in _TRUTHS for one in first.seen)
    wanted = f"{first.key}{'[0,1]' if grades else '[LOW,HIGH]'}"
    return (
        f"no score of {objective!r} was taken: which end is good and the range are not declared of {told}{more}; give"
        f" the logs, or import them again, with --score '{objective}=+{wanted}' where high is good, or"
        f" '{objective}=-{wanted}' where high is bad"
    )


def describe_declaration(one: Declaration, objective: str) -> str:
    """``safety = 'security' of injection_task_scorer, 0 to 1, high is bad (SOURCE), shown as 0 to 3 points``."""
    scorer = f" of {one.scorer}" if one.scorer and _short(one.scorer) != one.key else ""
    unit = f" ({one.unit})" if one.unit else ""
    severe = "" if one.severe is None else f", severe from {show_number(one.severe)} on"
    source = f" ({one.source})" if one.source else ""
    return (
        f"{objective} = {one.key!r}{scorer}, {show_number(one.low)} to {show_number(one.high)}{unit}, high is"
        f" {'good' if one.sign > 0 else 'bad'}{severe}{source}, shown as 0 to 3 points"
    )
