"""Carries out a stage by the user's own trainer, from the beginning each time.

    parent's weights, whole ─▶ {model} ─┐
    pairs or episodes ────────▶ {data} ─┼─ the program ─▶ {output} ─ checked ─▶ a copy, which the run takes over
                                {seed} ─┘

All three are in the step's own directory, and go with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.exchange.exports import write_lines
from holdfast.exchange.trl import chats_to_trl, to_trl
from holdfast.models.directories.files import digest_weights
from holdfast.records.errors import StepError
from holdfast.records.extensions import may_carry_out
from holdfast.runs.methods.command.look import tell_refused
from holdfast.runs.methods.command.outputs import take_over
from holdfast.runs.methods.command.plan import CommandSettings
from holdfast.runs.methods.command.trainer import Ended, OutputLog, environment, run_program, work_directory
from holdfast.runs.methods.demonstrations.train import choose
from holdfast.runs.methods.files import find_data, locate_data
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.runs.steps.reading import weights_of
from holdfast.store import Store, weights
from holdfast.study.command import DATA, MODEL, OUTPUT, PYTHON, SEED, STEPS, CommandSection, kept_at
from holdfast.study.stages import FILE, PAIRS

LOG = "trainer.jsonl"  # in the step's directory, what the program writes while it runs
LOG_KIND = ".trainer"  # what is added to the name of the log that is kept
_WORK = "work"
_SHOWN = 80  # characters of a command
_MOST_SCRIPT = 16 << 20  # bytes of a file that a command names, of which the digest is noted


@dataclass(frozen=True, slots=True)
class Lent:
    """The file that a program is given, what it holds, and what of its source it does not."""

    path: Path | None = None
    rows: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


def train_stage(step: Step, settings: CommandSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """One stage by a program. Errors: StepError where it is not carried out, fails, or leaves no model."""
    section, place = settings.section, f"stages.{settings.stage}"
    if not may_carry_out(section.command):
        raise StepError(tell_refused(settings.stage, section))
    if lacking := [name for name in section.env if name not in environment([name])]:
        raise StepError(f"{place}.env names {lacking[0]}, which the environment does not have; set it")
    with work_directory(scratch / _WORK) as held:
        # Whoever held it has ended, and what that left is nothing to go on with.
        weights.clear_scratch(scratch / _WORK)
        weights.clear_scratch(scratch, keep=(_WORK,))
        try:
            return _train(step, settings, store, scratch, held)
        finally:
            # What was lent and what was left may be large; what is to stay was copied. What cannot be removed is told
            # of where that stands in the way.
            with contextlib.suppress(OSError):
                weights.clear_scratch(scratch / _WORK)


def _train(step: Step, settings: CommandSettings, store: Store, scratch: Path, held: int) -> Finished:
    section, place = settings.section, f"stages.{settings.stage}"
    model, output = ((scratch / _WORK / name).absolute() for name in (MODEL, OUTPUT))
    for one in (model, output):
        one.mkdir(mode=0o700)
    lent_digest = _write_model(weights_of(store, settings.parent), model)
    lent = _write_data(step, settings, store, (scratch / _WORK / "data.jsonl").absolute())
    steps = None if section.steps is None else section.steps * settings.doses[-1]
    values = {MODEL: str(model), OUTPUT: str(output), DATA: str(lent.path or ""), PYTHON: sys.executable}
    values |= {SEED: str(settings.train_seed), STEPS: str(steps)}
    log, started = OutputLog(scratch / LOG), time.monotonic()
    try:
        ended = run_program(section.fill(values), environment(section.env), section.timeout, log, held)
    finally:
        log.close()
    seconds, unchanged = round(time.monotonic() - started, 1), False
    _check_end(place, section, ended, log, scratch / LOG)
    with contextlib.suppress(OSError):  # of what is gone
        unchanged = weights.holds(model, lent_digest)
    if not unchanged:
        raise StepError(
            f"{place}: the program has changed {{model}}, by which its own is checked; let it write to {{output}}"
        )
    made, doses, known = [], [], dict[str, int]()
    for checkpoint, dose in zip(step.checkpoints, settings.doses, strict=True):
        taken = None if section.steps is None else section.steps * dose
        target = scratch / f"dose-{dose:06d}"
        take_over(place, output / kept_at(section, taken), output, model, target)
        digest = digest_weights(target)
        if digest in known:
            raise StepError(f"{place}: the doses {known[digest]} and {dose} are one model; let the program save each")
        known[digest] = dose
        made.append((checkpoint, target))
        doses.append({"checkpoint": checkpoint.id, **({} if taken is None else {"steps": taken})})
    result: dict[str, Any] = {
        "command": section.line,
        "programs": _digest_words(section),
        "variables": list(section.env),
        "trainer_seconds": seconds,
        "rows": lent.rows,
        "left_out": dict(lent.left_out),
        "ended_processes": ended.left,
        "log_bytes_left_out": log.left_out,
        "doses": doses,
    }
    return Finished(result=result, checkpoints=tuple(made), logs={LOG_KIND: scratch / LOG})


def _write_model(start: Path, target: Path) -> str:
    """The weights to start from, whole, as transformers opens them; the digest of the directory."""
    from holdfast.models.directories.opening import write_whole

    write_whole(start, target)
    return weights.digest_directory(target)


def _write_data(step: Step, settings: CommandSettings, store: Store, path: Path) -> Lent:
    """What the program is to learn from: rows that are written to ``path``, or the user's own file."""
    section = settings.section
    if section.learns_from is None:
        return Lent()
    if section.learns_from == FILE:
        find_data(settings.stage, section, store.path)  # which refuses another
        return Lent(path=locate_data(section, store.path).absolute())
    if section.learns_from == PAIRS:
        assert settings.pairs is not None  # the plan gives it with such data
        count = write_lines(to_trl(store.pairs(settings.pairs), store), path)
        if not count:
            found = store.log.steps()[settings.pairs].result
            raise StepError(
                "there are no pairs to learn from; lower [pairs] min_gap or sample more rollouts"
                f" ({found['scored']} of {found['episodes']} training episodes have a score)"
            )
        return Lent(path=path, rows=count)
    chosen = choose(step, settings, store)
    count = write_lines(chats_to_trl(chosen.episodes.values()), path)
    return Lent(path=path, rows=count, left_out=chosen.left_out)


