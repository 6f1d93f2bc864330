"""Fixtures that several files of this folder take."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.digest_samples import write_small
from builders.places import copy_run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("digests") / "run")


@pytest.fixture
def run(small: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return copy_run(small, tmp_path / "run")
