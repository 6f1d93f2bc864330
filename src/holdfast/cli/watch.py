"""What ``holdfast watch`` does."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields, replace
from typing import Any

from holdfast.decisions.watch.page import PAGE, write_watch
from holdfast.decisions.watch.paired import watch_checkpoints
from holdfast.decisions.watch.production import watch_traces
from holdfast.decisions.watch.render import exit_code, make_document, render_markdown, render_text
from holdfast.decisions.watch.request import CheckpointWatch, TraceWatch, WatchRequest
from holdfast.decisions.watch.state import UNCHECKED, hold_state
from holdfast.exchange.scales import parse_score
from holdfast.records.errors import require
from holdfast.records.outputs import to_json, write_file
from holdfast.store.choosing import read_conditions


def carry_out(options: Namespace) -> tuple[str, int]:
    """The text for standard output and the exit code (0 silent, 1 alarm, 3 too little data). Errors: HoldfastError."""
    _check(options)
    with hold_state(options.state):
        if options.traces:
            watch, state = watch_traces(TraceWatch(**_pick(options, TraceWatch)))
        else:
            watch, state = watch_checkpoints(CheckpointWatch(**_pick(options, CheckpointWatch)))
    if not state.checked:
        watch = replace(watch, notes=(*watch.notes, UNCHECKED))
    text = to_json(make_document(watch, state.declared)) if options.json else render_text(watch)
    if options.output is not None:
        write_watch(watch, state.declared, options.output)
        text += "" if options.json else f"\npage: {(options.output / PAGE).absolute()}"
    if options.markdown is not None:
        write_file(options.markdown, render_markdown(watch))
    return text, exit_code(watch)


def _pick(options: Namespace, kind: type[WatchRequest]) -> dict[str, Any]:
    """The options that a request of this kind has, read. Errors: StudyError."""
    found = {field.name: getattr(options, field.name) for field in fields(kind)}
    score = tuple(parse_score(word) for word in options.score)
    return {**found, "where": read_conditions(options.where), "score": score}


def _check(options: Namespace) -> None:
    """Refuse options that do not go together. Errors: StudyError."""
    meant = options.run is not None or not options.where
    require(meant, "watch: --where says which checkpoint of RUN is meant; give RUN, or leave it out")
    if options.traces:
        alone = not (options.runs or options.checkpoints)
        require(alone, "watch: --traces is a look of its own; leave out --run and --checkpoints")
        require(options.output is not None, "watch: --traces needs -o DIR, the run that the traces are imported into")
        require(options.judge is not None, "watch: --traces needs --judge NAME, who judges a sample of them")
        same = options.run is not None and options.run.resolve() == options.output.resolve()
        require(not same, f"{options.output}: is the baseline's run; give -o another directory for these traces")
        begun = options.run is not None or options.state is None
        require(begun, "watch: --state needs RUN, whose checkpoint is the baseline; leave it out to make a baseline")
        return
    require(options.run is not None, "watch: RUN is missing; give the run that the baseline is in, or --traces FILES")
    named = options.baseline is not None or options.runs
    require(bool(named), "watch: --baseline is missing; name a checkpoint of RUN")
    for name in ("sample", "strict"):
        require(not getattr(options, name), f"watch: --{name} goes with --traces only; leave it out")
