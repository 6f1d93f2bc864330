"""What ``holdfast run --search`` does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from holdfast.cli.gate import EXIT_CODES
from holdfast.decisions.gate.running import Means
from holdfast.decisions.search.outputs import SEARCH_FILE, render_search, search_document, trial_cells
from holdfast.decisions.search.running import default_place, search
from holdfast.decisions.search.trials import Trial, section_of
from holdfast.records.errors import require
from holdfast.records.outputs import to_json, write_file
from holdfast.runs.progress import ProgressLines
from holdfast.runs.run import default_output
from holdfast.study.study import Study


def carry_out(options: argparse.Namespace, study: Study, lines: ProgressLines) -> tuple[str, int]:
    """Carries out a study's search; the text for standard output, and the exit code of a gate.

    ``--output`` is the study's own run, from which finished steps are taken; the search has a run beside it. Errors:
    StudyError, StepError, MissingExtra.
    """
    require(not options.engine, f"--engine {options.engine} and --search: a search runs on this machine; leave one out")
    maximize = section_of(study).maximize
    study.check_prices(options.max_cost)
    run_path: Path = options.output or default_output(study.study.name)
    search_path = options.fork or default_place(run_path)

    def tell(trials: Sequence[Trial]) -> None:
        outcome, why, number, share, steps, value = trial_cells(study, trials[-1])
        lines.line(f"trial {number}: share {share}, {steps} steps: {outcome}, {why}; {maximize} {value}")

    found = search(
        study,
        search_path,
        Means(workers=options.workers, listener=lines.step, max_calls=options.max_calls, max_cost=options.max_cost),
        source=run_path,
        tell=tell,
    )
    document = search_document(found)
    write_file(search_path / SEARCH_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
    text = to_json(document) if options.json else f"{render_search(found)}\n\n{search_path / SEARCH_FILE}"
    return text, EXIT_CODES[found.outcome]
