"""The study file that ``holdfast new`` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
bases = ["tiny"]            # or a model of your own: bases = ["mine"], with the table below
base_seeds = [0]            # a base per seed

# [models.mine]
# kind = "local"
# name = "out/my-model"     # a directory, a GGUF file, or ORG/NAME of the hub; docs/own-base.md
# start = ["D"]             # where it must be taught first: stages that it goes through before the study

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
    name = json.dumps(plain_name(directory.resolve().name), ensure_ascii=False)  # in the quotes of TOML
    write_file(path, STUDY.format(name=name), remedy="choose another directory")
    return path


def plain_name(name: str) -> str:
    """A name for a study of that of a directory."""
    plain = "".join(letter for letter in name if letter.isprintable()).lstrip(".")[:NAME_LENGTH]
    return plain.replace("\\", "-") or "study"


def write_tables(tables: Mapping[str, Any]) -> str:
    """A study of nested tables as TOML; what is None is left out."""
    return (
        "\n".join(line for name, table in tables.items() for line in _write_table(_key(name), table)).lstrip("\n")
        + "\n"
    )


def _write_table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if value is not None and not isinstance(value, Mapping)}
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if plain or not inner:
        yield f"\n[{name}]"
        yield from (f"{_key(key)} = {_value(value)}" for key, value in plain.items())
    for key, value in inner.items():
        yield from _write_table(f"{name}.{_key(key)}", value)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