def _check_end(place: str, section: CommandSection, ended: Ended, log: OutputLog, path: Path) -> None:
    """Raises StepError where the program did not end well, with the last lines that it wrote."""
    program = " ".join(section.command[:2])  # an interpreter's name alone says little
    program = program if len(program) <= _SHOWN else f"{program[:_SHOWN]}…"
    if ended.failed is not None:
        raise StepError(
            f"{place}.command: {section.command[0]:.200} cannot be carried out ({ended.failed}); give a program that is"
            " on PATH, or its path"
        )
    if ended.code == 0 and not (ended.late or ended.stopped):
        return
    finding, remedy = f"ended with exit code {ended.code}", "mend what it says, then repeat the command to retry"
    if ended.late:
        finding = f"was ended at its timeout of {section.timeout:g} s"
        remedy = f"raise {place}.timeout, or mend the program, then repeat the command"
    elif ended.stopped:
        finding, remedy = "was ended with the process that watches over it", "repeat the command to retry"
    elif ended.code is not None and ended.code < 0:
        finding = f"was killed by signal {-ended.code} ({_name_signal(-ended.code)})"
        remedy = "if memory was exhausted, give it less to do at once; then repeat the command to retry"
    last = log.last_lines()
    said = f"its last lines: {last}" if last else "it wrote no line"
    raise StepError(f"{place}.command: {program} {finding}; {remedy}; {said} (all of it in {path})")


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _digest_words(section: CommandSection) -> dict[str, str]:
    """The SHA-256 of every file that the command names: which script it was, for whoever reads the run later."""
    found = {}
    for word in section.command[1:]:
        path = Path(word)
        try:
            if path.is_file() and path.stat().st_size <= _MOST_SCRIPT:
                found[word] = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError):
            continue
    return found
