"""Two sides, case by case: refused where they are not comparable, else aligned in an order that no score decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from holdfast.analysis.panel import require_same_cases
from holdfast.decisions.gate.books import Book, describe_log
from holdfast.decisions.gate.declared import same_meaning
from holdfast.decisions.gate.sides import Side
from holdfast.exchange.openings import digest_opening, first_difference, first_difference_of_tools
from holdfast.records import Case, Ending, content_id
from holdfast.records.arrays import Bools, Floats
from holdfast.records.errors import StudyError
from holdfast.records.words import count_noun
from holdfast.report.words.inert import cut_line
from holdfast.stats.bounded import cluster_means, order_cases
from holdfast.store import Store
from holdfast.store.origins import spell
from holdfast.study.rules import CHECK_KINDS, FEWEST_FAMILIES, CheckKind, GateSection
from holdfast.study.sections import OBJECTIVES
from holdfast.study.study import changed_keys

NAMED_SETTINGS = 3
SETTING_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One metric of one side by case: arrays in the order of the cases.

    ``mean`` is over what has a value, NaN where nothing has. ``low`` and ``high`` are the means with everything that is
    missing at the metric's least and at its largest value, NaN in a case that the metric is not due of. A metric is due
    of every rollout of a case of which either side was asked for it. ``events`` says in which cases any rollout is
    above 0, and ``lost`` is how many rollouts lack a value or a part of their readings.
    """

    mean: Floats
    low: Floats
    high: Floats
    events: Bools
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Two sides on the same cases: a ``Reading`` of each metric, by the name of its check.

    ``met`` is how many of the cases both have an episode of, ``absent`` how many of each side's rollouts are not there,
    and ``broken`` says of which sides the logs are not whole.
    """

    cases: tuple[str, ...]
    families: tuple[str, ...]
    parent: Mapping[str, Reading]
    child: Mapping[str, Reading]
    rollouts: Mapping[str, int]
    scored: Mapping[str, int]
    met: int
    absent: Mapping[str, int]
    broken: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The id of what was compared: every case with its means on both sides, and with what is missing."""
        whole = hashlib.sha256(content_id("gate data", self.cases).encode())
        for side in (self.parent, self.child):
            for name, reading in sorted(side.items()):
                for values in (reading.mean, reading.low, reading.high):
                    # Rounded, so that the order of a sum leaves no trace; no mean is below 0.
                    whole.update(
                        name.encode() + np.where(np.isnan(values), -1.0, np.round(values, 9)).astype("<f8").tobytes()
                    )
        return whole.hexdigest()[:32]


def pair_sides(parent: Side, child: Side, *, most: int | None = None, incomplete: str = "count") -> Pairing:
    """The two sides aligned by case, ``most`` of them at most: the first by the digest of their ids.

    ``incomplete`` says what becomes of what their logs lack, as in the rules. Errors: StudyError where they are the
    same episodes, or not comparable: the difference is named.
    """
    parent, child = fill_absent(parent, child, incomplete)
    require_comparable(parent, child)
    names = order_cases(parent.cases)[:most]
    families = dict(zip(parent.cases, parent.families, strict=True))
    due = {metric: parent.asked_cases(metric) | child.asked_cases(metric) for metric in parent.measured}
    kept = set(names)
    sides = {"parent": parent, "child": child}
    readings = {
        word: {kind.name: _read(side, kind, names, due[kind.name]) for kind in side.kinds}
        for word, side in sides.items()
    }
    counts = {word: _count(side, kept, due) for word, side in sides.items()}
    return Pairing(
        cases=tuple(names),
        families=tuple(families[name] for name in names),
        **readings,
        rollouts={word: rollouts for word, (rollouts, _, _) in counts.items()},
        scored={word: scored for word, (_, scored, _) in counts.items()},
        met=len(kept & parent.met & child.met),
        absent={word: absent for word, (_, _, absent) in counts.items()},
        broken=tuple(word for word, side in sides.items() if side.gaps.broken and incomplete == "count"),
    )


