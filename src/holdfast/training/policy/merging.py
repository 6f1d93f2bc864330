"""Weights between two checkpoints of one base: (1 − share) · A + share · B, at no training cost.

    whole + whole    every weight, in 32-bit floats, rounded to what it is stored in
    stack + stack    adapters on the very same base: W + (1 − share) · ΔA + share · ΔB is W + [(1 − share) B1, share B2]
                     [A1; A2], one adapter whose rank is the sum of both, exact but for rounding
    stack + whole    the stack is merged into its base first; the result is whole

(Wortsman et al. 2022, arXiv 2203.05482, and Ilharco et al. 2023, arXiv 2212.04089, on why this may work.)
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from holdfast.models.directories.files import read_object
from holdfast.models.directories.opening import read_weights
from holdfast.models.directories.stacks import Lora, Stack, base_of, copy_text_files, is_stack, read_stack, write_stack
from holdfast.records.errors import StudyError

_CONFIG, _WHOLE = "config.json", "model.safetensors"
# What of a configuration says nothing about the shape of the weights.
_FREE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def merge_checkpoints(first: Path, second: Path, share: float, target: Path) -> Path:
    """Writes a model directory with the weights between two others at ``target``, which is not there; its path.

    ``share`` is the second's, between 0 and 1. Equal inputs give equal bytes. Errors: StudyError for a directory that
    holds no weights and for two that do not stand on one base.
    """
    if not 0 < share < 1:
        raise StudyError(f"a merge's share is {share}; give one between 0 and 1")
    for place in (first, second):
        if not is_stack(place) and not (place / _CONFIG).is_file():
            raise StudyError(f"{place}: holds no weights to merge; finish the training that makes them")
    if is_stack(first) and is_stack(second):
        stacks = read_stack(first), read_stack(second)
        if stacks[0].digest != stacks[1].digest:
            raise StudyError(
                f"{first} and {second}: adapters on different bases cannot be merged; take two of one base"
            )
        _merge_adapters(*stacks, share, target)
    else:
        _merge_whole(first, second, share, target)
    copy_text_files(first, target)
    return target


def _merge_adapters(first: Stack, second: Stack, share: float, target: Path) -> None:
    """Both changes beside each other in one adapter, each times its share."""
    sides = ((first, sum(first.ranks), 1 - share), (second, sum(second.ranks), share))
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for module in sorted({*first.factors, *second.factors}):
        like_down, like_up = (first if module in first.factors else second).factors[module]
        downs, ups = [], []
        for stack, rank, weight in sides:
            # Where the other alone adapts a module, this one changes nothing.
            nothing = torch.zeros(rank, like_down.shape[1]), torch.zeros(like_up.shape[0], rank)
            down, up = stack.factors.get(module, nothing)
            downs.append(down)
            ups.append(up * weight)
        factors[module] = torch.cat(downs), torch.cat(ups, 1)
    total = sum(rank for _, rank, _ in sides)
    # The scales are in B already, so that what is left of them is 1.
    write_stack(target, factors, Lora(r=total, alpha=total), base=first.base, digest=first.digest)


def _merge_whole(first: Path, second: Path, share: float, target: Path) -> None:
    from safetensors.torch import save_file

    configs = (read_object(base_of(place) / _CONFIG, "make the model again") for place in (first, second))
    one, other = ({key: value for key, value in config.items() if key not in _FREE} for config in configs)
    if differing := sorted(key for key in {*one, *other} if one.get(key) != other.get(key)):
        raise StudyError(f"{first} and {second}: different in {', '.join(differing[:3])}; take two of one base")
    weights, others = read_weights(first), read_weights(second)
    shapes, other_shapes = ({name: value.shape for name, value in found.items()} for found in (weights, others))
    if shapes != other_shapes:
        raise StudyError(f"{first} and {second}: weights of different names or shapes; take two of one base")
    merged = {}
    for name, weight in weights.items():
        # Equal weights stay what they are, which two products of shares would not grant.
        between = torch.lerp(weight.float(), others[name].float(), share)
        merged[name] = between.to(weight.dtype).contiguous() if weight.is_floating_point() else weight
    target.mkdir(parents=True)
    shutil.copyfile(base_of(first) / _CONFIG, target / _CONFIG)
    save_file(merged, target / _WHOLE, metadata={"format": "pt"})
