"""Who has a call in flight: a name for each open ledger, and whether the process behind a name still runs.

A name tells machine, start of the machine, process, start of the process, and which of its ledgers. Processes of
another machine cannot be looked at; one is believed for ``FOREIGN_SECONDS`` after its name was first seen.
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from functools import cache
from pathlib import Path

FOREIGN_SECONDS = 900.0
_open: set[str] = set()
_numbers = itertools.count()
_first_seen: dict[str, float] = {}


def new_owner() -> str:
    """A name for a ledger that is opened in this process."""
    # A forked process counts on from the same number: its own number stands in the name.
    name = " ".join((*_machine(), str(os.getpid()), _started(os.getpid()), str(next(_numbers))))
    _open.add(name)
    return name


def give_up(owner: str) -> None:
    """The ledger of this name is closed."""
    _open.discard(owner)


def is_under_way(owner: str) -> bool:
    """Whether the ledger of this name may be waiting for an answer."""
    try:
        name, start, process, started, _ = owner.split(" ")
    except ValueError:
        return False  # no name that this module gave
    if (name, start, process) == (*_machine(), str(os.getpid())):
        return owner in _open
    if name != _machine()[0]:
        seen = _first_seen.setdefault(owner, time.monotonic())
        return time.monotonic() - seen < FOREIGN_SECONDS
    if start != _machine()[1] or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    return _started(int(process)) == started


@cache
def _machine() -> tuple[str, str]:
    """This machine's name, and which of its starts this is, as far as that can be told."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        start = "-"
    return platform.node().replace(" ", "-") or "-", start


def _started(process: int) -> str:
    """When a process was started, in ticks of this machine: numbers of processes come again. "-" if unknown.

    One that has ended and waits for its parent to notice was never started.
    """
    try:
        # The name of the program stands in brackets and may hold anything; what follows it does not.
        found = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if found[0] in "ZX" else found[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return "-"