def _read(side: Side, kind: CheckKind, names: Sequence[str], due: set[str]) -> Reading:
    """What a check reads of a side in these cases; it is due of those in ``due``."""
    metric = kind.name
    places = side.places
    order = np.array([places[name] for name in names], dtype=np.int64)
    asked = np.array([name in due for name in names], dtype=np.bool_)
    low, high = (np.where(asked, side.filled_means(metric, end)[order], np.nan) for end in kind.span)
    above = side.case[np.nan_to_num(side.measured[metric].value) > 0]
    return Reading(
        mean=np.where(asked, side.case_means(metric)[order], np.nan),
        low=low,
        high=high,
        events=np.isin(order, above) & asked,
        lost=int((side.lost(metric)[side.inside(due.intersection(names))] > 0).sum()),
    )


def average_families(values: Floats, names: Sequence[str]) -> Floats:
    """The mean of each family, in the order of the digests of the families' names."""
    # Not as they are met: the first case of a family depends on which cases have scores.
    rank = {name: place for place, name in enumerate(order_cases(sorted(set(names))))}
    order = sorted(range(len(names)), key=lambda index: rank[names[index]])
    return cluster_means(values[order], [names[index] for index in order])


def _count(side: Side, kept: set[str], due: Mapping[str, set[str]]) -> tuple[int, int, int]:
    """A side's rollouts in these cases, those with every score that is due of them, and those that are not there."""
    inside = side.inside(kept)
    scored = inside.copy()
    for objective in OBJECTIVES:
        scored &= np.isfinite(side.measured[objective].value) | ~side.inside(due[objective])
    return int(inside.sum()), int(scored.sum()), int(inside[len(side.trajectories) :].sum())


# --- whether two sides may be compared ---------------------------------------------------------------------------


class Comparing(NamedTuple):
    """What the two sides of a comparison are called, what to do where they are one, and whether settings must agree."""

    words: tuple[str, str]
    remedy: str
    settings: bool


GATE = Comparing(("parent", "child"), "name two others, or roll the child out anew with --again", True)
# A watch holds what is deployed against its baseline, whatever it was deployed with.
WATCH = Comparing(("baseline", "look"), "watch other checkpoints", False)


def require_comparable(first: Side, second: Side, how: Comparing = GATE) -> None:
    """Refuse two sides that are the same episodes, or that differ in more than the weights. Errors: StudyError.

    A case that one of them lacks because its logs broke off is none that differs.
    """
    names = f"{first.name} and {second.name}"
    if set(first.trajectories) & set(second.trajectories):
        raise StudyError(f"{names}: both sides are the same episodes, which says nothing; {how.remedy}")
    require_same_cases(
        set(first.cases) - find_lost(second, first).keys(),
        set(second.cases) - find_lost(first, second).keys(),
        names=(first.name, second.name),
        words=how.words,
        labels={name: label for side in (second, first) for name, label in zip(side.cases, side.labels, strict=True)},
    )
    for objective in sorted(first.declared.keys() & second.declared.keys()):
        declared = first.declared[objective], second.declared[objective]
        if not same_meaning(*declared):
            raise StudyError(
                f"{names}: not comparable: {objective} is {spell(declared[0])} for the {how.words[0]} and"
                f" {spell(declared[1])} for the {how.words[1]}; import both with one declaration"
            )
    for objective in sorted(first.rubrics.keys() & second.rubrics.keys()):
        rubrics = first.rubrics[objective], second.rubrics[objective]
        if rubrics[0] != rubrics[1]:
            # What made the rubric differ, such as the judge's model, says more than its id.
            _require_same_settings(first, second)
            raise StudyError(
                f"{names}: not comparable: {objective} was scored under rubric {rubrics[0][:8]} for the {how.words[0]}"
                f" and {rubrics[1][:8]} for the {how.words[1]}; judge both sides under one rubric"
            )
    if how.settings:
        _require_same_settings(first, second)


