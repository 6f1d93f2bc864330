"""Fixtures that several files of this folder take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders.chat_samples import make_base


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that speaks, to be read only."""
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def base(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "base"))
