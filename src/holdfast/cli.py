"""Arguments in, exit code out. Results go to standard output, progress and logs to standard error.

Exit codes: 0 done, 1 a step failed, 2 the user's input is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from holdfast import __version__
from holdfast.errors import HoldfastError, StepError, StoreError, StudyError

INTERRUPTED = 130
EXPORT_FORMATS = ("jsonl", "csv", "parquet", "trl", "inspect", "hf")


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(StudyError.exit_code, f"{self.prog}: {_one_line(message)}; see `{self.prog} --help`\n")


def _one_line(text: str) -> str:
    """A message in one line, without the control characters that a path may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.splitlines()))


def _score(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 3:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no score: give a number from 0 to 3")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no count: give a whole number from 1")


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    top = _Parser(prog="holdfast", description="Did this training stage cost us safety, and does it hold?")
    top.add_argument("--version", action="version", version=f"holdfast {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    new = commands.add_parser("new", help="write a study file to start from")
    new.add_argument("directory", type=Path, metavar="DIR")
    _add_study_commands(commands)
    _add_run_commands(commands)
    return top


def _add_study_commands(commands: Any) -> None:
    check = commands.add_parser("check", help="validate a study; spends nothing")
    check.add_argument("study", type=Path, metavar="STUDY")
    plan = commands.add_parser("plan", help="list a study's steps, what is done, what the rest will cost")
    plan.add_argument("study", type=Path, metavar="STUDY")
    plan.add_argument("-o", "--output", type=Path, metavar="RUN", help="a run to compare with (default: runs/NAME)")
    plan.add_argument("--json", action="store_true")

    run = commands.add_parser("run", help="do what is missing of a study; repeating it resumes")
    run.add_argument("study", type=Path, metavar="STUDY")
    run.add_argument("-o", "--output", type=Path, metavar="RUN", help="the run's directory (default: runs/NAME)")
    run.add_argument("--workers", type=_count, help="worker processes of one thread each (default: the study's)")
    run.add_argument(
        "--fork", type=Path, metavar="NEW_RUN", help="start NEW_RUN with the steps of RUN that still match"
    )
    run.add_argument("--no-report", action="store_true", help="stop after the last step")
    run.add_argument("--quiet", action="store_true", help="no progress")

    bring = commands.add_parser("import", help="a published study → a run")
    bring.add_argument("source", type=Path, metavar="SRC", help="a .tar, .tar.zst or an unpacked directory")
    bring.add_argument("-o", "--output", type=Path, metavar="RUN", required=True)
    bring.add_argument("--quiet", action="store_true")


def _add_run_commands(commands: Any) -> None:
    _add_pairs(commands.add_parser("pairs", help="preference pairs by rule: counts, or a TRL dataset"))
    analyze = commands.add_parser("analyze", help="every estimate of a run")
    analyze.add_argument("run", type=Path, metavar="RUN")
    analyze.add_argument("--draws", type=_count, help="resamples (default: the study's, else 10,000)")
    analyze.add_argument("--json", action="store_true")

    show = commands.add_parser("show", help="a run's status, or one trajectory")
    show.add_argument("run", type=Path, metavar="RUN")
    show.add_argument("id", nargs="?", metavar="ID", help="a trajectory's id, or its first digits")
    report = commands.add_parser("report", help="tables, figures and one HTML page")
    report.add_argument("run", type=Path, metavar="RUN")
    report.add_argument("--draws", type=_count, help="resamples (default: the study's, else 10,000)")

    export = commands.add_parser("export", help="a run in another tool's format")
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("--to", choices=EXPORT_FORMATS, required=True)
    export.add_argument("--checkpoint", metavar="NAME_OR_ID", help="with --to hf: whose weights to write, merged")
    export.add_argument("-o", "--output", type=Path, metavar="PATH", required=True)


def _add_pairs(pairs: argparse.ArgumentParser) -> None:
    pairs.add_argument("run", type=Path, metavar="RUN")
    pairs.add_argument("--objective", action="append", required=True, help="twice: both must agree")
    pairs.add_argument("--judge", required=True)
    pairs.add_argument("--min-gap", type=_score, default=2.0, help="score points (default 2)")
    pairs.add_argument("--min-chosen", type=_score, default=2.0, help="score of the chosen side (default 2)")
    pairs.add_argument("--any", action="store_true", help="union of the objectives' pairs instead of their agreement")
    pairs.add_argument("--cap-per-case", type=_count, help="at most so many pairs of a case")
    pairs.add_argument("--equal-cases", action="store_true", help="weigh pairs so that cases count alike")
    pairs.add_argument("--other-models-only", action="store_true", help="no pair between two runs of one model")
    pairs.add_argument("--fit-only", action="store_true", help="no trajectory that the audit found unfit")
    pairs.add_argument("--seed", type=int, default=0, help="for --cap-per-case (default 0)")
    pairs.add_argument("--to", choices=["trl"], help="write the pairs as JSON lines that TRL loads")
    pairs.add_argument("-o", "--output", type=Path, metavar="FILE", help="where --to writes (default: standard output)")
    pairs.add_argument("--json", action="store_true")


def _say(text: str) -> None:
    print(text)


def _dump(document: Any) -> None:
    print(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False))


