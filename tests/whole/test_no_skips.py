"""A skip is a failure where HOLDFAST_NO_SKIPS is set, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.places import TESTS

SKIPPING = """
import pytest

def test_fine():
    pass

@pytest.mark.skip(reason="no browser")
def test_absent():
    pass
"""


def outcome(folder: Path, switch: str, *options: str) -> tuple[int, str]:
    quick = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(TESTS)}
    environment = {**os.environ, **quick, "HOLDFAST_NO_SKIPS": switch}
    plugins = ["-p", "no_skips", "-p", "xdist", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *options, str(folder)]
    shown = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return shown.returncode, shown.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_skipped_test_fails_the_session_and_is_named(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SKIPPING)
    code, shown = outcome(tmp_path, "1", *options)
    assert code == 1
    assert "test_some.py::test_absent" in shown and "HOLDFAST_NO_SKIPS" in shown
    assert "test_fine" not in shown


def test_a_skipped_module_fails_the_session_and_a_skip_is_fine_otherwise(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("import pytest\npytest.skip('all', allow_module_level=True)\n")
    code, shown = outcome(tmp_path, "1")
    assert code == 1 and "test_some.py" in shown
    (tmp_path / "test_some.py").write_text(SKIPPING)
    assert outcome(tmp_path, "")[0] == 0
