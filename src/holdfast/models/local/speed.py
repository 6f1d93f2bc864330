"""How fast this processor is with a model: one layer of the model's own shape, computed and timed.

A layer of random weights is read for a second or two, on one thread, and what was found is kept in the cache by
processor, libraries, shape and precision, so that a second look loads nothing. Times are of the processor (CPU
seconds), so that other work beside it changes them little.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from holdfast.models.directories.shape import Shape
from holdfast.records.machine import describe_machine
from holdfast.records.outputs import write_file
from holdfast.records.processes import hand_back_memory
from holdfast.store import weights

if TYPE_CHECKING:
    from torch import Tensor

_VERSION = 2  # raised where what is timed changes
_CONTEXT = 512  # tokens of a sequence, and before a token that is sampled
ROWS = 64  # replies that are sampled at once, at most
_WORK = 2_000_000_000  # weights times tokens of a pass: a large layer is timed on fewer tokens
_FEWEST = 32
# Weights are widened for a processor without products of bf16 where their files have at most so many bytes.
_WIDENED = 4 << 30
# Layers that are read in turn while tokens are sampled: all of a model's do not stay in a processor's cache.
_SPREAD, _MOST_LAYERS = 256 << 20, 24
# CPU seconds of a weight for a token, and of an entry of the vocabulary for a draw, on a usual processor.
_USUAL, _USUAL_DRAW = 2.8e-11, 1.1e-8
# What a system with an accelerator that torch can use has.
_DEVICES = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
_REPEATS, _LONG = 3, 0.3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """CPU seconds that one layer takes; 0 for what was not asked for.

    ``read`` is a token of a sequence without gradient; ``trained`` one with the gradient of all weights, ``adapted``
    one with that of its input alone, as an adapter has it. ``step`` and ``row`` are those of a step of sampling: a
    step of R rows takes step + R · row, and for all layers together R · draw: choosing the next token.
    """

    read: float
    trained: float = 0.0
    adapted: float = 0.0
    step: float = 0.0
    row: float = 0.0
    draw: float = 0.0


def has_torch() -> bool:
    """Whether torch is installed, without importing it."""
    try:
        return importlib.util.find_spec("torch") is not None
    except ImportError:  # a finder may say so in this way
        return False


def has_accelerator() -> bool:
    """Whether models would be opened on an accelerator; no look at torch where none can be."""
    if not any(map(Path.exists, _DEVICES)) or not has_torch():
        return False
    import torch

    return torch.cuda.is_available()


def computes_wide(size: int) -> bool:
    """Whether 16-bit weights of ``size`` bytes are better computed with in 32 bits here, which is no less exact.

    Processors without products of bf16 take two to four times as long for them.
    """
    import torch

    # Other architectures tell nothing of this, and keep 16 bits.
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    slow = told.get("avx512_bf16") is False and not told.get("amx_bf16", False)
    return slow and size <= _WIDENED


def find_speed(shape: Shape, precision: str, *, sampling: bool, measure: bool = True) -> Speed | None:
    """The speed of this processor with a model that is sampled, or trained: from the cache, or measured now.

    None without torch. Without ``measure`` it is a usual processor's where it is not known.
    """
    place = _place(shape, precision, sampling)
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Speed(**json.loads(place.read_text(encoding="utf-8")))
    if not measure:
        return _usual_speed(shape, precision)
    if not has_torch():
        return None
    found = _measure(shape, precision, sampling)
    hand_back_memory()
    with contextlib.suppress(OSError):  # it is measured again another time
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, json.dumps(asdict(found)))
    return found


def _usual_speed(shape: Shape, precision: str) -> Speed:
    """As one core with wide vectors has it, which halves the time where it has products of bf16."""
    unit = shape.layer_weights * _USUAL / (2 if precision == "bf16" else 1)
    draw = shape.vocabulary * _USUAL_DRAW
    return Speed(read=unit, trained=3 * unit, adapted=2 * unit, step=10 * unit, row=unit, draw=draw)


def _place(shape: Shape, precision: str, sampling: bool) -> Path:
    about = {name: told for name, told in describe_machine().items() if name != "holdfast"}
    digest = hashlib.sha256(json.dumps([_VERSION, about, asdict(shape), precision, sampling], sort_keys=True).encode())
    return weights.cache_root().parent / "speed" / f"{digest.hexdigest()[:32]}.json"


def _measure(shape: Shape, precision: str, sampling: bool) -> Speed:
    import torch

    from holdfast.models.tiny.llama import one_thread

    wide = precision != "bf16" or (sampling and computes_wide(2 * shape.stored_weights))
    dtype = torch.float32 if wide else torch.bfloat16
    with one_thread(), torch.random.fork_rng([]):
        layer = _Layer(shape, dtype)
        if not sampling:
            adapted = _read(layer, whole=False, gradient=True)
            trained = _read(layer, whole=True, gradient=True)
            return Speed(read=_read(layer, whole=False, gradient=False), trained=trained, adapted=adapted)
        count = min(_MOST_LAYERS, max(1, _SPREAD // (shape.layer_weights * dtype.itemsize)))
        layers = [layer, *(_Layer(shape, dtype) for _ in range(count - 1))]
        alone, many = _sample(layers, 1), _sample(layers, ROWS)
        row = max(0.0, many - alone) / (ROWS - 1)
        read = _read(layer, whole=False, gradient=False)
        return Speed(read=read, step=max(0.0, alone - row), row=row, draw=_draw(shape.vocabulary))


def _sample(layers: Sequence[_Layer], rows: int) -> float:
    """CPU seconds of a layer for one new token of some rows."""
    import torch

    shape, dtype = layers[0].shape, layers[0].weights[0].dtype
    states = torch.randn(rows, 1, shape.hidden, dtype=dtype)
    opening = torch.randn(2, shape.key_value_heads, _CONTEXT, shape.head_size)

    @torch.inference_mode()
    def work() -> None:
        for layer in layers:
            layer.sample(states, opening)

    return _seconds(work) / len(layers)


def _draw(vocabulary: int) -> float:
    """CPU seconds of choosing a row's next token among so many, as ``decoding`` does it."""
    import torch

    logits, bounds = torch.randn(_FEWEST, vocabulary), torch.rand(_FEWEST, 1, dtype=torch.float64)

    def work() -> None:
        torch.log_softmax(logits, -1)
        cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
        torch.searchsorted(cumulative, bounds, right=True)

    return _seconds(work) / _FEWEST


