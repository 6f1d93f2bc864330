"""What other tools' scores say on our scale, where the user, their own file or the registry declares it.

    value ─ --score, an earlier import, registry, the file ─▶ declaration ─▶ points from 0 to 3, or missing: why
          └ none of them ─▶ not taken, noted with the values that were seen

Nothing is guessed from a name or a value. A value off its scale is a missing score; more than one in fifty of them
refuses the scorer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from holdfast.exchange.known import Refusal, find_known
from holdfast.exchange.scales import ScoreOption, describe, is_grade, is_name, on_scale, read_number
from holdfast.models.calls.structured import clean
from holdfast.records import Declaration, Score, content_id
from holdfast.records.errors import StudyError, refuse
from holdfast.records.groups import group_by_key
from holdfast.records.words import count_noun
from holdfast.store.origins import INSPECT, Undeclared, show_number, spell

MOST_OFF = 50  # one value in so many may lie off its scale
LABEL_LENGTH = 200
SHOWN = 6  # values, in a message
NO_ANSWER = "N"  # Inspect's mark for a reply that gave no answer
ABSENT = "absent: the sample holds no such value"
_CHECKED = frozenset({"safety", "helpfulness", "over_refusal"})  # objectives that a verdict has a check of

Place = tuple[str, str, str]  # task, scorer, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where scores come from, as far as it decides what they mean.

    ``task`` is the name of what was run and ``registry`` its name with its package, ``arguments`` what it was given.
    ``scorers`` are the registered names; ``options`` says by scorer how it scores, as text. ``told`` is what the file
    itself says of a value, by its scorer and key: direction and range, and nothing of an objective. ``prefix`` stands
    before a scorer's name in that of its judge.
    """

    task: str
    registry: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scorers: tuple[str, ...] = ()
    options: Callable[[str], str] = lambda _: "{}"
    told: Mapping[tuple[str, str], Declaration] = field(default_factory=dict)
    prefix: str = INSPECT


class Given(Protocol):
    """What a scorer gave, as Inspect has it: a value, or several by key; why it gave it, and why it gave none."""

    @property
    def value(self) -> Any:
        """One value, or several by key."""

    @property
    def explanation(self) -> str | None:
        """The scorer's words."""

    @property
    def reason(self) -> str | None:
        """Why there is no value."""


@dataclass(slots=True)
class _Seen:
    """The values of one scorer's key that were met: how many (and of new episodes), which numbers, what else."""

    count: int = 0
    new: int = 0
    low: float = math.inf
    high: float = -math.inf
    grades: bool = True
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, None] = field(default_factory=dict)

    def add(self, value: object, new: bool) -> None:
        self.count, self.new = self.count + 1, self.new + new
        number = read_number(value)
        self.grades &= number is not None and (isinstance(value, bool) or is_grade(value))
        if number is None:
            kinds = ((str, "words"), (Mapping, "objects"), (Sequence, "lists"), (object, "infinite or too large"))
            self.kinds[next(kind for types, kind in kinds if isinstance(value, types))] += 1
        else:
            self.low, self.high = min(self.low, number), max(self.high, number)
        if len(self.examples) < SHOWN:
            self.examples[describe(value)] = None

    @property
    def seen(self) -> tuple[str, ...]:
        """The least and the greatest number, and other values as they were met."""
        ends = [show_number(one) for one in dict.fromkeys((self.low, self.high)) if math.isfinite(one)]
        return tuple(dict.fromkeys([*ends, *self.examples]))


@dataclass(slots=True)
class _Taken:
    """How many values of a scorer's key one checkpoint has on and off the scale, and those that are off.

    ``numbers`` is how many of those that are off are numbers.
    """

    on: int = 0
    off: int = 0
    numbers: int = 0
    examples: dict[str, None] = field(default_factory=dict)


