"""What several tests need: the published data as runs, imported once a session."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast.published import import_into

DATA = Path(__file__).parents[2] / "shared" / "data"


def data_file(name: str) -> Path:
    """A file of the published data, or a skip with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


def imported(name: str, factory: pytest.TempPathFactory) -> Path:
    """A run with the archive in it, made by whichever worker comes first."""
    source = data_file(f"published-{name}.tar.zst")
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    run = root / f"published-{name}"
    with (root / f"published-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not run.exists():
            import_into(source, run)
    return run


@pytest.fixture(scope="session")
def published_match(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the published evaluation set."""
    return imported("match", tmp_path_factory)


@pytest.fixture(scope="session")
def published_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the published source of preference pairs."""
    return imported("raw", tmp_path_factory)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """The numbers that the published analysis gives on the same data."""
    found: dict[str, Any] = json.loads(data_file("golden-match.json").read_text())
    return found
