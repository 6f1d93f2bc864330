"""Arguments in, exit code out. Results go to standard output, progress and logs to standard error.

Exit codes: 0 done or PASS, 1 a step failed, FAIL or an alarm, 2 the user's input is wrong, 3 INCONCLUSIVE, 4 an error
that nobody foresaw, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shlex
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from holdfast.cli.arguments import one_line, parser
from holdfast.records.errors import HoldfastError, StepError, StoreError, StudyError
from holdfast.records.outputs import describe_error, free_bytes, to_json
from holdfast.runs.progress import ProgressLines, rate_and_left

INTERRUPTED = 130
LEAST_MEMORY = 256 << 20  # bytes of address space, with which the light commands' libraries load
# What stands out in a terminal. The words say it too: colour alone carries nothing.
_STYLES = {
    r"\bPASS\b": "green",
    r"\b(FAIL|ALARM|JUDGE DRIFTED)\b": "bold red",
    r"\bINCONCLUSIVE\b": "yellow",
    r"(?m)^( *! .*|failed: .*)$": "red",
    r"(?m)^[^\n]*\n(?= *─+$)": "bold",
    r"(?m)^ *─+$": "dim",
    r"(?m)^(everything|report|next|page|note): ": "dim",
}
LIGHT = ("new",)  # commands that load none
# Of the dynamic loader, the C library, Python's threads, and torch.
_NO_MEMORY_WORDS = (
    "failed to map segment",
    "cannot allocate memory",
    "can't start new thread",
    "can't allocate memory",
)
_NO_MEMORY = (
    "the memory that this process may have is not enough; raise its limit, or give it less at once (fewer workers,"
    " fewer --draws, a smaller run)"
)


def _say(text: str, *, plain: bool = False) -> None:
    """Print a result, with colours in a terminal that has them unless it is ``plain``."""
    if sys.stdout.isatty() and not plain:
        from rich.console import Console
        from rich.text import Text

        shown = Text(text)
        for pattern, style in _STYLES.items():
            shown.highlight_regex(pattern, style)
        Console(highlight=False).print(shown, soft_wrap=True)
    else:
        print(text)


# --- studies -------------------------------------------------------------------------------------------------


def _new(options: argparse.Namespace) -> str:
    if options.suite is not None:
        from holdfast.study.cases_template import write_cases

        path = write_cases(options.suite)
        return f"wrote {path}; next: holdfast gate BASE CHILD --suite {shlex.quote(str(path))}"
    from holdfast.study.template import write_study

    path = write_study(options.directory)
    return f"wrote {path}; next: holdfast check {shlex.quote(str(path))}"


def _check(options: argparse.Namespace) -> str:
    from holdfast.runs.engines.opening import look_at_engine, name_engine
    from holdfast.runs.readiness import look_around
    from holdfast.study.study import load

    study = load(options.study, scale=options.scale, changes=options.set)
    engine = name_engine(options.engine)
    problems, facts = look_around(study)
    facts += look_at_engine(engine, study)
    for fact in facts:
        _say(fact)
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise StudyError(f"{options.study}: {problems[0]}{more}")
    return f"{options.study}: valid; next: holdfast plan {shlex.quote(str(options.study))}"


def _plan(options: argparse.Namespace) -> str:
    from holdfast.runs.build import build
    from holdfast.runs.engines.opening import LOCAL, name_engine
    from holdfast.runs.forecast import forecast, render_forecast
    from holdfast.runs.run import default_output
    from holdfast.study.study import load

    study = load(options.study, scale=options.scale, changes=options.set)
    cluster = name_engine(options.engine) != LOCAL
    document = forecast(build(study), options.output or default_output(study.study.name), cluster=cluster)
    return to_json(document) if options.json else render_forecast(document, full=options.full)


def _run(options: argparse.Namespace) -> str | tuple[str, int]:
    with ProgressLines(sys.stderr, quiet=options.quiet) as lines:
        lines.begin(f"reading {options.study}")  # what follows loads libraries for seconds
        from holdfast.cli import ending
        from holdfast.study.study import load

        study = load(options.study, scale=options.scale, changes=options.set)
        if options.search:
            from holdfast.cli.search import carry_out

            return carry_out(options, study, lines)
        return ending.carry_out(study, options, lines)


def _lineage(options: argparse.Namespace) -> str:
    from holdfast.cli.lineage import carry_out

    return carry_out(options)


def _join(options: argparse.Namespace) -> str:
    from holdfast.cli.join import carry_out

    return carry_out(options)


def _carry(options: argparse.Namespace) -> tuple[str, int]:
    from holdfast.cli.carry import carry_out

    return carry_out(options)


# --- runs ----------------------------------------------------------------------------------------------------


def _import(options: argparse.Namespace) -> str:
    from holdfast.exchange.imports import import_run
    from holdfast.exchange.published import ImportProgress
    from holdfast.exchange.scales import parse_score

    scores = [parse_score(word) for word in options.score]
    with ProgressLines(sys.stderr, quiet=options.quiet) as lines:

        def tell(progress: ImportProgress) -> None:
            read, total = progress.bytes_read / 1e6, progress.bytes_total / 1e6
            shown = rate_and_left(read, total, read / progress.seconds if progress.seconds > 1 else None, "MB")
            shown += f" · {progress.trajectories:,} trajectories, {progress.scores:,} scores"
            lines.passing(shown, read / total if total else None)

        summary = import_run(options.source, options.output, scores=scores, progress=tell)
        lines.line("done")
    told = [
        f"{options.output}: {summary.trajectories:,} trajectories, {summary.scores:,} scores,"
        f" {summary.checkpoints} checkpoints, {summary.cases} cases"
        f" ({summary.new_trajectories:,} trajectories and {summary.new_scores:,} scores are new)",
        *(f"note: {one_line(note)}" for note in summary.notes),
        f"next: holdfast report {shlex.quote(str(options.output))}",
    ]
    return "\n".join(told)


def _pairs(options: argparse.Namespace) -> str:
    import numpy as np

    from holdfast.store import Store
    from holdfast.store.origins import require_declared
    from holdfast.training import pairs

    if options.arguments is not None and options.to != "trl":
        raise StudyError("pairs: --arguments goes with --to trl only; leave it out")
    with Store(options.run) as store:
        require_declared(store, options.judge)
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
            from holdfast.exchange.exports import write_lines
            from holdfast.exchange.trl import to_trl

            count = write_lines(to_trl(selection.pairs(), store, options.arguments or "object"), options.output)
            return "" if options.output is None else f"wrote {count:,} pairs to {options.output}"
        document = pairs.count_document(selection, store.splits())
    if options.json:
        return to_json(document)
    return (
        f"{document['pairs']:,} pairs of {document['trajectories']:,} trajectories in {document['cases']} cases\n"
        f"{document['same_model_pairs']:,} of them join two runs of one model"
    )


def _analyze(options: argparse.Namespace) -> str:
    with ProgressLines(sys.stderr) as lines:
        lines.begin(f"analyzing {options.run}")
        from holdfast.analysis import document
        from holdfast.report.page.terminal import render_results
        from holdfast.runs.run import Run

        analysis = Run(options.run).analysis(draws=options.draws)
    return to_json(document(analysis)) if options.json else render_results(analysis)


def _show(options: argparse.Namespace) -> str:
    from holdfast.report.page.terminal import render_status, render_trajectory
    from holdfast.report.words.console import terminal_width
    from holdfast.runs.forecast import read_spending
    from holdfast.runs.run import check_run, planned_steps
    from holdfast.store import Store

    with Store(options.run) as store:
        if options.digest is not None:
            digest, gone = check_run(store, options.digest)
            if gone:
                told = ", ".join(gone[:3]) + (" …" if len(gone) > 3 else "")
                _refuse(f"show: gone, and not held against it: {told} ({len(gone)})", 0)
            return digest
        if options.id is None:
            status = render_status(store, planned_steps(store), read_spending(options.run), full=options.full)
            failed = [step for step in store.log.steps().values() if step.status == "failed"]
            reasons = [f"failed: {step.name}: {step.result.get('error', 'no reason noted')}" for step in failed]
            return "\n".join([status, *map(one_line, reasons)])
        found = [name for name in store.trajectory_ids(part="all") if name.startswith(options.id)]
        if len(found) != 1:
            few = f"{len(found)} trajectories" if found else "no trajectory"
            remedy = "give more digits" if found else "the report lists them"
            raise StudyError(f"{options.run}: {few} with an id that starts with {options.id!r}; {remedy}")
        trajectory = store.trajectory(found[0])
        case, checkpoint = store.case(trajectory.case_id), store.checkpoint(trajectory.checkpoint_id)
        return render_trajectory(case, checkpoint, trajectory, store.scores(trajectory.id), terminal_width())


def _report(options: argparse.Namespace) -> str:
    with ProgressLines(sys.stderr) as lines:
        lines.begin(f"analyzing {options.run} and writing its report")
        from holdfast.decisions.gate.verdicts import judge_run
        from holdfast.runs.run import Run

        opened = Run(options.run)
        if options.draws:
            opened.analysis(draws=options.draws)
        verdicts, reason = judge_run(options.run)
        page = opened.report(verdicts, [reason] * bool(reason), output=options.output)
    return f"report: {page.absolute()}"


def _export(options: argparse.Namespace) -> str:
    from holdfast.exchange.exports import export_run

    if options.to == "evidence":
        from holdfast.decisions.gate.outputs.evidence import export_evidence
        from holdfast.store import Store

        if options.checkpoint is not None:
            raise StudyError("export --to evidence: takes no --checkpoint; it is about a whole run")
        told = f"wrote {export_evidence(options.run, options.output, options.rules)}"
        with Store(options.run) as store:
            digest = store.digest()
        return told if digest is None else f"{told}\ndigest of the run, to be kept elsewhere: {digest}"
    if options.rules is not None:
        raise StudyError(f"export --to {options.to}: takes no --rules; it goes with --to evidence only")
    chosen = {"checkpoint": options.checkpoint, "arguments": options.arguments}
    return f"wrote {export_run(options.run, options.to, options.output, **chosen)}"


def _judge(options: argparse.Namespace) -> str:
    from holdfast.report.page.terminal import render_canaries
    from holdfast.runs.rescoring import rescore, try_canaries

    budget = {"max_calls": options.max_calls, "max_cost": options.max_cost}
    if options.canaries:
        document = try_canaries(
            options.judge, options.judges, run_path=options.run, budget=budget, trusted=options.trust_endpoints
        )
        return to_json(document) if options.json else render_canaries(document)
    if options.run is None:
        raise StudyError("judge: RUN is missing; give a run's directory, or --canaries")
    with ProgressLines(sys.stderr, quiet=options.quiet) as lines:

        def tell(judged: int, total: int, rate: float | None) -> None:
            lines.passing(rate_and_left(judged, total, rate, "trajectories"), judged / total if total else None)

        summary = rescore(
            options.run,
            options.judge,
            options.judges,
            budget=budget,
            trusted=options.trust_endpoints,
            progress=tell,
            tell=lambda note: lines.warn(one_line(note)),
        )
        lines.line("done")
    if options.json:
        return to_json(summary)
    return (
        f"{options.run}: {summary['judged']:,} trajectories judged by {options.judge},"
        f" {summary['before']:,} before; {summary['scores']:,} scores, {summary['missing']:,} missing\n"
        f"next: holdfast analyze {shlex.quote(str(options.run))}"
    )


def _decide(options: argparse.Namespace) -> tuple[str, int]:
    """``gate``, ``verify`` and ``watch``."""
    if options.command == "gate":
        from holdfast.cli.gate import carry_out
    elif options.command == "verify":
        from holdfast.cli.verify import carry_out
    else:
        from holdfast.cli.watch import carry_out
    return carry_out(options)


# What each says on standard output, with an exit code where that is not 0.
COMMANDS: Mapping[str, Callable[[argparse.Namespace], str | tuple[str, int]]] = {
    "new": _new,
    "check": _check,
    "plan": _plan,
    "run": _run,
    "lineage": _lineage,
    "join": _join,
    "carry": _carry,
    "import": _import,
    "judge": _judge,
    "pairs": _pairs,
    "analyze": _analyze,
    "gate": _decide,
    "verify": _decide,
    "watch": _decide,
    "show": _show,
    "report": _report,
    "export": _export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit code."""
    _print_any_text()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, path = "holdfast", ""
    try:
        options = parser().parse_args(words)
        options.words = words
        command, path = options.command, _place(options)
        _require_memory(command)
        found = COMMANDS[command](options)
        text, code = (found, 0) if isinstance(found, str) else found
        if text:
            _say(text, plain=getattr(options, "json", False))
        sys.stdout.flush()
    except HoldfastError as error:
        return _refuse(str(error), error.exit_code)
    except Exception as error:
        if _is_out_of_memory(error):
            _discard(sys.stdout)
            return _refuse(f"{command}: {_NO_MEMORY}", StepError.exit_code)
        return _tell_error(error, command, path, words)
    except KeyboardInterrupt:
        # From here on the process only ends: a second interrupt must not tear that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("\n")
        return _refuse("interrupted; repeat the command to go on", INTERRUPTED)
    return code


