"""Fixtures that several files of this folder take."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.field_traces import Case, Shown
from builders.places import case_input
from builders.trace_samples import look


@pytest.fixture
def case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    """``holdfast watch --traces`` over the files of a field case with its own rules."""

    def run(name: str, *files: str) -> Shown:
        folder = case_input(name)
        paths = [folder / file for file in files or ("traces.jsonl",)]
        return look(tmp_path, *paths, judges=folder / "judges.toml", capsys=capsys)

    return run