def _require_same_settings(parent: Side, child: Side) -> None:
    if parent.settings is None or child.settings is None or parent.settings is child.settings:
        return
    first, second = _decisive(parent), _decisive(child)
    shared = {key for key in first if key in second}
    changes = changed_keys({key: first[key] for key in shared}, {key: second[key] for key in shared})
    if changes:
        # A changed key comes with both values, which may be whole prompts.
        told = [cut_line(change, SETTING_LENGTH) for change in changes[:NAMED_SETTINGS]]
        raise StudyError(
            f"{parent.name} and {child.name}: not comparable: {'; '.join(told)} (parent → child); evaluate and judge"
            " both under the same settings"
        )


def _decisive(side: Side) -> Mapping[str, Any]:
    """The settings that decided a side's episodes and scores, each key that may be compared at the top."""
    settings = dict(side.settings or {})
    judges, served = settings.pop("judges", {}), settings.pop("served", {})
    mine = {name: section for name, section in judges.items() if name in side.judges}
    spoke = {section.get("model") for section in mine.values()} | {settings.get("world", {}).get("model")}
    opened = {(one.get("opened") or {}).get("name") for one in (*mine.values(), settings.get("world", {}))}
    snapshots = {
        f"served for {name}": models
        for name, models in served.items()
        if models and name.partition(" ")[2] in (spoke | opened) - {None}
    }
    return {**settings, **{f"judges.{name}": section for name, section in mine.items()}, **snapshots}


# --- episodes that are not there: an absent rollout is due and unscored as any other without a score. Whoever breaks
# off early loses the episodes that take longest, and these are no random ones.

ABSENT = "absent sample "  # the beginning of the id of a case that no log has an episode of


def fill_absent(parent: Side, child: Side, how: str) -> tuple[Side, Side]:
    """Both sides with every rollout that is due of them, those that are not there without any value.

    A run without logs has as many rollouts of a case as its study says, else as its parent has. ``how`` is the rules'
    ``incomplete``: with "accept" nothing is added, and cases that one side's logs lack are left out of both. Errors:
    StudyError with "refuse" where a log is not whole.
    """
    for side, word in ((parent, "parent"), (child, "child")):
        if how == "refuse" and side.gaps.broken:
            raise StudyError(
                f"{parent.name} and {child.name}: {describe_log(side.gaps.broken[0], word)}; finish the evaluation"
                " (`inspect eval-retry`), or compare with --incomplete count or accept"
            )
    lost = [find_lost(side, other) for side, other in ((parent, child), (child, parent))]
    if how == "accept":
        return _keep(parent, set(parent.cases) - lost[1].keys()), _keep(child, set(child.cases) - lost[0].keys())
    own = dict(zip(parent.cases, np.bincount(parent.case, minlength=len(parent.cases)).tolist(), strict=True))
    rows = {row[0]: row for side in (parent, child) for row in zip(side.cases, side.families, side.labels, strict=True)}
    parent, child = (
        side.extend([rows[name] for name in names], list(names.values()))
        for side, names in zip((parent, child), lost, strict=True)
    )
    parent, child = _add_nowhere(parent, child, lost)
    return _fill(parent, {}), _fill(child, own)


def find_lost(side: Side, other: Side) -> dict[str, int]:
    """Cases of the other side that this one's logs were to hold, with the rollouts that each lacks."""
    places = side.places
    missing = {name: label for name, label in zip(other.cases, other.labels, strict=True) if name not in places}
    lost = {name: side.gaps.samples[label] for name, label in missing.items() if label in side.gaps.samples}
    rest = [name for name in missing if name not in lost]
    return lost | (dict(zip(rest, side.gaps.unnamed, strict=False)) if len(rest) <= len(side.gaps.unnamed) else {})


