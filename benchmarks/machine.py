"""What every benchmark says of where it ran, and how it prints."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def cpu_seconds() -> float:
    """Seconds of processor time that this process and its finished children have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def document(
    name: str, packages: Sequence[str], figures: Mapping[str, Any], ratios: Mapping[str, Any]
) -> dict[str, Any]:
    """A benchmark's result: the one shape that all of them print."""
    return {
        "name": name,
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "figures": figures,
        "ratios": ratios,
    }


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result as one JSON document, or as lines for people."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    for section in ("figures", "ratios"):
        for name, row in result[section].items():
            shown = "  ".join(f"{key} {value:g}" for key, value in row.items()) if isinstance(row, dict) else f"{row:g}"
            print(f"{section[:-1]:7}{name:32}{shown}")
