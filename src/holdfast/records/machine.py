"""What computes here: the versions and the processor by which the last digits of a number can differ."""

from __future__ import annotations

import contextlib
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from holdfast.records.version import VERSION

LIBRARIES = ("numpy", "scipy", "torch", "transformers")  # whose kernels decide roundings


def describe_machine() -> dict[str, str]:
    """Versions by name (holdfast, Python, the libraries that are installed), the system, and the processor's model.

    No name of a machine, a user or a place is in it.
    """
    found = {"holdfast": VERSION, "Python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[library] = version(library)
    return {**found, "system": f"{platform.system()} {platform.machine()}", "processor": _processor()}


def maker_of_processor() -> str:
    """The maker's name as an x86 processor tells it ("GenuineIntel", "AuthenticAMD"); empty where none is told."""
    return _told("vendor_id")


def _processor() -> str:
    """The model of the processor as the system tells it; what Python knows where that is nothing."""
    return _told("model name") or platform.processor() or "unknown"


def _told(name: str) -> str:
    """What Linux says of the first processor under a name; empty where it says nothing."""
    with contextlib.suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(rf"(?m)^{name}\s*: (.*\S)", told):
            return found[1]
    return ""
