"""What ``holdfast join`` does."""

from __future__ import annotations

import argparse
import shlex
import sys

from holdfast.runs.progress import ProgressLines


def carry_out(options: argparse.Namespace) -> str:
    """Join the runs, and say what came of each and what is to be done. Errors: StudyError, StoreError."""
    with ProgressLines(sys.stderr, quiet=options.quiet) as lines:
        lines.begin(f"joining {len(options.runs)} runs")
        from holdfast.report.words.inert import show_line
        from holdfast.runs.joining.join import join
        from holdfast.store.joined import describe_source, read_joined
        from holdfast.study.study import load

        if options.study is not None:
            load(options.study)  # what it names may be followed from here on
        made = join(
            options.runs,
            options.output,
            shared=options.shared,
            partial=options.partial,
            weights=not options.without_weights,
            tell=lines.warn,
        )
    with made.store() as store:
        counts, joined = store.counts(), read_joined(store)
    assert joined is not None
    place = shlex.quote(str(options.output))
    told = [
        f"{options.output}: joined of {len(joined.sources)} runs: {counts['checkpoints']:,} checkpoints,"
        f" {counts['trajectories']:,} trajectories, {counts['scores']:,} scores",
        *(show_line(" · ".join(describe_source(source))) for source in joined.sources),
        *(f"note: {show_line(note)}" for note in joined.notes),
    ]
    return "\n".join([*told, f"next: holdfast report {place}"])
