"""One side of a comparison: what a checkpoint did in its held-out cases and what a judge gave it, by rollout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from holdfast.analysis.labelled import rank_judge
from holdfast.decisions.gate.books import Book, Gaps, find_gaps
from holdfast.decisions.gate.declared import declaration_for, resolve_names, tell_undeclared
from holdfast.exchange.scales import ScoreOption
from holdfast.records import JSON, Case, Checkpoint, Declaration, Labelled, Trajectory
from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.records.errors import StudyError, did_you_mean
from holdfast.report.words.labels import name_judge
from holdfast.rollout.audit import UNFIT, refused_by
from holdfast.store import Store
from holdfast.store.cells import mean_by
from holdfast.store.codec import FLAG_BITS
from holdfast.study.rules import CHECK_KINDS, CheckKind, Measured

METRICS = tuple(kind for kind in CHECK_KINDS if kind.read is not None and kind.ceiling_of is None)
UNFIT_BITS = sum(FLAG_BITS[flag] for flag in UNFIT)
MOST_NAMED = 5
ROUNDING = 1e-9  # of a score that was brought to points


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """Whose scores are read: a judge's label by objective, and under which name each objective was scored.

    ``offered`` are the objectives that any judge was asked for, whether or not one of them serves both sides;
    ``scores`` is what the user said of them.
    """

    labels: Mapping[str, str]
    names: Mapping[str, str]
    offered: frozenset[str] = frozenset()
    scores: tuple[ScoreOption, ...] = ()

    def scored(self, objective: str) -> tuple[str, str]:
        """The judge's label, and the name under which it scored an objective."""
        return self.labels.get(objective, ""), self.names.get(objective, objective)

    @property
    def judge(self) -> str:
        """The judge of safety, on whom the verdict rests."""
        return self.labels["safety"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A checkpoint's rollouts in its held-out cases, in any order.

    ``case`` is each rollout's place in ``cases``, ``labels`` are the cases' names for people. The rollouts that there
    are come first; behind them may come some that should be there and are not. ``rows`` are theirs in the book's table
    of episodes, ``trajectories`` their ids. ``measured`` has what each check reads
    of them, by its name, and every objective that was judged. ``rubrics`` are those of the scores by objective,
    ``judges`` gave them, ``other_judges`` (labels) scored some of the same rollouts. ``declared`` is what scores from
    elsewhere were declared to mean, by objective, ``offered`` the objectives that any judge was asked for. ``expected``
    is how many rollouts of a case a study asked for, ``gaps`` what the checkpoint's logs lack. ``kinds`` are the checks
    that read it.
    """

    name: str
    checkpoint: Checkpoint
    cases: tuple[str, ...]
    families: tuple[str, ...]
    case: Ints
    rows: Ints
    trajectories: tuple[str, ...]
    measured: Mapping[str, Measured]
    rubrics: Mapping[str, str]
    settings: Mapping[str, Any] | None
    judges: frozenset[str]
    other_judges: frozenset[str]
    source: JSON = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    declared: Mapping[str, Declaration] = field(default_factory=dict)
    offered: frozenset[str] = frozenset()
    expected: int | None = None
    gaps: Gaps = field(default_factory=Gaps)
    kinds: tuple[CheckKind, ...] = METRICS

    @property
    def rollouts(self) -> int:
        """How many rollouts are due, with those that are not there."""
        return len(self.case)

    @property
    def places(self) -> dict[str, int]:
        """The place of each case among ``cases``."""
        return {name: place for place, name in enumerate(self.cases)}

    @property
    def met(self) -> frozenset[str]:
        """The cases that there are episodes of."""
        return frozenset(self.cases[place] for place in np.unique(self.case[: len(self.trajectories)]))

    def extend(self, cases: Sequence[tuple[str, str, str]], absent: Sequence[int]) -> Side:
        """The side with more cases (id, family, label), none of whose rollouts are there."""
        columns = (self.cases, self.families, self.labels)
        ids, families, labels = ((*old, *(case[at] for case in cases)) for at, old in enumerate(columns))
        longer = replace(self, cases=ids, families=families, labels=labels)
        return longer.lengthen(np.array([0] * len(self.cases) + list(absent), dtype=np.int64))

    def lengthen(self, absent: Ints) -> Side:
        """The side with so many more rollouts of each case that are not there: due as the case's others are."""
        new = np.repeat(np.arange(len(self.cases)), absent)
        if not len(new):
            return self
        seen, nothing = np.bincount(self.case, minlength=len(self.cases)) > 0, np.full(len(new), np.nan)

        def longer(one: Measured) -> Measured:
            due = np.bincount(self.case, weights=one.due, minlength=len(self.cases)) > 0
            return Measured(
                value=np.concatenate([one.value, nothing]),
                due=np.concatenate([one.due, np.where(seen, due, one.due.any())[new]]),
                lost=np.concatenate([one.lost, nothing]),
            )

        measured = {name: longer(one) for name, one in self.measured.items()}
        return replace(self, case=np.concatenate([self.case, new]), measured=measured)

    def inside(self, names: Collection[str]) -> Bools:
        """By rollout whether it is of one of these cases."""
        return np.array([name in names for name in self.cases], dtype=np.bool_)[self.case]

    def has(self, metric: str) -> bool:
        """Whether any rollout has this metric."""
        return bool(np.isfinite(self.measured[metric].value).any())

    def case_means(self, metric: str) -> Floats:
        """The mean of a metric over each case's rollouts that have it, NaN where none has."""
        value = self.measured[metric].value
        there = np.isfinite(value)
        return mean_by(value[there], (self.case[there],), (len(self.cases),))

    def filled_means(self, metric: str, value: float) -> Floats:
        """The mean of a metric over each case's rollouts, with ``value`` for every reading that has none."""
        lost = self.lost(metric)
        filled = np.where(lost < 1, self.measured[metric].value, 0.0) * (1 - lost) + value * lost
        return mean_by(filled, (self.case,), (len(self.cases),))

    def lost(self, metric: str) -> Floats:
        """By rollout the share of a metric's readings that have no value: 1 where there is none at all."""
        one = self.measured[metric]
        return np.where(np.isfinite(one.value), np.nan_to_num(one.lost), 1.0)

    def asked_cases(self, metric: str) -> set[str]:
        """The cases in which a metric is due of any rollout."""
        return {self.cases[place] for place in np.unique(self.case[self.measured[metric].due])}


def _held_out_rows(book: Book, checkpoint: Checkpoint, split_seed: int | None) -> Ints:
    """A checkpoint's episodes on the held-out cases of a split, of all splits where it is None."""
    masks = [mask for seed, mask in book.held_out.items() if split_seed is None or seed in (None, split_seed)]
    held_out = np.any([np.zeros(len(book.case_ids), dtype=np.bool_), *masks], axis=0)
    rows = book.episodes_of[book.number_of(checkpoint)]
    kept: Ints = rows[held_out[book.cells.episodes.case[rows]]]
    return kept


def take_side(
    book: Book,
    checkpoint: Checkpoint,
    judging: Judging,
    *,
    split_seed: int | None,
    severe_at_most: float,
    name: str | None = None,
    own: Sequence[CheckKind] = (),
) -> Side:
    """What a checkpoint did in the held-out cases of a split (of all splits where it is None), as one judge read it.

    ``name`` is what people call it, ``own`` are checks that read it beside ours. Errors: StudyError where it was not
    rolled out on them, or a check cannot read it.
    """
    rows, table = _held_out_rows(book, checkpoint, split_seed), book.cells.episodes
    if not len(rows):
        raise StudyError(f"{book.place}: {checkpoint.name} has no episodes on held-out cases; finish its run first")
    used, case_of = np.unique(table.case[rows], return_inverse=True)
    declared = read_declared(book, judging, rows)
    rubrics, asked = book.cells.scores.rubrics, np.flatnonzero(book.cells.asked[rows].any(axis=(0, 2)))
    scored = {name: judging.scored(name) for name in judging.labels}
    at_most: float | None = severe_at_most
    if safety := declared.get("safety"):
        # None where the source of the score names no such value.
        at_most = None if safety.severe is None else safety.to_points(safety.severe)
    rollouts = _Rollouts(book, judging, rows, at_most)
    measured = {name: rollouts.objective(name) for name in judging.labels}
    measured |= {kind.name: kind.read(rollouts) for kind in METRICS if kind.read is not None}
    measured |= {kind.name: _read_own(kind, rollouts) for kind in own}
    cases = tuple(book.case_ids[index] for index in used)
    facts = {case: book.cases[case].facts for case in cases if case in book.cases}
    origin: dict[str, Any] = {"name": checkpoint.name, "lineage": list(checkpoint.lineage)}
    origin |= {"digest": checkpoint.digest, "model": checkpoint.model}
    return Side(
        name=name or checkpoint.name,
        checkpoint=checkpoint,
        cases=cases,
        families=tuple(book.cells.scores.families[index] for index in used),
        case=case_of.astype(np.int64),
        rows=rows,
        trajectories=tuple(book.trajectory_ids[index] for index in rows),
        measured=measured,
        rubrics={name: rubrics[key] for name, key in scored.items() if key in rubrics},
        settings=book.settings_of(checkpoint),
        judges=frozenset(book.judge_name(label) for label in judging.labels.values()),
        other_judges=frozenset(book.cells.judges[index] for index in asked) - set(judging.labels.values()),
        source={"run": book.place, "checkpoint": checkpoint.id, **origin},
        # As people know them: the id of its sample, where a case came with a log.
        labels=tuple(str(facts.get(case, {}).get("sample", case[:12])) for case in cases),
        declared=declared,
        offered=judging.offered,
        expected=book.study.get("rollouts", {}).get("per_test_case"),
        gaps=find_gaps(book.logs, checkpoint.id),
        kinds=(*METRICS, *own),
    )


def _read_own(kind: CheckKind, rollouts: _Rollouts) -> Measured:
    """What a check from elsewhere reads. Errors: StudyError where that is not what it says it is."""
    assert kind.read is not None  # as rules are read
    subject, (least, largest) = f"gate.checks.{kind.name}", kind.span
    try:
        found = kind.read(rollouts)
        arrays = [np.asarray(one, dtype=np.float64) for one in (found.value, found.due, found.lost)]
    except StudyError as error:
        raise StudyError(f"{subject}: {error}") from error
    except Exception as error:
        raise StudyError(f"{subject}: cannot be read ({type(error).__name__}: {error}); mend the check") from error
    if any(one.shape != (len(rollouts.rows),) for one in arrays):
        raise StudyError(f"{subject}: reads no number for each rollout; mend the check")
    value = arrays[0][np.isfinite(arrays[0])]
    if np.isinf(arrays[0]).any() or ((value < least) | (value > largest)).any():
        raise StudyError(f"{subject}: reads {kind.unit} outside {least:g} to {largest:g}; mend the check")
    return Measured(value=arrays[0], due=arrays[1] > 0, lost=arrays[2])


def read_declared(book: Book, judging: Judging, rows: Ints) -> dict[str, Declaration]:
    """What the scores of each objective of some trajectories were declared to mean; none of our own judges'.

    Errors: StudyError where scores came with a log and nobody declared them.
    """
    names = (book.case_ids[index] for index in np.unique(book.cells.episodes.case[rows]))
    tasks = frozenset(book.cases[name].suite for name in names if name in book.cases)
    found: dict[str, Declaration] = {}
    for objective in judging.labels:
        label, name = judging.scored(objective)
        declared = declaration_for(book.origin, book.judge_name(label), name, tasks, judging.scores)
        found |= {} if declared is None else {objective: declared}
    return found


class _Rollouts(NamedTuple):
    """Some trajectories of a book as the checks read them; see ``rules.Rollouts``.

    ``at_most`` is up to how many points of safety an event is severe; None where nobody says.
    """

    book: Book
    judging: Judging
    rows: Ints
    at_most: float | None

    def _place(self, name: str) -> tuple[int, int] | None:
        return self.book.cells.place(*self.judging.scored(name))

    def objective(self, name: str) -> Measured:
        cells, place = self.book.cells, self._place(name)
        if place is None:
            nothing = np.full(len(self.rows), np.nan)
            return Measured(value=nothing, due=np.full(len(self.rows), name in self.judging.labels), lost=nothing)
        asked = cells.asked[self.rows, place[0]]
        # A judge may be asked for one objective alone, as that of probes is; of what it has not met, every one is due.
        due = np.where(asked.any(axis=1), asked[:, place[1]], True)
        return Measured(value=cells.value[self.rows, *place], due=due, lost=cells.lost[self.rows, *place])

    def severe(self) -> Measured:
        safety, place = self.objective("safety"), self._place("safety")
        if place is None or self.at_most is None:
            return replace(safety, value=np.full(len(self.rows), np.nan))
        return replace(safety, value=self.book.share_severe(place, self.at_most + ROUNDING)[self.rows])

    def refused(self) -> Measured:
        book, rows = self.book, self.rows
        flags, case = book.cells.episodes.flags[rows], book.cells.episodes.case[rows]
        found = np.where(book.questions[case], book.refusals[rows], refused_by(flags))
        harmless = np.zeros(len(rows), dtype=np.bool_) if book.harmless is None else book.harmless[case]
        value = np.where(harmless & ~book.unread[rows], found.astype(np.float64), np.nan)
        return Measured(value=value, due=harmless, lost=np.zeros(len(rows)))

    def unfit(self) -> Measured:
        if self.book.unseen:
            nothing = np.full(len(self.rows), np.nan)
            return Measured(value=nothing, due=np.zeros(len(self.rows), dtype=np.bool_), lost=nothing)
        value = ((self.book.cells.episodes.flags[self.rows] & UNFIT_BITS) > 0).astype(np.float64)
        return Measured(value=value, due=np.ones(len(value), dtype=np.bool_), lost=np.zeros(len(value)))

    def each(self, read: Callable[[Case, Trajectory], float | None]) -> Measured:
        book = self.book
        with Store(book.path, check=False) as store:  # held against its digests when the book was read
            stored = store.trajectories([book.trajectory_ids[row] for row in self.rows])
            values = [read(book.cases[one.case_id], one) for one in stored]
        value = np.array([np.nan if one is None else float(one) for one in values])
        due = np.array([one is not None for one in values], dtype=np.bool_)
        return Measured(value=value, due=due, lost=np.where(np.isnan(value), 1.0, 0.0))


# --- whose scores ------------------------------------------------------------------------------------------------


def judges_for(book: Book, checkpoint: Checkpoint, objective: str, *, read: bool = False) -> list[str]:
    """Labels of the judges that were asked for an objective of a checkpoint; that gave it a score, where ``read``."""
    table = book.cells.scores
    if objective not in table.objectives:
        return []
    mine = book.scores_of[book.number_of(checkpoint)]
    mine = mine[table.objective[mine] == table.objectives.index(objective)]
    if read:
        mine = mine[np.isfinite(table.value[mine])]
    return [table.judges[index] for index in np.unique(table.judge[mine])]


def _first_by_rank(sides: Sequence[tuple[Book, Checkpoint]], labels: Sequence[str], objectives: Sequence[str]) -> str:
    """Of the judges of both sides the one that a headline would be of; none that was asked and never read."""
    known = {label: relation_of(sides, label) for label in labels}
    reading = [judges_for(*side, objective, read=True) for side, objective in zip(sides, objectives, strict=True)]
    read = [label for label in labels if all(label in there for there in reading)]
    # Of several that read the end state the study's own comes first: that which labelled.
    return min(read or labels, key=lambda one: (rank_judge(*known[one]), known[one][0] is not Labelled.ALL, one))


def choose_judging(
    sides: Sequence[tuple[Book, Checkpoint]],
    wanted: str | None,
    scores: Sequence[ScoreOption] = (),
    rank: bool = False,
) -> tuple[Judging, Judging]:
    """Whose scores are compared, for the parent's book and the child's: ``wanted``, or the only judge of both sides.

    ``scores`` say under which name an objective was scored, where it is not its own. With ``rank`` it is of several
    judges the one that a headline would be of; so is helpfulness where the judge of safety was not asked for it.
    Errors: StudyError where none or several could be meant, or where the rubrics differ.
    """
    names = [resolve_names(book.origin, scores) for book, _ in sides]
    safety = _choose(sides, wanted, [one.get("safety", "safety") for one in names], rank=rank)
    objectives = [one.get("helpfulness", "helpfulness") for one in names]
    offered = [judges_for(*side, objective) for side, objective in zip(sides, objectives, strict=True)]
    helping = list(safety)
    if not all(label in labels for label, labels in zip(safety, offered, strict=True)):
        both = [label for label in offered[0] if label in offered[1]]
        helping = [_first_by_rank(sides, both, objectives)] * 2 if both else []
    first, second = (
        Judging(
            labels={"safety": label, **({"helpfulness": helping[place]} if helping else {})},
            names=names[place],
            offered=frozenset({"safety"} | ({"helpfulness"} if offered[place] else set())),
            scores=tuple(scores),
        )
        for place, label in enumerate(safety)
    )
    return first, second


def relation_of(sides: Sequence[tuple[Book, Checkpoint]], label: str) -> tuple[Labelled, bool]:
    """How a judge stands to a child (its parent where the child is a base): whether it labelled, and reads the state.

    ``sides`` are the parent's and the child's; what neither run knows is unknown.
    """
    book, trained = next((one for one in reversed(sides) if one[1].stages), sides[-1])
    return book.labels.relation(label, trained), any(one.labels.reads_state(label) for one, _ in sides)


def _choose(
    sides: Sequence[tuple[Book, Checkpoint]], wanted: str | None, objectives: Sequence[str], *, rank: bool
) -> tuple[str, str]:
    """The label of the judge on either side: of one rubric on both."""
    offered = [judges_for(*side, name) for side, name in zip(sides, objectives, strict=True)]
    for (book, checkpoint), labels, objective in zip(sides, offered, objectives, strict=True):
        if not labels:
            raise StudyError(tell_nothing(book, checkpoint, objective))
    if wanted is not None:
        first, second = (find_label(*side, name, wanted) for side, name in zip(sides, objectives, strict=True))
        return first, second
    both = [label for label in offered[0] if label in offered[1]]
    if not both:
        raise StudyError(
            f"not comparable: no judge scored both sides (parent: {', '.join(offered[0])}; child:"
            f" {', '.join(offered[1])}); judge both with one"
        )
    if len(both) > 1 and not rank:
        known = {label: relation_of(sides, label) for label in both}
        told = ", ".join(name_judge(label, *known[label]) for label in both[:MOST_NAMED])
        raise StudyError(
            f"{len(both)} judges scored both sides: {told}; declare one as gate.judge or with --judge, best one that"
            " reads the end state or labelled no training pairs"
        )
    best = _first_by_rank(sides, both, objectives)
    return best, best


def tell_nothing(book: Book, checkpoint: Checkpoint, objective: str) -> str:
    """Why a checkpoint has no score of an objective, and what to do."""
    if book.origin.undeclared:
        return f"{book.place}: {tell_undeclared(book.origin.undeclared, objective)}"
    known = book.cells.scores.objectives
    return (
        f"{book.place}: {checkpoint.name} has no scores of {objective!r}, scored there:"
        f" {', '.join(known) or 'nothing'}; {did_you_mean(objective, known, after=' ')}finish its run, judge it with"
        f" `holdfast judge {book.place} --with NAME`, or name the score with --score OBJECTIVE=NAME"
    )


def find_label(book: Book, checkpoint: Checkpoint, objective: str, wanted: str, rubric: str | None = None) -> str:
    """The label that a judge's name (or the beginning of ``name#rubric``) means, of those that scored a checkpoint.

    Of several rubrics of one judge it is ``rubric``, where that is given. Errors: StudyError.
    """
    table, labels = book.cells.scores, judges_for(book, checkpoint, objective)
    names = dict(zip(table.judges, table.judge_names, strict=True))
    named = [label for label in labels if wanted in (label, names[label]) or ("#" in wanted and wanted in label)]
    if len(named) > 1 and rubric is not None:
        named = [label for label in named if table.rubrics.get((label, objective)) == rubric] or named
    if len(named) == 1:
        return named[0]
    if named:
        raise StudyError(
            f"{book.place}: the judge {wanted!r} scored {checkpoint.name} under several rubrics:"
            f" {', '.join(named)}; name one of these"
        )
    raise StudyError(
        f"{book.place}: no scores of {objective!r} of {checkpoint.name} by the judge {wanted!r}, there are:"
        f" {', '.join(labels)}; {did_you_mean(wanted, labels, after=' ')}add them with"
        f" `holdfast judge {book.place} --with {wanted.partition('#')[0]}`"
    )
