"""How a model is opened that a user names without saying more of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.models.tiny.chat import is_tiny
from holdfast.records.errors import StudyError

_KEPT = ("calls", "quantization", "precision")  # of how another checkpoint of the model was opened


def open_directory(place: Path, entry: Mapping[str, Any] | None = None, name: str = "") -> dict[str, Any]:
    """An entry of [models] for a directory of weights, opened as ``entry`` says.

    ``name`` is what it goes by where that is not its path.
    """
    name = name or str(place)
    if is_tiny(place):
        return {"kind": "tiny", "name": name}
    kept = {key: value for key, value in (entry or {}).items() if key in _KEPT}
    return {**kept, "kind": "vllm" if (entry or {}).get("kind") == "vllm" else "local", "name": name}


def require_model(place: Path) -> None:
    """Refuse a directory that holds no model at all. Errors: StudyError."""
    if not any(place.glob("*.json")):
        raise StudyError(f"{place}: holds no model (no config.json); give a directory of weights")