# --- studies -------------------------------------------------------------------------------------------------


def _new(options: argparse.Namespace) -> int:
    from holdfast.templates import write_study

    path = write_study(options.directory)
    _say(f"wrote {path}; next: holdfast check {shlex.quote(str(path))}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from holdfast.forecast import look_around
    from holdfast.study import load

    study = load(options.study)
    problems, facts = look_around(study)
    for fact in facts:
        _say(fact)
    if problems:
        raise StudyError(
            f"{options.study}: {problems[0]}" + (f" (and {len(problems) - 1} more)" if problems[1:] else "")
        )
    _say(f"{options.study}: valid; next: holdfast plan {shlex.quote(str(options.study))}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from holdfast.forecast import forecast, render_forecast
    from holdfast.plan import build
    from holdfast.runs import default_output
    from holdfast.study import load

    study = load(options.study)
    document = forecast(build(study), options.output or default_output(study.study.name))
    if options.json:
        _dump(document)
    else:
        _say(render_forecast(document))
    return 0


def _run(options: argparse.Namespace) -> int:
    from holdfast.progress import ProgressLines
    from holdfast.report.terminal import render_results
    from holdfast.runs import run
    from holdfast.study import load

    study = load(options.study)
    lines = ProgressLines(sys.stderr, quiet=options.quiet)
    made = run(study, options.output, workers=options.workers, listener=lines.step, fork=options.fork)
    if options.no_report:
        return 0
    lines.line("analyzing and writing the report")
    page = made.report()
    _say(render_results(made.analysis()))
    _say(f"\nreport: {page.absolute()}")
    return 0


# --- runs ----------------------------------------------------------------------------------------------------


def _import(options: argparse.Namespace) -> int:
    from holdfast.progress import ProgressLines, rate_and_left
    from holdfast.published import ImportProgress, import_into

    lines = ProgressLines(sys.stderr, quiet=options.quiet)

    def tell(progress: ImportProgress) -> None:
        read, total = progress.bytes_read / 1e6, progress.bytes_total / 1e6
        shown = rate_and_left(read, total, read / progress.seconds if progress.seconds > 1 else None, "MB")
        lines.passing(f"{shown} · {progress.trajectories:,} trajectories, {progress.scores:,} scores")

    summary = import_into(options.source, options.output, progress=tell)
    lines.line("done")
    _say(
        f"{options.output}: {summary.trajectories:,} trajectories, {summary.scores:,} scores,"
        f" {summary.checkpoints} checkpoints, {summary.cases} cases"
        f" ({summary.new_trajectories:,} trajectories and {summary.new_scores:,} scores are new)"
    )
    _say(f"next: holdfast report {shlex.quote(str(options.output))}")
    return 0


def _pairs(options: argparse.Namespace) -> int:
    import numpy as np

    from holdfast import pairs
    from holdfast.store import Store

    with Store(options.run) as store:
        selection = pairs.build_pairs(
            store.score_table(),
            store.trajectory_ids(),
            objectives=options.objective,
            judge=options.judge,
            min_gap=options.min_gap,
            min_chosen=options.min_chosen,
            combine="any" if options.any else "all",
            cap_per_case=options.cap_per_case,
            case_weighting="equal" if options.equal_cases else None,
            same_model=not options.other_models_only,
            exclude_unfit=options.fit_only,
            rng=np.random.default_rng(options.seed),
        )
        if options.to == "trl":
            from holdfast.exports import write_lines

            count = write_lines(pairs.to_trl(selection.pairs(), store), options.output)
            if options.output is not None:
                _say(f"wrote {count:,} pairs to {options.output}")
            return 0
        document = pairs.count_document(selection, store.splits())
    if options.json:
        _dump(document)
    else:
        _say(f"{document['pairs']:,} pairs of {document['trajectories']:,} trajectories in {document['cases']} cases")
        _say(f"{document['same_model_pairs']:,} of them join two runs of one model")
    return 0


def _analyze(options: argparse.Namespace) -> int:
    from holdfast.analysis import document
    from holdfast.report.terminal import render_results
    from holdfast.runs import Run

    analysis = Run(options.run).analysis(draws=options.draws)
    if options.json:
        _dump(document(analysis))
    else:
        _say(render_results(analysis))
    return 0


def _show(options: argparse.Namespace) -> int:
    from holdfast.report.terminal import render_status, render_trajectory
    from holdfast.runs import planned_steps
    from holdfast.store import Store

    with Store(options.run) as store:
        if options.id is None:
            _say(render_status(store, planned_steps(store)))
            for step in store.log.steps().values():
                if step.status == "failed":
                    _say(_one_line(f"failed: {step.name}: {step.result.get('error', 'no reason noted')}"))
            return 0
        found = [name for name in store.trajectory_ids() if name.startswith(options.id)]
        if len(found) != 1:
            few, remedy = (
                ("no trajectory", "the report lists them")
                if not found
                else (f"{len(found)} trajectories", "give more digits")
            )
            raise StudyError(f"{options.run}: {few} with an id that starts with {options.id!r}; {remedy}")
        trajectory = store.trajectory(found[0])
        case, checkpoint = store.case(trajectory.case_id), store.checkpoint(trajectory.checkpoint_id)
        _say(render_trajectory(case, checkpoint, trajectory, store.scores(trajectory.id)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from holdfast.runs import Run

    opened = Run(options.run)
    if options.draws:
        opened.analysis(draws=options.draws)
    _say(f"report: {opened.report().absolute()}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from holdfast.exports import export_run

    _say(f"wrote {export_run(options.run, options.to, options.output, checkpoint=options.checkpoint)}")
    return 0


COMMANDS = {
    "new": _new,
    "check": _check,
    "plan": _plan,
    "run": _run,
    "import": _import,
    "pairs": _pairs,
    "analyze": _analyze,
    "show": _show,
    "report": _report,
    "export": _export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit code."""
    _print_any_text()
    options = parser().parse_args(arguments)
    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
    except HoldfastError as error:
        return _refuse(str(error), error.exit_code)
    except KeyboardInterrupt:
        # From here on the process only ends: a second interrupt must not tear that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("\n")
        return _refuse("interrupted; repeat the command to go on", INTERRUPTED)
    except BrokenPipeError:
        # The reader of standard output went away, as `| head` does: what was asked for was given.
        _discard(sys.stdout)
        return 0
    except OSError as error:
        _discard(sys.stdout)
        place = error.filename if error.filename is not None else options.command
        return _refuse(
            f"{place}: {error.strerror or error}; check the path and the space on its disk", StoreError.exit_code
        )
    except sqlite3.Error as error:
        return _refuse(
            f"{options.command}: the run's database failed ({error}); check its disk and repeat", StepError.exit_code
        )
    return code


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"holdfast: {_one_line(message)}\n")
    return code


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream's buffer nowhere, so that the end of the process does not fail on it."""
    with contextlib.suppress(OSError):  # a stream in memory has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_any_text() -> None:
    """Let standard streams take any text: what their encoding lacks is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
