"""Stages that the user's own trainer carries out: what ``[stages.NAME]`` says of them, and what of it must fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.records.errors import require, require_known
from holdfast.records.section import CaseCount, Positive, Share
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import (
    DEMONSTRATIONS,
    FILE,
    NAMED_DATA,
    PAIRS,
    TRAJECTORIES,
    StageTable,
    check_named_data,
)

MODEL, DATA, OUTPUT, SEED, STEPS, PYTHON = "model", "data", "output", "seed", "steps", "python"
PLACES = (MODEL, DATA, OUTPUT, SEED, STEPS, PYTHON)
_PLACE = re.compile(r"\{(\w+)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Keys that choose among data of one kind; of others they are no part of what a stage is.
_CHOOSING: Mapping[str, tuple[str, ...]] = {
    PAIRS: ("agree", "flip"),
    DEMONSTRATIONS: ("count", "mixture"),
    TRAJECTORIES: ("at_least", "best"),
}


class CommandSection(StageTable):
    """``[stages.NAME]`` with ``method`` "command": a program of the user's own makes the checkpoint.

    ``command`` is the program and its arguments, a text each; no shell reads them. In them stand for: {model} the
    directory of the model to start from, whole; {data} the file to learn from; {output} the directory that the new
    model, or a PEFT adapter on {model}, is to be written to; {seed} the training seed; {steps} the number of optimiser
    steps, up to the last dose; {python} the interpreter that holdfast runs in.

    ``data`` says what {data} holds: the study's own "pairs" for every ``objective`` (``agree``, ``flip``: as of a stage
    of method "dpo"), "demonstrations" (``count``, ``mixture``) or "trajectories" (``at_least``, ``best``) as of a stage
    of method "sft", all in TRL's conversational formats; or a path of a file, which is handed on as it is, with its
    ``digest``, filled in when the study is read.

    The program is ended after ``timeout`` seconds, and sees of the environment what every program needs and the
    variables that ``env`` names. ``steps`` are the optimiser steps of dose 1, for the record. ``keep`` is where below
    {output} a dose is, such as "checkpoint-{steps}"; without it the model is {output} itself.
    """

    optional = ("steps", "keep", "digest")
    apart = ("timeout", "env")
    means: ClassVar[tuple[str, ...]] = ("timeout", "env")

    method: str = "command"
    command: Annotated[tuple[str, ...], Field(max_length=1000)]
    data: str = PAIRS
    digest: str | None = None
    objective: str | tuple[str, ...] = ()
    agree: Literal["all", "any"] = "all"
    flip: Share = 0.0
    count: CaseCount = 600
    mixture: Mapping[str, Share] = Field(default_factory=dict)
    at_least: Annotated[float, Field(ge=0, le=3)] = 2.0
    best: Positive = 1
    steps: Positive | None = None
    keep: str | None = None
    timeout: Annotated[float, Field(gt=0, le=1e7)] = 86_400.0
    env: tuple[str, ...] = ()

    @field_validator("command", mode="before")
    @classmethod
    def _refuse_line(cls, value: Any) -> Any:
        if isinstance(value, str) or value in ([], ()):
            raise ValueError('give a list of words, such as ["python", "train.py"]: no shell reads a line')
        return value

    @property
    def line(self) -> str:
        """The command as a line that a shell would read as these very words; characters that steer are escaped."""
        shown = shlex.join(self.command)
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)

    @property
    def takes_data(self) -> bool:
        """Whether the command is given a file to learn from."""
        return DATA in self.places()

    @property
    def learns_from(self) -> str | None:
        """What the file holds: "pairs", "demonstrations", "trajectories" or "file"; None for a command without one."""
        if not self.takes_data:
            return None
        return FILE if self.digest else self.data

    def places(self) -> set[str]:
        """What stands between braces in the command."""
        return {name for word in self.command for name in _PLACE.findall(word)}

    def fill(self, values: Mapping[str, str]) -> list[str]:
        """The command's words with ``values`` in their places."""
        return [_PLACE.sub(lambda found: values[found[1]], word) for word in self.command]

    def resolved(self) -> dict[str, Any]:
        """As of any stage, without keys that choose among other data, and with a file's digest in place of its path."""
        unused = {key for data, keys in _CHOOSING.items() if data != self.learns_from for key in keys}
        found = {key: value for key, value in super().resolved().items() if key not in unused}
        if not self.takes_data:
            found.pop("data")
        return found | ({"data": FILE} if self.digest else {})


