"""Whole weights of any model directory, with what an adapter changes merged into them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.models.directories.files import (
    CONFIG,
    INDEX,
    WHOLE,
    load_file,
    read_shapes,
    weight_files,
)
from holdfast.models.directories.peft import is_peft
from holdfast.models.directories.stacks import Stack, copy_text_files, find_stack, merged
from holdfast.records.outputs import scratch_directory

if TYPE_CHECKING:
    from torch import Tensor


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The whole weights of a directory by name, as stored; what a stack changes is merged and in 32-bit floats.

    Errors: StudyError for a file that cannot be read, StoreError for a stack whose base or adapter does not fit.
    """
    stack = find_stack(directory)
    if _needs_network(directory, stack):
        with scratch_directory() as place:
            write_whole(directory, place)
            return read_weights(place)
    base = stack.base if stack else directory
    weights: dict[str, Tensor] = {}
    for path in weight_files(base):
        weights |= load_file(path)
    if stack:
        for module, factors in stack.factors.items():
            weights[f"{module}.weight"] = merged(weights[f"{module}.weight"], factors)
    return weights


def write_whole(directory: Path, target: Path) -> None:
    """Writes the directory's whole weights, its configuration and tokenizer to ``target``, which is there and empty.

    A stack is merged in 32-bit floats, one of the base's files at a time, then rounded to what the base is stored in.
    """
    from safetensors.torch import save_file

    stack = find_stack(directory)
    if _needs_network(directory, stack):
        from holdfast.models.directories.opening import write_merged

        write_merged(directory, target)
        copy_text_files(directory, target)
        return
    copy_text_files(directory, target)
    base = stack.base if stack else directory
    shutil.copyfile(base / CONFIG, target / CONFIG)
    if (base / INDEX).is_file() and not (base / WHOLE).is_file():
        shutil.copyfile(base / INDEX, target / INDEX)
    for path in weight_files(base):
        if stack is None:
            shutil.copyfile(path, target / path.name)
            continue
        weights = load_file(path)
        for name, weight in weights.items():
            if (factors := stack.factors.get(name.removesuffix(".weight"))) is not None:
                weights[name] = merged(weight, factors).to(weight.dtype)
        save_file(weights, target / path.name, metadata={"format": "pt"})


def _needs_network(directory: Path, stack: Stack | None) -> bool:
    """Whether an adapter is merged in a network: by PEFT, or where it has other names for weights than its files."""
    if stack is None:
        return is_peft(directory)
    shapes = read_shapes(stack.base)
    return any(f"{module}.weight" not in shapes for module in stack.factors)
