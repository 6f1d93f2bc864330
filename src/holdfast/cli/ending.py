"""How a command that carries out a study ends: analysis, verdicts, page, and the answer first."""

from __future__ import annotations

import argparse
import shlex

from holdfast.runs.progress import ProgressLines
from holdfast.runs.run import Run, run
from holdfast.study.study import Study


def carry_out(study: Study, options: argparse.Namespace, lines: ProgressLines) -> str:
    """Carry out a study as ``run`` and ``lineage`` were asked to, and say what came out."""
    made = run(
        study,
        options.output,
        workers=options.workers,
        listener=lines.step,
        fork=options.fork,
        max_calls=options.max_calls,
        max_cost=options.max_cost,
        engine=options.engine,
        warn=lines.warn,
    )
    return "" if options.no_report else _conclude(made, lines, full=options.full)


def _conclude(made: Run, lines: ProgressLines, *, full: bool) -> str:
    """Write the report of a run, and say what came out: the answer, or with ``full`` every table."""
    lines.line("analyzing and writing the report")
    from holdfast.decisions.gate.verdicts import judge_run
    from holdfast.report.page.terminal import render_results, render_summary

    verdicts, reason = judge_run(made.path)
    page = made.report(verdicts, [reason] * bool(reason))
    if full:
        text = render_results(made.analysis(), verdicts=verdicts)
    else:
        text = render_summary(made.analysis(), verdicts)
        text += f"\neverything: holdfast analyze {shlex.quote(str(made.path))}"
    return f"{text}\nreport: {page.absolute()}"
