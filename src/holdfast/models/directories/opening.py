"""Networks of transformers from model directories, with every weight in its place or an error that names those amiss.

    whole weights ─ transformers, its loading report checked ─▶ network
    base and adapter ─ the same of the base ─▶ network, and the adapter as a stack; or merged in by PEFT

Code of a model's own is never run, and weights are read from safetensors alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.models.directories.files import ADAPTER, DAMAGED, read_shapes, weight_files
from holdfast.models.directories.libraries import first_line, no_progress_bars
from holdfast.models.directories.lora import merge
from holdfast.models.directories.peft import is_peft, read_peft
from holdfast.models.directories.peft_merging import merge_peft
from holdfast.models.directories.report import check_report, is_mask
from holdfast.models.directories.stacks import Stack, base_of, find_stack
from holdfast.records.errors import StoreError, StudyError

_CHECKED = ("F64", "F32", "F16", "BF16")  # as safetensors names them; smaller ones have few values but numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A network in eval mode, and the directory of the whole weights that it was opened from.

    What ``stack`` changed is not in the network yet. ``merged`` says that PEFT has merged an adapter into it, so that
    no directory holds its weights.
    """

    network: Any
    home: Path
    stack: Stack | None
    merged: bool


def open_network(
    directory: Path, *, dtype: torch.dtype, attention: str, settings: Mapping[str, Any] | None = None
) -> Opened:
    """The network of a directory that ``hub.check_model`` has let pass.

    ``dtype`` is that of the weights; ``settings`` are more of transformers' own, for quantised weights. Errors:
    StudyError for a directory that transformers cannot load and weights that do not all fit, StoreError for a stack
    whose base or adapter does not fit.
    """
    stack, home = find_stack(directory), base_of(directory)
    merged = stack is None and is_peft(directory)
    network = _load(home, dtype, attention, settings or {})
    lost = None if stack is None else _find_lost(network, stack)
    if lost is not None and not is_peft(directory):
        raise StoreError(f"{directory}: adapts {lost}, which {home} does not hold; {DAMAGED}")
    if merged or lost is not None:
        network, stack, merged = _merge_peft(network, directory), None, True
    return Opened(network=network.eval(), home=home, stack=stack, merged=merged)


def write_merged(directory: Path, target: Path) -> None:
    """Writes the whole weights and configuration of an adapter on its base, merged in 32-bit floats in a network.

    They are rounded to what the base is stored in. Errors: as ``open_network``.
    """
    opened = open_network(directory, dtype=torch.float32, attention="eager")
    if opened.stack:
        merge(opened.network, opened.stack)
    with no_progress_bars():
        opened.network.to(_stored_in(opened.home)).save_pretrained(target)


def _stored_in(home: Path) -> torch.dtype:
    from safetensors import safe_open

    with safe_open(weight_files(home)[0], framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(max(kinds), torch.float32)


def check_finite(weights: Iterable[tuple[str, Tensor]], place: str) -> None:
    """Raises StudyError, which ``place`` begins, for the first weight with a value that is no finite number."""
    for name, weight in weights:
        # Values of 8 bits and fewer are not asked: most of their formats have none but numbers.
        if weight.dtype.itemsize > 1 and not torch.isfinite(weight).all():
            raise StudyError(f"{place}: {name} has values that are not finite; restore this directory")


def check_values(directory: Path) -> None:
    """Refuses a model directory with a weight that is no finite number; reads all weights, one file's at a time.

    Errors: StudyError.
    """
    from safetensors import safe_open

    for path in _stored(directory):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if file.get_slice(name).get_dtype() in _CHECKED]  # noqa: SIM118
            weights = ((name, file.get_tensor(name)) for name in names)
            check_finite(((name, one) for name, one in weights if not is_mask(name, tuple(one.shape))), str(path))


def size_of(directory: Path) -> int:
    """The bytes of a model directory's weights, those of its base and adapter together."""
    return sum(path.stat().st_size for path in _stored(directory))


def _stored(directory: Path) -> list[Path]:
    adapter = directory / ADAPTER
    return [*weight_files(base_of(directory)), *([adapter] if adapter.is_file() else [])]


def _load(home: Path, dtype: torch.dtype, attention: str, settings: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with no_progress_bars():
            network, info = AutoModelForCausalLM.from_pretrained(
                home,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **settings,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise StudyError(
            f"{home}: transformers cannot load this model ({first_line(error)}); check the directory"
        ) from error
    check_report(home, network, info, read_shapes(home))
    return network


def _find_lost(network: Any, stack: Stack) -> str | None:
    """The first module that a stack changes and the network calls otherwise or does not have."""
    named = dict(network.named_parameters())
    return next((module for module in stack.factors if f"{module}.weight" not in named), None)


def _merge_peft(network: Any, directory: Path) -> Any:
    from safetensors.torch import load_file

    return merge_peft(network, read_peft(directory), load_file(directory / ADAPTER))
