"""What a training process frees stays with it, and what lies free between what it uses does not."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

_ROUNDS = """
import resource, sys
from holdfast.records.processes import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def take():
    return [b"x" * (1 << 23) for _ in range(10)]
take(); take(); start = faults(); take(); print(faults() - start)
"""


_HOLES = """
import contextlib, sys, time
from holdfast.records import processes
processes.keep_memory()  # blocks of some mebibytes on the heap
peak, long = 0, []
with processes.dense_heap() if sys.argv[1] == "dense" else contextlib.nullcontext():
    for size in (2, 3, 5, 7, 11):
        short = []
        for number in range(400 // size):
            short.append(b"s" * (size << 20))
            long.append(bytes(4096 + number))
            time.sleep(0.001 * size)
            peak = max(peak, processes._held() >> 20)
        del short
print(peak)
"""
_GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")


@_GLIBC
def test_memory_is_not_asked_for_again() -> None:
    """Ten blocks of 8 MiB, freed and taken again: their pages come back only where they were given away."""
    given, kept = (
        int(subprocess.run([sys.executable, "-c", _ROUNDS, how], capture_output=True, check=True, text=True).stdout)
        for how in ("given", "kept")
    )
    assert given > 10 * (1 << 23) // resource.getpagesize() // 2 > 100 * (kept + 1)


@_GLIBC
def test_holes_between_what_is_used_go_back() -> None:
    """Five times 400 MiB, each time in larger pieces that do not fit between the small ones that stayed."""
    holes, dense = (
        int(subprocess.run([sys.executable, "-c", _HOLES, how], capture_output=True, check=True, text=True).stdout)
        for how in ("kept", "dense")
    )
    assert dense < 700
    assert holes > 740
