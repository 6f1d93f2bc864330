"""What is said of commands before any is carried out: their line, what they need that is not here, whose they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from holdfast.records.errors import StudyError
from holdfast.records.extensions import allow, may_carry_out
from holdfast.study.command import PYTHON, CommandSection
from holdfast.study.stages import FILE, StageTable
from holdfast.study.study import Study

_SWITCHES = ("-u", "-B", "-E", "-I", "-O", "-OO", "-s", "-S", "-v", "-q")  # of Python, which take no word


def check_commands(study: Study, permitted: bool) -> None:
    """Refuse commands that no study file of the user's own holds, or let them be carried out where that is permitted.

    Errors: StudyError.
    """
    used = {name for base in study.model.bases for lineage in study.lineages_of(base) for name in lineage}
    for name in sorted(used):
        stage = study.stages[name]
        if not isinstance(stage, CommandSection):
            continue
        if permitted:
            allow([stage.command])
        elif not may_carry_out(stage.command):
            raise StudyError(tell_refused(name, stage))


def tell_refused(name: str, stage: CommandSection) -> str:
    """Why a stage's command is not carried out in this process."""
    return (
        f"stages.{name}.command is not carried out: no study file of yours names {stage.line:.200}, and a run's word is"
        " no reason to; name the study's file, or in Python call run(…, allow_command=True)"
    )


def describe_command(name: str, stage: StageTable) -> str | None:
    """The line that a stage carries out, and what it is given; None for a stage without a command."""
    if not isinstance(stage, CommandSection):
        return None
    told = f"stages.{name} carries out, for at most {stage.timeout:,g} s: {stage.line}"
    if stage.env:
        told += f" (given the variables {', '.join(stage.env)})"
    if stage.learns_from == FILE and stage.data:
        told += f" (given {stage.data} as it is, held-out cases included where it has some)"
    return told


def _tell_lacking(program: str) -> str:
    """Why nothing can be begun by a program's name, and what to do."""
    if os.path.isdir(program):  # noqa: PTH112 (no error for names that no path can have)
        return "which is a directory; give the path of the program"
    if not os.path.isfile(program):  # noqa: PTH113
        return "and no such program is here or on PATH; give its path"
    if os.access(program, os.X_OK):
        return f"which is not on PATH; write './{program}' for the one that is here"
    return "a file that may not be executed; name the program that reads it, or make it executable (chmod +x)"


def find_problems(name: str, stage: StageTable) -> Iterator[str]:
    """What stands in the way of a stage's command, a line each."""
    if not isinstance(stage, CommandSection):
        return
    place = f"stages.{name}"
    program, *words = stage.command
    if f"{{{PYTHON}}}" not in program and shutil.which(program) is None:
        yield f"{place}.command begins with {program!r:.80}, {_tell_lacking(program)}"
    script = next((word for word in words if word not in _SWITCHES), "")
    python = f"{{{PYTHON}}}" in program or Path(program).name.startswith("python")
    if python and script.endswith(".py") and "{" not in script and not Path(script).is_file():
        yield f"{place}.command names the script {script!r:.80}, which is not there; give its path from {Path.cwd()}"
    for variable in stage.env:
        if variable not in os.environ:
            yield f"{place}.env names {variable}, which the environment does not have; set it, or take it out"
