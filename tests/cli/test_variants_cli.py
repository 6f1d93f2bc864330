"""The command line where its own streams or its words are not what they should be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builders.commands import refused


@pytest.mark.parametrize("closed", [(), ("stdout",), ("stderr",), ("stdout", "stderr")])
def test_closed_streams_change_no_exit_code(closed: tuple[str, ...], tmp_path: Path) -> None:
    """As in ``>&-``, which some schedulers do: Python then has None in their place."""
    lines = "; ".join(["import sys", *(f"sys.{name} = None" for name in closed), "from holdfast.cli.main import main"])
    for words, code in ((["new", "st"], 0), (["show", "nothing"], 2)):
        command = [sys.executable, "-c", f"{lines}; sys.exit(main({words}))"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        assert ("no run here" in done.stderr) == (code == 2 and "stderr" not in closed)


@pytest.mark.parametrize("text", ["{}", "1", "[]"])
def test_a_side_that_is_no_log_is_called_so(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "side.json"
    file.write_text(text, encoding="utf-8")
    assert f"{file}: is no Inspect log; give the path" in refused(capsys, "gate", "--parent", file, "--child", file)
    assert "absent.json: no such log" in refused(capsys, "gate", "--parent", "absent.json", "--child", "absent.json")
