"""What tests of the gate's field cases share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

Captured = pytest.CaptureFixture[str]


def checks_of(verdict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["metric"]: one for one in verdict["checks"]}


def basis_of(verdict: Mapping[str, Any]) -> str:
    return "\n".join(verdict["basis"])


def rules_file(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(f"[gate]\n{text}\n")
    return path
