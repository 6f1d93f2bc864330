"""The small study that tests carry out, and changed editions of it as files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import holdfast as hf
from builders.places import ROOT
from builders.sample_studies import changed

SMOKE = ROOT / "studies" / "smoke.toml"


def smoke_settings() -> dict[str, Any]:
    """The small study as a dictionary, to change."""
    return tomllib.loads(SMOKE.read_text(encoding="utf-8"))


def one_stage(**changes: Any) -> dict[str, Any]:
    """The small study with S alone, ten steps and an analysis: what a cluster's tests carry out again and again."""
    return changed(smoke_settings(), {"study/lineages": [["S"]], "doses": None, **changes})


def study_of(**changes: Any) -> hf.Study:
    """``one_stage`` as a study."""
    return hf.Study.model_validate(one_stage(**changes))


def write_toml(settings: Mapping[str, Any], path: Path) -> Path:
    """A study of nested tables as a TOML file; JSON's values are written as TOML writes them."""
    lines: list[str] = []

    def table(name: str, values: Mapping[str, Any]) -> None:
        lines.append(f"[{name}]")
        lines.extend(f"{json.dumps(key)} = {json.dumps(v)}" for key, v in values.items() if not isinstance(v, dict))
        for key, inner in values.items():
            if isinstance(inner, dict):
                table(f"{name}.{json.dumps(key)}", inner)

    for name, values in settings.items():
        table(name, values)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
