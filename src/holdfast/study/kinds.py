"""What a suite, a kind of judge and a stage method are to the rest: one record each, found by the name in a study.

A new one is a folder with such a record and a line in the table here, or an installed package or the user's own module
with such a record and nothing here; see ``holdfast.records.extensions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from holdfast.records import JSON, Case, Score, Trajectory
from holdfast.records.errors import StudyError
from holdfast.records.extensions import Extensions
from holdfast.records.section import Section
from holdfast.rollout.dialogues import Dialogue
from holdfast.rollout.worlds import World
from holdfast.study.command import CommandSection
from holdfast.study.sections import CasesSection, JudgeSection, JudgeTable, SuiteSection, SuiteTable
from holdfast.study.stages import (
    REWARD_METHODS,
    DemonstrationSection,
    ExternalSection,
    RewardSection,
    StageSection,
    StageTable,
)

UNKNOWN_NAME = "unknown_name"  # the type of a problem whose text is whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What a tiny base learns: words, system prompts that get a token of their own, and demonstrations.

    The demonstrations are gone through once, so they may be made one after the other.
    """

    words: tuple[str, ...] = ()
    system_prompts: Mapping[str, str]
    demonstrations: Iterable[tuple[Case, Trajectory]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Where cases come from, and the world that answers in them.

    ``name`` stands in every case (``Case.suite``). ``table`` is what ``[suite]`` may say, strict about its keys.
    ``split`` gives the cases of a split seed by part ("train", "test"), equal wherever they are made, numbered below
    ``NUMBERS_PER_SPLIT``. ``check`` raises StudyError for settings that cannot be used, naming the key.
    ``version`` changes whenever the same settings give other cases or another world: fingerprints hold it.

    ``attach`` gives the table as a study has it the digest of its files and the number of cases in them, when the study
    is read. ``check_judges`` raises StudyError for judges (name → table) that cannot read these cases.

    ``world`` says what answers tool calls ("any" leaves it to the table), and ``why`` what to write where
    ``suite.world.kind`` is another.
    ``shared``: all splits hold the same cases in other parts, numbered alike. ``has_cases`` is False for one whose
    cases stand beside those of any suite. ``reserve`` draws more cases (table, seed, part, count, split seed), for
    balances and for what a search chose; without it the former come out of the part "train". ``teach`` is what a tiny
    base learns, by seed and number of demonstrations. ``fit_judge`` gives a judge what it needs to read these cases.
    ``decides`` are the keys of the table that decide an episode, by default all but the split's seed.
    """

    name: str
    split: Callable[[Any, int], Mapping[str, Sequence[Case]]]
    open_world: Callable[[Any], World]
    version: int | str | None
    table: type[SuiteTable] = SuiteTable
    check: Callable[[Any], None] = lambda _: None
    attach: Callable[[JSON], JSON] = lambda table: table
    check_judges: Callable[[Any, Mapping[str, JudgeTable]], None] = lambda *_: None
    world: Literal["own", "emulated", "any"] = "own"
    why: str = 'its tools are executed; remove suite.world or give kind "own"'
    shared: bool = False
    has_cases: bool = True
    reserve: Callable[[Any, int, Any, int, int], Sequence[Case]] | None = None
    teach: Callable[[Any, int, int], Taught] | None = None
    fit_judge: Callable[[JudgeTable], JudgeTable] = lambda section: section
    decides: frozenset[str] | None = None

    def episode_settings(self, table: SuiteTable) -> dict[str, Any]:
        """What of a table decides an episode."""
        if self.decides is None:
            return table.model_dump(mode="json", exclude={"split_seed"})
        return table.model_dump(mode="json", include={"name", "train_cases", "test_cases", *self.decides})


class Judge(Protocol):
    """Scores trajectories. Every score carries the id of the rules that it was given by."""

    @property
    def name(self) -> str: ...

    @property
    def objectives(self) -> tuple[str, ...]: ...

    def rubric_of(self, objective: str) -> str:
        """The id of all that its scores of an objective depend on besides the episode."""
        ...

    def judge(self, case: Case, trajectory: Trajectory) -> tuple[Score, ...] | Dialogue[tuple[Score, ...]]:
        """One score per objective and repeat, at once or by a dialogue with speaker "judge".

        What cannot be judged is a missing score with its reason.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeKind:
    """A kind of judge.

    ``table`` is what ``[judges.NAME]`` may say. ``open`` makes the judge of the name that the study gives it, its table
    and, where that says more than the table, what identifies its model. ``needs`` is the key of the table that it
    judges by; "rules" or "model" are refused where they are not needed. ``version`` changes whenever an episode may get
    another score. ``reads_state``: it reads the world's end state. ``users``: it rates the users of ``[approval]`` and
    no other cases. ``rubrics``: its table's rubrics are used. ``plain``: nothing in its table changes a score.
    """

    name: str
    open: Callable[[str, Any, str | None], Judge]
    version: int | str | None
    table: type[JudgeTable] = JudgeTable
    needs: Literal["model", "rules"] | None = None
    reads_state: bool = False
    users: bool = False
    rubrics: bool = True
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of training stages: a way to make checkpoints of others.

    ``table`` is what ``[stages.NAME]`` may say: a ``StageTable``, or one of its kinds; a stage whose table is a
    ``StageSection`` learns from pairs and is checked as such. ``carry_out(step, settings, store, scratch, emit)`` makes
    the weights: it is given the step (``runs.plan.step.Step``), its settings (``runs.plan.settings.StageSettings``),
    the run, a directory of the step's own, which may hold what an earlier process left, and whom to tell. It returns
    ``runs.steps.outcomes.Finished`` with a directory of weights in ``scratch`` for each of the step's checkpoints, or
    with None for a checkpoint that says itself where its weights stay (``model``) and which they are (``digest``).
    ``version`` changes whenever the same settings make other weights: fingerprints hold it.

    ``plan(planner, replicate, parent, lineage)`` adds the train step of a lineage's last name, with the steps that it
    needs, and returns ``runs.plan.step.Made``, as ``parent``, which it starts from, is one; without it, a stage needs
    that checkpoint alone. ``cost(plan, step)`` is what a step takes (``runs.forecast.Cost``);
    ``cpu_seconds`` are those of one of its units with a tiny model, before any was measured.
    """

    name: str
    carry_out: Callable[[Any, Any, Any, Any, Any], Any]
    version: int | str | None
    table: type[StageTable] = StageTable
    plan: Callable[[Any, Any, Any, tuple[str, ...]], Any] | None = None
    cost: Callable[[Any, Any], Any] | None = None
    cpu_seconds: float = 0.0


SUITES = Extensions(
    what="suite",
    known="suites that can be run here",
    group="holdfast.suites",
    kind=Suite,
    shipped={
        name: f"holdfast.suites.{name}.suite:SUITE" for name in ("office", "toolemu", "probes", "approval", "cases")
    },
)
JUDGES = Extensions(
    what="kind of judge",
    known="kinds of judges that there are",
    group="holdfast.judges",
    kind=JudgeKind,
    shipped={
        "state": "holdfast.judges.state:KIND",
        **{
            name: f"holdfast.judges.{name}:KIND"
            for name in ("rules", "rubric", "probes", "approval", "rating", "match")
        },
    },
)
METHODS = Extensions(
    what="stage method",
    known="methods of training that there are",
    group="holdfast.methods",
    kind=Method,
    shipped={
        "dpo": "holdfast.runs.methods.pairs:METHOD",
        "sft": "holdfast.runs.methods.demonstrations:METHOD",
        "command": "holdfast.runs.methods.command:METHOD",
        "external": "holdfast.runs.methods.external:METHOD",
        **{name: f"holdfast.runs.methods.rewards:{name.upper()}" for name in REWARD_METHODS},
    },
)


def suite_of(table: SuiteTable) -> Suite:
    """The suite of a table. Errors: StudyError."""
    return SUITES.find(table.name, "suite.name is ")


def kind_of(table: JudgeTable) -> JudgeKind:
    """The kind of judge of a table. Errors: StudyError."""
    return JUDGES.find(table.kind, "the kind of a judge is ")


def method_of(table: StageTable) -> Method:
    """The method of a stage's table. Errors: StudyError."""
    return METHODS.find(table.method, "the method of a stage is ")


def rates_users(kind: object) -> bool:
    """Whether judges of a kind that ships rate users, which no other kind does."""
    return kind in JUDGES.shipped and JUDGES.find(str(kind)).users


def named_in(raw: JSON) -> Iterator[object]:
    """What a user's own file, read as a dictionary, names where a reference to code can stand."""
    gate = raw.get("gate")
    tables = {**raw, "checks": gate.get("checks") if isinstance(gate, Mapping) else None}
    for place, key in (("suite", "name"), ("judges", "kind"), ("stages", "method"), ("checks", "use")):
        table = tables.get(place)
        for section in (table, *table.values()) if isinstance(table, Mapping) else ():
            if isinstance(section, Mapping):
                yield section.get(key)
                # A stage's command is carried out where the user's own file holds it.
                yield section.get("command")


def reads_state(kind: object) -> bool:
    """Whether judges of a kind that ships read the world's end state; of others a run notes it (``STATE_KEY``)."""
    return kind in JUDGES.shipped and JUDGES.find(str(kind)).reads_state


# What of them ships → the key that names what a table is of, and where that is found: others have keys of their own.
NAMING: Mapping[type[BaseModel], tuple[str, Extensions[Any]]] = {
    SuiteSection: ("name", SUITES),
    JudgeSection: ("kind", JUDGES),
    StageSection: ("method", METHODS),
}


def _read(plain: type[Section], raw: JSON) -> Any:
    """The table of what ``raw`` names. Errors: StudyError where there is none, pydantic's for what is wrong."""
    key, known = NAMING[plain]
    name = raw.get(key, plain.model_fields[key].default)
    return (known.find(name).table if isinstance(name, str) else plain).model_validate(raw)


read_suite: Callable[[JSON], SuiteSection | CasesSection | SuiteTable] = partial(_read, SuiteSection)


def _reader(plain: type[Section]) -> BeforeValidator:
    """Reads a dictionary inside a study, whose unknown names are told with their place."""

    def read_inside(raw: Any) -> Any:
        try:
            return _read(plain, raw) if isinstance(raw, Mapping) else raw
        except StudyError as error:
            told = f"{NAMING[plain][0]} is {error}"
            raise PydanticCustomError(UNKNOWN_NAME, "{told}", {"told": told}) from error

    return BeforeValidator(read_inside)


# The tables inside a study: each is written as what it is, not as what any of them may be.
AnySuite = Annotated[SerializeAsAny[SuiteSection | CasesSection | SuiteTable], _reader(SuiteSection)]
AnyJudge = Annotated[SerializeAsAny[JudgeSection | JudgeTable], _reader(JudgeSection)]
AnyStage = Annotated[
    SerializeAsAny[StageSection | DemonstrationSection | CommandSection | ExternalSection | RewardSection | StageTable],
    _reader(StageSection),
]
