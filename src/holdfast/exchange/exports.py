"""A run in other tools' formats: JSON lines, CSV, Parquet, TRL datasets, Inspect logs; a checkpoint as transformers'.

Or the whole run once more, in today's format of the store.

Everything is written under a temporary name and renamed when it is whole. Text that a model wrote is data:
CSV cells that a spreadsheet would run as a formula are prefixed with an apostrophe.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from holdfast.exchange import FORMATS, trl
from holdfast.records import Case, Checkpoint, Message, Trajectory
from holdfast.records.errors import StudyError, needs, refuse
from holdfast.records.outputs import new_directory, open_file
from holdfast.store import Store
from holdfast.store.cells import score_rows
from holdfast.store.choosing import Listing, find_checkpoint

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
PARQUET_ROWS = 20_000
SCORE_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("checkpoint", "checkpoint_id", "lineage", "case", "objective", "judge"), "text"),
    **{"rollout": "count", "repeat": "count", "trajectory": "text", "value": "number"},
}
TRAJECTORY_COLUMNS: Mapping[str, str] = {
    **{"id": "text", "case": "text", "checkpoint": "text", "rollout": "count", "ending": "text", "flags": "texts"},
    **dict.fromkeys(("calls", "invalid_calls", "tokens"), "count"),
    **dict.fromkeys(("messages", "world_before", "world_after"), "text"),
}
_CASE = ("id", "suite", "number", "family", "messages", "facts")
_CHECKPOINT = ("id", "name", "base", "lineage", "axes", "split_seed", "train_seed", "parent", "path", "digest")
_NESTED = ("messages", "world_before", "world_after")
_FIELDS = {"case": "case_id", "checkpoint": "checkpoint_id", "parent": "parent_id"}  # where a column is named otherwise


def write_lines(rows: Iterable[Mapping[str, Any]], path: Path | None) -> int:
    """Write rows as JSON lines to a file, whole or not at all, or to standard output; how many there were."""
    lines = (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows)
    if path is None:
        return sum(1 for _ in map(sys.stdout.write, lines))
    with open_file(path) as file:
        return sum(1 for line in lines if file.write(line.encode()))


def export_run(
    run_path: Path, form: str, output: Path, *, checkpoint: str | None = None, arguments: trl.Arguments | None = None
) -> Path:
    """Write a run in a format; the path of what was written. Errors: StudyError, MissingExtra, StoreError.

    ``checkpoint``, a name or the first digits of an id, is for "hf" alone, which writes its whole weights;
    ``arguments`` is for "trl" alone and says how those of calls are written: "object" (the default) or "text".
    """
    if arguments is not None and form != "trl":
        raise StudyError(f"export --to {form}: takes no --arguments, which is for --to trl")
    if (checkpoint is not None) != (form == "hf"):
        told = "needs --checkpoint NAME_OR_ID" if form == "hf" else "takes no --checkpoint, which is for --to hf"
        raise StudyError(f"export --to {form}: {told}")
    options = {"checkpoint": checkpoint, "arguments": arguments}
    Store(run_path).close()
    with new_directory(output) as target:
        resolve_name(FORMATS[form])(run_path, target, **{key: one for key, one in options.items() if one is not None})
    return output


def _message_row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return row | ({"name": message.name} if message.name else {})


def _row(record: Case | Checkpoint | Trajectory, columns: Iterable[str]) -> dict[str, Any]:
    """A record's fields under the names of columns, in plain values."""
    row = {name: getattr(record, _FIELDS.get(name, name)) for name in columns}
    if "messages" in row:
        row["messages"] = [_message_row(message) for message in row["messages"]]
    if isinstance(record, Trajectory):
        row |= {"ending": record.ending.value, "flags": [flag.value for flag in record.flags]}
    return row


