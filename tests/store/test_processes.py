"""What a training process frees stays with it."""

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_is_not_asked_for_again() -> None:
    """Ten blocks of 8 MiB, freed and taken again: their pages come back only where they were given away."""
    given, kept = (
        int(subprocess.run([sys.executable, "-c", _ROUNDS, how], capture_output=True, check=True, text=True).stdout)
        for how in ("given", "kept")
    )
    assert given > 10 * (1 << 23) // resource.getpagesize() // 2 > 100 * (kept + 1)