class Scoring:
    """What the values of other scorers mean in one import, and what of them was taken."""

    def __init__(self, source: object, options: Sequence[ScoreOption], held: Iterable[Declaration]) -> None:
        self._source = source
        self._options = tuple(options)
        self._held = {(one.task or "", one.scorer or "", one.key): one for one in held}
        self._meanings: dict[Place, Declaration | None] = {}
        self._refusals: dict[Place, str] = {}
        self._undeclared: dict[Place, _Seen] = {}
        self._taken: dict[tuple[str, Place], _Taken] = {}
        self._used: set[ScoreOption] = set()
        self._keys: dict[str, None] = {}

    def read(
        self, origin: Origin, name: str, given: Given, trajectory: tuple[str, str, bool]
    ) -> Iterator[tuple[Place, Score]]:
        """What a scorer gave a trajectory: (its id, its checkpoint's id, whether it is new to the run)."""
        identity, checkpoint, new = trajectory
        for place, value in _values(origin, name, given):
            meaning = self.meaning(origin, place)
            if meaning is None:
                if not is_unscored(value):
                    self._undeclared.setdefault(place, _Seen()).add(value, new)
                continue
            points, missing = self._place(value, meaning, given, self._taken.setdefault((checkpoint, place), _Taken()))
            label = None if is_unscored(value) else clean(describe(value, LABEL_LENGTH))
            reply = clean(given.explanation) if given.explanation else None
            yield place, self.score(origin, place, identity, value=points, missing=missing, label=label, reply=reply)

    def score(self, origin: Origin, place: Place, trajectory_id: str, **given: Any) -> Score:
        """A trajectory's score of a value with a meaning; ``given`` are the fields of ``Score`` beside its names."""
        meaning = self._meanings[place]
        assert meaning is not None
        judge, rubric = f"{origin.prefix}{place[1]}", rubric_of(origin, place, meaning)
        return Score(trajectory_id=trajectory_id, judge=judge, objective=meaning.objective, rubric=rubric, **given)

    @staticmethod
    def _place(value: object, meaning: Declaration, given: Given, taken: _Taken) -> tuple[float | None, Any]:
        """Points, or None and the reason that the score is missing."""
        if is_unscored(value):
            return None, clean(str(given.reason or "unscored"))
        if isinstance(value, str) and value.strip() == NO_ANSWER:
            return None, "no_answer"
        points = on_scale(meaning, value)
        if not isinstance(points, str):
            taken.on += 1
            return points, None
        taken.off += 1
        taken.numbers += read_number(value) is not None
        if len(taken.examples) < SHOWN:
            taken.examples[describe(value)] = None
        return None, clean(points)

    def meaning(self, origin: Origin, place: Place) -> Declaration | None:
        """What a value means, or None where nobody declared it. Errors: StudyError where two declarations differ."""
        self._keys[f"{place[1]}:{place[2]}"] = None
        if place not in self._meanings:
            self._meanings[place] = self._find(origin, place)
            self._require_one(place)
        return self._meanings[place]

    def _find(self, origin: Origin, place: Place) -> Declaration | None:
        task, scorer, key = place
        registered = _registered(origin, scorer)
        known = find_known(origin.task, registered, key, registry_name=origin.registry, task_args=origin.arguments)
        told = origin.told.get((scorer, key))
        option = self._option(place)
        if option is not None and option.declaration is not None:
            _require_agreement(option.declaration, known, place)
            meaning = option.declaration
            if meaning.severe is None and isinstance(known, Declaration):
                meaning = replace(meaning, severe=known.severe, unit=known.unit)
        elif isinstance(known, Declaration):
            # The user may say that another value of this scorer is the objective.
            named = [one.scorer for one in self._options if one.objective == known.objective]
            if option is None and any(other is None or is_name(other, scorer) for other in named):
                self._refusals[place] = f"--score names another value of {scorer} as {known.objective}"
                return None
            meaning = known if option is None else _as_named(known, option, place)
        elif told is not None and option is not None:
            meaning = replace(told, objective=option.objective)
        elif place in self._held:
            meaning = self._held[place]
            if option is not None and option.objective != meaning.objective:
                raise StudyError(f"--score: {key!r} of {scorer} was declared before as {spell(meaning)}; name it so")
        else:
            if isinstance(known, Refusal):
                self._refusals[place] = known.reason
            elif told is not None:
                self._refusals[place] = (
                    f"{told.source} says that high is {'good' if told.sign > 0 else 'bad'}, from"
                    f" {show_number(told.low)} to {show_number(told.high)}, and not what it measures: name it, as in"
                    f" --score 'safety={key}'"
                )
            return None
        return replace(meaning, task=task, scorer=scorer, key=key)

    def _option(self, place: Place) -> ScoreOption | None:
        """The user's option for a value; one that names the scorer goes before one that does not."""
        _, scorer, key = place
        fitting = [one for one in self._options if one.means(scorer, key)]
        fitting.sort(key=lambda one: one.scorer is None)
        self._used.update(fitting)
        exact = [one for one in fitting if (one.scorer is None) == (fitting[0].scorer is None)]
        if len(exact) > 1:
            raise StudyError(f"--score: {key!r} of {scorer} is declared twice; give one declaration of it")
        return fitting[0] if fitting else None

    def _require_one(self, place: Place) -> None:
        """Refuse two values of one scorer as one objective: which of them is meant?"""
        task, scorer, key = place
        for other, meaning in self._meanings.items():
            mine = self._meanings[place]
            if other != place and other[:2] == place[:2] and meaning and mine and meaning.objective == mine.objective:
                raise StudyError(
                    f"{scorer} of {task}: both {other[2]!r} and {key!r} are {mine.objective!r}; name one of them with"
                    f" --score '{mine.objective}={key}'"
                )

    def require_options(self) -> None:
        """Refuse options that found nothing, and those of values that nobody declares. Errors: StudyError."""
        for option in self._options:
            if option not in self._used:
                there = ", ".join(list(self._keys)[: 2 * SHOWN])
                remedy = f"there are (scorer:key) {there}" if there else "no sample in them has a score"
                refuse(
                    f"{self._source}: --score {option.objective}={option.key}", "no such value in these logs", remedy
                )
        for place, seen in self._undeclared.items():
            if (asked := self._option(place)) is not None:
                reason = self._tell(place, seen, "cannot be taken")
                raise StudyError(f"{self._source}: --score {asked.objective}={asked.key}: {reason}")

    def require_scales(self) -> None:
        """Refuse a scorer more than one in fifty of whose values lie off its scale. Errors: StudyError."""
        for (_, place), taken in self._taken.items():
            if taken.off * MOST_OFF <= taken.on + taken.off:
                continue
            meaning = self._meanings[place]
            assert meaning is not None
            declared = f"declared as {spell(meaning)}" + (f" ({meaning.source})" if meaning.source else "")
            by_user = self._option(place) is not None or place in self._held
            remedy = "declare the range that it has with --score" if by_user else "leave the log out or correct it"
            if by_user and not taken.numbers:
                remedy = "none of them is a number, and only numbers and Inspect's grades can be taken: write them so"
            off = f"{taken.off} of {taken.off + taken.on} values lie off its scale ({', '.join(taken.examples)})"
            refuse(f"{self._source}: {_shown(place)}", f"{off}, {declared}", remedy)

    def declarations(self) -> list[Declaration]:
        """What the values that were taken mean."""
        taken = {place for _, place in self._taken}
        return [one for place, one in self._meanings.items() if one is not None and place in taken]

    def undeclared(self, held: Iterable[Undeclared]) -> list[Undeclared]:
        """What was not taken, with what earlier imports noted and is still not declared."""
        noted = {(one.task, one.scorer, one.key): one for one in held}
        for place, seen in self._undeclared.items():
            before = noted.get(place)
            count, known = (seen.count, ()) if before is None else (before.count + seen.new, before.seen)
            values = tuple(dict.fromkeys((*seen.seen, *known)))
            names = dict(zip(("task", "scorer", "key"), place, strict=True))
            noted[place] = Undeclared(**names, count=count, seen=values, refused=self._refusals.get(place, ""))
        return [one for place, one in sorted(noted.items()) if self._meanings.get(place) is None]

    def notes(self) -> list[str]:
        """What a reader must know of the scores, a sentence each."""
        declared = [
            f"{one.objective} is {_shown((one.task or '', one.scorer or '', one.key))}: from {show_number(one.low)} to"
            f" {show_number(one.high)}, high is {'good' if one.sign > 0 else 'bad'} ({one.source or 'declared before'})"
            for one in self.declarations()
        ]
        lost = [self._tell(place, seen, "were not taken") for place, seen in self._undeclared.items()]
        return [*declared, *self.doubts(), *lost]

    def doubts(self) -> list[str]:
        """Values off their scale, and objectives that several scorers give."""
        scorers = group_by_key(((one.task or "", one.objective), one.scorer or "") for one in self.declarations())
        return [
            f"{_shown(place)}: {taken.off} of {taken.off + taken.on} values lie off its scale and are missing"
            f" ({', '.join(taken.examples)})"
            for (_, place), taken in self._taken.items()
            if taken.off
        ] + [
            f"{objective} of {task} is given by {len(names)} scorers, each a judge of its own: {', '.join(names)}"
            for (task, objective), names in scorers.items()
            if len(names) > 1
        ]

    def _tell(self, place: Place, seen: _Seen, what: str) -> str:
        """Why values were not taken, and how to declare them."""
        _, scorer, key = place
        what = what.replace("were", "was") if seen.count == 1 else what
        values = f"{_shown(place)}: {count_noun(seen.count, 'values')}"
        if seen.kinds:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.kinds.items()))
            shown = ", ".join(list(seen.examples)[:SHOWN])
            if sum(seen.kinds.values()) == seen.count:
                return f"{values} {what}: no numbers ({kinds}: {shown})"
            values += f" ({kinds})"
        if place in self._refusals:
            return f"{values} {what}: {self._refusals[place]}"
        name = key if short_name(scorer) == key else f"{scorer}:{key}"
        span = "[0,1]" if seen.grades else "[LOW,HIGH]"
        objective = key if key in ("safety", "helpfulness") else "safety"
        shown = f"from {show_number(seen.low)} to {show_number(seen.high)}"
        shown = shown if seen.low < seen.high else f"of {', '.join(seen.examples)}"
        return (
            f"{values} {shown} {what}: which end is good and the range are not declared;"
            f" import again with --score '{objective}=+{name}{span}' where high is good, or"
            f" '{objective}=-{name}{span}' where high is bad"
        )


