"""Where things lie that tests read: the repository, its studies, and the published data beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
STUDIES = ROOT / "studies"
SHARED = ROOT.parent / "shared"
DATA = Path(os.environ.get("HOLDFAST_PUBLISHED_DATA", SHARED / "data"))


def data_file(name: str) -> Path:
    """A file of the published data, or a skip with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


def case_input(name: str) -> Path:
    """The directory with the inputs of a field case, or a skip with the reason; tests only read it."""
    path = SHARED / "cases" / "inputs" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


def copy_run(run: Path, target: Path, *but: str) -> Path:
    """A copy of a finished run, without what the patterns ``but`` name, that a test may write to.

    Other tests read the run meanwhile, so what SQLite keeps beside a database that is open comes and goes.
    """
    return Path(shutil.copytree(run, target, ignore=shutil.ignore_patterns("*.db-shm", "*.db-wal", *but)))