def _add_nowhere(parent: Side, child: Side, lost: Sequence[Mapping[str, int]]) -> tuple[Side, Side]:
    """Both sides with the samples that neither has an episode of."""
    known = {*parent.labels, *child.labels}
    named: dict[str, int] = {}
    unnamed: tuple[int, ...] = ()
    for side, found in zip((parent, child), lost, strict=True):
        named |= {name: epochs for name, epochs in side.gaps.samples.items() if name not in known}
        used = sum(side.labels[side.places[name]] not in side.gaps.samples for name in found)
        unnamed = max(unnamed, side.gaps.unnamed[used:], key=len)
    named |= {f"#{number}": epochs for number, epochs in enumerate(unnamed, 1)}
    family = parent.families[0] if parent.families else ""
    cases = [(f"{ABSENT}{name}", family, name) for name in sorted(named)]
    counts = [named[name] for _, _, name in cases]
    return parent.extend(cases, counts), child.extend(cases, counts)


def _fill(side: Side, other: Mapping[str, int]) -> Side:
    """A side with the absent rollouts of cases that it has some of. ``other`` has the parent's count by case."""
    there = np.bincount(side.case, minlength=len(side.cases)).tolist()
    absent = np.zeros(len(side.cases), dtype=np.int64)
    for place, name in enumerate(side.cases):
        if side.gaps.logged:
            absent[place] = side.gaps.short.get(name, 0)
        elif not name.startswith(ABSENT):
            absent[place] = max((side.expected or other.get(name, 0)) - there[place], 0)
    return side.lengthen(absent)


def _keep(side: Side, names: set[str]) -> Side:
    """A side of some of its cases."""
    if names >= set(side.cases):
        return side
    kept = np.array([name in names for name in side.cases], dtype=np.bool_)
    rows = np.flatnonzero(kept[side.case])
    return replace(
        side,
        cases=tuple(compress(side.cases, kept)),
        families=tuple(compress(side.families, kept)),
        labels=tuple(compress(side.labels, kept)),
        case=(np.cumsum(kept) - 1)[side.case[rows]],
        rows=side.rows[rows],
        trajectories=tuple(side.trajectories[row] for row in rows),
        measured={name: readings.at(rows) for name, readings in side.measured.items()},
    )


# --- what is asked of two sides, and what it is answered from ----------------------------------------------------