def _tell_error(error: Exception, command: str, path: str, words: Sequence[str]) -> int:
    """An error that is none of holdfast's own in one line; the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader of standard output went away, as `| head` does: what was asked for was given.
        _discard(sys.stdout)
        return 0
    if isinstance(error, OSError):
        _discard(sys.stdout)
        named = path if error.filename is None else error.filename
        told = f"{named or command}: {describe_error(error, named)}; check the path and the space on its disk"
        return _refuse(told, StoreError.exit_code)
    if isinstance(error, sqlite3.Error):
        room = free_bytes(path) if path else None
        told = f"{error}" if room is None else f"{error}, {room:,} bytes are free there"
        told = f"{path or command}: the run's database failed ({told}); check its disk and repeat"
        return _refuse(told, StepError.exit_code)
    from holdfast.cli import unexpected

    if os.environ.get(unexpected.DEBUG) == "1":
        raise error
    return _refuse(unexpected.describe_unexpected(error, command, words), unexpected.EXIT_CODE)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that there is no more memory, in whichever library's words."""
    while error is not None:
        told = str(error).lower()
        if isinstance(error, MemoryError) or any(words in told for words in _NO_MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _require_memory(command: str) -> None:
    """Refuse a limit of memory under which libraries do not load, but end the process or wait for ever.

    Errors: StudyError.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if command not in LIGHT and 0 <= limit < LEAST_MEMORY:
        raise StudyError(
            f"{command}: this process may have {limit >> 20:,} MiB of memory (ulimit -v), and needs"
            f" {LEAST_MEMORY >> 20:,} MiB; raise the limit"
        )


def _place(options: argparse.Namespace) -> str:
    """The directory or file that a command writes or reads, to be named where an error names none."""
    found = (getattr(options, name, None) for name in ("output", "run", "study", "directory"))
    return next((str(one) for one in found if one), "")


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"holdfast: {one_line(message)}\n")
    return code


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream's buffer nowhere, so that the end of the process does not fail on it."""
    with contextlib.suppress(OSError):  # a stream in memory has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_any_text() -> None:
    """Let standard streams take any text: what their encoding lacks is shown as an escape; closed ones take it too."""
    nowhere = open(os.devnull, "w") if None in (sys.stdout, sys.stderr) else None  # noqa: PTH123, SIM115
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
