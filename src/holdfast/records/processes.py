"""How a process of ours behaves: it ends with the one that it works for, looks for garbage where there is some, and
keeps memory that it will want again."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_LOOK_SECONDS = 0.5
_LONG = 1.0  # CPU seconds
# mallopt(3) of glibc: what is freed at the end of the heap stays up to the first; blocks from the second on do not.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**27), (-3, 2**25)


def stop_with(parent: int) -> None:
    """Ends this process within a second of its parent's end, however that came.

    ``parent`` is the parent's id as the parent knows it: asking for it here would be too late where it is gone already.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside, Python looks for no objects in cycles: a run's rows are in none, and it would go through them all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def keep_memory() -> None:
    """What this process frees stays with it up to 128 MiB, for as long as it lives.

    A step of training frees what the next one asks for again, and memory that went back to the system comes page by
    page: a tenth of a tiny model's step. Where the C library is another one than glibc, nothing changes.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        for option, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            library.mallopt(option, value)


def hand_back_memory() -> None:
    """Collects what is in cycles, as real models are, and gives it back to the system with all else that is free."""
    gc.collect()
    trim_heap()


def trim_heap(*, after: float = math.inf) -> None:
    """What this process has freed goes back to the system, from the middle of the heap too; for glibc alone.

    Steps of a real model differ in size, and what they free in pieces too small to go back by themselves is gigabytes.
    ``after`` are the CPU seconds of the work that is over: nothing is done after work so short that it would tell.
    """
    if after >= _LONG and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def began(process: int) -> float | None:
    """When a process began, in seconds since the epoch by the clock as it is now; None where that cannot be told."""
    try:
        # After the name in brackets, which may hold anything; in ticks since the machine began (man 5 proc).
        ticks = int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
