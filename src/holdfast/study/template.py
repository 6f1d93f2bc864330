"""The study file that ``holdfast new`` writes."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast.records.errors import StudyError
from holdfast.records.outputs import write_file
from holdfast.records.section import NAME_LENGTH

STUDY = """\
# A small sequential study; run it with `holdfast run study.toml`.
# Two preference stages, in both orders and together, on a tiny model that the study makes itself.

[study]
name = {name}
lineages = [["S"], ["H"], ["S", "H"], ["H", "S"], ["S&H"]]   # each a list of stages, in order
train_seeds = [0, 1, 2]     # below three seeds there are points but no intervals for a recipe

[model]
bases = ["tiny"]
base_seeds = [0]            # a base per seed

[suite]
name = "office"             # generated cases with hidden hazards
train_cases = 200
test_cases = 300

[judges.state]
kind = "state"              # reads the world's end state

[pairs]
min_gap = 2                 # score points between chosen and rejected
min_chosen = 2
cap_per_case = 8

[stages.S]
objective = "safety"

[stages.H]
objective = "helpfulness"

[stages."S&H"]
objective = ["safety", "helpfulness"]
agree = "all"               # pairs on which both objectives agree
"""


def write_study(directory: Path) -> Path:
    """Write a study file into a directory; its path. Errors: StudyError where one is there or it cannot be written."""
    path = directory / "study.toml"
    if path.exists() or path.is_symlink():
        raise StudyError(f"{path}: is there already; choose another directory")
    plain = "".join(letter for letter in directory.resolve().name if letter.isprintable()).lstrip(".")[:NAME_LENGTH]
    name = json.dumps(plain.replace("\\", "-") or "study", ensure_ascii=False)  # in the quotes of TOML
    write_file(path, STUDY.format(name=name), remedy="choose another directory")
    return path
