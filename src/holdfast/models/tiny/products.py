"""Products of states and weights by the library that this processor is fast with.

Torch multiplies 32-bit floats with MKL, which keeps its fastest kernels for the processors of its maker: on others
oneDNN, which torch brings as well, takes down to two fifths of the time for the same product. Which of the two is
taken hangs on the processor and on shapes alone, never on a clock, so that a computation can be repeated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.records.machine import maker_of_processor

# oneDNN takes some ten microseconds before it begins: with fewer rows MKL is through by then.
_FEWEST_ROWS = 64
# Numbers of rows between a power of two and the next, as a power of two.
_STEPS = 3


def _gains() -> bool:
    """Whether torch would take MKL on a processor of another maker, and has oneDNN's product of the kind used here."""
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and maker_of_processor() not in ("GenuineIntel", "")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_ONEDNN = _gains()


def linear(states: Tensor, weight: Tensor) -> Tensor:
    """States [..., in] times the transpose of a weight [out, in]: [..., out]."""
    suits = states.dtype == weight.dtype == torch.float32 and states.device.type == weight.device.type == "cpu"
    # Under autocast torch's own product narrows what it is given, and this one would not.
    suits = suits and not torch.is_autocast_enabled("cpu")
    if not (_ONEDNN and suits and states.numel() >= _FEWEST_ROWS * states.shape[-1]):
        return F.linear(states, weight)
    flat = states.flatten(0, -2)
    if torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad):
        product: Tensor = _Linear.apply(flat, weight)  # type: ignore[no-untyped-call]
    else:
        product = _multiply(_fill_up(flat), weight)[: len(flat)]
    return product.view(*states.shape[:-1], len(weight))


def _fill_up(rows: Tensor) -> Tensor:
    """Rows [R, width] and as many of zeros as make one of few numbers: oneDNN compiles code for each one."""
    step = max(_FEWEST_ROWS, 1 << (len(rows).bit_length() - _STEPS))
    missing = -len(rows) % step
    return torch.cat((rows, rows.new_zeros(missing, rows.shape[1]))) if missing else rows


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """``left`` [M, K] times the transpose of ``right`` [N, K]; either may lie in memory the other way round."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return product


class _Linear(torch.autograd.Function):
    """The product of states [R, in] and a weight [out, in] with its gradients, each of them such a product too."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, states: Tensor, weight: Tensor) -> Tensor:
        filled = _fill_up(states)
        ctx.save_for_backward(filled, weight)
        return _multiply(filled, weight)[: len(states)]

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        rows, gradient = len(gradient), _fill_up(gradient)
        for_states = _multiply(gradient, weight.t())[:rows] if ctx.needs_input_grad[0] else None  # type: ignore[attr-defined]
        if not ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            return for_states, None
        # oneDNN lays its left side out anew, so that is the smaller of the two.
        if len(weight) > weight.shape[1]:
            return for_states, _multiply(states.t(), gradient.t()).t()
        return for_states, _multiply(gradient.t(), states.t())