def write_jsonl(run_path: Path, target: Path) -> None:
    """Cases, checkpoints, trajectories and scores as JSON lines."""
    with Store(run_path) as store:
        write_lines((_row(case, _CASE) for case in store.cases()), target / "cases.jsonl")
        checkpoints = (_row(checkpoint, _CHECKPOINT) for checkpoint in store.checkpoints())
        write_lines(checkpoints, target / "checkpoints.jsonl")
        trajectories = store.trajectories(store.planned_ids(part="all"))
        write_lines((_row(one, TRAJECTORY_COLUMNS) for one in trajectories), target / "trajectories.jsonl")
        write_lines(score_rows(store, part="all"), target / "scores.jsonl")


def defuse(cell: object) -> object:
    """A CSV cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def _flat_scores(store: Store) -> Iterator[dict[str, Any]]:
    return ({**row, "lineage": ",".join(row["lineage"])} for row in score_rows(store, part="all"))


def write_csv(run_path: Path, target: Path) -> None:
    """Every score as a row."""
    with Store(run_path) as store, (target / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(SCORE_COLUMNS))
        writer.writeheader()
        writer.writerows({key: defuse(cell) for key, cell in row.items()} for row in _flat_scores(store))


def write_parquet(run_path: Path, target: Path) -> None:
    """Scores and trajectories as Parquet. Errors: MissingExtra."""
    with needs("parquet", "export to Parquet"):
        import pyarrow
        import pyarrow.parquet
    kinds = {"text": pyarrow.string(), "count": pyarrow.int64(), "number": pyarrow.float64()}
    kinds["texts"] = pyarrow.list_(pyarrow.string())
    # Types are given, not guessed: a column that is empty or missing throughout keeps its type.
    scores, trajectories = (
        pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        for columns in (SCORE_COLUMNS, TRAJECTORY_COLUMNS)
    )

    def write(rows: Iterator[dict[str, Any]], file: str, schema: Any) -> None:
        with pyarrow.parquet.ParquetWriter(target / file, schema) as writer:
            while chunk := list(islice(rows, PARQUET_ROWS)):
                writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))

    with Store(run_path) as store:
        write(_flat_scores(store), "scores.parquet", scores)
        rows = (_row(one, TRAJECTORY_COLUMNS) for one in store.trajectories(store.planned_ids(part="all")))
        # Nested parts as JSON text, so that every row has one schema.
        flat = (row | {key: json.dumps(row[key]) for key in _NESTED} for row in rows)
        write(flat, "trajectories.parquet", trajectories)


def write_trl(run_path: Path, target: Path, arguments: trl.Arguments = "object") -> None:
    """One JSON-lines file for every pair step of a study."""
    with Store(run_path) as store:
        steps = [status for status in store.log.steps().values() if status.kind == "pair" and status.status == "done"]
        if not steps:
            command = f"holdfast pairs {run_path} --objective safety --judge … --to trl -o FILE"
            refuse(run_path, "the run made no pairs", f"choose a rule with `{command}`")
        for status in steps:
            rows = trl.to_trl(store.pairs(status.fingerprint), store, arguments)
            write_lines(rows, target / f"{status.fingerprint}.jsonl")
        index = ({"file": f"{status.fingerprint}.jsonl", "name": status.name} for status in steps)
        write_lines(index, target / "index.jsonl")


def write_inspect(run_path: Path, target: Path) -> None:
    """One Inspect log for every checkpoint that has trajectories."""
    with needs("remote", "export to Inspect logs"):
        from holdfast.exchange.inspect.export import write_logs
    with Store(run_path) as store:
        write_logs(store, target)


def write_checkpoint(run_path: Path, target: Path, checkpoint: str) -> None:
    """One checkpoint as a directory that transformers loads, adapters merged."""
    with needs("train", "export of a checkpoint"):
        import torch  # noqa: F401 — what reads and writes weights needs it

        from holdfast.models.directories.opening import write_whole
    with Store(run_path) as store:
        found = find_checkpoint(Listing(str(store.path), store.checkpoints()), checkpoint)
        write_whole(store.weights(found, remedy="export a run that holds them"), target)
