"""Directories of models as other trainers leave them: those of the small study's checkpoints, out of its run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from builders.smoke_study import smoke_settings
from holdfast.store import Store


def take_out(smoke_run: Path, place: Path) -> Path:
    """The small study's models below ``place``: base, S, S-H, and H after 10 steps and after 25."""
    wanted = {(): "base", ("S",): "S", ("S", "H"): "S-H", ("H",): "H/checkpoint-10", ("H", "S"): "H/checkpoint-25"}
    with Store(smoke_run) as store:
        for one in store.checkpoints():
            if one.axes.get("dose", 1) == 1:
                shutil.copytree(store.weights(one), place / wanted[one.lineage])
    return place


def external_study(models: Path, **stages: dict[str, Any]) -> dict[str, Any]:
    """A small study on these models, with other stages beside those that were trained elsewhere."""
    settings = smoke_settings()
    for unused in ("doses", "stages"):
        del settings[unused]
    settings["study"]["lineages"] = [["S"], ["S", "H"], ["K"]]
    settings["model"] = {"bases": ["ours"]}
    settings["models"] = {"ours": {"kind": "tiny", "name": str(models / "base")}}
    settings["suite"] |= {"train_cases": 8, "test_cases": 6}
    settings["rollouts"] |= {"per_train_case": 4, "per_test_case": 1}
    external = {"S": "S", "H": "S-H", "K": "H/checkpoint-*"}
    settings["stages"] = {
        name: {"method": "external", "path": str(models / path)} for name, path in external.items()
    } | stages
    return settings