CASE, FAMILY, AUTO = "case", "family", "auto"
SEVERE = "severe"  # the check of which it is told in how many cases it happened
Reach = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A check's number that is held against its limit ``margin``: a change of a metric, or the child's own mean."""

    kind: CheckKind
    margin: float

    @property
    def metric(self) -> str:
        """The check whose readings it is of."""
        return self.kind.ceiling_of or self.kind.name

    @property
    def absolute(self) -> bool:
        """Whether the child's own mean is held against the limit."""
        return self.kind.ceiling_of is not None

    @property
    def reach(self) -> Reach:
        """Between which values the number lies in any case."""
        least, largest = self.kind.span
        return (least, largest) if self.absolute else (least - largest, largest - least)

    @property
    def edge(self) -> float:
        """The value beyond which it is a loss."""
        return -self.margin if self.kind.worse == "lower" else self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a question is answered from.

    ``scored`` has an array for each way of ``drawn``: the values by case, or their means by family. ``least`` and
    ``most`` are the same of every case that the metric is due of, with what is missing where it makes the value least
    and largest; they are empty where nothing is missing. ``change`` is the mean over cases (over families where those
    alone are drawn). ``events`` are cases with a severe event by side, ``lost`` rollouts without a value.
    """

    question: Question
    drawn: tuple[str, ...]
    scored: tuple[Floats, ...]
    least: tuple[Floats, ...]
    most: tuple[Floats, ...]
    parent: float | None
    child: float | None
    cases: int
    families: int
    lost: Mapping[str, int]
    events: Mapping[str, int]
    design_effect: float | None

    @property
    def change(self) -> float | None:
        """The mean that is bounded, where it is a change."""
        return None if self.question.absolute or not self.cases else float(self.scored[0].mean())

    @property
    def draws(self) -> int:
        """The fewest values that any of the bounds is taken of."""
        return min(map(len, self.scored))


def ask_all(rules: GateSection) -> tuple[Question, ...]:
    """Every question of the rules, in the order of the checks."""
    limits = [(kind, getattr(rules, kind.setting)) for kind in CHECK_KINDS if kind.read and kind.setting]
    limits += rules.own_kinds()
    return tuple(Question(kind=kind, margin=limit) for kind, limit in limits if limit is not None)


def gather(pairing: Pairing, question: Question, cluster: str) -> Evidence:
    """The values of a question on the cases that have it on both sides (of the child alone, where it is absolute)."""
    child = pairing.child[question.metric]
    sides = {"child": child} if question.absolute else {"parent": pairing.parent[question.metric], "child": child}
    if question.absolute:
        values, low, high = child.mean, child.low, child.high
    else:
        parent = sides["parent"]
        values, low, high = child.mean - parent.mean, child.low - parent.high, child.high - parent.low
    there, due = np.isfinite(values), np.isfinite(low)
    families = [np.array(pairing.families, dtype=object)[mask] for mask in (there, due)]
    drawn = choose_draws(families[1].tolist(), cluster)
    lost = {name: side.lost for name, side in sides.items()}
    missing = any(lost.values())

    def draw(found: Floats, names: Sequence[str]) -> tuple[Floats, ...]:
        return tuple(average_families(found, names) if way == FAMILY and len(found) else found for way in drawn)

    means = {name: draw(side.mean[there], families[0].tolist())[0] for name, side in sides.items()}
    events = {name: int(side.events[there].sum()) for name, side in sides.items()}
    return Evidence(
        question=question,
        drawn=drawn,
        scored=draw(values[there], families[0].tolist()),
        least=draw(low[due], families[1].tolist()) if missing else (),
        most=draw(high[due], families[1].tolist()) if missing else (),
        parent=float(means["parent"].mean()) if "parent" in means and there.any() else None,
        child=float(means["child"].mean()) if there.any() else None,
        cases=int(there.sum()),
        families=len(set(families[0].tolist())),
        lost=lost,
        events=events if question.metric == SEVERE else {},
        design_effect=find_design_effect(values[there], families[0].tolist()),
    )


def choose_draws(families: Sequence[str], cluster: str) -> tuple[str, ...]:
    """What is taken as drawn, by the rules' ``cluster`` and the families of the cases that a question is due of.

    "auto" takes cases, and families as well where there are ``FEWEST_FAMILIES`` of them or more: a claim then has to
    hold for both. Nothing but the number of families decides, which no score has a part in.
    """
    if cluster != AUTO:
        return (cluster,)
    count = len(set(families))
    return (CASE, FAMILY) if FEWEST_FAMILIES <= count < len(families) else (CASE,)


def find_design_effect(values: Floats, families: Sequence[str]) -> float | None:
    """The variance of the mean over cases with families drawn, over that with cases drawn.

    The first is the usual one for a mean of clusters of unequal size, the sum of squares of the families' summed
    deviations times G/(G − 1) (Kish 1965, chapter 5). None for fewer than two families, families of one case each, and
    values that do not vary.
    """
    n, count = len(values), len(set(families))
    if count < 2 or count == n or float(np.ptp(values)) == 0:
        return None
    sums = np.bincount(np.unique(families, return_inverse=True)[1], weights=values - values.mean())
    by_family = float((sums**2).sum()) * count / (count - 1)
    return by_family / (n * float(values.var(ddof=1)))


# --- whether both met their cases with the same words. A system message that holds the date makes no other case of
# them; what else differs is another experiment.


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How one side met its cases: the opening that its run holds, and what an import noted of its episodes.

    ``noted`` has the first difference of an episode's opening from the run's and ``digests`` the openings' own digests,
    by case; ``failed`` are cases of which no episode came as far as the agent's first words, so that their opening is
    not known in full.
    """

    cases: Mapping[str, Case]
    noted: Mapping[str, str]
    digests: Mapping[str, set[str]]
    failed: frozenset[str]
    tools_known: bool