def check_command(
    place: str, stage: CommandSection, *, doses: Sequence[int], axes: Mapping[str, Any], teaches: bool, has_cases: bool
) -> None:
    """What a stage's own settings must be; ``place`` names it. Errors: StudyError.

    ``doses`` are those of the lineages that end in it; ``teaches`` and ``has_cases`` are said of the study's suite.
    """
    _check_words(place, stage)
    _check_data(place, stage, teaches=teaches, has_cases=has_cases)
    for name in stage.env:
        require(_VARIABLE.fullmatch(name) is not None, f"{place}.env has {name!r}, no name of a variable; give names")
    stepped = STEPS in {*stage.places(), *_PLACE.findall(stage.keep or "")}
    require(stage.steps is not None or not stepped, f"{place}.steps is missing, which {{steps}} stands for; give it")
    require(
        "steps" not in axes or STEPS in stage.places(),
        f"{place}.command does not take {{steps}}, so that the axis steps changes nothing there; give it {{steps}}, or"
        " leave out the axis",
    )
    _check_kept(place, stage, doses)


def _check_words(place: str, stage: CommandSection) -> None:
    for word in stage.command:
        require("\0" not in word, f"{place}.command has a word with a null character: {word!r:.60}; take it out")
    for name in sorted(stage.places()):
        require_known(name, PLACES, f"{place}.command has the place", "the places that are filled in")
    require(
        OUTPUT in stage.places(),
        f"{place}.command does not say {{output}}; give the program the directory that it is to write the model to",
    )
    program = stage.command[0]
    told = f"{place}.command begins with {program!r:.60}; give a program's name or path, or {{python}}"
    require(bool(program.strip()) and set(_PLACE.findall(program)) <= {PYTHON}, told)


def _check_data(place: str, stage: CommandSection, *, teaches: bool, has_cases: bool) -> None:
    """The data are there, and no key is set that makes nothing of them."""
    check_named_data(place, stage, NAMED_DATA, "")
    for objective in stage.objectives:
        require_known(objective, OBJECTIVES, f"{place}.objective is", "the objectives that judges score")
    given = "data" in stage.model_fields_set and stage.data != PAIRS
    require(stage.takes_data or not given, f"{place}.data is given, and the command does not take {{data}}; give it it")
    for data, keys in _CHOOSING.items():
        for key in keys if data != stage.learns_from else ():
            unset = getattr(stage, key) == type(stage).model_fields[key].get_default(call_default_factory=True)
            require(unset, f"{place}.{key} is for data = {data!r}, and the command learns from others; remove it")
    if stage.learns_from in (PAIRS, TRAJECTORIES):
        scored = bool(stage.objectives)
        require(scored, f"{place}.objective is missing: by which scores {stage.data} are chosen; give one, or several")
        require(has_cases, f"{place}.data is {stage.data!r}, and the suite 'approval' has no cases for it; give a file")
    require(
        teaches or stage.learns_from != DEMONSTRATIONS,
        f"{place}.data is 'demonstrations', and the suite has none; give a file, or 'trajectories'",
    )


def _check_kept(place: str, stage: CommandSection, doses: Sequence[int]) -> None:
    """Every dose lies in a directory of its own below {output}."""
    if stage.keep is None:
        require(
            set(doses) <= {1},
            f"{place}.keep is missing: where below {{output}} the doses {list(doses)} are; give it, such as"
            ' "checkpoint-{steps}"',
        )
        return
    for name in _PLACE.findall(stage.keep):
        require_known(name, (STEPS,), f"{place}.keep has the place", "the places that are filled in")
    parts = PurePosixPath(stage.keep).parts
    below = bool(parts) and not stage.keep.startswith("/") and ".." not in parts and "\0" not in stage.keep
    require(below, f"{place}.keep is {stage.keep!r:.60}, which does not lead below {{output}}; give a path from there")
    told = f"{place}.keep is {stage.keep!r}, which is the same for every dose; put {{steps}} into it"
    require(set(doses) <= {1} or STEPS in _PLACE.findall(stage.keep), told)


def kept_at(stage: CommandSection, steps: int | None) -> str:
    """Where below {output} the checkpoint after ``steps`` steps is."""
    return "." if stage.keep is None else _PLACE.sub(lambda _: str(steps), stage.keep)