def rubric_of(origin: Origin, place: Place, meaning: Declaration) -> str:
    """The rubric id: the scorer with its options and the models that grade, and what its value was declared to mean."""
    scale = (meaning.objective, place[2], meaning.sign, meaning.low, meaning.high)
    return content_id("inspect scorer", place[1], origin.options(place[1]), *scale)


def _values(origin: Origin, name: str, given: Given) -> Iterator[tuple[Place, object]]:
    """Each value of a score with its place; a value by itself goes by the scorer's own name."""
    task, scorer = clean(origin.task), clean(name)
    if isinstance(given.value, Mapping):
        for key, value in given.value.items():
            yield (task, scorer, clean(str(key))), value
    else:
        yield (task, scorer, short_name(scorer)), given.value


def is_unscored(value: object) -> bool:
    """Whether a value is Inspect's mark for no score."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def short_name(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _registered(origin: Origin, scorer: str) -> str:
    """A scorer's name with its package, which the header of a log has and a sample has not."""
    plain, names = re.sub(r"\d+$", "", scorer), origin.scorers
    return next((one for wanted in (scorer, plain) for one in names if wanted in (one, short_name(one))), scorer)


def _shown(place: Place) -> str:
    _, scorer, key = place
    return scorer if short_name(scorer) == key else f"{key!r} of {scorer}"


def _as_named(known: Declaration, option: ScoreOption, place: Place) -> Declaration:
    """A known score as what the user calls it, by its name alone. Errors: StudyError where it is known to be another.

    What is known as one check is not taken for another; a name that no check has, on either side, is free.
    """
    if known.objective != option.objective and {known.objective, option.objective} <= _CHECKED:
        raise StudyError(
            f"--score {option.objective}={option.key}: {_shown(place)} is known to be {known.objective}"
            f" ({known.source}); leave the option out, or declare the value with sign and range"
        )
    return replace(known, objective=option.objective)


def _require_agreement(mine: Declaration, known: Declaration | Refusal | None, place: Place) -> None:
    """Refuse a user's declaration that contradicts what is known. Errors: StudyError."""
    if isinstance(known, Declaration) and (mine.sign, mine.low, mine.high) != (known.sign, known.low, known.high):
        raise StudyError(
            f"--score {spell(mine)}: {_shown(place)} is known to be {spell(replace(known, scorer=None))}"
            f" ({known.source}); write --score '{mine.objective}={mine.key}'"
        )
