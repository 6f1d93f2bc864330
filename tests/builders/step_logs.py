"""What a step of training writes while it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.runs.plan.step import Step


def log_of(run: Path, step: Step, kind: str = "") -> list[dict[str, Any]]:
    """The lines of a step's log; ``kind`` is what its name has behind the fingerprint, as ".rollouts"."""
    text = (run / "logs" / f"{step.fingerprint}{kind}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