class Difference(NamedTuple):
    """How the openings of one case differ: the first difference in words, and whether it is more than dates."""

    case: str
    told: str
    real: bool


def compare_openings(books: tuple[Book, Book], sides: tuple[Side, Side], accepted: str) -> tuple[str, ...]:
    """What must be told of openings that differ between the sides; nothing where none does.

    ``accepted`` is the rules' ``openings``: "any" accepts every difference. Errors: StudyError where one is more than
    dates, times and numbers, with the first difference.
    """
    differing = list(_find_differing(*(read_openings(*both) for both in zip(books, sides, strict=True))))
    if not differing:
        return ()
    real = [one for one in differing if one.real]
    first = (real or differing)[0]
    label = sides[1].labels[sides[1].places[first.case]]
    shown = f"(child against parent, first: sample {label}: {first.told})"
    if real and accepted != "any":
        raise StudyError(
            f"{sides[0].name} and {sides[1].name}: not comparable: {count_noun(len(real), 'cases')} open with other"
            f" words or tools {shown}; evaluate both with the same opening, or accept it with --accept-openings"
        )
    kind = "other words or tools, as accepted" if real else "another date, time, number or id"
    return (f"{count_noun(len(real or differing), 'cases')} open with {kind} {shown}",)


def read_openings(book: Book, side: Side) -> Opened:
    """How a side met its cases. Only episodes that came with logs are read again: all others open as their case."""
    cases = {name: book.cases[name] for name in side.cases if name in book.cases}
    rows = side.rows
    called = bool((book.cells.episodes.calls[rows] + book.cells.episodes.invalid_calls[rows]).any())
    noted: dict[str, str] = {}
    digests: dict[str, set[str]] = {}
    met: set[str] = set()
    if book.logs:
        with Store(book.path) as store:
            for one in store.trajectories(side.trajectories):
                detail = one.detail or {}
                if difference := detail.get("opening"):
                    noted.setdefault(one.case_id, str(difference))
                met.add(one.case_id)
                if one.ending is not Ending.ERROR or any(message.role == "assistant" for message in one.messages):
                    opening = cases[one.case_id].messages if one.case_id in cases else ()
                    own = str(detail.get("opening_digest") or digest_opening(opening))
                    digests.setdefault(one.case_id, set()).add(own)
    return Opened(
        cases=cases,
        noted=noted,
        digests=digests,
        failed=frozenset(met - digests.keys()),
        # A log without events does not say which tools there were.
        tools_known=any(case.tools for case in cases.values()) or not called,
    )


def _find_differing(parent: Opened, child: Opened) -> Iterator[Difference]:
    with_tools = parent.tools_known and child.tools_known
    for name, before in parent.cases.items():
        after = child.cases.get(name)
        if after is None or name in parent.failed | child.failed:
            continue
        told = first_difference(after.messages, before.messages) or child.noted.get(name) or parent.noted.get(name)
        if told is not None and (parent.noted.get(name) != child.noted.get(name) or after.messages != before.messages):
            mine = parent.digests.get(name) or {digest_opening(before.messages)}
            theirs = child.digests.get(name) or {digest_opening(after.messages)}
            yield Difference(name, told, real=mine != theirs)
        elif with_tools and (tools := first_difference_of_tools(after.tools, before.tools)) is not None:
            yield Difference(name, tools, real=digest_opening((), after.tools) != digest_opening((), before.tools))
