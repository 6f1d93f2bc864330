"""How a process of ours behaves: it ends with the one that it works for, looks for garbage where there is some, and
keeps the memory that it will want again and no more."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_LOOK_SECONDS = 0.5
_TRIM_SECONDS = 0.1
_STATM = Path("/proc/self/statm")  # man 5 proc
_MOST_HOLES = 2**28  # bytes that are free and held; less, and the same pages come and go
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
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


@contextmanager
def dense_heap() -> Iterator[None]:
    """Inside, this process holds at most a quarter of a gigabyte more than it ever uses; for glibc alone.

    What outlives a layer is put where something short-lived was, and what comes next no longer fits there: a step of a
    real model that used 2.7 GB held 4.7. So a thread looks on, and when the process has grown by so much since it held
    least, what is free goes back to the system, from the middle of the heap too.
    """
    library, done = ctypes.CDLL(None), threading.Event()
    if not (hasattr(library, "malloc_trim") and _STATM.exists()):
        yield
        return
    watcher = threading.Thread(target=_trim_as_it_grows, args=(library, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _trim_as_it_grows(library: ctypes.CDLL, done: threading.Event) -> None:
    least = _held()
    while not done.wait(_TRIM_SECONDS):
        least = min(least, held := _held())
        if held - least > _MOST_HOLES:
            library.malloc_trim(0)
            least = _held()


def _held() -> int:
    """The bytes of memory that this process holds (man 5 proc)."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
