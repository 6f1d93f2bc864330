"""What was made elsewhere, into a run: the published study, or Inspect logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from holdfast.errors import MissingExtra
from holdfast.published import ImportProgress, ImportSummary, import_into
from holdfast.published.reader import into_run

LOG = ".eval"
_LOG_AS_JSON = ".json"


def import_run(
    source: Path, output: Path, *, progress: Callable[[ImportProgress], None] | None = None
) -> ImportSummary:
    """What was read from ``source`` into the run at ``output``, made if need be, all of it or nothing.

    A ``.eval`` or ``.json`` file is an Inspect log, and so is what a folder with a ``.eval`` file in it holds, or one
    with ``.json`` files and no ``.jsonl`` ones; anything else is the published study. Errors: StudyError, StoreError,
    MissingExtra.
    """
    source, output = Path(source), Path(output)
    if not _is_inspect(source):
        return import_into(source, output, progress=progress)
    try:
        from holdfast.exchange.inspect.importing import import_logs
    except ImportError as error:
        raise MissingExtra("import of Inspect logs", "remote") from error
    return into_run(output, lambda store: import_logs(source, store, progress=progress))


def _is_inspect(source: Path) -> bool:
    if source.is_dir():
        kinds = {path.suffix for path in source.rglob("*")}
        return LOG in kinds or (_LOG_AS_JSON in kinds and ".jsonl" not in kinds)
    return source.is_file() and source.suffix in (LOG, _LOG_AS_JSON)
