"""Errors that nobody foresaw: one line for people, and a file with the trace for whoever mends them."""

from __future__ import annotations

import os
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence

from holdfast.models.remote.endpoints import redact
from holdfast.records.version import VERSION

EXIT_CODE = 4
DEBUG = "HOLDFAST_DEBUG"
"""An environment variable: set to 1, an unexpected error goes on as Python raised it."""

_MOST_SHOWN = 200  # characters of an error's own words
_MOST_KEPT = 1 << 18  # characters of a trace


def describe_unexpected(error: Exception, command: str, words: Sequence[str]) -> str:
    """The line that tells of an unexpected error, whose trace it keeps in a file that only the user can read.

    Secrets of the environment and what looks like a key stand in neither.
    """
    finding = f"{type(error).__name__}: {redact(str(error))}" if str(error) else type(error).__name__
    if len(finding) > _MOST_SHOWN:
        finding = f"{finding[:_MOST_SHOWN]}…"
    return f"{command}: an unexpected error ({finding}); {_keep_trace(error, words)}"


def _keep_trace(error: Exception, words: Sequence[str]) -> str:
    """Write the trace to a new file; a clause that says where it is, or why there is none."""
    trace = "".join(traceback.format_exception(error))
    if len(trace) > _MOST_KEPT:
        trace = f"{trace[: _MOST_KEPT // 2]}\n[…]\n{trace[-_MOST_KEPT // 2 :]}"
    text = f"""\
holdfast {VERSION}, Python {platform.python_version()}, {platform.platform()}
holdfast {shlex.join(words)}

{trace}"""
    try:
        # Readable and writable by its user alone, and under a name that was not there before.
        handle, path = tempfile.mkstemp(prefix="holdfast-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact(text))
    except OSError as failure:
        return f"its trace could not be kept ({failure.strerror}); set {DEBUG}=1 to see it"
    return f"this is a fault of holdfast, please report it with the trace in {path}"
