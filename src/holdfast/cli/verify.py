"""What ``holdfast verify`` does."""

from __future__ import annotations

import argparse

from holdfast.decisions.gate.passing.signing import read_public_key
from holdfast.decisions.gate.passing.verifying import Verification, verify
from holdfast.records.outputs import to_json
from holdfast.report.words.inert import show_line

CHANGED = 1  # the exit code where anything is not as it was signed


def carry_out(options: argparse.Namespace) -> tuple[str, int]:
    """The text for standard output and the exit code. Errors: StudyError where nothing can be verified."""
    models = {side: path for side in ("parent", "child") if (path := getattr(options, side)) is not None}
    found = verify(options.file, read_public_key(options.key), models)
    code = CHANGED if found.changed else 0
    if options.json:
        document = {"changed": found.changed, "holds": found.holds, "absent": found.absent, "said": _sentence(found)}
        return to_json(document), code
    lines = [f"changed: {words}" for words in found.changed]
    lines += [] if found.changed and found.statement is None else [f"as signed: {', '.join(found.holds)}"]
    lines += [f"not looked at: {words}" for words in found.absent]
    said = _sentence(found)
    lines += [f"it says: {said}"] if said is not None else []
    lines.append("NOT AS SIGNED" if found.changed else "AS SIGNED")
    return "\n".join(map(show_line, lines)), code


def _sentence(found: Verification) -> str | None:
    """What was signed, in a sentence; None where no signature holds."""
    return None if found.statement is None else str(found.statement["predicate"]["verdict"]["sentence"])
