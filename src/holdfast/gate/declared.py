"""What the scores of foreign scorers were declared to mean, and whose are refused because nobody declared them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.errors import StudyError
from holdfast.exchange.scales import ScoreOption
from holdfast.gate.books import Book
from holdfast.records import Declaration
from holdfast.store.origins import Undeclared, spell

FOREIGN = "inspect:"  # the beginning of a judge's name whose scores came with a log
MOST_NAMED = 4


def resolve_names(book: Book, options: Sequence[ScoreOption]) -> dict[str, str]:
    """Under which name of a book's scores each objective stands that the user named.

    A plain name is one of the run's objectives or the key of one of its declarations; a declared one must be the run's
    own. Errors: StudyError naming what is there.
    """
    return {option.objective: _resolve(book, option) for option in options}


def _resolve(book: Book, option: ScoreOption) -> str:
    mine = [one for one in book.declarations or () if _is_meant(one, option)]
    if option.declaration is not None:
        return _require_same(book, option.declaration, mine)
    found = {one.objective for one in mine}
    if option.key in book.scores.objectives and option.scorer is None:
        found |= {option.key}
    if len(found) == 1:
        return found.pop()
    if found:
        raise StudyError(
            f"{book.place}: --score {option.objective}={option.key} may mean {' or '.join(sorted(found))}; name one"
        )
    waiting = [one for one in book.undeclared if option.key == one.key and option.scorer in (None, one.scorer)]
    if waiting:
        raise StudyError(f"{book.place}: {tell_undeclared(waiting, option.objective, book)}")
    keys = dict.fromkeys((*book.scores.objectives, *(one.key for one in book.declarations or ())))
    there = ", ".join(keys) or "nothing"
    raise StudyError(f"{book.place}: has no score {option.key!r}; scored there: {there}; name one of these")


def _is_meant(one: Declaration, option: ScoreOption) -> bool:
    return one.key == option.key and (None in (one.scorer, option.scorer) or one.scorer == option.scorer)


def _require_same(book: Book, wanted: Declaration, mine: Sequence[Declaration]) -> str:
    """The objective of the run's own declaration, where that is the wanted one. Errors: StudyError."""
    if not mine:
        waiting = [one for one in book.undeclared if one.key == wanted.key]
        if waiting:
            raise StudyError(f"{book.place}: {tell_undeclared(waiting, wanted.objective, book)}")
        there = ", ".join(book.scores.objectives) or "nothing"
        raise StudyError(
            f"{book.place}: declares no score {wanted.key!r}, scored there: {there}; give its name alone, or import the"
            f" logs with --score {spell(wanted)!r}"
        )
    other = next((one for one in mine if not same_meaning(one, wanted)), None)
    if other is not None:
        raise StudyError(
            f"{book.place}: the score {wanted.key!r} is declared as {spell(other)} ({other.source or 'by the user'}),"
            f" and --score says {spell(wanted)}; correct one, or import the logs into a new run"
        )
    return mine[0].objective


def same_meaning(one: Declaration, other: Declaration) -> bool:
    """Whether two declarations read a value alike, whoever made them and of whatever scorer."""
    return _meaning(one) == _meaning(other)


def _meaning(one: Declaration) -> Declaration:
    return replace(one, source="", unit="", objective="", scorer=None, task=None)


def declaration_for(book: Book, judge: str, objective: str, tasks: frozenset[str]) -> Declaration | None:
    """What a judge's scores of an objective were declared to mean; None for a judge whose scores are our own.

    ``tasks`` are the suites of the cases that it scored. Errors: StudyError where its scores came with a log and nobody
    declared their direction, or where several declarations would be pooled.
    """
    if not judge.startswith(FOREIGN):
        return None
    scorer = judge.removeprefix(FOREIGN)
    found = [
        one
        for one in book.declarations or ()
        if one.objective == objective
        and one.scorer in (None, scorer)
        and (one.task is None or one.task in tasks or not tasks)
    ]
    if not found:
        raise StudyError(
            f"{book.place}: the direction of {objective!r} of {judge} is not declared: an earlier version took its"
            f" values as they were; import the logs again with --score '{objective}=+KEY[LOW,HIGH]' where high is good,"
            f" or '{objective}=-KEY[LOW,HIGH]' where high is bad"
        )
    exact = [one for one in found if one.scorer == scorer] or found
    if any(not same_meaning(one, exact[0]) for one in exact):
        told = ", ".join(sorted({spell(one) for one in exact}))
        raise StudyError(
            f"{book.place}: {objective!r} of {judge} has several declarations ({told}), which are not pooled; import"
            " the logs of each task into a run of its own"
        )
    return exact[0]


def tell_undeclared(found: Sequence[Undeclared], objective: str, book: Book | None = None) -> str:
    """Which values were not taken because nobody declared them, and what to write. ``book`` may be a run or a log."""
    told = []
    for one in found[:MOST_NAMED]:
        seen = f": {', '.join(one.seen)}" if one.seen else ""
        told.append(f"{one.key!r} of {one.scorer} ({one.count:,} values{seen})")
    more = f" and {len(found) - MOST_NAMED} more" if found[MOST_NAMED:] else ""
    key = found[0].key
    again = "import the logs again, or give them here, with" if book is None or book.path.name == book.place else "give"
    return (
        f"the direction and range of {', '.join(told)}{more} are not declared, so no score was taken; {again}"
        f" --score '{objective}=+{key}[LOW,HIGH]' where high is good, or '{objective}=-{key}[LOW,HIGH]' where high is"
        " bad"
    )


def describe_declaration(one: Declaration, objective: str) -> str:
    """``safety = 'security' of injection_task_scorer, 0 to 1, high is bad (SOURCE), shown as 0 to 3 points``."""
    scorer = f" of {one.scorer}" if one.scorer else ""
    unit = f" {one.unit}" if one.unit else ""
    severe = "" if one.severe is None else f", severe from {one.severe:g} on"
    source = f" ({one.source})" if one.source else ""
    return (
        f"{objective} = {one.key!r}{scorer}, {one.low:g} to {one.high:g}{unit}, high is"
        f" {'good' if one.sign > 0 else 'bad'}{severe}{source}, shown as 0 to 3 points"
    )


def severe_points(one: Declaration | None, at_most: float) -> float | None:
    """Up to how many points an episode is a severe event; None where the source of the score names no such value."""
    if one is None:
        return at_most
    return None if one.severe is None else one.to_points(one.severe)


def require_same_declarations(first: Mapping[str, Declaration], second: Mapping[str, Declaration], names: str) -> None:
    """Refuse sides whose scores were declared differently. Errors: StudyError naming both declarations."""
    for objective in sorted({*first, *second}):
        one, other = first.get(objective), second.get(objective)
        if one is not None and other is not None and not same_meaning(one, other):
            raise StudyError(
                f"{names}: not comparable: {objective} is {spell(one)} for the parent and {spell(other)} for the"
                " child; import both with one declaration"
            )
