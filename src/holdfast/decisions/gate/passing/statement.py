"""A gate's answer as an in-toto statement: what of whom was found, by which rules and on which cases, by digests.

Its subjects are the files of the answer and of both models' weights, each with its SHA-256. Source of the form:
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.outputs.document import document, plain
from holdfast.records import Checkpoint, Verdict, content_id
from holdfast.records.errors import StudyError
from holdfast.records.version import VERSION
from holdfast.report.sections.gate import collect_limits, count_outcomes, describe_verdict, overall
from holdfast.store import codec

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://pypi.org/project/holdfast-evals/safety-change/v1"
FILE = "statement.json"
SIDES = ("parent", "child")
AT_HAND, ELSEWHERE = "at hand", "elsewhere"


def make_statement(
    verdicts: Sequence[Verdict], books: Sequence[Book], folder: Path, files: Sequence[str], made: str
) -> dict[str, Any]:
    """The statement as JSON values.

    ``books`` are those that the verdicts compare, the child's last; ``files`` are those of the answer's ``folder``,
    ``made`` is when, in ISO 8601. Weights that are at hand are read whole. Errors: StudyError where one cannot be.
    """
    weights = {side: _weights(verdicts, books, side) for side in SIDES}
    subjects = [{"name": name, "digest": {"sha256": _digest(folder / name)}} for name in files]
    for side in SIDES:
        subjects += [
            {"name": f"{side}/{one.name}", "digest": {"sha256": _digest(one)}}
            for directory in weights[side]
            for one in sorted(directory.iterdir())
            if one.is_file()
        ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            **{side: _side(verdicts, books, side, weights[side]) for side in SIDES},
            "cases": _cases(verdicts, books),
            "rules": {"fingerprint": sorted({one.fingerprint for one in verdicts}), "settings": _rules(verdicts)},
            "verdict": {
                "outcome": overall(verdicts).value,
                "sentence": describe_verdict(verdicts[0]) if len(verdicts) == 1 else count_outcomes(verdicts),
                "comparisons": [document(one) for one in verdicts],
            },
            "limits": collect_limits(verdicts),
            "versions": {"holdfast": VERSION, "python": platform.python_version()},
            "made": made,
        },
    }


def to_bytes(value: Any) -> bytes:
    """JSON values as the bytes that are signed: keys in order, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(f"{path}: cannot be read for the statement ({error.strerror}); put it back") from error


def _checkpoints(verdicts: Sequence[Verdict], books: Sequence[Book], side: str) -> Iterator[tuple[Book, Checkpoint]]:
    """The checkpoints that stand on one side, each with its book."""
    wanted = {one.sources.get(side, {}).get("checkpoint") for one in verdicts}
    for book in books[:1] if side == "parent" else books[-1:]:
        yield from ((book, one) for one in book.checkpoints if one.id in wanted)


def _weights(verdicts: Sequence[Verdict], books: Sequence[Book], side: str) -> list[Path]:
    """Directories of a side's weights that are at hand; none where several checkpoints stand on it."""
    found = []
    for book, checkpoint in _checkpoints(verdicts, books, side):
        places = [book.path / checkpoint.path] if checkpoint.path else [Path(checkpoint.model or "")]
        found += [place for place in places if place != Path() and place.is_dir()]
    return found if len(found) == 1 else []


def _side(
    verdicts: Sequence[Verdict], books: Sequence[Book], side: str, weights: Sequence[Path]
) -> dict[str, Any] | list[dict[str, Any]]:
    return {
        "names": sorted({getattr(one, side) for one in verdicts}),
        "weights": AT_HAND if weights else ELSEWHERE,
        "checkpoints": [
            {
                "id": one.id,
                "base": one.base,
                "model": one.model,
                "digest": one.digest,
                "stages": [
                    {"name": stage.name, "method": stage.method, "settings": content_id(plain(stage.settings))}
                    for stage in one.stages
                ],
            }
            for _, one in _checkpoints(verdicts, books, side)
        ],
        "sources": [plain(one.sources.get(side)) for one in verdicts],
    }


def _cases(verdicts: Sequence[Verdict], books: Sequence[Book]) -> dict[str, Any]:
    """How many cases were compared, and digests: of their runs' cases, texts and tools, and of the scores compared."""
    whole = hashlib.sha256()
    for book in books:
        for name in sorted(book.cases):
            whole.update(name.encode() + b"\0" + hashlib.sha256(codec.case_to_bytes(book.cases[name])).digest())
    return {
        "compared": [one.cases for one in verdicts],
        "sha256": whole.hexdigest(),
        "scores": [one.data for one in verdicts],
        "judge": sorted({one.judge for one in verdicts}),
        "rubrics": [plain(one.rubrics) for one in verdicts],
    }


def _rules(verdicts: Sequence[Verdict]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = plain(verdicts[0].rules)
    return found
