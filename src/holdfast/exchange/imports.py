"""What was made elsewhere, into a run: the published study, Inspect logs, or tables of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.exchange.inspect.files import LOG, LOG_AS_JSON, is_inspect
from holdfast.exchange.published import ImportProgress, ImportSummary, import_into
from holdfast.exchange.published.reader import into_run
from holdfast.exchange.scales import ScoreOption
from holdfast.exchange.tables.files import is_table
from holdfast.exchange.tables.importing import import_tables
from holdfast.records.errors import StudyError, needs


def import_run(
    source: Path,
    output: Path,
    *,
    scores: Sequence[ScoreOption] = (),
    progress: Callable[[ImportProgress], None] | None = None,
) -> ImportSummary:
    """What was read from ``source`` into the run at ``output``, made if need be, all of it or nothing.

    An Inspect log, or a folder that holds one anywhere, is read as such, then tables of scores are; anything else is
    the published study. ``scores`` say what the values of a log's scorers mean. Errors: StudyError, StoreError,
    MissingExtra.
    """
    source, output = Path(source), Path(output)
    if not is_inspect(source) and is_table(source):
        return into_run(output, lambda store: import_tables(source, store, scores=scores, progress=progress))
    if not _is_inspect(source):
        if scores:
            raise StudyError(f"{source}: --score is of logs and tables of scores, and none is there; leave it out")
        return import_into(source, output, progress=progress)
    with needs("remote", "import of Inspect logs"):
        from holdfast.exchange.inspect.importing import import_logs
    return into_run(output, lambda store: import_logs(source, store, scores=scores, progress=progress))


def _is_inspect(source: Path) -> bool:
    """Whether a source is of Inspect, or so named that nothing else is meant."""
    if is_inspect(source):
        return True
    if source.is_dir():
        kinds = {path.suffix for path in source.rglob("*")}
        return LOG_AS_JSON in kinds and ".jsonl" not in kinds
    return source.exists() and source.suffix in (LOG, LOG_AS_JSON)
