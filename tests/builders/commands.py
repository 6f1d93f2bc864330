"""Commands as a user gives them, in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.cli.main import main

Captured = pytest.CaptureFixture[str]


def asked(capsys: Captured, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as ended:  # by the reader of arguments
        assert isinstance(ended.code, int)
        code = ended.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def refused(capsys: Captured, *words: object) -> str:
    """The one line with which a command is refused: exit code 2, and no result; ``check`` tells what it saw before."""
    code, out, err = asked(capsys, *words)
    assert (code, err.count("\n")) == (2, 1) and (not out or words[0] == "check"), (code, out, err)
    assert err.startswith("holdfast") and "Traceback" not in err
    return err


def gated(capsys: Captured, *words: object) -> tuple[int, dict[str, Any]]:
    """The exit code of a gate and its only verdict as JSON."""
    code, out, err = asked(capsys, "gate", *words, "--json", "--quiet")
    assert not err, err
    (verdict,) = json.loads(out)["verdicts"]
    return code, verdict