def _read(layer: _Layer, *, whole: bool, gradient: bool) -> float:
    """CPU seconds of a layer for a token of a sequence, with the gradient of its input or of all weights too."""
    import torch

    tokens = max(_FEWEST, min(_CONTEXT, _WORK // layer.shape.layer_weights))
    states = torch.randn(1, tokens, layer.shape.hidden, dtype=layer.weights[0].dtype, requires_grad=gradient)
    for weight in layer.weights:
        weight.requires_grad_(whole)

    def work() -> None:
        with torch.set_grad_enabled(gradient):
            out = layer.read(states)
        if gradient:
            out.float().sum().backward()  # type: ignore[no-untyped-call]

    return _seconds(work) / tokens


def _seconds(work: Callable[[], None]) -> float:
    """CPU seconds of some work: the median of a few times, after one that warms up; less often where it is long."""
    spent: list[float] = []
    while len(spent) <= _REPEATS and sum(spent[1:]) < _LONG:
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return median(spent[1:])


class _Layer:
    """A decoder's layer with random weights: norms, rotations, attention, a gated feed-forward part."""

    def __init__(self, shape: Shape, dtype: Any) -> None:
        import torch

        wide, narrow = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
        hidden, ffn = shape.hidden, shape.ffn * shape.active
        mixing = [(wide, hidden), (narrow, hidden), (narrow, hidden), (hidden, wide)]
        sizes = [*mixing, (ffn, hidden), (ffn, hidden), (hidden, ffn)]
        self.weights = [torch.randn(*size, dtype=dtype).mul_(0.02) for size in sizes]
        self._scale = torch.ones(hidden, dtype=dtype)
        self.shape = shape

    def read(self, states: Tensor) -> Tensor:
        """What comes out of sequences [rows, tokens, hidden]."""
        import torch.nn.functional as F

        query, key, value = (self._turn(part) for part in self._project(states))
        shared = self.shape.heads // self.shape.key_value_heads
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._finish(states, mixed.transpose(1, 2).flatten(2))

    def sample(self, states: Tensor, opening: Tensor) -> Tensor:
        """What comes out of single tokens [rows, 1, hidden] behind one opening [2, heads, tokens, size]."""
        import torch

        query, _, _ = (self._turn(part) for part in self._project(states))
        kept, rows = self.shape.key_value_heads, len(states)
        packed = query.float().reshape(rows, kept, -1, self.shape.head_size).transpose(0, 1).flatten(1, 2)
        mixed = torch.softmax(packed @ opening[0].mT, -1) @ opening[1]
        mixed = mixed.view(kept, rows, -1, self.shape.head_size).transpose(0, 1).reshape(rows, 1, -1)
        return self._finish(states, mixed.to(states.dtype))

    def _project(self, states: Tensor) -> list[Tensor]:
        normed = self._norm(states)
        return [normed @ weight.mT for weight in self.weights[:3]]

    def _turn(self, part: Tensor) -> Tensor:
        """Heads [rows, heads, tokens, size] of a projection, with work as rotations have."""
        heads = part.view(*part.shape[:2], -1, self.shape.head_size).transpose(1, 2)
        return heads * 0.5 + heads.flip(-1) * 0.5

    def _norm(self, states: Tensor) -> Tensor:
        wide = states.float()
        normed: Tensor = wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()
        scaled: Tensor = self._scale * normed.to(states.dtype)
        return scaled

    def _finish(self, states: Tensor, mixed: Tensor) -> Tensor:
        import torch.nn.functional as F

        states = states + mixed @ self.weights[3].mT
        normed = self._norm(states)
        gate, up = (normed @ weight.mT for weight in self.weights[4:6])
        return states + (F.silu(gate) * up) @ self.weights[6].mT
