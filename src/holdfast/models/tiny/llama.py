"""A small Llama by hand: one forward pass for training, and a cache for sampling many rows in lockstep.

The weights are those of a Hugging Face ``LlamaForCausalLM`` directory; projections that read the same input
are kept as one matrix. Rows are padded on the right: under a causal mask a later pad changes nothing before
it, so no mask is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.models.directories.opening import read_weights
from holdfast.models.directories.stacks import base_of
from holdfast.models.tiny.chat import BOS, END, EOS, PAD
from holdfast.models.tiny.products import linear
from holdfast.records.errors import StudyError

NORM_EPSILON = 1e-6
_ROPE_THETA = 10000.0
_INIT_STD = 0.02
# Products of fewer rows go through other kernels and round otherwise, so their states are taken from those of all.
_ALIKE = 4
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Of queries, keys and values [1, heads, T, size] the mixed values in the same shape.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside: the same numbers on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The sizes of a tiny Llama; ``vocabulary`` and ``max_positions`` in tokens, the rest in units."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    max_positions: int

    def config(self) -> dict[str, Any]:
        """The ``config.json`` of the model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.hidden // self.heads,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": NORM_EPSILON,
            "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA},
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": _INIT_STD,
            "bos_token_id": BOS,
            "eos_token_id": [END, EOS],
            "pad_token_id": PAD,
            "dtype": "float32",
        }

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The shape of a model directory, or None where it is no Llama of exactly this kind."""
        shape, strange = cls._compare(directory)
        return None if strange else shape

    @classmethod
    def find_strange(cls, directory: Path) -> str | None:
        """The first setting by which a model directory is no Llama of exactly this kind, in words."""
        return cls._compare(directory)[1]

    @classmethod
    def _compare(cls, directory: Path) -> tuple[Self | None, str | None]:
        try:
            config = json.loads((base_of(directory) / "config.json").read_text(encoding="utf-8"))
            shape = cls(
                vocabulary=config["vocab_size"],
                hidden=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                ffn=config["intermediate_size"],
                max_positions=config["max_position_embeddings"],
            )
        except OSError as error:
            raise StudyError(
                f"{directory}: no model directory ({error}); give a path that holds config.json"
            ) from error
        except (ValueError, KeyError, TypeError):
            return None, "config.json has not its sizes"
        # Names and token ids may differ after another library has saved the model; what is computed may not.
        free = {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"}
        for key, value in shape.config().items():
            if key not in free and config.get(key) != value:
                return shape, f"{key} is {config.get(key)!r:.60} and not {value!r}"
        return shape, None


class TinyLlama(nn.Module):
    """Hidden states from token ids; ``head`` turns them into logits (tied to the embedding)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        if shape.hidden % (2 * shape.heads):
            raise StudyError(
                f"tiny model: hidden {shape.hidden} is no multiple of twice heads {shape.heads}; change one"
            )
        self.shape = shape
        width, ffn = shape.hidden, shape.ffn
        self.head = nn.Parameter(torch.empty(shape.vocabulary, width))
        self.final_norm = nn.Parameter(torch.ones(width))
        self.input_norm = nn.ParameterList(torch.ones(width) for _ in range(shape.layers))
        self.ffn_norm = nn.ParameterList(torch.ones(width) for _ in range(shape.layers))
        self.qkv = nn.ParameterList(torch.empty(3 * width, width) for _ in range(shape.layers))
        self.out = nn.ParameterList(torch.empty(width, width) for _ in range(shape.layers))
        self.gate_up = nn.ParameterList(torch.empty(2 * ffn, width) for _ in range(shape.layers))
        self.down = nn.ParameterList(torch.empty(width, ffn) for _ in range(shape.layers))
        size = width // shape.heads
        inverse = 1.0 / (_ROPE_THETA ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size))
        angle = torch.outer(torch.arange(shape.max_positions).float(), inverse)
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), -1), persistent=False)
        self.register_buffer("sin", torch.cat((-angle.sin(), angle.sin()), -1), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def initialize(self, generator: torch.Generator) -> None:
        """Draws fresh weights: normal with deviation 0.02; norms stay 1."""
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, _INIT_STD, generator=generator)

    def forward(self, tokens: Tensor, kept: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """Hidden states [rows, length, hidden] of tokens [rows, length], or of the ``wanted`` ones [W, hidden].

        Their keys and values go into ``kept`` [layers, 2, rows, heads, slots, size], where it is given. ``wanted`` [W]
        are places in the rows, counted row after row; what only the others' states need is not computed.
        """
        length = tokens.shape[1]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if kept is not None:
                kept[layer, 0, :, :, :length], kept[layer, 1, :, :, :length] = key, value
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)

        return self._layers(tokens, self.cos[:length, None, None], self.sin[:length, None, None], attend, wanted)

    def packed(self, tokens: Tensor, positions: Tensor, attention: Attention, wanted: Tensor | None = None) -> Tensor:
        """Hidden states of tokens [T] in one row at any ``positions`` [T], under the given attention.

        They are those of all [T, hidden], or of the places ``wanted`` [W] alone.
        """
        cos, sin = self.cos[positions][None, :, None, None], self.sin[positions][None, :, None, None]
        states = self._layers(tokens[None], cos, sin, lambda _, *heads: attention(*heads), wanted)
        return states if wanted is not None else states[0]

    def _layers(
        self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Callable[..., Tensor], wanted: Tensor | None
    ) -> Tensor:
        """Hidden states of tokens [rows, length]; ``attend`` mixes a layer's heads [rows, heads, length, size].

        Above the last attention no token asks another, so only the states of the ``wanted`` go on, if they are named.
        """
        width, heads = self.shape.hidden, self.shape.heads
        early = wanted is not None and len(wanted) >= _ALIKE
        x = F.embedding(tokens, self.head)
        for layer in range(self.shape.layers):
            projected = linear(F.rms_norm(x, (width,), self.input_norm[layer], NORM_EPSILON), self.qkv[layer])
            projected = projected.view(*tokens.shape, 3, heads, width // heads)
            qk = projected[:, :, :2]
            qk = qk * cos + torch.roll(qk, width // heads // 2, -1) * sin
            mixed = attend(layer, *(part.transpose(1, 2) for part in (qk[:, :, 0], qk[:, :, 1], projected[:, :, 2])))
            mixed = mixed.transpose(1, 2).reshape(*tokens.shape, width)
            if early and layer == self.shape.layers - 1:
                x, mixed = x.flatten(0, 1)[wanted], mixed.flatten(0, 1)[wanted]
            x = x + linear(mixed, self.out[layer])
            normed = F.rms_norm(x, (width,), self.ffn_norm[layer], NORM_EPSILON)
            gate, up = linear(normed, self.gate_up[layer]).chunk(2, -1)
            x = x + linear(F.silu(gate) * up, self.down[layer])
        states = F.rms_norm(x, (width,), self.final_norm, NORM_EPSILON)
        return states if early or wanted is None else states.flatten(0, 1)[wanted]

    def _named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights under the names of ``LlamaForCausalLM``; those that are kept as one matrix are views of it."""
        yield _EMBEDDING, self.head
        yield "model.norm.weight", self.final_norm
        for layer in range(self.shape.layers):
            prefix = f"model.layers.{layer}."
            fused = {"self_attn.": (("q", "k", "v"), self.qkv[layer]), "mlp.": (("gate", "up"), self.gate_up[layer])}
            for room, (names, matrix) in fused.items():
                for name, part in zip(names, matrix.chunk(len(names)), strict=True):
                    yield f"{prefix}{room}{name}_proj.weight", part
            yield prefix + "self_attn.o_proj.weight", self.out[layer]
            yield prefix + "mlp.down_proj.weight", self.down[layer]
            yield prefix + "input_layernorm.weight", self.input_norm[layer]
            yield prefix + "post_attention_layernorm.weight", self.ffn_norm[layer]

    def export_weights(self) -> dict[str, Tensor]:
        """The weights under the names of ``LlamaForCausalLM``."""
        return {name: weight.detach().clone() for name, weight in self._named_weights()}

    @torch.no_grad()
    def import_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes weights named as in ``LlamaForCausalLM``; raises StudyError for a missing, misshapen or further one.

        A head that stands beside the embedding is the same one.
        """
        targets = dict(self._named_weights())
        for name, target in targets.items():
            found = weights.get(name)
            if found is None or found.shape != target.shape:
                raise StudyError(f"model.safetensors: {name} is missing or has another shape; save the model again")
        head = weights.get(_HEAD)
        tied = {_HEAD} if head is not None and torch.equal(head, weights[_EMBEDDING]) else set()
        if strange := sorted(set(weights) - set(targets) - tied):
            raise StudyError(f"model.safetensors: {strange[0]} is no weight of a tiny model; save the model again")
        for name, target in targets.items():
            target.copy_(weights[name])

    @classmethod
    def load(cls, directory: Path | str) -> TinyLlama:
        """The model of a directory, whole or stacked, in eval mode; raises StudyError where it holds no tiny Llama."""
        path = Path(directory)
        shape = LlamaShape.read(path)
        if shape is None:
            strange = LlamaShape.find_strange(path)
            raise StudyError(f"{path}: no tiny Llama ({strange}); this model needs a server or transformers")
        model = cls(shape)
        try:
            model.import_weights(read_weights(path))
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from error
        return model.eval()

    def save(self, directory: Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``."""
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.shape.config(), indent=1) + "\n", encoding="utf-8")
        save_file(self.export_weights(), directory / "model.safetensors", metadata={"format": "pt"})


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token rows of unequal length as one matrix, padded on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (length - len(row))] for row in rows], dtype=torch.int64)


def places_before(picked: Tensor) -> Tensor:
    """The places that predict the tokens where ``picked`` [rows, length] is true, counted row after row.

    The first token of a row has no prediction and must not be picked.
    """
    # Padding the picks by one column at the end makes the flat index that of the predicting position.
    return F.pad(picked[:, 1:], (0, 1)).reshape(-1).nonzero()[:, 0]


def logprobs_after(states: Tensor, head: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """Log-probabilities [W], in nats, of the tokens behind some ``places`` [W] of ``tokens`` [rows, length].

    ``states`` [W, width] are the hidden ones at these places, before ``head`` [vocabulary, width].
    """
    targets = tokens.reshape(-1).index_select(0, places + 1)
    return F.log_softmax(linear(states, head), -1).gather(1, targets[:, None])[:, 0]
