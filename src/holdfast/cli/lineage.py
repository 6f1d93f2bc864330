"""What ``holdfast lineage`` does."""

from __future__ import annotations

import argparse
import shlex
import sys

from holdfast.cli import ending
from holdfast.records.outputs import write_file
from holdfast.runs.lineage import STUDY_FILE, describe_lineage
from holdfast.runs.progress import ProgressLines
from holdfast.runs.run import begin


def carry_out(options: argparse.Namespace) -> str:
    """Write the study of a lineage into its run, carry it out, and say what came out. Errors: as ``run`` has them."""
    with ProgressLines(sys.stderr, quiet=options.quiet) as lines:
        lines.begin("reading the models")
        study, text = describe_lineage(
            options.models, suite=options.suite, judge=options.judge, cases=options.cases, name=options.output.name
        )
        study.check_prices(options.max_cost)
        begin(study, options.output)
        file = options.output / STUDY_FILE
        if not file.exists():
            write_file(file, text)
        told = ending.carry_out(study, options, lines)
    return f"{told}\nstudy: {file} (edit a copy, and run it with holdfast run COPY -o {shlex.quote('NEW_RUN')})"
