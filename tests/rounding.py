"""How far rounding may put two ways to the same number apart, and a way to compute in 64 bits what ships in 32.

A sum of n numbers in floating point is off by some sqrt(n) u times the sum of their sizes, where u is half the distance
from 1 to the next number (Higham and Mary 2019, doi 10.1137/18M1226312, theorem 2.4). Kernels of different processors
take a sum in different orders, which moves it by as much. So a tolerance is either ``rounding`` of the terms that are
added one after the other, or both sides are computed ``in_64_bits`` and must agree to ``EXACT``.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

# Of numbers computed in 64 bits: a hundred thousand times what rounding does to sums of this size (1e-16 times the
# square root of some thousand terms), and a hundredth of what one rounding to 32 bits would do (6e-8).
EXACT = 1e-9
# The environment variable that names a file for what ``within`` sees.
NOTES = "HOLDFAST_ROUNDING_NOTES"
_WIDE = {torch.float32: torch.float64}
# What reads stored bytes must read them as they are.
_BYTES = (torch.frombuffer, Tensor.view)


class _Wide(TorchFunctionMode):
    """Gives 64 bits to whoever asks for 32."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        if func in _BYTES:
            return func(*args, **(kwargs or {}))
        kwargs = {name: _widened(value) for name, value in (kwargs or {}).items()}
        return func(*map(_widened, args), **kwargs)


def _widened(value: Any) -> Any:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def in_64_bits() -> Iterator[None]:
    """Inside, torch computes in 64-bit floats wherever it would take 32: new tensors, casts that name 32 bits, and
    models that transformers loads.
    """
    from transformers import PreTrainedModel

    before, backward = torch.get_default_dtype(), BackwardCFunction.apply
    load = PreTrainedModel.from_pretrained.__func__

    def apply(*args: Any) -> Any:
        with _Wide():  # the engine runs functions that are differentiated by hand outside of any mode
            return backward(*args)  # type: ignore[no-untyped-call]

    def from_pretrained(kind: Any, *args: Any, **settings: Any) -> Any:
        asked = settings.pop("dtype", "auto")
        return load(kind, *args, dtype=_widened(torch.float32 if asked == "auto" else asked), **settings)

    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch, _Wide():
            patch.setattr(BackwardCFunction, "apply", apply)
            patch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
            yield
    finally:
        torch.set_default_dtype(before)


def rounding(terms: int, *, dtype: torch.dtype = torch.float32) -> float:
    """What rounding may do to sums of so many terms, relative to the sum of their sizes."""
    return math.sqrt(terms) * torch.finfo(dtype).eps / 2


def additions(hidden: int, layers: int, ffn: int, vocabulary: int, tokens: int) -> int:
    """Additions one after the other on the way from a token of a Llama to its log-probability.

    A layer has two norms, three products over ``hidden`` and one over ``ffn``, attention over ``tokens`` and its
    normalisation; at the end come a norm, the logits and the sum over the ``vocabulary``.
    """
    return layers * (6 * hidden + ffn + 2 * tokens) + 2 * hidden + vocabulary


def within(error: float, tolerance: float) -> bool:
    """Whether an error of 32-bit sums is one of rounding.

    Where the environment names a file, the error is noted there with its place, so that ``kernels.py`` can hold the
    tolerance against what processors really do.
    """
    if notes := os.environ.get(NOTES):
        caller = inspect.stack()[1]
        place = f"{Path(caller.filename).name}::{caller.function}:{caller.lineno}"
        with Path(notes).open("a", encoding="utf-8") as file:
            file.write(json.dumps([place, error, tolerance]) + "\n")
    return error <= tolerance


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest distance of two tensors by the size of the second (2-norms), over pairs of tensors."""
    found = 0.0
    for ours, theirs in zip(one, other, strict=True):
        assert ours.shape == theirs.shape and theirs.detach().norm() > 0
        found = max(found, float((ours - theirs).detach().norm() / theirs.detach().norm()))
    return found
