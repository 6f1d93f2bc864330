"""Studies that tests share."""

from __future__ import annotations

from typing import Any


def four_lineages() -> dict[str, Any]:
    """The smallest study in which persistence is defined."""
    return {
        "study": {"name": "four", "lineages": [["S"], ["H"], ["S", "H"], ["H", "S"]]},
        "judges": {"state": {"kind": "state"}},
        "stages": {"S": {"objective": "safety"}, "H": {"objective": "helpfulness"}},
    }
