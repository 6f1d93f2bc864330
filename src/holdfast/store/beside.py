"""A run's rows held against their digests by another process, while this one reads them.

Of a run of millions of scores the check takes as long as everything that is worked out of it. What is worked out
meanwhile counts for nothing until the check has ended: ``CheckBeside.settle`` says how.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from holdfast.records.errors import StoreError

WORTH_BYTES = 64 << 20  # of a database: below it the check takes less than another process takes to start


def is_worth_it(file: Path) -> bool:
    """Whether a database is large, and there is a second core for its check."""
    with contextlib.suppress(OSError):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return file.stat().st_size >= WORTH_BYTES and cores > 1
    return False


class CheckBeside:
    """The check of the run at ``path``, begun in another process."""

    def __init__(self, path: Path) -> None:
        words = [sys.executable, "-P", "-m", "holdfast.store", str(path)]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def settle(self) -> str | None:
        """Wait for the end: the digest of the run that was checked; None where the process gave no answer.

        Errors: StoreError where the run is damaged.
        """
        told, _ = self._process.communicate()
        try:
            answer = json.loads(told)
        except ValueError:
            return None
        if "damage" in answer:
            raise StoreError(answer["damage"])
        return str(answer["digest"])

    def stop(self) -> None:
        """End it without its answer."""
        self._process.kill()
        self._process.communicate()
